"""Reading what installed packages declare, without importing any of it into this process.

A declaration is read once by a short-lived subprocess with a time limit, and remembered until the files behind it or
its version change. One that raises, hangs or lacks a package becomes a reason in a line. A failure is remembered only
where nothing but a change of those files can end it: what raised may have met a full disk. That one hangs is remembered
for some minutes, and for lists alone: who asks for it by name finds out.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from studio.processes import clean_environment, clean_python

_HUNG_SECONDS = 600.0
"""How long a list believes that one hangs, which each look at it would cost the whole time limit."""


@dataclass(frozen=True)
class Registration:
    """One entry point, or one item of an environment variable that stands for some."""

    name: str
    value: str
    """'module:attribute' of what is registered."""
    distribution: str
    version: str
    group: str
    """The group of entry points."""

    def fingerprint(self, version: str) -> str:
        """Changes whenever the declaring files, their version, Python, or the studio's `version` change."""
        module = self.value.partition(":")[0]
        # Installing a missing package touches its site-packages folder, and so makes a broken plugin be read again.
        stamps = [f"{p}:{os.stat(p).st_mtime_ns}" for p in sys.path if p.endswith("site-packages") and os.path.isdir(p)]
        try:
            # Looking up a top-level name imports nothing, which find_spec on a submodule would.
            top = importlib.util.find_spec(module.partition(".")[0])
            origin = Path(top.origin) if top and top.origin else None
            files = [origin] if origin else []
            if origin and "." in module:
                files.append(origin.parent.joinpath(*module.split(".")[1:]).with_suffix(".py"))
            stamps += [f"{f}:{f.stat().st_mtime_ns}" for f in files if f and f.is_file()]
        except (ImportError, ValueError, OSError):
            stamps.append("unlocated")
        stamps.append(os.environ.get("PYTHONPATH", ""))
        own = [self.group, self.name, self.value, self.distribution, self.version]
        return "|".join([*own, version, sys.version, *stamps])


def registrations(groups: Sequence[str]) -> list[Registration]:
    """The entry points of all installed distributions in these groups."""
    found = []
    # Read once for all groups: it opens a file of every distribution.
    everything = importlib.metadata.entry_points()
    for group in groups:
        for point in everything.select(group=group):
            dist = point.dist
            owner = (dist.name, dist.version) if dist else ("?", "?")
            found.append(Registration(point.name, point.value, *owner, group))
    # The same distribution can be seen twice, through an editable install and its source folder on sys.path.
    return list(dict.fromkeys(found))


def declarations(
    asked: Sequence[Registration],
    describe: str,
    *,
    version: str,
    cache: str,
    seconds: float,
    check: Callable[[Mapping[str, Any]], object],
    retry: bool = False,
    refresh: bool = False,
) -> list[dict[str, Any]]:
    """What each registration declares.

    Args:
        asked: What to read.
        describe: 'module:function' that a subprocess calls with the imported object and its `Registration`; it returns
            plain data, or raises.
        version: Of what it declares itself against; another one makes everything be read again.
        cache: Name of the file that remembers the answers of this kind.
        seconds: How long reading one may take.
        check: Raises where an answer without a reason is not what `describe` returns. What is remembered may have been
            written by another version, or damaged; such an answer is asked for again.
        retry: Look again at what hung a moment ago.
        refresh: Forget what is remembered.

    Returns:
        For each what `describe` returned, or ``{"reason": one line, "details": traceback}``.
    """
    file = _cache_folder() / cache
    known = {} if refresh else _read(file)
    prints = {r: r.fingerprint(version) for r in asked}
    answers = {r: known[key] for r, key in prints.items() if _is_settled(known.get(key), check, retry)}
    unknown = [r for r in prints if r not in answers]
    if unknown:
        answers |= probe(unknown, describe, seconds)
        kept = {prints[r]: a for r, a in answers.items() if not a.get("passing") or "hung" in a}
        # Commands ask for different ones, so what others asked for stays; fingerprints grow old, so not without end.
        others = {key: answer for key, answer in known.items() if key not in set(prints.values())}
        room = max(0, _MOST - len(kept))
        _write(file, dict(list(others.items())[-room:] if room else []) | kept)
    return [answers[r] for r in asked]


_MOST = 500
"""Answers a file remembers."""


def _is_settled(answer: Any, check: Callable[[Mapping[str, Any]], object], retry: bool) -> bool:
    """Whether a remembered answer can be taken."""
    if not isinstance(answer, dict):
        return False
    if (since := answer.get("hung")) is not None and (
        retry or not isinstance(since, float) or not 0 <= time.time() - since < _HUNG_SECONDS
    ):
        return False
    if "reason" in answer:
        return isinstance(answer["reason"], str) and isinstance(answer.get("details", ""), str)
    try:
        check(answer)
    except Exception:  # the file may hold anything
        return False
    return True


def probe(asked: Sequence[Registration], describe: str, seconds: float) -> dict[Registration, dict[str, Any]]:
    """Read declarations in subprocesses, as many at once as there are processors, each killed after so many seconds.

    More at once would take the time limit from each other.
    """
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as threads:
        answers = threads.map(partial(_ask, describe=describe, seconds=seconds), asked)
        return dict(zip(asked, answers, strict=True))


def _ask(registration: Registration, describe: str, seconds: float) -> dict[str, Any]:
    about = [getattr(registration, name) for name in ("name", "value", "distribution", "version", "group")]
    # Without bytecode: a new __pycache__ in site-packages would look like an installation, and all be read again.
    command = clean_python(describe, *about, module="studio.probing", bytecode=False)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )
    except subprocess.TimeoutExpired:
        reason = f"importing {registration.value} did not finish within {seconds:.0f} s"
        return {"reason": reason, "passing": True, "hung": time.time()}
    except OSError as error:
        return {"reason": f"no process could be started to import {registration.value} ({error})", "passing": True}
    try:
        # What is imported may print; the answer is the last line.
        answer: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        reason = f"importing {registration.value} ended the process"
        return {"reason": reason, "details": done.stderr, "passing": True}
    return answer


def import_target(value: str) -> Any:
    """The object that 'package.module:ATTRIBUTE' names.

    Raises:
        ValueError: It does not look like that.
        Exception: Whatever the import raises.
    """
    module, _, attribute = value.partition(":")
    if not attribute:
        raise ValueError(f"'{value}' must look like 'package.module:ATTRIBUTE'")
    return getattr(importlib.import_module(module), attribute)


def _answer(describe: str, registration: Registration) -> str:
    """Runs inside the probing subprocess; JSON."""
    try:
        found = import_target(registration.value)
        return json.dumps(dict(import_target(describe)(found, registration)))
    except BaseException as error:  # a plugin may raise anything, SystemExit included, and only its reason matters here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        answer: dict[str, Any] = {"details": traceback.format_exc()}
        if isinstance(error, ModuleNotFoundError) and error.name:
            reason = f"needs the package '{error.name}', which is not installed (pip install {error.name})"
        else:
            answer["passing"] = True
        return json.dumps({"reason": reason, **answer})


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "neural-studio"


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(file: Path, data: dict[str, Any]) -> None:
    """Best effort: a listing must work with a read-only home."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as handle:
            json.dump(data, handle)
        os.replace(handle.name, file)
    except OSError:
        return


if __name__ == "__main__":
    print(_answer(sys.argv[1], Registration(*sys.argv[2:])))
