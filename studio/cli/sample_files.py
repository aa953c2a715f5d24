"""Samples on disk: a grid, a folder, a text, an archive of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from studio.errors import StudioError
from studio.export.pictures import caption, save_picture, to_uint8
from studio.files import atomic_write
from studio.training.previews import as_pictures, labelled_grid, scatter

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


def save_samples(
    path: Path, samples: Tensor | list[str], labels: Sequence[str] | None, classes: Sequence[int] | None
) -> None:
    """Write samples in the form that suits the ending.

    Args:
        path: .png or .jpg: a labelled grid (points: a plot); .npz: 'x' (pictures: uint8 (n, h, w, c)) with 'y' or
            'captions', as `studio train` reads it; .txt: a line a sample; no ending: a folder of pictures.
        samples: Pictures (n, c, h, w), points (n, d), or texts.
        labels: One each.
        classes: Class numbers, one each.

    Raises:
        StudioError: An ending that does not suit the samples.
    """
    suffix = path.suffix.lower()
    if isinstance(samples, list):
        if suffix != ".txt":
            raise StudioError(f"{path}: texts are saved as .txt.", fix="Choose that ending.")
        separator = "\n" if all("\n" not in text for text in samples) else "\n\n----\n\n"
        with atomic_write(path, "w") as file:
            file.write(separator.join(samples) + "\n")
    elif suffix == ".npz":
        arrays: dict[str, Any] = {"x": to_uint8(samples.movedim(1, -1)) if samples.ndim == 4 else samples.numpy()}
        if classes is not None:
            arrays["y"] = np.asarray(classes, dtype=np.int64)
        elif labels is not None:
            arrays["captions"] = np.asarray(labels)
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)
    elif samples.ndim == 4 and suffix in PICTURE_SUFFIXES:
        save_picture(path, labelled_grid(samples, labels))
    elif samples.ndim == 4 and suffix == "":
        pictures = as_pictures(samples)
        for i, picture in enumerate(pictures):
            save_picture(path / f"{i:05d}.png", picture)
        if labels is not None:
            with atomic_write(path / "labels.txt", "w") as file:
                file.writelines(f"{i:05d}.png\t{label}\n" for i, label in enumerate(labels))
    elif samples.ndim == 2 and samples.shape[1] >= 2 and suffix in PICTURE_SUFFIXES:
        save_picture(
            path, caption(scatter(samples[:, :2], samples[:0, :2], frame=samples[:, :2]), f"{len(samples):,} samples")
        )
    elif samples.ndim == 2 and suffix == ".txt":
        with atomic_write(path, "w") as file:
            file.writelines(" ".join(f"{value:.6g}" for value in row) + "\n" for row in samples.tolist())
    else:
        kind = "pictures are saved as .png, .jpg, .npz, or into a folder (no ending)"
        points = "points are saved as .png (a plot), .npz or .txt"
        raise StudioError(f"{path}: {kind if samples.ndim == 4 else points}.", fix="Choose one of these.")
