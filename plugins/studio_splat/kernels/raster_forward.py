"""Blend the listed splats of every tile, nearest first, into an image."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from studio.kernels.cache import Kernel, device, get_threads, inline, kernel
from studio.kernels.vec import broadcast, element, fetch_add, load, prefetch, select, store_block
from studio.kernels.workspace import Workspace

from .binning import Tiles
from .blend import (
    AHEAD,
    BLOCK,
    PIXELS,
    accumulate,
    alphas,
    any_drawn,
    any_of,
    filled,
    in_plane,
    inside_image,
    load_plane,
    pass_light,
    splat_exponents,
    splat_offsets,
    store_plane,
    tile_axes,
)
from .records import RECORD, TILE, check_records

_GRAIN = 4
"""Tiles a thread takes at a time. Tiles are independent, so who takes which changes no bit of the image."""


@dataclass(frozen=True)
class Raster:
    """What :func:`rasterize_forward` returns; arrays are views into the workspace.

    Attributes:
        image: (C, H, W) float32, colour with the background added. With depth, the last channel is accumulated z-depth.
        transmittance: (H, W) float32 in (1e-4, 1], the light that no splat took; opacity is 1 minus this.
        median_depth: (H, W) float32 z-depth of the splat at which the transmittance crosses 1/2; 0 where it never does.
            ``None`` if not asked for.
        evaluated: (tiles,) int32, how many splats of its list each tile looked at before its last pixel ended.
    """

    image: NDArray[np.float32]
    transmittance: NDArray[np.float32]
    median_depth: NDArray[np.float32] | None
    evaluated: NDArray[np.int32]


@device
def store_tile(plane: Any, offset: int, image: Any, base: int, column: int, row: int, width: int, height: int) -> None:
    """Copy a tile's scratch plane into the image plane that starts at the flat element `base`."""
    x0 = column * TILE
    y0 = row * TILE
    target = base + y0 * width + x0
    if x0 + TILE <= width and y0 + TILE <= height:
        for block in range(4):
            corner = target + (block >> 1) * 4 * width + (block & 1) * 4
            store_block(image, corner, width, load(plane, offset + block * BLOCK))
    else:
        for y in range(min(TILE, height - y0)):
            for x in range(min(TILE, width - x0)):
                image[target + y * width + x] = plane[offset + in_plane(x, y)]


@inline
def _median(depth: Any, before: Any, after: Any, z: Any) -> Any:
    crosses = (before > np.float32(0.5)) & (after <= np.float32(0.5))
    return select(crosses, z, depth)


