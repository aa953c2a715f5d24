"""What `studio train` is asked for: the plugin among the arguments, its presets and options, the engine's options.

Only the plugin's configuration class is imported here, never its model, so that help and bad options answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from studio.cli.arguments import (
    Arguments,
    NonNegativeInt,
    OptionalAtLeastOne,
    OptionalDuration,
    OptionalPositiveInt,
    PositiveFloat,
    PositiveInt,
    arguments_of,
    parse,
    wants_help,
)
from studio.errors import StudioError
from studio.reading.files import is_file
from studio.registry import PluginEntry, find_plugin, list_plugins, load_config_class, plugin_names

if TYPE_CHECKING:
    from studio.plugin.config import PluginConfig

PROG = "studio train"
_DATA_SETS = (
    "A folder or .zip of pictures (sub-folders: classes; metadata.jsonl: captions), idx files (MNIST), a .npz or text "
    "file, toy:swiss-roll, toy:moons, toy:gaussians, or shapes:64 (captioned pictures)."
)


@dataclass
class RunOptions:
    """Options of every run."""

    preset: str | None = None
    """Named set of the plugin's options; single options given besides win."""
    resume: Path | None = None
    """Go on with this run (its folder, or one above it) as if never stopped. Needs no PLUGIN and DATA; only --steps,
    --budget, --device and the intervals may change."""
    accept_changes: bool = False
    """With --resume: go on although the data, its order or a version is not what the run was trained with."""
    budget: OptionalDuration = None
    """Time to train, such as 90, 90s, 5m, 1h30m: from the command on, less compiling kernels (once) and drawing
    previews; schedules follow the clock then. A resumed run has used part of it."""
    seed: NonNegativeInt = 0
    """Seed of all random streams; equal seeds give equal runs on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    output: Path = Path("runs")
    """The run goes to OUTPUT/<data>/<plugin>/<time>/."""
    previews: bool = True
    """Pictures in the run's folder previews/ while training, the first after seconds."""
    timelapse: str | None = None
    """Film the training of a scene from one camera, in the run's folder timelapse/: the name of a photo, orbit, or a
    camera path FILE.json (its first camera)."""
    tensorboard: bool = True
    """Write TensorBoard events besides metrics.jsonl."""
    log_every: PositiveInt = 20
    """Steps between lines of figures."""
    checkpoint_seconds: PositiveFloat = 60.0
    """Seconds between checkpoints: what a kill loses at most."""
    checkpoint_steps: OptionalPositiveInt = None
    """Steps between checkpoints, instead of seconds."""
    viewer: bool = False
    """Watch the training of a scene in the browser: live pictures, pause, curves."""
    viewer_port: NonNegativeInt = 7007
    """Port of the viewer; if it is taken, the next free one."""
    viewer_host: str = "127.0.0.1"
    """Address of the viewer; one beyond this machine is protected by a token."""


@dataclass
class ReaderOptions:
    """How the folder of photos is read."""

    format: str | None = None
    """transforms, blender, colmap or llff; default: found by itself."""
    normalize: Literal["auto", "focus", "poses", "none"] = "auto"
    """How the scene is centred and scaled; exports undo it."""
    eval_every: NonNegativeInt = 8
    """Without a test split, every so manyth photo by name is held out; 0: none."""
    test_file: str | None = None
    """File in DATA that lists the test photos, such as transforms_test25.json."""
    images: str | None = None
    """Folder of the photos inside DATA, such as images_4."""
    masks: str | None = None
    """Folder of the masks inside DATA."""
    colmap_model: str | None = None
    """Folder of the COLMAP model inside DATA, such as sparse/1."""
    ignore_distortion: bool = False
    """Take photos of distorted perspective lenses as pinhole photos."""

    def to_dict(self) -> dict[str, Any]:
        """The keyword arguments of `studio.readers.load_scene`."""
        options = dataclasses.asdict(self)
        options["model"] = options.pop("colmap_model")
        return options


@dataclass
class SceneOptions(ReaderOptions):
    """How the photos are read and shown to the plugin."""

    downscale: OptionalAtLeastOne = None
    """Divide both sides of the photos by this, with an area filter; default: so that none is longer than 1600
    pixels."""
    background: Literal["auto", "white", "black"] = "auto"
    """Behind photos with alpha; auto: white, and nothing for opaque photos."""
    cache_gb: PositiveFloat = 2.0
    """Memory for decoded photos, GiB."""

    def reader(self) -> dict[str, Any]:
        """The keyword arguments of `studio.readers.load_scene`."""
        options = self.to_dict()
        for name in ("downscale", "background", "cache_gb"):
            del options[name]
        return options


