"""Real spherical harmonics in the sign convention of splat files, and how their coefficients rotate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DEGREE = 4


def sh_basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch k"]:
    """Orthonormal real spherical harmonics Y_l^m up to `degree`, l-major, m from -l to l, K = (degree + 1)².

    The convention is that of Gaussian splat files: with the Condon-Shortley phase, so that degree 1 is
    (-y, z, -x) times sqrt(3 / 4π).

    Y_l^m = (-1)^m N_lm Q_l^|m|(z) A_m(x, y), where A is Re or Im of (x + iy)^|m| for m >= 0 or m < 0 and Q is the
    associated Legendre function without its factor (1 - z²)^(|m|/2), by the usual three-term recurrence in l.

    Args:
        directions: Unit vectors.
        degree: 0 to 4.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be 0 to {MAX_DEGREE}, got {degree}")
    x, y, z = directions.unbind(-1)
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)
    columns: list[Tensor] = [x] * (degree + 1) ** 2
    diagonal = 1.0
    for m in range(degree + 1):
        if m > 0:
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
            diagonal *= 2 * m - 1
        before, current = torch.zeros_like(z), torch.full_like(z, diagonal)
        for l in range(m, degree + 1):  # noqa: E741
            if l > m:
                before, current = current, ((2 * l - 1) * z * current - (l + m - 1) * before) / (l - m)
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m))
            if m == 0:
                columns[l * l + l] = norm * current
            else:
                signed = (-1) ** m * math.sqrt(2) * norm * current
                columns[l * l + l + m] = signed * cosine
                columns[l * l + l - m] = signed * sine
    return torch.stack(columns, dim=-1)


def sh_rotation(rotation: Float[Tensor, "3 3"], degree: int) -> list[Float[Tensor, "m m"]]:
    """The matrices D_l, l = 0..degree, with Y_l(R d) = D_l Y_l(d) for every direction d: the real Wigner D-matrices.

    Coefficients c of a function turn with it: D_l c_l are those of the function rotated by R, as D_l is orthogonal.

    The harmonics of one degree span a space that rotations keep, so the matrix follows from the values at enough
    directions. Those used here make the values well-conditioned (below 3), which leaves float64's precision intact.

    Args:
        rotation: A rotation matrix.
        degree: 0 to 4.

    Returns:
        float64 matrices of 2l + 1 rows.
    """
    rotation = rotation.double().cpu()
    directions = _spread_directions(4 * (degree + 1) ** 2)
    before = sh_basis(directions, degree)
    after = sh_basis(directions @ rotation.T, degree)
    blocks = [slice(l * l, (l + 1) ** 2) for l in range(degree + 1)]  # noqa: E741
    return [torch.linalg.lstsq(before[:, block], after[:, block]).solution.T for block in blocks]


def rotate_sh(coefficients: Float[Tensor, "n k c"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "n k c"]:
    """Coefficients of the functions rotated by `rotation`: the value seen along R d is the old one along d.

    Args:
        coefficients: K = (degree + 1)² for degree 0 to 4; the result has their dtype and device.
        rotation: A rotation matrix.
    """
    degree = math.isqrt(coefficients.shape[1]) - 1
    if (degree + 1) ** 2 != coefficients.shape[1]:
        raise ValueError(f"coefficients must be (N, (degree + 1)², C), got {tuple(coefficients.shape)}")
    rotated = [coefficients[:, :1]]
    for l, matrix in enumerate(sh_rotation(rotation, degree)[1:], start=1):  # noqa: E741
        part = coefficients[:, l * l : (l + 1) ** 2]
        rotated.append(torch.einsum("ij,njc->nic", matrix.to(part.device), part.double()).to(part.dtype))
    return torch.cat(rotated, dim=1)


def _spread_directions(count: int) -> Float[Tensor, "count 3"]:
    """Nearly even directions on the sphere: the Fibonacci lattice."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - z.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=-1)
