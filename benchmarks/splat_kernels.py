"""Milliseconds of each stage of a splat training iteration, and of rendering, on the CPU.

    python benchmarks/splat_kernels.py --gaussians 20000 100000

Trains a Lego model of each size first, so that the Gaussians are as large and as deep as they are in practice, then
times every stage over many training views. Writes results/splat_kernels.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import DATA, RESULTS, Report, gib, peak_memory, warm_up

from studio.cameras import Cameras
from studio.devices import apply_threads
from studio.kernels.cache import set_threads
from studio.kernels.workspace import Workspace
from studio.training.start import Prepared, TrainOptions, prepare
from studio_splat.config import SplatConfig
from studio_splat.engine_cpu import CpuEngine
from studio_splat.field import SplatField
from studio_splat.kernels.binning import bin_splats
from studio_splat.kernels.layout import aligned_zeros
from studio_splat.kernels.loss import photometric_loss
from studio_splat.kernels.photo import compose
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import STATISTICS_ROWS, project_backward_adam
from studio_splat.kernels.raster_backward import rasterize_backward
from studio_splat.kernels.raster_forward import rasterize_forward

PROTOCOL = (
    "A Lego model (400x400, white background, SH degree 3) is trained for {train_steps} steps to the stated number of "
    "Gaussians. Then {views} training views are taken one after the other: projection and SH, binning, rasterising, "
    "L1 + SSIM with gradient, backward rasterising, backward projection fused with Adam on visible Gaussians. Figures "
    "are medians over views in milliseconds; 'iteration' is the whole of CpuEngine.step, measured apart. Rendering is "
    "projection to finished picture at the stated size. Seed 0."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--train-steps", type=int, default=1_500)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default: all physical cores")
    parser.add_argument("--render-sizes", type=int, nargs="+", default=[400, 800])
    parser.add_argument("--data", type=Path, default=DATA / "lego")
    parser.add_argument("--test-file", default="transforms_test25.json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "splat_kernels",
        title="Splat kernels on the CPU: milliseconds",
        protocol=PROTOCOL.format(train_steps=arguments.train_steps, views=arguments.views),
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainOptions(
            output=Path(scratch),
            device="cpu",
            downscale=2.0,
            background="white",
            reader={"test_file": arguments.test_file},
            tensorboard=False,
            checkpoint_seconds=1e9,
        )
        warm_up(arguments.data, options)
        for count in arguments.gaussians:
            settings = SplatConfig(steps=arguments.train_steps, max_gaussians=count, coarse_levels=0, refine_stop=0.7)
            job = prepare("splat", arguments.data, settings, options)
            job.train()
            for threads in arguments.threads or [None]:
                _measure(report, job, set_threads(threads), arguments)
    report.print()


def _measure(report: Report, job: Prepared, threads: int, arguments: argparse.Namespace) -> None:
    field = job.plugin
    assert isinstance(field, SplatField)
    engine = field.engine()
    assert isinstance(engine, CpuEngine)
    row: dict[str, Any] = {"gaussians": field.num_gaussians, "threads": threads}
    row.update(_stages(job, engine, arguments.views))
    row["iteration"] = _iterations(job, field, arguments.views)
    for size in arguments.render_sizes:
        row[f"render_{size}"] = _renders(job, engine, size, arguments.views)
    row["peak_memory"] = gib(peak_memory())
    report.add(**row)


def _stages(job: Prepared, engine: CpuEngine, views: int) -> dict[str, float]:
    """Each kernel by itself, on copies of the parameters and moments, so that the model stays as it is."""
    assert job.photos is not None
    blocks, first, second = engine._blocks.copy(), *(moment.copy() for moment in engine._moments())
    statistics_rows = aligned_zeros((len(blocks), STATISTICS_ROWS, 16))
    rates = np.full(blocks.shape[1], 1e-6, np.float32)
    records, radii = aligned_zeros((len(blocks) * 16, 16)), aligned_zeros((len(blocks) * 16,))
    work, white = Workspace(), np.ones(3, np.float32)
    spent: dict[str, list[float]] = defaultdict(list)
    pairs = []

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = call()
        spent[name].append(1e3 * (time.perf_counter() - started))
        return result

    for i in range(views + 3):
        photo = job.photos.get(i % len(job.photos))
        height, width = photo.image.shape[:2]
        target, gradient = work.array("target", (3, height, width)), work.array("gradient", (3, height, width))
        view = engine._view(photo.camera, photo.camera.world_to_camera.double())
        timed("target", lambda: compose(photo.image.numpy(), white, target))  # noqa: B023
        timed("project", lambda: project_forward(blocks, view, 3, records, radii))  # noqa: B023
        tiles = timed("bin", lambda: bin_splats(records, width, height, work))  # noqa: B023
        raster = timed("forward", lambda: rasterize_forward(records, tiles, work, background=white))  # noqa: B023
        timed("loss", lambda: photometric_loss(raster.image, target, gradient))  # noqa: B023
        back = timed(
            "backward",
            lambda: rasterize_backward(records, tiles, raster, work, gradient, absgrad=True),  # noqa: B023
        )
        timed(
            "update",
            lambda: project_backward_adam(
                blocks,
                first,
                second,
                rates,
                1_000,
                view,  # noqa: B023
                3,
                records,
                radii,
                back.rows,  # noqa: B023
                touched=back.touched,  # noqa: B023
                statistics=statistics_rows,
                absgrad=True,
            ),
        )
        pairs.append(tiles.pairs)
    figures = {name: statistics.median(times[3:]) for name, times in spent.items()}
    return {"pairs": int(statistics.median(pairs)), **figures}


def _iterations(job: Prepared, field: SplatField, views: int) -> float:
    """Whole training steps of the field, as the loop calls them."""
    times = []
    # Past the last refinement, where steps do not edit the set of Gaussians.
    start = job.trainer.settings.total_steps
    for step in range(start, start + views + 3):
        batch = job.trainer.source.next(field.batch_request(step))
        began = time.perf_counter()
        field.training_step(batch, step)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[3:])


@torch.no_grad()
def _renders(job: Prepared, engine: CpuEngine, size: int, views: int) -> float:
    assert job.photos is not None
    times = []
    for i in range(min(views, len(job.photos)) + 3):
        camera: Cameras = job.photos.camera(i % len(job.photos)).rescale((size, size))
        began = time.perf_counter()
        engine.render(camera, ("rgb",), torch.ones(3))
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
