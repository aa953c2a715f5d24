"""Forward projection: blocks of parameters to one 64-byte record a Gaussian.

Follows gsplat 1.5.3: the affine approximation of Zwicker et al. (*EWA Splatting*, 2002) with the mean clamped in the
Jacobian, the dilation by eps2d, its compensation in antialiased mode (Yu et al., *Mip-Splatting*, 2023), culling, and
half-extents at which alpha falls to 1/255 (Radl et al., *StopThePop*, 2024, B.2).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import HALF, LOG2_E, ONE, ZERO, exp, f32, lanewise, log2
from studio.kernels.vec import any_lane, ceil, load, maximum, prefetch, select, splat, sqrt, store, transpose

from .geometry import (
    COLOUR,
    DET,
    DET_SHARP,
    DIR,
    DIR_Y,
    DIR_Z,
    GEOMETRY_SIZE,
    LOG_SCALE,
    LOGIT,
    PX,
    PY,
    XX,
    XY,
    YY,
    ZC,
    aligned_scratch,
    camera_space,
    project_means,
    project_shapes,
)
from .layout import GEOMETRY_ROWS, check_array, check_blocks
from .sh import MAX_BASIS, evaluate_basis
from .view import EPS2D, FAR, HEIGHT, NEAR, RADIUS_CLIP, WIDTH, View

RECORD_SIZE = 16
CULLED_LOG2_OPACITY = f32(-1e30)

# Blocks a share takes at a time. Chunks are dealt out in turn: along a space-filling curve neighbours are visible
# together, and contiguous halves would be unequal work.
CHUNK = 32

_LOG2_255 = f32(math.log2(255.0))
_TWO_LN_2 = f32(2 * math.log(2.0))
_HUGE = f32(1e37)
_BASIS = GEOMETRY_SIZE
_SCRATCH = _BASIS + MAX_BASIS * 16


@lanewise
def _shade(degree: int, params: np.ndarray, at: int, s: np.ndarray, basis: np.ndarray, ahead: int) -> Any:
    """max(0, 1/2 + sum of coefficients times basis) of 16 Gaussians; 0 without spherical harmonics.

    The block `ahead` elements further on is fetched meanwhile: it begins with arithmetic that needs all of its
    geometry, and the processor's own prefetcher does not look that far across it.
    """
    for row in range(GEOMETRY_ROWS):
        prefetch(params, at + ahead + 16 * row)
    if degree < 0:
        return splat(ZERO), splat(ZERO), splat(ZERO)
    evaluate_basis(degree, load(s, DIR), load(s, DIR_Y), load(s, DIR_Z), basis)
    r, g, b = splat(HALF), splat(HALF), splat(HALF)
    for k in range((degree + 1) * (degree + 1)):
        value, c = load(basis, 16 * k), at + COLOUR + 48 * k
        prefetch(params, c + ahead)
        prefetch(params, c + ahead + 16)
        prefetch(params, c + ahead + 32)
        r = r + value * load(params, c)
        g = g + value * load(params, c + 16)
        b = b + value * load(params, c + 32)
    return maximum(r, ZERO), maximum(g, ZERO), maximum(b, ZERO)


@lanewise
def _project_block(
    params: np.ndarray,
    at: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    s: np.ndarray,
    basis: np.ndarray,
    records: np.ndarray,
    radii: np.ndarray,
    first: int,
) -> None:
    camera_space(params, at, view, s)
    project_means(model, view, s)
    project_shapes(params, at, view, s)
    det = load(s, DET)
    xx, yy = load(s, XX) + view[EPS2D], load(s, YY) + view[EPS2D]
    logit = load(params, at + LOGIT)
    log_volume = load(params, at + LOG_SCALE) + load(params, at + LOG_SCALE + 16) + load(params, at + LOG_SCALE + 32)
    log_opacity = -log2(ONE + exp(-logit))
    if antialiased:
        log_opacity = log_opacity + HALF * log2(load(s, DET_SHARP) / det)
    above = log_opacity + _LOG2_255
    extent = sqrt(_TWO_LN_2 * maximum(above, ZERO))
    rx, ry = extent * sqrt(xx), extent * sqrt(yy)
    whole_x, whole_y = ceil(rx), ceil(ry)
    x, y, z = load(s, PX), load(s, PY), load(s, ZC)
    visible = (
        (z >= view[NEAR])
        & (z <= view[FAR])
        & (det > ZERO)
        & (det < _HUGE)
        & (above >= ZERO)
        & (maximum(whole_x, whole_y) > view[RADIUS_CLIP])
        & (x + whole_x > ZERO)
        & (x - whole_x < view[WIDTH])
        & (y + whole_y > ZERO)
        & (y - whole_y < view[HEIGHT])
        # NaN, which `exp` does not pass on.
        & (logit == logit)
        & (log_volume == log_volume)
    )
    zero = splat(ZERO)
    if any_lane(visible):
        scale = LOG2_E / det
        r, g, b = _shade(degree, params, at, s, basis, params.shape[1] * 16)
        rows = transpose(
            (
                select(visible, x, ZERO),
                select(visible, y, ZERO),
                select(visible, -HALF * scale * yy, ZERO),
                select(visible, scale * load(s, XY), ZERO),
                select(visible, -HALF * scale * xx, ZERO),
                select(visible, log_opacity, CULLED_LOG2_OPACITY),
                select(visible, r, ZERO),
                select(visible, g, ZERO),
                select(visible, b, ZERO),
                select(visible, z, ZERO),
                select(visible, rx, ZERO),
                select(visible, ry, ZERO),
                zero,
                zero,
                zero,
                zero,
            )
        )
        for i in range(16):
            store(records, (first + i) * 16, rows[i])
        store(radii, first, select(visible, maximum(rx, ry), ZERO))
    else:
        for i in range(16):
            store(records, (first + i) * 16, zero)
            records[first + i, 5] = CULLED_LOG2_OPACITY
        store(radii, first, zero)


@lanewise
def project_share(
    share: int,
    shares: int,
    params: np.ndarray,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    records: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Every `shares`-th chunk of blocks from `share` on."""
    blocks, rows = params.shape[0], params.shape[1]
    s = aligned_scratch(_SCRATCH)
    basis = s[_BASIS:]
    for chunk in range(share * CHUNK, blocks, shares * CHUNK):
        for b in range(chunk, min(chunk + CHUNK, blocks)):
            _project_block(params, b * rows * 16, view, model, antialiased, degree, s, basis, records, radii, b * 16)


