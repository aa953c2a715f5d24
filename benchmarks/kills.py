"""What is left after kills at random instants: of trainings, of `data process`, and of exports.

    python benchmarks/kills.py                    # 300 kills, a few tens of minutes
    python benchmarks/kills.py --kills 20 --only splat gpt

Each subject is first run to its end by the real command. Then the same command is killed (SIGKILL) at an instant drawn
evenly over its duration, and what is left is judged; a training is resumed (and often killed again) until it is done.
Writes results/kills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import RESULTS, Report

from studio.cli.main import main as studio_command
from studio.errors import StudioError
from studio.files import remove_leftovers
from studio.registry import find_plugin, load_config_class, load_plugin_class
from studio.testing.data import make_scene
from studio.training.checkpoint import load_state
from studio.training.run import RunFolder
from studio.training.state import read_checkpoint

STEPS, EVERY = 20, 3
"""Of a training, and between its checkpoints; unequal multiples, so that the end is no checkpoint of the loop."""
SHARES = {
    "splat": 40, "ngp": 40, "nerf": 30, "vae": 30, "gan": 25, "diffusion": 30, "gpt": 30, "caption": 25,
    "export": 30, "data process": 20,
}  # fmt: skip
"""Kills of 300 that each subject gets."""
AGAIN = 0.4
"""Probability that a resumed training is killed, too."""
DATA = {"vae": "toy:moons", "gan": "toy:moons", "diffusion": "shapes:16", "gpt": "text", "caption": "shapes:16"}
MOSTLY = 0.8
PHOTOS = 8
PROTOCOL = (
    "Each command runs in a process of its own, forked from one that has imported the studio, with one thread. SIGKILL "
    f"comes at a random instant: {MOSTLY:.0%} of them evenly between the first figures of a training and its end, the "
    f"rest evenly over the command's duration. Trainings have {STEPS} steps and a checkpoint every {EVERY}; a resumed "
    f"one is killed again with probability {AGAIN}. Lost: the newest whole checkpoint is older than the last one that "
    "must have been written, or a folder cannot be gone on with. Wrong: a torn file, or a final state (weights, "
    "optimisers, order of the data, random streams), figures or an exported file that are not equal, bit for bit, to "
    "those of the command that was left alone. What is made by structure from motion is whole or not there."
)


@dataclass
class Tally:
    """What became of one subject."""

    kills: int = 0
    early: int = 0
    """Before anything was saved: nothing to go on with, and nothing lost."""
    resumed: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    report = Report(
        "kills", title="Kills at random instants", protocol=PROTOCOL, settings=vars(arguments), folder=arguments.results
    )
    draw = random.Random(arguments.seed)
    total = sum(SHARES[name] for name in arguments.only)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in arguments.only:
            wanted = max(round(arguments.kills * SHARES[name] / total), 1)
            tally = torment(name, wanted, folder, draw)
            report.add(
                subject=name,
                kills=tally.kills,
                **{"before the first save": tally.early, "resumed": tally.resumed},
                lost=len(tally.lost),
                wrong=len(tally.wrong),
                problems=[*tally.lost, *tally.wrong],
            )
            print(name, tally, flush=True)
    report.print()


def torment(name: str, kills: int, scratch: Path, draw: random.Random) -> Tally:
    """Kill one subject so many times, and judge what is left each time."""
    place = scratch / name.replace(" ", "_")
    place.mkdir()
    if name == "export":
        return _torment_file(_export_command(place), kills, draw)
    if name == "data process":
        return _torment_folder(place, kills, draw)
    return _torment_training(name, place, kills, draw)


# ---- processes ---------------------------------------------------------------------------------------------------
def start(argv: Sequence[str], log: Path) -> int:
    """The command in a child process; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = studio_command(argv)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(argv: Sequence[str], log: Path) -> tuple[int, float]:
    """The command, left alone: its exit code and seconds."""
    begun = time.perf_counter()
    _, status = os.waitpid(start(argv, log), 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - begun


def killed(argv: Sequence[str], log: Path, seconds: float) -> bool:
    """The command, killed after some seconds; False where it had ended before."""
    child = start(argv, log)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if code := os.waitstatus_to_exitcode(status):
                raise RuntimeError(f"{' '.join(argv)} failed by itself with {code}; see {log}:\n{_tail(log)}")
            return False
        time.sleep(min(0.002, max(deadline - time.perf_counter(), 0)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


# ---- trainings ---------------------------------------------------------------------------------------------------
def _torment_training(name: str, place: Path, kills: int, draw: random.Random) -> Tally:
    tally, log = Tally(), place / "log.txt"
    command = _train_command(name, place)
    code, seconds = run([*command, "--output", str(place / "alone")], log)
    if code:
        raise RuntimeError(f"{name} failed by itself with {code}:\n{_tail(log)}")
    # Once more: the first may have compiled kernels, and must be equal anyway.
    begun, seconds = _timed([*command, "--output", str(place / "again")], place / "again", log)

    def instant() -> float:
        return draw.uniform(begun if draw.random() < MOSTLY else 0.0, seconds)

    expected = _final(RunFolder.open(place / "alone"))
    if found := _unequal(expected, _final(RunFolder.open(place / "again"))):
        tally.wrong.append(f"two runs left alone differ: {found}")
    trial = 0
    while tally.kills < kills:
        trial += 1
        output = place / f"trial_{trial}"
        argv = [*command, "--output", str(output)]
        if not killed(argv, log, instant()):
            shutil.rmtree(output)
            continue
        tally.kills += 1
        while True:
            folder = _judge(output, tally)
            if folder is None:
                tally.early += 1
                shutil.rmtree(output, ignore_errors=True)
                argv = [*command, "--output", str(output)]
            else:
                tally.resumed += 1
                argv = ["train", "--resume", str(folder), "--checkpoint-steps", str(EVERY), "--log-every", "1",
                        "--no-tensorboard", "--no-previews"]  # fmt: skip
                if read_checkpoint(RunFolder(folder).latest_checkpoint()).ended:
                    break
            if tally.kills < kills and draw.random() < AGAIN:
                if killed(argv, log, instant()):
                    tally.kills += 1
                    continue
            elif run(argv, log)[0]:
                tally.lost.append(f"trial {trial}: cannot be gone on with: {_tail(log)[-300:]}")
            break
        final = RunFolder.open(output)
        if found := _unequal(expected, _final(final)):
            tally.wrong.append(f"trial {trial}: {found}")
        steps = [row["step"] for row in final.read_metrics()]
        if steps != list(range(STEPS)):
            tally.wrong.append(f"trial {trial}: metrics.jsonl has the steps {steps}")
        shutil.rmtree(output)
    return tally


def _timed(argv: Sequence[str], output: Path, log: Path) -> tuple[float, float]:
    """A training that is left alone: seconds until its first figures, and in all."""
    start_time, first = time.perf_counter(), 0.0
    child = start(argv, log)
    while not os.waitpid(child, os.WNOHANG)[0]:
        if not first and any(path.stat().st_size for path in output.glob("*/*/*/metrics.jsonl")):
            first = time.perf_counter() - start_time
        time.sleep(0.002)
    return first, time.perf_counter() - start_time


def _judge(output: Path, tally: Tally) -> Path | None:
    """The run that can be gone on with; None where nothing was saved yet."""
    folders = [path.parent for path in output.glob("*/*/*/checkpoints")]
    if not folders:
        return None
    run_folder = RunFolder(folders[0])
    for path in run_folder.list_checkpoints():
        try:
            read_checkpoint(path)
        except StudioError as error:
            tally.wrong.append(f"torn: {error}")
    # A checkpoint may be in flight when the figures of its step are written, but not the one before it.
    logged = max((row["step"] + 1 for row in run_folder.read_metrics()), default=0)
    due = EVERY * ((logged - 1) // EVERY) if logged else 0
    newest = max((int(path.stem.split("_")[1]) for path in run_folder.list_checkpoints()), default=0)
    if newest < due:
        tally.lost.append(f"{logged} steps logged, but the newest checkpoint is of {newest}")
    return run_folder.path if newest else None


def _final(folder: RunFolder) -> dict[str, Any]:
    state = load_state(folder.latest_checkpoint())
    losses = [row["loss"] for row in folder.read_metrics()]
    return {"losses": losses} | {name: value for name, value in state.items() if "seconds" not in name}


def _unequal(a: Any, b: Any, path: str = "") -> str | None:
    """Where two states differ first."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return None if same else f"{path} differs"
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        parts: Iterator[tuple[Any, Any, Any]] = ((key, a[key], b[key]) for key in a)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        parts = ((i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b else f"{path} is {str(a)[:80]} and {str(b)[:80]}"
    return next((found for key, x, y in parts if (found := _unequal(x, y, f"{path}/{key}"))), None)


def _train_command(name: str, place: Path) -> list[str]:
    """A tiny training of a plugin: the configuration that its conformance check uses."""
    entry = find_plugin(name)
    load_plugin_class(entry)
    flags = []
    for key, value in load_config_class(entry).CHECK.items():
        flag = key.replace("_", "-")
        if key == "steps":
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (tuple, list)):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", str(value)]
    if name in DATA:
        data = DATA[name]
        if data == "text":
            data = str(place / "text.txt")
            draw = random.Random(0)
            words = ("the", "old", "boat", "waits", "by", "sea", "and", "turns", "home", "at", "night")
            Path(data).write_text(" ".join(draw.choice(words) for _ in range(3000)), encoding="utf-8")
        extra = ["--samples", "200"] if data.startswith(("shapes:", "toy:")) else []
    else:
        data, extra = str(place / "scene"), ["--eval-every", "6"]
        make_scene(Path(data), alpha=True)
        extra += ["--space", "contract"] if name == "ngp" else []
    return ["train", name, data, *extra, *flags, "--steps", str(STEPS), "--checkpoint-steps", str(EVERY),
            "--log-every", "1", "--no-tensorboard", "--no-previews", "--device", "cpu"]  # fmt: skip


# ---- files -------------------------------------------------------------------------------------------------------
def _export_command(place: Path) -> tuple[list[str], Path]:
    argv = [*_train_command("splat", place), "--output", str(place / "runs")]
    code, _ = run(argv, place / "log.txt")
    if code:
        raise RuntimeError(_tail(place / "log.txt"))
    target = place / "exported" / "scene.ply"
    return ["export", str(place / "runs"), "--output", str(target)], target


def _torment_file(command: tuple[list[str], Path], kills: int, draw: random.Random) -> Tally:
    argv, target = command
    tally, log = Tally(), target.parent.parent / "log.txt"
    code, _ = run(argv, log)
    if code:
        raise RuntimeError(_tail(log))
    expected = target.read_bytes()
    target.unlink()
    _, seconds = run(argv, log)
    target.unlink()
    while tally.kills < kills:
        # Every other time something stands there already, which a kill must leave alone.
        before = b"of an earlier export" if tally.kills % 2 else None
        if before:
            target.write_bytes(before)
        if not killed(argv, log, draw.uniform(0, seconds)):
            target.unlink(missing_ok=True)
            continue
        tally.kills += 1
        found = target.read_bytes() if target.exists() else None
        if found not in (before, expected):
            tally.wrong.append(f"kill {tally.kills}: the file is {'gone' if found is None else 'torn'}")
        tally.early += found != expected
        code, _ = run(argv, log)
        if code or target.read_bytes() != expected:
            tally.lost.append(f"kill {tally.kills}: exporting again gives another file")
        remove_leftovers(target.parent)
        target.unlink(missing_ok=True)
    return tally


def _torment_folder(place: Path, kills: int, draw: random.Random) -> Tally:
    from studio.reconstruction import process  # noqa: F401 (imported before the processes are forked)

    tally, log = Tally(), place / "log.txt"
    photos, target = place / "photos", place / "scene"
    photos.mkdir()
    bundled = sorted((Path(__file__).resolve().parents[1] / "scenes" / "tabletop" / "photos").glob("*.jpg"))
    for path in bundled[:PHOTOS]:
        shutil.copy(path, photos)
    argv = ["data", "process", str(photos), "--output", str(target), "--quality", "quick", "--max-size", "160"]
    code, seconds = run(argv, log)
    if code:
        raise RuntimeError(_tail(log))
    expected = _scene_files(target)
    shutil.rmtree(target)
    while tally.kills < kills:
        if not killed(argv, log, draw.uniform(0, seconds)):
            shutil.rmtree(target)
            continue
        tally.kills += 1
        tally.early += not target.exists()
        if target.exists() and _scene_files(target) != expected:
            tally.wrong.append(f"kill {tally.kills}: a part of a scene is there")
        left = [path for path in place.iterdir() if path not in (photos, target, log)]
        if not target.exists() and tally.kills % 4 == 0 and run(argv, log)[0]:
            tally.lost.append(f"kill {tally.kills}: it cannot be made any more")
        for path in left:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)
        shutil.rmtree(target, ignore_errors=True)
    return tally


def _scene_files(folder: Path) -> list[str]:
    """Names of all files of a scene; its cameras are complete where its last file, the report, can be read."""
    json.loads((folder / "registration.json").read_text())
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "STUDIO_THREADS"):
        if os.environ.get(variable) != "1":
            # Threads would not survive the forks; they are set before anything is imported.
            os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", STUDIO_THREADS="1")
            os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
