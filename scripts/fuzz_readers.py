"""Damages files of every format and hands them to the readers, which must refuse each in one line or read it right.

    python scripts/fuzz_readers.py --seconds 600               # ten minutes a reader
    python scripts/fuzz_readers.py --inputs 1000000 --only npz  # a million inputs for one
    python scripts/fuzz_readers.py --add fuzz.json --seed 7     # adds to a table of earlier seeds

A fault is an exception that is no StudioError, an error without file or fix or of several lines, more memory than the
bound (see scripts/fuzzing/worker.py), more than ten seconds of processor time, or a process that dies or stops. Each
reader runs in a process of its own. The exit code is 1 where there was a fault; inputs that show one are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzzing.targets import Target

_SILENCE = 120.0
"""Seconds without a word after which a process counts as hanging."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10**9, help="inputs a reader")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds a reader, besides imports")
    parser.add_argument("--seed", default="0", help="of all choices; equal seeds make equal inputs")
    parser.add_argument("--only", default="", help="readers whose names hold this text")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the inputs that show a fault")
    parser.add_argument("--add", type=Path, default=None, help="JSON table that the counts are added to")
    parser.add_argument("--together", action="store_true", help="in this process: sooner started, but a hang stays one")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from fuzzing.targets import CHECKPOINT, TARGETS

    targets = {target.name: target for target in (*TARGETS, CHECKPOINT)}
    if options.child is not None:
        _together([targets[options.child]], options)
        return 0
    chosen = [name for name in targets if options.only in name]
    rows = _together([targets[name] for name in chosen], options) if options.together else None
    rows = rows or [_watch(name, options) for name in chosen]
    print(_table(rows))
    if options.add is not None:
        _add(options.add, options.seed, rows)
    return 1 if any(row["findings"] for row in rows) else 0


def _together(targets: list[Target], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run readers one after the other in this process."""
    from fuzzing.worker import run

    rows = []
    for target in targets:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            tally = run(
                target, Path(folder), options.seed, inputs=options.inputs, seconds=options.seconds, keep=options.keep
            )
        rows.append({"reader": target.name, **tally.to_dict()})
    return rows


def _watch(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one reader in a process of its own; its last report, with what the process itself did wrong."""
    command = [sys.executable, "-W", "ignore:Duplicate name", __file__, "--child", name, "--seed", options.seed]
    command += ["--inputs", str(options.inputs), "--seconds", str(options.seconds)]
    if options.keep is not None:
        command += ["--keep", str(options.keep)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    last: dict[str, Any] = {"reader": name, "inputs": 0, "read": 0, "refused": 0, "findings": {}}
    # Decoders in C complain on their own, thousands of times.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(_SILENCE):
                line = process.stdout.readline()
                if not line:
                    break
                last = json.loads(line)
            else:
                process.kill()
                last["findings"]["hang"] = {"key": "hang", "text": f"no word for {_SILENCE:g} s", "file": "?"}
        code = process.wait()
        complaints.seek(max(complaints.seek(0, 2) - 2000, 0))
        last_words = complaints.read().strip().rpartition("\n")[2]
    if "done" not in last and "hang" not in last["findings"]:
        last["findings"]["died"] = {"key": "died", "text": f"exit code {code}: {last_words[:200]}", "file": "?"}
    print(f"{name}: {last['inputs']:,} inputs, {len(last['findings'])} faults", file=sys.stderr, flush=True)
    for fault in last["findings"].values():
        print(f"    {fault['key']} ({fault['file']}): {fault['text']}", file=sys.stderr, flush=True)
    return last


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| reader | inputs | read | refused | faults |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['reader']} | {row['inputs']:,} | {row['read']:,} | {row['refused']:,} | {len(row['findings'])} |"
        )
    return "\n".join(lines)


def _add(path: Path, seed: str, rows: list[dict[str, Any]]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for row in rows:
        runs = known.setdefault(row["reader"], {})
        runs[seed] = {key: row[key] for key in ("inputs", "read", "refused")} | {"faults": sorted(row["findings"])}
    text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    shutil.move(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
