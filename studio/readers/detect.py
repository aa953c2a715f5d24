"""Finding out which format a scene folder has."""

from __future__ import annotations

from pathlib import Path

from studio.errors import StudioError
from studio.extensions import READERS, list_extensions
from studio.readers.registry import Reader, get_reader, reader_names


def detect_reader(root: Path) -> Reader:
    """The first reader that recognises the folder.

    Raises:
        StudioError: None does; the message lists what each looked for. A reader of another package that raises only
            counts as not fitting.
    """
    reasons = []
    for name in reader_names():
        try:
            reader = get_reader(name)
            reason = reader.detect(root)
        except StudioError as error:
            reason = error.message
        except Exception as error:
            if name in READERS:
                raise
            reason = f"{type(error).__name__}: {error}"
        else:
            if reason is None:
                return reader
        reasons.append(f"{name}: {reason}")
    reasons += [f"{entry.name}: {entry.reason}" for entry in list_extensions("reader") if entry.status != "ok"]
    raise StudioError(
        f"{root}: not a scene in any known format ({'; '.join(reasons)}).",
        fix="Name the folder that holds one of these files.",
    )
