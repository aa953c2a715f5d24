"""Gradients of the blended image with respect to every record, the features and the background.

Each tile is walked front to back once more over the splats that took part. With s the part of ``image·v + T·v_T`` that
lies behind the current splat (start with all of it, subtract each splat's share w (c·v)),

    dL/dalpha = (w (c·v) − s alpha / (1 − alpha)) / alpha,

so nothing but the image has to be kept from the forward pass. A splat's gradients of position and conic are moments of
g = dL/dexponent over the tile: Σg, Σg dx, Σg dy, Σg dx², Σg dx dy, Σg dy².

Threads own contiguous runs of tiles and add to the same rows, except for splats that reach into the tiles of more than
one thread: those go to rows of the thread's own and are added up at the end, in the order of the threads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from studio.kernels.cache import Kernel, device, get_threads, inline, kernel
from studio.kernels.vec import (
    LANES,
    absolute,
    broadcast,
    element,
    fma,
    fnma,
    lane_index,
    load,
    load_block,
    prefetch,
    select,
    splat,
    store,
    sum_lanes,
    sum_rows,
)
from studio.kernels.workspace import Workspace

from .binning import RECORD, TILE, Tiles, check_records, share
from .blend import (
    AHEAD,
    ALPHA_MAX,
    BLOCK,
    LN2,
    PIXELS,
    TRANSMITTANCE_MIN,
    accumulate,
    alphas,
    filled,
    full_light,
    in_plane,
    load_plane,
    scaled,
    splat_exponents,
    splat_offsets,
    store_plane,
    tile_axes,
)
from .raster_forward import Raster, check_features

GRADIENT_BLOCK = 16
"""Gaussians that share one `touched` flag."""

# A splat's work on a tile is one chain of some 150 cycles. It is cut into three stages, each run for a batch of splats
# with the values between in scratch memory (first-level cache), so that the CPU finds independent work to overlap.
_BATCH = 8
_STAGE = 2 * PIXELS + 12 * LANES
"""Floats between the stages for one splat: alpha and c·v of each pixel, then up to twelve vectors to be summed."""


@dataclass(frozen=True)
class RasterGradients:
    """What :func:`rasterize_backward` returns; arrays are views into the workspace.

    Attributes:
        rows: (N, 16) float32: d/dx, d/dy, d/dA, d/dB, d/dC, d/dL, d/dr, d/dg, d/db, d/ddepth, Σ|d/dx|, Σ|d/dy| (the
            last two over pixels, 0 unless asked for), four zeros. All 0 for Gaussians that no pixel took in.
        touched: (ceil(N / 16),) uint8, 1 where one of 16 Gaussians may have a row other than 0.
        features: (N, C) float32, or ``None`` if colours came from the records.
        background: (C,) float32.
    """

    rows: NDArray[np.float32]
    touched: NDArray[np.uint8]
    features: NDArray[np.float32] | None
    background: NDArray[np.float32]


@device
def _clear_blocks(touched: Any, first: int, last: int, rows: Any, feature_rows: Any) -> None:
    """Zero the rows of the blocks that the previous call touched."""
    planes = feature_rows.shape[1]
    zero = splat(np.float32(0.0))
    for block in range(first, last):
        if touched[block]:
            touched[block] = 0
            for i in range(block * GRADIENT_BLOCK, (block + 1) * GRADIENT_BLOCK):
                store(rows, i * RECORD, zero)
            if planes:
                feature_rows[block * GRADIENT_BLOCK : (block + 1) * GRADIENT_BLOCK, :] = np.float32(0.0)


@device
def _find_shared(info: Any, first: int, last: int, columns: int, bounds: Any, slot: Any, shared: Any) -> int:
    """Collect the splats whose tile rows are cut by a bound between threads, in `shared` from `first` on."""
    found = first
    for i in range(first, last):
        where = info[i]
        row = np.int64(where >> np.uint64(16)) & 0xFFFF
        low = row * columns
        high = low + np.int64(where & np.uint64(0xFFFF)) * columns
        slot[i] = -1
        for k in range(1, bounds.shape[0] - 1):
            if low < bounds[k] < high:
                shared[found] = np.int32(i)
                found += 1
                break
    return found - first


@kernel(
    "i8(u8[::1], i4[::1], i8, u1[::1], f4[:,::1], f4[:,::1], i8[::1], i4[::1], i4[::1], i8[::1])",
    parallel=True,
)
def _prepare(
    info: Any,
    count: Any,
    columns: int,
    touched: Any,
    rows: Any,
    feature_rows: Any,
    bounds: Any,
    slot: Any,
    shared: Any,
    found: Any,
) -> int:
    """Share out the tiles by list length, clear old gradients, and number the shared splats. Returns how many."""
    threads = bounds.shape[0] - 1
    tiles = count.shape[0]
    splats = info.shape[0]
    work = 0
    for tile in range(tiles):
        work += count[tile] + 4  # a tile without splats still costs about as much as four
    done = 0
    k = 1
    bounds[0] = 0
    for tile in range(tiles):
        if k < threads and done * threads >= work * k:
            bounds[k] = tile
            k += 1
        done += count[tile] + 4
    while k <= threads:
        bounds[k] = tiles
        k += 1
    for part in prange(threads):
        t = np.int64(part)
        blocks = touched.shape[0]
        _clear_blocks(
            touched,
            share(blocks, t, threads),
            share(blocks, t + 1, threads),
            rows,
            feature_rows,
        )
        first = share(splats, t, threads)
        found[t] = _find_shared(info, first, share(splats, t + 1, threads), columns, bounds, slot, shared)
    total = 0
    for t in range(threads):
        first = share(splats, t, threads)
        for k in range(first, first + found[t]):
            # `total` never passes `k`, so closing the gaps in place is safe.
            shared[total] = shared[k]
            slot[shared[total]] = np.int32(total)
            total += 1
    return total


@device
def _load_tile(
    image: Any,
    v_image: Any,
    transmittance: Any,
    v_transmittance: Any,
    column: int,
    row: int,
    width: int,
    height: int,
    planes: int,
    scratch: Any,
    base: int,
    v_background: Any,
    v_background_base: int,
) -> None:
    """Fill scratch planes: v_image of each channel, then image·v_image + T·v_T; add the background's gradient."""
    x0 = column * TILE
    y0 = row * TILE
    corner = y0 * width + x0
    size = height * width
    rest = base + planes * PIXELS
    if x0 + TILE <= width and y0 + TILE <= height:
        for block in range(4):
            at = corner + (block >> 1) * 4 * width + (block & 1) * 4
            light = load_block(transmittance, at, width)
            left = splat(np.float32(0.0))
            if v_transmittance.shape[0]:
                left = light * load_block(v_transmittance, at, width)
            for plane in range(planes):
                v = load_block(v_image, plane * size + at, width)
                store(scratch, base + plane * PIXELS + block * BLOCK, v)
                left = fma(v, load_block(image, plane * size + at, width), left)
                v_background[v_background_base + plane] += np.float64(sum_lanes(v * light))
            store(scratch, rest + block * BLOCK, left)
    else:
        for i in range(base, rest + PIXELS):
            scratch[i] = np.float32(0.0)
        for y in range(min(TILE, height - y0)):
            for x in range(min(TILE, width - x0)):
                pixel = corner + y * width + x
                light = transmittance[pixel]
                left = light * v_transmittance[pixel] if v_transmittance.shape[0] else np.float32(0.0)
                for plane in range(planes):
                    v = v_image[plane * size + pixel]
                    scratch[base + plane * PIXELS + in_plane(x, y)] = v
                    left += v * image[plane * size + pixel]
                    v_background[v_background_base + plane] += np.float64(v * light)
                scratch[rest + in_plane(x, y)] = left


