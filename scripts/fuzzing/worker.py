"""Runs one reader on many damaged inputs, within bounds of memory and time, and tells of everything it must not do."""

from __future__ import annotations

import json
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzing import seeds
from fuzzing.mutations import damage_bytes
from fuzzing.targets import Target, damage_for

SECONDS = 10.0
"""Processor time that an input may take."""
ROOM = 1 << 30
"""Address space beyond what the process has before it begins: the readers' bound for headers, 64 MiB, decoded and
converted, with room for what the libraries map."""
_MOST_KEPT = 300
_REPORT_EVERY = 1.0


class TooSlow(BaseException):
    """An input took more processor time than `SECONDS`. No Exception, so that no reader catches it."""


@dataclass
class Tally:
    """What became of the inputs."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "read": self.read, "refused": self.refused, "findings": self.findings}


def run(target: Target, folder: Path, seed: str, *, inputs: int, seconds: float, keep: Path | None) -> Tally:
    """Read `inputs` damaged inputs, or as many as `seconds` allow; prints a line of JSON every second.

    Args:
        target: The reader.
        folder: An empty folder, best in memory.
        seed: Of all choices: equal seeds make equal inputs.
        inputs: How many.
        seconds: Wall time.
        keep: Folder for inputs that show a fault.
    """
    rng = random.Random(f"{target.name}/{seed}")
    sound = target.make()
    names = target.choices(sound)
    corpus: dict[str, list[bytes]] = {name: [sound[name]] for name in names}
    seeds.write(folder, sound)
    for name in names:
        # All is imported and compiled before memory is bounded. Some seeds are sound files of a kind that is refused.
        _outcome(target, folder, name)
    _bound_memory()
    tally, seen, started, told = Tally(), set(), time.monotonic(), 0.0
    while tally.inputs < inputs and (now := time.monotonic()) - started < seconds:
        if now - told > _REPORT_EVERY:
            told = now
            print(json.dumps({"reader": target.name, **tally.to_dict()}), flush=True)
        name = rng.choice(names)
        origin = rng.choice(corpus[name]) if rng.random() < 0.6 else sound[name]
        try:
            data = damage_for(name)(origin, rng)
        except RecursionError:  # damage upon damage nests deeper than this program walks
            data = damage_bytes(origin, rng)
        (folder / name).write_bytes(data)
        outcome, fault = _outcome(target, folder, name)
        tally.inputs += 1
        tally.read += outcome == "read"
        tally.refused += outcome == "refused"
        if fault is not None and fault["key"] not in tally.findings:
            tally.findings[fault["key"]] = {**fault, "file": name, "input": tally.inputs}
            if keep is not None:
                kept = keep / re.sub(r"\W+", "_", f"{target.name} {fault['key']}")[:100]
                seeds.write(kept, {**sound, name: data})
        signature = f"{outcome} {fault and fault['key']} {_last_message}"
        if signature not in seen and len(data) < 1 << 16:
            # Something new happened: what led there is worth more damage.
            seen.add(signature)
            if len(corpus[name]) < _MOST_KEPT:
                corpus[name].append(data)
        # Readers may write (metrics are rewound), so the sound file comes back after each.
        (folder / name).write_bytes(sound[name])
    print(json.dumps({"reader": target.name, **tally.to_dict(), "done": True}), flush=True)
    return tally


_last_message = ""


def _outcome(target: Target, folder: Path, name: str) -> tuple[str, dict[str, Any] | None]:
    """'read', 'refused' or 'fault', and the fault."""
    from studio.errors import StudioError

    global _last_message
    _last_message = ""
    signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            # Numbers that overflow with a mere warning are numbers that were not checked.
            warnings.filterwarnings("error", category=RuntimeWarning)
            target.read(folder, name)
        return "read", None
    except StudioError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        text = str(error)
        _last_message = re.sub(r"[\d.,e+-]+|'[^']*'|\([^)]*\)", "#", text.replace(str(folder), ""))[:120]
        if "\n" in text or not error.fix or str(folder) not in text:
            return "fault", _fault("words", error, text[:200])
        return "refused", None
    except MemoryError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return "fault", _fault("memory", error, "")
    except TooSlow as error:
        return "fault", _fault("slow", error, "")
    except Exception as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return "fault", _fault(type(error).__name__, error, str(error)[:200])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _fault(kind: str, error: BaseException, text: str) -> dict[str, Any]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/studio/" in frame.filename]
    where = f"{frames[-1].filename.rpartition('/studio/')[2]}:{frames[-1].lineno}" if frames else "?"
    return {"key": f"{kind} {where}", "text": text}


def _too_slow(*_: object) -> None:
    raise TooSlow


def _bound_memory() -> None:
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))