def _make_tile_loop(channels: int, median: bool) -> Any:
    """The loop over a thread's tiles, for 3 or 4 channels of the record, or 0: any number of separate features."""

    @device
    def blend_tiles(
        records: Any,
        features: Any,
        ids: Any,
        start: Any,
        count: Any,
        width: int,
        height: int,
        background: Any,
        image: Any,
        transmittance: Any,
        median_depth: Any,
        evaluated: Any,
        counter: Any,
        scratch: Any,
        scratch_base: int,
    ) -> None:
        columns = (width + TILE - 1) // TILE
        tiles = count.shape[0]
        planes = background.shape[0]
        while True:
            first = fetch_add(counter, _GRAIN)
            if first >= tiles:
                break
            for tile in range(first, min(first + _GRAIN, tiles)):
                row = tile // columns
                column = tile - row * columns
                axes = tile_axes(column, row)
                live = inside_image(axes, width, height)
                light = filled(1.0)
                red = filled(0.0)
                green = filled(0.0)
                blue = filled(0.0)
                depth = filled(0.0)
                middle = filled(0.0)
                if channels == 0:
                    for plane in range(planes):
                        store_plane(scratch, scratch_base + plane * PIXELS, filled(0.0))
                begin = start[tile]
                kept = begin
                looked = count[tile]
                for j in range(begin, begin + count[tile]):
                    index = element(ids, j)
                    base = np.int64(index) * RECORD
                    prefetch(records, np.int64(element(ids, j + AHEAD)) * RECORD)
                    offsets = splat_offsets(records, base, axes)
                    exponents = splat_exponents(records, base, offsets)
                    if not any_drawn(exponents, live):
                        if not any_of(live):
                            looked = j + 1 - begin
                            break
                        continue
                    # Also splats that only end pixels stay listed: the backward pass has to see them do so.
                    ids[kept] = index
                    kept += 1
                    alpha = alphas(exponents)
                    w0, t0, ok0 = pass_light(select(live[0], alpha[0], np.float32(0.0)), light[0])
                    w1, t1, ok1 = pass_light(select(live[1], alpha[1], np.float32(0.0)), light[1])
                    w2, t2, ok2 = pass_light(select(live[2], alpha[2], np.float32(0.0)), light[2])
                    w3, t3, ok3 = pass_light(select(live[3], alpha[3], np.float32(0.0)), light[3])
                    live = (live[0] & ok0, live[1] & ok1, live[2] & ok2, live[3] & ok3)
                    weights = (w0, w1, w2, w3)
                    if median:
                        z = broadcast(records, base + 9)
                        middle = (
                            _median(middle[0], light[0], t0, z),
                            _median(middle[1], light[1], t1, z),
                            _median(middle[2], light[2], t2, z),
                            _median(middle[3], light[3], t3, z),
                        )
                    light = (t0, t1, t2, t3)
                    if channels == 0:
                        feature = np.int64(index) * planes
                        for plane in range(planes):
                            at = scratch_base + plane * PIXELS
                            value = broadcast(features, feature + plane)
                            store_plane(scratch, at, accumulate(load_plane(scratch, at), weights, value))
                    else:
                        red = accumulate(red, weights, broadcast(records, base + 6))
                        green = accumulate(green, weights, broadcast(records, base + 7))
                        blue = accumulate(blue, weights, broadcast(records, base + 8))
                        if channels == 4:
                            depth = accumulate(depth, weights, broadcast(records, base + 9))
                count[tile] = kept - begin
                evaluated[tile] = looked

                if channels != 0:
                    store_plane(scratch, scratch_base, red)
                    store_plane(scratch, scratch_base + PIXELS, green)
                    store_plane(scratch, scratch_base + 2 * PIXELS, blue)
                    if channels == 4:
                        store_plane(scratch, scratch_base + 3 * PIXELS, depth)
                for plane in range(planes):
                    at = scratch_base + plane * PIXELS
                    store_plane(scratch, at, accumulate(load_plane(scratch, at), light, broadcast(background, plane)))
                    store_tile(scratch, at, image, plane * height * width, column, row, width, height)
                at = scratch_base + planes * PIXELS
                store_plane(scratch, at, light)
                store_tile(scratch, at, transmittance, 0, column, row, width, height)
                if median:
                    store_plane(scratch, at, middle)
                    store_tile(scratch, at, median_depth, 0, column, row, width, height)

    return blend_tiles


_blend_rgb = _make_tile_loop(3, False)
_blend_rgbd = _make_tile_loop(4, False)
_blend_rgbd_median = _make_tile_loop(4, True)
_blend_features = _make_tile_loop(0, False)


@functools.cache
def _forward_kernel(channels: int, median: bool) -> Kernel:
    """The parallel kernel of one variant, compiled on its first call."""
    # A closure over constants: Numba drops the other branches before typing, and its cache tells the variants apart.

    @kernel(
        "void(f4[:,::1], f4[:,::1], i4[::1], i8[::1], i4[::1], i8, i8, f4[::1], f4[:,:,::1], f4[:,::1], f4[:,::1],"
        " i4[::1], i8[::1], f4[:,::1])",
        parallel=True,
    )
    def forward(
        records: Any,
        features: Any,
        ids: Any,
        start: Any,
        count: Any,
        width: int,
        height: int,
        background: Any,
        image: Any,
        transmittance: Any,
        median_depth: Any,
        evaluated: Any,
        counter: Any,
        scratch: Any,
    ) -> None:
        threads = scratch.shape[0]
        for part in prange(threads):
            args = (
                records,
                features,
                ids,
                start,
                count,
                width,
                height,
                background,
                image.reshape(-1),
                transmittance.reshape(-1),
                median_depth.reshape(-1),
                evaluated,
                counter,
                scratch.reshape(-1),
                np.int64(part) * scratch.shape[1],
            )
            if channels == 3:
                _blend_rgb(*args)
            elif channels == 0:
                _blend_features(*args)
            elif median:
                _blend_rgbd_median(*args)
            else:
                _blend_rgbd(*args)

    return forward


def check_features(features: NDArray[np.float32], count: int) -> None:
    """Raise ValueError unless `features` is a C-contiguous writable float32 array of shape (count, C), C >= 1."""
    if features.ndim != 2 or len(features) != count or features.shape[1] < 1 or features.dtype != np.float32:
        raise ValueError(
            f"features: expected float32 of shape ({count}, C) with C >= 1, got {features.dtype} {features.shape}"
        )
    if not (features.flags.c_contiguous and features.flags.writeable):
        raise ValueError("features: expected a C-contiguous, writable array")


def background_array(background: NDArray[np.float32] | None, channels: int) -> NDArray[np.float32]:
    """`background` as float32 (channels,), black if ``None``; ValueError if it has another shape."""
    if background is None:
        return np.zeros(channels, np.float32)
    if background.shape != (channels,):
        raise ValueError(f"background: expected shape ({channels},), got {background.shape}")
    return np.array(background, np.float32)


def rasterize_forward(
    records: NDArray[np.float32],
    tiles: Tiles,
    workspace: Workspace,
    *,
    features: NDArray[np.float32] | None = None,
    background: NDArray[np.float32] | None = None,
    depth: bool = False,
    median_depth: bool = False,
) -> Raster:
    """Blend the splats of `tiles` front to back (Kerbl et al. 2023, eq. 2-3, with gsplat's thresholds).

    alpha = min(0.999, 2^(L + A dx² + B dx dy + C dy²)); splats under 1/255 are skipped, and a pixel ends before the
    splat that would bring its transmittance to 1e-4. Shortens the lists of `tiles` to what took part: the backward pass
    needs the same `tiles` afterwards, and a repeated forward pass gives the same image.

    Args:
        records: (N, 16) float32, the ones given to ``bin_splats``.
        tiles: result of ``bin_splats``.
        workspace: holds the result until the next call.
        features: (N, C) float32 blended in place of the records' rgb, any C >= 1.
        background: (C,) light behind all splats, black if ``None``; its depth entry is usually 0.
        depth: add accumulated z-depth as a fourth channel after rgb; not with `features`.
        median_depth: also return the median depth, for rendering (it has no gradient); not with `features`.

    Raises:
        ValueError: a wrong shape or dtype, or options that exclude each other.
    """
    check_records(records)
    if len(records) != len(tiles.info):
        raise ValueError(f"records: expected the {len(tiles.info)} records that were binned, got {len(records)}")
    if features is not None and (depth or median_depth):
        raise ValueError("depth, median_depth: not available with features; append the depth to the features")
    if features is None:
        variant = 4 if depth or median_depth else 3
        planes = variant
        behind = background_array(background, 4 if depth else 3)
        if not depth and median_depth:
            behind = np.append(behind, np.float32(0.0))
        features = workspace.array("forward.no_features", (0, 1))
    else:
        check_features(features, len(records))
        variant, planes = 0, features.shape[1]
        behind = background_array(background, planes)

    threads = get_threads()
    width, height = tiles.width, tiles.height
    image = workspace.array("forward.image", (planes, height, width))
    transmittance = workspace.array("forward.transmittance", (height, width))
    median = workspace.array("forward.median", (height, width) if median_depth else (0, 0))
    # One more plane than channels for the transmittance; a spare one keeps threads off each other's cache lines.
    scratch = workspace.array("forward.scratch", (threads, (planes + 2) * PIXELS))
    evaluated = workspace.array("forward.evaluated", (len(tiles.count),), np.int32)
    counter = workspace.array("forward.counter", (1,), np.int64)
    counter[0] = 0
    _forward_kernel(variant, median_depth)(
        records,
        features,
        tiles.ids,
        tiles.start,
        tiles.count,
        width,
        height,
        behind,
        image,
        transmittance,
        median,
        evaluated,
        counter,
        scratch,
    )
    return Raster(
        image=image[: 3 if variant == 4 and not depth else planes],
        transmittance=transmittance,
        median_depth=median if median_depth else None,
        evaluated=evaluated,
    )
