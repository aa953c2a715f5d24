"""The textbook reference: hand-computed values, identities, finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, lpmv

from studio_splat import reference

F64 = torch.float64


def camera(width: int = 40, height: int = 30, focal: float = 35.0) -> torch.Tensor:
    return torch.tensor([[focal, 0, width / 2], [0, 1.1 * focal, height / 2 - 1], [0, 0, 1]], dtype=F64)


def pose(seed: int = 0) -> torch.Tensor:
    """A world-to-camera matrix that looks at the origin from about 4 units away."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.eye(4, dtype=F64)
    quat = torch.tensor([1.0, 0, 0, 0], dtype=F64) + 0.3 * torch.randn(4, generator=generator, dtype=F64)
    out[:3, :3] = reference.quaternion_to_rotation(quat)
    out[:3, 3] = torch.tensor([0.1, -0.2, 4.0], dtype=F64)
    return out


def gaussians(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    return {
        "means": normal(n, 3),
        "quats": normal(n, 4),
        "scales": (normal(n, 3) * 0.5 - 2).exp(),
        "opacities": torch.sigmoid(normal(n)),
        "colors": torch.sigmoid(normal(n, 3)),
    }


def test_rotation_of_a_quarter_turn_about_z() -> None:
    half = math.sqrt(0.5)
    got = reference.quaternion_to_rotation(torch.tensor([3 * half, 0, 0, 3 * half], dtype=F64))
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=F64)
    torch.testing.assert_close(got, expected, atol=1e-15, rtol=0)


def test_covariance_has_squared_scales_as_eigenvalues() -> None:
    g = gaussians(50)
    eigenvalues = torch.linalg.eigvalsh(reference.covariance(g["quats"], g["scales"]))
    torch.testing.assert_close(eigenvalues, (g["scales"] ** 2).sort(-1).values, rtol=1e-10, atol=0)


def _harmonic(degree: int, order: int, directions: np.ndarray) -> np.ndarray:
    """Real spherical harmonic from associated Legendre functions, independent of any polynomial form."""
    theta = np.arccos(directions[:, 2])
    phi = np.arctan2(directions[:, 1], directions[:, 0])
    m = abs(order)
    norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
    if order == 0:
        return norm * eval_legendre(degree, np.cos(theta))
    # scipy's associated Legendre functions carry the Condon-Shortley sign, as the stored coefficients expect.
    trig = np.cos(m * phi) if order > 0 else np.sin(m * phi)
    return math.sqrt(2) * norm * lpmv(m, degree, np.cos(theta)) * trig


def test_spherical_harmonics_are_the_real_harmonics_up_to_degree_4() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3))
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    for index, (degree, order) in enumerate([(d, m) for d in range(5) for m in range(-d, d + 1)]):
        coefficients = torch.zeros(200, 25, 1, dtype=F64)
        coefficients[:, index] = 1
        got = reference.spherical_harmonics(4, torch.from_numpy(directions), coefficients)[:, 0].numpy()
        np.testing.assert_allclose(got, _harmonic(degree, order, unit), atol=1e-12, err_msg=f"l={degree} m={order}")


def test_lower_degree_ignores_the_higher_coefficients() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(20, 25, 3, generator=generator, dtype=F64)
    directions = torch.randn(20, 3, generator=generator, dtype=F64)
    for degree in range(5):
        masked = coefficients.clone()
        masked[:, (degree + 1) ** 2 :] = 0
        torch.testing.assert_close(
            reference.spherical_harmonics(degree, directions, coefficients),
            reference.spherical_harmonics(4, directions, masked),
        )
    with pytest.raises(ValueError, match="0 to 4"):
        reference.spherical_harmonics(5, directions, coefficients)


def test_projection_of_a_sphere_on_the_axis() -> None:
    covar = 0.1**2 * torch.eye(3, dtype=F64)[None]
    K = camera()
    got = reference.project(
        torch.zeros(1, 3, dtype=F64), covar, _translation(0, 0, 4.0), K, 40, 30, eps2d=0.3, camera_model="pinhole"
    )
    sx, sy = (35.0 * 0.1 / 4) ** 2, (38.5 * 0.1 / 4) ** 2
    torch.testing.assert_close(got.means2d, torch.tensor([[20.0, 14.0]], dtype=F64))
    torch.testing.assert_close(got.conics, torch.tensor([[1 / (sx + 0.3), 0.0, 1 / (sy + 0.3)]], dtype=F64))
    torch.testing.assert_close(got.depths, torch.tensor([4.0], dtype=F64))
    expected = math.sqrt(sx * sy / ((sx + 0.3) * (sy + 0.3)))
    torch.testing.assert_close(got.compensations, torch.tensor([expected], dtype=F64))


