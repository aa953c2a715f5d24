"""The backward pass through a thread's tiles: see :mod:`.raster_backward` for the mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.kernels.cache import device, inline
from studio.kernels.vec import (
    FLAGS,
    absolute,
    any_lane,
    bits_set,
    element,
    flagged,
    fma,
    fnma,
    lane_index,
    lane_index8,
    load,
    load8,
    prefetch,
    put,
    select,
    splat8,
    store,
    sum_lanes,
    sum_rows,
    to_float,
    trailing_zeros,
)

from .blend import (
    ALPHA_MAX,
    LN2,
    PIXELS,
    ROW_TERMS,
    STRIP,
    STRIP_ROWS,
    STRIPS,
    TRANSMITTANCE_MIN,
    alpha_of,
    fill_strip,
    first_bits,
    inside_strip,
    is_drawn,
    load_image_strip,
    load_strip,
    measure_rows,
    row_centres,
    strip_columns,
    strip_exponent,
    strip_rows,
)
from .records import RECORD, SLOPE, TILE

BATCH = 32
"""Splats of a tile between one stage and the next; at most FLAGS."""
STAGE = ROW_TERMS + 2 * PIXELS
"""Floats between the stages for one splat: what its rows share, then dL/dexponent and the weight of each pixel."""


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
        for strip in range(STRIPS):
            at = corner + STRIP_ROWS * strip * width
            light = load_image_strip(transmittance, at, width)
            left = fill_strip(np.float32(0.0))
            if v_transmittance.shape[0]:
                left = light * load_image_strip(v_transmittance, at, width)
            for plane in range(planes):
                v = load_image_strip(v_image, plane * size + at, width)
                store(scratch, base + plane * PIXELS + strip * STRIP, v)
                left = fma(v, load_image_strip(image, plane * size + at, width), left)
                v_background[v_background_base + plane] += np.float64(sum_lanes(v * light))
            store(scratch, rest + strip * STRIP, left)
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
                    scratch[base + plane * PIXELS + y * TILE + x] = v
                    left += v * image[plane * size + pixel]
                    v_background[v_background_base + plane] += np.float64(v * light)
                scratch[rest + y * TILE + x] = left


@inline
def odds_of(alpha: Any) -> Any:
    """alpha / (1 − alpha)."""
    return alpha / (np.float32(1.0) - alpha)


@inline
def strip_gradient(alpha: Any, odds: Any, light: Any, rest: Any, d: Any) -> Any:
    """One strip's (weight, g / ln 2, light after, rest after) for c·v = d. Pixels that have ended have no light."""
    after = fnma(alpha, light, light)
    passed = after > np.float32(TRANSMITTANCE_MIN)
    weight = select(passed, alpha * light, np.float32(0.0))
    own = weight * d
    rest = rest - own
    g = fnma(rest, odds, own)
    # No gradient through a clamped alpha, nor from a pixel that this splat ended.
    g = select(passed & (alpha < np.float32(ALPHA_MAX)), g, np.float32(0.0))
    return weight, g, select(passed, after, np.float32(0.0)), rest


