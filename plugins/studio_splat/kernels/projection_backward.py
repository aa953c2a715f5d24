"""Backward projection of a whole view: gradients of all parameters and of the pose, or an Adam step with them.

A Gaussian is *touched* when any of its gradient row's first ten entries is not zero. Only touched Gaussians are
updated, lane by lane: neither parameters nor moments of the others change, whatever block they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import HALF, ONE, ZERO, lanewise
from studio.kernels.vec import any_lane, load, maximum, prefetch, select, splat, sqrt, store

from .geometry import aligned_scratch
from .geometry_backward import (
    BASIS,
    GRADIENT,
    POSE_ROWS,
    SCRATCH_SIZE,
    WEIGHT,
    block_gradients,
    clear_pose,
    load_records,
    sum_pose,
)
from .layout import GEOMETRY_ROWS, check_array, check_blocks
from .projection import CHUNK, RECORD_SIZE
from .view import HEIGHT, WIDTH, View

STATISTICS_ROWS = 3


@lanewise
def _find_touched(g: Any) -> Any:
    """Lanes whose gradient row is not all zero; NaN counts as not zero."""
    return ~(
        (g[0] == ZERO)
        & (g[1] == ZERO)
        & (g[2] == ZERO)
        & (g[3] == ZERO)
        & (g[4] == ZERO)
        & (g[5] == ZERO)
        & (g[6] == ZERO)
        & (g[7] == ZERO)
        & (g[8] == ZERO)
        & (g[9] == ZERO)
    )


@lanewise
def _count_view(statistics: np.ndarray, at: int, view: np.ndarray, radii: np.ndarray, first: int) -> None:
    """One more view for the visible lanes, and their largest half-extent as a share of the longer image side."""
    radius = load(radii, first)
    share = radius / maximum(splat(view[WIDTH]), view[HEIGHT])
    store(statistics, at + 16, load(statistics, at + 16) + select(radius > ZERO, ONE, ZERO))
    store(statistics, at + 32, maximum(load(statistics, at + 32), share))


@lanewise
def _add_norms(statistics: np.ndarray, at: int, view: np.ndarray, gx: Any, gy: Any) -> None:
    """The norms of 2D mean gradients in units of half the image: gsplat's, independent of the resolution."""
    gx, gy = HALF * view[WIDTH] * gx, HALF * view[HEIGHT] * gy
    store(statistics, at, load(statistics, at) + sqrt(gx * gx + gy * gy))


@lanewise
def _adam(
    p: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    at: int,
    touched: Any,
    gradient: np.ndarray,
    rows: int,
    step_size: np.ndarray,
    adam: np.ndarray,
    ahead: int,
) -> None:
    """Kingma and Ba, algorithm 1, for the touched lanes of one block.

    `adam` holds beta1, beta2, the root of the second moment's bias correction, and eps; the first moment's correction
    is in `step_size`. The parameters at `ahead` are fetched meanwhile: the next block begins with arithmetic on all of
    them, and the processor's own prefetcher does not look that far across it.
    """
    beta1, beta2, root_correction, eps = adam[0], adam[1], adam[2], adam[3]
    for row in range(rows):
        i = at + 16 * row
        prefetch(p, ahead + 16 * row)
        g, first, second = load(gradient, 16 * row), load(m, i), load(v, i)
        first_new = beta1 * first + (ONE - beta1) * g
        second_new = beta2 * second + (ONE - beta2) * (g * g)
        value = load(p, i)
        moved = value - step_size[row] * first_new / (sqrt(second_new) * root_correction + eps)
        store(p, i, select(touched, moved, value))
        store(m, i, select(touched, first_new, first))
        store(v, i, select(touched, second_new, second))


@lanewise
def _clear_rows(array: np.ndarray, at: int, first: int, end: int) -> None:
    for row in range(first, end):
        store(array, at + 16 * row, splat(ZERO))


@lanewise
def _write_gradients(
    gradients: np.ndarray, at: int, touched: Any, gradient: np.ndarray, used: int, rows: int, params: np.ndarray
) -> None:
    """Copy one block's gradients, 0 for lanes that were not touched and rows that are not used."""
    for row in range(used):
        prefetch(params, at + 16 * (rows + row))
        store(gradients, at + 16 * row, select(touched, load(gradient, 16 * row), ZERO))
    _clear_rows(gradients, at, used, rows)


