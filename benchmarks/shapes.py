"""Pictures a second of the `shapes` data set at 64x64: scenes drawn, captions written, pictures rendered.

Besides wall-clock time it prints the CPU time of one picture, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from studio.datasets.shapes import ShapesDataset, render_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shapes.json"))
    arguments = parser.parse_args()
    data = ShapesDataset(arguments.size, samples=arguments.count)
    render_scenes(data.scenes(range(8)), arguments.size)
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, arguments.count, 50):
        scenes = data.scenes(range(start, min(start + 50, arguments.count)))
        assert all(scene.caption for scene in scenes)
        render_scenes(scenes, arguments.size)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "size": arguments.size,
        "pictures": arguments.count,
        "pictures_per_second": round(arguments.count / wall, 1),
        "cpu_milliseconds_per_picture": round(1000 * cpu / arguments.count, 3),
    }
    print(json.dumps(result, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
