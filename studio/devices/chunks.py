"""Work in chunks that shrink when memory runs out, instead of failing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from studio.devices.out_of_memory import empty_caches, is_out_of_memory, let_go
from studio.errors import StudioError

T = TypeVar("T")


class ChunkSizes:
    """Chunk sizes that fitted, by key, so that the next run does not search again. Thread-safe."""

    def __init__(self) -> None:
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def recall(self, key: Hashable, chunk: int) -> int:
        """The size known to fit under `key`, at most `chunk`."""
        with self._lock:
            return min(chunk, self._sizes.get(key, chunk))

    def record(self, key: Hashable, chunk: int) -> None:
        """Remember that only `chunk` items fit under `key`."""
        with self._lock:
            self._sizes[key] = chunk

    def forget(self, key: Hashable | None = None) -> None:
        """Forget one key, or all of them: the next run starts from the chunk it is given."""
        with self._lock:
            if key is None:
                self._sizes.clear()
            else:
                self._sizes.pop(key, None)


_REMEMBERED = ChunkSizes()


def run_chunked(
    fn: Callable[[int, int], T],
    total: int,
    chunk: int,
    *,
    what: str = "items",
    key: Hashable | None = None,
    sizes: ChunkSizes | None = None,
    release: Callable[[], object] | None = None,
    on_shrink: Callable[[int], object] | None = None,
) -> list[T]:
    """Call `fn(start, stop)` over consecutive ranges that cover 0..total, and halve them when memory runs out.

    A call that runs out of memory is repeated with a smaller range; its partial result is dropped, so every item is in
    the output exactly once. `fn` must therefore be free of side effects up to its end (a random generator that it
    advances would make a repeated call differ: seed by `start`, or draw before).

    Args:
        fn: Computes items start (inclusive) to stop (exclusive).
        total: Number of items; with 0 `fn` is never called.
        chunk: Most items a call.
        what: The items' name in the plural, for the message when even one does not fit.
        key: Remembers the working size under this key (say, plugin and device); None remembers nothing.
        sizes: Where to remember; default: one memory for the process.
        release: Frees more memory before a repetition, such as `DeviceManager.offload_idle`; default: torch's caches.
        on_shrink: Called with the new size after each halving, for a log line.

    Returns:
        The results in order; see `cat_chunks`.

    Raises:
        StudioError: One item alone runs out of memory.
    """
    return list(iter_chunked(fn, total, chunk, what=what, key=key, sizes=sizes, release=release, on_shrink=on_shrink))


def iter_chunked(
    fn: Callable[[int, int], T],
    total: int,
    chunk: int,
    *,
    what: str = "items",
    key: Hashable | None = None,
    sizes: ChunkSizes | None = None,
    release: Callable[[], object] | None = None,
    on_shrink: Callable[[int], object] | None = None,
) -> Iterator[T]:
    """`run_chunked` that yields each result, for outputs that would not fit together."""
    if total < 0 or chunk < 1:
        raise ValueError(f"total must be at least 0 and chunk at least 1, got total={total}, chunk={chunk}")
    memory = _REMEMBERED if sizes is None else sizes
    size = chunk if key is None else memory.recall(key, chunk)
    start = 0
    while start < total:
        stop = min(start + size, total)
        result, failure = _attempt(fn, start, stop)
        if failure is None:
            # Two names for the result would keep it alive while the next one is computed.
            yield result.pop()
            start = stop
            continue
        # Out of the except block already: there the interpreter itself would hold the failed call's frames.
        (release or empty_caches)()
        tried = stop - start
        if tried == 1:
            raise StudioError(
                f"Out of memory although only one of {total} {what} was computed at a time ({_headline(failure)}).",
                fix="Close other programs that use the device, lower the resolution, or use --device cpu.",
            ) from failure
        del failure
        size = (tried + 1) // 2
        if key is not None:
            memory.record(key, size)
        if on_shrink is not None:
            on_shrink(size)


def cat_chunks(chunks: Sequence[T], dim: int = 0) -> T:
    """Join the results of `run_chunked` along a dimension.

    Args:
        chunks: Tensors or arrays, or mappings, tuples, lists or dataclasses of these, all of one structure; None where
            all are None.
        dim: The dimension that the chunks cut.

    Raises:
        ValueError: There is nothing to join.
        TypeError: A leaf is of another type.
    """
    if not chunks:
        raise ValueError("cat_chunks needs at least one chunk")
    return _cat(list(chunks), dim)


def chunk_that_fits(free_bytes: int, bytes_per_item: int, most: int, *, share: float = 0.8) -> int:
    """How many items fit into a share of free memory: at least 1, at most `most`.

    On a host that overcommits memory, as Linux does, a process that takes too much is killed rather than told;
    there this estimate protects, and halving only corrects it.
    """
    if bytes_per_item < 1 or most < 1 or not 0 < share <= 1:
        raise ValueError(
            f"bytes_per_item and most must be at least 1 and share in (0, 1], got {bytes_per_item}, {most}, {share}"
        )
    return max(1, min(most, int(free_bytes * share) // bytes_per_item))


def _attempt(fn: Callable[[int, int], T], start: int, stop: int) -> tuple[list[T], BaseException | None]:
    try:
        return [fn(start, stop)], None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        let_go(error)
        return [], error


def _cat(parts: list[Any], dim: int) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return first if len(parts) == 1 else torch.cat(parts, dim)
    if isinstance(first, np.ndarray):
        return first if len(parts) == 1 else np.concatenate(parts, dim)
    if first is None and all(part is None for part in parts):
        return None
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            raise ValueError(f"chunks differ in their keys: {sorted({str(k) for part in parts for k in part})}")
        return {name: _cat([part[name] for part in parts], dim) for name in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_cat(list(column), dim) for column in zip(*parts, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(_cat(list(column), dim) for column in zip(*parts, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first)]
        return dataclasses.replace(first, **{n: _cat([getattr(part, n) for part in parts], dim) for n in names})
    raise TypeError(f"cat_chunks cannot join values of type {type(first).__name__}")


def _headline(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160].rstrip(".") if lines else type(error).__name__
