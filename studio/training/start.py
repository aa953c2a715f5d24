"""Starting and resuming a training run: from a plugin's name and a path to a trained plugin."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from studio.datasets import Dataset, describe_dataset, is_generated, load_dataset
from studio.devices import select
from studio.errors import StudioError
from studio.kernels import compile_time
from studio.plugin.base import DataInfo, Field, Generator, Plugin, SceneInfo
from studio.plugin.config import PluginConfig
from studio.readers import load_scene
from studio.registry import find_plugin, load_config_class, load_plugin_class
from studio.scene import PhotoStore, Scene
from studio.scene.normalize import in_frame_of
from studio.scene.record import load_saved_scene, save_scene
from studio.training.fingerprint import Fingerprint, changes, fingerprint, load_fingerprint, save_fingerprint
from studio.training.loaded import LoadedRun, build_plugin, photo_store
from studio.training.loop import LoopSettings, Observer, Trainer, TrainingResult
from studio.training.observers import MetricsWriter
from studio.training.photo_sizes import automatic_downscale, describe_reduction
from studio.training.randomness import seed_everything, stream_seed
from studio.training.run import DataSettings, RunConfig, RunFolder
from studio.training.sources import BatchSource, DatasetSource, SceneSource
from studio.triangulation import with_points

COLORS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class TrainOptions:
    """What a user chooses about a run besides the plugin's own configuration."""

    output: Path = Path("runs")
    """Runs go to OUTPUT/<data>/<plugin>/<time>/."""
    seed: int = 0
    device: str = "auto"
    budget_seconds: float | None = None
    downscale: float | None = None
    """Both sides of the photos are divided by it; None: so that none is longer than 1600 pixels."""
    background: str = "auto"
    """'white', 'black', or 'auto': white where photos have alpha."""
    cache_gb: float = 2.0
    """Decoded photos kept in memory, GiB."""
    reader: Mapping[str, Any] = field(default_factory=dict)
    """Options of `studio.readers.load_scene` (fields) or `studio.datasets.load_dataset` (generators)."""
    tensorboard: bool = True
    log_every: int = 20
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    accept_changes: bool = False
    """Resume: go on although the data or the versions are not those that the run was trained with."""


@dataclass
class Prepared:
    """A run that is ready to train: everything is loaded, checked and on its device."""

    run: RunFolder
    config: RunConfig
    plugin: Plugin
    trainer: Trainer
    scene: Scene | None = None
    photos: PhotoStore | None = None
    dataset: Dataset | None = None

    result: TrainingResult | None = None
    """How the training ended, once it has."""

    def train(self) -> TrainingResult:
        """Train to the end; a run that fails before its first step leaves no folder behind."""
        try:
            self.result = self.trainer.train()
        except Exception:
            if self.trainer.step == 0 and not self.run.list_checkpoints():
                self.run.discard()
            raise
        return self.result

    def loaded(self) -> LoadedRun:
        """The trained plugin as `open_run` would give it."""
        reason = self.result.reason if self.result is not None else self.trainer.ended or "interrupted"
        return LoadedRun(self.run, self.config, self.plugin, self.trainer.step, reason)


class TrainingInterruptedError(StudioError):
    """A training was asked to stop (Ctrl-C, SIGTERM, SIGHUP) before its end; all is saved."""

    exit_code = 130


def train(
    plugin: str,
    data: str | Path,
    *,
    preset: str | None = None,
    config: PluginConfig | None = None,
    options: TrainOptions | None = None,
    observers: Sequence[Observer] = (),
    raise_on_interrupt: bool = False,
    **overrides: Any,
) -> LoadedRun:
    """Train a plugin on a scene or data set and return the trained run.

    A Ctrl-C, SIGTERM or SIGHUP stops it after a step, with all saved; `LoadedRun.reason` is then 'interrupted'.

    Args:
        plugin: A name of `studio plugins`.
        data: A folder of posed photos (fields), or a data set (generators).
        preset: One of the plugin's presets.
        config: A whole configuration, instead of a preset.
        options: Seed, device, budget, output folder...
        observers: Watch the training; `studio.training.observers.ProgressLine()` shows a progress bar.
        raise_on_interrupt: Raise an error where the training was asked to stop, instead of returning what there is.
        overrides: Single fields of the plugin's configuration, such as ``steps=2000``.

    Raises:
        TrainingInterruptedError: On request, see `raise_on_interrupt`; the run is saved and can be resumed.
        StudioError: Bad data, an unknown plugin, preset or field; nothing is left behind then.
    """
    options = options or TrainOptions()
    settings = config or load_config_class(find_plugin(plugin)).preset(preset)
    if overrides:
        settings = type(settings).from_dict({**settings.to_dict(), **overrides}, source=plugin)
    prepared = prepare(plugin, data, settings, options, preset=preset, observers=observers)
    result = prepared.train()
    if raise_on_interrupt and result.reason == "interrupted":
        raise TrainingInterruptedError(
            f"{prepared.run.path}: training was stopped at step {result.step:,} of {settings.steps:,}; all is saved.",
            fix=f"Go on with: studio train --resume {prepared.run.path}",
        )
    return prepared.loaded()


