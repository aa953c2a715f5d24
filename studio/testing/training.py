"""Checks of building, training, saving and moving a plugin."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from studio.cameras import Cameras
from studio.plugin import Field, Generator, Plugin
from studio.testing.data import SceneData
from studio.testing.report import CheckFailed, NotApplicable
from studio.testing.subject import Subject, read_checkpoint
from studio.training.loop import Trainer
from studio.training.run import RunFolder

_SHORT, _HALF = 6, 3
"""Steps of the training that is interrupted, and where."""
_ALIKE = 0.02
"""How much a loss on a GPU, where sums have no fixed order, may differ after a restart (relative)."""


def check_builds(subject: Subject, device: torch.device) -> str | None:
    """It is made from its configuration and the facts of the data alone, and lies on the device."""
    plugin = subject.build(device)
    astray = [name for name, tensor in _tensors(plugin) if tensor.device.type != device.type]
    if astray:
        raise CheckFailed(
            f"'{astray[0]}' is on another device after plugin.to('{device}').", "Keep `_apply` of nn.Module whole."
        )
    plugin.setup_training(subject.context(device, _SHORT))
    subject.first_batch(plugin)
    return f"{sum(p.numel() for p in plugin.parameters()):,} parameters, on {subject.data.kind}"


def _tensors(plugin: Plugin) -> Iterator[tuple[str, Tensor]]:
    yield from plugin.named_parameters()
    yield from plugin.named_buffers()


def check_loss(subject: Subject, device: torch.device, steps: int) -> str | None:
    """Training on one batch lowers the loss of that batch."""
    losses = subject.losses(device, steps)
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise CheckFailed(
                f"the loss is {loss} at step {step}.", "Lower the learning rates, or clip what overflows."
            )
    first, last = losses[0], sum(losses[-3:]) / 3
    if not last < first:
        raise CheckFailed(
            f"{steps} steps on one batch leave the loss at {last:.4g}, from {first:.4g}.",
            "Look whether the optimiser holds the parameters and steps, and the sign of the loss; a long warm-up or "
            "few changes a step can be shortened for this in CHECK of the configuration class.",
        )
    return f"{first:.4g} to {last:.4g} in {steps} steps"


def train_briefly(subject: Subject, device: torch.device) -> Trainer:
    """A short training by the engine's loop, with checkpoints half-way and at the end."""
    trainer = subject.trainer(device, subject.new_run(), _SHORT, _HALF)
    trainer.train()
    return trainer


def check_checkpoint(subject: Subject, trainer: Trainer) -> str | None:
    """A checkpoint opens without the data, and shows what the trained plugin shows."""
    plugin = trainer.plugin
    device = plugin.device
    again = subject.rebuild(read_checkpoint(trainer.run, _SHORT), device)
    difference = _difference(look(subject, plugin), look(subject, again))
    if difference is None:
        return None
    raise CheckFailed(
        f"opened from its checkpoint, without the data, it gives something else ({difference}).",
        "What `initialize` and training find out belongs into parameters or buffers (register_buffer).",
    )


def check_resume(subject: Subject, trainer: Trainer) -> str | None:
    """Interrupted and resumed, the training goes on as if nothing had happened."""
    device = trainer.plugin.device
    run = RunFolder(trainer.run.path.with_name(trainer.run.path.name + "-resumed"))
    shutil.copytree(trainer.run.path, run.path)
    run.checkpoint_path(_SHORT).unlink()
    resumed = subject.resumed(device, run, _SHORT, _HALF)
    if resumed.step != _HALF:
        raise CheckFailed(f"the checkpoint of step {_HALF} was not found.")
    resumed.train()
    if device.type != "cpu":
        before, after = trainer.figures["loss"], resumed.figures["loss"]
        if abs(before - after) > _ALIKE * abs(before):
            raise CheckFailed(
                f"the loss of step {_SHORT} is {after:.6g} after a restart, {before:.6g} without.", _STATE
            )
        return f"loss within {_ALIKE:.0%}"
    difference = _difference(_state(trainer.run), _state(run))
    if difference is not None:
        raise CheckFailed(f"step {_HALF + 1} differs after a restart: {difference}.", _STATE)
    return "bit for bit"


_STATE = (
    "All that the next step depends on belongs into state_dict() or training_state(); draw random numbers from the "
    "TrainingContext's generator or torch's global one."
)


def _state(run: RunFolder) -> dict[str, Any]:
    state = read_checkpoint(run, _SHORT)
    return {key: value for key, value in state.items() if key != "seconds"}


