"""Gaussian splatting against gsplat's own torch implementation, and compositing as its `accumulate` does it."""

from __future__ import annotations

import math
from typing import Any

import nerfacc
import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat
from torch import Tensor

from studio_splat import functional, reference

MODELS = ("pinhole", "ortho", "fisheye")
SIZE = (48, 36)


def scene(seed: int, n: int = 60, model: str = "pinhole") -> dict[str, Tensor]:
    """Gaussians before a camera that is turned and moved, float64."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    means = normal(n, 3) * torch.tensor([0.9, 0.7, 0.8], dtype=torch.float64)
    rotation = reference.quaternion_to_rotation(torch.tensor([1.0, 0.06, -0.09, 0.04], dtype=torch.float64) + 0)
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 4.0], dtype=torch.float64)
    focal = 12.0 if model == "ortho" else 40.0
    intrinsics = torch.tensor([[focal, 0, 25.0], [0, focal * 1.1, 17.0], [0, 0, 1]], dtype=torch.float64)
    return {
        "means": means,
        "quats": normal(n, 4),
        "scales": (0.5 * normal(n, 3) - 2.0).exp(),
        "opacities": torch.rand(n, generator=g, dtype=torch.float64) * 0.95 + 0.02,
        "sh": 0.4 * normal(n, 25, 3),
        "viewmat": viewmat,
        "K": intrinsics,
    }


def theirs_projected(s: dict[str, Tensor], model: str) -> tuple[Tensor, ...]:
    covars, _ = gsplat._quat_scale_to_covar_preci(s["quats"], s["scales"], compute_preci=False)
    return gsplat._fully_fused_projection(
        s["means"], covars, s["viewmat"][None], s["K"][None], *SIZE, calc_compensations=True, camera_model=model
    )


@pytest.mark.parametrize("seed", range(4))
def test_covariances(seed: int) -> None:
    s = scene(seed)
    theirs, _ = gsplat._quat_scale_to_covar_preci(s["quats"], s["scales"], compute_preci=False)
    torch.testing.assert_close(reference.covariance(s["quats"], s["scales"]), theirs, atol=1e-13, rtol=1e-11)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_projection_and_its_gradient(model: str, seed: int) -> None:
    """Centres, conics, depths, compensations, and what flows back from them to means, quaternions and scales."""
    s = scene(seed, model=model)
    g = torch.Generator().manual_seed(100 + seed)
    weights = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((60, 2), (60, 3), (60,), (60,))]

    def run(ours: bool) -> tuple[list[Tensor], list[Tensor]]:
        leaves = {k: s[k].clone().requires_grad_() for k in ("means", "quats", "scales")}
        if ours:
            covars = reference.covariance(leaves["quats"], leaves["scales"])
            p = reference.project(leaves["means"], covars, s["viewmat"], s["K"], *SIZE, camera_model=model)  # type: ignore[arg-type]
            parts = [p.means2d, p.conics, p.depths, p.compensations]
        else:
            _, means2d, depths, conics, compensations = theirs_projected({**s, **leaves}, model)
            parts = [means2d[0], conics[0], depths[0], compensations[0]]
        total = sum((w * part).sum() for w, part in zip(weights, parts, strict=True))
        return parts, list(torch.autograd.grad(total, list(leaves.values())))  # type: ignore[arg-type]

    (our_parts, our_gradients), (parts, gradients) = run(ours=True), run(ours=False)
    for mine, their in zip([*our_parts, *our_gradients], [*parts, *gradients], strict=True):
        # gsplat adds 1e-7 to a radius of the fisheye to divide by it.
        bound = 3e-6 if model == "fisheye" else 1e-9
        torch.testing.assert_close(mine, their, atol=bound * max(1.0, float(their.abs().max())), rtol=0)


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("seed", range(2))
def test_spherical_harmonics(degree: int, seed: int) -> None:
    s = scene(seed)
    theirs = gsplat._spherical_harmonics(degree, s["means"], s["sh"])
    ours = reference.spherical_harmonics(degree, s["means"], s["sh"])
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def theirs_rendered(s: dict[str, Tensor], model: str, features: Tensor, antialiased: bool) -> tuple[Tensor, Tensor]:
    """gsplat's projection, its alphas (the formula of `accumulate`), and nerfacc's weights along each pixel's list.

    Both leave the packed weights to a CUDA extension, so each pixel gets the list of all Gaussians by depth; those
    that gsplat's kernel skips, by its constants 1/255 and 1e-4, have alpha 0 in it.
    """
    radii, means2d, depths, conics, compensations = (t[0] for t in theirs_projected(s, model))
    order = depths.argsort(stable=True)
    order = order[(radii[order] > 0).all(-1)]
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in SIZE[::-1]), indexing="ij")
    delta = torch.stack([x, y], -1).reshape(-1, 1, 2) - means2d[order]
    c = conics[order]
    sigma = (
        0.5 * (c[:, 0] * delta[..., 0] ** 2 + c[:, 2] * delta[..., 1] ** 2) + c[:, 1] * delta[..., 0] * delta[..., 1]
    )
    opacities = (s["opacities"] * compensations if antialiased else s["opacities"])[order]
    alphas = torch.clamp_max(opacities * torch.exp(-sigma), 0.999)
    alphas = torch.where(alphas < 1 / 255, 0.0, alphas)
    after = torch.cumprod(1 - alphas, -1)
    alphas = torch.where(after <= 1e-4, 0.0, alphas)  # what lies behind is below the bound, too
    weights, _ = nerfacc.render_weight_from_alpha(alphas)
    image = (weights[..., None] * features[order]).sum(1)
    return image.reshape(*SIZE[::-1], -1), weights.sum(-1).reshape(*SIZE[::-1], 1)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_pictures(backend: Any, model: Any, antialiased: bool) -> None:
    """The whole way from Gaussians to pixels, by the plain reference and by the compiled kernels."""
    for seed in range(3):
        s = scene(seed, model=model)
        centre = -s["viewmat"][:3, :3].T @ s["viewmat"][:3, 3]
        colors = (gsplat._spherical_harmonics(3, s["means"] - centre, s["sh"][:, :16]) + 0.5).clamp_min(0)
        expected, alphas = theirs_rendered(s, model, colors, antialiased)
        dtype = torch.float64 if backend == "reference" else torch.float32
        image, alpha, _ = functional.rasterization(
            *(s[k].to(dtype) for k in ("means", "quats", "scales", "opacities")),
            s["sh"][:, :16].to(dtype),
            s["viewmat"][None].to(dtype),
            s["K"][None].to(dtype),
            *SIZE,
            sh_degree=3,
            rasterize_mode="antialiased" if antialiased else "classic",
            camera_model=model,
            backend=backend,
        )
        # In float32 a splat at the threshold of 1/255 may fall to the other side of it.
        # gsplat adds 1e-7 to a radius of the fisheye to divide by it.
        bound = (1e-6 if model == "fisheye" else 1e-9) if backend == "reference" else 2.1 / 255
        assert float((image[0].double() - expected).abs().max()) < bound * max(1.0, float(colors.max()))
        assert float((alpha[0].double() - alphas).abs().max()) < bound
        assert float((image[0].double() - expected).abs().mean()) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_pictures(seed: int) -> None:
    """d(sum of weights times pixels) by autograd through gsplat's formulas, and by our compiled backward kernels."""
    s = scene(seed, n=25)
    # No splat near a threshold, where one side's gradient is zero and the other's is not.
    s["opacities"] = s["opacities"] * 0.5 + 0.3
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randn(*SIZE[::-1], 3, generator=g, dtype=torch.float64)
    features = torch.rand(25, 3, generator=g, dtype=torch.float64)
    names = ("means", "quats", "scales", "opacities")

    leaves = {k: s[k].clone().requires_grad_() for k in names}
    (theirs_rendered({**s, **leaves}, "pinhole", features, False)[0] * pixels).sum().backward()
    mine = {k: s[k].float().requires_grad_() for k in names}
    image, _, _ = functional.rasterization(
        *mine.values(), features.float(), s["viewmat"][None].float(), s["K"][None].float(), *SIZE, backend="cpu"
    )
    (image[0] * pixels.float()).sum().backward()
    for name in names:
        expected, got = leaves[name].grad, mine[name].grad
        assert expected is not None
        assert got is not None
        assert float((got.double() - expected).norm() / expected.norm()) < 0.02, name
        assert math.isclose(float((got.double() * expected).sum() / expected.square().sum()), 1.0, abs_tol=0.01)
