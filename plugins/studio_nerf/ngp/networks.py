"""The two small networks as modules, and the direction encoding, in plain torch."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.export.spherical_harmonics import sh_basis
from studio_nerf.ngp.kernels.layers import DENSITY_SHIFT, GEOMETRY, LOG_DENSITY_LIMIT

DIRECTION = 16
"""Spherical harmonics up to degree 3 of a direction."""


class _TruncatedExp(torch.autograd.Function):
    """e^x with the exponent limited, in the gradient as well (instant-ngp's activation of densities)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        result = x.clamp(max=float(LOG_DENSITY_LIMIT)).exp()
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, result = ctx.saved_tensors
        return upstream * result * (x < float(LOG_DENSITY_LIMIT))


def density_from_logits(logits: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Density, in units of one over the scene's length unit."""
    result: Tensor = _TruncatedExp.apply(logits - float(DENSITY_SHIFT))
    return result


class Layers(nn.Module):
    """A multilayer perceptron without biases: ReLU between layers, nothing at the end.

    Args:
        widths: Of the input, of each hidden layer and of the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.init.xavier_uniform_(nn.Parameter(torch.empty(before, after))) for before, after in pairwise(widths)
        )

    def forward(self, x: Float[Tensor, "m before"]) -> Float[Tensor, "m after"]:
        for i, weight in enumerate(self.weights):
            x = x @ weight.to(x.dtype)
            if i + 1 < len(self.weights):
                x = x.relu()
        return x


class Shading(nn.Module):
    """Density and colour of encoded samples.

    Args:
        features: Width of the encoding.
        density_width: Hidden units of the density network.
        color_width: Hidden units of both layers of the colour network.
        view_width: Numbers that describe a ray: its direction's harmonics, and its photo's appearance.
    """

    def __init__(self, features: int, density_width: int, color_width: int, view_width: int) -> None:
        super().__init__()
        self.density_network = Layers(features, density_width, GEOMETRY)
        self.color_network = Layers(GEOMETRY + view_width, color_width, color_width, 3)

    def density(self, features: Float[Tensor, "m f"]) -> tuple[Float[Tensor, " m"], Float[Tensor, "m g"]]:
        """Density, and the outputs that the colour network goes on with."""
        geometry = self.density_network(features)
        return density_from_logits(geometry[:, 0]), geometry

    def color(self, geometry: Float[Tensor, "m g"], view: Float[Tensor, "m v"]) -> Float[Tensor, "m 3"]:
        """sRGB in [0, 1]."""
        return self.color_network(torch.cat([geometry, view], dim=-1)).sigmoid()

    def named_matrices(self) -> dict[str, nn.Parameter]:
        """All weights in the order of the layers, by the names under which their moments are kept."""
        weights = [*self.density_network.weights, *self.color_network.weights]
        return {f"shading.{i}": weight for i, weight in enumerate(weights)}


def encode_direction(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 16"]:
    """Real spherical harmonics of degree 0 to 3 of unit vectors."""
    return sh_basis(directions, 3)
