"""NumPy archives as data sets: 'x' (n, ...), and optionally labels 'y' (n,) or 'captions' (n,), 'x_test', 'y_test'."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.datasets.arrays import ArrayDataset
from studio.datasets.held_out import Split
from studio.errors import StudioError


def read_npz(path: Path, split: Split) -> ArrayDataset:
    """Read a split: of arrays with '_test' behind their names where there are any, else a tenth is held out.

    uint8 pictures (n, h, w) or (n, h, w, c) become (n, c, h, w); everything else is taken as it is.

    Raises:
        StudioError: Damaged file, missing 'x', a non-finite value, or labels that do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, MemoryError) as error:
        raise StudioError(
            f"{path}: cannot be read as a NumPy archive ({error}).", fix="Save it with numpy.savez(path, x=samples)."
        ) from error
    if "x" not in arrays:
        raise StudioError(
            f"{path}: has no array 'x' (arrays: {', '.join(arrays) or 'none'}).", fix="Name the samples 'x'."
        )
    whole = _dataset(path, arrays, "")
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
    if x.ndim < 2 or len(x) == 0 or x.dtype.kind not in "fiu":
        raise StudioError(
            f"{path}: x{suffix} has shape {x.shape} and type {x.dtype}.",
            fix="It must be a non-empty numeric array (n, ...).",
        )
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        samples = torch.from_numpy(np.ascontiguousarray((x if x.ndim == 4 else x[..., None]).transpose(0, 3, 1, 2)))
    else:
        samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
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
