"""The state of a training as a checkpoint holds it: read, checked field by field, and put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.errors import StudioError
from studio.plugin.base import Plugin
from studio.training.checkpoint import fall_back, load_state

UNKNOWN = "unknown"
"""How a training ended whose checkpoint is from before this was kept."""
_ENDS = ("", "finished", "budget", UNKNOWN)
_NESTED = 5
"""Attributes from a plugin to its optimisers, at most."""


@dataclass(frozen=True)
class SavedState:
    """All of a checkpoint, its fields of the right types."""

    path: Path
    step: int
    """Steps done."""
    seconds: float
    """Wall-clock seconds of training."""
    start_seconds: float
    """The part of them before the first step."""
    ended: str
    """'finished' or 'budget' where `Plugin.finish_training` has settled this state, empty where it has not, 'unknown'
    in checkpoints from before this was kept."""
    plugin: dict[str, Tensor]
    training: Mapping[str, Any]
    source: dict[str, Any]
    generator: Tensor
    random: dict[str, Any]


def read_checkpoint(path: Path) -> SavedState:
    """Read a checkpoint and check its fields.

    Raises:
        StudioError: It is missing or damaged, or a field is missing or of another type; names the file, the field, and
            the earlier checkpoint.
    """
    state = load_state(path)

    def field(name: str, fits: Callable[[Any], bool], what: str, default: Any = None) -> Any:
        if name not in state and default is None:
            raise damaged(path, name, "is missing")
        value = state.get(name, default)
        if not fits(value):
            raise damaged(path, name, f"is {_shown(value)}, not {what}")
        return value

    plugin = field("plugin", lambda v: isinstance(v, dict), "tensors by name")
    for name, tensor in plugin.items():
        if not isinstance(tensor, Tensor):
            raise damaged(path, f"plugin/{name}", f"is {_shown(tensor)}, not a tensor")
    seconds = field("seconds", _is_time, "a time in seconds")
    return SavedState(
        path=path,
        step=field("step", lambda v: _is_int(v) and v >= 0, "a number of steps"),
        seconds=seconds,
        start_seconds=field("start_seconds", _is_time, "a time in seconds", 0.0),
        ended=field("ended", lambda v: v in _ENDS, "an end of a training", UNKNOWN),
        plugin=plugin,
        training=field("training", lambda v: isinstance(v, dict), "a mapping"),
        source=field("source", lambda v: isinstance(v, dict), "a mapping"),
        generator=field("generator", _is_bytes, "a random generator's state"),
        random=field("random", lambda v: isinstance(v, dict), "states of random generators"),
    )


def damaged(path: Path | None, name: str, problem: str) -> StudioError:
    """What to raise about a field of a checkpoint."""
    where = "The checkpoint" if path is None else f"{path}"
    fix = "Use the plugin version that wrote it." if path is None else fall_back(path)
    return StudioError(f"{where}: field '{name}' {problem}.", fix=fix)


def restore_plugin(plugin: Plugin, state: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Load a saved ``state_dict`` into a plugin, after letting it make room for other shapes.

    Args:
        plugin: Built from the run's configuration.
        state: Its saved tensors.
        path: The checkpoint, for what is said.

    Raises:
        StudioError: Names, shapes or types do not fit: the checkpoint is damaged, or belongs to another plugin, preset
            or version.
    """
    try:
        plugin.prepare_state({name: tuple(tensor.shape) for name, tensor in state.items()})
    except StudioError:
        raise
    except Exception as error:  # whatever a plugin meets in shapes that it never wrote
        raise damaged(path, "plugin", f"does not fit this plugin ({_told(error)})") from error
    _check_tensors(plugin.state_dict(), state, path)
    try:
        plugin.load_state_dict(dict(state), strict=True)
    except StudioError:
        raise
    except Exception as error:
        raise damaged(path, "plugin", f"does not fit this plugin ({_told(error)})") from error


def restore_training(plugin: Plugin, saved: SavedState) -> None:
    """Hand a plugin that is set up for training what it saved of it, and look whether it took it as it is.

    Raises:
        StudioError: Something is missing, or of another type or shape; names the file and the field.
    """
    try:
        plugin.load_training_state(saved.training)
        taken = plugin.training_state()
    except StudioError:
        raise
    except Exception as error:  # whatever a plugin meets in a state that it never wrote
        problem = f"has no {error}" if isinstance(error, KeyError) else f"does not fit this plugin ({_told(error)})"
        raise damaged(saved.path, "training", problem) from error
    if found := _misfit(saved.training, taken, "training"):
        raise damaged(saved.path, *found)
    for optimizer in optimizers_of(plugin):
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                where = f"training: an optimiser's '{name}'"
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    if not name.startswith(("exp_avg", "momentum", "max_exp_avg", "square_avg")):
                        continue
                    problem = f"has the shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                    raise damaged(saved.path, where, problem)
                if name == "step" and not (math.isfinite(float(value)) and float(value) >= 0):
                    raise damaged(saved.path, where, f"is {float(value)}, not a number of steps")


