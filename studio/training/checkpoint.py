"""Checkpoints: one safetensors file that holds a nested state of tensors and plain values, and runs no code on loading.

Tensors are stored under the path of keys that leads to them; everything else (numbers, strings, lists, the shape of the
tree itself) stands as JSON in the file's metadata. Files are written to a temporary name, synced and renamed, so that a
kill at any instant leaves the previous checkpoint whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from studio.errors import StudioError
from studio.files import atomic_write

FORMAT = "studio-checkpoint-1"
_TENSOR = "$tensor"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (dicts with string keys, lists, tensors, numbers, strings, booleans, None).

    Raises:
        TypeError: A value of any other type, named by its path.
        StudioError: The disk is full or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = _strip(state, "", tensors)
    # safetensors refuses tensors that share memory, so every one is written from its own contiguous copy.
    flat = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    payload = to_safetensors(flat, metadata={"format": FORMAT, "tree": json.dumps(tree)})
    with atomic_write(path, "wb") as handle:
        handle.write(payload)


def load_state(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        StudioError: The file is missing, damaged, or not a checkpoint of the studio.
    """
    if not path.is_file():
        raise StudioError(
            f"{path}: there is no such checkpoint.", fix="Name a run folder that has a checkpoints/ folder."
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as handle:
            metadata = handle.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StudioError(
                    f"{path}: not a checkpoint of this studio (format {metadata.get('format')!r}, expected {FORMAT!r})."
                )
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        return _restore(json.loads(metadata["tree"]), tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StudioError(
            f"{path}: the checkpoint cannot be read ({error}).", fix="Delete it to fall back on an earlier one."
        ) from error


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with each tensor replaced by a reference to its name in `tensors`."""
    if isinstance(value, Tensor):
        # A key that contains a slash can lead to the path of another tensor.
        name = path if path not in tensors else f"{path}#{len(tensors)}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)) or key == _TENSOR:
                raise TypeError(f"state key {key!r} at '{path}' must be a string or an integer")
        # Optimisers key their state by integer; pairs keep the key's type, which JSON objects would lose.
        return {"$map": [[k, _strip(v, f"{path}/{k}" if path else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "$list" if isinstance(value, list) else "$tuple"
        return {kind: [_strip(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"state at '{path}' is a {type(value).__name__}; only tensors and plain values can be saved")


def _restore(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == _TENSOR:
        return tensors[value]
    if kind == "$map":
        return {k: _restore(v, tensors) for k, v in value}
    if kind == "$float":
        return float(value)
    items = [_restore(v, tensors) for v in value]
    return items if kind == "$list" else tuple(items)
