"""Rules about splits that several formats share: absent photos, and photos that two splits name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studio.errors import StudioError
from studio.readers.photo_files import PhotoFinder
from studio.reading.json_text import read_json_object
from studio.scene import Frame

_PRIORITY = {"test": 0, "val": 1, "train": 2}


def absent_note(source: str, missing: Sequence[str], total: int) -> list[str]:
    """A note about photos that are named but absent, if there are any."""
    if not missing:
        return []
    verb = "is" if len(missing) == 1 else "are"
    return [f"{source}: {len(missing)} of {total} photos {verb} absent and left out (first: {missing[0]})"]


def refuse_absent_test_photos(path: Path, missing: Sequence[str], total: int, finder: PhotoFinder) -> None:
    """Refuse a test split of which a part is absent: figures on the rest would not be those of the data set.

    Raises:
        StudioError: Some photos are absent; names a sibling file whose photos are all there, if one exists.
    """
    if not missing:
        return
    complete = _complete_sibling(path, finder)
    if complete is not None:
        fix = f"Choose {complete.name}, whose photos are all here: --test-file {complete.name}"
    else:
        fix = f"Add the photos, or leave the absent ones out with --test-file {path.name}"
    raise StudioError(
        f"{path}: the test split names absent photos ({len(missing)} of {total}, first: {missing[0]}).", fix=fix
    )


def merge_splits(frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], list[str]]:
    """Keep each photo in one split only: test before val before train, so that no test photo is trained on.

    Returns:
        The frames in their order, and a note if there were photos in more than one split. A val split of photos that
        are all test photos too is no surprise: nerfstudio wants one, and data sets often repeat the other.
    """
    chosen: dict[str, Frame] = {}
    trained = {frame.name for frame in frames if frame.split == "train"}
    for frame in frames:
        other = chosen.get(frame.name)
        if other is None or _PRIORITY[frame.split] < _PRIORITY[other.split]:
            chosen[frame.name] = frame
    repeated = sum(frame is not chosen[frame.name] and frame.name in trained for frame in frames)
    kept = tuple(frame for frame in frames if chosen[frame.name] is frame)
    note = f"{repeated} photos are named by more than one split: kept in one (test before val before train)"
    return kept, [note] if repeated else []


def _complete_sibling(path: Path, finder: PhotoFinder) -> Path | None:
    """Another ``transforms_test*.json`` beside `path` whose photos are all present."""
    for other in sorted(path.parent.glob("transforms_test*.json")):
        if other == path:
            continue
        try:
            frames = read_json_object(other).get("frames")
        except StudioError:
            continue
        names = [f.get("file_path") for f in frames if isinstance(f, dict)] if isinstance(frames, list) else []
        if names and all(isinstance(name, str) and finder.find(name) is not None for name in names):
            return other
    return None
