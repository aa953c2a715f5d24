"""Samples of rays as the other kernels take them: their places in the unit cube, and which of them light reaches."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

f32 = np.float32
_ONE, _TWO, _HALF, _QUARTER = f32(1.0), f32(2.0), f32(0.5), f32(0.25)


@cache.device
def _place_rays(
    first: int, end: int, origins: np.ndarray, directions: np.ndarray, offsets: np.ndarray, starts: np.ndarray,
    ends: np.ndarray, frame: np.ndarray, contracted: bool, positions: np.ndarray, rays: np.ndarray,
) -> None:  # fmt: skip
    scale = frame[3]
    for i in range(first, end):
        ox, oy, oz = origins[i, 0] - frame[0], origins[i, 1] - frame[1], origins[i, 2] - frame[2]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        for s in range(offsets[i], offsets[i + 1]):
            t = _HALF * (starts[s] + ends[s])
            x, y, z = (ox + t * dx) * scale, (oy + t * dy) * scale, (oz + t * dz) * scale
            if contracted:
                # Mip-NeRF 360 (Barron et al., 2022), equation 10, with the maximum norm.
                size = max(abs(x), max(abs(y), abs(z)))
                if size > _ONE:
                    shrink = (_TWO - _ONE / size) / size
                    x, y, z = x * shrink, y * shrink, z * shrink
                x, y, z = x * _QUARTER + _HALF, y * _QUARTER + _HALF, z * _QUARTER + _HALF
            else:
                x, y, z = x * _HALF + _HALF, y * _HALF + _HALF, z * _HALF + _HALF
            positions[0, s], positions[1, s], positions[2, s] = x, y, z
            rays[s] = np.int32(i)


@cache.kernel(
    "void(i8, f4[:,::1], f4[:,::1], i8[::1], f4[::1], f4[::1], f4[::1], b1, f4[:,::1], i4[::1])", parallel=True
)
def _place(
    shares: int, origins: np.ndarray, directions: np.ndarray, offsets: np.ndarray, starts: np.ndarray,
    ends: np.ndarray, frame: np.ndarray, contracted: bool, positions: np.ndarray, rays: np.ndarray,
) -> None:  # fmt: skip
    n = origins.shape[0]
    for share in numba.prange(shares):
        _place_rays(share * n // shares, (share + 1) * n // shares, origins, directions, offsets, starts, ends, frame,
                    contracted, positions, rays)  # fmt: skip


def place_samples(
    origins: NDArray[np.float32], directions: NDArray[np.float32], offsets: NDArray[np.int64],
    starts: NDArray[np.float32], ends: NDArray[np.float32], frame: NDArray[np.float32], contracted: bool,
    positions: NDArray[np.float32], rays: NDArray[np.int32],
) -> None:  # fmt: skip
    """Middles of intervals in the unit cube of the encoding.

    Args:
        origins: (n, 3).
        directions: (n, 3), of unit length.
        offsets: (n + 1,), ray i has the intervals ``offsets[i]:offsets[i + 1]``.
        starts: (m,), distances.
        ends: (m,), distances.
        frame: Centre (3) of the cube that becomes [-1, 1]^3, and 1 / half its side.
        contracted: Whether that cube is the inner half of the unit cube and all space the rest, or the whole of it.
        positions: (3, at least m), written.
        rays: (m,), written: the ray of each.
    """
    shares = 4 * cache.get_threads()
    _place(shares, origins, directions, offsets, starts, ends, frame, contracted, positions, rays)


@cache.kernel(
    "i8(i8[::1], f4[::1], f4[::1], f4[::1], f4[:,::1], i8, f4, f4, i4[::1], i4[::1], i8[::1], f4[::1], f4[::1], "
    "f4[:,::1])"
)
def _reached(
    offsets: np.ndarray, starts: np.ndarray, ends: np.ndarray, density: np.ndarray, positions: np.ndarray, limit: int,
    depth_limit: float, alpha_limit: float, samples: np.ndarray, rays: np.ndarray, kept: np.ndarray,
    lengths: np.ndarray, middles: np.ndarray, places: np.ndarray,
) -> int:  # fmt: skip
    count = 0
    kept[0] = 0
    n = offsets.shape[0] - 1
    for i in range(n):
        depth = f32(0.0)
        for s in range(offsets[i], offsets[i + 1]):
            length = ends[s] - starts[s]
            thickness = density[s] * length
            if thickness >= alpha_limit and count < limit:
                samples[count] = np.int32(s)
                rays[count] = np.int32(i)
                lengths[count] = length
                middles[count] = _HALF * (starts[s] + ends[s])
                places[0, count], places[1, count], places[2, count] = positions[0, s], positions[1, s], positions[2, s]
                count += 1
            depth += thickness
            if depth > depth_limit:
                break
        kept[i + 1] = count
    return count


def reached_samples(
    offsets: NDArray[np.int64], starts: NDArray[np.float32], ends: NDArray[np.float32], density: NDArray[np.float32],
    positions: NDArray[np.float32], early_stop: float, least_thickness: float, samples: NDArray[np.int32],
    rays: NDArray[np.int32], kept: NDArray[np.int64], lengths: NDArray[np.float32], middles: NDArray[np.float32],
    places: NDArray[np.float32],
) -> int:  # fmt: skip
    """Choose the samples that light reaches, and lay their data side by side.

    Args:
        offsets: (n + 1,), as for `place_samples`.
        starts: (m,), distances.
        ends: (m,), distances.
        density: (m,).
        positions: (3, at least m), from `place_samples`.
        early_stop: Least transmittance with which light enters a chosen sample.
        least_thickness: Least optical thickness of a chosen sample.
        samples: (at least m,), written: which samples were chosen.
        rays: (at least m,), written: their rays.
        kept: (n + 1,), written: offsets of the chosen samples.
        lengths: (at least m,), written.
        middles: (at least m,), written.
        places: (3, at least m), written: their positions.

    Returns:
        How many there are.
    """
    depth_limit = -np.log(np.float32(early_stop)) if early_stop > 0 else np.float32(np.inf)
    least = np.float32(least_thickness)
    count: int = _reached(
        offsets, starts, ends, density, positions, len(samples), depth_limit, least, samples, rays, kept, lengths,
        middles, places,
    )  # fmt: skip
    return count
