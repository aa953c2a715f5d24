"""What a reader is, which readers there are, and how another package adds one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from studio.errors import StudioError
from studio.extensions import READERS, extension_names, list_extensions, load_extension
from studio.probing import import_target
from studio.scene import Scene


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
    """Folder of the masks inside the scene folder, default: masks, for formats that do not name them (COLMAP, LLFF)."""
    test_file: str | None = None
    """Name of the file that lists the test photos, such as transforms_test25.json. Photos it names that are absent are
    then left out instead of being an error."""
    model: str | None = None
    """Folder of the COLMAP model inside the scene folder, such as sparse/1; default: the one with the most images."""
    ignore_distortion: bool = False
    """Take photos of distorted perspective lenses as pinhole photos."""


@runtime_checkable
class Reader(Protocol):
    """Reads one file format. Readers have no state; a module offers one instance.

    A distribution adds one by an entry point ``name = "package.module:READER"`` in the group ``studio.readers``.
    """

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


@runtime_checkable
class ReaderFamily(Protocol):
    """Readers that are only asked for by name, as ``--format FAMILY:VARIANT``; finding the format never tries them.

    A distribution adds one by an entry point ``family = "package.module:OBJECT"`` in the group
    ``studio.reader_families``.
    """

    def variant(self, text: str) -> Reader:
        """The reader behind ``FAMILY:text``; '' for the name of the family alone."""


FAMILIES = "studio.reader_families"
"""The group of entry points of reader families."""

_REGISTERED: dict[str, Reader] = {}


def register_reader(reader: Reader) -> None:
    """Add a reader for this process (packages use an entry point instead; see `Reader`).

    Raises:
        ValueError: If the name is taken.
    """
    if reader.name in reader_names():
        raise ValueError(f"register_reader: there is a reader '{reader.name}' already")
    _REGISTERED[reader.name] = reader


def reader_names() -> list[str]:
    """Names of all usable readers, in the order of detection; nothing of other packages is imported."""
    return [*READERS, *_REGISTERED, *extension_names("reader")]


def get_reader(name: str) -> Reader:
    """The reader of a format.

    Args:
        name: One of `reader_names`, or FAMILY:VARIANT of a `ReaderFamily`.

    Raises:
        StudioError: There is none of this name, or the package that offers it cannot be used.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name in READERS:
        own: Reader = import_target(f"studio.readers.{name}:READER")
        return own
    family, _, variant = name.partition(":")
    for point in entry_points(group=FAMILIES):
        if point.name == family:
            return _load_family(point).variant(variant)
    if name not in {entry.name for entry in list_extensions("reader")}:
        raise StudioError(f"There is no scene format '{name}'.", fix=f"Formats: {', '.join(reader_names())}.")
    reader: Reader = load_extension("reader", name)
    return reader


def _load_family(point: EntryPoint) -> ReaderFamily:
    try:
        family = point.load()
    except Exception as error:  # a package can raise anything when it is imported
        raise StudioError(
            f"The readers '{point.name}' cannot be loaded from {point.value} ({type(error).__name__}: {error}).",
            fix="Reinstall or update the package that offers them.",
        ) from error
    if not isinstance(family, ReaderFamily):
        raise StudioError(
            f"{point.value} is not a family of readers: it has no 'variant'.",
            fix="Report this to the package that offers it.",
        )
    return family
