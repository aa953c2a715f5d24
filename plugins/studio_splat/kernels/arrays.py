"""Projection, forward and backward, of parameters that lie in one array each instead of in blocks.

What callers of `studio_splat.rasterization` have: (N, 3) means, (N, 4) quaternions, (N, 3) scales, (N,) opacities and
(N, K, 3) coefficients, activated. A thread turns a few at a time into blocks (see `layout`) that stay in its cache,
runs the block kernels on them, and turns gradients back, so the memory's traffic is that of the block kernels alone.
The visible Gaussians are then gathered into short arrays, as gsplat returns them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import LN_2, ONE, ZERO, f32, lanewise, log2
from studio.kernels.vec import (
    absolute,
    any_lane,
    bits_of,
    load,
    maximum,
    minimum,
    prefetch,
    select,
    splat,
    splat_i32,
    store,
    transpose,
)
from studio.kernels.workspace import Workspace

from .geometry_backward import POSE_ROWS
from .layout import GEOMETRY_ROWS, block_count
from .projection import CHUNK, RECORD_SIZE, project_share
from .projection_backward import backward_share, pose_gradient
from .view import View

SMALLEST_SCALE = f32(1e-30)
"""A scale of 0 is a flat disc: what its logarithm is taken of."""

# An opacity of 1 is opaque: what its logit is cut to.
_LARGEST_LOGIT = f32(40.0)
_SHORTEST_QUATERNION = f32(1e-12)
_NAN = f32(np.nan)
_NO_BITS, _ONE_BIT = np.int32(0), np.int32(1)

_AHEAD = 32
"""Gaussians whose colours are asked for ahead of time."""

_GROUP = 4
"""Blocks turned at a time: with their gradients and records they fit into the first cache of a core."""
_GROUPS = CHUNK // _GROUP

CONIC_SCALES = np.array([-0.5, -1.0, -0.5]) * np.log2(np.e)
"""The records' A, B, C over the conic's xx, xy, yy: alpha = 2^(L + A dx^2 + B dx dy + C dy^2)."""
_A_SCALE, _B_SCALE, _C_SCALE = (f32(value) for value in CONIC_SCALES)


@cache.inline
def _turns(share: int, shares: int, groups: int) -> int:
    """How many groups at most a share takes: chunks in turn, as `projection` deals them out."""
    chunks = (groups + _GROUPS - 1) // _GROUPS
    return (chunks - share + shares - 1) // shares * _GROUPS


@cache.inline
def _group(share: int, shares: int, turn: int) -> int:
    return (share + turn // _GROUPS * shares) * _GROUPS + turn % _GROUPS


@lanewise
def _take_whole(
    means: np.ndarray, quats: np.ndarray, scales: np.ndarray, opacities: np.ndarray, g: int, blocks: np.ndarray, at: int
) -> None:
    """The geometry of the 16 Gaussians from `g` on, all of which exist."""
    for i in range(16):
        # Constant strides, which the compiler turns into shuffles.
        for c in range(3):
            blocks[at + 16 * c + i] = means[3 * (g + i) + c]
            blocks[at + 112 + 16 * c + i] = scales[3 * (g + i) + c]
        for c in range(4):
            blocks[at + 48 + 16 * c + i] = quats[4 * (g + i) + c]
        blocks[at + 160 + i] = opacities[g + i]


@lanewise
def _take_some(values: np.ndarray, columns: int, g: int, n: int, blocks: np.ndarray, at: int, padding: float) -> None:
    """Rows of `columns` numbers of the Gaussians `g` to `n` into rows of a block, the rest of which is filled up."""
    for i in range(16):
        for c in range(columns):
            blocks[at + 16 * c + i] = values[(g + i) * columns + c] if g + i < n else padding


@lanewise
def _take_coefficients(sh: np.ndarray, stride: int, used: int, first: int, n: int, blocks: np.ndarray, at: int) -> None:
    """The first `used` of `stride` numbers of 16 Gaussians, sixteen at a time through registers where all exist."""
    whole = used // 16 * 16 if first + 16 <= n else 0
    for c in range(0, whole, 16):
        s = first * stride + c
        rows = transpose(
            (
                load(sh, s),
                load(sh, s + stride),
                load(sh, s + 2 * stride),
                load(sh, s + 3 * stride),
                load(sh, s + 4 * stride),
                load(sh, s + 5 * stride),
                load(sh, s + 6 * stride),
                load(sh, s + 7 * stride),
                load(sh, s + 8 * stride),
                load(sh, s + 9 * stride),
                load(sh, s + 10 * stride),
                load(sh, s + 11 * stride),
                load(sh, s + 12 * stride),
                load(sh, s + 13 * stride),
                load(sh, s + 14 * stride),
                load(sh, s + 15 * stride),
            )
        )
        for i in range(16):
            store(blocks, at + 16 * (c + i), rows[i])
            # The processor's own prefetcher does not look across the arithmetic between two blocks.
            prefetch(sh, s + (_AHEAD + i) * stride)
    for i in range(16):
        g = first + i
        for c in range(whole, used):
            blocks[at + 16 * c + i] = sh[g * stride + c] if g < n else ZERO


@lanewise
def _give_coefficients(blocks: np.ndarray, at: int, sh: np.ndarray, stride: int, used: int, first: int, n: int) -> None:
    """Undo `_take_coefficients`; the numbers beyond `used` become 0."""
    whole = used // 16 * 16 if first + 16 <= n else 0
    for c in range(0, whole, 16):
        b = at + 16 * c
        rows = transpose(
            (
                load(blocks, b),
                load(blocks, b + 16),
                load(blocks, b + 32),
                load(blocks, b + 48),
                load(blocks, b + 64),
                load(blocks, b + 80),
                load(blocks, b + 96),
                load(blocks, b + 112),
                load(blocks, b + 128),
                load(blocks, b + 144),
                load(blocks, b + 160),
                load(blocks, b + 176),
                load(blocks, b + 192),
                load(blocks, b + 208),
                load(blocks, b + 224),
                load(blocks, b + 240),
            )
        )
        for i in range(16):
            store(sh, (first + i) * stride + c, rows[i])
    for i in range(min(16, n - first)):
        g = (first + i) * stride
        for c in range(whole, used):
            sh[g + c] = blocks[at + 16 * c + i]
        for c in range(used, stride):
            sh[g + c] = ZERO


@lanewise
def _take_logarithms(blocks: np.ndarray, at: int, rows: int) -> Any:
    """Scales to their logarithms, the opacity to its logit; true if there are numbers that `check_values` refuses.

    What is NaN, or an opacity outside [0, 1], ends as NaN, so that projection culls it.
    """
    # A finite number times 0 is 0 or -0, any other NaN.
    bits = splat_i32(np.int32(0))
    for row in range(rows):
        bits = bits | bits_of(load(blocks, at + 16 * row) * ZERO)
    w = maximum(absolute(load(blocks, at + 48)), absolute(load(blocks, at + 64)))
    v = maximum(absolute(load(blocks, at + 80)), absolute(load(blocks, at + 96)))
    bad = ((bits << _ONE_BIT) != _NO_BITS) | (maximum(w, v) < _SHORTEST_QUATERNION)
    nothing = splat(_NAN)
    for row in range(7, 10):
        scale = load(blocks, at + 16 * row)
        bad = bad | (scale < ZERO)
        logarithm = LN_2 * log2(maximum(scale, SMALLEST_SCALE))
        store(blocks, at + 16 * row, select(scale == scale, logarithm, nothing))
    opacity = load(blocks, at + 160)
    known = (opacity >= ZERO) & (opacity <= ONE)
    logit = LN_2 * (log2(opacity) - log2(ONE - opacity))
    store(blocks, at + 160, select(known, minimum(maximum(logit, -_LARGEST_LOGIT), _LARGEST_LOGIT), nothing))
    return any_lane(bad | ~known)


@lanewise
def _blocks_of_group(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
    stride: int,
    first: int,
    n: int,
    params: np.ndarray,
) -> bool:
    """Fill blocks with the Gaussians from `first` on; true if some should be looked at."""
    rows = params.shape[1]
    flat = params.reshape(-1)
    suspicious = False
    for b in range(params.shape[0]):
        at, g = b * rows * 16, first + 16 * b
        if g + 16 <= n:
            _take_whole(means, quats, scales, opacities, g, flat, at)
        else:
            _take_some(means, 3, g, n, flat, at, ZERO)
            _take_some(quats, 4, g, n, flat, at + 48, ONE)
            _take_some(scales, 3, g, n, flat, at + 112, ONE)
            # Without opacity nothing is visible.
            _take_some(opacities, 1, g, n, flat, at + 160, ZERO)
        _take_coefficients(sh, stride, rows - GEOMETRY_ROWS, g, n, flat, at + 16 * GEOMETRY_ROWS)
        suspicious |= _take_logarithms(flat, at, rows)
    return suspicious


@lanewise
def _project_groups(
    share: int,
    shares: int,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
    stride: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    scratch: np.ndarray,
    records: np.ndarray,
    radii: np.ndarray,
    visible: np.ndarray,
    suspicious: np.ndarray,
) -> None:
    n = opacities.shape[0]
    blocks = radii.shape[0] // 16
    for turn in range(_turns(share, shares, visible.shape[0])):
        group = _group(share, shares, turn)
        if group >= visible.shape[0]:
            break
        first, last = group * _GROUP, min((group + 1) * _GROUP, blocks)
        params = scratch[share, : last - first]
        found = _blocks_of_group(means, quats, scales, opacities, sh, stride, 16 * first, n, params)
        suspicious[group] = 1 if found else 0
        extents = radii[16 * first : 16 * last]
        project_share(0, 1, params, view, model, antialiased, degree, records[16 * first : 16 * last], extents)
        count = 0
        for i in range(extents.shape[0]):
            count += 1 if extents[i] > ZERO else 0
        visible[group] = count


@cache.kernel(
    "void(i8, f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, f4[::1], i8, b1, i8, f4[:,:,:,::1], f4[:,::1], f4[::1],"
    " i8[::1], u1[::1])",
    parallel=True,
)
def _project(
    shares: int,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
    stride: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    scratch: np.ndarray,
    records: np.ndarray,
    radii: np.ndarray,
    visible: np.ndarray,
    suspicious: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        _project_groups(
            share,
            shares,
            means,
            quats,
            scales,
            opacities,
            sh,
            stride,
            view,
            model,
            antialiased,
            degree,
            scratch,
            records,
            radii,
            visible,
            suspicious,
        )


@cache.device
def _gather_groups(
    share: int,
    shares: int,
    records: np.ndarray,
    radii: np.ndarray,
    begins: np.ndarray,
    ids: np.ndarray,
    extents: np.ndarray,
    means2d: np.ndarray,
    depths: np.ndarray,
    conics: np.ndarray,
    opacities: np.ndarray,
    rgb: np.ndarray,
) -> None:
    for turn in range(_turns(share, shares, begins.shape[0] - 1)):
        group = _group(share, shares, turn)
        if group >= begins.shape[0] - 1:
            break
        j = begins[group]
        for g in range(group * _GROUP * 16, min((group + 1) * _GROUP * 16, radii.shape[0])):
            if radii[g] > ZERO:
                ids[j] = g
                extents[j, 0] = np.int32(math.ceil(records[g, 10]))
                extents[j, 1] = np.int32(math.ceil(records[g, 11]))
                means2d[j, 0], means2d[j, 1] = records[g, 0], records[g, 1]
                depths[j] = records[g, 9]
                conics[j, 0] = records[g, 2] / _A_SCALE
                conics[j, 1] = records[g, 3] / _B_SCALE
                conics[j, 2] = records[g, 4] / _C_SCALE
                opacities[j] = np.exp2(records[g, 5])
                rgb[j, 0], rgb[j, 1], rgb[j, 2] = records[g, 6], records[g, 7], records[g, 8]
                j += 1


@cache.kernel(
    "void(i8, f4[:,::1], f4[::1], i8[::1], i8[::1], i4[:,::1], f4[:,::1], f4[::1], f4[:,::1], f4[::1], f4[:,::1])",
    parallel=True,
)
def _gather(
    shares: int,
    records: np.ndarray,
    radii: np.ndarray,
    begins: np.ndarray,
    ids: np.ndarray,
    extents: np.ndarray,
    means2d: np.ndarray,
    depths: np.ndarray,
    conics: np.ndarray,
    opacities: np.ndarray,
    rgb: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        _gather_groups(share, shares, records, radii, begins, ids, extents, means2d, depths, conics, opacities, rgb)


@lanewise
def _rows_of_group(
    ids: np.ndarray,
    begin: int,
    end: int,
    first: int,
    out_opacities: np.ndarray,
    v_means2d: np.ndarray,
    v_depths: np.ndarray,
    v_conics: np.ndarray,
    v_opacities: np.ndarray,
    v_rgb: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Gradient rows of the Gaussians from `first` on, of which the visible ones are `begin` to `end`."""
    rows[:] = ZERO
    for j in range(begin, end):
        i = ids[j] - first
        if v_means2d.shape[0]:
            rows[i, 0], rows[i, 1] = v_means2d[j, 0], v_means2d[j, 1]
        if v_conics.shape[0]:
            rows[i, 2] = v_conics[j, 0] / _A_SCALE
            rows[i, 3] = v_conics[j, 1] / _B_SCALE
            rows[i, 4] = v_conics[j, 2] / _C_SCALE
        if v_opacities.shape[0]:
            rows[i, 5] = v_opacities[j] * out_opacities[j] * LN_2
        if v_rgb.shape[0]:
            rows[i, 6], rows[i, 7], rows[i, 8] = v_rgb[j, 0], v_rgb[j, 1], v_rgb[j, 2]
        if v_depths.shape[0]:
            rows[i, 9] = v_depths[j]


