"""Finding out which format a scene folder has."""

from __future__ import annotations

from pathlib import Path

from studio.errors import StudioError
from studio.readers.registry import Reader, get_reader, reader_names


def detect_reader(root: Path) -> Reader:
    """The first reader that recognises the folder.

    Raises:
        StudioError: None does; the message lists what each looked for. A reader that cannot be imported only counts
            as not fitting.
    """
    reasons = []
    for name in reader_names():
        try:
            reader = get_reader(name)
            reason = reader.detect(root)
        except StudioError as error:
            reason = error.message
        else:
            if reason is None:
                return reader
        reasons.append(f"{name}: {reason}")
    raise StudioError(
        f"{root}: not a scene in any known format ({'; '.join(reasons)}).",
        fix="Name the folder that holds one of these files.",
    )
