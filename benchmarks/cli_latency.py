"""How soon the command line answers.

    python benchmarks/cli_latency.py

Times `studio --help`, `studio plugins`, the help of two commands, and `studio train` up to its first line of progress,
each in a fresh process; writes results/cli_latency.json.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import RESULTS, Report, Timing, measure

SCENE = Path(__file__).resolve().parents[1] / "scenes" / "tabletop"
PROTOCOL = (
    "Wall-clock time of the installed `studio` command in a fresh process, output to a pipe, after one untimed call "
    "(file cache and compiled kernels warm). Training: from the start of the process to the first line with a step "
    "and a loss, on the bundled scene. 'imports torch' is read off `python -X importtime`."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--train-repetitions", type=int, default=3, help="0 leaves the training out")
    parser.add_argument("--data", type=Path, default=SCENE, help="what is trained on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    report = Report(
        "cli_latency",
        title="Time until the command line answers",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    for words in (["--help"], ["plugins"], ["train", "splat", "--help"], ["render", "--help"]):
        timing = measure(functools.partial(_call, words), repetitions=arguments.repetitions)
        _add(report, f"studio {' '.join(words)}", timing, imports_torch=_imports_torch(words))
    if arguments.train_repetitions:
        _first_progress(arguments.data)
        seconds = tuple(_first_progress(arguments.data) for _ in range(arguments.train_repetitions))
        _add(report, "studio train splat: first line of progress", Timing(seconds), imports_torch=True)
    report.print()


def _add(report: Report, command: str, timing: Timing, *, imports_torch: bool) -> None:
    report.add(
        command=command,
        median_seconds=timing.median,
        best_seconds=timing.best,
        repetitions=len(timing.seconds),
        imports_torch=imports_torch,
    )


def _studio() -> str:
    beside = Path(sys.executable).with_name("studio")
    found = str(beside) if beside.exists() else shutil.which("studio")
    if found is None:
        raise SystemExit("The command `studio` is not installed: pip install -e .")
    return found


def _call(words: list[str]) -> None:
    subprocess.run([_studio(), *words], check=True, stdout=subprocess.DEVNULL)


def _imports_torch(words: list[str]) -> bool:
    command = [sys.executable, "-X", "importtime", "-m", "studio", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def _first_progress(data: Path) -> float:
    """Seconds from the start of `studio train` to its first line of progress; the training is then stopped."""
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        process = subprocess.Popen(
            [_studio(), "train", "splat", str(data), "--steps", "200", "--output", runs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        seen, seconds = [], None
        for line in process.stdout:
            seen.append(line)
            if seconds is None and line.startswith("step ") and "loss" in line:
                seconds = time.perf_counter() - started
                process.terminate()
        process.wait()
    if seconds is None:
        raise SystemExit(f"studio train printed no progress:\n{''.join(seen)}")
    return seconds


if __name__ == "__main__":
    main()
