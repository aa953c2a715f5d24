"""Write a page with the licence of every package that is installed beside the studio.

    python scripts/licences.py docs/licences.md

Licences are as the packages' own metadata state them: the SPDX expression, else the classifiers, else the first line of
the text. What states none is listed as such. Exits with 1 where a package that the studio needs to run (not one of the
extras) states a licence that is not among those that may be shipped along with Apache-2.0 code.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "neural-studio"
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|HPND|MPL|Mozilla|Unlicense|Zlib|CC0|MIT-CMU|0BSD)",
    re.IGNORECASE,
)
HEAD = """# Licences

neural-studio is [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0). It contains no code of other projects; what
it needs is installed by pip, each package under its own licence. This page is made by `make licences` from the metadata
of the tested versions. What the metadata leave out: the wheel of imageio-ffmpeg also holds an FFmpeg program, which is
GPL; the studio runs it as a process of its own to read and write videos, and `IMAGEIO_FFMPEG_EXE` names another.
"""


def licence_of(package: metadata.Distribution) -> str:
    """What the metadata state, in one line."""
    about = package.metadata
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith(":: OSI Approved")
    ]
    text = (about.get("License") or "").strip().splitlines()
    stated = ", ".join(classifiers) or (text[0].strip() if text else "")
    return stated[:80] if stated and stated.upper() != "UNKNOWN" else "not stated in the metadata"


def needed(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The names of all packages that a distribution requires, and what these require, as installed here."""
    found: set[str] = set()
    waiting = [(name, extras)]
    while waiting:
        current, wanted = waiting.pop()
        try:
            requirements = metadata.requires(current) or []
        except metadata.PackageNotFoundError:
            continue
        for line in requirements:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found:
                found.add(key)
                waiting.append((key, frozenset(requirement.extras)))
    return found


def rows(names: set[str]) -> list[tuple[str, str, str]]:
    installed = {canonicalize_name(d.metadata["Name"]): d for d in metadata.distributions() if d.metadata["Name"]}
    return sorted((name, installed[name].version, licence_of(installed[name])) for name in names if name in installed)


def table(found: list[tuple[str, str, str]]) -> str:
    lines = ["| package | version | licence |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {version} | {licence} |" for name, version, licence in found)])


def main() -> int:
    core = needed(OURS)
    extras = set((metadata.distribution(OURS).metadata.get_all("Provides-Extra")) or [])
    more = needed(OURS, frozenset(extras)) - core
    runs = rows(core)
    page = f"{HEAD}\n## To run\n\n{table(runs)}\n\n## Extras and development\n\n{table(rows(more))}\n"
    Path(sys.argv[1]).write_text(page, encoding="utf-8")
    doubtful = [f"{name} {version}: {licence}" for name, version, licence in runs if not PERMISSIVE.search(licence)]
    for line in doubtful:
        print(f"look at the licence of {line}", file=sys.stderr)
    print(f"{sys.argv[1]}: {len(runs)} packages to run, {len(rows(more))} for extras and development")
    return 1 if doubtful else 0


if __name__ == "__main__":
    raise SystemExit(main())
