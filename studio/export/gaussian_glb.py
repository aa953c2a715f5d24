"""Gaussian splats as binary glTF with the extension KHR_gaussian_splatting, lossless up to degree 3.

Viewers that do not know the extension show the centres as coloured points. glTF has +Y up, where splat PLY files and
this package lie in right-down-front: what is written is turned by half a circle about x, as SPZ is.
https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting (release candidate, 2026).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.glb import POINTS, GlbAttribute, glb_floats, linear_rgb, write_glb
from studio.export.splat_packing import unit_quaternions
from studio.export.spz import half_turned

MAX_GLB_DEGREE = 3
_EXTENSION = "KHR_gaussian_splatting"


def write_gaussian_glb(path: str | os.PathLike[str], cloud: GaussianCloud) -> None:
    """Write one node with one point primitive, the same way up as an SPZ of the same Gaussians.

    Degree 4 is cut to 3, the highest of the extension. Infinite logits and logarithms become what they stand for.

    Raises:
        StudioError: The file cannot be written, no Gaussians are left, or the file would be above 4 GiB.
    """
    if len(cloud) == 0:
        raise StudioError(f"{path}: glTF has no empty meshes, and no Gaussian is left.", fix="Keep at least one.")
    write_glb(
        path,
        list(_attributes(half_turned(cloud.truncated(min(cloud.sh_degree, MAX_GLB_DEGREE))))),
        mode=POINTS,
        primitive={"extensions": {_EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}},
        document={"extensionsUsed": [_EXTENSION]},
        fix="Reduce it with --max-gaussians or --sh-degree.",
    )


def _attributes(cloud: GaussianCloud) -> Iterator[GlbAttribute]:
    opacities = cloud.logit_opacities.detach().cpu().double().sigmoid().numpy()
    # The fallback's colours are linear, those of the Gaussians sRGB.
    linear = linear_rgb(cloud.base_colors.detach().cpu().double().numpy())
    fallback = np.concatenate([linear, opacities[:, None]], axis=1)
    yield GlbAttribute("POSITION", glb_floats(cloud.means.detach().cpu().numpy()))
    yield GlbAttribute("COLOR_0", np.round(fallback * 65535).astype("<u2"))
    yield GlbAttribute(f"{_EXTENSION}:ROTATION", glb_floats(np.roll(unit_quaternions(cloud.quats), -1, axis=1)))
    yield GlbAttribute(f"{_EXTENSION}:SCALE", glb_floats(cloud.log_scales.detach().cpu().double().exp().numpy()))
    yield GlbAttribute(f"{_EXTENSION}:OPACITY", glb_floats(opacities))
    sh = cloud.sh.detach().cpu().numpy()
    for degree in range(cloud.sh_degree + 1):
        for order in range(2 * degree + 1):
            name = f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_{order}"
            yield GlbAttribute(name, glb_floats(sh[:, degree * degree + order]))
