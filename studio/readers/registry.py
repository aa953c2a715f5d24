"""What a reader is, which readers there are, and how another package adds one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from studio.errors import StudioError
from studio.scene import Scene

ENTRY_POINT_GROUP = "studio.readers"
"""A distribution adds a reader by an entry point ``name = "package.module:READER"`` in this group."""


@dataclass(frozen=True)
class ReadOptions:
    """What a user may tell a reader; every field is optional, and readers ignore what does not concern them.

    The command line offers each field as a flag (``--test-file``); the model is ``--colmap-model`` there.
    """

    file: str | None = None
    """Name of the JSON file to read, for formats that consist of one."""
    images: str | None = None
    """Folder of the photos inside the scene folder, such as images_4; default: found by itself."""
    masks: str | None = None
    """Folder of the masks inside the scene folder, for formats that do not name them (COLMAP, LLFF); default: masks."""
    test_file: str | None = None
    """Name of the file that lists the test photos, such as transforms_test25.json. Photos it names that are absent are
    then left out instead of being an error."""
    model: str | None = None
    """Folder of the COLMAP model inside the scene folder, such as sparse/1; default: the one with the most images."""
    ignore_distortion: bool = False
    """Take photos of distorted perspective lenses as pinhole photos."""


@runtime_checkable
class Reader(Protocol):
    """Reads one file format. Readers have no state; a module offers one instance."""

    @property
    def name(self) -> str:
        """Short name, as in ``--format`` and `Scene.format`."""

    def detect(self, root: Path) -> str | None:
        """None if the folder holds this format, else what is missing for it ("no transforms.json").

        Must be quick and must not raise on broken files: those are for `read` to report.
        """

    def read(self, root: Path, options: ReadOptions) -> Scene:
        """Read the folder: OpenCV cameras at the photos' size on disk, not normalised, in the files' own frame.

        Formats without a test split give all frames the split "train".

        Raises:
            StudioError: Bad input, named by file and field.
        """


_BUILT_IN = {
    "transforms": "studio.readers.transforms:READER",
    "blender": "studio.readers.blender:READER",
    "colmap": "studio.readers.colmap:READER",
    "llff": "studio.readers.llff:READER",
}
"""In the order of detection: a mip-NeRF 360 scene has a COLMAP model and LLFF poses, and the first says more."""

_REGISTERED: dict[str, Reader] = {}


def register_reader(reader: Reader) -> None:
    """Add a reader for this process (packages use an entry point instead; see `ENTRY_POINT_GROUP`).

    Raises:
        ValueError: If the name is taken.
    """
    if reader.name in reader_names():
        raise ValueError(f"register_reader: there is a reader '{reader.name}' already")
    _REGISTERED[reader.name] = reader


def reader_names() -> list[str]:
    """Names of all readers, in the order of detection; nothing is imported."""
    return [*_BUILT_IN, *_REGISTERED, *_installed()]


def get_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        StudioError: There is none of this name, or the package that offers it cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    targets = {**_installed(), **_BUILT_IN}
    if name not in targets:
        raise StudioError(f"There is no scene format '{name}'.", fix=f"Formats: {', '.join(reader_names())}.")
    module, _, attribute = targets[name].partition(":")
    try:
        reader = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise StudioError(
            f"The reader '{name}' cannot be loaded from {targets[name]} ({error}).",
            fix="Reinstall or update the package that offers it.",
        ) from error
    if not isinstance(reader, Reader) or reader.name != name:
        raise StudioError(
            f"{targets[name]} is not a reader named '{name}'.", fix="Report this to the package that offers it."
        )
    return reader


def _installed() -> dict[str, str]:
    """Readers of other distributions; names of the built-in ones cannot be taken over."""
    found: dict[str, str] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in _BUILT_IN:
            continue
        if found.get(entry.name, entry.value) != entry.value:
            raise StudioError(
                f"Two packages offer a reader '{entry.name}': {found[entry.name]} and {entry.value}.",
                fix="Uninstall one of them.",
            )
        found[entry.name] = entry.value
    return found
