"""The base classes of plugins: `Field` (a scene representation) and `Generator` (a sample model)."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.plugin.config import PluginConfig, known_fields
from studio.scene import PhotoStore, Scene

if TYPE_CHECKING:
    from studio.datasets import Dataset
    from studio.kernels.cache import Kernel
    from studio.plugin.batches import Request

_PARTS = 64

Metrics = Mapping[str, "float | Tensor"]


_MOST_PHOTOS = 1 << 24
_MOST_NUMBERS = 1 << 30
"""Of one sample."""


@dataclass(frozen=True)
class SceneInfo:
    """What a Field is built from: plain facts of a scene, saved with the run so that it loads without the photos."""

    num_train: int = 1
    """Training photos; per-photo parameters have this many rows."""
    camera_extent: float = 1.0
    """`Scene.camera_extent`, in scene units."""
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Corners of the box of interest, scene units."""
    has_alpha: bool = False
    """Whether the photos carry an alpha channel."""
    background: tuple[float, float, float] | None = None
    """Colour that photos with alpha are composited on for evaluation and display (sRGB); None for opaque photos."""
    points_extent: float | None = None
    """`Scene.points_extent`, in scene units."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "info") -> SceneInfo:
        """Inverse of `to_dict`; raises StudioError that names `source` and the field."""
        info = known_fields(cls, data, source, required=("num_train", "camera_extent", "has_alpha"))
        if not 1 <= info.num_train <= _MOST_PHOTOS:
            raise StudioError(
                f"{source}: num_train: {info.num_train:,} is no number of photos.", fix="Train the run again."
            )
        return info


@dataclass(frozen=True)
class DataInfo:
    """What a Generator is built from: the plain facts of a data set, saved with the run."""

    sample_shape: tuple[int, ...] = (2,)
    """Shape of one sample: (d,) for points, (c, h, w) for pictures, () for text."""
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    has_captions: bool = False
    """Whether each sample comes with a caption."""

    def describe(self) -> str:
        """What the samples are, for messages: 'pictures of 28x28 with 1 channel(s)'."""
        shape = self.sample_shape
        if len(shape) == 3:
            return f"pictures of {shape[2]}x{shape[1]} with {shape[0]} channel(s)"
        if len(shape) == 1:
            return f"points of {shape[0]} numbers"
        return f"samples of shape {shape}" if shape else "text"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "info") -> DataInfo:
        """Inverse of `to_dict`; raises StudioError that names `source` and the field."""
        info = known_fields(cls, data, source, required=("sample_shape",))
        if not all(size >= 1 for size in info.sample_shape) or math.prod(info.sample_shape) > _MOST_NUMBERS:
            raise StudioError(
                f"{source}: sample_shape: {info.sample_shape} is no shape of samples.", fix="Train the run again."
            )
        return info


@dataclass
class TrainingContext:
    """How a plugin is being trained; handed to `Plugin.setup_training` and kept up to date by the loop."""

    total_steps: int
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    generator: torch.Generator = field(default_factory=torch.Generator)
    """CPU generator for the plugin's own randomness; the engine saves and restores its state."""
    budget_seconds: float | None = None
    """Wall-clock budget; schedules then follow the clock instead of the step count."""
    elapsed_seconds: float = 0.0
    """Wall-clock time spent so far, including earlier sessions of a resumed run."""
    start_seconds: float = 0.0
    """The part of it that went by before the first step: reading photos, placing Gaussians."""
    step_cost: Callable[[float], float] = field(default=lambda progress: 1.0)
    """`Plugin.step_cost` of the plugin that is trained."""

    def progress(self, step: int) -> float:
        """Fraction of the training done before `step`, in [0, 1]: what schedules should follow."""
        by_step = step / max(self.total_steps, 1)
        return min(max(by_step, self._progress_by_clock()), 1.0)

    def expected_steps(self, step: int) -> float:
        """How many steps the whole training will have: `total_steps`, or what the budget allows at the pace so far.

        Args:
            step: Steps done. A budget's guess needs some of them to settle; before the first it is `total_steps`.
        """
        done = self._progress_by_clock()
        return min(step / done, float(self.total_steps)) if step > 0 and done > 0 else float(self.total_steps)

    def _progress_by_clock(self) -> float:
        """0 without a budget. What goes by before the first step is no progress: the first steps would be skipped."""
        if not self.budget_seconds:
            return 0.0
        left = self.budget_seconds - self.start_seconds
        return self._progress_at((self.elapsed_seconds - self.start_seconds) / left if left > 0 else 1.0)

    def _progress_at(self, time_share: float) -> float:
        """Where a training of steps that cost `step_cost` each stands after a share of its time."""
        # The cost at the middle of each of many equal parts of the training, summed up.
        spent = list(accumulate(self.step_cost((i + 0.5) / _PARTS) for i in range(_PARTS)))
        wanted = min(max(time_share, 0.0), 1.0) * spent[-1]
        part = min(bisect_left(spent, wanted), _PARTS - 1)
        before = spent[part - 1] if part else 0.0
        return (part + (wanted - before) / (spent[part] - before)) / _PARTS


