"""The network of the paper: position to density, position and direction to colour.

Symbols: m samples; x a position in the cube [-1, 1]^3 that the scene's box is scaled to; d a unit direction.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH, DEPTH = 256, 8
SKIP = 5
"""Layers before the position is joined again."""
POSITION_LEVELS, DIRECTION_LEVELS = 10, 4


def positional_encoding(x: Float[Tensor, "*b c"], levels: int) -> Float[Tensor, "*b c*(2*levels+1)"]:
    """``(x, sin(2^0 pi x), ..., sin(2^(L-1) pi x), cos(2^0 pi x), ..., cos(2^(L-1) pi x))``.

    Equation 4 of the paper, led by x itself as in its authors' code. Their order of the components differs, which a
    fully connected layer cannot tell.

    Args:
        x: In [-1, 1].
        levels: L.
    """
    frequencies = math.pi * 2.0 ** torch.arange(levels, device=x.device, dtype=x.dtype)
    phases = (x[..., None, :] * frequencies[:, None]).flatten(-2)
    return torch.cat([x, phases.sin(), phases.cos()], dim=-1)


class RadianceMlp(nn.Module):
    """Figure 7 of the paper: 8 layers of 256, the encoded position joined to what the fifth gives, density from the
    position only, colour through one more layer of 128 that also sees the direction.

    595,844 parameters. In autocast the matrix products run in 16 bits, while encodings, activations of the outputs and
    all that is composited stay float32.

    Args:
        density_activation: 'relu' as in the paper, or 'softplus' with a shift of -1 (mip-NeRF), whose gradient cannot
            vanish everywhere.
    """

    def __init__(self, density_activation: str = "relu") -> None:
        super().__init__()
        position, direction = 3 * (2 * POSITION_LEVELS + 1), 3 * (2 * DIRECTION_LEVELS + 1)
        inputs = [position, *(WIDTH + (position if i == SKIP else 0) for i in range(1, DEPTH))]
        self.trunk = nn.ModuleList(nn.Linear(n, WIDTH) for n in inputs)
        self.density = nn.Linear(WIDTH, 1)
        self.bottleneck = nn.Linear(WIDTH, WIDTH)
        self.view = nn.Linear(WIDTH + direction, WIDTH // 2)
        self.rgb = nn.Linear(WIDTH // 2, 3)
        self.density_activation = density_activation

    def features(self, x: Float[Tensor, "m 3"]) -> Float[Tensor, "m 256"]:
        """The trunk's output, which density and colour are read from."""
        encoded = positional_encoding(x, POSITION_LEVELS)
        if torch.is_autocast_enabled(x.device.type):
            encoded = encoded.to(torch.get_autocast_dtype(x.device.type))
        hidden = encoded
        for i, layer in enumerate(self.trunk):
            joined = torch.cat([encoded, hidden], dim=-1) if i == SKIP else hidden
            hidden = F.relu(layer(joined), inplace=True)
        return hidden

    def density_of(
        self, features: Float[Tensor, "m 256"], noise: Float[Tensor, " m"] | None = None
    ) -> Float[Tensor, " m"]:
        """Density per scene unit, at least 0; `noise` is added before the activation (appendix A)."""
        raw = _full(self.density(features)[..., 0])
        if noise is not None:
            raw = raw + noise
        return F.relu(raw) if self.density_activation == "relu" else F.softplus(raw - 1)

    def color_of(
        self, features: Float[Tensor, "m 256"], encoded_directions: Float[Tensor, "m 27"]
    ) -> Float[Tensor, "m 3"]:
        """sRGB in (0, 1)."""
        bottleneck = self.bottleneck(features)
        hidden = F.relu(self.view(torch.cat([bottleneck, encoded_directions.to(bottleneck.dtype)], -1)), inplace=True)
        return torch.sigmoid(_full(self.rgb(hidden)))

    def forward(
        self, x: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m 3"]]:
        """Density per scene unit and sRGB colour.

        Args:
            x: Positions in [-1, 1].
            directions: Unit vectors, see `direction_from_angles` for angles.
        """
        features = self.features(x)
        return self.density_of(features), self.color_of(features, positional_encoding(directions, DIRECTION_LEVELS))


def _full(value: Tensor) -> Tensor:
    """At least float32."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
