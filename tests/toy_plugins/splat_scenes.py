"""Small sets of Gaussians, cameras that look at them, and photos of them rendered by the reference rasteriser."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.cameras import Cameras
from studio.scene import Photo
from studio.scene.scene import Frame
from studio_splat import rasterization
from studio_splat.engine import StepOptions
from studio_splat.schedule import LearningRates

Params = dict[str, Tensor]


def make_gaussians(n: int = 40, *, seed: int = 0, sh_degree: int = 3, size: float = 0.15) -> Params:
    """Gaussians before activation, in a ball of radius about 1 around the origin."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "means": 0.45 * normal(n, 3),
        "quats": normal(n, 4),
        "scales": math.log(size) + 0.3 * normal(n, 3),
        "opacities": 1.0 + normal(n),
        "sh0": normal(n, 1, 3),
        "shN": 0.2 * normal(n, (sh_degree + 1) ** 2 - 1, 3),
    }


def ring_poses(count: int, radius: float = 3.0) -> Tensor:
    """camera_to_world (count, 4, 4) float64 on a wavy ring around the origin, looking at it, world up +z."""
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for i in range(count):
        angle, height = 2 * math.pi * i / count, 0.8 * math.sin(4 * math.pi * i / count) + 0.4
        centre = torch.tensor([radius * math.cos(angle), radius * math.sin(angle), height], dtype=torch.float64)
        forward = -centre / centre.norm()
        right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        right = right / right.norm()
        poses[i, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
        poses[i, :3, 3] = centre
    return poses


def make_camera(
    pose: Tensor, width: int = 37, height: int = 29, model: str = "pinhole", focal: float | None = None
) -> Cameras:
    """A camera whose picture the ball of `make_gaussians` fills, with an off-centre principal point."""
    focal = (1.1 * width if model == "pinhole" else width / 2.6) if focal is None else focal
    return Cameras.make(
        pose, width=width, height=height, fx=focal, fy=1.05 * focal, cx=0.48 * width, cy=0.53 * height, model=model
    )


def make_photo(camera: Cameras, image: Tensor, mask: Tensor | None = None, name: str = "photo.png") -> Photo:
    return Photo(Frame(name, Path(name), camera, "train"), image, mask, camera)


def draw(params: Params, camera: Cameras, background: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Picture (h, w, 3) and opacity (h, w, 1) by the reference rasteriser in float64."""
    values = {name: value.double() for name, value in params.items()}
    width, height = camera.size
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2] = camera.fx, camera.fy, camera.cx, camera.cy
    images, alphas, _ = rasterization(
        values["means"],
        values["quats"],
        values["scales"].exp(),
        values["opacities"].sigmoid(),
        torch.cat([values["sh0"], values["shN"]], dim=1),
        camera.world_to_camera.double()[None],
        intrinsics[None],
        width,
        height,
        eps2d=0.1,
        sh_degree=math.isqrt(values["shN"].shape[1] + 1) - 1,
        backgrounds=None if background is None else background.double()[None],
        camera_model="ortho" if camera.model == "orthographic" else "pinhole",
        backend="reference",
    )
    return images[0], alphas[0]


def step_options(**changes: object) -> StepOptions:
    values = {
        "rates": LearningRates(means=2e-3, quats=4e-3, scales=1e-2, opacities=3e-2, sh0=1e-2, shN=1e-3),
        "sh_degree": 3,
        "ssim_weight": 0.2,
        "smooth_l1": 0.03,
        "opacity_reg": 0.0,
        "scale_reg": 0.0,
        "collect_stats": True,
    }
    return StepOptions(**{**values, **changes})  # type: ignore[arg-type]


def write_splat_scene(
    folder: Path, params: Params, *, photos: int = 12, size: int = 32, alpha: bool = True, offset: float = 0.0
) -> Path:
    """Photos of Gaussians as a nerfstudio transforms.json scene; every fourth one is a test photo.

    Args:
        offset: Shift of the whole scene along x in the files' own frame.
    """
    folder.mkdir(parents=True)
    frames, splits = [], {"train_filenames": [], "test_filenames": []}
    for i, pose in enumerate(ring_poses(photos)):
        camera = Cameras.make(pose, width=size, height=size, fx=1.2 * size)
        image, opacity = draw(params, camera)
        straight = torch.where(opacity > 1e-3, image / opacity.clamp(min=1e-3), 0)
        picture = torch.cat([straight, opacity], dim=-1) if alpha else image
        name = f"photo_{i:02d}.png"
        pixels = (picture.clamp(0, 1) * 255 + 0.5).floor().numpy().astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
        # OpenCV to OpenGL axes.
        matrix = pose @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
        matrix[0, 3] += offset
        frames.append({"file_path": name, "transform_matrix": matrix.tolist()})
        splits["test_filenames" if i % 4 == 0 else "train_filenames"].append(name)
    document = {
        "fl_x": 1.2 * size, "fl_y": 1.2 * size, "cx": size / 2, "cy": size / 2,
        "w": size, "h": size, "frames": frames, **splits,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder
