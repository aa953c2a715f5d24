"""`check_plugin`: all checks of one plugin, in their order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from studio.devices import select
from studio.errors import StudioError
from studio.plugin import Field, Generator, Plugin, PluginConfig, PluginSpec
from studio.plugin.spec import CAPABILITIES
from studio.registry import PluginEntry, find_plugin, list_plugins
from studio.testing import declaration, fields, generators, training
from studio.testing.data import SAMPLE_KINDS, CheckData, make_scene
from studio.testing.guards import Watch, watching
from studio.testing.report import Check, CheckFailed, CheckReport, NotApplicable, Runner
from studio.testing.subject import STEPS, Subject, choose_data, kept_random_state, other_data

_MOST_STEPS = 500


def check_plugin(
    plugin: str | PluginSpec,
    *,
    device: str | None = None,
    data: str | None = None,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    tell: Callable[[Check], None] = lambda check: None,
) -> CheckReport:
    """Check that a plugin does all that the contract asks and that its declaration promises.

    The plugin is built, trained for 20 steps, saved, restored, moved and used on small data made for it: labelled
    points, pictures with classes or captions, a text, or a scene of twelve photos, by what it takes. Its model is the
    default one with the fields of ``CHECK`` of its configuration class, if it has any. It takes seconds.

    Args:
        plugin: A name of `studio plugins`, or a `PluginSpec` that need not be installed.
        device: Where to run it, such as 'cpu' or 'cuda:1'; all declared devices that are here when None.
        data: For generators: 'points', 'pictures' (with classes), 'captioned pictures' or 'text'; the first that the
            plugin takes when None.
        preset: Start from this preset instead of the default configuration.
        config: Further field values, which win over ``CHECK``.
        tell: Hears of each check when it is done.

    Returns:
        The report; ``check_plugin("my-plugin").require()`` is a whole test.

    Raises:
        StudioError: There is no plugin of this name, or `device` or `data` is not one that it can run on.
    """
    if data is not None and data not in SAMPLE_KINDS:
        raise StudioError(f"data: '{data}' is not known.", fix=f"Choose one of {', '.join(SAMPLE_KINDS)}.")
    entry = _entry(plugin)
    runner = Runner(tell)
    found: dict[str, Any] = {}
    with kept_random_state(), tempfile.TemporaryDirectory(prefix="studio-check-") as folder:
        # Whatever way the folder's name is spelled, audit events have the real one.
        scratch = Path(folder).resolve()
        (scratch / "runs").mkdir()
        try:
            _check_declaration(runner, entry, found)
            if entry.spec is None:
                return CheckReport(entry.name, "", tuple(runner.checks))
            devices = _devices(runner, entry.spec, device)
            scenes = _scenes(entry.spec, scratch)
            with watching(scratch) as watch:
                _check_class(runner, entry, found)
                settings = _settings(runner, found, preset, config)
                for name in devices:
                    _check_on(runner, name, entry.spec, found, settings, scenes, data, scratch)
            _check_watch(runner, watch)
        finally:
            trained = found.get("data")
    return CheckReport(entry.name, trained.kind if trained else "", tuple(runner.checks))


def _entry(plugin: str | PluginSpec) -> PluginEntry:
    if isinstance(plugin, PluginSpec):
        return PluginEntry(plugin.name, "", "", "", plugin, "ok", "")
    entry = next(iter(list_plugins(plugin)), None)
    return find_plugin(plugin) if entry is None else entry


def _check_declaration(runner: Runner, entry: PluginEntry, found: dict[str, Any]) -> None:
    spec = entry.spec
    if not runner.run("declaration", lambda: declaration.check_declaration(entry)) or spec is None:
        return
    runner.run("API range", lambda: declaration.check_api(spec))
    runner.run("light import", lambda: declaration.check_import(entry))

    def configuration() -> str | None:
        found["config"] = declaration.check_config(entry)
        return "small model in CHECK" if found["config"].CHECK else None

    runner.run("configuration", configuration, needs=("declaration",))
    runner.run("presets", lambda: declaration.check_presets(spec, found["config"]), needs=("configuration",))
    runner.run("command line", lambda: declaration.check_command_line(entry), needs=("API range", "configuration"))


def _check_class(runner: Runner, entry: PluginEntry, found: dict[str, Any]) -> None:
    def promised() -> str | None:
        found["class"], remark = declaration.check_class(entry)
        return remark

    runner.run("class", promised, needs=("declaration",))


def _settings(
    runner: Runner, found: dict[str, Any], preset: str | None, config: Mapping[str, Any] | None
) -> PluginConfig | None:
    cls: type[PluginConfig] | None = found.get("config")
    if cls is None:
        return None
    values = {**cls.preset(preset).to_dict(), "steps": STEPS, **cls.CHECK, **(config or {})}
    settings = cls.from_dict(values, source="CHECK")
    if not STEPS <= settings.steps <= _MOST_STEPS:
        raise StudioError(
            f"{cls.__name__}.CHECK: steps is {settings.steps}.", fix=f"Give {STEPS} to {_MOST_STEPS}, or leave it out."
        )
    return settings


def _devices(runner: Runner, spec: PluginSpec, wanted: str | None) -> list[str]:
    """The devices to run on; those that are declared but not here are reported."""
    if wanted is not None:
        return [str(select(wanted, supported=spec.devices, owner=spec.name).torch_device)]
    there = []
    for kind in spec.devices:
        try:
            there.append(str(select(kind, supported=spec.devices).torch_device))
        except (StudioError, ValueError) as error:
            reason = error.message if isinstance(error, StudioError) else str(error)

            def absent(reason: str = reason) -> str | None:
                raise NotApplicable(reason)

            runner.run("builds", absent, device=kind)
    return there


def _scenes(spec: PluginSpec, scratch: Path) -> dict[str, CheckData]:
    if spec.kind != "field":
        return {}
    return {
        "main": make_scene(scratch / "scene", alpha=True),
        "opaque": make_scene(scratch / "opaque scene", alpha=False),
    }


def _check_on(
    runner: Runner,
    device_name: str,
    spec: PluginSpec,
    found: dict[str, Any],
    settings: PluginConfig | None,
    scenes: dict[str, CheckData],
    kind: str | None,
    scratch: Path,
) -> None:
    """The checks that run the model, on one device."""
    device = torch.device(device_name)
    here: dict[str, Any] = {}

    def run(name: str, check: Callable[[], str | None], *needs: str) -> bool:
        return runner.run(name, check, device=device_name, needs=needs)

    def subject_on(chosen: CheckData) -> Subject:
        assert settings is not None
        return Subject(spec.name, found["class"], settings, chosen, scratch / "runs")

    def builds() -> str | None:
        cls: type[Plugin] = found["class"]
        if issubclass(cls, Field):
            here["subject"] = subject_on(scenes["main"])
        else:
            here["subject"] = choose_data(cls, subject_on, spec.all_capabilities(), kind)
        found["data"] = here["subject"].data
        return training.check_builds(here["subject"], device)

    def trains() -> str | None:
        here["trainer"] = training.train_briefly(here["subject"], device)
        return None

    run("builds", builds, "class", "configuration")
    run("20 steps lower the loss", lambda: training.check_loss(here["subject"], device, _steps(settings)), "builds")
    run("trains and saves", trains, "builds")
    run(
        "opens from a checkpoint",
        lambda: training.check_checkpoint(here["subject"], here["trainer"]),
        "trains and saves",
    )
    run("resumes exactly", lambda: training.check_resume(here["subject"], here["trainer"]), "trains and saves")
    if "trainer" in here and kind is None and issubclass(found["class"], Generator):
        for other in other_data(subject_on, here["subject"].data.kind):
            _check_resume_on(run, other, device)
    run("repeats", lambda: training.check_repeats(here["subject"], here["trainer"]), "trains and saves")
    for capability in spec.all_capabilities():
        check = _capability(capability, here, scratch)
        run(f"capability {capability}", check, "trains and saves")
    if spec.kind == "field":
        run("opaque photos", lambda: fields.check_opaque(subject_on(scenes["opaque"]), device), "builds")
    run("moves between devices", lambda: training.check_moves(here["subject"], here["trainer"]), "trains and saves")


def _check_resume_on(run: Callable[..., bool], subject: Subject, device: torch.device) -> None:
    """The same plugin may keep other things of other data, such as the words of captions."""
    run(
        f"resumes exactly on {subject.data.kind}",
        lambda: training.check_resume(subject, training.train_briefly(subject, device)),
        "resumes exactly",
    )


def _steps(settings: PluginConfig | None) -> int:
    assert settings is not None
    return settings.steps


def _capability(name: str, here: dict[str, Any], scratch: Path) -> Callable[[], str | None]:
    own: Mapping[str, Callable[..., str | None]] = {
        "render": fields.check_render,
        "density": fields.check_density,
        "inspect": fields.check_inspect,
        "gaussians": fields.check_gaussians,
        "export": lambda subject, plugin: fields.check_export(subject, plugin, scratch / "runs" / "exports"),
        **generators.CHECKS,
    }

    def check() -> str | None:
        plugin = here["trainer"].plugin
        missing = [m for m in CAPABILITIES[name] if not callable(getattr(plugin, m, None))]
        if missing:
            raise CheckFailed(f"there is no method '{missing[0]}'.")
        if name in generators.CHECKS and isinstance(plugin, Field):
            raise CheckFailed(f"'{name}' is a capability of generators.", "Take it out of the PluginSpec.")
        return own[name](here["subject"], plugin)

    return check


def _check_watch(runner: Runner, watch: Watch) -> None:
    def network() -> str | None:
        if watch.connections:
            raise CheckFailed(
                f"it asked for {watch.connections[0]}.", "Fetch what is needed before, in a step of the user's own."
            )
        return None

    def files() -> str | None:
        if watch.writes:
            more = f" and {len(watch.writes) - 1} more" if len(watch.writes) > 1 else ""
            raise CheckFailed(
                f"it made or changed {watch.writes[0]}{more}.",
                "Keep to what the engine hands over (checkpoints, exports), or to tempfile.",
            )
        return None

    runner.run("no network", network)
    runner.run("no files elsewhere", files)
