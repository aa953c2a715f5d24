"""What a data set is to the engine, and opening one by its path or name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Protocol

from torch import Tensor

from studio.datasets.held_out import Split, check_split
from studio.datasets.pictures import ColorMode, load_pictures
from studio.datasets.side_files import PICTURE_SUFFIXES
from studio.datasets.text import TEXT_SUFFIXES, TextDataset, load_text, only_text_in
from studio.errors import StudioError
from studio.reading.files import is_folder, open_regular, show_path
from studio.reading.neighbours import meant

_KNOWN = "Give a folder or .zip of pictures, idx files (MNIST), a .npz or text file, toy:swiss-roll, or shapes:64."


class Dataset(Protocol):
    """One split of an indexed set of equal-shaped samples."""

    @property
    def name(self) -> str: ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(d,) for points, (c, h, w) for pictures, () for text."""
        ...

    @property
    def num_classes(self) -> int | None: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def has_captions(self) -> bool: ...

    @property
    def captions(self) -> Sequence[str]:
        """The captions of all samples, in order; empty where there are none."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how the data was read, a line each."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        """Samples (b, *sample_shape) float32 (pictures in [0, 1]), and their captions, labels (b,) int64, or None.

        Raises:
            StudioError: The data set is text, which has no such samples.
        """
        ...


def is_generated(path: str | Path) -> bool:
    """Whether a name stands for data that the studio makes itself, instead of a file or folder."""
    return str(path).startswith(("toy:", "shapes:"))


def load_dataset(
    path: str | Path,
    *,
    split: Split = "train",
    image_size: int | None = None,
    color: ColorMode = "auto",
    lines: bool | None = None,
    strict: bool = False,
    samples: int | None = None,
) -> Dataset:
    """Open one split of a data set.

    The splits are disjoint. Where the data has no test part of its own, a tenth is held out in a fixed permutation (of
    one long text: the last tenth).

    Args:
        path: ``toy:NAME`` (swiss-roll, moons, gaussians), ``shapes:SIZE`` (captioned pictures of coloured primitives),
            a folder or .zip of pictures, a folder of idx files or one of them, a .npz archive, or a text file.
        split: 'train' or 'test'.
        image_size: Pictures in folders: side of the square that they are cropped and resized to.
        color: Pictures in folders: 'rgb', 'grey', or 'auto' (grey where all are).
        lines: Text: whether each line is a sample; None decides by the text itself and says so in the notes.
        strict: Raise at damaged pictures, missing captions and empty classes, instead of leaving them out with a note.
        samples: Generated data: how many training samples there are.

    Raises:
        StudioError: Nothing that the studio can read is there, or an option that does not fit the data.
    """
    check_split(split)
    text = str(path)
    given = {
        "image_size": image_size is not None,
        "color": color != "auto",
        "lines": lines is not None,
        "samples": samples is not None,
    }

    def only(*fitting: str) -> None:
        for name, is_given in given.items():
            if is_given and name not in fitting:
                raise StudioError(f"{path}: --{name.replace('_', '-')} does not fit this data.", fix="Leave it out.")

    if text.startswith("toy:"):
        from studio.datasets.toy2d import toy_dataset

        only("samples")
        # One point in ten is held out.
        count = 10_000 if samples is None else samples + samples // 9 + 1
        return toy_dataset(text.removeprefix("toy:"), count).part(split, text)
    if text.startswith("shapes:"):
        from studio.datasets.shapes import load_shapes

        only("samples")
        return load_shapes(text, split, samples=samples)
    where = Path(path).expanduser()
    if not is_folder(where):
        if not os.path.lexists(where):
            raise StudioError(f"{show_path(path)}: there is no such file or folder.", fix=meant(where, _KNOWN))
        open_regular(where).close()  # raises at pipes, devices, and what may not be read
    from studio.datasets.idx import find_idx_files, load_idx, looks_like_idx

    if is_folder(where):
        if find_idx_files(where):
            only()
            return load_idx(where, split)
        if (file := only_text_in(where)) is not None:
            only("lines")
            return load_text(file, split, lines)
        only("image_size", "color")
        return load_pictures(where, split, image_size=image_size, color=color, strict=strict)
    if where.suffix == ".npz":
        from studio.datasets.npz import read_npz

        only()
        return read_npz(where, split)
    if where.suffix == ".zip":
        only("image_size", "color")
        return load_pictures(where, split, image_size=image_size, color=color, strict=strict)
    if looks_like_idx(where) or "idx" in where.name:
        only()
        return load_idx(where, split)
    if where.suffix in TEXT_SUFFIXES:
        only("lines")
        return load_text(where, split, lines)
    raise StudioError(f"{path}: not a data set that the studio knows.", fix=_KNOWN)


def describe_dataset(dataset: Dataset) -> str:
    """One line: how much of what there is."""
    if isinstance(dataset, TextDataset):
        what = f"{len(dataset):,} lines" if dataset.lines else "one document"
        return f"{what}, {dataset.characters:,} characters ({dataset.name})"
    shape = "x".join(map(str, dataset.sample_shape))
    classes = (
        f", {dataset.num_classes} classes" if dataset.num_classes else ", captions" if dataset.has_captions else ""
    )
    return f"{len(dataset):,} samples of shape {shape}{classes} ({dataset.name})"


def holds_samples(folder: Path) -> bool:
    """Whether a folder looks like a data set: it holds pictures, idx files, or a single text."""
    names = (PurePath(name) for _, _, files in os.walk(folder) for name in files)
    if any(name.suffix.lower() in PICTURE_SUFFIXES or "idx" in name.name for name in names):
        return True
    return only_text_in(folder) is not None
