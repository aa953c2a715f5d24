"""Two tiny real plugins, written only against the public contract, that train in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.plugin import (
    DataInfo,
    Field,
    Generator,
    PluginConfig,
    RayBatch,
    RayRequest,
    SampleBatch,
    SampleRequest,
    SceneInfo,
    TrainingContext,
)


@dataclass
class RayConfig(PluginConfig):
    """A light field."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {"hidden": 8, "steps": 10}}

    steps: int = 60
    """Training steps."""
    hidden: int = 32
    """Width of the network."""
    lr: float = 5e-3
    """Learning rate."""
    explode_at: int | None = None
    """Step whose loss is made NaN, to test the guard."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity."""


class RayField(Field):
    """Colour as a function of the ray: no geometry, but a picture one recognises."""

    config: RayConfig
    output_names: ClassVar[tuple[str, ...]] = ("rgb",)
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole", "opencv", "fisheye", "equirectangular", "orthographic")

    def __init__(self, config: RayConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        nonlinear = nn.ReLU if config.activation == "relu" else nn.Tanh
        self.mlp = nn.Sequential(nn.Linear(6, config.hidden), nonlinear(), nn.Linear(config.hidden, 3))

    def setup_training(self, context: TrainingContext) -> None:
        self.optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr)

    def batch_request(self, step: int) -> RayRequest:
        return RayRequest(256)

    def training_step(self, batch: RayBatch, step: int) -> dict[str, Tensor]:
        color = torch.tensor(self.scene_info.background or (0.0, 0.0, 0.0), device=self.device)
        target = batch.rgb * batch.alpha + color * (1 - batch.alpha)
        # A draw from the global stream: resume must carry that too.
        jitter = 1e-3 * torch.randn_like(batch.directions)
        loss = (self._color(batch.origins, batch.directions + jitter) - target).square().mean()
        if step == self.config.explode_at:
            loss = loss * float("nan")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach(), "psnr": -10 * loss.detach().log10()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state["optimizer"]))

    def _color(self, origins: Tensor, directions: Tensor) -> Tensor:
        return torch.sigmoid(self.mlp(torch.cat([origins, directions], dim=-1)))

    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            rays = cameras.rays()
            return {"rgb": self._color(rays.origins, rays.directions)}


@dataclass
class GaussConfig(PluginConfig):
    """A full-covariance Gaussian."""

    steps: int = 50
    lr: float = 0.05
    """Learning rate."""


class GaussGenerator(Generator):
    """x = mean + factor @ z."""

    config: GaussConfig

    def __init__(self, config: GaussConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        (d,) = data_info.sample_shape
        self.mean = nn.Parameter(torch.zeros(d))
        self.factor = nn.Parameter(torch.eye(d))

    def setup_training(self, context: TrainingContext) -> None:
        self.optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr)

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(128)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        loss = -self.log_likelihood(batch.x).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(dict(state["optimizer"]))

    def _distribution(self) -> torch.distributions.MultivariateNormal:
        factor = self.factor.tril()
        return torch.distributions.MultivariateNormal(
            self.mean, covariance_matrix=factor @ factor.T + 1e-4 * torch.eye(len(factor))
        )

    def log_likelihood(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return self._distribution().log_prob(x)

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            z = torch.randn(n, len(self.mean), generator=generator)
            return self.mean + z @ torch.linalg.cholesky(self._distribution().covariance_matrix).T
