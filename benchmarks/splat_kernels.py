"""Speed of the splatting kernels on the CPU: stages of a training iteration, rendering, and share of the peak.

    python benchmarks/splat_kernels.py --gaussians 20000 100000 --threads 1 2
    python benchmarks/splat_kernels.py --threads 1 --clock cpu          # on a machine that others use
    NUMBA_CPU_NAME=x86-64-v3 python benchmarks/splat_kernels.py --keep  # kernels compiled for AVX2, added to the file
    python benchmarks/splat_kernels.py --opensplat ~/OpenSplat/build/opensplat

Trains a Lego model of each size first, so that the Gaussians are as large and as deep as they are in practice, then
times every stage over many training views. Larger scenes are rendered only: the largest model with every Gaussian split
into many, and the points of a real garden. How operations are counted: see kernel_operations.py. Writes
results/splat_kernels.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gaussian_scenes
import numpy as np
import opensplat
import torch
from harness import DATA, RESULTS, Report, gib, peak_memory, warm_up
from kernel_operations import (
    backward_operations,
    executed_backward,
    executed_forward,
    forward_operations,
    rows_reached,
)
from llvmlite import binding
from peaks import Clock, Peaks, measure_peaks, read_clock

from studio.cameras import Cameras
from studio.devices import apply_threads
from studio.kernels.cache import set_threads
from studio.kernels.workspace import Workspace
from studio.training.start import Prepared, TrainOptions
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
    "Lego models (400x400, white background, SH degree 3) are trained for {train_steps} steps to about the stated "
    "numbers of Gaussians. Then {views} training views are taken one after the other: the photo on its background "
    "('target'), projection and SH, binning, rasterising, L1 + SSIM with gradient, backward rasterising with absolute "
    "gradients, backward projection fused with Adam on visible Gaussians. 'iteration' is a whole training step of the "
    "field, measured apart. 'render' is CpuEngine.render, projection to finished picture, at the stated size or the "
    "cameras' own. Figures are medians over views in milliseconds of {clock} time. 'share' of a kernel is its counted "
    "float operations a second over the speed of a float32 matrix product with the same threads, the faster of torch's "
    "and NumPy's, measured beside it; counted is what blending each pixel of a tile with each splat of its list takes, "
    "over the lists really processed (kernel_operations.py). The kernels pass over rows of a tile that a splat cannot "
    "reach, so they execute fewer: 'executed_share' counts those only. 'compiled_for' is the processor that kernels "
    "were compiled for; where it lacks AVX-512, the matrix products do without too. The file has the share "
    "of the FMA peak. Seed 0."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--dense", type=int, default=1_000_000, help="Gaussians of the split model; 0: none")
    parser.add_argument("--train-steps", type=int, default=1_500)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default: all physical cores")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: one thread on a busy machine")
    parser.add_argument("--render-sizes", type=int, nargs="+", default=[400, 800])
    parser.add_argument("--opensplat", type=Path, help="OpenSplat's binary, to be timed on the same photos")
    parser.add_argument("--opensplat-iterations", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA / "lego")
    parser.add_argument("--garden", type=Path, default=DATA / "garden_npz" / "test_garden.npz")
    parser.add_argument("--test-file", default="transforms_test25.json")
    parser.add_argument("--keep", action="store_true", help="keep the rows of other targets that the file has")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads != [1]:
        parser.error("--clock cpu adds up the time of all threads: use it with --threads 1")
    apply_threads()
    report = Report(
        "splat_kernels",
        title="Splat kernels on the CPU: milliseconds",
        protocol=PROTOCOL.format(
            train_steps=arguments.train_steps,
            views=arguments.views,
            clock="CPU" if arguments.clock == "cpu" else "wall",
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    if arguments.keep and report.file.is_file():
        old = json.loads(report.file.read_text(encoding="utf-8"))["rows"]
        report.rows += [row for row in old if row.get("compiled_for") != _target()]
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
        largest: Prepared | None = None
        for count in sorted(arguments.gaussians):
            largest = gaussian_scenes.train(arguments.data, count, arguments.train_steps, options)
            _train_rows(report, largest, arguments)
        if largest is not None and arguments.dense:
            assert largest.photos is not None
            parameters = gaussian_scenes.denser(_engine(largest).parameters(), arguments.dense)
            _render_rows(report, "lego, split", parameters, _cameras(largest), arguments)
    if arguments.garden.is_file():
        parameters, cameras = gaussian_scenes.garden(arguments.garden)
        _render_rows(report, "garden", parameters, [cameras[i] for i in range(len(cameras))], arguments, sizes=[None])
    if arguments.opensplat is None:
        print("OpenSplat was not given (--opensplat PATH), so nothing is compared with it")
    report.print()


def _target() -> str:
    """The processor that kernels are compiled for."""
    return os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()


def _engine(job: Prepared) -> CpuEngine:
    assert isinstance(job.plugin, SplatField)
    engine = job.plugin.engine()
    assert isinstance(engine, CpuEngine)
    return engine


def _cameras(job: Prepared) -> list[Cameras]:
    assert job.photos is not None
    return [job.photos.camera(i) for i in range(len(job.photos))]


def _train_rows(report: Report, job: Prepared, arguments: argparse.Namespace) -> None:
    engine = _engine(job)
    for count in arguments.threads or [None]:
        threads = set_threads(count)
        torch.set_num_threads(threads)
        clock = arguments.clock
        row: dict[str, Any] = {
            "compiled_for": _target(),
            "scene": "lego",
            "gaussians": engine.count,
            "threads": threads,
        }
        row.update(_stages(job, engine, arguments.views, measure_peaks(threads, clock), clock))
        row["iteration"] = _iterations(job, arguments.views, clock)
        for size in arguments.render_sizes:
            row[f"render_{size}"] = _renders(engine, _cameras(job), size, arguments.views, clock)
        if arguments.opensplat is not None:
            assert job.photos is not None
            row["opensplat"] = opensplat.milliseconds_an_iteration(
                arguments.opensplat,
                job.photos,
                engine.parameters(),
                iterations=arguments.opensplat_iterations,
                threads=threads,
            )
            row["times_faster"] = row["opensplat"] / row["iteration"]
        row["peak_memory"] = gib(peak_memory())
        report.add(**row)


def _render_rows(
    report: Report,
    scene: str,
    parameters: gaussian_scenes.Parameters,
    cameras: Sequence[Cameras],
    arguments: argparse.Namespace,
    sizes: Sequence[int | None] | None = None,
) -> None:
    """Rows with rendering only; size None is the cameras' own."""
    engine = CpuEngine(SplatConfig(), num_photos=1)
    engine.load(parameters)
    for count in arguments.threads or [None]:
        threads = set_threads(count)
        torch.set_num_threads(threads)
        row: dict[str, Any] = {"compiled_for": _target(), "scene": scene, "gaussians": engine.count, "threads": threads}
        for size in sizes or arguments.render_sizes:
            name = "render" if size is None else f"render_{size}"
            row[name] = _renders(engine, cameras, size, min(arguments.views, 20), arguments.clock)
        row["peak_memory"] = gib(peak_memory())
        report.add(**row)


