"""Sort splats by depth and list, for every 8x8 tile of the image, the splats that can touch it.

Splats, not (tile, splat) pairs, are sorted: a radix sort of the depths, then a stable counting sort of the splats
into tiles in that order. The tiles of a splat are found exactly: in each row of tiles, the interval of pixel columns
that the ellipse ``alpha = 1/255`` reaches. All stages split their input into contiguous shares, one a thread, and join
counts by prefix sums, so the lists do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from studio.errors import StudioError
from studio.kernels.cache import device, get_threads, kernel
from studio.kernels.vec import element, put
from studio.kernels.workspace import Workspace

from .depth_order import MAX_PAIRS, ask_ahead, located, order_splats
from .records import TILE, check_records
from .shares import share
from .tile_spans import measure_spans

_MAX_DIGIT_BITS = 12
_MAX_SIDE = 8 * 65535
_CHUNKS_PER_THREAD = 2
SPARE = 64
"""Entries past the end of the lists, which the rasteriser may read but not use: it asks for records a batch ahead."""


@dataclass(frozen=True)
class Tiles:
    """Splats listed by tile, nearest first. Arrays are views into the workspace.

    Attributes:
        width: image width in pixels.
        height: image height in pixels.
        start: (tiles + 1,) int64, where each tile's list starts in `ids`; tiles are in row-major order.
        count: (tiles,) int32, length of each list. The forward pass shortens lists to the splats that a pixel met.
        ids: (pairs + SPARE,) int32, indices of records.
        info: (N,) uint64, a splat's tile rows: rows in bits 0-15, first row in bits 16-31; 0 for splats not drawn.
        pairs: number of (tile, splat) pairs before the forward pass.
        drawn: number of splats that touch the image.
    """

    width: int
    height: int
    start: NDArray[np.int64]
    count: NDArray[np.int32]
    ids: NDArray[np.int32]
    info: NDArray[np.uint64]
    pairs: int
    drawn: int

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width // TILE)


@device
def _fill_lists(
    order: Any,
    first: int,
    last: int,
    columns: int,
    info: Any,
    spans: Any,
    cursor: Any,
    base: int,
    ids: Any,
) -> None:
    for j in range(first, last):
        ask_ahead(order, j, last, info, spans)
        index = np.int64(element(order, j) & np.uint64(0xFFFFFFFF))
        span, rows, row = located(element(info, index))
        line = base + row * columns
        for k in range(span, span + rows):
            ends = np.int64(element(spans, k))
            for tile in range(line + (ends & 0xFFFF), line + (ends >> 16)):
                place = np.int64(element(cursor, tile))
                put(ids, place, index)
                put(cursor, tile, place + 1)
            line += columns


@kernel("void(u8[::1], i8, i8, u8[::1], u4[::1], i4[:,::1], i4[::1])", parallel=True)
def _fill(order: Any, drawn: int, columns: int, info: Any, spans: Any, cursor: Any, ids: Any) -> None:
    chunks = cursor.shape[0]
    for part in prange(chunks // 2):
        t = np.int64(part)
        for chunk in (t, chunks - 1 - t):
            _fill_lists(
                order,
                share(drawn, chunk, chunks),
                share(drawn, chunk + 1, chunks),
                columns,
                info,
                spans,
                cursor.reshape(-1),
                chunk * cursor.shape[1],
                ids,
            )


def _order_splats(
    records: NDArray[np.float32], width: int, height: int, workspace: Workspace
) -> tuple[int, int, NDArray, NDArray, NDArray]:
    """All stages but the writing of lists: pairs, drawn, depth order, spans, write positions."""
    check_records(records)
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise ValueError(f"width, height: expected 1 to {_MAX_SIDE} pixels, got {width}x{height}")
    count = len(records)
    threads = get_threads()
    info = workspace.array("bin.info", (count,), np.uint64)
    keys = workspace.array("bin.keys", (count,), np.uint64)
    shares = workspace.array("bin.shares", (threads, 4), np.int64)
    needed = max(workspace.capacity("bin.spans"), 4 * count + 16 * threads)
    while True:
        spans = workspace.array("bin.spans", (needed,), np.uint32)
        needed = measure_spans(records, width, height, threads, info, spans, keys, shares)
        if needed <= len(spans):
            break

    drawn = int(shares[:, 0].sum())
    spread = int(shares[:, 3].max()) - int(shares[:, 2].min())
    bits = max(1, spread.bit_length())
    passes = -(-bits // _MAX_DIGIT_BITS)
    bits = -(-bits // passes)
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles = columns * rows
    scratch = workspace.array("bin.scratch", (count,), np.uint64)
    digits = workspace.array("bin.digits", (threads, 1 << bits), np.int32)
    cursor = workspace.array("bin.cursor", (_CHUNKS_PER_THREAD * threads, tiles + 1), np.int32)
    start = workspace.array("bin.start", (tiles + 1,), np.int64)
    tile_count = workspace.array("bin.count", (tiles,), np.int32)
    totals = workspace.array("bin.totals", (threads,), np.int64)
    pairs = order_splats(
        keys,
        scratch,
        shares,
        count,
        columns,
        bits,
        passes,
        info,
        spans,
        digits,
        cursor,
        start,
        tile_count,
        totals,
    )
    return pairs, drawn, (keys if passes % 2 == 0 else scratch), spans, cursor


def count_pairs(records: NDArray[np.float32], width: int, height: int, workspace: Workspace) -> int:
    """Number of (tile, splat) pairs that :func:`bin_splats` would list: what its memory and the frame's time depend on.

    It costs about half of the binning and allocates nothing in proportion to the pairs (4 bytes each are needed for
    the lists). Tiles from an earlier call with this workspace become invalid.
    """
    return _order_splats(records, width, height, workspace)[0]


def bin_splats(records: NDArray[np.float32], width: int, height: int, workspace: Workspace) -> Tiles:
    """List the splats that touch each 8x8 tile, nearest first, equal depths in index order.

    Args:
        records: (N, 16) float32, C-contiguous; splats with a half extent of 0 are not drawn, nor those with NaN.
        width: image width in pixels.
        height: image height in pixels.
        workspace: holds the result until the next call.

    Raises:
        ValueError: wrong shape, dtype or image size.
        StudioError: more than 2³¹ − 1 pairs, or the system refuses the memory.
    """
    pairs, drawn, order, spans, cursor = _order_splats(records, width, height, workspace)
    if pairs > MAX_PAIRS:
        raise StudioError(
            f"{pairs} (tile, Gaussian) pairs in one {width}x{height} image; at most {MAX_PAIRS} are possible",
            fix="render a smaller image, or prune Gaussians that cover the whole view",
        )
    count = len(records)
    tiles = -(-width // TILE) * -(-height // TILE)
    info = workspace.array("bin.info", (count,), np.uint64)
    ids = workspace.array("bin.ids", (pairs + SPARE,), np.int32)
    _fill(order, drawn, -(-width // TILE), info, spans, cursor, ids)
    return Tiles(
        width=width,
        height=height,
        start=workspace.array("bin.start", (tiles + 1,), np.int64),
        count=workspace.array("bin.count", (tiles,), np.int32),
        ids=ids,
        info=info,
        pairs=pairs,
        drawn=drawn,
    )