@inline
def _block_gradient(alpha: Any, light: Any, rest: Any, d: Any) -> Any:
    """One block's (weight, g / ln 2, light after, rest after) for c·v = d. Pixels that have ended have no light."""
    after = fnma(alpha, light, light)
    passed = after > np.float32(TRANSMITTANCE_MIN)
    weight = select(passed, alpha * light, np.float32(0.0))
    own = weight * d
    rest = rest - own
    g = fnma(rest, alpha / (np.float32(1.0) - alpha), own)
    # No gradient through a clamped alpha, nor from a pixel that this splat ended.
    g = select(passed & (alpha < np.float32(ALPHA_MAX)), g, np.float32(0.0))
    return weight, g, select(passed, after, np.float32(0.0)), rest


@inline
def load_six(array: Any, at: int) -> Any:
    """Six vectors in a row."""
    return (
        load(array, at),
        load(array, at + LANES),
        load(array, at + 2 * LANES),
        load(array, at + 3 * LANES),
        load(array, at + 4 * LANES),
        load(array, at + 5 * LANES),
    )


@inline
def _dot_planes(planes: Any, base: int, weights: Any) -> Any:
    """Σ over blocks of weight · v_image for one channel, still to be summed over lanes."""
    total = weights[0] * load(planes, base)
    total = fma(weights[1], load(planes, base + BLOCK), total)
    total = fma(weights[2], load(planes, base + 2 * BLOCK), total)
    return fma(weights[3], load(planes, base + 3 * BLOCK), total)


