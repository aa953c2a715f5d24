"""Which part of a training iteration more cores cannot speed up, and how fast 8 and 16 of them would be.

    python benchmarks/serial_share.py --threads 1 2

Takes training steps of `splat` (its loss included) and `ngp` with the first and with the second number of threads,
kernel by kernel, and splits the time of each by Amdahl's law; what lies between the kernels (Python, torch) counts as
serial whole. Writes results/serial_share.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from harness import RESULTS, Report
from kernel_clock import kernel_clock

from studio.devices import apply_threads
from studio.kernels.cache import set_threads
from studio.training.start import Prepared, TrainOptions, prepare

BETWEEN = "between kernels"
_SCENE = Path(__file__).resolve().parents[1] / "scenes" / "tabletop"

PROTOCOL = (
    "Training steps of each method on {data}, after {warm} steps of training, {steps} steps with each number of "
    "threads, in turns of {turn} so that a change of the machine's speed meets both. Medians over steps of the "
    "wall-clock time of each kernel and of the whole step; 'between kernels' is the difference: Python, torch, the "
    "photo. serial_share by Amdahl from the two numbers of threads, cut to [0, 1]; predictions add up the kernels' "
    "by the same law and take what lies between as serial; they know nothing of memory bandwidth, of which more "
    "cores may find too little."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["splat", "ngp"])
    parser.add_argument("--threads", type=int, nargs=2, default=[1, 2], help="a few and more")
    parser.add_argument("--predict", type=int, nargs="*", default=[8, 16], help="cores to predict for")
    parser.add_argument("--warm-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turn", type=int, default=10)
    parser.add_argument("--data", type=Path, default=_SCENE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not 1 <= arguments.threads[0] < arguments.threads[1]:
        parser.error("--threads wants two numbers, the smaller one first")
    apply_threads()
    report = Report(
        "serial_share",
        title="What more cores cannot speed up: milliseconds a training step",
        protocol=PROTOCOL.format(
            data=arguments.data.name, warm=arguments.warm_steps, steps=arguments.steps, turn=arguments.turn
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        for method in arguments.methods:
            options = TrainOptions(output=Path(scratch), device="cpu", tensorboard=False, checkpoint_seconds=1e9)
            job = prepare(method, arguments.data, options=options, steps=arguments.warm_steps)
            job.train()
            _add_rows(report, method, _medians(job, arguments), arguments)
    report.print()


def _medians(job: Prepared, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Milliseconds of each stage and of the step with the two numbers of threads."""
    spent: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    step = job.trainer.settings.total_steps
    with kernel_clock() as clock:
        for turn in range(-1, -(-arguments.steps // arguments.turn)):
            for which, count in enumerate(arguments.threads):
                set_threads(count)
                torch.set_num_threads(count)
                for _ in range(arguments.turn):
                    batch = job.trainer.source.next(job.plugin.batch_request(step))
                    clock.take()
                    started = time.perf_counter()
                    job.plugin.training_step(batch, step)
                    whole = time.perf_counter() - started
                    taken = clock.take()
                    step += 1
                    if turn < 0:
                        continue
                    taken[BETWEEN] = whole - sum(taken.values())
                    taken["step"] = whole
                    for name, seconds in taken.items():
                        spent[which][name].append(1e3 * seconds)
    # A kernel that is not called in every step counts with what it costs on average.
    taken_steps = len(spent[0]["step"])
    few, many = (
        {name: statistics.median(times) * len(times) / taken_steps for name, times in half.items()} for half in spent
    )
    return {name: (few[name], many.get(name, few[name])) for name in few}


def serial_share(few: float, many: float, threads: tuple[int, int]) -> float:
    """Amdahl's serial share of work that takes `few` and `many` milliseconds with the two numbers of threads.

    With T(n) = T (s + (1 - s) / n) the ratio T(b) / T(a) = r gives s = (r / a - 1 / b) / (1 - 1 / b - r (1 - 1 / a)).
    """
    a, b = threads
    ratio = many / few
    return min(1.0, max(0.0, (ratio / a - 1 / b) / (1 - 1 / b - ratio * (1 - 1 / a))))


def _add_rows(
    report: Report, method: str, times: dict[str, tuple[float, float]], arguments: argparse.Namespace
) -> None:
    threads = (arguments.threads[0], arguments.threads[1])
    stages = {name: pair for name, pair in times.items() if name != "step"}
    shares = {
        name: 1.0 if name == BETWEEN or name.endswith("(one thread)") else serial_share(*pair, threads)
        for name, pair in stages.items()
    }
    # With one thread, so that the law's T is known.
    single = {name: pair[0] / (shares[name] + (1 - shares[name]) / threads[0]) for name, pair in stages.items()}
    total = sum(single.values())

    def predicted(names: list[str], cores: int) -> float:
        return sum(single[name] * (shares[name] + (1 - shares[name]) / cores) for name in names)

    def row(stage: str, names: list[str], pair: tuple[float, float]) -> None:
        serial = sum(single[name] * shares[name] for name in names)
        report.add(
            method=method,
            stage=stage,
            **{f"ms_{count}": value for count, value in zip(threads, pair, strict=True)},
            serial_share=serial / sum(single[name] for name in names),
            serial_of_step=serial / total,
            **{f"predicted_{cores}": predicted(names, cores) for cores in arguments.predict},
        )

    for name in sorted(stages, key=lambda name: -single[name]):
        row(name, [name], stages[name])
    row("step", list(stages), times["step"])


if __name__ == "__main__":
    main()