@dataclass
class DataOptions:
    """How the data set is read."""

    image_size: OptionalPositiveInt = None
    """Crop pictures of a folder or zip to their middle square and resize it to this many pixels; default: their own
    size."""
    color: Literal["auto", "rgb", "grey"] = "auto"
    """Channels of pictures of a folder or zip; auto: grey where all of them are."""
    lines: Literal["auto", "yes", "no"] = "auto"
    """Text: whether each line is a sample; auto: where no line is empty."""
    strict: bool = False
    """Stop at damaged pictures, missing captions and empty classes, instead of leaving them out."""
    samples: OptionalPositiveInt = None
    """Training samples of toy: and shapes: data."""

    def reader(self) -> dict[str, Any]:
        """The keyword arguments of `studio.datasets.load_dataset` that differ from its defaults."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {name: value for name, value in options.items() if value not in (None, "auto", False)}
        if "lines" in given:
            given["lines"] = self.lines == "yes"
        return given


@dataclass(frozen=True)
class TrainRequest:
    """A new run."""

    plugin: str
    kind: str
    data: str
    settings: PluginConfig
    run: RunOptions
    scene: SceneOptions
    dataset: DataOptions


@dataclass(frozen=True)
class ResumeRequest:
    """A run to go on with."""

    path: Path
    run: RunOptions
    steps: int | None


def read_train_arguments(argv: Sequence[str]) -> TrainRequest | ResumeRequest:
    """Parse the arguments of `studio train`, in whatever order they stand.

    Raises:
        StudioError: No or an unknown plugin or preset, or a plugin whose options clash with the engine's.
        SystemExit: Code 2 after a message about an option, 0 after the help.
    """
    common = arguments_of(RunOptions, SceneOptions, DataOptions)
    if common.value(argv, "--resume") is not None and not wants_help(argv):
        return _read_resume(argv, common)
    found = _find_plugin(argv, common)
    if found is None:
        if wants_help(argv):
            _print_general_help()
        raise _no_plugin(argv, common)
    entry, position = found
    assert entry.spec is not None
    rest = [*argv[:position], *argv[position + 1 :]]
    preset = common.value(argv, "--preset")
    config = load_config_class(entry).preset(preset)
    if "--accept-changes" in common.given(argv):
        raise StudioError("--accept-changes: is for --resume; a new run takes the data as it is.", fix="Leave it out.")
    combined = _combine(entry, config)
    request = parse(
        combined, rest, prog=f"{PROG} {entry.name}", positionals=1, description=_describe(entry, type(config), preset)
    )
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    if entry.spec.kind == "field":
        _refuse_samples(entry, values["data"])
    return TrainRequest(
        entry.name,
        entry.spec.kind,
        values["data"],
        values[_group(entry)],
        values["run"],
        values.get("scene", SceneOptions()),
        values.get("dataset", DataOptions()),
    )


def _refuse_samples(entry: PluginEntry, data: str) -> None:
    """Raise where a field is given what is plainly a data set for generators, and name those that take it."""
    drawn = data.startswith(("toy:", "shapes:"))
    ending = "".join(Path(data).suffixes[-2:]).lower().removesuffix(".gz")
    if not drawn and not (ending.endswith((".npz", ".txt", ".zip", "-ubyte")) and is_file(Path(data).expanduser())):
        return
    text = ending.endswith(".txt") and not drawn
    able = [
        other.name
        for other in list_plugins()
        if other.status == "ok" and other.spec is not None and other.spec.kind == "generator"
        and ("stream" in (can := other.spec.all_capabilities())) == text
        and ("caption" not in can or data.startswith("shapes:"))
    ]  # fmt: skip
    raise StudioError(
        f"{data}: a data set of samples, and '{entry.name}' learns scenes from posed photos.",
        fix=f"Plugins that take it: {', '.join(able)}." if able else "Name a folder of posed photos.",
    )


def _combine(entry: PluginEntry, config: PluginConfig) -> type[Any]:
    """A dataclass of DATA, the plugin's configuration with `config` as defaults, and the engine's options."""
    assert entry.spec is not None
    is_field = entry.spec.kind == "field"
    groups: list[type[Any]] = [RunOptions, SceneOptions if is_field else DataOptions]
    taken = {field.name for group in groups for field in dataclasses.fields(group)} | {"data", "help"}
    clash = sorted(taken & {field.name for field in dataclasses.fields(config)})
    if clash:
        flag = clash[0].replace("_", "-")
        raise StudioError(
            f"The option --{flag} of plugin '{entry.name}' ({entry.spec.config}.{clash[0]}) clashes with the engine's "
            f"own option --{flag} of '{PROG}'.",
            fix=f"Its author ({entry.distribution}) has to rename the field.",
        )
    what = "A folder of posed photos." if is_field else _DATA_SETS
    data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help=what)]
    fields: list[tuple[str, Any, Any]] = [
        ("data", data, dataclasses.field()),
        (_group(entry), _placed(type(config)), dataclasses.field(default_factory=lambda: config)),
        ("run", tyro.conf.OmitArgPrefixes[RunOptions], dataclasses.field(default_factory=RunOptions)),
    ]
    if is_field:
        fields.append(
            ("scene", tyro.conf.OmitArgPrefixes[SceneOptions], dataclasses.field(default_factory=SceneOptions))
        )
    else:
        fields.append(
            ("dataset", tyro.conf.OmitArgPrefixes[DataOptions], dataclasses.field(default_factory=DataOptions))
        )
    return dataclasses.make_dataclass("Train", fields)


def _group(entry: PluginEntry) -> str:
    """The plugin's field among the others; the help's title of its options follows from it."""
    return f"{entry.name}_plugin" if entry.name in ("data", "dataset", "run", "scene") else entry.name.replace("-", "_")


def _placed(config: type[Any]) -> Any:
    """Options without a prefix; nested dataclasses keep theirs, so that equal names in two of them do not clash.

    tyro gives a group without any prefix the title of the common options, hence the other way for flat ones.
    """
    hints = typing.get_type_hints(config)
    nested = any(dataclasses.is_dataclass(hints[field.name]) for field in dataclasses.fields(config))
    mark: Any = tyro.conf.arg(name="") if nested else tyro.conf.OmitArgPrefixes
    return Annotated[config, mark]


def _find_plugin(argv: Sequence[str], common: Arguments) -> tuple[PluginEntry, int] | None:
    """The first token that names a plugin and is no value of a flag; that plugin's own flags count for this too."""
    names = plugin_names()
    for position, token in enumerate(argv):
        if token in names and position in common.positions(argv, 2):
            entry = find_plugin(token)
            known = common | arguments_of(load_config_class(entry))
            if position in known.positions(argv, 2):
                return entry, position
    return None