@inline
def _absolute_sum(factors: Any, g: Any) -> Any:
    total = absolute(factors[0] * g[0])
    total = total + absolute(factors[1] * g[1])
    total = total + absolute(factors[2] * g[2])
    return total + absolute(factors[3] * g[3])


def _make_tile_loop(channels: int, absgrad: bool) -> Any:
    """The loop over a thread's tiles, for 3 or 4 channels of the record, or 0: any number of separate features."""

    @device
    def tile_gradients(
        records: Any,
        features: Any,
        ids: Any,
        start: Any,
        count: Any,
        first_tile: int,
        last_tile: int,
        width: int,
        height: int,
        planes: int,
        image: Any,
        transmittance: Any,
        v_image: Any,
        v_transmittance: Any,
        slot: Any,
        rows: Any,
        own_rows: Any,
        own_base: int,
        feature_rows: Any,
        own_feature_rows: Any,
        touched: Any,
        v_background: Any,
        v_background_base: int,
        scratch: Any,
        scratch_base: int,
    ) -> None:
        columns = (width + TILE - 1) // TILE
        stage = scratch_base + (planes + 1) * PIXELS
        lane = lane_index()
        # g leaves out the ln 2 of d2^p/dp; every sum but those of the channels (6 to 9) takes it here.
        scale = select(
            (lane < np.int32(6)) | (lane >= np.int32(10)),
            np.float32(LN2),
            np.float32(1.0),
        )
        for tile in range(first_tile, last_tile):
            tile_row = tile // columns
            column = tile - tile_row * columns
            axes = tile_axes(column, tile_row)
            _load_tile(
                image,
                v_image,
                transmittance,
                v_transmittance,
                column,
                tile_row,
                width,
                height,
                planes,
                scratch,
                scratch_base,
                v_background,
                v_background_base,
            )
            rest = load_plane(scratch, scratch_base + planes * PIXELS)
            light = full_light(axes, width, height)
            begin = start[tile]
            end = begin + count[tile]
            for batch in range(begin, end, _BATCH):
                size = min(_BATCH, end - batch)
                for e in range(size):
                    index = np.int64(element(ids, batch + e))
                    base = index * RECORD
                    ahead = np.int64(element(ids, batch + e + AHEAD))
                    prefetch(records, ahead * RECORD)
                    prefetch(rows, ahead * RECORD)
                    at = stage + e * _STAGE
                    exponents = splat_exponents(records, base, splat_offsets(records, base, axes))
                    store_plane(scratch, at, alphas(exponents))
                    if channels == 0:
                        d = filled(0.0)
                        for plane in range(planes):
                            value = broadcast(features, index * planes + plane)
                            d = accumulate(
                                d,
                                load_plane(scratch, scratch_base + plane * PIXELS),
                                value,
                            )
                    else:
                        d = scaled(
                            load_plane(scratch, scratch_base),
                            broadcast(records, base + 6),
                        )
                        v = load_plane(scratch, scratch_base + PIXELS)
                        d = accumulate(d, v, broadcast(records, base + 7))
                        v = load_plane(scratch, scratch_base + 2 * PIXELS)
                        d = accumulate(d, v, broadcast(records, base + 8))
                        if channels == 4:
                            v = load_plane(scratch, scratch_base + 3 * PIXELS)
                            d = accumulate(d, v, broadcast(records, base + 9))
                    store_plane(scratch, at + PIXELS, d)

                for e in range(size):
                    base = np.int64(element(ids, batch + e)) * RECORD
                    at = stage + e * _STAGE
                    alpha = load_plane(scratch, at)
                    d = load_plane(scratch, at + PIXELS)
                    w0, g0, t0, s0 = _block_gradient(alpha[0], light[0], rest[0], d[0])
                    w1, g1, t1, s1 = _block_gradient(alpha[1], light[1], rest[1], d[1])
                    w2, g2, t2, s2 = _block_gradient(alpha[2], light[2], rest[2], d[2])
                    w3, g3, t3, s3 = _block_gradient(alpha[3], light[3], rest[3], d[3])
                    light = (t0, t1, t2, t3)
                    rest = (s0, s1, s2, s3)
                    weights = (w0, w1, w2, w3)

                    # Moments of g, first over the blocks that share dx, then over those that share dy.
                    left, right, top, bottom = splat_offsets(records, base, axes)
                    sum_left = g0 + g2
                    sum_right = g1 + g3
                    dy_left = fma(g0, top, g2 * bottom)
                    dy_right = fma(g1, top, g3 * bottom)
                    dx_left = sum_left * left
                    dx_right = sum_right * right
                    m_x = dx_left + dx_right
                    m_y = dy_left + dy_right
                    a2 = broadcast(records, base + 2) * np.float32(-2.0)
                    b = -broadcast(records, base + 3)
                    c2 = broadcast(records, base + 4) * np.float32(-2.0)
                    sums = at + 2 * PIXELS
                    store(scratch, sums, fma(a2, m_x, b * m_y))
                    store(scratch, sums + LANES, fma(b, m_x, c2 * m_y))
                    store(scratch, sums + 2 * LANES, fma(dx_left, left, dx_right * right))
                    store(scratch, sums + 3 * LANES, fma(dy_left, left, dy_right * right))
                    top_moment = (g0 + g1) * top
                    bottom_moment = (g2 + g3) * bottom
                    store(
                        scratch,
                        sums + 4 * LANES,
                        fma(top_moment, top, bottom_moment * bottom),
                    )
                    store(scratch, sums + 5 * LANES, sum_left + sum_right)
                    if channels == 0:
                        store_plane(scratch, at, weights)
                    else:
                        for plane in range(channels):
                            v = _dot_planes(scratch, scratch_base + plane * PIXELS, weights)
                            store(scratch, sums + (6 + plane) * LANES, v)
                    if absgrad:
                        g = (g0, g1, g2, g3)
                        x_left = a2 * left
                        x_right = a2 * right
                        y_left = b * left
                        y_right = b * right
                        by_x = (
                            fma(b, top, x_left),
                            fma(b, top, x_right),
                            fma(b, bottom, x_left),
                            fma(b, bottom, x_right),
                        )
                        by_y = (
                            fma(c2, top, y_left),
                            fma(c2, top, y_right),
                            fma(c2, bottom, y_left),
                            fma(c2, bottom, y_right),
                        )
                        store(scratch, sums + 10 * LANES, _absolute_sum(by_x, g))
                        store(scratch, sums + 11 * LANES, _absolute_sum(by_y, g))

                for e in range(size):
                    index = np.int64(element(ids, batch + e))
                    at = stage + e * _STAGE
                    sums = at + 2 * PIXELS
                    zero = splat(np.float32(0.0))
                    x, y, xx, xy, yy, one = load_six(scratch, sums)
                    if channels == 0:
                        red = zero
                        green = zero
                        blue = zero
                    else:
                        red = load(scratch, sums + 6 * LANES)
                        green = load(scratch, sums + 7 * LANES)
                        blue = load(scratch, sums + 8 * LANES)
                    depth = load(scratch, sums + 9 * LANES) if channels == 4 else zero
                    if absgrad:
                        abs_x = load(scratch, sums + 10 * LANES)
                        abs_y = load(scratch, sums + 11 * LANES)
                        row = sum_rows(
                            (
                                x,
                                y,
                                xx,
                                xy,
                                yy,
                                one,
                                red,
                                green,
                                blue,
                                depth,
                                abs_x,
                                abs_y,
                            )
                        )
                    elif channels == 4:
                        row = sum_rows((x, y, xx, xy, yy, one, red, green, blue, depth))
                    elif channels == 3:
                        row = sum_rows((x, y, xx, xy, yy, one, red, green, blue))
                    else:
                        row = sum_rows((x, y, xx, xy, yy, one))
                    own = np.int64(element(slot, index))
                    touched[index >> 4] = 1
                    if own < 0:
                        store(
                            rows,
                            index * RECORD,
                            fma(row, scale, load(rows, index * RECORD)),
                        )
                    else:
                        own += own_base
                        store(
                            own_rows,
                            own * RECORD,
                            fma(row, scale, load(own_rows, own * RECORD)),
                        )
                    if channels == 0:
                        weights = load_plane(scratch, at)
                        for plane in range(planes):
                            v_feature = sum_lanes(_dot_planes(scratch, scratch_base + plane * PIXELS, weights))
                            if own < 0:
                                feature_rows[index * planes + plane] += v_feature
                            else:
                                own_feature_rows[own * planes + plane] += v_feature

    return tile_gradients