class Plugin(nn.Module):
    """What every plugin class shares. Subclass `Field` or `Generator`, not this.

    Life of a plugin, in one order everywhere:

    1. ``__init__(config, info)`` builds the module; its shapes may still be provisional.
    2. A new training fills it from the data by `initialize`; a checkpoint fills it by `prepare_state` with the saved
       shapes, then ``load_state_dict``. It is moved to its device in between or afterwards.
    3. `setup_training` makes optimisers for the parameters that are there now.
    4. A resumed training hands over what it saved by `load_training_state`.
    5. The engine alternates `batch_request` and `training_step`.
    6. `finish_training` settles the last state, once; a run that says that it is finished has been finished.

    A checkpoint is ``state_dict()`` plus `training_state()`. To render or sample, 1 and 2 are all that happens.
    """

    def __init__(self, config: PluginConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @classmethod
    def kernels(cls, config: PluginConfig, device: torch.device, *, training: bool) -> Sequence[Kernel]:
        """Kernels of `studio.kernels.cache` that the plugin will call, those first that take longest to compile.

        Those that are not in the cache are compiled at once in processes of their own while the data is read; any
        other kernel is compiled when it is first called.

        Args:
            config: How the plugin is configured.
            device: Where it runs.
            training: Whether it is going to be trained, or only to draw or sample.
        """
        return ()

    # ---- training ------------------------------------------------------------------------------------------------
    def setup_training(self, context: TrainingContext) -> None:
        """Build optimisers and schedules; keep `context` for its progress and random generator.

        The weights are there by now: those of the data, or those of the checkpoint that training goes on from.
        """
        raise NotImplementedError

    def batch_request(self, step: int) -> Request:
        """What data `training_step(batch, step)` needs."""
        raise NotImplementedError

    def training_step(self, batch: Any, step: int) -> Metrics:
        """One optimisation step; steps count from 0.

        Returns:
            Named figures for the log: 'loss' always; 'psnr' (dB) from Fields; anything else is logged as it is. A
            value may be a tensor; the engine reads it only when it logs.
        """
        raise NotImplementedError

    def training_state(self) -> dict[str, Any]:
        """Everything besides ``state_dict()`` that the next step depends on: optimiser moments, statistics, counters.

        Nested dicts and lists of tensors, numbers, strings, booleans and None.
        """
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`; called after `setup_training`."""

    def step_cost(self, progress: float) -> float:
        """Relative time of a training step at a point of the training, above 0; only ratios count.

        With a time budget, schedules follow the clock. A plugin whose steps grow slower (more Gaussians, larger
        photos) says so here, and its schedules still see about equal steps in equal parts of the training.
        """
        return 1.0

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for a saved state whose tensor shapes differ from those at construction (densified splats)."""

    def finish_training(self) -> None:
        """Called once after the last step, before the final checkpoint, which is the only one of that step.

        After a kill in between, a resumed run goes on from the checkpoint before it and comes here again.
        """

    # ---- information ---------------------------------------------------------------------------------------------
    def networks(self) -> dict[str, nn.Module]:
        """The parts whose parameter counts `studio info` shows; direct children by default."""
        return dict(self.named_children())

    def status(self) -> dict[str, int | float | str]:
        """Live facts for the progress line, such as the number of Gaussians."""
        return {}


class Field(Plugin):
    """A scene representation that renders from any camera."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity")
    """What `render` can produce. 'depth' is expected z-depth in scene units; 'median_depth', 'normals' (world frame,
    unit, camera-facing) and others are optional."""
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole",)
    """Camera models that `render` and training accept. Photos of other models are undistorted to pinhole first."""

    def __init__(self, config: PluginConfig, scene_info: SceneInfo) -> None:
        super().__init__(config)
        self.scene_info = scene_info

    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        """Set the initial state from the scene: its points, bounds, or the training photos themselves."""

    def render(
        self,
        cameras: Cameras,
        outputs: Sequence[str] = ("rgb",),
        *,
        background: Float[Tensor, " 3"] | None = None,
    ) -> dict[str, Float[Tensor, "*batch h w c"]]:
        """Render every camera of the batch; without gradients, in the same way as in training and evaluation.

        Args:
            cameras: Any batch shape, equal sizes.
            outputs: Names out of `output_names`.
            background: Linear blend colour behind the scene, sRGB; black when None.

        Returns:
            One float32 tensor an output: rgb has 3 channels in [0, 1], depth and opacity 1, normals 3.
        """
        raise NotImplementedError

    def export(self, format: str, path: Path, *, input_from_scene: Float[Tensor, "4 4"]) -> None:
        """Write the scene to `path` in a format of `export_formats`, in the frame of the input cameras."""
        raise NotImplementedError

    export_formats: ClassVar[Mapping[str, str]] = {}
    """Format name -> one line of help, for `studio export`."""


@dataclass
class SampleOptions:
    """How samples are drawn. A Generator with choices (steps, guidance, temperature) subclasses this: its fields become
    flags of `studio sample` and keyword arguments of `Generator.sample`."""


class Generator(Plugin):
    """A model that draws samples: points, pictures or text."""

    sample_options: ClassVar[type[SampleOptions]] = SampleOptions
    """Dataclass of the keyword arguments that `sample` understands, all with defaults."""

    def __init__(self, config: PluginConfig, data_info: DataInfo) -> None:
        super().__init__(config)
        self.data_info = data_info

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        """Set what depends on the data itself: statistics, vocabularies."""

    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, " n *shape"] | list[str]:
        """Draw `n` samples, without gradients; equal generator states give equal samples.

        Args:
            n: How many.
            condition: One class label or caption (text models: prompt) a sample; None draws unconditionally, or from
                all classes evenly where the model needs a class.
            generator: CPU generator; a fresh one from torch's default seed when None.
            options: Fields of `sample_options`.

        Returns:
            Float32 on the CPU or the model's device, pictures (n, c, h, w) in [0, 1]; text models return strings.
        """
        raise NotImplementedError
