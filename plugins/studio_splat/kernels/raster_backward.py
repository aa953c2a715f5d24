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

from studio.kernels.cache import Kernel, get_threads, kernel
from studio.kernels.workspace import Workspace

from .binning import Tiles
from .blend import PIXELS
from .raster_forward import Raster, check_features
from .records import RECORD, check_records
from .shared_rows import GRADIENT_BLOCK, clear_own, merge_shared, prepare_rows
from .shares import share
from .tile_gradients import (
    BATCH,
    STAGE,
    gradients_features,
    gradients_features_abs,
    gradients_rgb,
    gradients_rgb_abs,
    gradients_rgbd,
    gradients_rgbd_abs,
)


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


@functools.cache
def _backward_kernel(channels: int, absgrad: bool) -> Kernel:
    """The parallel kernel of one variant, compiled on its first call."""
    # A closure over constants: Numba drops the other branches before typing, and its cache tells the variants apart.

    @kernel(
        "void(f4[:,::1], f4[:,::1], i4[::1], i8[::1], i4[::1], i8[::1], i8, i8, f4[:,:,::1], f4[:,::1], f4[:,:,::1],"
        " f4[:,::1], i4[::1], i4[::1], i8[::1], i8, f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], u1[::1], f8[:,::1],"
        " f4[:,::1])",
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
        starts: Any,
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
        # The threads' own rows are cleared, tiles walked, own rows added up, all through one parallel loop: each one
        # costs most of a second to compile.
        for stage in range(3):
            for part in prange(threads):
                t = np.int64(part)
                if stage == 0:
                    clear_own(
                        own_rows,
                        own_feature_rows.reshape(-1),
                        feature_rows.shape[1],
                        share(own_rows.shape[0], t, threads),
                        share(own_rows.shape[0], t + 1, threads),
                    )
                elif stage == 2:
                    merge_shared(
                        shared,
                        share(shared_count, t, threads),
                        share(shared_count, t + 1, threads),
                        starts,
                        rows,
                        own_rows,
                        feature_rows,
                        own_feature_rows.reshape(-1),
                    )
                else:
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
                        t,
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
                            gradients_features_abs(*args)
                        else:
                            gradients_features(*args)
                    elif channels == 3:
                        if absgrad:
                            gradients_rgb_abs(*args)
                        else:
                            gradients_rgb(*args)
                    else:
                        if absgrad:
                            gradients_rgbd_abs(*args)
                        else:
                            gradients_rgbd(*args)

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
    flagged = workspace.capacity(f"{layout}.touched")
    cleared = max(blocks, flagged)
    touched = workspace.array(f"{layout}.touched", (cleared,), np.uint8)
    rows = workspace.array(f"{layout}.rows", (cleared * GRADIENT_BLOCK, RECORD))
    feature_rows = workspace.array(f"{layout}.features", (cleared * GRADIENT_BLOCK, feature_planes))
    if blocks > flagged:
        # The flags are new and know of nothing, but the rows may have had the room and still hold what was.
        rows.fill(0.0)
        feature_rows.fill(0.0)
    bounds = workspace.array("backward.bounds", (threads + 1,), np.int64)
    slot = workspace.array("backward.slot", (count,), np.int32)
    shared = workspace.array("backward.shared", (count,), np.int32)
    starts = workspace.array("backward.starts", (count + 1,), np.int64)
    found = workspace.array("backward.found", (threads, 2), np.int64)
    shared_count = prepare_rows(
        tiles.info,
        tiles.count,
        tiles.columns,
        touched,
        rows,
        feature_rows,
        bounds,
        slot,
        shared,
        starts,
        found,
    )
    own_count = int(starts[shared_count])
    own_rows = workspace.array("backward.own_rows", (own_count, RECORD))
    own_feature_rows = workspace.array("backward.own_features", (own_count, feature_planes))
    v_background = workspace.array("backward.v_background", (threads, planes), np.float64)
    v_background.fill(0.0)
    scratch = workspace.array("backward.scratch", (threads, (planes + 3) * PIXELS + BATCH * STAGE))
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
        starts,
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
