"""Marching through an occupancy grid in plain torch: all rays at once, a block of steps at a time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.marching.lattice import Lattice

BLOCK = 4
"""Cells along each side of a block: 64 cells are the 64 bits of one word."""

_STEPS_AT_ONCE = 64


def cell_of(
    points: Float[Tensor, "*b 3"], box: Float[Tensor, "2 3"], resolution: int, levels: int
) -> tuple[Int[Tensor, "*b"], Int[Tensor, "*b 3"]]:
    """The level (`levels` if outside of all) and the cell in it that answer for each point."""
    unit = (points - 0.5 * (box[0] + box[1])) / (0.5 * (box[1] - box[0]))
    radius = unit.abs().amax(-1)
    # A comparison that NaN fails would put such a point into level 0.
    level = torch.where(radius.isfinite(), torch.zeros_like(radius), levels).to(torch.int64)
    for finer in range(levels):
        level = level + (radius > 2.0**finer)
    level = level.clamp_max(levels)
    inside = unit / torch.exp2(level.to(unit.dtype))[..., None]
    cell = ((inside + 1.0) * (0.5 * resolution)).floor().clamp(0, resolution - 1)
    return level, torch.where((level < levels)[..., None], cell, torch.zeros_like(cell)).to(torch.int64)


def occupied(
    words: Int[Tensor, "levels w w w"], points: Float[Tensor, "*b 3"], box: Float[Tensor, "2 3"]
) -> Bool[Tensor, "*b"]:
    """Whether the cell of each point is occupied; False outside the outermost level."""
    levels, blocks = words.shape[:2]
    level, cell = cell_of(points, box, blocks * BLOCK, levels)
    inside = level < levels
    block, bit = cell // BLOCK, cell % BLOCK
    index = torch.where(inside, level, torch.zeros_like(level))
    word = words[index, block[..., 0], block[..., 1], block[..., 2]]
    shift = (bit[..., 0] * BLOCK + bit[..., 1]) * BLOCK + bit[..., 2]
    return inside & ((word >> shift) & 1).bool()


def march(
    words: Int[Tensor, "levels w w w"],
    box: Float[Tensor, "2 3"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
    lattice: Lattice,
    max_samples: int,
) -> tuple[Int[Tensor, " n+1"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Offsets, starts and ends of the lattice intervals between near and far whose middle lies in an occupied cell."""
    rays = len(near)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    counts = torch.zeros(rays, dtype=torch.int64, device=near.device)
    active = torch.arange(rays, device=near.device)[far > near]
    begin = 0
    while len(active):
        part = Lattice(lattice.first[active], lattice.step, lattice.cone_angle, lattice.even[active])
        k = torch.arange(begin, begin + _STEPS_AT_ONCE + 1, device=near.device)
        edges = part.edges(k[None])
        bounded = torch.minimum(torch.maximum(edges, near[active, None]), far[active, None])
        start, end = bounded[:, :-1], bounded[:, 1:]
        middle = 0.5 * (start + end)
        points = origins[active, None] + directions[active, None] * middle[..., None]
        hit = (end > start) & occupied(words, points, box)
        row = hit.nonzero(as_tuple=True)[0]
        found.append((active[row], start[hit], end[hit]))
        counts[active] += hit.sum(1)
        active = active[(edges[:, -1] < far[active]) & (counts[active] < max_samples)]
        begin += _STEPS_AT_ONCE
    offsets = torch.cat([counts.new_zeros(1), counts.clamp_max(max_samples).cumsum(0)])
    if not found:
        return offsets, near.new_zeros(0), near.new_zeros(0)
    ray, starts, ends = (torch.cat(column) for column in zip(*found, strict=True))
    ray, order = ray.sort(stable=True)
    rank = torch.arange(len(ray), device=ray.device) - (counts.cumsum(0) - counts)[ray]
    kept = order[rank < max_samples]
    return offsets, starts[kept], ends[kept]
