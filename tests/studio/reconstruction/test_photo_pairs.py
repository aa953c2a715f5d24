"""Which photos are compared."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from studio.reconstruction.pairs import choose_matching, photo_pairs


def test_exhaustive_is_every_pair_once() -> None:
    assert photo_pairs(4, "exhaustive") == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 400))
def test_sequences_are_compared_near_by_and_around(count: int) -> None:
    pairs = photo_pairs(count, "sequential")
    assert pairs == sorted(set(pairs))
    assert all(0 <= i < j < count for i, j in pairs)
    assert set(pairs) >= {(i, j) for i in range(count) for j in range(i + 1, min(i + 11, count))}
    if count > 1:
        # A path that comes back is closed.
        assert (0, count - 1) in pairs
    assert len(pairs) <= count * 20 + 30 * 29 // 2


def test_only_long_videos_are_sequences_by_themselves() -> None:
    assert choose_matching("auto", 500, is_video=False) == "exhaustive"
    assert choose_matching("auto", 50, is_video=True) == "exhaustive"
    assert choose_matching("auto", 51, is_video=True) == "sequential"
    assert choose_matching("exhaustive", 51, is_video=True) == "exhaustive"