_gradients_rgb = _make_tile_loop(3, False)
_gradients_rgb_abs = _make_tile_loop(3, True)
_gradients_rgbd = _make_tile_loop(4, False)
_gradients_rgbd_abs = _make_tile_loop(4, True)
_gradients_features = _make_tile_loop(0, False)
_gradients_features_abs = _make_tile_loop(0, True)


@device
def _clear_own(own_rows: Any, own_feature_rows: Any, planes: int, first: int, last: int) -> None:
    for i in range(first, last):
        store(own_rows, i * RECORD, splat(np.float32(0.0)))
    for i in range(first * planes, last * planes):
        own_feature_rows[i] = np.float32(0.0)


@device
def _merge_shared(
    shared: Any,
    first: int,
    last: int,
    count: int,
    threads: int,
    rows: Any,
    own: Any,
    features: Any,
    own_features: Any,
) -> None:
    """Add up the threads' own rows of the shared splats `first` to `last`; nobody else has written to their rows."""
    planes = features.shape[1]
    for k in range(first, last):
        index = np.int64(shared[k])
        total = load(own, k * RECORD)
        for t in range(1, threads):
            total = total + load(own, (t * count + k) * RECORD)
        store(rows, index * RECORD, total)
        for plane in range(planes):
            value = np.float32(0.0)
            for t in range(threads):
                value += own_features[(t * count + k) * planes + plane]
            features[index, plane] = value


