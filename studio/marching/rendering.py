"""From rays to pictures: rendering through an occupancy grid with early termination, and whole cameras in chunks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.cameras import Cameras, Rays
from studio.devices.chunks import cat_chunks, run_chunked
from studio.marching.arguments import check_same_shape
from studio.marching.grid import OccupancyGrid
from studio.marching.packed import packed_composite, packed_median_depth, packed_opacity, packed_sum, packed_weights

Shade = Callable[
    [Float[Tensor, "m 3"], Float[Tensor, "m 3"], Int[Tensor, " m"]], tuple[Float[Tensor, " m"], Float[Tensor, "m c"]]
]
"""Points, their rays' directions and their rays' indices -> density and values (colour, features)."""

_FIRST_ROUND = 8
_LARGEST_ROUND = 128


@dataclass(frozen=True, eq=False)
class MarchedRays:
    """What rays have gathered.

    Attributes:
        values: Blended values, without a background (add ``(1 - opacity) * background``).
        opacity: Accumulated alpha.
        moment: Σ w t, so that ``moment / opacity`` is the expected distance.
        median: Distance at which the transmittance falls to one half; the end of the last sample where it never does.
    """

    values: Float[Tensor, "n c"]
    opacity: Float[Tensor, " n"]
    moment: Float[Tensor, " n"]
    median: Float[Tensor, " n"]


@torch.no_grad()
def march_rays(
    grid: OccupancyGrid,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    shade: Shade,
    *,
    channels: int = 3,
    near: Float[Tensor, " n"] | None = None,
    far: Float[Tensor, " n"] | None = None,
    step_size: float,
    cone_angle: float = 0.0,
    max_samples: int = 1024,
    early_stop: float = 1e-4,
) -> MarchedRays:
    """Render rays without gradients, asking the field only for samples that are occupied and that light still reaches.

    Rays go on in rounds of a few samples each; one that has become opaque takes no part in the next round. The fewer
    are left, the more samples they take at once. Arguments and errors as for `OccupancyGrid.march`.

    Args:
        shade: The field.
        channels: Number of values that it returns for a point.
    """
    rays = len(origins)
    gathered = origins.new_zeros(rays, channels)
    moment, median, light = origins.new_zeros(rays), origins.new_zeros(rays), origins.new_ones(rays)
    alive = torch.arange(rays, device=origins.device)
    begin = None if near is None else near.clone()
    taken = 0
    while len(alive) and taken < max_samples:
        share = _FIRST_ROUND * rays // len(alive)
        count = min(max(_FIRST_ROUND, share), _LARGEST_ROUND, max_samples - taken)
        o, d = origins[alive], directions[alive]
        samples = grid.march(
            o,
            d,
            None if begin is None else begin[alive],
            None if far is None else far[alive],
            step_size=step_size,
            cone_angle=cone_angle,
            max_samples=count,
        )
        taken += count
        has = samples.counts > 0
        if not bool(has.any()):
            break
        density, values = shade(samples.positions(o, d), samples.directions(d), alive[samples.ray_index])
        check_same_shape("values", values, (len(samples), channels), "one row a sample")
        weights, _ = packed_weights(density.reshape(-1), samples)
        before = light[alive]
        weights = weights * before[samples.ray_index]
        gathered[alive] += packed_composite(weights, values, samples)
        moment[alive] += packed_sum(weights * samples.midpoints, samples)
        light[alive] = before - packed_opacity(weights, samples)
        # Rays past their median keep it; the others take the newest place, which is right once they have crossed it.
        newest = packed_median_depth(weights, samples, before)
        median[alive] = torch.where(has & (before > 0.5), newest, median[alive])
        last = samples.ends[(samples.offsets[1:] - 1).clamp_min(0)]
        if begin is None:
            begin = origins.new_zeros(rays)
        begin[alive] = torch.where(has, last, begin[alive])
        # A ray that did not fill its round has come to its end.
        alive = alive[(samples.counts == count) & (light[alive] >= early_stop)]
    return MarchedRays(gathered, 1.0 - light, moment, median)


def render_camera(
    camera: Cameras,
    shade: Callable[[Rays], Mapping[str, Tensor]],
    *,
    chunk: int = 1 << 15,
    key: Hashable | None = None,
) -> dict[str, Float[Tensor, "h w *c"]]:
    """All pixels of one camera, some rays at a time; a chunk that does not fit into memory is halved.

    Args:
        camera: A single one (no batch axes).
        shade: Values of flat rays (n) by name, each (n, ...). Called anew for rays whose chunk did not fit.
        chunk: Most rays at a time.
        key: Remembers the chunk that fitted, for the next picture.
    """
    if camera.ndim != 0:
        raise ValueError(f"camera: expected a single camera, got a batch of shape {tuple(camera.shape)}")
    rays = camera.rays()
    height, width = rays.shape
    flat = rays.reshape(height * width)
    parts = run_chunked(lambda start, stop: dict(shade(flat[start:stop])), height * width, chunk, what="rays", key=key)
    return {name: value.reshape(height, width, *value.shape[1:]) for name, value in cat_chunks(parts).items()}


def z_depth(t: Float[Tensor, "*b"], rays: Rays) -> Float[Tensor, "*b"]:
    """The z-depth of a distance along each ray: times the cosine of its angle to the optical axis."""
    return t * rays.depth_scale
