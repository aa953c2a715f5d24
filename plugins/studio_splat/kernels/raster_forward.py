"""Blend the listed splats of every tile, nearest first, into an image."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from studio.kernels.cache import Kernel, device, get_threads, kernel
from studio.kernels.vec import (
    FLAGS,
    absolute,
    any_lane,
    bits_set,
    element,
    fetch_add,
    flagged,
    fma,
    load8,
    prefetch,
    put,
    select,
    store,
    trailing_zeros,
)
from studio.kernels.workspace import Workspace

from .binning import Tiles
from .blend import (
    PIXELS,
    ROW_TERMS,
    STRIP,
    STRIPS,
    alpha_of,
    fill_strip,
    first_bits,
    inside_strip,
    is_drawn,
    load_strip,
    measure_rows,
    pass_light,
    row_centres,
    strip_columns,
    strip_exponent,
    strip_rows,
)
from .records import RECORD, SLOPE, TILE, check_records

BATCH = 64
"""Splats that each strip of a tile goes through before the next strip does; at most FLAGS."""

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
        evaluated: (tiles,) int32, how many splats of its list each tile looked at before its last pixel ended, in whole
            batches.
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
    rows = min(TILE, height - y0)
    target = base + y0 * width + x0
    if x0 + TILE <= width:
        for y in range(rows):
            store(image, target + y * width, load8(plane, offset + y * TILE))
    else:
        for y in range(rows):
            for x in range(width - x0):
                put(image, target + y * width + x, element(plane, offset + y * TILE + x))


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
        grid = (width + TILE - 1) // TILE
        tiles = count.shape[0]
        planes = background.shape[0]
        light_base = scratch_base + planes * PIXELS
        median_base = light_base + PIXELS
        terms_base = median_base + PIXELS
        columns = strip_columns()
        zero = fill_strip(np.float32(0.0))
        never = fill_strip(np.float32(-1e3))
        reached = np.empty(FLAGS, np.uint8)
        while True:
            first = fetch_add(counter, _GRAIN)
            if first >= tiles:
                break
            for tile in range(first, min(first + _GRAIN, tiles)):
                row = tile // grid
                column = tile - row * grid
                left = np.float32(np.float32(column * TILE) + np.float32(0.5))
                centres = row_centres(row)
                # The light of pixels that have ended is negative. Those outside the image never begin.
                alive = np.int64(0)
                for strip in range(STRIPS):
                    inside = inside_strip(strip, column, row, width, height)
                    store(scratch, light_base + strip * STRIP, select(inside, np.float32(1.0), np.float32(-1.0)))
                    alive |= np.int64(any_lane(inside)) << strip
                for at in range(scratch_base, light_base, STRIP):
                    store(scratch, at, zero)
                if median:
                    for at in range(median_base, terms_base, STRIP):
                        store(scratch, at, zero)
                begin = start[tile]
                end = begin + count[tile]
                kept = begin
                looked = count[tile]
                for batch in range(begin, end, BATCH):
                    size = min(BATCH, end - batch)
                    for e in range(size):
                        base = np.int64(element(ids, batch + e)) * RECORD
                        prefetch(records, np.int64(element(ids, batch + e + BATCH)) * RECORD)
                        bits = measure_rows(records, base, left, centres, scratch, terms_base + e * ROW_TERMS)
                        put(reached, e, np.uint8(bits))
                    wanted = first_bits(size)
                    hits = np.int64(0)
                    for strip in range(STRIPS):
                        # Bit e: this strip has to look at splat e of the batch.
                        word = flagged(reached, 0, strip_rows(strip)) & wanted
                        if word == 0 or (alive >> strip) & 1 == 0:
                            continue
                        at = scratch_base + strip * STRIP
                        light = load_strip(scratch, light_base + strip * STRIP)
                        if channels != 0:
                            red = load_strip(scratch, at)
                            green = load_strip(scratch, at + PIXELS)
                            blue = load_strip(scratch, at + 2 * PIXELS)
                        if channels == 4:
                            depth = load_strip(scratch, at + 3 * PIXELS)
                        if median:
                            middle = load_strip(scratch, median_base + strip * STRIP)
                        # Three turns at once: the exponent of one splat, the alpha of the one before it, the blending
                        # of the one before that. Done in one go, a splat is a chain of sixty cycles, and processors
                        # do not look far enough ahead to fill those with others.
                        exponent, alpha = never, zero
                        last = trailing_zeros(word)
                        coming, current = last, last
                        for _turn in range(bits_set(word) + 2):
                            e, current = current, coming
                            if word != 0:
                                last = trailing_zeros(word)
                                word &= word - 1
                            coming = last
                            base = np.int64(element(ids, batch + coming)) * RECORD
                            at_terms = terms_base + coming * ROW_TERMS
                            following = strip_exponent(
                                scratch, at_terms, strip, element(records, base + SLOPE), columns
                            )
                            alpha_following = alpha_of(exponent, is_drawn(exponent))
                            index = np.int64(element(ids, batch + e))
                            base = index * RECORD
                            # Also splats that only end pixels are listed: the backward pass has to see them do so.
                            hits |= np.int64(any_lane(alpha * light > np.float32(0.0))) << e
                            weight, after = pass_light(alpha, light)
                            if median:
                                # Pixels that end have a negative light after, and no weight.
                                crosses = (light > np.float32(0.5)) & (absolute(after) <= np.float32(0.5))
                                middle = select(crosses, element(records, base + 9), middle)
                            light = after
                            if channels == 0:
                                for plane in range(planes):
                                    value = element(features, index * planes + plane)
                                    total = load_strip(scratch, at + plane * PIXELS)
                                    store(scratch, at + plane * PIXELS, fma(weight, value, total))
                            else:
                                red = fma(weight, element(records, base + 6), red)
                                green = fma(weight, element(records, base + 7), green)
                                blue = fma(weight, element(records, base + 8), blue)
                                if channels == 4:
                                    depth = fma(weight, element(records, base + 9), depth)
                            alpha, exponent = alpha_following, following
                        if not any_lane(light > np.float32(0.0)):
                            alive &= ~(np.int64(1) << strip)
                        store(scratch, light_base + strip * STRIP, light)
                        if channels != 0:
                            store(scratch, at, red)
                            store(scratch, at + PIXELS, green)
                            store(scratch, at + 2 * PIXELS, blue)
                        if channels == 4:
                            store(scratch, at + 3 * PIXELS, depth)
                        if median:
                            store(scratch, median_base + strip * STRIP, middle)
                    while hits != 0:
                        put(ids, kept, element(ids, batch + trailing_zeros(hits)))
                        kept += 1
                        hits &= hits - 1
                    if alive == 0:
                        looked = batch + size - begin
                        break
                count[tile] = kept - begin
                evaluated[tile] = looked

                for strip in range(STRIPS):
                    at = light_base + strip * STRIP
                    light = absolute(load_strip(scratch, at))
                    store(scratch, at, light)
                    for plane in range(planes):
                        at = scratch_base + plane * PIXELS + strip * STRIP
                        store(scratch, at, fma(light, element(background, plane), load_strip(scratch, at)))
                for plane in range(planes):
                    at = scratch_base + plane * PIXELS
                    store_tile(scratch, at, image, plane * height * width, column, row, width, height)
                store_tile(scratch, light_base, transmittance, 0, column, row, width, height)
                if median:
                    store_tile(scratch, median_base, median_depth, 0, column, row, width, height)

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
    # Planes for the transmittance and the median depth, and one to spare that keeps threads off each other's lines.
    scratch = workspace.array("forward.scratch", (threads, (planes + 3) * PIXELS + BATCH * ROW_TERMS))
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