@functools.cache
def _backward_kernel(channels: int, absgrad: bool) -> Kernel:
    """The parallel kernel of one variant, compiled on its first call."""
    # A closure over constants: Numba drops the other branches before typing, and its cache tells the variants apart.

    @kernel(
        "void(f4[:,::1], f4[:,::1], i4[::1], i8[::1], i4[::1], i8[::1], i8, i8, f4[:,:,::1], f4[:,::1], f4[:,:,::1],"
        " f4[:,::1], i4[::1], i4[::1], i8, f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], u1[::1], f8[:,::1], f4[:,::1])",
        parallel=True,
    )
    def backward(
        records: Any,
        features: Any,
        ids: Any,
        start: Any,
        count: Any,
        bounds: Any,
        width: int,
        height: int,
        image: Any,
        transmittance: Any,
        v_image: Any,
        v_transmittance: Any,
        slot: Any,
        shared: Any,
        shared_count: int,
        rows: Any,
        own_rows: Any,
        feature_rows: Any,
        own_feature_rows: Any,
        touched: Any,
        v_background: Any,
        scratch: Any,
    ) -> None:
        threads = bounds.shape[0] - 1
        # Tiles first, then the shared rows, through one parallel loop: each one costs most of a second to compile.
        for stage in range(2):
            for part in prange(threads):
                t = np.int64(part)
                if stage == 1:
                    _merge_shared(
                        shared,
                        share(shared_count, t, threads),
                        share(shared_count, t + 1, threads),
                        shared_count,
                        threads,
                        rows,
                        own_rows,
                        feature_rows,
                        own_feature_rows.reshape(-1),
                    )
                else:
                    _clear_own(
                        own_rows,
                        own_feature_rows.reshape(-1),
                        feature_rows.shape[1],
                        t * shared_count,
                        (t + 1) * shared_count,
                    )
                    args = (
                        records,
                        features,
                        ids,
                        start,
                        count,
                        bounds[t],
                        bounds[t + 1],
                        width,
                        height,
                        image.shape[0],
                        image.reshape(-1),
                        transmittance.reshape(-1),
                        v_image.reshape(-1),
                        v_transmittance.reshape(-1),
                        slot,
                        rows,
                        own_rows,
                        t * shared_count,
                        feature_rows.reshape(-1),
                        own_feature_rows.reshape(-1),
                        touched,
                        v_background.reshape(-1),
                        t * v_background.shape[1],
                        scratch.reshape(-1),
                        t * scratch.shape[1],
                    )
                    if channels == 0:
                        if absgrad:
                            _gradients_features_abs(*args)
                        else:
                            _gradients_features(*args)
                    elif channels == 3:
                        if absgrad:
                            _gradients_rgb_abs(*args)
                        else:
                            _gradients_rgb(*args)
                    else:
                        if absgrad:
                            _gradients_rgbd_abs(*args)
                        else:
                            _gradients_rgbd(*args)

    return backward


