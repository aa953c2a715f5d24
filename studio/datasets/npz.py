"""NumPy archives as data sets: array 'x' (n, ...) and optional integer labels 'y' (n,)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from studio.datasets.arrays import ArrayDataset
from studio.errors import StudioError


def read_npz(path: Path) -> ArrayDataset:
    """Read ``x`` (uint8 pictures become float32 in [0, 1], (n, h, w[, c]) becomes (n, c, h, w)) and ``y``.

    Raises:
        StudioError: Damaged file, missing 'x', a non-finite value, or labels that do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise StudioError(
            f"{path}: cannot be read as a NumPy archive ({error}).", fix="Save it with numpy.savez(path, x=samples)."
        ) from error
    if "x" not in arrays:
        raise StudioError(
            f"{path}: has no array 'x' (arrays: {', '.join(arrays) or 'none'}).", fix="Name the samples 'x'."
        )
    x = arrays["x"]
    if x.ndim < 2 or len(x) == 0 or x.dtype.kind not in "fiu":
        raise StudioError(
            f"{path}: x has shape {x.shape} and type {x.dtype}.", fix="It must be a non-empty numeric array (n, ...)."
        )
    if x.dtype == np.uint8:
        x = (x if x.ndim == 4 else x[..., None]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if not torch.isfinite(samples).all():
        raise StudioError(f"{path}: x holds NaN or infinite values.", fix="Remove those samples.")
    labels = None
    if "y" in arrays:
        y = arrays["y"]
        if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
            raise StudioError(
                f"{path}: y has shape {y.shape} and type {y.dtype}.", fix=f"It must hold {len(x)} integers >= 0."
            )
        labels = torch.from_numpy(y.astype(np.int64))
    return ArrayDataset(path.stem, samples, labels)
