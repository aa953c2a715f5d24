"""The basis against closed forms, and rotation of coefficients against evaluation in rotated directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.export.spherical_harmonics import _spread_directions, rotate_sh, sh_basis, sh_rotation


def closed_form(d: Tensor) -> Tensor:
    """Degrees 0 to 3 in the splat convention, written as polynomials with their exact constants."""
    x, y, z = d.unbind(-1)
    pi = math.pi
    columns = [
        torch.full_like(x, math.sqrt(1 / (4 * pi))),
        -math.sqrt(3 / (4 * pi)) * y,
        math.sqrt(3 / (4 * pi)) * z,
        -math.sqrt(3 / (4 * pi)) * x,
        math.sqrt(15 / (4 * pi)) * x * y,
        -math.sqrt(15 / (4 * pi)) * y * z,
        math.sqrt(5 / (16 * pi)) * (2 * z * z - x * x - y * y),
        -math.sqrt(15 / (4 * pi)) * x * z,
        math.sqrt(15 / (16 * pi)) * (x * x - y * y),
        -math.sqrt(35 / (32 * pi)) * y * (3 * x * x - y * y),
        math.sqrt(105 / (4 * pi)) * x * y * z,
        -math.sqrt(21 / (32 * pi)) * y * (4 * z * z - x * x - y * y),
        math.sqrt(7 / (16 * pi)) * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -math.sqrt(21 / (32 * pi)) * x * (4 * z * z - x * x - y * y),
        math.sqrt(105 / (16 * pi)) * z * (x * x - y * y),
        -math.sqrt(35 / (32 * pi)) * x * (x * x - 3 * y * y),
    ]
    return torch.stack(columns, dim=-1)


def random_directions(count: int, seed: int = 0) -> Tensor:
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def random_rotation(seed: int) -> Tensor:
    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, _ = torch.linalg.qr(values)
    return q * torch.linalg.det(q).sign()


def test_basis_equals_the_closed_form() -> None:
    directions = torch.cat(
        [random_directions(500), torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]
    )
    torch.testing.assert_close(sh_basis(directions, 3), closed_form(directions), atol=1e-14, rtol=0)
    # The constants as splat renderers print them.
    east = sh_basis(torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64), 2)[0]
    expected = [0.28209479177387814, 0.0, 0.4886025119029199 * 0.8, -0.4886025119029199 * 0.6, 0.0, 0.0]
    expected += [0.31539156525252005 * (2 * 0.64 - 0.36), -1.0925484305920792 * 0.48, 0.5462742152960396 * 0.36]
    np.testing.assert_allclose(east.numpy(), expected, atol=1e-14)


def test_degree_four_equals_scipys_complex_harmonics() -> None:
    special = pytest.importorskip("scipy.special")
    d = random_directions(100, seed=1).numpy()
    theta, phi = np.arccos(d[:, 2]), np.arctan2(d[:, 1], d[:, 0])
    expected = []
    for m in range(-4, 5):
        # scipy's functions carry the Condon-Shortley phase; the real ones are sqrt(2) Re, sqrt(2) Im of |m|.
        value = special.sph_harm_y(4, abs(m), theta, phi)
        expected.append(value.real if m == 0 else math.sqrt(2) * (value.real if m > 0 else value.imag))
    np.testing.assert_allclose(sh_basis(torch.from_numpy(d), 4)[:, 16:].numpy().T, expected, atol=1e-13)


def test_basis_is_orthonormal() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * 2 * np.pi / 16
    z, angle = np.meshgrid(nodes, phi, indexing="ij")
    radius = np.sqrt(1 - z**2)
    d = torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1).reshape(-1, 3))
    w = torch.from_numpy(np.repeat(weights, 16) * 2 * np.pi / 16)
    basis = sh_basis(d, 4)
    torch.testing.assert_close(basis.T @ (w[:, None] * basis), torch.eye(25, dtype=torch.float64), atol=1e-13, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_rotation_matrices_are_orthogonal_and_compose(seed: int, degree: int) -> None:
    a, b = random_rotation(seed), random_rotation(seed + 1)
    for d_a, d_b, d_ab in zip(sh_rotation(a, degree), sh_rotation(b, degree), sh_rotation(a @ b, degree), strict=True):
        torch.testing.assert_close(d_a @ d_a.T, torch.eye(len(d_a), dtype=torch.float64), atol=1e-13, rtol=0)
        torch.testing.assert_close(d_a @ d_b, d_ab, atol=1e-13, rtol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(0, 3))
def test_rotated_coefficients_in_rotated_directions_give_the_old_colour(seed: int, degree: int) -> None:
    rotation = random_rotation(seed)
    count = (degree + 1) ** 2
    sh = torch.randn(5, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions = random_directions(50, seed)
    before = torch.einsum("dk,nkc->ndc", closed_form(directions)[:, :count], sh)
    after = torch.einsum("dk,nkc->ndc", closed_form(directions @ rotation.T)[:, :count], rotate_sh(sh, rotation))
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)


def test_a_quarter_turn_by_hand() -> None:
    """About z by 90 degrees, x goes to y: what was -x c becomes -y c, so the m = 1 entry moves to m = -1."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    sh = torch.tensor([0.5, 0.1, 0.2, 0.3]).view(1, 4, 1).expand(1, 4, 3)
    torch.testing.assert_close(rotate_sh(sh, turn)[0, :, 0], torch.tensor([0.5, 0.3, 0.2, -0.1]))


def test_the_fit_is_well_conditioned() -> None:
    for degree in range(5):
        basis = sh_basis(_spread_directions(4 * (degree + 1) ** 2), degree)
        for l in range(degree + 1):  # noqa: E741
            assert torch.linalg.cond(basis[:, l * l : (l + 1) ** 2]) < 3


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="degree"):
        sh_basis(torch.rand(3), 5)
    with pytest.raises(ValueError, match="coefficients"):
        rotate_sh(torch.rand(2, 5, 3), torch.eye(3))
