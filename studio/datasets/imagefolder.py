"""The layout of Hugging Face's imagefolder: splits, classes and captions of a tree of pictures.

``[train|test/]CLASS/picture.png``, with captions instead of classes where a ``metadata.jsonl`` (or ``.csv``) names a
text for each ``file_name``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from studio.datasets.held_out import Split, split_rows
from studio.datasets.side_files import METADATA, PICTURE_SUFFIXES, ignored_notes, read_rows
from studio.datasets.trees import FileTree, inside
from studio.errors import StudioError
from studio.reading.files import show_path

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "dev")
_TEXT_FIELDS = ("text", "caption", "prompt", "description")


@dataclass
class Layout:
    """The pictures of one split."""

    files: list[str]
    classes: tuple[str, ...] = ()
    labels: list[int] | None = None
    captions: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def read_layout(tree: FileTree, split: Split, *, strict: bool = False) -> Layout:
    """Find out which pictures of a tree belong to a split, and what is known of each.

    Args:
        tree: A folder or archive.
        split: Folders named train and test (or val) hold the splits; else a tenth of all pictures is held out.
        strict: Raise where a caption is missing or a class is empty, instead of leaving it out with a note.

    Raises:
        StudioError: No pictures, or metadata that cannot be read.
    """
    pictures = [name for name in tree.files if posixpath.splitext(name)[1].lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise StudioError(
            f"{tree.path}: holds no pictures.", fix=f"Endings that are read: {', '.join(PICTURE_SUFFIXES)}."
        )
    root = _root(tree, pictures)
    train, test, notes = _split_folders(tree, root)
    captions, found = _read_captions(tree, root)
    notes += found + ignored_notes(tree.files)
    trained = [name for name in pictures if name.startswith(train)]
    tested = [name for name in pictures if test is not None and name.startswith(test)]
    if captions is not None:
        trained, tested = (_with_captions(tree, files, captions, notes, strict) for files in (trained, tested))
        if not trained:
            raise StudioError(f"{tree.path}: no picture has a caption.", fix="See its metadata for 'file_name'.")
    layout = Layout(trained, notes=notes)
    if captions is None:
        _find_classes(tree, layout, tested, train, test, strict)
    elif split == "train" or test is None:
        layout.captions = [captions[name] for name in trained]
    if test is None:
        return _pick(layout, split_rows(len(layout.files), split, str(tree.path)))
    if split == "train":
        return layout
    if not tested:
        raise StudioError(f"{tree.path}: its folder {test} holds no pictures.", fix="Put the test pictures there.")
    held_out = Layout(tested, layout.classes, notes=notes)
    if captions is not None:
        held_out.captions = [captions[name] for name in tested]
    elif layout.labels is not None:
        numbers = {name: i for i, name in enumerate(layout.classes)}
        known = [name for name in tested if _class_of(name, test) in numbers]
        if len(known) < len(tested):
            notes.append(f"{len(tested) - len(known):,} test pictures of classes without training pictures left out")
        held_out.files, held_out.labels = known, [numbers[_class_of(name, test)] for name in known]
    return held_out


def _pick(layout: Layout, rows: Iterable[int]) -> Layout:
    chosen = list(rows)
    return Layout(
        [layout.files[i] for i in chosen],
        layout.classes,
        None if layout.labels is None else [layout.labels[i] for i in chosen],
        None if layout.captions is None else [layout.captions[i] for i in chosen],
        layout.notes,
    )


def _root(tree: FileTree, pictures: list[str]) -> str:
    """'' or the prefix of a single folder that holds everything else, as archives often have it."""
    root = ""
    while True:
        heads = {name[len(root) :].partition("/")[0] for name in tree.files if name.startswith(root)}
        head = next(iter(heads))
        deeper = f"{root}{head}/"
        if len(heads) > 1 or head.lower() in (*_TRAIN, *_TEST) or deeper[:-1] not in tree.folders:
            return root
        if any("/" not in name[len(deeper) :] for name in pictures) and not _has_metadata(tree, deeper):
            return root
        root = deeper


def _has_metadata(tree: FileTree, folder: str) -> bool:
    return any(folder + name in tree.files for name in METADATA)


def _split_folders(tree: FileTree, root: str) -> tuple[str, str | None, list[str]]:
    """Prefixes of the training and the test pictures; None where a tenth of the training pictures must be held out."""
    top = {
        name[len(root) :].lower(): name + "/"
        for name in tree.folders
        if name.startswith(root) and "/" not in name[len(root) :]
    }
    train = next((top[name] for name in _TRAIN if name in top), None)
    tests = [top[name] for name in _TEST if name in top]
    if train is None:
        return root, None, []
    notes = [f"the folder {name[:-1]} is not used" for name in tests[1:]]
    return train, tests[0] if tests else None, notes


def _class_of(name: str, prefix: str) -> str:
    return posixpath.dirname(name[len(prefix) :])


def _find_classes(
    tree: FileTree, layout: Layout, tested: list[str], train: str, test: str | None, strict: bool
) -> None:
    found = [_class_of(name, train) for name in layout.files]
    classes = sorted(set(found))
    if "" in classes and len(classes) > 1:
        layout.notes.append("pictures lie both in and beside sub-folders: without classes")
        return
    if classes == [""] or len(classes) < 2:
        return
    # A folder is a class when no other is in it.
    leaves = [name for name in tree.folders if not any(other.startswith(name + "/") for other in tree.folders)]
    prefixes = (train,) if test is None else (train, test)
    named = {_class_of(name + "/x", prefix) for prefix in prefixes for name in leaves if name.startswith(prefix)}
    empty = sorted(named - set(classes) - {""})
    if empty:
        what = f"{tree.path}: {len(empty)} classes have no training pictures ({', '.join(empty[:5])})"
        if strict:
            raise StudioError(f"{what}.", fix="Remove their folders, or leave --strict out.")
        layout.notes.append(f"{len(empty)} classes without training pictures left out: {', '.join(empty[:5])}")
    layout.classes = tuple(classes)
    numbers = {name: i for i, name in enumerate(classes)}
    layout.labels = [numbers[name] for name in found]


def _with_captions(
    tree: FileTree, files: list[str], captions: Mapping[str, str], notes: list[str], strict: bool
) -> list[str]:
    kept = [name for name in files if name in captions]
    if len(kept) < len(files):
        first = next(name for name in files if name not in captions)
        what = f"{len(files) - len(kept):,} pictures have no caption (first: {first})"
        if strict:
            raise StudioError(f"{tree.path}: {what}.", fix="Add them to the metadata, or leave --strict out.")
        notes.append(f"{what}: left out")
    return kept


def _read_captions(tree: FileTree, root: str) -> tuple[dict[str, str] | None, list[str]]:
    """Captions by picture, or None where no metadata has texts; and notes on what is not used of it."""
    captions: dict[str, str] = {}
    notes: list[str] = []
    texts = False
    for name in tree.files:
        if posixpath.basename(name) not in METADATA or not name.startswith(root):
            continue
        rows = read_rows(tree, name)
        key = next((k for k in _TEXT_FIELDS if any(k in row for _, row in rows)), None)
        if key is None:
            notes.append(f"{name}: not used, as its rows have none of the fields {', '.join(_TEXT_FIELDS)}")
            continue
        texts = True
        absent: list[str] = []
        repeated = 0
        for number, row in rows:
            file, text = row.get("file_name"), row.get(key)
            place = f"{tree.path}: {name}: line {number}"
            if not isinstance(file, str) or not file:
                raise StudioError(f"{place}: has no 'file_name'.", fix="Name the picture there.")
            target = inside(posixpath.dirname(name), file)
            if target is None:
                raise StudioError(f"{place}: '{show_path(file)}' leads out of the data set.", fix="Correct the name.")
            if target not in tree.known:
                absent.append(file)
                continue
            if text is None or text == "":
                continue
            if not isinstance(text, str):
                raise StudioError(f"{place}: '{key}' must be a string.", fix="Correct the line.")
            repeated += target in captions
            captions[target] = " ".join(text.split())
        if absent:
            rows_are = "row names a file that is" if len(absent) == 1 else "rows name files that are"
            notes.append(f"{name}: {len(absent):,} {rows_are} not there (first: {show_path(absent[0])})")
        if repeated:
            notes.append(f"{name}: {repeated:,} pictures are named again: the last caption of each counts")
    return (captions if texts else None), notes
