"""The ray-marching engine against nerfacc's functions in plain torch."""

from __future__ import annotations

import nerfacc
import pytest
import torch
from nerfacc import cameras as their_cameras
from nerfacc.estimators.prop_net import _outer
from nerfacc.grid import _ray_aabb_intersect
from nerfacc.pdf import _sample_from_weighted
from torch import Tensor

from studio import marching
from studio.cameras import distortion

CASES = [(5, 8, 0.3), (16, 33, 4.0), (64, 3, 60.0), (1, 40, 1e-4)]
"""Rays, samples, density."""


def rays(seed: int, n: int, samples: int, density: float) -> tuple[Tensor, Tensor, Tensor]:
    """Densities, sorted edges with an interval of no length, and colours, float64."""
    g = torch.Generator().manual_seed(seed)
    edges = torch.rand(n, samples + 1, generator=g, dtype=torch.float64).sort(-1).values * 3 + 0.5
    edges[:, 1] = edges[:, 0]
    sigma = torch.rand(n, samples, generator=g, dtype=torch.float64).pow(3) * density
    return sigma, edges, torch.rand(n, samples, 4, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_weights_opacity_and_colours_with_gradients(case: tuple[int, int, float], seed: int) -> None:
    results = []
    for ours in (True, False):
        sigma, edges, colours = rays(seed, *case)
        sigma.requires_grad_()
        if ours:
            weights = marching.weights_from_density(sigma, edges)
            image, alpha = marching.composite(weights, colours), marching.opacity(weights)
        else:
            weights, _, _ = nerfacc.render_weight_from_density(edges[:, :-1], edges[:, 1:], sigma)
            image = nerfacc.accumulate_along_rays(weights, colours)
            alpha = nerfacc.accumulate_along_rays(weights)[:, 0]
        (gradient,) = torch.autograd.grad((image.square().sum(-1) * (1 + alpha)).sum(), sigma)
        results.append((weights.detach(), image.detach(), alpha.detach(), gradient))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_packed_samples(case: tuple[int, int, float], dtype: torch.dtype) -> None:
    """Each ray its own number of samples, some none; float32 runs the compiled kernels. nerfacc gets one ray a time."""
    sigma, edges, colours = (t.to(dtype) for t in rays(3, *case))
    g = torch.Generator().manual_seed(4)
    counts = torch.randint(0, case[1] + 1, (case[0],), generator=g)
    rows = [slice(0, int(c)) for c in counts]
    flat = [torch.cat([t[i][r] for i, r in enumerate(rows)]) for t in (sigma, edges[:, :-1], edges[:, 1:], colours)]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    samples = marching.PackedSamples(offsets, flat[1], flat[2])
    weights = marching.packed_weights(flat[0], samples)[0]
    image = marching.packed_composite(weights, flat[3], samples)
    for i, row in enumerate(rows):
        theirs, _, _ = nerfacc.render_weight_from_density(edges[i, :-1][row], edges[i, 1:][row], sigma[i][row])
        bound = 1e-12 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(weights[offsets[i] : offsets[i + 1]], theirs, atol=bound, rtol=10 * bound)
        torch.testing.assert_close(
            image[i], (theirs[:, None] * colours[i][row]).sum(0), atol=4 * bound, rtol=10 * bound
        )


@pytest.mark.parametrize("count", [1, 2, 9, 64])
@pytest.mark.parametrize("seed", range(3))
def test_importance_sampling(count: int, seed: int) -> None:
    """Even quantiles of a histogram; nerfacc's last one is an epsilon lower."""
    sigma, edges, _ = rays(seed, 6, 12, 1.0)
    _, theirs = _sample_from_weighted(edges, sigma + 1e-3, count)
    ours = marching.sample_pdf(edges, sigma + 1e-3, count, padding=0.0)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_interlevel_bound(seed: int) -> None:
    """The weight that a proposal allows an interval of the same edges' refinement is nerfacc's outer measure."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.linspace(0, 1, 9, dtype=torch.float64).expand(5, 9)
    # Inner edges within the coarse cells, so that no edge coincides and "overlap" has one meaning.
    fine = torch.cat([coarse[:, :1], (torch.rand(5, 20, generator=g, dtype=torch.float64)).sort(-1).values,
                      coarse[:, -1:]], -1)  # fmt: skip
    allowed = torch.rand(5, 8, generator=g, dtype=torch.float64) * 0.02
    weights = torch.rand(5, 21, generator=g, dtype=torch.float64) * 0.1
    bound = _outer(fine[:, :-1], fine[:, 1:], coarse[:, :-1], coarse[:, 1:], allowed)
    theirs = ((weights - bound).clamp_min(0).square() / weights).sum(-1)
    torch.testing.assert_close(marching.interlevel_loss(fine, weights, coarse, allowed), theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("near_plane", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_rays_and_boxes(seed: int, near_plane: float) -> None:
    g = torch.Generator().manual_seed(seed)
    origins = torch.randn(400, 3, generator=g, dtype=torch.float64) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(400, 3, generator=g, dtype=torch.float64), dim=-1)
    box = torch.tensor([[-1.0, -0.5, -0.8], [0.6, 1.2, 0.9]], dtype=torch.float64)
    near, far, hit = marching.ray_box(origins, directions, box, near_plane=near_plane)
    t_near, t_far, hits = (
        t[:, 0] for t in _ray_aabb_intersect(origins, directions, box.reshape(1, 6), near_plane=near_plane)
    )
    # Theirs also counts a box that ends before the near plane as hit, with an interval of no length.
    hits = hits & (t_far > t_near)
    assert torch.equal(hit, hits)
    assert 20 < int(hits.sum()) < 380
    torch.testing.assert_close(near[hit], t_near[hits], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(far[hit], t_far[hits], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "row",
    [
        [0.1, -0.05, 0.002, -0.001, 0.01, 0, 0, 0],
        [-0.3, 0.1, 0, 0, 0, 0, 0, 0],
        [0.2, 0.1, 1e-3, 2e-3, -0.02, 0.3, 0.05, 0.01],
    ],
)
def test_lens_distortion(row: list[float]) -> None:
    g = torch.Generator().manual_seed(0)
    uv = torch.rand(200, 2, generator=g, dtype=torch.float64) * 1.2 - 0.6
    coefficients = torch.tensor(row, dtype=torch.float64)
    theirs = their_cameras._opencv_lens_distortion(uv, coefficients)
    torch.testing.assert_close(distortion.distort(uv, coefficients), theirs, atol=1e-14, rtol=1e-12)
    angles = uv.norm(dim=-1).atan()
    fisheye = their_cameras._opencv_lens_distortion_fisheye(uv, coefficients[:4])
    torch.testing.assert_close(
        distortion.fisheye_distort_angle(angles, coefficients), fisheye.norm(dim=-1), atol=1e-13, rtol=1e-12
    )