@lanewise
def backward_share(
    share: int,
    shares: int,
    params: np.ndarray,
    gradients: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step_size: np.ndarray,
    adam: np.ndarray,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    want_pose: bool,
    records: np.ndarray,
    radii: np.ndarray,
    rows: np.ndarray,
    touched_blocks: np.ndarray,
    statistics: np.ndarray,
    column: int,
    pose: np.ndarray,
) -> None:
    """Every `shares`-th chunk of blocks from `share` on."""
    blocks, block_rows = params.shape[0], params.shape[1]
    used = GEOMETRY_ROWS + 3 * (degree + 1) * (degree + 1)
    write = gradients.shape[0] > 0
    s = aligned_scratch(SCRATCH_SIZE)
    basis, weight, gradient = s[BASIS:], s[WEIGHT:], s[GRADIENT:]
    for chunk in range(share, -(-blocks // CHUNK), shares):
        clear_pose(s)
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, blocks)):
            at = b * block_rows * 16
            if column >= 0:
                _count_view(statistics, b * 48, view, radii, b * 16)
            if touched_blocks[b] == 0:
                if write:
                    _clear_rows(gradients, at, 0, block_rows)
                continue
            g = load_records(rows, b * 16)
            touched = _find_touched(g)
            if not any_lane(touched):
                if write:
                    _clear_rows(gradients, at, 0, block_rows)
                continue
            if column == 0:
                _add_norms(statistics, b * 48, view, g[0], g[1])
            elif column > 0:
                _add_norms(statistics, b * 48, view, g[10], g[11])
            block_gradients(
                params,
                at,
                view,
                model,
                antialiased,
                degree,
                want_pose,
                adam[4],
                adam[5],
                s,
                basis,
                weight,
                records,
                b * 16,
                g,
                touched,
                gradient,
            )
            for i in range(16):
                prefetch(rows, (b + 1) * 256 + 16 * i)
                prefetch(records, (b + 1) * 256 + 16 * i)
            if write:
                _write_gradients(gradients, at, touched, gradient, used, block_rows, params)
            else:
                _adam(params, m, v, at, touched, gradient, used, step_size, adam, at + block_rows * 16)
        sum_pose(s, pose, chunk)


@cache.kernel(
    "void(i8, f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[:,:,::1], f4[::1], f4[::1], f4[::1], i8, b1, i8, b1,"
    " f4[:,::1], f4[::1], f4[:,::1], u1[::1], f4[:,:,::1], i8, f4[:,::1])",
    parallel=True,
)
def _backward(
    shares: int,
    params: np.ndarray,
    gradients: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step_size: np.ndarray,
    adam: np.ndarray,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    want_pose: bool,
    records: np.ndarray,
    radii: np.ndarray,
    rows: np.ndarray,
    touched_blocks: np.ndarray,
    statistics: np.ndarray,
    column: int,
    pose: np.ndarray,
) -> None:
    """Write the gradients, or where `gradients` is empty take an Adam step: one kernel, as both compile for seconds."""
    for share in numba.prange(shares):
        backward_share(
            share,
            shares,
            params,
            gradients,
            m,
            v,
            step_size,
            adam,
            view,
            model,
            antialiased,
            degree,
            want_pose,
            records,
            radii,
            rows,
            touched_blocks,
            statistics,
            column,
            pose,
        )


@dataclass(frozen=True)
class AdamSettings:
    """Adam's constants (Kingma and Ba, 2015) and the weights of two regularisers.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment; 1e-15 as in 3D Gaussian splatting, whose gradients are tiny.
        opacity_weight: The loss grows by this times the opacity of each touched Gaussian (3DGS-MCMC: lambda / N).
        scale_weight: The loss grows by this times each scale of each touched Gaussian (3DGS-MCMC: lambda / (3 N)).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-15
    opacity_weight: float = 0.0
    scale_weight: float = 0.0


def _touched_or_all(touched: NDArray[np.uint8] | None, blocks: int) -> NDArray[np.uint8]:
    if touched is None:
        return np.ones(blocks, np.uint8)
    check_array("touched", touched, (blocks,), np.uint8)
    return touched


def pose_gradient(view: View, partial: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3, 4) gradient of world_to_camera from the sums of the chunks."""
    total = partial.astype(np.float64).sum(axis=0)
    matrix = view.packed[:12].reshape(3, 4).astype(np.float64)
    centre = -np.linalg.solve(matrix[:, :3], matrix[:, 3])
    # centre = -W^-1 t, so d centre = -W^-1 (dW centre + dt).
    through_centre = -np.linalg.solve(matrix[:, :3].T, total[12:])
    return total[:12].reshape(3, 4) + np.outer(through_centre, np.append(centre, 1.0))


