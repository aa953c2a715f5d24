"""What every benchmark does alike: describe the machine, repeat and take medians, print a table, write JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from studio.devices.host_cpu import cores, cpu_name, simd_features
from studio.devices.host_memory import format_bytes, host_memory
from studio.files import atomic_write

if TYPE_CHECKING:
    from studio.training.start import TrainOptions

RESULTS = Path(__file__).resolve().parent / "results"
DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Folder of the real photos that some benchmarks need; see benchmarks/README.md."""

_PACKAGES = ("neural-studio", "torch", "numpy", "numba", "llvmlite")


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.best, "max": max(self.seconds), "repetitions": len(self.seconds)}


def measure(work: Callable[[], object], *, repetitions: int = 5, warmup: int = 1) -> Timing:
    """Time `work` after `warmup` untimed calls.

    Raises:
        ValueError: Fewer than one repetition.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    for _ in range(warmup):
        work()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return Timing(tuple(seconds))


def clock_and_processor(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that `work` takes by the clock, and processor time of all threads, which other programs disturb less."""
    clock, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - used


def matmul_gflops(size: int = 2048, repetitions: int = 7) -> float:
    """Speed of a float32 matrix product in GFLOP/s (best of several): how fast this machine is at this moment.

    It tells a slow or shared machine from a fast one, so that figures of different machines can be read together.
    """
    import torch

    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / measure(lambda: a @ b, repetitions=repetitions, warmup=2).best / 1e9


def warm_up(data: Path, options: TrainOptions, *, preset: str | None = None) -> None:
    """Compile the kernels of the splat plugin and fill their cache, by a short training that is thrown away."""
    from studio.training.start import train

    with tempfile.TemporaryDirectory() as scratch:
        short = dataclasses.replace(options, output=Path(scratch), budget_seconds=None)
        # Enough steps for every schedule to begin, at every photo size.
        run = train("splat", data, preset=preset, options=short, steps=120, max_gaussians=5_000, refine_every=20)
        next(run.render(run.photos("train").camera(0)[None]))


@dataclass(frozen=True)
class CommandRun:
    """A training that was run as a user runs it."""

    folder: Path
    """Its run, or a folder above it."""
    seconds: float
    """From the start of the process to its end."""
    peak_memory: int
    """The most memory it held at once (resident set), bytes."""
    cpu_seconds: float
    """Processor time of all its threads: what other programs on the machine do not lengthen much."""


def train_command(plugin: str, data: Path | str, output: Path, *options: str) -> CommandRun:
    """Run ``studio train`` in a process of its own; what it prints is shown.

    Args:
        output: A folder that holds no run yet.

    Raises:
        RuntimeError: The command failed.
    """
    command = [sys.executable, "-m", "studio", "train", plugin, str(data), "--output", str(output), *options]
    started, used = time.perf_counter(), _children_seconds()
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _high_water(process.pid))
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return CommandRun(output, seconds, peak or _most_of(resource.RUSAGE_CHILDREN), _children_seconds() - used)


def describe_machine() -> dict[str, Any]:
    """Processor, memory, versions, load and date, as plain data."""
    import numba
    import torch

    found = cores()
    return {
        "cpu": cpu_name(),
        "simd": list(simd_features()),
        "physical_cores": found.physical,
        "usable_threads": found.usable,
        "torch_threads": torch.get_num_threads(),
        "numba_threads": numba.config.NUMBA_NUM_THREADS,
        "load_average": os.getloadavg()[0],
        "memory_gib": round(host_memory().total / 2**30, 1),
        "matmul_gflops": round(matmul_gflops(), 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def peak_memory() -> int:
    """The most memory this process has held at once (resident set), bytes."""
    # ru_maxrss of a new process begins with what its parent held; the kernel's own figure does not.
    return _high_water(os.getpid()) or _most_of(resource.RUSAGE_SELF)


def _high_water(process: int) -> int:
    """Peak resident set of a process by Linux, bytes; 0 where that is not to be had."""
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _children_seconds() -> float:
    """Processor time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _most_of(whose: int) -> int:
    most = resource.getrusage(whose).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Report:
    """Rows of figures, printed as a table and kept as JSON.

    The file is written after every row: a benchmark that is stopped halfway keeps what it has.

    Args:
        name: Written to ``<folder>/<name>.json``.
        title: Over the table.
        protocol: How the figures were measured, in sentences; printed and kept.
        settings: The script's options.
        folder: Where the file goes.
    """

    def __init__(
        self, name: str, *, title: str, protocol: str, settings: Mapping[str, Any], folder: Path = RESULTS
    ) -> None:
        self.name, self.title, self.protocol = name, title, protocol
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.machine = describe_machine()
        self.settings = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        self._console = Console() if sys.stdout.isatty() else Console(width=160)
        self._say_conditions()

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def add(self, **figures: Any) -> None:
        """Append a row and write the file."""
        self.rows.append(figures)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file, "w") as handle:
            json.dump(self.to_dict(), handle, indent=2, default=float)
            handle.write("\n")

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "protocol": self.protocol,
            "settings": self.settings,
            "machine": self.machine,
            "rows": self.rows,
        }

    def print(self) -> None:
        """The table; lists and mappings stay in the file."""
        table = Table(title=self.title, title_justify="left")
        names = list(dict.fromkeys(key for row in self.rows for key, value in row.items() if _is_cell(value)))
        for name in names:
            numeric = all(isinstance(row.get(name), (int, float)) for row in self.rows)
            table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(_cell(row.get(name)) for name in names))
        self._console.print(table)
        self._console.print(f"written to {self.file}", markup=False, highlight=False)

    def _say_conditions(self) -> None:
        machine = self.machine
        packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
        for line in (
            f"{self.title}",
            f"machine:  {machine['cpu']}, {machine['physical_cores']} cores, {machine['torch_threads']} threads, "
            f"{machine['memory_gib']} GiB, {machine['matmul_gflops']} GFLOP/s (float32 matmul), "
            f"load {machine['load_average']:.1f}, GPU: {machine['gpu'] or 'none'}",
            f"versions: Python {machine['python']}, {packages}",
            f"protocol: {self.protocol}",
        ):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        busy = machine["load_average"] / machine["usable_threads"]
        if busy > 0.5:
            self._console.print(
                f"note:     other programs keep this machine busy (load {machine['load_average']:.1f}); timings suffer",
                markup=False,
                highlight=False,
            )


def gib(count: int) -> str:
    """Bytes for a table, such as '1.5 GiB'."""
    return format_bytes(count)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
