"""What `studio_splat.rasterization` costs beside the kernels that it calls: forward and backward, with all its checks.

    python benchmarks/functional_overhead.py
    python benchmarks/functional_overhead.py --threads 1 --clock cpu        # on a machine that others use

Both render the same random Gaussians; the kernels are given blocks that are packed already. Writes
results/functional_overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import RESULTS, Report
from peaks import Clock, read_clock
from torch import Tensor

from studio.devices import apply_threads
from studio.kernels.cache import set_threads
from studio.kernels.workspace import Workspace
from studio_splat import rasterization
from studio_splat.kernels.binning import bin_splats
from studio_splat.kernels.layout import aligned_zeros, pack
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import project_backward
from studio_splat.kernels.raster_backward import rasterize_backward
from studio_splat.kernels.raster_forward import rasterize_forward
from studio_splat.kernels.view import View

PROTOCOL = (
    "{count} Gaussians with normally distributed means, standard deviations about exp(-4), four units before the "
    "camera, SH degree 3; one picture of {size}x{size} pixels, focal length {size} px; a random gradient of the "
    "picture goes back to all parameters. 'kernels' projects, bins and blends blocks packed beforehand, and "
    "backwards, into buffers that stay; 'functional' is rasterization(...) and backward() from tensors as users "
    "have them, '(unchecked)' with check=False. Taken in turns; medians and minima of {rounds} rounds in "
    "milliseconds of {clock} time."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--threads", type=int, nargs="+", default=None, help="default: all physical cores")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: one thread on a busy machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads != [1]:
        parser.error("--clock cpu adds up the time of all threads: use it with --threads 1")
    apply_threads()
    report = Report(
        "functional_overhead",
        title="Functional rasterisation beside its kernels: milliseconds",
        protocol=PROTOCOL.format(
            count=f"{arguments.gaussians:,}",
            size=arguments.size,
            rounds=arguments.rounds,
            clock="CPU" if arguments.clock == "cpu" else "wall",
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    parameters = make_parameters(arguments.gaussians)
    calls = {
        "kernels": kernels_alone(parameters, arguments.size),
        "functional": functional(parameters, arguments.size, check=True),
        "functional (unchecked)": functional(parameters, arguments.size, check=False),
    }
    for count in arguments.threads or [None]:
        threads = set_threads(count)
        torch.set_num_threads(threads)
        times = _times(calls, arguments.rounds, arguments.clock)
        base = statistics.median(times["kernels"]), min(times["kernels"])
        for name, spent in times.items():
            report.add(
                call=name,
                threads=threads,
                median=statistics.median(spent),
                minimum=min(spent),
                overhead=statistics.median(spent) / base[0] - 1,
                overhead_of_minima=min(spent) / base[1] - 1,
            )
    report.print()


def make_parameters(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Arguments of `rasterization`, leaves that want gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parameters = {
        "means": normal(count, 3),
        "quats": normal(count, 4),
        "scales": (0.5 * normal(count, 3) - 4).exp(),
        "opacities": torch.sigmoid(normal(count)),
        "colors": 0.3 * normal(count, 16, 3),
    }
    return {name: value.requires_grad_() for name, value in parameters.items()}


def functional(parameters: dict[str, Tensor], size: int, *, check: bool) -> Callable[[], None]:
    """One step of the functional API, gradients of the last one thrown away first, as optimisers do."""
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = 4.0
    intrinsics = torch.tensor([[[size, 0.0, size / 2], [0.0, size, size / 2], [0.0, 0.0, 1.0]]])
    gradient = _image_gradient(size)

    def call() -> None:
        for value in parameters.values():
            value.grad = None
        image, _, _ = rasterization(
            **parameters, viewmats=pose, Ks=intrinsics, width=size, height=size, sh_degree=3, check=check
        )
        image.backward(gradient)

    return call


def kernels_alone(parameters: dict[str, Tensor], size: int) -> Callable[[], None]:
    """The kernels of one step, on blocks and buffers that are there."""
    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    logits = torch.logit(parameters["opacities"].detach()).numpy()
    blocks = pack(arrays["means"], arrays["quats"], np.log(arrays["scales"]), logits, arrays["colors"])
    pose = np.eye(4)
    pose[2, 3] = 4.0
    view = View(pose, size, size, size / 2, size / 2, size, size)
    records, radii = aligned_zeros((len(blocks) * 16, 16)), aligned_zeros((len(blocks) * 16,))
    gradients, work = aligned_zeros(blocks.shape), Workspace()
    v_image = np.ascontiguousarray(_image_gradient(size)[0].permute(2, 0, 1).numpy())

    def call() -> None:
        project_forward(blocks, view, 3, records, radii)
        tiles = bin_splats(records, size, size, work)
        raster = rasterize_forward(records, tiles, work)
        back = rasterize_backward(records, tiles, raster, work, v_image)
        project_backward(blocks, view, 3, records, back.rows, gradients, touched=back.touched)

    return call


def _image_gradient(size: int) -> Tensor:
    return torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(1))


def _times(calls: dict[str, Callable[[], None]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 2):
        for name, call in calls.items():
            began = read_clock(clock)
            call()
            if i >= 2:
                times[name].append(1e3 * (read_clock(clock) - began))
    return times


if __name__ == "__main__":
    main()
