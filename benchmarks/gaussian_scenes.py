"""Sets of Gaussians to measure on: trained ones, denser copies of them, and the points of a real garden.

Parameters are named and shaped as `studio_splat.engine.Engine.load` takes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.gaussians import SH_C0
from studio.training.start import Prepared, TrainOptions, prepare
from studio_splat.config import SplatConfig
from studio_splat.kernels.layout import morton_order, pack
from studio_splat.reference import quaternion_to_rotation

Parameters = dict[str, Tensor]


def train(data: Path, gaussians: int, steps: int, options: TrainOptions) -> Prepared:
    """A short training towards a number of Gaussians, at full photo size from the first step."""
    settings = SplatConfig(steps=steps, max_gaussians=gaussians, gaussians_per_step=0, coarse_levels=0, refine_stop=0.7)
    job = prepare("splat", data, settings, options)
    job.train()
    return job


def denser(parameters: Parameters, count: int, seed: int = 0) -> Parameters:
    """Each Gaussian replaced by k or k + 1 that together fill its place: drawn from it, with 1 / k of its volume."""
    generator = torch.Generator().manual_seed(seed)
    n = len(parameters["means"])
    copies = count / n
    source = torch.arange(count) * n // count
    split = {name: values[source] for name, values in parameters.items()}
    offsets = torch.randn(count, 3, generator=generator) * split["scales"].exp()
    rotations = quaternion_to_rotation(split["quats"])
    split["means"] = split["means"] + torch.einsum("nij,nj->ni", rotations, offsets)
    split["scales"] = split["scales"] - np.log(copies) / 3
    order = torch.from_numpy(morton_order(split["means"].numpy()))
    return {name: values[order].contiguous() for name, values in split.items()}


def garden(path: Path, seed: int = 0) -> tuple[Parameters, Cameras]:
    """The coloured points of a real garden as Gaussians of random shape and opacity, and the cameras of its photos.

    Raises:
        StudioError: The file is not there.
    """
    if not path.is_file():
        raise StudioError(f"{path}: there is no such file.", fix="Set STUDIO_DATA to the folder of the real data.")
    with np.load(path) as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    generator = torch.Generator().manual_seed(seed)
    means = arrays["means3d"].float()
    n = len(means)
    parameters = {
        "means": means,
        "quats": torch.randn(n, 4, generator=generator),
        "scales": (0.02 * torch.rand(n, 3, generator=generator)).clamp_min(1e-4).log(),
        "opacities": torch.logit(torch.rand(n, generator=generator), eps=1e-4),
        "sh0": ((arrays["colors"].float() / 255 - 0.5) / SH_C0)[:, None],
        "shN": torch.zeros(n, 15, 3),
    }
    order = torch.from_numpy(morton_order(means.numpy()))
    intrinsics = arrays["Ks"].float()
    views = len(intrinsics)
    cameras = Cameras(
        torch.linalg.inv(arrays["viewmats"].double()).float(),
        intrinsics[:, 0, 0],
        intrinsics[:, 1, 1],
        intrinsics[:, 0, 2],
        intrinsics[:, 1, 2],
        torch.full((views,), int(arrays["width"])),
        torch.full((views,), int(arrays["height"])),
    )
    return {name: values[order].contiguous() for name, values in parameters.items()}, cameras


def blocks_of(parameters: Parameters) -> np.ndarray:
    """The kernels' layout of the parameters."""
    arrays = {name: values.numpy() for name, values in parameters.items()}
    sh = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)
    return pack(arrays["means"], arrays["quats"], arrays["scales"], arrays["opacities"], sh)
