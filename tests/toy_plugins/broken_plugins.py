"""Plugins that each make one mistake, and the sound ones that they are made from."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from toy_generators import ByteGenerator, PixelGenerator, ToyConfig
from toy_plugins import GaussConfig, GaussGenerator

from studio.datasets import Dataset
from studio.plugin import DataInfo, PluginConfig, RayRequest, SampleOptions, SceneInfo, TrainingContext
from studio.templates.field.config import TemplateConfig as FogConfig
from studio.templates.field.model import TemplateField

ELSEWHERE = Path(__file__).parent / "written_by_a_broken_plugin.txt"

__all__ = ["FogConfig", "GaussConfig", "PictureConfig", "ToyConfig"]

PictureConfig = ToyConfig


# ---- configurations --------------------------------------------------------------------------------------------------
@dataclass
class ListConfig(PluginConfig):
    widths: list[int] | None = None


@dataclass
class NoDefaultConfig(PluginConfig):
    width: int = 3

    def __post_init__(self) -> None:
        self.width += 1


class UndecoratedConfig(PluginConfig):
    width: int = 3


@dataclass
class NotANumberConfig(PluginConfig):
    limit: float = float("nan")


@dataclass
class PresetConfig(PluginConfig):
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {"stepps": 3}}


# ---- training --------------------------------------------------------------------------------------------------------
class NoData(GaussGenerator):
    def __init__(self, config: GaussConfig, data_info: DataInfo) -> None:
        raise RuntimeError("not today")


class WrongRequest(GaussGenerator):
    def batch_request(self, step: int) -> Any:
        return RayRequest(8)


class AnotherObject(GaussGenerator):
    def to(self, *args: Any, **kwargs: Any) -> Any:
        return GaussGenerator(self.config, self.data_info)


class NeverSteps(GaussGenerator):
    def training_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        return {"loss": -self.log_likelihood(batch.x).mean().detach()}


class Ascends(GaussGenerator):
    def setup_training(self, context: TrainingContext) -> None:
        self.optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr, maximize=True)


class NotFinite(GaussGenerator):
    def training_step(self, batch: Any, step: int) -> dict[str, Any]:
        return {"loss": float("nan") if step == 4 else 1.0 - 0.01 * step}


class NoLoss(GaussGenerator):
    def training_step(self, batch: Any, step: int) -> dict[str, Any]:
        return {"nll": super().training_step(batch, step)["loss"]}


class LossOfEach(GaussGenerator):
    def training_step(self, batch: Any, step: int) -> dict[str, Any]:
        return {**super().training_step(batch, step), "each": torch.ones(3)}


class UnsavableState(GaussGenerator):
    def training_state(self) -> dict[str, Any]:
        return {"optimizer": {1, 2}}


class ForgetsItsData(GaussGenerator):
    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        self.shift = float(dataset.batch(range(8))[0].mean()) + 1

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n, condition, generator) + getattr(self, "shift", 0.0)


class ForgetsItsMoments(GaussGenerator):
    def training_state(self) -> dict[str, Any]:
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        pass


class LeavesATensorBehind(GaussGenerator):
    def __init__(self, config: GaussConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        self.scale = torch.ones(2)


class Telephones(GaussGenerator):
    def training_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        with contextlib.suppress(OSError):
            socket.create_connection(("example.org", 80), timeout=1).close()
        return super().training_step(batch, step)


class WritesElsewhere(GaussGenerator):
    def setup_training(self, context: TrainingContext) -> None:
        super().setup_training(context)
        ELSEWHERE.write_text("here I am")


class WritesIntoTheWorkingFolder(GaussGenerator):
    def setup_training(self, context: TrainingContext) -> None:
        super().setup_training(context)
        torch.save({}, "weights.pt")


# ---- samples ---------------------------------------------------------------------------------------------------------
class GlobalRandomness(GaussGenerator):
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n, condition, None) + torch.randn(n, 2)


class AlwaysTheSame(GaussGenerator):
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n, condition, torch.Generator().manual_seed(0))


class ExtraAxis(GaussGenerator):
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n, condition, generator)[:, None]


class Gradients(GaussGenerator):
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + torch.randn(n, 2, generator=generator)


@dataclass
class NeedyOptions(SampleOptions):
    temperature: float


class OptionWithoutDefault(GaussGenerator):
    sample_options = NeedyOptions


class TooBright(PixelGenerator):
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        return super().sample(n, condition, generator, **options) + 1


class LikelihoodOfAll(GaussGenerator):
    def log_likelihood(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().log_likelihood(x, condition, generator).mean()


class NoJacobian(GaussGenerator):
    def log_likelihood(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().log_likelihood(x, condition, generator) + 0.5


class CodesOfPictures(PixelGenerator):
    def encode(self, x: Tensor, condition: Any = None) -> Tensor:
        return super().encode(x, condition).unflatten(1, x.shape[1:])


class DecodesFlat(PixelGenerator):
    def decode(self, z: Tensor, condition: Any = None) -> Tensor:
        return super().decode(z, condition).flatten(1).clamp(0, 1)


class ReconstructsOne(PixelGenerator):
    def reconstruct(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().reconstruct(x, condition, generator)[:1]


class ShortWalk(PixelGenerator):
    def interpolate(self, steps: int, *args: Any, **kwargs: Any) -> Tensor:
        return super().interpolate(steps, *args, **kwargs)[1:]


class InvertsToPictures(PixelGenerator):
    def invert(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return x


class OneCaption(PixelGenerator):
    def caption(self, pictures: Tensor, generator: torch.Generator | None = None) -> list[str]:
        return ["a picture"]


class UnfinishedFilm(PixelGenerator):
    def trajectory(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        return super().trajectory(n, condition, generator)[:2]


class EditsOneChannel(PixelGenerator):
    def edit(self, picture: Tensor, mode: str, **kwargs: Any) -> Tensor:
        return super().edit(picture, mode, **kwargs)[:, :1]


class ForgetsThePrompt(ByteGenerator):
    def stream(self, prompt: str, generator: torch.Generator | None = None) -> Iterator[str]:
        return super().stream("", generator)


class Logits(ByteGenerator):
    def attention_maps(self, text: str) -> Tensor:
        return torch.randn(2, 2, 5, 5)

    def token_labels(self, text: str) -> list[str]:
        return list("abcde")


# ---- fields ----------------------------------------------------------------------------------------------------------
class Fog(TemplateField):
    """A sound field that can do all that fields can."""

    camera_models = ("pinhole",)
    export_formats: ClassVar[Mapping[str, str]] = {"txt": "the box"}

    def __init__(self, config: FogConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        self.last = nn.Identity()

    def export(self, format: str, path: Path, *, input_from_scene: Tensor) -> None:
        path.write_text(str(self.box.tolist()), encoding="utf-8")

    @torch.no_grad()
    def ray_samples(self, origin: Tensor, direction: Tensor) -> dict[str, Tensor]:
        from studio.marching import midpoints, ray_box, stratified, weights_from_density

        near, far, _ = ray_box(origin[None], direction[None], self.box)
        edges = stratified(near, far, self.config.samples)[0]
        t = midpoints(edges)
        density, colors = self._values(origin + t[:, None] * direction)
        return {"t": t, "density": density, "weights": weights_from_density(density, edges), "rgb": colors}


class Sideways(Fog):
    def render(self, cameras: Any, outputs: Sequence[str] = ("rgb",), **kwargs: Any) -> dict[str, Tensor]:
        return {k: v.transpose(-2, -3) for k, v in super().render(cameras, outputs, **kwargs).items()}


class NoBackground(Fog):
    def render(
        self, cameras: Any, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        return super().render(cameras, outputs)


class NoOpacity(Fog):
    def render(self, cameras: Any, outputs: Sequence[str] = ("rgb",), **kwargs: Any) -> dict[str, Tensor]:
        return {k: v for k, v in super().render(cameras, outputs, **kwargs).items() if k != "opacity"}


class RandomRender(Fog):
    def render(self, cameras: Any, outputs: Sequence[str] = ("rgb",), **kwargs: Any) -> dict[str, Tensor]:
        found = super().render(cameras, outputs, **kwargs)
        return {k: (v + 0.01 * torch.rand_like(v)).clamp(0, 1) for k, v in found.items()}


class ExportsNothing(Fog):
    def export(self, format: str, path: Path, *, input_from_scene: Tensor) -> None:
        pass


class NegativeDensity(Fog):
    def density(self, points: Tensor) -> Tensor:
        return super().density(points) - 1


class OtherSamples(Fog):
    def ray_samples(self, origin: Tensor, direction: Tensor) -> dict[str, Tensor]:
        found = super().ray_samples(origin, direction)
        return {**found, "weights": found["weights"] + 0.2}


class NeedsAlpha(Fog):
    def training_step(self, batch: Any, step: int) -> dict[str, Tensor]:
        if self.scene_info.background is None:
            raise ValueError("photos without alpha")
        return super().training_step(batch, step)
