"""The plugin under test: building it on the small data, and training it as the engine would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.errors import StudioError
from studio.plugin import DataInfo, Field, Generator, Plugin, PluginConfig, SceneInfo, TokenRequest, TrainingContext
from studio.plugin.batches import Batch
from studio.testing.data import SAMPLE_KINDS, CheckData, SampleData, SceneData, make_samples
from studio.testing.report import CheckFailed, NotApplicable
from studio.training.checkpoint import load_state
from studio.training.loop import LoopSettings, Trainer
from studio.training.randomness import random_state, restore_random_state, seed_everything, stream_seed
from studio.training.run import RunFolder
from studio.training.sources import BatchSource, DatasetSource, SceneSource
from studio.training.state import restore_plugin

STEPS = 20
_SEED = 5


@dataclass(frozen=True)
class Subject:
    """A plugin's class with a configuration and data that fit it."""

    name: str
    cls: type[Plugin]
    config: PluginConfig
    data: CheckData
    runs: Path
    """Where its run folders go."""

    def build(self, device: torch.device) -> Plugin:
        """A new plugin, initialised from the data as `studio train` does it."""
        seed_everything(_SEED)
        generator = torch.Generator().manual_seed(_SEED)
        plugin = self.cls(type(self.config).from_dict(self.config.to_dict()), self.data.info)  # type: ignore[call-arg]
        if isinstance(plugin, Field):
            assert isinstance(self.data, SceneData)
            plugin.initialize(self.data.scene, self.data.photos(type(plugin)), generator)
        elif isinstance(plugin, Generator):
            assert isinstance(self.data, SampleData)
            plugin.initialize(self.data.dataset, generator)
        moved = plugin.to(device)
        if moved is not plugin:
            raise CheckFailed(
                "plugin.to(device) returns another object.", "Let `to` and `_apply` change the module in place."
            )
        return plugin

    def bare(self) -> Plugin:
        """The plugin as its configuration and the facts of its data make it, on the CPU: nothing is initialised."""
        info_type = type(self.data.info)
        info: SceneInfo | DataInfo = info_type.from_dict(self.data.info.to_dict())
        return self.cls(type(self.config).from_dict(self.config.to_dict()), info)  # type: ignore[call-arg]

    def rebuild(self, state: Mapping[str, Any], device: torch.device) -> Plugin:
        """The plugin out of a checkpoint, without its data, as `studio render` and `studio sample` do it."""
        plugin = self.bare()
        restore_plugin(plugin, state["plugin"])
        return plugin.to(device).eval()

    def source(self, device: torch.device) -> BatchSource:
        if isinstance(self.data, SceneData):
            assert issubclass(self.cls, Field)
            return SceneSource(self.data.photos(self.cls), _SEED, device)
        return DatasetSource(self.data.dataset, _SEED, device)

    def trainer(self, device: torch.device, run: RunFolder, steps: int, every: int) -> Trainer:
        return Trainer(self.build(device), self.source(device), run, _settings(steps, every))

    def resumed(self, device: torch.device, run: RunFolder, steps: int, every: int) -> Trainer:
        """A training that goes on from the newest checkpoint of a run, made as `studio train --resume` makes it."""
        # What the first training drew at random must come out of the checkpoint, not out of an equal seed.
        seed_everything(_SEED + 1)
        trainer = Trainer(self.bare().to(device), self.source(device), run, _settings(steps, every))
        trainer.restore()
        return trainer

    def new_run(self) -> RunFolder:
        return RunFolder.create(self.runs, "check", self.name)

    def losses(self, device: torch.device, steps: int) -> list[float]:
        """The loss of each of `steps` steps on one and the same batch with the same random numbers.

        Other batches and other noise would blur what a step does; on one batch each loss is comparable to the first.
        """
        plugin = self.build(device)
        context = self.context(device, steps)
        plugin.setup_training(context)
        batch = self.source(device).next(plugin.batch_request(0))
        own, everything = context.generator.get_state(), random_state()
        plugin.train()
        found = []
        for step in range(steps):
            context.generator.set_state(own)
            restore_random_state(everything)
            metrics = plugin.training_step(batch, step)
            found.append(_loss_of(metrics))
        return found

    def context(self, device: torch.device, steps: int) -> TrainingContext:
        generator = torch.Generator().manual_seed(stream_seed(_SEED, 3))
        return TrainingContext(total_steps=steps, seed=_SEED, device=device, generator=generator)

    def first_batch(self, plugin: Plugin) -> Batch:
        """The answer to what the plugin asks for at first.

        Raises:
            CheckFailed: It asks for what its kind of plugin never gets.
        """
        request = plugin.batch_request(0)
        try:
            return self.source(plugin.device).next(request)
        except TypeError as error:
            raise CheckFailed(f"batch_request(0): {error}.", "Return a request of `studio.plugin`.") from error


