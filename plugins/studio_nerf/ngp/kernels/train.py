"""Forward and backward pass of a training step for whole rays, block by block, without leaving the cache.

A block is a few consecutive rays with about `layers.BLOCK` samples: both networks run forward, the rays are composited
and compared with their photos, and the gradient runs back to the features of each sample. So no activation of the
networks is ever written to memory or computed twice.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import exp
from studio.kernels.vec import element, fetch_add, load, put, splat, store

from .layers import (
    BLOCK,
    DENSITY_SHIFT,
    GEOMETRY,
    LOG_DENSITY_LIMIT,
    WEIGHTS,
    Weights,
    color_forward,
    densities,
    density_forward,
    gather_features,
    layout,
    sigmoid,
    take_column,
)
from .matmul import multiply_add, multiply_mask, multiply_store

SHARES = 16
"""Work shares, each with its own sums; fixed, so that results do not depend on the number of threads."""
SUMS = 3
"""Figures summed over rays: loss, squared error of the clamped colour, distortion."""
_RUNS = 9
"""Runs of one number a sample: density, length, opacity, 3 colours, weight, light behind it, log of the density."""

f32 = np.float32
_ZERO, _ONE = f32(0.0), f32(1.0)


@cache.inline
def _composite_ray(
    scratch: np.ndarray, at: int, rows: int, first: int, end: int, ray: int, sample: int, target: np.ndarray,
    background: np.ndarray, middles: np.ndarray, options: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """One ray, whose samples are the rows `first` to `end` of the block: loss and gradients of densities and colours.

    At entry the runs from `at` on hold density, length, opacity and colours. Afterwards the first run holds the
    gradient with respect to the log of the density, and those of the colours the ones with respect to their logits.
    """
    density, length, alpha = at, at + rows, at + 2 * rows
    red, green, blue = at + 3 * rows, at + 4 * rows, at + 5 * rows
    weight, after = at + 6 * rows, at + 7 * rows
    light = _ONE
    r, g, b = _ZERO, _ZERO, _ZERO
    mass, moment = _ZERO, _ZERO
    limit, scale, spread, bend, push = options[0], options[1], options[2], options[3], options[4]
    for s in range(first, end):
        w = light * element(scratch, alpha + s)
        light -= w
        put(scratch, weight + s, w)
        put(scratch, after + s, light)
        r += w * element(scratch, red + s)
        g += w * element(scratch, green + s)
        b += w * element(scratch, blue + s)
        mass += w
        t = element(middles, sample + s - first)
        moment += w * t / (_ONE + bend * t)
    r += light * background[ray, 0]
    g += light * background[ray, 1]
    b += light * background[ray, 2]
    # Huber's loss, mean over the channels of all rays.
    er, eg, eb = r - target[ray, 0], g - target[ray, 1], b - target[ray, 2]
    gr, gg, gb = min(max(er, -limit), limit), min(max(eg, -limit), limit), min(max(eb, -limit), limit)
    half = f32(0.5)
    sums[0] += scale * (gr * (er - half * gr) + gg * (eg - half * gg) + gb * (eb - half * gb))
    if ray < options[5]:
        er = min(max(r, _ZERO), _ONE) - target[ray, 0]
        eg = min(max(g, _ZERO), _ONE) - target[ray, 1]
        eb = min(max(b, _ZERO), _ONE) - target[ray, 2]
        sums[1] += er * er + eg * eg + eb * eb
    gr, gg, gb = scale * gr, scale * gg, scale * gb
    # From the far end. A weight w_s contributes w_s * worth_s to the loss's differential, and more density in s takes
    # light from all that lies behind: d loss / d sigma_s = delta_s (T_(s+1) worth_s - sum over t > s of w_t worth_t).
    behind = light * (gr * background[ray, 0] + gg * background[ray, 1] + gb * background[ray, 2])
    mass_behind, moment_behind, distortion, nearness = _ZERO, _ZERO, _ZERO, _ZERO
    for s in range(end - 1, first - 1, -1):
        w, delta = element(scratch, weight + s), element(scratch, length + s)
        cr, cg, cb = element(scratch, red + s), element(scratch, green + s), element(scratch, blue + s)
        worth = gr * cr + gg * cg + gb * cb
        t = element(middles, sample + s - first)
        part = _ONE / (_ONE + bend * t)
        if push > _ZERO:
            nearness += w * part
            worth += push * part
        if spread > _ZERO:
            # Mip-NeRF 360 (Barron et al., 2022), equation 15: pairs of intervals by distance, and each by its length;
            # distances t counted as t / (1 + bend t).
            t *= part
            mass_front, moment_front = mass - mass_behind - w, moment - moment_behind - w * t
            pairs = t * (mass_front - mass_behind) - (moment_front - moment_behind)
            own = w * delta * part * part * f32(1.0 / 3.0)
            distortion += w * (pairs + own)
            worth += f32(2.0) * spread * (pairs + own)
            mass_behind += w
            moment_behind += w * t
        sigma = element(scratch, density + s)
        slope = delta * (element(scratch, after + s) * worth - behind) * sigma
        put(scratch, density + s, slope if element(scratch, at + 8 * rows + s) < LOG_DENSITY_LIMIT else _ZERO)
        behind += w * worth
        put(scratch, red + s, w * gr * cr * (_ONE - cr))
        put(scratch, green + s, w * gg * cg * (_ONE - cg))
        put(scratch, blue + s, w * gb * cb * (_ONE - cb))
    sums[0] += spread * distortion + push * nearness
    sums[2] += distortion


@cache.inline
def _forward_block(
    scratch: np.ndarray, at: np.ndarray, rows: int, first: int, count: int, features: np.ndarray, samples: np.ndarray,
    rays: np.ndarray, lengths: np.ndarray, view: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    """Both networks, and the runs that `_composite_ray` reads."""
    wide, out = weights[2].shape[0], weights[4].shape[1]
    gather_features(scratch, at[0], rows, features, samples, first, count)
    density_forward(scratch, at, rows, features, weights)
    for s in range(count):
        source = view.shape[1] * np.int64(element(rays, first + s))
        for k in range(0, view.shape[1], 16):
            store(scratch, at[2] + s * wide + GEOMETRY + k, load(view, source + k))
    for s in range(count, rows):
        for k in range(0, view.shape[1], 16):
            store(scratch, at[2] + s * wide + GEOMETRY + k, splat(_ZERO))
    color_forward(scratch, at, rows, weights)
    run = at[6]
    take_column(scratch, at[2], wide, count, rows, run)
    for s in range(0, rows, 16):
        store(scratch, run + 8 * rows + s, load(scratch, run + s) - DENSITY_SHIFT)
    densities(scratch, run, rows)
    for s in range(count):
        put(scratch, run + rows + s, element(lengths, first + s))
    for s in range(count, rows):
        put(scratch, run + rows + s, _ZERO)
    for s in range(0, rows, 16):
        thickness = load(scratch, run + s) * load(scratch, run + rows + s)
        store(scratch, run + 2 * rows + s, _ONE - exp(splat(_ZERO) - thickness))
    for k in range(3):
        column = run + (3 + k) * rows
        take_column(scratch, at[5] + k, out, count, rows, column)
        for s in range(0, rows, 16):
            store(scratch, column + s, sigmoid(load(scratch, column + s)))


@cache.inline
def _backward_block(
    scratch: np.ndarray, at: np.ndarray, rows: int, first: int, count: int, rays: np.ndarray, weights: np.ndarray,
    transposed: np.ndarray, gradient: np.ndarray, upstream: np.ndarray, view_gradient: np.ndarray,
) -> None:  # fmt: skip
    """From the gradients of the two networks' outputs to those of all weights, the features and the view."""
    inputs, hidden = 4 * upstream.shape[0], weights[0].shape[1]
    wide, h2, h3, out = weights[2].shape[0], weights[2].shape[1], weights[3].shape[1], weights[4].shape[1]
    run = at[6]
    g2 = inputs * hidden
    g3 = g2 + hidden * GEOMETRY
    g4 = g3 + wide * h2
    g5 = g4 + h2 * h3
    for s in range(rows):
        store(scratch, at[5] + s * out, splat(_ZERO))
    for s in range(count):
        for k in range(3):
            put(scratch, at[5] + s * out + k, element(scratch, run + (3 + k) * rows + s))
    # Each layer: its weights' gradient while its input is still there, then the gradient of its input in place.
    multiply_add(scratch, at[4], 1, h3, scratch, at[5], out, gradient, g5, out, h3, rows, out)
    multiply_mask(scratch, at[5], out, 1, transposed[4], 0, h3, scratch, at[4], h3, rows, 3, h3)
    multiply_add(scratch, at[3], 1, h2, scratch, at[4], h3, gradient, g4, h3, h2, rows, h3)
    multiply_mask(scratch, at[4], h3, 1, transposed[3], 0, h2, scratch, at[3], h2, rows, h3, h2)
    multiply_add(scratch, at[2], 1, wide, scratch, at[3], h2, gradient, g3, h2, wide, rows, h2)
    used = wide if view_gradient.shape[0] > 0 else GEOMETRY
    multiply_store(scratch, at[3], h2, 1, transposed[2], 0, wide, scratch, at[2], wide, rows, h2, used)
    if view_gradient.shape[0] > 0:
        for s in range(count):
            place = view_gradient.shape[1] * np.int64(element(rays, first + s))
            for k in range(0, view_gradient.shape[1], 16):
                value = load(view_gradient, place + k) + load(scratch, at[2] + s * wide + GEOMETRY + k)
                store(view_gradient, place + k, value)
    for s in range(count):
        here = at[2] + s * wide
        put(scratch, here, element(scratch, here) + element(scratch, run + s))
    multiply_add(scratch, at[1], 1, hidden, scratch, at[2], wide, gradient, g2, GEOMETRY, hidden, rows, GEOMETRY)
    multiply_mask(scratch, at[2], wide, 1, transposed[1], 0, hidden, scratch, at[1], hidden, rows, GEOMETRY, hidden)
    multiply_add(scratch, at[0], 1, inputs, scratch, at[1], hidden, gradient, 0, hidden, inputs, rows, hidden)
    multiply_store(scratch, at[1], hidden, 1, transposed[0], 0, inputs, scratch, at[0], inputs, rows, hidden, inputs)
    for level in range(upstream.shape[0]):
        place = 4 * (level * upstream.shape[1] + first)
        for s in range(count):
            source = at[0] + s * inputs + 4 * level
            for k in range(4):
                put(upstream, place + 4 * s + k, element(scratch, source + k))


@cache.device
def _train_share(
    share: int, features: np.ndarray, samples: np.ndarray, rays: np.ndarray, offsets: np.ndarray, lengths: np.ndarray,
    middles: np.ndarray, view: np.ndarray, target: np.ndarray, background: np.ndarray, options: np.ndarray,
    weights: np.ndarray, transposed: np.ndarray, scratch: np.ndarray, gradient: np.ndarray, upstream: np.ndarray,
    view_gradient: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    n = offsets.shape[0] - 1
    ray, end = share * n // SHARES, (share + 1) * n // SHARES
    for k in range(gradient.shape[0]):
        gradient[k] = _ZERO
    for k in range(SUMS):
        sums[k] = 0.0
    while ray < end:
        first, last = offsets[ray], ray + 1
        while last < end and offsets[last + 1] - first <= BLOCK:
            last += 1
        count = offsets[last] - first
        rows = (count + 15) // 16 * 16
        at = layout(rows, features, weights)
        _forward_block(scratch, at, rows, first, count, features, samples, rays, lengths, view, weights)
        for i in range(ray, last):
            begin = offsets[i] - first
            _composite_ray(scratch, at[6], rows, begin, offsets[i + 1] - first, i, first + begin, target, background,
                           middles, options, sums)  # fmt: skip
        _backward_block(scratch, at, rows, first, count, rays, weights, transposed, gradient, upstream, view_gradient)
        ray = last


@cache.device
def _train_shares(
    counter: np.ndarray, features: np.ndarray, samples: np.ndarray, rays: np.ndarray, offsets: np.ndarray,
    lengths: np.ndarray, middles: np.ndarray, view: np.ndarray, target: np.ndarray, background: np.ndarray,
    options: np.ndarray, weights: np.ndarray, transposed: np.ndarray, scratch: np.ndarray, gradients: np.ndarray,
    upstream: np.ndarray, view_gradient: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    share = fetch_add(counter, 1)
    while share < SHARES:
        _train_share(share, features, samples, rays, offsets, lengths, middles, view, target, background, options,
                     weights, transposed, scratch, gradients[share], upstream, view_gradient, sums[share])  # fmt: skip
        share = fetch_add(counter, 1)


@cache.kernel(
    "void(i8, i8[::1], f4[:,:,::1], i4[::1], i4[::1], i8[::1], f4[::1], f4[::1], f4[:,::1], f4[:,::1], f4[:,::1],"
    f"f4[::1], {WEIGHTS}, {WEIGHTS}, f4[:,::1], f4[:,::1], f4[:,:,::1], f4[:,::1], f8[:,::1])",
    parallel=True,
)
def _train(
    workers: int, counter: np.ndarray, features: np.ndarray, samples: np.ndarray, rays: np.ndarray,
    offsets: np.ndarray, lengths: np.ndarray, middles: np.ndarray, view: np.ndarray, target: np.ndarray,
    background: np.ndarray, options: np.ndarray, weights: np.ndarray, transposed: np.ndarray, scratch: np.ndarray,
    gradients: np.ndarray, upstream: np.ndarray, view_gradient: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    for worker in numba.prange(workers):
        _train_shares(counter, features, samples, rays, offsets, lengths, middles, view, target, background, options,
                      weights, transposed, scratch[worker], gradients, upstream, view_gradient, sums)  # fmt: skip


def block_rows(longest: int) -> int:
    """Rows of the largest block when the longest ray has this many samples."""
    return -(-max(BLOCK, longest) // 16) * 16


def scratch_size(features: int, weights: Weights, longest: int) -> int:
    """Floats that a worker needs."""
    outputs = sum(w.shape[1] for w in (weights[0], weights[2], weights[3], weights[4]))
    return block_rows(longest) * (features + outputs + weights[2].shape[0] + _RUNS)


def train_rays(
    features: NDArray[np.float32], samples: NDArray[np.int32], rays: NDArray[np.int32], offsets: NDArray[np.int64],
    lengths: NDArray[np.float32], middles: NDArray[np.float32], view: NDArray[np.float32], target: NDArray[np.float32],
    background: NDArray[np.float32], options: NDArray[np.float32], weights: Weights, transposed: Weights,
    scratch: NDArray[np.float32], gradients: NDArray[np.float32], upstream: NDArray[np.float32],
    view_gradient: NDArray[np.float32],
) -> NDArray[np.float64]:  # fmt: skip
    """Loss of n rays and its gradients with respect to all weights, the features, and what belongs to the rays.

    Args:
        features: (levels, m, 4), from `hash_grid.encode`; levels a multiple of 4.
        samples: (k,), which of the m are used, in the order of the rays.
        rays: (k,), the ray of each.
        offsets: (n + 1,), ray i has the samples ``offsets[i]:offsets[i + 1]`` of the k.
        lengths: (k,), lengths of the intervals.
        middles: (k,), distances of their middles, for the distortion loss.
        view: (n, v), what the colour network sees of a ray; v a multiple of 16.
        target: (n, 3), colours to reproduce.
        background: (n, 3), colours behind the rays.
        options: Huber's limit, the loss's scale, the weight of the distortion loss, the bend of its distances, the
            weight of nearness, and how many rays, from the first on, the squared error counts.
        weights: The layers' matrices.
        transposed: Their transposes.
        scratch: (workers, at least `scratch_size`).
        gradients: (SHARES, sum of the sizes of `weights`), written: their gradients, to be summed over the shares.
        upstream: (levels, at least k, 4), written: d loss / d features.
        view_gradient: (n, v), zero, written: d loss / d view; with no rows it is left out.

    Returns:
        (SUMS,): loss, squared error of the clamped colours summed over channels, distortion summed over rays.
    """
    sums = np.empty((SHARES, SUMS))
    workers = min(cache.get_threads(), len(scratch))
    _train(workers, np.zeros(1, np.int64), features, samples, rays, offsets, lengths, middles, view, target, background,
           options, weights, transposed, scratch, gradients, upstream, view_gradient, sums)  # fmt: skip
    return sums.sum(axis=0)
