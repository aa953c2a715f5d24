"""What computes the field: the contract of the two engines, compiled kernels on a CPU and torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from studio.marching import PackedSamples
from studio_nerf.ngp.optimizer import LazyAdam


@dataclass(frozen=True)
class Rates:
    """Learning rates of one step."""

    encoding: float
    networks: float
    decay: float = 0.0
    """Decoupled weight decay of the finer half of the table's levels, in shares of its rate."""


@dataclass(frozen=True)
class RayTargets:
    """What n rays should show, and how they are judged."""

    rgb: Float[Tensor, "n 3"]
    """Photo colours on `background`."""
    background: Float[Tensor, "n 3"]
    view: Float[Tensor, "n v"]
    """What the colour network sees of each ray; with ``requires_grad`` its gradient is computed."""
    loss_limit: float
    distortion: float
    bend: float = 0.0
    """The distortion loss counts a distance t as t / (1 + bend t): in full near the camera, ever less beyond 1 / bend.
    Told in plain lengths, what is far would be pulled before what is near, and a background never be found."""
    nearness: float = 0.0
    """Weight of the mean of 1 / (1 + bend t) over what is seen: of two explanations the farther one is preferred."""
    scored: int | None = None
    """Rays, from the first on, whose squared error is told; None: all."""


@dataclass(frozen=True)
class StepResult:
    """What a step says."""

    loss: float | Tensor
    squared_error: float | Tensor
    """Mean over channels and scored rays, of clamped colours."""
    view_gradient: Float[Tensor, "n v"] | None
    position_gradient: Float[Tensor, "k 3"] | None
    """With respect to the samples' places in the unit cube."""


@dataclass(frozen=True)
class Further:
    """How rays are marched on from where their first samples end."""

    march: Callable[[Int[Tensor, " r"], Float[Tensor, " r"], int], PackedSamples]
    """Gives the samples of some of the rays beyond a distance of each, at most so many a ray."""
    most: int
    """Samples of a ray that are looked at in all."""


@dataclass(frozen=True)
class Thinning:
    """Lets few of the samples stand for all that matter little, as in Russian roulette (Arvo and Kirk, 1990).

    A sample of weight w < `sure` is chosen in w / `sure` of all cases and counts for as many times its length, so the
    mean optical thickness is that of all samples. Which ones it hits is spread evenly along a ray: their shares are
    added up from `turns` on, and a sample is chosen whenever the sum passes a whole number. The weight is told from the
    optical thickness d before a sample and its own, t, as exp(-d) t / (1 + t), which no weight is less than.
    """

    sure: float
    turns: Float[Tensor, " n"]
    """In [0, 1), drawn at random for each ray."""


class Visible(Protocol):
    """Samples of rays that light reaches, k of them, as an engine keeps them until its next call."""

    @property
    def samples(self) -> PackedSamples:
        """Their intervals."""
        ...

    @property
    def density(self) -> Float[Tensor, " k"]: ...

    @property
    def deepest(self) -> Int[Tensor, " n"]:
        """Marched samples of each ray up to the last of these; 0 where there is none."""
        ...


class Engine(Protocol):
    """Evaluates and trains the field."""

    stretch: int | None
    """Samples of a ray that are best marched at first; None: all."""
    turn: AbstractContextManager[Any]
    """Entered from `visible` until what it returned is not needed any more, by threads that render at once."""

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Densities at points of the marched frame, without gradients."""
        ...

    def visible(
        self,
        samples: PackedSamples,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        early_stop: float,
        least_thickness: float,
        further: Further | None = None,
        thinning: Thinning | None = None,
    ) -> Any:
        """Encode marched samples and choose those that light reaches.

        Args:
            samples: Of the rays; with `further` the first `stretch` of each.
            origins: Of the rays.
            directions: Of unit length.
            early_stop: Least transmittance with which light enters a chosen sample.
            least_thickness: Least optical thickness of a chosen sample.
            further: Marches rays on whose samples end before their light does; None: no ray goes on.
            thinning: Leaves out samples of little weight; None: none.
        """
        ...

    def colors(self, visible: Any, view: Float[Tensor, "n v"]) -> Float[Tensor, "k 3"]:
        """Colours of samples, without gradients."""
        ...

    def density_gradients(self, visible: Any) -> Float[Tensor, "k 3"]:
        """Gradients of the log-density with respect to places in the unit cube, through the levels that are smooth."""
        ...

    def step(
        self, visible: Any, targets: RayTargets, adam: LazyAdam, rates: Rates, *, with_positions: bool = False
    ) -> StepResult:
        """One step of all that the engine trains, unless the loss is not finite; counts it in `adam`.

        Args:
            visible: Of the rays.
            targets: For the same rays.
            adam: Moments of ``encoding.table`` and ``shading.<i>``.
            rates: Learning rates.
            with_positions: Whether the gradient with respect to the samples' places is wanted.
        """
        ...
