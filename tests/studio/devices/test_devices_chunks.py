"""Chunks that shrink: the result equals the unchunked one whatever fails on the way."""

from __future__ import annotations

import weakref
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.devices import (
    ChunkSizes,
    DeviceManager,
    cat_chunks,
    chunk_that_fits,
    is_out_of_memory,
    iter_chunked,
    run_chunked,
)
from studio.errors import StudioError

TOO_MUCH = 1 << 50
"""More bytes than any machine has: asking for them fails for real, at once, and takes nothing."""


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: np.zeros(TOO_MUCH * 8, np.uint8),
        lambda: bytearray(TOO_MUCH),
    ],
    ids=["torch's host allocator", "NumPy", "Python"],
)
def test_real_out_of_memory_errors_are_known(fail: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.56 GB, max allowed: 6.80 GB)."), True),
        (RuntimeError("Invalid buffer size: 9.75 GB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
        (StudioError("out of memory"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_messages(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_wrapped_error_is_known_by_its_cause() -> None:
    outer = ValueError("kernel failed")
    assert not is_out_of_memory(outer)
    outer.__cause__ = MemoryError()
    assert is_out_of_memory(outer)


@settings(deadline=None, max_examples=200)
@given(
    total=st.integers(0, 200),
    chunk=st.integers(1, 300),
    room=st.lists(st.integers(1, 100), min_size=1, max_size=8),
)
def test_chunked_equals_unchunked_and_covers_each_item_once(total: int, chunk: int, room: list[int]) -> None:
    """`room` is how many items fit, changing from call to call."""
    x = torch.arange(total, dtype=torch.float64)
    calls: list[tuple[int, int, bool]] = []

    def fn(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        fits = stop - start <= room[len(calls) % len(room)]
        calls.append((start, stop, fits))
        if not fits:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return torch.arange(start, stop), x[start:stop].square()

    # Looking for cycles after every failure takes most of the time and is another test's subject.
    with patch("studio.devices.out_of_memory.gc.collect"):
        parts = run_chunked(fn, total, chunk)
    if total == 0:
        assert parts == []
        assert calls == []
        return
    items, squares = cat_chunks(parts)
    assert torch.equal(items, torch.arange(total))
    assert torch.equal(squares, x.square())
    done = [(start, stop) for start, stop, fits in calls if fits]
    assert [i for start, stop in done for i in range(start, stop)] == list(range(total))
    assert all(0 < stop - start <= chunk for start, stop, _ in calls)
    # Each failure at least halves a size of at most `chunk`, and the size never grows again.
    assert sum(not fits for *_, fits in calls) <= max(1, chunk).bit_length() + 1


def test_working_size_is_remembered_by_key() -> None:
    sizes, seen, shrunk = ChunkSizes(), [], []

    def fn(start: int, stop: int) -> int:
        seen.append(stop - start)
        if stop - start > 5:
            raise MemoryError
        return stop - start

    assert run_chunked(fn, 20, 16, key="a", sizes=sizes, on_shrink=shrunk.append) == [4] * 5
    assert seen == [16, 8, 4, 4, 4, 4, 4]
    assert shrunk == [8, 4]
    seen.clear()
    run_chunked(fn, 20, 16, key="a", sizes=sizes)
    assert seen == [4] * 5
    seen.clear()
    run_chunked(fn, 20, 2, key="a", sizes=sizes)
    assert seen == [2] * 10, "a smaller wish is respected"
    seen.clear()
    run_chunked(fn, 6, 16, key="b", sizes=sizes)
    assert seen == [6, 3, 3], "another key starts afresh"
    sizes.forget("a")
    assert sizes.recall("a", 16) == 16


def test_one_item_that_does_not_fit_is_told() -> None:
    tried = []

    def fn(start: int, stop: int) -> None:
        tried.append((start, stop))
        torch.empty(TOO_MUCH, dtype=torch.uint8)

    with pytest.raises(StudioError, match=r"only one of 8 rays .*can't allocate memory.*--device cpu") as caught:
        run_chunked(fn, 8, 8, what="rays")
    assert tried == [(0, 8), (0, 4), (0, 2), (0, 1)]
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_other_errors_pass_at_once() -> None:
    calls = []

    def fn(start: int, stop: int) -> None:
        calls.append(start)
        raise ValueError("wrong shape")

    with pytest.raises(ValueError, match="wrong shape"):
        run_chunked(fn, 8, 8)
    assert calls == [0]


class Buffer:
    """Stands for a large tensor; weak references tell when it is gone."""


def test_a_failed_attempt_holds_no_memory_during_the_next() -> None:
    alive: list[weakref.ref[Buffer]] = []

    def deep(start: int, stop: int) -> Buffer:
        buffer = Buffer()
        assert [ref for ref in alive if ref() is not None] == []
        alive.append(weakref.ref(buffer))
        if stop - start > 1:
            cycle = [buffer]
            cycle.append(cycle)  # type: ignore[arg-type]
            raise MemoryError
        return buffer

    def fn(start: int, stop: int) -> int:
        deep(start, stop)
        return stop - start

    assert run_chunked(fn, 1, 4) == [1]
    alive.clear()
    assert run_chunked(fn, 4, 4) == [1] * 4


def test_streamed_results_are_not_kept() -> None:
    alive: list[weakref.ref[Buffer]] = []

    def fn(start: int, stop: int) -> Buffer:
        assert sum(ref() is not None for ref in alive) <= 1, "only the consumer's last one"
        buffer = Buffer()
        alive.append(weakref.ref(buffer))
        return buffer

    assert sum(1 for _ in iter_chunked(fn, 10, 1)) == 10


def test_idle_models_make_room_before_a_smaller_attempt(simulate: Callable[..., Any]) -> None:
    machine = simulate(cpu=16, cuda0=8)
    manager, gpu = DeviceManager(machine), machine.device("cuda:0")
    idle = machine.model(6)
    manager.lease(gpu, 0, idle, name="idle").release()

    def fn(start: int, stop: int) -> int:
        size = (stop - start) * 2**30
        machine.allocate("cuda:0", size)
        machine.free("cuda:0", size)
        return stop - start

    assert manager.run_chunked(gpu, fn, 16, 16, key="render") == [8, 8]
    assert idle.place == "cpu"
    assert manager.run_chunked(gpu, fn, 16, 16, key="render") == [8, 8]


@pytest.mark.parametrize(("total", "chunk"), [(-1, 4), (4, 0)])
def test_bad_sizes(total: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="total must be at least 0 and chunk at least 1"):
        run_chunked(lambda start, stop: None, total, chunk)


@dataclass(frozen=True)
class Render:
    rgb: torch.Tensor
    depth: torch.Tensor | None = None


Pair = namedtuple("Pair", ["a", "b"])


def test_cat_chunks_joins_structures() -> None:
    one, two = torch.ones(2, 3), torch.zeros(1, 3)
    both = torch.cat([one, two])
    assert torch.equal(cat_chunks([one, two]), both)
    assert cat_chunks([one]) is one
    assert torch.equal(cat_chunks([one.T, two.T], dim=1), both.T)
    joined = cat_chunks([{"rgb": one, "n": np.ones(2)}, {"rgb": two, "n": np.zeros(1)}])
    assert torch.equal(joined["rgb"], both)
    assert joined["n"].tolist() == [1, 1, 0]
    assert torch.equal(cat_chunks([Pair(one, [one]), Pair(two, [two])]).b[0], both)
    render = cat_chunks([Render(one), Render(two)])
    assert torch.equal(render.rgb, both)
    assert render.depth is None


def test_cat_chunks_refuses_what_it_cannot_join() -> None:
    with pytest.raises(ValueError, match="at least one"):
        cat_chunks([])
    with pytest.raises(ValueError, match="differ in their keys"):
        cat_chunks([{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    with pytest.raises(TypeError, match="type str"):
        cat_chunks(["a", "b"])


def test_chunk_that_fits() -> None:
    assert chunk_that_fits(1000, 100, 50, share=0.8) == 8
    assert chunk_that_fits(1000, 100, 5) == 5
    assert chunk_that_fits(10, 100, 5) == 1
    with pytest.raises(ValueError, match="bytes_per_item"):
        chunk_that_fits(10, 0, 5)
