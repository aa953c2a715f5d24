"""A small scene that needs no training: coloured Gaussians, and photos that are renders of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from studio.cameras import Cameras, orbit
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.pictures import save_picture
from studio.plugin import Field, PluginConfig, SceneInfo
from studio.scene import Frame, Scene
from studio.viewer.subject import Subject, field_of_gaussians

SIZE = (120, 80)


class SphereField(Field):
    """The unit sphere, drawn ray by ray: red where x < 0, else blue; of which only renders are known."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity", "normals")

    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        rays = cameras.rays()
        along = (rays.origins * rays.directions).sum(-1)
        root = along.square() - rays.origins.square().sum(-1) + 1
        hit = (root > 0)[..., None]
        distance = -along - root.clamp(min=0).sqrt()
        points = rays.at(distance)
        colors = torch.where(points[..., :1] < 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
        behind = torch.zeros(3) if background is None else background
        drawn = {
            "rgb": torch.where(hit, colors, behind),
            "depth": torch.where(hit, (distance * rays.depth_scale)[..., None], torch.zeros(1)),
            "opacity": hit.float(),
            "normals": torch.where(hit, points, torch.zeros(3)),
        }
        return {name: drawn[name] for name in outputs}


def sphere_subject() -> Subject:
    """A scene without photos whose field is `SphereField`."""
    return Subject("sphere", field=SphereField(PluginConfig(), SceneInfo()))


BACKGROUND = (1.0, 1.0, 1.0)


def ball_cloud(count: int = 400, seed: int = 0) -> GaussianCloud:
    """Opaque Gaussians in three balls: red at -x, green at the origin, blue at +x."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % 3
    means = 0.12 * torch.randn(count, 3, generator=generator) + torch.stack(
        [0.7 * (which - 1.0), which * 0.0, which * 0.0], 1
    )
    colors = torch.eye(3)[which] * 0.8 + 0.1
    return GaussianCloud(
        means=means,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), math.log(0.06)),
        logit_opacities=torch.full((count,), 4.0),
        sh=((colors - 0.5) / SH_C0)[:, None],
    )


def ball_cameras(count: int = 4) -> Cameras:
    lens = Cameras.from_fov(torch.eye(4), width=SIZE[0], height=SIZE[1], fov_y=0.9)
    return orbit(lens, count, center=(0.0, 0.0, 0.0), radius=2.0, elevation=0.3, start=(0.0, -1.0, 0.0))


def ball_subject(folder: Path, *, scale: float = 2.0, photo_gain: float = 1.0) -> Subject:
    """The balls with four photos of them, `photo_gain` times as bright.

    The frame of the input is `scale` times as large, and moved.
    """
    cloud = ball_cloud()
    field = field_of_gaussians(cloud, device="cpu")
    frames = []
    for index, camera in enumerate(ball_cameras()):
        path = folder / f"photo_{index}.png"
        rgb = field.render(camera, ("rgb",), background=torch.tensor(BACKGROUND))["rgb"]
        save_picture(path, photo_gain * rgb)
        frames.append(Frame(path.name, path, camera, "train" if index else "test"))
    input_from_scene = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    input_from_scene[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    scene = Scene("balls", folder, "transforms", tuple(frames), scene_from_input=torch.linalg.inv(input_from_scene))
    return Subject(
        title="balls",
        field=field,
        cloud=cloud,
        scene=scene,
        background=BACKGROUND,
        input_from_scene=input_from_scene,
        folder=folder / "run",
    )
