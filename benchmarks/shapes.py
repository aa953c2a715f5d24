"""How fast the `shapes` data set is made: scenes drawn, captions written, pictures rendered.

    python benchmarks/shapes.py
    python benchmarks/shapes.py --sizes 32 64 128

Writes results/shapes.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from harness import RESULTS, Report, clock_and_processor

from studio.datasets.shapes import ShapesDataset, render_scenes
from studio.devices import apply_threads

PROTOCOL = (
    "{count:,} pictures a round, {batch} at once: scenes and captions drawn, pictures rendered; kernels compiled. "
    "Medians of {rounds} rounds; processor time is that of all threads together for one picture."
)
TARGET = 200
_BATCH = 50


def make(data: ShapesDataset, first: int, count: int) -> None:
    """Draw and render so many pictures that no one asked for before."""
    for start in range(first, first + count, _BATCH):
        scenes = data.scenes(range(start, min(start + _BATCH, first + count)))
        assert all(scene.caption for scene in scenes)
        render_scenes(scenes, data.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64], help="sides of the pictures, pixels")
    parser.add_argument("--count", type=int, default=500, help="pictures a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "shapes",
        title="Pictures of the shapes data set",
        protocol=PROTOCOL.format(count=arguments.count, batch=_BATCH, rounds=arguments.rounds),
        settings=vars(arguments),
        folder=arguments.results,
    )
    for size in arguments.sizes:
        data = ShapesDataset(size, samples=(arguments.rounds + 1) * arguments.count)
        make(data, 0, arguments.count)
        spent = [
            clock_and_processor(lambda i=i, data=data: make(data, i * arguments.count, arguments.count))  # type: ignore[misc]
            for i in range(1, arguments.rounds + 1)
        ]
        rates = [arguments.count / clock for clock, _ in spent]
        report.add(
            size=size,
            pictures_a_second=statistics.median(rates),
            cpu_ms_a_picture=1000 * statistics.median(used for _, used in spent) / arguments.count,
            slowest=min(rates),
            fastest=max(rates),
            target=f"at least {TARGET}",
        )
    report.print()


if __name__ == "__main__":
    main()
