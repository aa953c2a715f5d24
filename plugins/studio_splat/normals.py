"""Normals of Gaussians: a flat one stands for a piece of surface across its shortest axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio_splat.strategy.base import rotation_matrices


def facing_normals(params: Mapping[str, Tensor], camera: Cameras) -> Float[Tensor, "n 3"]:
    """Each Gaussian's shortest axis, turned towards the camera: unit, world frame.

    Args:
        params: means, quats and scales (log) before activation.
        camera: Batch shape (), on the parameters' device.
    """
    means, shortest = params["means"], params["scales"].argmin(dim=-1)
    axes = rotation_matrices(params["quats"]).gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    pose = camera.camera_to_world.to(means)
    away = pose[:3, 2].expand_as(axes) if camera.model == "orthographic" else means - pose[:3, 3]
    return torch.where((axes * away).sum(dim=-1, keepdim=True) > 0, -axes, axes)
