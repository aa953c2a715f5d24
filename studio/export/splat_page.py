"""Gaussian splats as one web page that needs nothing else: data, renderer and controls in a single file.

The page draws what the studio's rasteriser draws (same projection, dilation, thresholds and order), with WebGL 2. Its
content security policy forbids all requests, and lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_page_data import TABLE_COLUMNS, pack_gaussians
from studio.files import atomic_write

_SCRIPTS = ("order.js", "shaders.js", "data.js", "drawing.js", "camera.js", "page.js")
"""Joined into one; later ones use what earlier ones define."""
_LARGEST_TEXT = 480 << 20
"""Characters of the data; browsers have no strings much longer."""
_FIRST_SIZE = (1280, 800)
_FOV, _DISTANCE = 0.9, 2.7
"""Of the first view of a file's Gaussians: radians, and times the radius of nearly all of them."""
_UNKNOWN_BACKGROUND = (0.15, 0.15, 0.15)


@dataclass(frozen=True, eq=False)
class PageView:
    """How the page shows the Gaussians at first, and how they were drawn in training."""

    camera: Cameras
    """Batch shape (), pinhole, in the frame of the Gaussians. A window of another aspect shows all of its picture."""
    up: Float[Tensor, " 3"]
    """Axis that dragging turns the view around, pointing up."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """sRGB."""
    eps2d: float = 0.3
    """Dilation on screen, pixels squared."""
    antialiased: bool = False
    """Keep the total opacity of what is dilated (Mip-Splatting)."""
    near: float = 0.01
    """Nearest depth drawn."""
    title: str = "Gaussian splats"
    """Any text."""

    def __post_init__(self) -> None:
        if self.camera.shape != () or self.camera.model != "pinhole":
            raise ValueError(f"camera must be one pinhole, got {tuple(self.camera.shape)} of {self.camera.model}")
        if self.up.shape != (3,) or not bool(self.up.norm() > 0):
            raise ValueError(f"up must be a direction (3,), got {self.up}")


def view_of_cloud(cloud: GaussianCloud, *, title: str = "Gaussian splats") -> PageView:
    """A view of nearly all Gaussians from the side that captures usually begin on: -z, with -y up, as COLMAP's
    cameras and the splats made from them have it.
    """
    means = cloud.means.detach().cpu().double()
    center = means.median(dim=0).values
    distances = (means - center).norm(dim=1)
    radius = float(distances.kthvalue(max(int(0.9 * len(means)), 1)).values.clamp(min=1e-3))
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    eye = center + _DISTANCE * radius * torch.tensor([0.0, -0.2, -0.98], dtype=torch.float64)
    width, height = _FIRST_SIZE
    camera = Cameras.from_fov(look_at(eye, center, up), width=width, height=height, fov_y=_FOV)
    return PageView(
        camera,
        up,
        _UNKNOWN_BACKGROUND,
        antialiased=cloud.antialiased,
        near=min(0.01, 0.01 * radius),
        title=title,
    )


def write_splat_page(path: str | os.PathLike[str], cloud: GaussianCloud, view: PageView | None = None) -> None:
    """Write the page.

    Quantised: positions to 16 bits and the rest to 8 bits of the range in their neighbourhood, rotations to 10 bits a
    component; about 18 bytes a Gaussian of degree 0 and 62 of degree 3, before compression. Degree 4 is cut to 3.

    Args:
        path: *.html.
        cloud: At least one Gaussian.
        view: How it is seen first; default: `view_of_cloud`.

    Raises:
        StudioError: No Gaussian, more than a page can hold, or the file cannot be written.
    """
    if len(cloud) == 0:
        raise StudioError(f"{path}: no Gaussian is left to show.", fix="Keep at least one.")
    view = view or view_of_cloud(cloud, title=Path(path).stem)
    # Near the origin float32, which graphics processors compute in, has digits to spare.
    origin = cloud.means.detach().cpu().double().median(dim=0).values.numpy()
    packed = pack_gaussians(cloud, origin)
    text = base64.b64encode(packed.data).decode("ascii")
    if len(text) > _LARGEST_TEXT:
        raise StudioError(
            f"{path}: would hold {len(text) / 2**20:,.0f} MiB of data; browsers take up to {_LARGEST_TEXT >> 20} MiB.",
            fix="Reduce it with --max-gaussians or --sh-degree.",
        )
    facts = {"count": packed.count, "degree": packed.sh_degree, "columns": TABLE_COLUMNS, **_view_facts(view, origin)}
    style, script = _part("page.css"), "".join(map(_part, _SCRIPTS))
    document = _part("page.html").format(
        title=html.escape(view.title),
        count=f"{packed.count:,}",
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        facts=_json_in_html(facts),
        data=text,
    )
    with atomic_write(path, "w") as file:
        file.write(document)


def _view_facts(view: PageView, origin: np.ndarray) -> dict[str, Any]:
    camera = view.camera.to("cpu", torch.float64)
    pose = camera.camera_to_world.numpy()
    up = view.up.detach().cpu().double()
    return {
        # Columns: right, down, forward.
        "axes": pose[:3, :3].T.reshape(-1).tolist(),
        "eye": (pose[:3, 3] - origin).tolist(),
        "lens": [float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)],
        "size": list(camera.size),
        "up": (up / up.norm()).tolist(),
        "background": [min(max(float(value), 0.0), 1.0) for value in view.background],
        "eps2d": view.eps2d,
        "antialiased": view.antialiased,
        "near": view.near,
    }


def _part(name: str) -> str:
    return (resources.files("studio.export") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json_in_html(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, allow_nan=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
