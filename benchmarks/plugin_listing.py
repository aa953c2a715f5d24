"""How soon `studio plugins` answers with thirty more plugins installed, one of which hangs and three are broken.

    python benchmarks/plugin_listing.py

Installs them into a temporary folder, lists them once with an empty cache and several times with a full one, each in a
fresh process; writes results/plugin_listing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import RESULTS, Report, Timing

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "toy_plugins"))

from installed_plugins import install_thirty

PROTOCOL = (
    "Wall-clock time of `python -m studio plugins --json` in a fresh process. Cold: nothing is remembered, and each "
    "declaration is read in a process of its own, with a time limit for the one that hangs. Warm: the answers of the "
    "cold call are remembered. All statuses are compared with the expected ones in each call."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    report = Report(
        "plugin_listing",
        title="`studio plugins` with thirty more plugins",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site-packages")
        site.mkdir()
        expected = install_thirty(site)
        environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(Path(folder, "cache"))}
        _add(report, "cold", Timing((_list(environment, expected),)), len(expected))
        warm = tuple(_list(environment, expected) for _ in range(arguments.repetitions))
        _add(report, "warm", Timing(warm), len(expected))
    report.print()


def _list(environment: dict[str, str], expected: dict[str, str]) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "studio", "plugins", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - started
    found = {entry["name"]: entry["status"] for entry in json.loads(done.stdout)}
    if wrong := [name for name, status in expected.items() if found.get(name) != status]:
        raise SystemExit(f"{wrong[0]} is listed as {found.get(wrong[0])}, expected {expected[wrong[0]]}")
    return seconds


def _add(report: Report, cache: str, timing: Timing, plugins: int) -> None:
    report.add(
        cache=cache,
        plugins=plugins,
        median_seconds=timing.median,
        best_seconds=timing.best,
        repetitions=len(timing.seconds),
    )


if __name__ == "__main__":
    main()