@lanewise
def _arrays_of_group(
    gradients: np.ndarray,
    scales: np.ndarray,
    stride: int,
    first: int,
    n: int,
    v_means: np.ndarray,
    v_quats: np.ndarray,
    v_scales: np.ndarray,
    v_sh: np.ndarray,
) -> None:
    """Gradients of blocks to one array a parameter; from logarithms of scales to scales."""
    rows = gradients.shape[1]
    flat = gradients.reshape(-1)
    for b in range(gradients.shape[0]):
        at, begin = b * rows * 16, first + 16 * b
        for i in range(min(16, n - begin)):
            g = begin + i
            for c in range(3):
                v_means[3 * g + c] = flat[at + 16 * c + i]
                v_scales[3 * g + c] = flat[at + 112 + 16 * c + i]
            for c in range(4):
                v_quats[4 * g + c] = flat[at + 48 + 16 * c + i]
        if stride:
            _give_coefficients(flat, at + 16 * GEOMETRY_ROWS, v_sh, stride, rows - GEOMETRY_ROWS, begin, n)
    for k in range(3 * first, 3 * min(first + 16 * gradients.shape[0], n)):
        v_scales[k] /= max(scales[k], SMALLEST_SCALE)


@lanewise
def _backward_groups(
    share: int,
    shares: int,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
    stride: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    want_pose: bool,
    records: np.ndarray,
    begins: np.ndarray,
    ids: np.ndarray,
    out_opacities: np.ndarray,
    v_means2d: np.ndarray,
    v_depths: np.ndarray,
    v_conics: np.ndarray,
    v_opacities: np.ndarray,
    v_rgb: np.ndarray,
    scratch: np.ndarray,
    gradient_scratch: np.ndarray,
    row_scratch: np.ndarray,
    v_means: np.ndarray,
    v_quats: np.ndarray,
    v_scales: np.ndarray,
    v_in_opacities: np.ndarray,
    v_sh: np.ndarray,
    pose: np.ndarray,
) -> None:
    n = opacities.shape[0]
    blocks = records.shape[0] // 16
    none = np.empty((0, 1, 16), np.float32)
    constants, touched = np.zeros(6, np.float32), np.ones(_GROUP, np.uint8)
    for turn in range(_turns(share, shares, begins.shape[0] - 1)):
        group = _group(share, shares, turn)
        if group >= begins.shape[0] - 1:
            break
        first, last = group * _GROUP, min((group + 1) * _GROUP, blocks)
        g, begin, end = 16 * first, begins[group], begins[group + 1]
        params, gradients = scratch[share, : last - first], gradient_scratch[share, : last - first]
        rows = row_scratch[share, : 16 * (last - first)]
        _blocks_of_group(means, quats, scales, opacities, sh, stride, g, n, params)
        _rows_of_group(ids, begin, end, g, out_opacities, v_means2d, v_depths, v_conics, v_opacities, v_rgb, rows)
        backward_share(
            0,
            1,
            params,
            gradients,
            none,
            none,
            constants,
            constants,
            view,
            model,
            antialiased,
            degree,
            want_pose,
            records[g : 16 * last],
            constants,
            rows,
            touched,
            none,
            -1,
            pose[group : group + 1],
        )
        _arrays_of_group(gradients, scales, stride, g, n, v_means, v_quats, v_scales, v_sh)
        v_in_opacities[g : min(16 * last, n)] = ZERO
        if v_opacities.shape[0]:
            for j in range(begin, end):
                # Through the logit this would be 0 / 0 for an opacity of 1.
                v_in_opacities[ids[j]] = v_opacities[j] * out_opacities[j] / opacities[ids[j]]