@inline
def add_moments(g0: Any, g1: Any, g2: Any, g: Any, dy: Any) -> Any:
    """Add a row to the sums of g, g dy and g dy² over the rows of each column."""
    moment = g * dy
    return g0 + g, g1 + moment, fma(moment, dy, g2)


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
        grid = (width + TILE - 1) // TILE
        rest_base = scratch_base + planes * PIXELS
        light_base = rest_base + PIXELS
        stage = light_base + PIXELS
        columns = strip_columns()
        dark, never = fill_strip(np.float32(0.0)), fill_strip(np.float32(-1e3))
        reached = np.empty(FLAGS, np.uint8)
        lane = lane_index()
        # g leaves out the ln 2 of d2^p/dp; every sum but those of the channels (6 to 9) takes it here.
        scale = select(
            (lane < np.int32(6)) | (lane >= np.int32(10)),
            np.float32(LN2),
            np.float32(1.0),
        )
        for tile in range(first_tile, last_tile):
            tile_row = tile // grid
            column = tile - tile_row * grid
            left = np.float32(np.float32(column * TILE) + np.float32(0.5))
            top = np.float32(np.float32(tile_row * TILE) + np.float32(0.5))
            centres = row_centres(tile_row)
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
            alive = np.int64(0)
            for strip in range(STRIPS):
                inside = inside_strip(strip, column, tile_row, width, height)
                store(scratch, light_base + strip * STRIP, select(inside, np.float32(1.0), np.float32(0.0)))
                alive |= strip_rows(strip) if any_lane(inside) else np.int64(0)
            begin = start[tile]
            end = begin + count[tile]
            for batch in range(begin, end, BATCH):
                size = min(BATCH, end - batch)
                lit = alive
                for e in range(size):
                    base = np.int64(element(ids, batch + e)) * RECORD
                    ahead = np.int64(element(ids, batch + e + BATCH))
                    prefetch(slot, ahead)
                    prefetch(records, ahead * RECORD)
                    prefetch(rows, ahead * RECORD)
                    put(reached, e, np.uint8(measure_rows(records, base, left, centres, scratch, stage + e * STAGE)))

                for strip in range(STRIPS):
                    # Bit e: this strip has to look at splat e of the batch.
                    word = flagged(reached, 0, strip_rows(strip)) & first_bits(size)
                    if word == 0 or lit & strip_rows(strip) == 0:
                        continue
                    at = scratch_base + strip * STRIP
                    light = load_strip(scratch, light_base + strip * STRIP)
                    rest = load_strip(scratch, rest_base + strip * STRIP)
                    # Three turns at once, as in the forward pass.
                    exponent, alpha, odds = never, dark, dark
                    last = trailing_zeros(word)
                    coming, current = last, last
                    for _ in range(bits_set(word) + 2):
                        e, current = current, coming
                        if word != 0:
                            last = trailing_zeros(word)
                            word &= word - 1
                        coming = last
                        slope = element(records, np.int64(element(ids, batch + coming)) * RECORD + SLOPE)
                        following = strip_exponent(scratch, stage + coming * STAGE, strip, slope, columns)
                        alpha_following = alpha_of(exponent, is_drawn(exponent))
                        odds_following = odds_of(alpha_following)
                        index = np.int64(element(ids, batch + e))
                        base = index * RECORD
                        terms = stage + e * STAGE
                        if channels == 0:
                            d = fill_strip(np.float32(0.0))
                            for plane in range(planes):
                                value = element(features, index * planes + plane)
                                d = fma(load_strip(scratch, at + plane * PIXELS), value, d)
                        else:
                            d = load_strip(scratch, at) * element(records, base + 6)
                            d = fma(load_strip(scratch, at + PIXELS), element(records, base + 7), d)
                            d = fma(load_strip(scratch, at + 2 * PIXELS), element(records, base + 8), d)
                            if channels == 4:
                                d = fma(load_strip(scratch, at + 3 * PIXELS), element(records, base + 9), d)
                        weight, g, light, rest = strip_gradient(alpha, odds, light, rest, d)
                        store(scratch, terms + ROW_TERMS + strip * STRIP, g)
                        store(scratch, terms + ROW_TERMS + PIXELS + strip * STRIP, weight)
                        exponent, alpha, odds = following, alpha_following, odds_following
                    store(scratch, light_base + strip * STRIP, light)
                    store(scratch, rest_base + strip * STRIP, rest)
                    if not any_lane(light > np.float32(0.0)):
                        alive &= ~strip_rows(strip)

                for e in range(size):
                    index = np.int64(element(ids, batch + e))
                    base = index * RECORD
                    terms = stage + e * STAGE
                    seen = np.int64(element(reached, e)) & lit
                    a2 = element(records, base + 2) * np.float32(-2.0)
                    b = -element(records, base + 3)
                    c2 = element(records, base + 4) * np.float32(-2.0)
                    dx = to_float(lane_index8()) + np.float32(left - element(records, base))
                    dy_first = np.float32(top - element(records, base + 1))
                    x_of_dx = dx * a2
                    y_of_dx = dx * b
                    # Sums over the rows of each column of g, g dy, g dy², then of |d/dx| and |d/dy|.
                    zero = splat8(np.float32(0.0))
                    g0, g1, g2, abs_x, abs_y = zero, zero, zero, zero, zero
                    todo = seen
                    while todo != 0:
                        row = trailing_zeros(todo)
                        todo &= todo - 1
                        dy = splat8(np.float32(dy_first + np.float32(row)))
                        g = load8(scratch, terms + ROW_TERMS + row * TILE)
                        g0, g1, g2 = add_moments(g0, g1, g2, g, dy)
                        if absgrad:
                            size_of_g = absolute(g)
                            abs_x = fma(size_of_g, absolute(fma(dy, b, x_of_dx)), abs_x)
                            abs_y = fma(size_of_g, absolute(fma(dy, c2, y_of_dx)), abs_y)
                    red, green, blue, depth = zero, zero, zero, zero
                    if channels != 0:
                        todo = seen
                        while todo != 0:
                            row = trailing_zeros(todo)
                            todo &= todo - 1
                            at = scratch_base + row * TILE
                            w = load8(scratch, terms + ROW_TERMS + PIXELS + row * TILE)
                            red = fma(w, load8(scratch, at), red)
                            green = fma(w, load8(scratch, at + PIXELS), green)
                            blue = fma(w, load8(scratch, at + 2 * PIXELS), blue)
                            if channels == 4:
                                depth = fma(w, load8(scratch, at + 3 * PIXELS), depth)
                    g_dx = g0 * dx
                    v_x = fma(g0, x_of_dx, g1 * b)
                    v_y = fma(g0, y_of_dx, g1 * c2)
                    if absgrad:
                        row_sums = sum_rows(
                            (v_x, v_y, g_dx * dx, g1 * dx, g2, g0, red, green, blue, depth, abs_x, abs_y)
                        )
                    elif channels != 0:
                        row_sums = sum_rows((v_x, v_y, g_dx * dx, g1 * dx, g2, g0, red, green, blue, depth))
                    else:
                        row_sums = sum_rows((v_x, v_y, g_dx * dx, g1 * dx, g2, g0))
                    own = np.int64(element(slot, index))
                    put(touched, index >> 4, np.uint8(1))
                    if own < 0:
                        store(rows, index * RECORD, fma(row_sums, scale, load(rows, index * RECORD)))
                    else:
                        own += own_base
                        store(own_rows, own * RECORD, fma(row_sums, scale, load(own_rows, own * RECORD)))
                    if channels == 0:
                        for plane in range(planes):
                            total = zero
                            todo = seen
                            while todo != 0:
                                at = trailing_zeros(todo) * TILE
                                todo &= todo - 1
                                w = load8(scratch, terms + ROW_TERMS + PIXELS + at)
                                total = fma(w, load8(scratch, scratch_base + plane * PIXELS + at), total)
                            v_feature = sum_lanes(total)
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