def _check_plane(name: str, array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`array` as C-contiguous writable float32; ValueError if its shape is not `shape`."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return np.require(array, np.float32, ["C", "W"])


def rasterize_backward(
    records: NDArray[np.float32],
    tiles: Tiles,
    raster: Raster,
    workspace: Workspace,
    v_image: NDArray[np.float32],
    v_transmittance: NDArray[np.float32] | None = None,
    *,
    features: NDArray[np.float32] | None = None,
    absgrad: bool = False,
) -> RasterGradients:
    """Gradients of a scalar loss through :func:`rasterize_forward`.

    Args:
        records: (N, 16) float32, as in the forward pass.
        tiles: the tiles that the forward pass used.
        raster: its result.
        workspace: holds the result until the next backward pass; need not be the forward pass's.
        v_image: (C, H, W) float32, dL/dimage.
        v_transmittance: (H, W) float32, dL/dT apart from the background's part in the image; ``None`` is 0.
        features: (N, C) float32 if the forward pass had them.
        absgrad: also sum |dL/dx| and |dL/dy| over pixels (Ye et al. 2024, AbsGS); a few percent slower.

    Raises:
        ValueError: a wrong shape or dtype.
    """
    check_records(records)
    count, threads = len(records), get_threads()
    width, height, planes = tiles.width, tiles.height, len(raster.image)
    if count != len(tiles.info):
        raise ValueError(f"records: expected the {len(tiles.info)} records that were binned, got {count}")
    v_image = _check_plane("v_image", v_image, (planes, height, width))
    if v_transmittance is None:
        v_transmittance = workspace.array("backward.no_plane", (0, 0))
    else:
        v_transmittance = _check_plane("v_transmittance", v_transmittance, (height, width))
    if features is None:
        variant, feature_planes = planes, 0
        features = workspace.array("backward.no_features", (0, 1))
        if planes not in (3, 4):
            raise ValueError(f"features: the image has {planes} channels, so its features are needed")
    else:
        check_features(features, count)
        feature_planes = planes
        if features.shape[1] != planes:
            raise ValueError(f"features: expected shape ({count}, {planes}), got {features.shape}")
        variant = 0

    # `touched` says which rows of the last call are to be cleared, so all three belong together, one set a layout.
    layout = f"backward.{feature_planes}"
    blocks = -(-count // GRADIENT_BLOCK)
    cleared = max(blocks, workspace.capacity(f"{layout}.touched"))
    touched = workspace.array(f"{layout}.touched", (cleared,), np.uint8)
    rows = workspace.array(f"{layout}.rows", (cleared * GRADIENT_BLOCK, RECORD))
    feature_rows = workspace.array(f"{layout}.features", (cleared * GRADIENT_BLOCK, feature_planes))
    bounds = workspace.array("backward.bounds", (threads + 1,), np.int64)
    slot = workspace.array("backward.slot", (count,), np.int32)
    shared = workspace.array("backward.shared", (count,), np.int32)
    found = workspace.array("backward.found", (threads,), np.int64)
    shared_count = _prepare(
        tiles.info,
        tiles.count,
        tiles.columns,
        touched,
        rows,
        feature_rows,
        bounds,
        slot,
        shared,
        found,
    )
    own_rows = workspace.array("backward.own_rows", (threads * shared_count, RECORD))
    own_feature_rows = workspace.array("backward.own_features", (threads * shared_count, feature_planes))
    v_background = workspace.array("backward.v_background", (threads, planes), np.float64)
    v_background.fill(0.0)
    scratch = workspace.array("backward.scratch", (threads, (planes + 2) * PIXELS + _BATCH * _STAGE))
    _backward_kernel(variant, absgrad)(
        records,
        features,
        tiles.ids,
        tiles.start,
        tiles.count,
        bounds,
        width,
        height,
        raster.image,
        raster.transmittance,
        v_image,
        v_transmittance,
        slot,
        shared,
        shared_count,
        rows,
        own_rows,
        feature_rows,
        own_feature_rows,
        touched,
        v_background,
        scratch,
    )
    return RasterGradients(
        rows=rows[:count],
        touched=touched[:blocks],
        features=feature_rows[:count] if feature_planes else None,
        background=v_background.sum(axis=0).astype(np.float32),
    )
