"""The size of moving pictures against a machine whose speed is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.viewer.resolution import AdaptiveResolution, capped, scaled

FULL = (1000, 500)


def learn(fixed: float, per_pixel: float, target: float = 0.05, rounds: int = 12) -> AdaptiveResolution:
    resolution = AdaptiveResolution(target)
    for index in range(rounds):
        size = resolution.moving_size(FULL) if index % 4 else FULL
        resolution.record(size, fixed + per_pixel * size[0] * size[1])
    return resolution


def test_it_learns_the_speed_and_fills_the_time() -> None:
    resolution = learn(fixed=0.01, per_pixel=2e-7)
    assert resolution.predict(FULL) == pytest.approx(0.11)
    width, height = resolution.moving_size(FULL)
    # 0.05 s allow 200,000 of 500,000 pixels, a factor of 0.632; the next sixteenth below is 10/16.
    assert (width, height) == (625, 312)


def test_a_fast_machine_draws_at_full_size() -> None:
    assert learn(0.001, 1e-9).moving_size(FULL) == FULL


def test_a_fixed_cost_does_not_drive_pictures_to_stamps() -> None:
    """Projecting many Gaussians takes longer than the target whatever the size: fewer pixels would not help."""
    width, _ = learn(fixed=0.2, per_pixel=1e-8).moving_size(FULL)
    assert width == 1000
    width, _ = learn(fixed=0.2, per_pixel=4e-7).moving_size(FULL)
    assert width >= 0.2 * FULL[0]


def test_the_first_picture_is_not_believed() -> None:
    resolution = AdaptiveResolution()
    resolution.record(FULL, 30.0)
    assert not resolution.known
    resolution.record(FULL, 0.01)
    assert resolution.predict(FULL) == pytest.approx(0.01)
    resolution.forget()
    assert not resolution.known
    assert resolution.predict(FULL) == 0.0


def test_it_follows_a_change_of_speed() -> None:
    resolution = learn(0.0, 1e-9)
    for _ in range(12):
        resolution.record(FULL, 0.5)
    assert resolution.moving_size(FULL)[0] < 500


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 4000), height=st.integers(1, 4000), factor=st.floats(0.001, 3.0), side=st.integers(16, 4096)
)
def test_sizes_keep_the_aspect_and_the_bounds(width: int, height: int, factor: float, side: int) -> None:
    w, h = scaled((width, height), factor)
    assert 1 <= w <= width
    assert 1 <= h <= height
    assert abs(w * height - h * width) <= 0.5 * (width + height) + 1
    assert min(w, h) >= min(64, width, height)
    w, h = capped((width, height), side)
    assert max(w, h) <= max(side, 64 * max(width, height) / min(width, height)) + 1
