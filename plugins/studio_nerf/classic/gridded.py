"""Sampling for one network: even steps where an occupancy grid says that something may be, and the network's gradients
only where light still arrives.

The mathematics of what is evaluated is the paper's (equation 3); what is left out could change a pixel by less than
8 bits tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from studio.marching import OccupancyGrid, PackedSamples, packed_composite, packed_weights
from studio_nerf.classic.network import DIRECTION_LEVELS, RadianceMlp, positional_encoding
from studio_nerf.classic.region import Interval, to_cube

THRESHOLD = 0.01
"""Optical thickness of a step from which a cell is occupied."""
MOST_SAMPLES = 1024
"""Samples of one ray."""

EARLY_STOP = 1e-3
"""Transmittance below which nothing more is evaluated."""
THINNEST = 1e-4
"""Optical thickness below which a step is taken for empty."""
_FORWARD_SHARE = 0.25
"""Time of a density beside that of all evaluations and gradients of a sample."""


@dataclass(frozen=True, eq=False)
class PackedField:
    """What the network says at packed samples."""

    samples: PackedSamples
    density: Float[Tensor, " m"]
    weights: Float[Tensor, " m"]
    rgb: Float[Tensor, "m 3"]
    cost: float
    """Work that was done, in samples with all their gradients."""

    def color(self, background: Float[Tensor, "*#n 3"]) -> Float[Tensor, "n 3"]:
        return packed_composite(self.weights, self.rgb, self.samples, background)


def march_to_learn(
    network: RadianceMlp,
    grid: OccupancyGrid,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    where: Interval,
    box: Float[Tensor, "2 3"],
    *,
    step_size: float,
    generator: torch.Generator,
    noise: float = 0.0,
) -> PackedField:
    """Samples at random places, differentiable in the network.

    The densities of all samples are found first, without gradients; those behind surfaces and in clear space, which
    are most, are then dropped.
    """
    jitter = torch.rand(len(origins), generator=generator, device=origins.device)
    marched = grid.march(
        origins,
        directions,
        where.near,
        where.far,
        step_size=step_size,
        jitter=jitter,
        max_samples=MOST_SAMPLES,
    )
    with torch.no_grad():
        density = network.density_of(network.features(to_cube(marched.positions(origins, directions), box)))
        _, light = packed_weights(density, marched)
        samples = marched.keep((light >= EARLY_STOP) & (density * marched.lengths >= THINNEST))
    added = noise * torch.randn(len(samples), generator=generator, device=origins.device) if noise > 0 else None
    features = network.features(to_cube(samples.positions(origins, directions), box))
    density = network.density_of(features, added)
    weights, _ = packed_weights(density, samples)
    rgb = network.color_of(features, positional_encoding(directions, DIRECTION_LEVELS)[samples.ray_index])
    return PackedField(samples, density, weights, rgb, len(samples) + _FORWARD_SHARE * len(marched))


@torch.no_grad()
def march_to_see(
    network: RadianceMlp,
    grid: OccupancyGrid,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    where: Interval,
    box: Float[Tensor, "2 3"],
    *,
    step_size: float,
) -> PackedField:
    """Even samples, the same every time, with all their colours; for few rays."""
    marched = grid.march(origins, directions, where.near, where.far, step_size=step_size, max_samples=MOST_SAMPLES)
    features = network.features(to_cube(marched.positions(origins, directions), box))
    density = network.density_of(features)
    weights, _ = packed_weights(density, marched)
    rgb = network.color_of(features, positional_encoding(directions, DIRECTION_LEVELS)[marched.ray_index])
    return PackedField(marched, density, weights, rgb, float(len(marched)))
