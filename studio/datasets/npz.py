"""NumPy archives as data sets: 'x' (n, ...), and optionally labels 'y' (n,) or 'captions' (n,), 'x_test', 'y_test'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.datasets.arrays import ArrayDataset
from studio.datasets.held_out import Split
from studio.errors import StudioError
from studio.reading.arrays import ArrayArchive
from studio.reading.files import show_path
from studio.reading.limits import MOST_CLASSES

_NAMES = ("x", "y", "captions")


def read_npz(path: Path, split: Split) -> ArrayDataset:
    """Read a split: of arrays with '_test' behind their names where there are any, else a tenth is held out.

    uint8 pictures (n, h, w) or (n, h, w, c) become (n, c, h, w); everything else is taken as it is.

    Raises:
        StudioError: Damaged file, missing 'x', a non-finite value, or labels that do not fit.
    """
    with ArrayArchive(path, fix="Save it with numpy.savez(path, x=samples).") as archive:
        arrays = {key: archive[key] for key in archive if key.removesuffix("_test") in _NAMES}
        unused = [show_path(key) for key in archive if key not in arrays]
    if "x" not in arrays:
        raise StudioError(
            f"{path}: has no array 'x' (arrays: {', '.join([*arrays, *unused][:8]) or 'none'}).",
            fix="Name the samples 'x'.",
        )
    whole = _dataset(path, arrays, "")
    if unused:
        note = f"arrays that are not used: {', '.join(unused[:8])}{', ...' if len(unused) > 8 else ''}"
        whole = replace(whole, notes=(*whole.notes, note))
    if "x_test" not in arrays:
        return whole.part(split, str(path))
    held_out = _dataset(path, arrays, "_test")
    if held_out.sample_shape != whole.sample_shape or (held_out.y is None) != (whole.y is None):
        raise StudioError(
            f"{path}: x_test has samples of shape {held_out.sample_shape}, x of {whole.sample_shape}, or only one of "
            "them has labels.",
            fix="Make both alike.",
        )
    return held_out if split == "test" else whole


def _dataset(path: Path, arrays: dict[str, Any], suffix: str) -> ArrayDataset:
    x = arrays["x" + suffix]
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "fiu":
        raise StudioError(
            f"{path}: x{suffix} has shape {x.shape} and type {x.dtype}.",
            fix="It must be a non-empty numeric array (n, ...).",
        )
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        samples = torch.from_numpy(np.array((x if x.ndim == 4 else x[..., None]).transpose(0, 3, 1, 2), order="C"))
    else:
        with np.errstate(over="ignore"):
            samples = torch.from_numpy(np.array(x, dtype=np.float32, order="C"))
        if not torch.isfinite(samples).all():
            raise StudioError(f"{path}: x{suffix} holds NaN or infinite values.", fix="Remove those samples.")
    labels = None
    if "y" + suffix in arrays:
        y = arrays["y" + suffix]
        if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
            raise StudioError(
                f"{path}: y{suffix} has shape {y.shape} and type {y.dtype}.",
                fix=f"It must hold {len(x)} integers >= 0.",
            )
        if y.max() >= MOST_CLASSES:
            raise StudioError(
                f"{path}: y{suffix} holds the label {y.max():,}; labels reach from 0 to {MOST_CLASSES - 1:,}.",
                fix="Number the classes 0, 1, 2 and so on.",
            )
        labels = torch.from_numpy(y.astype(np.int64))
    captions: tuple[str, ...] = ()
    if "captions" + suffix in arrays:
        given = arrays["captions" + suffix]
        if given.shape != (len(x),) or given.dtype.kind != "U":
            raise StudioError(
                f"{path}: captions{suffix} has shape {given.shape} and type {given.dtype}.",
                fix=f"It must hold {len(x)} strings.",
            )
        captions, labels = tuple(str(text) for text in given), None
    return ArrayDataset(path.stem, samples, labels, captions=captions)
