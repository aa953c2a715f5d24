"""Numbers drawn as a pure function of a key: the same on every machine and with every version of every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """64-bit integers scattered one to one over all 64-bit integers (the output step of SplitMix64, Steele 2014)."""
    z = np.asarray(values).astype(np.uint64) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


def keys_of(seed: int, stream: int, indices: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """One key for each index of a stream of a seed."""
    root = mix(mix(np.array([seed], dtype=np.uint64)) + np.uint64(stream))
    return mix(root ^ mix(np.asarray(indices, dtype=np.uint64)))


def uniforms(keys: npt.NDArray[np.uint64], first: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers `first` to `first + count` of each key's endless row, uniform in [0, 1): shape (len(keys), count)."""
    counters = np.arange(first, first + count, dtype=np.uint64) * _GOLDEN
    bits = mix(keys[:, None] + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
