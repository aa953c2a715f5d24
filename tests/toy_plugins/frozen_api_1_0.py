"""Frozen: plugins as written for plugin API 1.0. The studio has to keep them working; never edit this."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import (
    DataInfo,
    Field,
    Generator,
    PhotoBatch,
    PhotoRequest,
    PluginConfig,
    SampleBatch,
    SampleOptions,
    SampleRequest,
    SceneInfo,
    TrainingContext,
)
from studio.scene import PhotoStore, Scene


@dataclass
class Start:
    """Where components begin."""

    spread: float = 0.5
    """Standard deviation."""


@dataclass
class MixtureConfig(PluginConfig):
    """A mixture of Gaussians."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"few": {"components": 3, "start": {"spread": 1.0}}}

    steps: int = 200
    """Training steps."""
    components: int = 6
    """Gaussians."""
    lr: float = 0.05
    """Learning rate."""
    decay: float | None = None
    """Weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam."""
    weights: Literal["equal", "learned"] = "learned"
    """Of the components."""
    start: Start = field(default_factory=Start)


@dataclass
class MixtureSampling(SampleOptions):
    """How samples are drawn."""

    temperature: float = 1.0
    """Times the standard deviations."""


class Mixture(Generator):
    """Gaussians with diagonal covariances."""

    config: MixtureConfig
    sample_options: ClassVar[type[SampleOptions]] = MixtureSampling
    likelihood_kind: ClassVar[str] = "exact"

    def __init__(self, config: MixtureConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        if len(data_info.sample_shape) != 1:
            raise StudioError("frozen-mixture learns points.", fix="Choose toy:moons or so.")
        (d,) = data_info.sample_shape
        self.means = nn.Parameter(torch.zeros(config.components, d))
        self.log_stds = nn.Parameter(torch.full((config.components, d), math.log(config.start.spread)))
        self.logits = nn.Parameter(torch.zeros(config.components), requires_grad=config.weights == "learned")
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        picked = torch.randint(len(dataset), (self.config.components,), generator=generator)
        x, _ = dataset.batch(picked.tolist())
        with torch.no_grad():
            self.means.copy_(x)

    def setup_training(self, context: TrainingContext) -> None:
        self.context = context
        decay = self.config.decay or 0.0
        self.optimizer = torch.optim.Adam(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.config.lr,
            betas=self.config.betas,
            weight_decay=decay,
        )

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(count=64)

    def training_step(self, batch: SampleBatch, step: int) -> Mapping[str, float | Tensor]:
        self.optimizer.param_groups[0]["lr"] = self.config.lr * (1 - 0.9 * self.context.progress(step))
        jitter = 0.01 * torch.randn(batch.x.shape, generator=self.context.generator).to(batch.x)
        loss = -self.log_likelihood(batch.x + jitter).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seen += len(batch.x)
        return {"loss": loss.detach(), "step": float(step)}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state["optimizer"]))

    def networks(self) -> dict[str, nn.Module]:
        return {"mixture": self}

    def status(self) -> dict[str, int | float | str]:
        return {"components": self.config.components}

    def log_likelihood(
        self, x: Tensor, condition: Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        normal = torch.distributions.Normal(self.means, self.log_stds.exp())
        each = normal.log_prob(x[:, None]).sum(dim=-1) + self.logits.log_softmax(dim=0)
        return each.logsumexp(dim=1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        chosen = MixtureSampling(**options)
        which = torch.multinomial(self.logits.softmax(dim=0), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        return self.means[which] + chosen.temperature * self.log_stds.exp()[which] * noise


@dataclass
class BallConfig(PluginConfig):
    """A soft ball."""

    steps: int = 100
    """Training steps."""
    samples: int = 32
    """Points along a ray."""


class Ball(Field):
    """Density falls off as a Gaussian from the centre of the scene; the colour is a linear function of the place."""

    config: BallConfig
    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity")
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole",)

    def __init__(self, config: BallConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        self.center = nn.Parameter(torch.zeros(3))
        self.log_radius = nn.Parameter(torch.tensor(math.log(0.3 * scene_info.camera_extent)))
        self.log_density = nn.Parameter(torch.tensor(1.0))
        self.color = nn.Linear(3, 3)

    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        if scene.points is not None:
            with torch.no_grad():
                self.center.copy_(scene.points.xyz.mean(dim=0))

    def setup_training(self, context: TrainingContext) -> None:
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.02)

    def batch_request(self, step: int) -> PhotoRequest:
        return PhotoRequest(count=1)

    def training_step(self, batch: PhotoBatch, step: int) -> Mapping[str, float | Tensor]:
        (photo,) = batch.photos
        background = torch.tensor(self.scene_info.background or (0.0, 0.0, 0.0))
        target = photo.composited(background).to(self.device)
        drawn = self._draw(photo.camera.to(self.device), background.to(self.device))
        loss = (drawn["rgb"] - target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach(), "psnr": -10 * loss.detach().log10()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state["optimizer"]))

    @torch.no_grad()
    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        behind = torch.zeros(3, device=self.device) if background is None else background
        drawn = [self._draw(camera, behind) for camera in cameras.reshape(-1)]
        return {
            name: torch.stack([d[name] for d in drawn]).reshape(*cameras.shape, *drawn[0][name].shape)
            for name in outputs
        }

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        return self._density(points)

    def export(self, format: str, path: Path, *, input_from_scene: Tensor) -> None:
        raise StudioError(f"frozen-ball does not write '{format}'.")

    def _density(self, points: Tensor) -> Tensor:
        away = (points - self.center).square().sum(dim=-1) / self.log_radius.exp().square()
        return (self.log_density - away).exp()

    def _draw(self, camera: Cameras, background: Tensor) -> dict[str, Tensor]:
        rays = camera.rays()
        middle = (self.center - rays.origins).mul(rays.directions).sum(dim=-1).detach()
        reach = 3 * self.log_radius.exp().detach()
        edges = middle[..., None] + reach * torch.linspace(-1, 1, self.config.samples + 1, device=self.device)
        edges = edges.clamp(min=0)
        t = (edges[..., 1:] + edges[..., :-1]) / 2
        points = rays.origins[..., None, :] + t[..., None] * rays.directions[..., None, :]
        thickness = self._density(points) * edges.diff(dim=-1)
        before = thickness.cumsum(dim=-1) - thickness
        weights = (-before).exp() * (1 - (-thickness).exp())
        opacity = weights.sum(dim=-1, keepdim=True)
        color = (weights[..., None] * self.color(points).sigmoid()).sum(dim=-2)
        depth = (weights * t).sum(dim=-1, keepdim=True) / opacity.clamp(min=1e-6)
        return {
            "rgb": color + (1 - opacity) * background,
            "depth": depth * rays.depth_scale[..., None],
            "opacity": opacity,
        }