@cache.kernel(
    "void(i8, f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, f4[::1], i8, b1, i8, b1, f4[:,::1], i8[::1], i8[::1],"
    " f4[::1], f4[:,::1], f4[::1], f4[:,::1], f4[::1], f4[:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4[:,:,::1], f4[::1],"
    " f4[::1], f4[::1], f4[::1], f4[::1], f4[:,::1])",
    parallel=True,
)
def _backward(
    shares: int,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
    stride: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    want_pose: bool,
    records: np.ndarray,
    begins: np.ndarray,
    ids: np.ndarray,
    out_opacities: np.ndarray,
    v_means2d: np.ndarray,
    v_depths: np.ndarray,
    v_conics: np.ndarray,
    v_opacities: np.ndarray,
    v_rgb: np.ndarray,
    scratch: np.ndarray,
    gradient_scratch: np.ndarray,
    row_scratch: np.ndarray,
    v_means: np.ndarray,
    v_quats: np.ndarray,
    v_scales: np.ndarray,
    v_in_opacities: np.ndarray,
    v_sh: np.ndarray,
    pose: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        _backward_groups(
            share,
            shares,
            means,
            quats,
            scales,
            opacities,
            sh,
            stride,
            view,
            model,
            antialiased,
            degree,
            want_pose,
            records,
            begins,
            ids,
            out_opacities,
            v_means2d,
            v_depths,
            v_conics,
            v_opacities,
            v_rgb,
            scratch,
            gradient_scratch,
            row_scratch,
            v_means,
            v_quats,
            v_scales,
            v_in_opacities,
            v_sh,
            pose,
        )


@dataclass(frozen=True)
class Arrays:
    """Activated parameters, float32 and C-contiguous.

    Attributes:
        means: (N, 3).
        quats: (N, 4), (w, x, y, z), of any length but zero.
        scales: (N, 3).
        opacities: (N,) in [0, 1].
        sh: (N, K, 3), K of at least (degree + 1)^2, or None.
    """

    means: NDArray[np.float32]
    quats: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh: NDArray[np.float32] | None

    def flat(self) -> tuple[NDArray[np.float32], ...]:
        """All five as vectors, as the kernels take them."""
        sh = np.empty(0, np.float32) if self.sh is None else self.sh
        return tuple(a.reshape(-1) for a in (self.means, self.quats, self.scales, self.opacities, sh))

    @property
    def stride(self) -> int:
        """Numbers of colour of a Gaussian."""
        return 0 if self.sh is None else 3 * self.sh.shape[1]


@dataclass(frozen=True)
class Projected:
    """All Gaussians in one view.

    Attributes:
        records: (blocks * 16, 16), see `project_forward`; a view of the workspace.
        radii: (blocks * 16,), the larger half-extents, 0 for culled Gaussians; a view of the workspace.
        begins: (groups + 1,), visible Gaussians before each group of blocks.
        suspicious: Some Gaussians hold numbers that `studio_splat.arguments.check_values` refuses.
    """

    records: NDArray[np.float32]
    radii: NDArray[np.float32]
    begins: NDArray[np.int64]
    suspicious: bool


@dataclass(frozen=True)
class Visible:
    """The visible Gaussians of one view, in the order of their indices; see `studio_splat.view_rendering.Splats`."""

    ids: NDArray[np.int64]
    radii: NDArray[np.int32]
    means2d: NDArray[np.float32]
    depths: NDArray[np.float32]
    conics: NDArray[np.float32]
    opacities: NDArray[np.float32]
    rgb: NDArray[np.float32]


def project_arrays(arrays: Arrays, view: View, sh_degree: int, workspace: Workspace) -> Projected:
    """Project all Gaussians into one view.

    Args:
        arrays: The parameters.
        view: The camera.
        sh_degree: Degree to shade with, -1 for none.
        workspace: Holds the result until the next call.
    """
    blocks, threads = block_count(len(arrays.opacities)), cache.get_threads()
    groups = -(-blocks // _GROUP)
    records = workspace.array("arrays.records", (blocks * 16, RECORD_SIZE))
    radii = workspace.array("arrays.radii", (blocks * 16,))
    begins = np.zeros(groups + 1, np.int64)
    suspicious = np.zeros(groups, np.uint8)
    _project(
        threads,
        *arrays.flat(),
        arrays.stride,
        view.packed,
        view.model,
        view.antialiased,
        sh_degree,
        workspace.array("arrays.params", (threads, _GROUP, _rows(sh_degree), 16)),
        records,
        radii,
        begins[1:],
        suspicious,
    )
    return Projected(records, radii, np.cumsum(begins), bool(suspicious.any()))


def gather_visible(projected: Projected) -> Visible:
    """The visible Gaussians alone, in arrays of their own."""
    m = int(projected.begins[-1])
    found = Visible(
        ids=np.empty(m, np.int64),
        radii=np.empty((m, 2), np.int32),
        means2d=np.empty((m, 2), np.float32),
        depths=np.empty(m, np.float32),
        conics=np.empty((m, 3), np.float32),
        opacities=np.empty(m, np.float32),
        rgb=np.empty((m, 3), np.float32),
    )
    _gather(
        cache.get_threads(),
        projected.records,
        projected.radii,
        projected.begins,
        found.ids,
        found.radii,
        found.means2d,
        found.depths,
        found.conics,
        found.opacities,
        found.rgb,
    )
    return found


def backward_arrays(
    arrays: Arrays,
    view: View,
    sh_degree: int,
    projected: Projected,
    ids: NDArray[np.int64],
    out_opacities: NDArray[np.float32],
    upstream: dict[str, NDArray[np.float32] | None],
    workspace: Workspace,
    *,
    pose: bool = False,
) -> tuple[Arrays, NDArray[np.float64] | None]:
    """Gradients of all parameters, and of the pose, from those of the visible Gaussians.

    Args:
        arrays: As given to `project_arrays`.
        view: As given to `project_arrays`.
        sh_degree: As given to `project_arrays`.
        projected: Its result.
        ids: (M,) of `gather_visible`.
        out_opacities: (M,) of `gather_visible`.
        upstream: Gradients by the names of `Visible`, C-contiguous: means2d, depths, conics, opacities, rgb; None is 0.
        workspace: For scratch; need not be that of `project_arrays`.
        pose: Also compute the gradient with respect to the view's world_to_camera.

    Returns:
        The gradients, new arrays, and the pose's (3, 4) or None.
    """
    threads, groups = cache.get_threads(), len(projected.begins) - 1
    shape = (threads, _GROUP, _rows(sh_degree), 16)
    result = Arrays(
        np.empty_like(arrays.means),
        np.empty_like(arrays.quats),
        np.empty_like(arrays.scales),
        np.empty_like(arrays.opacities),
        None if arrays.sh is None else np.empty_like(arrays.sh),
    )
    partial = np.zeros((groups, POSE_ROWS), np.float32)
    nothing = {"means2d": (0, 2), "depths": (0,), "conics": (0, 3), "opacities": (0,), "rgb": (0, 3)}
    given = [
        np.empty(empty, np.float32) if (values := upstream[name]) is None else values for name, empty in nothing.items()
    ]
    _backward(
        threads,
        *arrays.flat(),
        arrays.stride,
        view.packed,
        view.model,
        view.antialiased,
        sh_degree,
        pose,
        projected.records,
        projected.begins,
        ids,
        out_opacities,
        *given,
        workspace.array("arrays.params", shape),
        workspace.array("arrays.gradients", shape),
        workspace.array("arrays.rows", (threads, _GROUP * 16, RECORD_SIZE)),
        *result.flat(),
        partial,
    )
    return result, pose_gradient(view, partial) if pose else None


def _rows(sh_degree: int) -> int:
    return GEOMETRY_ROWS + 3 * (sh_degree + 1) ** 2
