"""Which photos are compared with which: matching is the larger part of the time."""

from __future__ import annotations

from typing import Literal

Matching = Literal["auto", "exhaustive", "sequential"]

EXHAUSTIVE_FRAMES = 50
"""A video of up to so many frames is matched exhaustively all the same."""
_NEXT = 10
"""Neighbours that each photo of a sequence is compared with, on one side."""
_ANCHORS = 30
"""Photos spread over a sequence that are all compared with each other, so that a path that comes back is closed."""


def choose_matching(wanted: Matching, count: int, *, is_video: bool) -> Literal["exhaustive", "sequential"]:
    """`wanted`, or for "auto" sequential for long videos and exhaustive else: file names of photos tell no order."""
    if wanted != "auto":
        return wanted
    return "sequential" if is_video and count > EXHAUSTIVE_FRAMES else "exhaustive"


def photo_pairs(count: int, matching: Literal["exhaustive", "sequential"]) -> list[tuple[int, int]]:
    """Pairs (i, j) with i < j of photo numbers, each once, in ascending order.

    Sequential: the next ten photos, then those at doubled distances (16, 32, ...), and all pairs of thirty photos
    spread over the sequence.
    """
    if matching == "exhaustive":
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    steps = list(range(1, _NEXT + 1))
    far = 16
    while far < count:
        steps.append(far)
        far *= 2
    found = {(i, i + step) for i in range(count) for step in steps if i + step < count}
    anchors = sorted({round(k * (count - 1) / (_ANCHORS - 1)) for k in range(_ANCHORS)}) if count > 1 else []
    found |= {(i, j) for a, i in enumerate(anchors) for j in anchors[a + 1 :]}
    return sorted(found)
