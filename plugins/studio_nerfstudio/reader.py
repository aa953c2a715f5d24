"""nerfstudio's data parsers as readers: ``--format nerfstudio:colmap``, with any parser that `ns-train` knows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import MissingDependencyError, StudioError

if TYPE_CHECKING:
    from studio.readers import ReadOptions
    from studio.scene import Scene, Split

_DEFAULT = "nerfstudio-data"


class NerfstudioReader:
    """Reads with one of nerfstudio's data parsers; only when it is asked for by name.

    Args:
        parser: As `ns-train METHOD PARSER` takes it, such as ``colmap``; a trailing ``-data`` may be left out.
    """

    def __init__(self, parser: str = "") -> None:
        self._parser = parser

    @property
    def name(self) -> str:
        return f"nerfstudio:{self._parser}" if self._parser else "nerfstudio"

    def detect(self, root: Path) -> str | None:
        return "only when asked for by name"

    def read(self, root: Path, options: ReadOptions) -> Scene:
        config = _parser_config(self._parser or _DEFAULT)
        config.data = root if options.file is None else root / options.file
        if getattr(config, "load_3D_points", None) is False:
            config.load_3D_points = True
        if hasattr(config, "colmap_path"):
            places = [Path(options.model)] if options.model else [config.colmap_path, Path("sparse/0"), Path("sparse")]
            config.colmap_path = next((place for place in places if (root / place).is_dir()), places[0])
        if options.images is not None and hasattr(config, "images_path"):
            config.images_path = Path(options.images)
        from studio_nerfstudio.parsers import to_scene, undo_parser

        parser = _guarded(self.name, root, config.setup)
        splits: tuple[Split, ...] = ("train", "test")
        # A val split, where a parser has one, mostly shows the test photos again.
        outputs = {s: _guarded(self.name, root, lambda s=s: parser.get_dataparser_outputs(split=s)) for s in splits}
        return undo_parser(to_scene(outputs, root, format=self.name))


def _parser_config(name: str) -> Any:
    """A copy of the configuration of a data parser.

    Raises:
        StudioError: nerfstudio is not installed or cannot be imported, or it has no such parser.
    """
    try:
        from nerfstudio.configs.dataparser_configs import all_dataparsers
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "nerfstudio":
            raise StudioError(f"nerfstudio cannot be imported ({error}).", fix="Install it anew.") from error
        raise MissingDependencyError("nerfstudio", "nerfstudio", purpose="Reading with nerfstudio's parsers") from error
    except Exception as error:  # its many dependencies fail in their own ways
        raise StudioError(
            f"nerfstudio cannot be imported ({type(error).__name__}: {error}).", fix="Check it with: ns-train --help"
        ) from error
    for known in (name, f"{name}-data", f"{name}-parser"):
        if known in all_dataparsers:
            return copy.deepcopy(all_dataparsers[known])
    raise StudioError(f"nerfstudio has no data parser '{name}'.", fix=f"Parsers: {', '.join(all_dataparsers)}.")


def _guarded(name: str, root: Path, work: Any) -> Any:
    """Run a parser; whatever it raises becomes a line that names it."""
    try:
        return work()
    except StudioError:
        raise
    except (Exception, SystemExit) as error:
        raise StudioError(
            f"{root}: {name} cannot read this folder ({type(error).__name__}: {error}).",
            fix="Choose the parser that fits the data, or leave --format out.",
        ) from error


class NerfstudioParsers:
    """All of nerfstudio's data parsers; see `studio.readers.ReaderFamily`."""

    def variant(self, text: str) -> NerfstudioReader:
        """The reader behind ``nerfstudio:TEXT``."""
        return NerfstudioReader(text)


PARSERS = NerfstudioParsers()