def prepare(
    plugin: str,
    data: str | Path,
    settings: PluginConfig,
    options: TrainOptions,
    *,
    preset: str | None = None,
    observers: Sequence[Observer] = (),
    clock_start: float | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Load and check everything for a new run; the run folder is made last, so bad input leaves nothing behind."""
    clock_start = time.perf_counter() if clock_start is None else clock_start
    _check(settings, options)
    entry = find_plugin(plugin)
    assert entry.spec is not None
    cls = load_plugin_class(entry)
    chosen = select(options.device, supported=entry.spec.devices, owner=plugin)
    announce(f"device: {chosen}")
    _compile_ahead(cls, settings, chosen.torch_device)
    where = DataSettings(
        path=str(data) if is_generated(data) else str(Path(data).expanduser().resolve()),
        downscale=1.0 if options.downscale is None else options.downscale,
        reader=dict(options.reader),
        background=options.background,
        cache_gb=options.cache_gb,
    )
    seed_everything(options.seed)
    generator = torch.Generator().manual_seed(stream_seed(options.seed, 0))
    scene, photos, dataset = _open_data(cls, where)
    if scene is not None and photos is not None:
        if options.downscale is None and (factor := automatic_downscale(scene)) > 1:
            where = replace(where, downscale=factor)
            photos = photo_store(scene, "train", _field_class(cls), factor, where.cache_gb)
        announce(_describe_scene(scene, photos))
        for note in scene.notes:
            announce(f"note: {note}")
        if options.downscale is None and (reduced := describe_reduction(scene, where.downscale)):
            announce(f"note: {reduced}")
        scene = with_points(scene, photos, announce)
        info: SceneInfo | DataInfo = _scene_info(scene, photos, options.background)
    else:
        assert dataset is not None
        announce(describe_dataset(dataset))
        for note in dataset.notes:
            announce(f"note: {note}")
        info = DataInfo(dataset.sample_shape, dataset.num_classes, dataset.class_names, dataset.has_captions)
    config = RunConfig(
        plugin=plugin,
        preset=preset,
        config=settings.to_dict(),
        data=where,
        info=info.to_dict(),
        kind=entry.spec.kind,
        seed=options.seed,
        device=options.device,
        budget_seconds=options.budget_seconds,
        plugin_distribution=entry.distribution,
        plugin_version=entry.version,
    )
    model = build_plugin(config)
    # Built on the CPU whatever the device is, so that a seed means the same start everywhere.
    if isinstance(model, Field):
        assert scene is not None
        assert photos is not None
        model.initialize(scene, photos, generator)
        _require_time_left(plugin, data, where, options.budget_seconds, clock_start)
    elif isinstance(model, Generator):
        assert dataset is not None
        model.initialize(dataset, generator)
    model.to(chosen.torch_device)
    trained_on = fingerprint(entry, photos, dataset)
    run = RunFolder.create(options.output, scene.name if scene else dataset.name if dataset else "data", plugin)
    try:
        run.write_config(config)
        save_fingerprint(trained_on, run.data_file)
        if scene is not None:
            save_scene(scene, run.scene_file)
        trainer = Trainer(
            model,
            _source(photos, dataset, options.seed, chosen.torch_device),
            run,
            _loop_settings(settings, options),
            [MetricsWriter(options.tensorboard), *observers],
            clock_start=clock_start,
        )
        trainer.set_up()
    except BaseException:
        run.discard()
        raise
    return Prepared(run, config, model, trainer, scene, photos, dataset)


def prepare_resume(
    path: str | Path,
    options: TrainOptions,
    *,
    steps: int | None = None,
    observers: Sequence[Observer] = (),
    clock_start: float | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Open a run to go on training it, exactly as if it had never stopped.

    Args:
        path: The run folder.
        options: Only device, budget and intervals count; seed and data are the run's own.
        steps: Train up to this many steps in all, instead of the run's own number; kept with the run.

    Raises:
        StudioError: Nothing is left to do: all steps are done, or the budget is used up. Or the data or the versions
            are not those of the run, and `TrainOptions.accept_changes` is not set.
    """
    clock_start = time.perf_counter() if clock_start is None else clock_start
    run = RunFolder.open(Path(path))
    config = run.read_config()
    run.latest_checkpoint()
    model = build_plugin(config)
    entry = find_plugin(config.plugin)
    assert entry.spec is not None
    chosen = select(options.device, supported=entry.spec.devices, owner=config.plugin)
    announce(f"device: {chosen}")
    budget = options.budget_seconds if options.budget_seconds is not None else config.budget_seconds
    _compile_ahead(type(model), model.config, chosen.torch_device)
    if steps is not None:
        model.config.steps = steps
    _check(model.config, replace(options, seed=config.seed, budget_seconds=budget, background=config.data.background))
    scene, photos, dataset = _open_data(type(model), config.data, run)
    if scene is not None and photos is not None:
        announce(_describe_scene(scene, photos))
    elif dataset is not None:
        announce(describe_dataset(dataset))
    _require_fit(run, model, photos, dataset)
    trained_on = fingerprint(entry, photos, dataset)
    different = _changed(run, trained_on, options.accept_changes, announce)
    model.to(chosen.torch_device)
    merged = TrainOptions(
        seed=config.seed,
        budget_seconds=budget,
        log_every=options.log_every,
        checkpoint_seconds=options.checkpoint_seconds,
        checkpoint_steps=options.checkpoint_steps,
    )
    trainer = Trainer(
        model,
        _source(photos, dataset, config.seed, chosen.torch_device),
        run,
        _loop_settings(model.config, merged),
        [MetricsWriter(options.tensorboard), *observers],
        clock_start=clock_start,
    )
    trainer.restore()
    # A run that was killed at its end, before it was finished, is finished now.
    over = trainer.ended != ""
    if over and trainer.step >= model.config.steps:
        raise StudioError(f"{run.path}: all {model.config.steps:,} steps are done.", fix="Give more with --steps.")
    if over and budget is not None and trainer.elapsed >= budget:
        raise StudioError(
            f"{run.path}: its budget of {budget:g} s is used up ({trainer.elapsed:.0f} s).",
            fix="Give more with --budget; earlier sessions count.",
        )
    if different is not None:
        accepted = [{"step": trainer.step, "changes": different[1]}] if different[1] else []
        save_fingerprint(replace(trained_on, accepted=(*different[0], *accepted)), run.data_file)
    changed = replace(config, config=model.config.to_dict(), budget_seconds=budget)
    if changed != config:
        run.write_config(changed)
    return Prepared(run, config, model, trainer, scene, photos, dataset)


def _require_fit(run: RunFolder, model: Plugin, photos: PhotoStore | None, dataset: Dataset | None) -> None:
    """Refuse data that a model of another shape would be needed for, whatever else is accepted."""
    fix = "Put the data back as it was, or start a new run."
    if isinstance(model, Field) and photos is not None and len(photos) > model.scene_info.num_train:
        was = model.scene_info.num_train
        raise StudioError(f"{run.path}: was trained on {was} photos, and there are {len(photos)} now.", fix=fix)
    if isinstance(model, Generator) and dataset is not None:
        info = model.data_info
        stated: tuple[tuple[str, object, object], ...] = (
            ("samples of shape", info.sample_shape, tuple(dataset.sample_shape)),
            ("a number of classes of", info.num_classes, dataset.num_classes),
            ("captions:", info.has_captions, dataset.has_captions),
        )
        for what, before, now in stated:
            if before != now:
                raise StudioError(f"{run.path}: was trained on {what} {before}, and the data has {now} now.", fix=fix)


def _changed(
    run: RunFolder, now: Fingerprint, accept: bool, announce: Callable[[str], None]
) -> tuple[tuple[dict[str, Any], ...], list[str]] | None:
    """What was accepted before and what is different now; None where nothing is.

    Raises:
        StudioError: Something is, and that is not accepted.
    """
    before = load_fingerprint(run.data_file)
    if before is None:
        announce("note: the run is from before its data was recorded; whether that has changed cannot be told")
        return (), []
    different = changes(before, now)
    if not different:
        return None
    told = "; ".join(different)
    if not accept:
        raise StudioError(
            f"{run.path}: not what it was trained with: {told}.",
            fix="Put it back, or go on all the same with --accept-changes.",
        )
    announce(f"note: going on although this has changed: {told}")
    return before.accepted, different


def _field_class(cls: type[Plugin]) -> type[Field]:
    assert issubclass(cls, Field)
    return cls


def _require_time_left(
    plugin: str, data: str | Path, where: DataSettings, budget: float | None, clock_start: float
) -> None:
    """Refuse a budget that reading the photos and placing what is trained has used up, while nothing is left behind."""
    spent = time.perf_counter() - clock_start - compile_time.seconds_since(clock_start)
    if budget is None or spent < budget:
        return
    enough = 60 * math.ceil((3 * spent + 60) / 60)
    command = f"studio train {plugin} {data} --budget {enough // 60}m"
    raise StudioError(
        f"budget: the {budget:g} s are used up before the first step: reading the photos took {spent:.0f} s.",
        fix=f"Give more time ({command}), or smaller photos as well (--downscale {2 * where.downscale:.3g}).",
    )


def _compile_ahead(cls: type[Plugin], config: PluginConfig, device: torch.device) -> None:
    kernels = cls.kernels(config, device, training=True)
    if kernels:
        # Only here: most plugins have none, and Numba takes a second to import.
        from studio.kernels.cache import compile_ahead

        compile_ahead(kernels)


def _check(settings: PluginConfig, options: TrainOptions) -> None:
    if settings.steps < 1:
        raise StudioError(f"steps: {settings.steps} is not a number of training steps.", fix="Give --steps 1 or more.")
    settings.check()
    if options.seed < 0:
        raise StudioError(f"seed: {options.seed} is negative.", fix="Give --seed 0 or more.")
    if options.budget_seconds is not None and not (
        options.budget_seconds > 0 and math.isfinite(options.budget_seconds)
    ):
        raise StudioError(f"budget: {options.budget_seconds} is not a time in seconds.", fix="Give --budget 5m or so.")
    if not (options.cache_gb > 0 and math.isfinite(options.cache_gb)):
        raise StudioError(f"cache_gb: {options.cache_gb} is not an amount of memory.", fix="Give --cache-gb 2 or so.")
    if options.background not in (*COLORS, "auto"):
        raise StudioError(f"background: '{options.background}' is not known.", fix="Choose white, black or auto.")


def _loop_settings(settings: PluginConfig, options: TrainOptions) -> LoopSettings:
    return LoopSettings(
        total_steps=settings.steps,
        seed=options.seed,
        budget_seconds=options.budget_seconds,
        log_every=options.log_every,
        checkpoint_seconds=options.checkpoint_seconds,
        checkpoint_steps=options.checkpoint_steps,
    )


def _open_data(
    cls: type[Plugin], where: DataSettings, resumed: RunFolder | None = None
) -> tuple[Scene | None, PhotoStore | None, Dataset | None]:
    if issubclass(cls, Field):
        scene = load_scene(where.path, **where.reader)
        if resumed is not None:
            scene = in_frame_of(scene, load_saved_scene(resumed.scene_file).scene_from_input)
        return scene, photo_store(scene, "train", cls, where.downscale, where.cache_gb), None
    return None, None, load_dataset(where.path, **where.reader)


def _source(photos: PhotoStore | None, dataset: Dataset | None, seed: int, device: torch.device) -> BatchSource:
    if photos is not None:
        return SceneSource(photos, seed, device)
    assert dataset is not None
    return DatasetSource(dataset, seed, device)


def _scene_info(scene: Scene, photos: PhotoStore, background: str) -> SceneInfo:
    # One photo tells for all: formats mix sizes, but not photos with and without alpha.
    has_alpha = photos.get(0).image.shape[-1] == 4
    color = COLORS["white"] if background == "auto" else COLORS[background]
    bounds = None
    if scene.bounds is not None:
        low, high = scene.bounds.tolist()
        bounds = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return SceneInfo(
        num_train=len(photos),
        camera_extent=scene.camera_extent,
        points_extent=scene.points_extent,
        bounds=bounds,
        has_alpha=has_alpha,
        background=color if has_alpha or background != "auto" else None,
    )


def _describe_scene(scene: Scene, photos: PhotoStore) -> str:
    camera = photos.get(0).camera
    held_out = len(scene.split(scene.evaluation_split)) if scene.evaluation_split != "train" else 0
    points = f", {len(scene.points):,} points" if scene.points is not None else ""
    width, height = camera.size
    return f"{len(photos)} training photos, {held_out} held out, {width}x{height}{points} ({scene.format})"
