"""Checkpoints hold any nested state exactly, run no code, and survive a kill."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.errors import StudioError
from studio.training.checkpoint import load_state, save_state

plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)
tensors = st.sampled_from(
    [
        torch.zeros(0, 3),
        torch.arange(6).reshape(2, 3),
        torch.tensor(1.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.randn(3, 2).half(),
        torch.randn(4, 4).T,
    ]
)
trees = st.recursive(
    plain | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5).filter(lambda k: k != "$tensor") | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=5).filter(lambda k: k != "$tensor"), trees, max_size=4))
def test_any_state_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, state: dict) -> None:
    path = tmp_path_factory.mktemp("c") / "state.safetensors"
    save_state(path, state)
    assert same(load_state(path), state)


def test_tensors_that_share_memory_and_non_finite_floats(tmp_path: Path) -> None:
    base = torch.arange(4.0)
    save_state(
        tmp_path / "s.safetensors", {"a": base, "b": base[1:], "c": {"d": math.inf, "e": -math.inf, "f": math.nan}}
    )
    state = load_state(tmp_path / "s.safetensors")
    assert torch.equal(state["a"][1:], state["b"])
    assert state["c"]["d"] == math.inf
    assert state["c"]["e"] == -math.inf
    assert math.isnan(state["c"]["f"])


def test_keys_with_slashes_do_not_collide(tmp_path: Path) -> None:
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    save_state(tmp_path / "s.safetensors", state)
    assert same(load_state(tmp_path / "s.safetensors"), state)


@pytest.mark.parametrize("bad", [object(), {1, 2}, lambda: None, b"bytes"])
def test_other_types_are_refused_by_path(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TypeError, match="outer/inner"):
        save_state(tmp_path / "s.safetensors", {"outer": {"inner": bad}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", pickle.dumps({"step": 1})])
def test_foreign_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step_00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(StudioError, match="cannot be read") as caught:
        load_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_state(path, {"x": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudioError, match="cannot be read"):
        load_state(path)


@pytest.mark.skipif(os.name != "posix", reason="uses SIGKILL")
def test_a_kill_during_saving_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    script = textwrap.dedent(
        f"""
        import torch
        from pathlib import Path
        from studio.training.checkpoint import save_state
        value = 0
        while True:
            save_state(Path({str(path)!r}), {{"a": torch.full((3_000_000,), float(value)), "b": value}})
            print(value, flush=True)
            value += 1
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for delay in (0.005, 0.013, 0.021):
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = load_state(path)
    assert torch.equal(state["a"], torch.full((3_000_000,), float(state["b"])))
