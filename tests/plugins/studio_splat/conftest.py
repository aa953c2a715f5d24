"""Random scenes that several tests of the splat plugin render."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

Scene = dict[str, Any]


def _make_scene(
    n: int = 40,
    *,
    seed: int = 0,
    cameras: int = 1,
    sh_degree: int | None = None,
    channels: int = 3,
    width: int = 37,
    height: int = 27,
    dtype: torch.dtype = torch.float64,
) -> Scene:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    axes, _ = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + 0.1 * normal(cameras, 3, 3))
    # QR leaves the signs of the columns open; near the identity a positive diagonal makes it a small rotation.
    viewmats[:, :3, :3] = axes * torch.diagonal(axes, dim1=1, dim2=2).sign()[:, None, :]
    viewmats[:, :3, 3] = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64) + 0.2 * normal(cameras, 3)
    intrinsics = torch.tensor([[40.0, 0, 0.48 * width], [0, 42.0, 0.53 * height], [0, 0, 1]], dtype=torch.float64)
    colors = torch.sigmoid(normal(n, channels)) if sh_degree is None else 0.4 * normal(n, (sh_degree + 1) ** 2, 3)
    scene: Scene = {
        "means": normal(n, 3),
        "quats": normal(n, 4),
        "scales": (0.5 * normal(n, 3) - 1.8).exp(),
        "opacities": torch.sigmoid(normal(n)),
        "colors": colors,
        "viewmats": viewmats,
        "Ks": intrinsics.repeat(cameras, 1, 1),
        "backgrounds": torch.rand(cameras, colors.shape[-1], generator=generator, dtype=torch.float64),
        "sh_degree": sh_degree,
        "width": width,
        "height": height,
    }
    return {key: value.to(dtype) if isinstance(value, torch.Tensor) else value for key, value in scene.items()}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Kernels and torch on one thread: on pictures this small, waiting for a second one takes longer than the work."""
    from studio.kernels import cache

    before = cache.get_threads(), torch.get_num_threads()
    cache.set_threads(1)
    torch.set_num_threads(1)
    yield
    cache.set_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """Makes the keyword arguments of `rasterization`: Gaussians around the origin and cameras that see them."""
    return _make_scene