def project_backward(
    params: NDArray[np.float32],
    view: View,
    sh_degree: int,
    records: NDArray[np.float32],
    rows: NDArray[np.float32],
    gradients: NDArray[np.float32],
    *,
    touched: NDArray[np.uint8] | None = None,
    pose: bool = False,
) -> NDArray[np.float64] | None:
    """Gradients of all parameters from the gradient rows of one view.

    Args:
        params: (blocks, R, 16), as given to `project_forward`.
        view: As given to `project_forward`.
        sh_degree: As given to `project_forward`; -1 ignores the colour's gradients.
        records: (blocks * 16, 16), written by `project_forward`.
        rows: (blocks * 16, 16), the rasteriser's gradients with respect to the records' x, y, A, B, C, L, r, g, b,
            depth; then the sums of absolute values of those of x and y (not read here).
        gradients: (blocks, R, 16), written: gradients with respect to `params`, zero for what was not touched.
        touched: (blocks,) uint8, 0 for blocks whose rows are all zero; None to look at the rows of every block.
        pose: Also compute the gradient with respect to the view's world_to_camera.

    Returns:
        (3, 4) gradient of the entries of world_to_camera (unconstrained, as gsplat's viewmat gradient), or None.

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above.
    """
    check_blocks(params, sh_degree)
    blocks = params.shape[0]
    check_array("records", records, (blocks * 16, RECORD_SIZE))
    check_array("rows", rows, (blocks * 16, RECORD_SIZE))
    check_array("gradients", gradients, params.shape)
    partial = np.zeros((-(-blocks // CHUNK), POSE_ROWS), np.float32)
    none = np.empty((0, 1, 16), np.float32)
    _backward(
        cache.get_threads(),
        params,
        gradients,
        none,
        none,
        np.zeros(1, np.float32),
        np.zeros(6, np.float32),
        view.packed,
        view.model,
        view.antialiased,
        sh_degree,
        pose,
        records,
        np.zeros(1, np.float32),
        rows,
        _touched_or_all(touched, blocks),
        none,
        -1,
        partial,
    )
    return pose_gradient(view, partial) if pose else None


def project_backward_adam(
    params: NDArray[np.float32],
    first_moments: NDArray[np.float32],
    second_moments: NDArray[np.float32],
    learning_rates: NDArray[np.float32],
    step: int,
    view: View,
    sh_degree: int,
    records: NDArray[np.float32],
    radii: NDArray[np.float32],
    rows: NDArray[np.float32],
    *,
    settings: AdamSettings | None = None,
    touched: NDArray[np.uint8] | None = None,
    statistics: NDArray[np.float32] | None = None,
    absgrad: bool = False,
    pose: bool = False,
) -> NDArray[np.float64] | None:
    """Gradients as `project_backward`, and an Adam step with them, in one pass over memory.

    Updates only what this view touched, as the sparse Adam of Taming-3DGS (Mallick et al., 2024) and gsplat's
    SelectiveAdam; unlike those, the bias of the moments is corrected, with the global step count: what was touched
    rarely takes smaller steps at first. Coefficients above `sh_degree` are left alone.

    Args:
        params: (blocks, R, 16), updated.
        first_moments: As `params`, updated; zeros at first.
        second_moments: As `params`, updated; zeros at first.
        learning_rates: (R,), one a row.
        step: Steps taken so far plus this one, from 1.
        view: As given to `project_forward`.
        sh_degree: As given to `project_forward`.
        records: (blocks * 16, 16), written by `project_forward`.
        radii: (blocks * 16,), written by `project_forward`.
        rows: (blocks * 16, 16), see `project_backward`.
        settings: Decay rates and regularisers.
        touched: (blocks,) uint8, see `project_backward`.
        statistics: (blocks, 3, 16) to add this view to, or None: the sum of the norms of the 2D mean gradients in
            gsplat's units (dx * width / 2, dy * height / 2), the number of views that saw the Gaussian (half-extents
            not 0), and the largest half-extent as a share of the longer image side.
        absgrad: Take the norm of the sums of absolute gradients instead (AbsGS, Ye et al., 2024).
        pose: As in `project_backward`; the gradient is that before the step.

    Returns:
        (3, 4) gradient of the entries of world_to_camera, or None.

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above, or `step` is below 1.
    """
    settings = settings or AdamSettings()
    check_blocks(params, sh_degree)
    blocks = params.shape[0]
    check_array("first_moments", first_moments, params.shape)
    check_array("second_moments", second_moments, params.shape)
    check_array("learning_rates", learning_rates, (params.shape[1],))
    check_array("records", records, (blocks * 16, RECORD_SIZE))
    check_array("radii", radii, (blocks * 16,))
    check_array("rows", rows, (blocks * 16, RECORD_SIZE))
    if statistics is not None:
        check_array("statistics", statistics, (blocks, STATISTICS_ROWS, 16))
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    step_size = (learning_rates / (1.0 - settings.beta1**step)).astype(np.float32)
    adam = np.array(
        [
            settings.beta1,
            settings.beta2,
            1.0 / np.sqrt(1.0 - settings.beta2**step),
            settings.eps,
            settings.opacity_weight,
            settings.scale_weight,
        ],
        np.float32,
    )
    partial = np.zeros((-(-blocks // CHUNK), POSE_ROWS), np.float32)
    none = np.empty((0, 1, 16), np.float32)
    _backward(
        cache.get_threads(),
        params,
        none,
        first_moments,
        second_moments,
        step_size,
        adam,
        view.packed,
        view.model,
        view.antialiased,
        sh_degree,
        pose,
        records,
        radii,
        rows,
        _touched_or_all(touched, blocks),
        none if statistics is None else statistics,
        -1 if statistics is None else (10 if absgrad else 0),
        partial,
    )
    return pose_gradient(view, partial) if pose else None
