"""Clouds of Gaussians as splat files hold them, pictures of them, and how alike two clouds are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studio.export.gaussians import SH_C0, GaussianCloud
from studio_splat import rasterization


def ball_cloud(count: int = 600, degree: int = 3, seed: int = 0) -> GaussianCloud:
    """Coloured, mostly solid Gaussians in a ball of radius about 1; coefficients above degree 0 within [-1, 1]."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    base = (torch.rand(count, 1, 3, generator=random) - 0.5) / SH_C0
    return GaussianCloud(
        means=0.5 * normal(count, 3),
        quats=normal(count, 4) * torch.exp(normal(count, 1)),
        log_scales=math.log(0.05) + 0.5 * normal(count, 3),
        logit_opacities=1.0 + 1.5 * normal(count),
        sh=torch.cat([base, (0.1 * normal(count, (degree + 1) ** 2 - 1, 3)).clamp(-0.99, 0.99)], dim=1),
    )


def picture(cloud: GaussianCloud, *, angle: float = 0.5, size: int = 128) -> Tensor:
    """A view (size, size, 3) on white of the whole of a cloud that stands along y, by the studio's rasteriser."""
    centre = cloud.means.median(dim=0).values
    distance = (cloud.means - centre).norm(dim=1).kthvalue(max(int(0.98 * len(cloud)), 1)).values.clamp(min=1e-3)
    eye = centre + 2.5 * distance * torch.tensor([math.sin(angle), -0.2, math.cos(angle)])
    forward = torch.nn.functional.normalize(centre - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, -1.0, 0.0])), dim=0)
    view = torch.eye(4)
    view[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    view[:3, 3] = -view[:3, :3] @ eye
    focal = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]])
    images, _, _ = rasterization(
        cloud.means,
        cloud.quats,
        cloud.log_scales.exp(),
        cloud.logit_opacities.sigmoid(),
        cloud.sh,
        view[None],
        focal[None],
        size,
        size,
        sh_degree=cloud.sh_degree,
        backgrounds=torch.ones(1, 3),
    )
    return images[0].clamp(0, 1)


def nearest(cloud: GaussianCloud, points: Tensor) -> Tensor:
    """For each point the index of the Gaussian whose centre is nearest."""
    from scipy.spatial import cKDTree

    return torch.from_numpy(cKDTree(cloud.means.numpy()).query(points.numpy())[1])


def same_turn(a: Tensor, b: Tensor) -> Tensor:
    """Angles (n) in radians between the orientations of quaternions of any length."""
    a, b = (torch.nn.functional.normalize(q.double(), dim=1) for q in (a, b))
    # By the distance: the arc cosine is blunt near 1.
    return 4 * (torch.minimum((a - b).norm(dim=1), (a + b).norm(dim=1)) / 2).asin()
