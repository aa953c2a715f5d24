"""Median depth of projected splats in plain torch, on any device, for rasterisers that do not give it themselves."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio_splat.reference import ALPHA_MAX, ALPHA_THRESHOLD

_TILE = 16
_PAIRS_AT_ONCE = 1 << 23
"""Pairs of a pixel and a splat whose alphas are held at one time; each takes some 40 bytes of temporaries."""


@torch.no_grad()
def median_depth(
    means2d: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    depths: Float[Tensor, " n"],
    radii: Int[Tensor, "n 2"],
    width: int,
    height: int,
) -> Float[Tensor, "h w 1"]:
    """z-depth of the splat at which a pixel's transmittance crosses 1/2; 0 where it never does.

    Tile by tile, as rasterisers go, but a slice of all tiles' depth-sorted lists at a time; tiles whose pixels have all
    crossed drop out.

    Args:
        means2d: Centres, pixels.
        conics: Upper triangles of the inverse screen-space covariances.
        opacities: Peak alphas, after the antialiasing compensation.
        depths: What the splats are sorted by; of equal ones the smaller index is in front.
        radii: Half extents in pixels, 0 for splats that are not drawn.
        width: Image width, pixels.
        height: Image height, pixels.
    """
    columns, rows = -(-width // _TILE), -(-height // _TILE)
    splats, tiles = _pairs(means2d, depths, radii, columns, rows)
    count = torch.bincount(tiles, minlength=columns * rows)
    start = count.cumsum(0) - count

    inside = torch.arange(_TILE, device=means2d.device)
    offsets = torch.stack(torch.meshgrid(inside, inside, indexing="xy"), dim=-1).reshape(-1, 2)
    found = means2d.new_zeros(columns * rows, _TILE**2)
    transmittance = means2d.new_ones(columns * rows, _TILE**2)
    first = 0
    while True:
        active = ((count > first) & (transmittance > 0.5).any(dim=1)).nonzero()[:, 0]
        if not len(active):
            break
        length = max(1, min(64, _PAIRS_AT_ONCE // (len(active) * _TILE**2)))
        place = first + torch.arange(length, device=means2d.device)
        listed = place < count[active, None]
        ids = splats[(start[active, None] + place).clamp(max=len(splats) - 1)]
        corner = torch.stack([active % columns, active // columns], dim=-1) * _TILE
        pixels = (corner[:, None] + offsets).to(means2d) + 0.5
        alphas = _alphas(pixels, means2d[ids], conics[ids], torch.where(listed, opacities[ids], 0))
        after = transmittance[active, :, None] * torch.cumprod(1 - alphas, dim=-1)
        before = torch.cat([transmittance[active, :, None], after[..., :-1]], dim=-1)
        crosses = (before > 0.5) & (after <= 0.5)
        found[active] += torch.where(crosses, depths[ids][:, None], 0).sum(dim=-1)
        transmittance[active] = after[..., -1]
        first += length
    picture = found.view(rows, columns, _TILE, _TILE).transpose(1, 2).reshape(rows * _TILE, columns * _TILE, 1)
    return picture[:height, :width].contiguous()


def _pairs(
    means2d: Float[Tensor, "n 2"], depths: Float[Tensor, " n"], radii: Int[Tensor, "n 2"], columns: int, rows: int
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """All pairs of a splat and a tile that its box meets, sorted by tile, then depth."""
    ids = (radii > 0).all(dim=-1).nonzero()[:, 0]
    ids = ids[torch.argsort(depths[ids], stable=True)]
    grid = torch.tensor([columns, rows], device=means2d.device)
    low = ((means2d[ids] - radii[ids]) / _TILE).floor().long().clamp(min=0).minimum(grid)
    high = ((means2d[ids] + radii[ids]) / _TILE).ceil().long().clamp(min=0).minimum(grid)
    across, down = (high - low).unbind(-1)
    repeats = across * down
    which = torch.repeat_interleave(repeats)
    rank = torch.arange(len(which), device=ids.device) - (repeats.cumsum(0) - repeats)[which]
    tiles = (low[which, 1] + rank // across[which]) * columns + low[which, 0] + rank % across[which]
    order = torch.argsort(tiles, stable=True)
    return ids[which][order], tiles[order]


def _alphas(
    pixels: Float[Tensor, "t p 2"],
    means2d: Float[Tensor, "t k 2"],
    conics: Float[Tensor, "t k 3"],
    opacities: Float[Tensor, "t k"],
) -> Float[Tensor, "t p k"]:
    dx, dy = (means2d[:, None] - pixels[:, :, None]).unbind(-1)
    a, b, c = conics[:, None].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alphas = (opacities[:, None] * torch.exp(-sigma)).clamp(max=ALPHA_MAX)
    return torch.where((alphas >= ALPHA_THRESHOLD) & (sigma >= 0), alphas, 0)
