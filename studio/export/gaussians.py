"""A set of 3D Gaussians in the raw parameters that files and optimisers share."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras.poses import Similarity, matrix_to_quaternion, quaternion_multiply
from studio.export.spherical_harmonics import MAX_DEGREE, rotate_sh

_PER_GAUSSIAN = ("means", "quats", "log_scales", "logit_opacities", "sh")
SH_C0 = 0.28209479177387814
"""Y_0^0; a Gaussian's base colour is 0.5 + SH_C0 * sh[:, 0]."""


@dataclass(frozen=True, eq=False)
class GaussianCloud:
    """3D Gaussians before activation, as Kerbl 2023 stores and trains them."""

    means: Float[Tensor, "n 3"]
    """Centres."""
    quats: Float[Tensor, "n 4"]
    """Orientation (w, x, y, z), of any length but zero."""
    log_scales: Float[Tensor, "n 3"]
    """Natural logarithm of the standard deviation along each own axis."""
    logit_opacities: Float[Tensor, " n"]
    """Opacity before the sigmoid."""
    sh: Float[Tensor, "n k 3"]
    """Spherical-harmonic coefficients of the colour, K = (degree + 1)², `sh[:, 0]` the constant one; see `sh_basis`."""
    antialiased: bool = False
    """Whether they are to be drawn with the total opacity kept when dilated on screen (Mip-Splatting, Yu et al. 2023),
    which they were then trained with. PLY, SPZ and SOG carry this mark."""
    notes: tuple[str, ...] = ()
    """What reading a file decided that its user should know, one line each."""

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        for name, shape in (("means", (3,)), ("quats", (4,)), ("log_scales", (3,)), ("logit_opacities", ())):
            if getattr(self, name).shape != (count, *shape):
                raise ValueError(f"{name} must be {(count, *shape)}, got {tuple(getattr(self, name).shape)}")
        coefficients = [(degree + 1) ** 2 for degree in range(MAX_DEGREE + 1)]
        if self.sh.ndim != 3 or self.sh.shape[::2] != (count, 3) or self.sh.shape[1] not in coefficients:
            raise ValueError(f"sh must be ({count}, K, 3) with K one of {coefficients}, got {tuple(self.sh.shape)}")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return math.isqrt(self.sh.shape[1]) - 1

    @property
    def base_colors(self) -> Float[Tensor, "n 3"]:
        """The colour without its dependence on direction, clamped to [0, 1]."""
        return (0.5 + SH_C0 * self.sh[:, 0]).clamp(0.0, 1.0)

    def transformed(self, similarity: Float[Tensor, "4 4"]) -> GaussianCloud:
        """The same Gaussians in another frame of reference, such as `scene.input_from_scene` leads to.

        Exact: centres are mapped, orientations and spherical harmonics turned, the logarithm of the scale added to
        `log_scales`. A picture taken from equally moved cameras is unchanged. Computed in float64, given back in the
        dtype of each field.

        Args:
            similarity: [sR, t; 0 1] with s > 0 and a rotation R.

        Raises:
            ValueError: The matrix is no such similarity (shears, mirrors, or is not 4x4).
        """
        if similarity.shape != (4, 4):
            raise ValueError(f"similarity must be (4, 4), got {tuple(similarity.shape)}")
        matrix = similarity.detach().double().cpu()
        if not bool(matrix.isfinite().all()) or torch.linalg.det(matrix[:3, :3]) <= 0:
            raise ValueError("similarity must be finite, and neither mirror nor flatten (determinant above zero)")
        move = Similarity.from_matrix(matrix)
        if not torch.allclose(
            move.matrix, matrix, rtol=0.0, atol=1e-5 * move.scale + 1e-12 * float(matrix.abs().max())
        ):
            raise ValueError("similarity must be [sR, t; 0 1]: this matrix shears or scales unevenly")
        turn = matrix_to_quaternion(move.rotation)
        device = self.means.device
        return dataclasses.replace(
            self,
            means=move.points(self.means.double()).to(self.means),
            quats=quaternion_multiply(turn.to(device), self.quats.double()).to(self.quats),
            log_scales=(self.log_scales.double() + math.log(move.scale)).to(self.log_scales),
            sh=rotate_sh(self.sh, move.rotation),
        )

    def select(self, index: Tensor) -> GaussianCloud:
        """The Gaussians at `index`: a bool mask, or positions in the wanted order."""
        rows: dict[str, Any] = {name: values[index] for name, values in self.tensors().items()}
        return dataclasses.replace(self, **rows)

    def tensors(self) -> dict[str, Tensor]:
        """All that each Gaussian has a row of, by name."""
        return {name: getattr(self, name) for name in _PER_GAUSSIAN}

    def truncated(self, sh_degree: int) -> GaussianCloud:
        """The same Gaussians with spherical harmonics of at most this degree: higher coefficients are left out."""
        if not 0 <= sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree must be 0 to {MAX_DEGREE}, got {sh_degree}")
        return dataclasses.replace(self, sh=self.sh[:, : (sh_degree + 1) ** 2])