def put_back(saved: SavedState, name: str, load: Callable[[], object]) -> None:
    """Run `load` for a field of a checkpoint, with what goes wrong told by the field's name."""
    try:
        load()
    except StudioError:
        raise
    except Exception as error:  # a damaged state can be anything
        problem = f"has no {error}" if isinstance(error, KeyError) else f"cannot be used ({_told(error)})"
        raise damaged(saved.path, name, problem) from error


def non_finite(plugin: Plugin, training: Mapping[str, Any]) -> str | None:
    """The first tensor of a state that is not finite: a parameter, a buffer or a moment of an optimiser.

    Infinity is allowed in buffers, where masks hold it.
    """
    parameters = {name for name, _ in plugin.named_parameters()}
    for name, tensor in plugin.state_dict().items():
        if isinstance(tensor, Tensor) and not _is_finite(tensor, infinite=name not in parameters):
            return name
    return next((path for path, tensor in _tensors(training, "") if not _is_finite(tensor)), None)


def optimizers_of(root: object) -> Iterator[torch.optim.Optimizer]:
    """The torch optimisers that an object holds in its attributes, also within containers and plain objects."""
    seen: set[int] = set()

    def look(value: object, depth: int) -> Iterator[torch.optim.Optimizer]:
        if depth > _NESTED or id(value) in seen or isinstance(value, (Tensor, str, bytes, int, float, type(None))):
            return
        seen.add(id(value))
        if isinstance(value, torch.optim.Optimizer):
            yield value
            return
        if isinstance(value, nn.Module) and depth:
            return
        inner: Any = ()
        if isinstance(value, Mapping):
            inner = value.values()
        elif isinstance(value, (list, tuple)):
            inner = value
        elif depth == 0 or (hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value)):
            inner = vars(value).values()
        for item in list(inner):
            yield from look(item, depth + 1)

    yield from look(root, 0)


def _check_tensors(own: Mapping[str, Any], state: Mapping[str, Tensor], path: Path | None) -> None:
    for name in own:
        if name not in state:
            raise damaged(path, f"plugin/{name}", "is missing")
    for name, tensor in state.items():
        if name not in own:
            raise damaged(path, f"plugin/{name}", "is not known to this plugin")
        expected = own[name]
        if not isinstance(expected, Tensor) or name.endswith("_extra_state"):
            continue
        if tensor.shape != expected.shape:
            problem = f"has the shape {tuple(tensor.shape)}, this plugin's is {tuple(expected.shape)}"
            raise damaged(path, f"plugin/{name}", problem)
        if _family(tensor) != _family(expected):
            raise damaged(path, f"plugin/{name}", f"is of {tensor.dtype}, this plugin's is of {expected.dtype}")


def _misfit(saved: Any, taken: Any, path: str) -> tuple[str, str] | None:
    """Where a plugin gives back another kind of value than it was handed: the field, and what is wrong with it."""
    if isinstance(saved, Mapping) and isinstance(taken, Mapping):
        pairs = [(key, saved[key], taken[key]) for key in saved if key in taken]
    elif isinstance(saved, (list, tuple)) and isinstance(taken, (list, tuple)):
        pairs = list(zip(range(len(saved)), saved, taken, strict=False))
    elif isinstance(saved, Tensor) and isinstance(taken, Tensor):
        if saved.shape != taken.shape:
            return path, f"has the shape {tuple(saved.shape)}, this plugin's is {tuple(taken.shape)}"
        if _family(saved) != _family(taken):
            return path, f"is of {saved.dtype}, this plugin's is of {taken.dtype}"
        return None
    elif isinstance(saved, Tensor) != isinstance(taken, Tensor) and saved is not None and taken is not None:
        return path, f"is {_shown(saved)}, this plugin's is {_shown(taken)}"
    else:
        return None
    return next((found for key, a, b in pairs if (found := _misfit(a, b, f"{path}/{key}"))), None)


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path.lstrip("/"), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}/{i}")


def _is_finite(tensor: Tensor, *, infinite: bool = False) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    return not bool(tensor.isnan().any()) if infinite else bool(tensor.isfinite().all())


def _family(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_bytes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 1


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    return repr(value) if value is None or isinstance(value, (int, float, str)) else f"a {type(value).__name__}"


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