def _settings(steps: int, every: int) -> LoopSettings:
    return LoopSettings(total_steps=steps, seed=_SEED, checkpoint_steps=every, checkpoint_seconds=math.inf)


def _loss_of(metrics: Mapping[str, Any]) -> float:
    if not isinstance(metrics, Mapping) or "loss" not in metrics:
        keys = ", ".join(map(str, metrics)) if isinstance(metrics, Mapping) else type(metrics).__name__
        raise CheckFailed(
            f"training_step returns no 'loss' (it returns {keys}).", "Return a mapping of figures with 'loss' in it."
        )
    for name, value in metrics.items():
        try:
            float(value)
        except (TypeError, ValueError, RuntimeError):
            raise CheckFailed(
                f"training_step returns '{name}' as a {type(value).__name__}, which is not one number.",
                "Figures are numbers or tensors of one element.",
            ) from None
    return float(metrics["loss"])


def choose_data(
    cls: type[Plugin], make: Callable[[CheckData], Subject], capabilities: tuple[str, ...], kind: str | None
) -> Subject:
    """The subject on the first data that the generator takes.

    A generator declines data by raising where it is built, where it is initialised, or by asking for tokens of what is
    not text. What goes wrong later is a failure and no refusal.

    Raises:
        CheckFailed: It takes none; the message has the reasons.
    """
    order = list(SAMPLE_KINDS)
    if "caption" in capabilities:
        order = ["captioned pictures"]
    elif "edit" in capabilities:
        order = ["pictures", "captioned pictures"]
    reasons = []
    for name in [kind] if kind else order:
        subject = make(make_samples(name))
        try:
            _accepts(subject)
        except NotApplicable as reason:
            reasons.append(f"{name}: {reason}")
        except Exception as error:
            # Whatever is raised here, it says that this data is not the plugin's.
            text = str(error).strip().splitlines() or [type(error).__name__]
            kind_of = "" if isinstance(error, StudioError) else f"{type(error).__name__}: "
            reasons.append(f"{name}: {kind_of}{text[0]}")
        else:
            return subject
    raise CheckFailed(
        f"{cls.__name__} can be built for no data ({'; '.join(reasons)}).",
        "Let its default configuration fit one of these, or name a small one in CHECK of its configuration class.",
    )


def other_data(make: Callable[[CheckData], Subject], chosen: str) -> Iterator[Subject]:
    """The subject on each further kind of data that the generator takes, beside the chosen one."""
    for name in SAMPLE_KINDS:
        if name == chosen:
            continue
        subject = make(make_samples(name))
        try:
            _accepts(subject)
        except Exception:  # as in `choose_data`: it declines
            continue
        yield subject


def _accepts(subject: Subject) -> None:
    plugin = subject.build(torch.device("cpu"))
    plugin.setup_training(subject.context(torch.device("cpu"), STEPS))
    is_text = subject.data.kind == "text"
    if isinstance(plugin.batch_request(0), TokenRequest) != is_text:
        raise NotApplicable("asks for samples, not for tokens" if is_text else "asks for tokens, not for samples")


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the process's random streams as they were."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)


def read_checkpoint(run: RunFolder, step: int) -> dict[str, Any]:
    return load_state(run.checkpoint_path(step))