def _no_plugin(argv: Sequence[str], common: Arguments) -> StudioError:
    names = plugin_names()
    positionals, _ = common.split(argv, 2)
    if not positionals:
        return StudioError(
            "Name a plugin and its data: studio train PLUGIN DATA.", fix=f"Plugins: {', '.join(names) or 'none'}."
        )
    near = [token for token in positionals if difflib.get_close_matches(token, names, n=1)]
    try:
        find_plugin((near or positionals)[0])
    except StudioError as error:
        return error
    return StudioError(f"'{(near or positionals)[0]}' stands where the value of an option is expected.")


def _read_resume(argv: Sequence[str], common: Arguments) -> ResumeRequest:
    from studio.training.run import RunFolder

    @dataclass
    class Resume:
        """Go on with a run as if it had never stopped."""

        words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PLUGIN DATA]")] = ()
        """May be left out; else those of the run."""
        steps: OptionalPositiveInt = None
        """Train up to this many steps in all."""
        run: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)

    fixed = set(arguments_of(RunOptions, SceneOptions, DataOptions).arity) - {
        "--accept-changes", "--no-accept-changes",
        "--resume", "--budget", "--device", "--previews", "--no-previews", "--tensorboard", "--no-tensorboard",
        "--log-every", "--checkpoint-seconds", "--checkpoint-steps", "--timelapse", "--viewer", "--no-viewer",
        "--viewer-port", "--viewer-host", "--help", "-h",
    }  # fmt: skip
    given = [flag for flag in common.given(argv) if flag in fixed]
    if given:
        raise StudioError(
            f"{given[0]} cannot be given with --resume: a resumed run keeps what it was started with.",
            fix="Only --steps, --budget, --device and the intervals may change; start a new run for the rest.",
        )
    request = parse(Resume, argv, prog=f"{PROG} --resume RUN", positionals=2)
    assert request.run.resume is not None
    folder = RunFolder.open(request.run.resume)
    config = folder.read_config()
    for word in request.words:
        if word != config.plugin and str(Path(word).expanduser().resolve()) != config.data.path != word:
            raise StudioError(
                f"{folder.path}: a run of '{config.plugin}' on {config.data.path}, not of '{word}'.",
                fix="Leave PLUGIN and DATA out with --resume.",
            )
    return ResumeRequest(folder.path, request.run, request.steps)


def _describe(entry: PluginEntry, config: type[PluginConfig], preset: str | None) -> str:
    assert entry.spec is not None
    lines = [entry.spec.summary]
    if config.PRESETS:
        lines += ["", "Presets (--preset NAME):"]
        width = max(map(len, config.PRESETS))
        lines += [f"  {name:{width}}  {entry.spec.presets.get(name, '')}" for name in config.PRESETS]
    if preset is not None:
        lines += ["", f"Defaults below are those of the preset '{preset}'."]
    return "\n".join(lines)


def _print_general_help() -> None:
    entries = list_plugins()
    width = max((len(entry.name) for entry in entries), default=0)
    lines = ["Train a plugin on a folder of posed photos (fields) or on a data set (generators).", "", "Plugins:"]
    for entry in entries:
        about = entry.spec.summary if entry.spec and entry.status == "ok" else f"cannot be used: {entry.reason}"
        lines.append(f"  {entry.name:{width}}  {about}")
    lines += ["", "Each plugin has options and presets of its own: studio train PLUGIN --help"]

    @dataclass
    class General:
        plugin: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLUGIN", help="One of the plugins above.")]
        data: Annotated[
            str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA", help="A folder of posed photos, or a data set.")
        ]
        run: tyro.conf.OmitArgPrefixes[RunOptions]
        scene: tyro.conf.OmitArgPrefixes[SceneOptions]
        dataset: tyro.conf.OmitArgPrefixes[DataOptions]

    parse(General, ["--help"], prog=PROG, description="\n".join(lines))
