"""The `.splat` format of web viewers: 32 bytes a Gaussian, without view-dependent colour.

Layout, little endian: centre 3 x float32, standard deviation 3 x float32, red green blue opacity 4 x uint8,
quaternion (w, x, y, z) 4 x uint8 as 128 + 128 q.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from studio.errors import StudioError
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_packing import logits_of_bytes, opacity_bytes, read_whole, unit_quaternions
from studio.files import atomic_write

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def write_splat(path: str | os.PathLike[str], cloud: GaussianCloud) -> None:
    """Write the constant colour, largest and most opaque Gaussians first, so that viewers can stream the file.

    Lossy: colours, opacities and orientations have 8 bits, and spherical harmonics above degree 0 are left out.

    Raises:
        StudioError: The file cannot be written.
    """
    scales = cloud.log_scales.detach().cpu().double().exp()
    opacities = cloud.logit_opacities.detach().cpu().double().sigmoid()
    order = (scales.prod(dim=1) * opacities).argsort(descending=True, stable=True)
    cloud, scales = cloud.select(order), scales[order]
    records = np.zeros(len(cloud), _RECORD)
    records["mean"] = cloud.means.detach().cpu().numpy()
    records["scale"] = scales.numpy()
    records["rgba"][:, :3] = (cloud.base_colors.detach().cpu().double() * 255).round().numpy()
    records["rgba"][:, 3] = opacity_bytes(cloud)
    records["quat"] = np.clip(np.round(unit_quaternions(cloud.quats) * 128 + 128), 0, 255)
    with atomic_write(path) as file:
        file.write(records.tobytes())


def read_splat(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read a `.splat` file as Gaussians of degree 0.

    Fully transparent and fully opaque Gaussians get the opacity half a step from the end, whose logit is finite; a
    quaternion of length 0 counts as no turn.

    Raises:
        StudioError: Unreadable, not a multiple of 32 bytes, or with values that are not numbers.
    """
    raw = read_whole(path)
    if not raw or len(raw) % _RECORD.itemsize:
        raise StudioError(
            f"{path}: has {len(raw):,} bytes; a .splat file has {_RECORD.itemsize} for each Gaussian.",
            fix="It is truncated or of another format: fetch or export it again.",
        )
    records = np.frombuffer(raw, _RECORD)
    for name in ("mean", "scale"):
        bad = ~np.isfinite(records[name]).all(axis=1) | ((records[name] < 0).any(axis=1) & (name == "scale"))
        if bad.any():
            raise StudioError(
                f"{path}: the field '{name}' is not valid for {int(bad.sum()):,} of {len(records):,} Gaussians "
                f"(first: {int(bad.argmax())}).",
                fix="The file is damaged or of another format.",
            )
    quats = (records["quat"].astype(np.float32) - 128) / 128
    quats[(quats == 0).all(axis=1)] = (1, 0, 0, 0)
    return GaussianCloud(
        means=torch.from_numpy(records["mean"].copy()),
        quats=torch.from_numpy(quats),
        log_scales=torch.from_numpy(np.log(np.maximum(records["scale"], _SMALLEST_SCALE))),
        logit_opacities=logits_of_bytes(records["rgba"][:, 3]),
        sh=torch.from_numpy((records["rgba"][:, None, :3] / 255.0 - 0.5) / SH_C0).float(),
    )
