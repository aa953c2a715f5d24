"""The paper's sampling (sections 4 and 5.2): stratified samples for a coarse network, whose weights say where a fine
network is sampled more densely.

Symbols: n rays, c coarse and f further samples a ray; t distance along the unit direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from studio.marching.compositing import composite, weights_from_density
from studio.marching.sampling import edges_of_points, midpoints, sample_pdf, stratified_points
from studio_nerf.classic.network import DIRECTION_LEVELS, RadianceMlp, positional_encoding
from studio_nerf.classic.region import Interval, to_cube


@dataclass(frozen=True, eq=False)
class DenseSamples:
    """Samples of n rays, s each, in order."""

    t: Float[Tensor, "n s"]
    edges: Float[Tensor, "n s+1"]
    """Where the interval of each sample begins and ends: at the sample and at the next (equation 3)."""
    density: Float[Tensor, "n s"]
    weights: Float[Tensor, "n s"]
    rgb: Float[Tensor, "n s 3"]

    def color(self, background: Float[Tensor, "*#n 3"]) -> Float[Tensor, "n 3"]:
        return composite(self.weights, self.rgb, background)


def march(
    coarse: RadianceMlp,
    fine: RadianceMlp,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    where: Interval,
    box: Float[Tensor, "2 3"],
    *,
    coarse_samples: int,
    fine_samples: int,
    opaque: bool,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[DenseSamples, DenseSamples]:
    """Sample both networks along rays.

    Args:
        opaque: Whether the last interval goes on for ever, so that rays end at something, as the authors' code has it;
            not for photos with alpha, behind whose content there is nothing.
        noise: Standard deviation of the noise on densities.
        generator: Makes the samples random, as in training; None takes the middles of the bins.

    Returns:
        What the coarse and the fine network see. The fine network sees the coarse samples, too.
    """
    encoded = positional_encoding(directions, DIRECTION_LEVELS)

    def query(network: RadianceMlp, t: Tensor) -> DenseSamples:
        count = t.shape[1]
        points = origins[:, None] + directions[:, None] * t[..., None]
        features = network.features(to_cube(points, box).reshape(-1, 3))
        jitter = None
        if noise > 0 and generator is not None:
            jitter = noise * torch.randn(t.numel(), generator=generator, device=t.device)
        density = network.density_of(features, jitter).reshape(t.shape)
        # One encoding a ray, not one a sample.
        rgb = network.color_of(features, encoded.repeat_interleave(count, dim=0)).reshape(*t.shape, 3)
        edges = edges_of_points(t, where.far)
        return DenseSamples(t, edges, density, weights_from_density(density, edges, last_infinite=opaque), rgb)

    first = query(coarse, stratified_points(where.near, where.far, coarse_samples, generator=generator))
    further = sample_pdf(midpoints(first.t), first.weights[:, 1:-1].detach(), fine_samples, generator=generator)
    t = torch.cat([first.t, further], dim=-1).sort(dim=-1).values
    return first, query(fine, t)