def _translation(x: float, y: float, z: float) -> torch.Tensor:
    out = torch.eye(4, dtype=F64)
    out[:3, 3] = torch.tensor([x, y, z], dtype=F64)
    return out


@pytest.mark.parametrize("model", ["pinhole", "ortho", "fisheye"])
def test_jacobian_is_the_derivative_of_the_projection(model: reference.CameraModel) -> None:
    """For points inside the field of view, the covariance comes from the true derivative of the projected centre."""
    K = camera()
    points = torch.tensor(
        [[0.3, -0.2, 2.0], [0.0, 0.0, 1.0], [1e-4, 2e-5, 1.5], [-0.6, 0.3, 2.2], [0.01, 0.01, 1.0001]], dtype=F64
    )
    generator = torch.Generator().manual_seed(3)
    factor = torch.randn(len(points), 3, 3, generator=generator, dtype=F64) * 0.1
    covars = factor @ factor.transpose(1, 2)

    def centre(p: torch.Tensor) -> torch.Tensor:
        return reference.project(p[None], covars[:1], _translation(0, 0, 0), K, 40, 30, camera_model=model).means2d[0]

    got = reference.project(points, covars, _translation(0, 0, 0), K, 40, 30, eps2d=0.0, camera_model=model)
    for i, point in enumerate(points):
        jacobian = torch.autograd.functional.jacobian(centre, point)
        torch.testing.assert_close(got.covars2d[i], jacobian @ covars[i] @ jacobian.T, rtol=1e-7, atol=1e-9)


def test_fisheye_radius_is_proportional_to_the_angle() -> None:
    angles = torch.tensor([0.0, 1e-6, 0.0099, 0.0101, 0.5, 1.2, 1.5], dtype=F64)
    points = torch.stack([angles.sin(), torch.zeros_like(angles), angles.cos()], -1)
    covars = torch.eye(3, dtype=F64).expand(len(angles), 3, 3)
    got = reference.project(points, covars, torch.eye(4, dtype=F64), camera(), 40, 30, camera_model="fisheye")
    torch.testing.assert_close(got.means2d[:, 0] - 20, 35 * angles, atol=1e-12, rtol=1e-12)


def test_jacobian_is_clamped_far_to_the_side_but_the_centre_is_not() -> None:
    """At 10x the half field of view the splat keeps the size that it has 0.3 half fields outside the image."""
    K = torch.tensor([[40.0, 0, 20], [0, 40.0, 20], [0, 0, 1]], dtype=F64)
    covars = (0.01 * torch.eye(3, dtype=F64)).expand(2, 3, 3)
    points = torch.tensor([[10 * 0.5, 0, 1], [1.3 * 0.5, 0, 1]], dtype=F64)
    got = reference.project(points, covars, torch.eye(4, dtype=F64), K, 40, 40)
    torch.testing.assert_close(got.covars2d[0], got.covars2d[1])
    torch.testing.assert_close(got.means2d[:, 0], torch.tensor([220.0, 46.0], dtype=F64))


