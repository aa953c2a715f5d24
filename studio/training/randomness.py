"""Seeding every random stream, and carrying their states through checkpoints."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, *keys: int) -> int:
    """A 32-bit seed for one of a run's own random streams, such as the order of its third epoch.

    torch's CPU generators look at 32 bits of a seed only, so neighbouring seeds and keys are mixed first.
    """
    return int(np.random.SeedSequence([seed, *keys]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (plugins may use the global stream, so it must be seeded)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of all global streams, as tensors and plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    keys = np.asarray(keys)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run something that may draw random numbers (a preview, an evaluation) without changing what training draws."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
