"""Checkpoints: one safetensors file that holds a nested state of tensors and plain values, and runs no code on loading.

Tensors are stored under the path of keys that leads to them; everything else (numbers, strings, lists, the shape of the
tree itself) stands as JSON in the file's metadata, with a checksum of it all. Files are written to a temporary name,
synced and renamed, so that a kill at any instant leaves the previous checkpoint whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
_DEEPEST = 100
"""Levels of a state; deeper ones are no state but an attack on the reader's stack."""
_log = logging.getLogger(__name__)


def save_state(path: Path, state: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
    """Write a nested state (dicts with string keys, lists, tensors, numbers, strings, booleans, None).

    Args:
        path: The file.
        state: What to keep.
        labels: Facts that `studio.training.labels` reads without opening the file as a whole.

    Raises:
        TypeError: A value of any other type, named by its path.
        StudioError: The disk is full or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = _strip(state, "", tensors)
    # safetensors refuses tensors that share memory, so every one is written from its own contiguous copy.
    flat = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps(tree)
    metadata = {**(labels or {}), "format": FORMAT, "tree": text, "sha256": _checksum(text, flat)}
    payload = to_safetensors(flat, metadata=metadata)
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
                    f"{path}: not a checkpoint of this studio (format {metadata.get('format')!r}, not {FORMAT!r}).",
                    fix=fall_back(path),
                )
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        text = metadata["tree"]
        told, found = metadata.get("sha256"), None
        if told is None:
            _log.warning("%s: was written before checkpoints had checksums; it cannot be checked for damage.", path)
        else:
            found = _checksum(text, tensors)
        if told != found:
            raise StudioError(
                f"{path}: the checkpoint is damaged (its content does not fit its checksum).", fix=fall_back(path)
            )
        state = _restore(json.loads(text), tensors)
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RecursionError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise StudioError(f"{path}: the checkpoint cannot be read ({problem}).", fix=fall_back(path)) from error
    if not isinstance(state, dict):
        raise StudioError(f"{path}: the checkpoint holds a {type(state).__name__}, no fields.", fix=fall_back(path))
    return state


def fall_back(path: Path) -> str:
    """What to do about a checkpoint that cannot be used: the one before it, by name."""
    before = [p for p in sorted(path.parent.glob("step_*.safetensors")) if p.name < path.name]
    if not before:
        return "There is no earlier checkpoint; train the run again."
    return f"Delete it to go on from the earlier one, {before[-1].name}."


def _checksum(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tree's text and of every tensor: name, type, shape, bytes."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # As bytes, whatever the type: numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


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


def _restore(node: Any, tensors: Mapping[str, Tensor], depth: int = 0) -> Any:
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a list without its kind in the tree")
        return node
    if depth > _DEEPEST:
        raise ValueError("the tree is too deep")
    ((kind, value),) = node.items()
    if kind == _TENSOR:
        return tensors[value]
    if kind == "$map":
        return {k: _restore(v, tensors, depth + 1) for k, v in value}
    if kind == "$float":
        return float(value)
    if kind not in ("$list", "$tuple"):
        raise ValueError(f"unknown kind {kind!r} in the tree")
    items = [_restore(v, tensors, depth + 1) for v in value]
    return items if kind == "$list" else tuple(items)