def test_radii_by_hand() -> None:
    """sigma = 2 px: an opaque splat reaches 2 sqrt(2 ln 255) = 6.66 px, one of opacity 0.02 reaches 3.6 px."""
    n = 8
    covars2d = (4.0 * torch.eye(2, dtype=F64)).repeat(n, 1, 1)
    means2d = torch.tensor([[10.0, 10.0]], dtype=F64).repeat(n, 1)
    depths = torch.full((n,), 2.0, dtype=F64)
    opacities = torch.ones(n, dtype=F64)
    opacities[1], opacities[2] = 0.02, 1 / 255 - 1e-9
    depths[3], depths[4] = 0.0099, 101.0
    means2d[5, 0], means2d[6, 0] = -6.9, -7.0
    covars2d[7] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    projection = reference.Projection(means2d, covars2d, torch.zeros(n, 3), depths, torch.ones(n))
    got = reference.splat_radii(projection, opacities, 20, 20, near_plane=0.01, far_plane=100.0)
    assert got.tolist() == [[7, 7], [4, 4], [0, 0], [0, 0], [0, 0], [7, 7], [0, 0], [0, 0]]
    clipped = reference.splat_radii(projection, opacities, 20, 20, near_plane=0.01, far_plane=100.0, radius_clip=4.0)
    assert clipped.tolist() == [[7, 7], [0, 0], [0, 0], [0, 0], [0, 0], [7, 7], [0, 0], [0, 0]]


def _one_pixel(opacities: list[float], depths: list[float], background: float = 0.0) -> reference.Composite:
    """Splats whose peak is exactly at the centre of a one-pixel image; feature i is the one-hot of splat i."""
    n = len(opacities)
    return reference.composite(
        torch.full((n, 2), 0.5, dtype=F64),
        torch.tensor([[1.0, 0, 1.0]], dtype=F64).repeat(n, 1),
        torch.tensor(opacities, dtype=F64),
        torch.eye(n, dtype=F64),
        torch.tensor(depths, dtype=F64),
        1,
        1,
        background=torch.full((n,), background, dtype=F64),
    )


def test_weights_by_hand() -> None:
    got = _one_pixel([0.5, 0.25, 0.8], [1.0, 2.0, 3.0], background=2.0)
    light = 0.5 * 0.75 * 0.2
    expected = torch.tensor([0.5, 0.5 * 0.25, 0.5 * 0.75 * 0.8], dtype=F64) + 2.0 * light
    torch.testing.assert_close(got.features[0, 0], expected)
    torch.testing.assert_close(got.alphas[0, 0], torch.tensor([1 - light], dtype=F64))
    assert got.median_depths.item() == 1.0


def test_depth_order_and_index_tie_break() -> None:
    got = _one_pixel([0.5, 0.5, 0.5], [2.0, 1.0, 2.0])
    torch.testing.assert_close(got.features[0, 0], torch.tensor([0.25, 0.5, 0.125], dtype=F64))


def test_alpha_threshold_and_clamp() -> None:
    below, above = 1 / 255 - 1e-12, 1 / 255 + 1e-12
    assert _one_pixel([below], [1.0]).alphas.item() == 0.0
    assert _one_pixel([above], [1.0]).alphas.item() == pytest.approx(1 / 255, rel=1e-9)
    assert _one_pixel([1.0], [1.0]).alphas.item() == pytest.approx(0.999, rel=1e-14)


def test_a_pixel_stops_before_the_splat_that_takes_its_light_below_one_in_ten_thousand() -> None:
    """0.001 is left behind the clamped first splat; one of alpha above 0.9 and all behind it count nothing."""
    got = _one_pixel([1.0, 0.9001, 0.5], [1.0, 2.0, 3.0])
    assert got.features[0, 0].tolist() == pytest.approx([0.999, 0.0, 0.0], rel=1e-12)
    got = _one_pixel([1.0, 0.89, 0.01], [1.0, 2.0, 3.0])
    assert got.features[0, 0].tolist() == pytest.approx([0.999, 0.00089, 0.00011 * 0.01], rel=1e-9)


def test_median_depth_is_where_half_of_the_light_is_gone() -> None:
    assert _one_pixel([0.3, 0.3, 0.3], [1.0, 2.0, 3.0]).median_depths.item() == 2.0
    assert _one_pixel([0.3, 0.0, 0.3], [1.0, 2.0, 3.0]).median_depths.item() == 3.0
    assert _one_pixel([0.6, 0.9], [1.0, 2.0]).median_depths.item() == 1.0
    # More than half of the light is left behind the last splat.
    assert _one_pixel([0.2, 0.2], [1.0, 2.0]).median_depths.item() == 0.0
    assert _one_pixel([0.001], [1.0]).median_depths.item() == 0.0


def test_no_splats_show_the_background() -> None:
    empty = torch.zeros(0, 2, dtype=F64)
    got = reference.composite(
        empty, empty.new_zeros(0, 3), empty[:, 0], empty.new_zeros(0, 2), empty[:, 0], 3, 2,
        background=torch.tensor([0.25, 0.5], dtype=F64),
    )  # fmt: skip
    assert got.features.shape == (2, 3, 2)
    assert (got.features == torch.tensor([0.25, 0.5], dtype=F64)).all()
    assert (got.alphas == 0).all()


def _render(g: dict[str, torch.Tensor], viewmat: torch.Tensor, model: reference.CameraModel) -> torch.Tensor:
    covars = reference.covariance(g["quats"], g["scales"])
    p = reference.project(g["means"], covars, viewmat, camera(12, 9, 10.0), 12, 9, camera_model=model)
    out = reference.composite(
        p.means2d, p.conics, g["opacities"] * p.compensations, g["colors"], p.depths, 12, 9, background=g["background"]
    )
    return torch.cat([out.features, out.alphas], -1)


@pytest.mark.parametrize("model", ["pinhole", "ortho", "fisheye"])
def test_gradients_agree_with_finite_differences(model: reference.CameraModel) -> None:
    """Away from the thresholds: soft splats that cover the whole tiny image, alpha well below the clamp."""
    g = gaussians(4, seed=1)
    g["scales"] = g["scales"] * 0 + torch.tensor([1.5, 2.0, 1.2], dtype=F64)
    g["opacities"] = torch.tensor([0.7, 0.5, 0.6, 0.4], dtype=F64)
    g["means"] = 0.3 * g["means"]
    g["background"] = torch.tensor([0.2, 0.5, 0.7], dtype=F64)
    names = sorted(g)

    def run(viewmat: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return _render(dict(zip(names, tensors, strict=True)), viewmat, model)

    inputs = [pose(), *(g[name] for name in names)]
    assert torch.autograd.gradcheck(run, [t.clone().requires_grad_() for t in inputs], fast_mode=True)


def test_chunks_change_neither_image_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for pairs in (10**9, 100):
        monkeypatch.setattr(reference, "_PAIRS_PER_CHUNK", pairs)
        g = {k: v.requires_grad_() for k, v in gaussians(20, seed=2).items()}
        g["background"] = torch.ones(3, dtype=F64)
        absgrad = torch.zeros(20, 2, dtype=F64)
        p = reference.project(
            g["means"], reference.covariance(g["quats"], g["scales"]), pose(), camera(12, 9, 10.0), 12, 9
        )
        out = reference.composite(p.means2d, p.conics, g["opacities"], g["colors"], p.depths, 12, 9, absgrad=absgrad)
        (out.features**2).sum().backward()
        results.append([out.features.detach(), out.median_depths, absgrad, *(g[k].grad for k in ("means", "scales"))])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-10, atol=1e-14)


def test_absolute_gradients_by_hand() -> None:
    """Two pixels beside a splat pull in opposite directions: the gradient cancels, the absolute one does not."""
    means2d = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    absgrad = torch.zeros(1, 2, dtype=F64)
    conics, opacity = torch.tensor([[2.0, 0, 1.0]], dtype=F64), torch.tensor([0.5], dtype=F64)
    out = reference.composite(
        means2d, conics, opacity, torch.ones(1, 1, dtype=F64), torch.ones(1, dtype=F64), 2, 1, absgrad=absgrad
    )
    out.features.sum().backward()
    # alpha = 0.5 exp(-0.25); |d alpha / dx| = alpha * 2 * 0.5 at both pixels.
    expected = 2 * 0.5 * math.exp(-0.25)
    torch.testing.assert_close(means2d.grad, torch.zeros(1, 2, dtype=F64))
    torch.testing.assert_close(absgrad, torch.tensor([[expected, 0.0]], dtype=F64))


def test_clamped_alpha_passes_no_gradient() -> None:
    opacity = torch.tensor([1.0], dtype=F64, requires_grad=True)
    one = torch.ones(1, 1, dtype=F64)
    out = reference.composite(
        0.5 * torch.ones(1, 2, dtype=F64), torch.tensor([[1.0, 0, 1.0]], dtype=F64), opacity, one, one[0], 1, 1
    )
    out.alphas.sum().backward()
    assert opacity.grad is not None
    assert opacity.grad.item() == 0.0
