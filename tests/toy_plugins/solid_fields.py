"""Fields in closed form for the tests of exported geometry: a ball on nothing, with and without a density."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.plugin import Field, PluginConfig, SceneInfo
from studio.scene import Scene
from studio.scene.scene import Frame

CENTRE = torch.tensor([0.1, -0.05, 0.15])
RADIUS = 0.4


class ShownBall(Field):
    """A ball whose colour tells where on it one is; known by its renders only."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity")

    def __init__(self, opacity: float = 1.0) -> None:
        super().__init__(PluginConfig(), SceneInfo())
        self.level = opacity
        self.renders = 0

    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.renders += 1
        rays = cameras.rays()
        origins = rays.origins - CENTRE
        along = -(origins * rays.directions).sum(-1)
        inside = RADIUS**2 - (origins + along[..., None] * rays.directions).square().sum(-1)
        hit = (inside > 0).float()[..., None] * self.level
        distance = along - inside.clamp(min=0).sqrt()
        found = {
            "rgb": color_at(rays.at(distance)),
            "depth": (distance * rays.depth_scale)[..., None] * (hit > 0),
            "opacity": hit,
        }
        return {name: found[name] for name in outputs}


class DenseBall(ShownBall):
    """The same with a density that rises steadily inwards: 50 at a hundredth below the surface."""

    def density(self, points: Tensor) -> Tensor:
        return self.level * 5000 * (RADIUS - (points - CENTRE).norm(dim=-1)).clamp(min=0)


def color_at(points: Tensor) -> Tensor:
    return ((points - CENTRE) / RADIUS + 1) / 2


def ring(count: int = 14, distance: float = 2.0, size: int = 96) -> Cameras:
    """Cameras all around the ball, above and below."""
    angle = torch.arange(count) * 2.4
    height = torch.linspace(-0.9, 0.9, count)
    across = (1 - height**2).sqrt()
    eyes = distance * torch.stack([across * angle.cos(), across * angle.sin(), height], dim=-1)
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.make(poses, width=size, height=size, fx=1.2 * size)


def scene_of(cameras: Cameras, input_from_scene: Tensor, *, bounds: Tensor | None) -> Scene:
    frames = tuple(Frame(f"{i}.png", Path(f"{i}.png"), camera, "train") for i, camera in enumerate(cameras))
    return Scene(
        "ball", Path("ball"), "test", frames, bounds=bounds, scene_from_input=torch.linalg.inv(input_from_scene)
    )