@cache.kernel("void(i8, f4[:,:,::1], f4[::1], i8, b1, i8, f4[:,::1], f4[::1])", parallel=True)
def _project(
    shares: int,
    params: np.ndarray,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    records: np.ndarray,
    radii: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        project_share(share, shares, params, view, model, antialiased, degree, records, radii)


def project_forward(
    params: NDArray[np.float32],
    view: View,
    sh_degree: int,
    records: NDArray[np.float32],
    radii: NDArray[np.float32],
) -> None:
    """Project all Gaussians into one view.

    Args:
        params: (blocks, R, 16), see `layout`.
        view: The camera.
        sh_degree: Degree to shade with, 0 to the degree that R holds; -1 leaves the colours 0, for callers that have
            their own.
        records: (blocks * 16, 16), written: x, y, A, B, C, L, r, g, b, depth, half-extents x and y, then zeros;
            alpha = 2^(L + A dx^2 + B dx dy + C dy^2). Culled Gaussians have L = -1e30 and zeros.
        radii: (blocks * 16,), written: the larger half-extent in pixels, 0 for culled Gaussians.

    Gaussians with NaN in their geometry or opacity, infinite means or scales, a quaternion of length 0, or a
    screen-space covariance that overflows float32 are culled. Colours are passed on as they come.

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above.
    """
    check_blocks(params, sh_degree)
    count = params.shape[0] * 16
    check_array("records", records, (count, RECORD_SIZE))
    check_array("radii", radii, (count,))
    _project(cache.get_threads(), params, view.packed, view.model, view.antialiased, sh_degree, records, radii)