def check_moves(subject: Subject, trainer: Trainer) -> str | None:
    """To the CPU and back, it shows the same and trains on."""
    plugin, device = trainer.plugin, trainer.plugin.device
    if device.type == "cpu":
        return _check_left_behind(plugin)
    there = look(subject, plugin)
    plugin.to("cpu")
    here = look(subject, plugin)
    plugin.to(device)
    for name, value in here.items():
        if isinstance(value, Tensor) and value.device.type != "cpu" and isinstance(plugin, Field):
            raise CheckFailed(f"'{name}' comes from {value.device} after plugin.to('cpu').", "Register it as a buffer.")
        if isinstance(value, Tensor) and not torch.allclose(value.cpu(), there[name].cpu(), rtol=0.05, atol=0.02):
            raise CheckFailed(f"'{name}' is another on the CPU.", "Compare what the two devices compute.")
    plugin.train()
    plugin.training_step(subject.first_batch(plugin), trainer.step)
    plugin.eval()
    return None


def _check_left_behind(plugin: Plugin) -> str | None:
    """Without a second device: which tensors would not come along to one, found by a copy without values."""
    try:
        moved = copy.deepcopy(plugin).to("meta")
    except Exception as error:
        raise NotApplicable(f"there is no second device here, and no copy of it can be made ({error}).") from None
    for prefix, module in moved.named_modules():
        for name, value in vars(module).items():
            held = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
            )
            if any(isinstance(item, Tensor) and item.device.type != "meta" for item in held):
                raise CheckFailed(
                    f"'{prefix + '.' if prefix else ''}{name}' is a tensor that stays behind when the plugin moves.",
                    "Use register_buffer (persistent=False keeps it out of checkpoints), or drop it in `_apply`.",
                )
    return "by a copy without values; there is no second device here"


def check_repeats(subject: Subject, trainer: Trainer) -> str | None:
    """Equal seeds give equal samples, whatever else draws random numbers; a picture is rendered the same twice."""
    plugin = trainer.plugin
    torch.manual_seed(1)
    first = look(subject, plugin)
    torch.manual_seed(2)
    second = look(subject, plugin)
    if difference := _difference(first, second, exact=plugin.device.type == "cpu"):
        raise CheckFailed(
            f"the same call gives something else the second time ({difference}).",
            "Draw from the generator that `sample` is given, and from no other; leave randomness out of `render`.",
        )
    if isinstance(plugin, Generator) and _difference(first, look(subject, plugin, seed=8)) is None:
        raise CheckFailed("another seed gives the same samples.", "Draw from the generator that `sample` is given.")
    return None


def look(subject: Subject, plugin: Plugin, *, seed: int = 7) -> dict[str, Any]:
    """What a user sees of a plugin: a rendered photo, or a few samples."""
    with torch.no_grad():
        if isinstance(plugin, Field):
            return dict(plugin.render(first_camera(subject).to(plugin.device), plugin.output_names))
        assert isinstance(plugin, Generator)
        return {"samples": plugin.sample(4, None, torch.Generator().manual_seed(seed))}


def first_camera(subject: Subject) -> Cameras:
    """That of the first photo."""
    assert isinstance(subject.data, SceneData)
    return subject.data.scene.frames[0].camera


def _difference(a: Any, b: Any, path: str = "", *, exact: bool = True) -> str | None:
    """Where two nested states differ first; None when they are equal."""
    where = path.lstrip("/") or "result"
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"'{where}' is {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        a, b = a.detach().cpu(), b.detach().cpu()
        same = torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if a.is_floating_point() else torch.equal(a, b)
        if same or (not exact and a.is_floating_point() and torch.allclose(a, b, rtol=1e-3, atol=1e-3)):
            return None
        apart = (
            f" by up to {float((a.double() - b.double()).abs().max()):.3g}" if a.numel() and not a.is_complex() else ""
        )
        return f"'{where}' differs{apart}"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"'{where}' has other entries: {', '.join(map(str, sorted(set(a) ^ set(b), key=str)))}"
        parts: Iterator[tuple[Any, Any, Any]] = ((key, a[key], b[key]) for key in a)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"'{where}' has {len(a)} and {len(b)} entries"
        parts = ((i, x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        same_value = a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        return None if same_value else f"'{where}' is {a!r} and {b!r}"
    for key, x, y in parts:
        if found := _difference(x, y, f"{path}/{key}", exact=exact):
            return found
    return None
