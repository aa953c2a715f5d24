"""The backward pass through a thread's tiles: see :mod:`.raster_backward` for the mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.kernels.cache import device, inline
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
from .records import RECORD, TILE

# A splat's work on a tile is one chain of some 150 cycles. It is cut into three stages, each run for a batch of splats
# with the values between in scratch memory (first-level cache), so that the CPU finds independent work to overlap.
BATCH = 8
STAGE = 2 * PIXELS + 12 * LANES
"""Floats between the stages for one splat: alpha and c·v of each pixel, then up to twelve vectors to be summed."""


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
def block_gradient(alpha: Any, light: Any, rest: Any, d: Any) -> Any:
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
def _load_six(array: Any, at: int) -> Any:
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
            for batch in range(begin, end, BATCH):
                size = min(BATCH, end - batch)
                for e in range(size):
                    index = np.int64(element(ids, batch + e))
                    base = index * RECORD
                    ahead = np.int64(element(ids, batch + e + AHEAD))
                    prefetch(records, ahead * RECORD)
                    prefetch(rows, ahead * RECORD)
                    at = stage + e * STAGE
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
                    at = stage + e * STAGE
                    alpha = load_plane(scratch, at)
                    d = load_plane(scratch, at + PIXELS)
                    w0, g0, t0, s0 = block_gradient(alpha[0], light[0], rest[0], d[0])
                    w1, g1, t1, s1 = block_gradient(alpha[1], light[1], rest[1], d[1])
                    w2, g2, t2, s2 = block_gradient(alpha[2], light[2], rest[2], d[2])
                    w3, g3, t3, s3 = block_gradient(alpha[3], light[3], rest[3], d[3])
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
                    at = stage + e * STAGE
                    sums = at + 2 * PIXELS
                    zero = splat(np.float32(0.0))
                    x, y, xx, xy, yy, one = _load_six(scratch, sums)
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


gradients_rgb = _make_tile_loop(3, False)
gradients_rgb_abs = _make_tile_loop(3, True)
gradients_rgbd = _make_tile_loop(4, False)
gradients_rgbd_abs = _make_tile_loop(4, True)
gradients_features = _make_tile_loop(0, False)
gradients_features_abs = _make_tile_loop(0, True)