def _stages(job: Prepared, engine: CpuEngine, views: int, peaks: Peaks, clock: Clock) -> dict[str, Any]:
    """Each kernel by itself, on a copy of the parameters, so that the model stays as it is."""
    assert job.photos is not None
    blocks = gaussian_scenes.blocks_of(engine.parameters())
    first, second = aligned_zeros(blocks.shape), aligned_zeros(blocks.shape)
    statistics_rows = aligned_zeros((len(blocks), STATISTICS_ROWS, 16))
    rates = np.full(blocks.shape[1], 1e-6, np.float32)
    records, radii = aligned_zeros((len(blocks) * 16, 16)), aligned_zeros((len(blocks) * 16,))
    work, white = Workspace(), np.ones(3, np.float32)
    spent: dict[str, list[float]] = defaultdict(list)
    counted: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = read_clock(clock)
        result = call()
        spent[name].append(1e3 * (read_clock(clock) - started))
        return result

    for i in range(views + 3):
        photo = job.photos.get(i % len(job.photos))
        height, width = photo.image.shape[:2]
        target, gradient = work.array("target", (3, height, width)), work.array("gradient", (3, height, width))
        view = engine.view(photo.camera, photo.camera.world_to_camera.double())
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
        looked_at, blended = int(raster.evaluated.sum()), int(tiles.count.sum())
        counted["pairs"].append(tiles.pairs)
        counted["looked_at"].append(looked_at)
        counted["blended"].append(blended)
        counted["forward"].append(forward_operations(looked_at, blended, 3))
        counted["backward"].append(backward_operations(blended, 3, absgrad=True))
        reached = rows_reached(records, tiles)
        counted["rows_reached"].append(reached)
        counted["forward_executed"].append(executed_forward(looked_at, reached, 3))
        counted["backward_executed"].append(executed_backward(blended, reached, 3, absgrad=True))
    speeds = {
        name: statistics.median(np.array(counted[name][3:]) / np.array(spent[name][3:]) / 1e6)
        for name in ("forward", "backward")
    }
    executed = {
        name: statistics.median(np.array(counted[f"{name}_executed"][3:]) / np.array(spent[name][3:]) / 1e6)
        for name in ("forward", "backward")
    }
    return {
        **{name: statistics.median(times[3:]) for name, times in spent.items()},
        **{f"{name}_share": speed / peaks.matmul for name, speed in speeds.items()},
        **{f"{name}_executed_share": speed / peaks.matmul for name, speed in executed.items()},
        "counted": {
            **{name: statistics.median(values) for name, values in counted.items()},
            **{f"{name}_gflops": speed for name, speed in speeds.items()},
            **{f"{name}_share_of_fma_peak": speed / peaks.fma for name, speed in speeds.items()},
            "matmul_gflops": {"torch": peaks.torch, "numpy": peaks.numpy},
            "fma_peak_gflops": peaks.fma,
        },
    }


def _iterations(job: Prepared, views: int, clock: Clock) -> float:
    """Whole training steps of the field, as the loop calls them."""
    field = job.plugin
    assert isinstance(field, SplatField)
    times = []
    # Past the last refinement, where steps do not edit the set of Gaussians.
    start = job.trainer.settings.total_steps
    for step in range(start, start + views + 3):
        batch = job.trainer.source.next(field.batch_request(step))
        began = read_clock(clock)
        field.training_step(batch, step)
        times.append(1e3 * (read_clock(clock) - began))
    return statistics.median(times[3:])


@torch.no_grad()
def _renders(engine: CpuEngine, cameras: Sequence[Cameras], size: int | None, views: int, clock: Clock) -> float:
    times = []
    for i in range(views + 3):
        camera = cameras[i * max(1, len(cameras) // views) % len(cameras)]
        if size is not None:
            camera = camera.rescale((size, size))
        began = read_clock(clock)
        engine.render(camera, ("rgb",), torch.ones(3))
        times.append(1e3 * (read_clock(clock) - began))
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
