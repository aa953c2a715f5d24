"""The position noise of MCMC density control (Kheradmand et al., 2024), in place on blocks."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import f32, lanewise

from .layout import LANES, check_blocks

_GATE_SHARPNESS = 100.0
_GATE_CENTRE = 0.005
_NEGLIGIBLE = 0.2
"""Opacity above which the gate is below 4e-9 and the noise is left out."""
_TWO_PI = 2 * math.pi


@lanewise
def _mix(value: int) -> int:
    """A random 64-bit number from a counter (SplitMix64, Steele et al. 2014)."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lanewise
def _normals(seed: int, index: int, out: np.ndarray) -> None:
    """Four standard normal numbers of a counter (Box and Muller, 1958)."""
    for pair in range(2):
        bits = _mix(np.uint64(seed) ^ _mix(np.uint64(2 * index + pair)))
        u = (np.float64(bits >> np.uint64(40)) + 0.5) * (1.0 / 16777216.0)
        angle = _TWO_PI * np.float64(bits & np.uint64(0xFFFFFF)) * (1.0 / 16777216.0)
        radius = math.sqrt(-2.0 * math.log(u))
        out[2 * pair] = radius * math.cos(angle)
        out[2 * pair + 1] = radius * math.sin(angle)


@lanewise
def _explore_blocks(first: int, end: int, params: np.ndarray, strength: float, seed: int) -> None:
    n = np.empty(4)
    for b in range(first, end):
        for i in range(LANES):
            opacity = 1.0 / (1.0 + math.exp(-np.float64(params[b, 10, i])))
            # Lanes of the padding have an opacity of exactly 0.
            if opacity > _NEGLIGIBLE or opacity == 0.0:
                continue
            gate = strength / (1.0 + math.exp(_GATE_SHARPNESS * (opacity - _GATE_CENTRE)))
            _normals(seed, b * LANES + i, n)
            w, x, y, z = params[b, 3, i], params[b, 4, i], params[b, 5, i], params[b, 6, i]
            scale = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
            w, x, y, z = w * scale, x * scale, y * scale, z * scale
            r00, r01, r02 = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
            r10, r11, r12 = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
            r20, r21, r22 = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
            v0 = math.exp(2 * params[b, 7, i]) * (r00 * n[0] + r10 * n[1] + r20 * n[2])
            v1 = math.exp(2 * params[b, 8, i]) * (r01 * n[0] + r11 * n[1] + r21 * n[2])
            v2 = math.exp(2 * params[b, 9, i]) * (r02 * n[0] + r12 * n[1] + r22 * n[2])
            params[b, 0, i] += f32(gate * (r00 * v0 + r01 * v1 + r02 * v2))
            params[b, 1, i] += f32(gate * (r10 * v0 + r11 * v1 + r12 * v2))
            params[b, 2, i] += f32(gate * (r20 * v0 + r21 * v1 + r22 * v2))


@cache.kernel("void(i8, f4[:,:,::1], f8, u8)", parallel=True)
def _explore(shares: int, params: np.ndarray, strength: float, seed: int) -> None:
    blocks = params.shape[0]
    for share in numba.prange(shares):
        _explore_blocks(share * blocks // shares, (share + 1) * blocks // shares, params, strength, seed)


def explore(params: NDArray[np.float32], strength: float, seed: int) -> None:
    """Move every mean by covariance @ normal * sigmoid(-100 (opacity - 0.005)) * strength (eq. 8).

    Args:
        params: (blocks, R, 16), updated.
        strength: Noise level times the learning rate of the means.
        seed: Equal seeds give equal noise, whatever the number of threads.
    """
    check_blocks(params, -1)
    _explore(cache.get_threads(), params, strength, np.uint64(seed))
