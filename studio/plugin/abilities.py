"""What capabilities promise beyond the base classes: the methods of a plugin that declares them, with their shapes.

A capability's name stands in `studio.plugin.spec.CAPABILITIES`; commands ask for it with ``isinstance``, as these
protocols are checked at run time by the methods' names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict, runtime_checkable

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from studio.export.gaussians import GaussianCloud
    from studio.plugin.base import Field, SceneInfo
    from studio.plugin.config import PluginConfig


class RaySamples(TypedDict):
    """A ray as a Field sees it: s samples in order, nearest first. float32 on the Field's device."""

    t: Float[Tensor, " s"]
    """Distance of each sample from the origin, along the unit direction, in scene units."""
    density: Float[Tensor, " s"]
    """Absorption per scene unit, at least 0."""
    weights: Float[Tensor, " s"]
    """Share of each sample's colour in the pixel; they sum to its opacity."""
    rgb: Float[Tensor, "s 3"]
    """sRGB in [0, 1]."""


@runtime_checkable
class HasDensity(Protocol):
    """Capability 'density': a Field that knows how much matter is at a point, such as a NeRF."""

    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Absorption per scene unit, at least 0 and 0 outside of what the Field models; without gradients.

        Args:
            points: In the scene's frame, on the Field's device. Any number; the Field takes care of its memory.
        """
        ...


@runtime_checkable
class HasRaySamples(Protocol):
    """Capability 'inspect': a Field that can tell what it composites along one ray."""

    def ray_samples(self, origin: Float[Tensor, " 3"], direction: Float[Tensor, " 3"]) -> RaySamples:
        """What `render` composites along one ray; without gradients, the same every time.

        Args:
            origin: In the scene's frame, on the Field's device.
            direction: Unit vector.

        Returns:
            The samples. No sample at all (s = 0) for a ray that meets nothing.
        """
        ...


@runtime_checkable
class FromGaussians(Protocol):
    """Capability 'gaussians': a Field that is a set of 3D Gaussians, and can be made of any other set."""

    def cloud(self) -> GaussianCloud:
        """All Gaussians in the scene's frame, on the CPU."""
        ...

    @classmethod
    def from_gaussians(
        cls, cloud: GaussianCloud, config: PluginConfig | None = None, scene_info: SceneInfo | None = None
    ) -> Field:
        """A Field on the CPU that renders these Gaussians; `cloud` is left as it is.

        Args:
            cloud: At least one Gaussian, of any degree of spherical harmonics up to 4; the Field may draw a lower one.
            config: The plugin's own configuration; its defaults when None.
            scene_info: What is known of the scene they belong to.
        """
        ...


@runtime_checkable
class HasAttention(Protocol):
    """Capability 'attention': a Generator of texts that can show what its tokens look at."""

    def attention_maps(self, text: str) -> Float[Tensor, "layers heads t t"]:
        """The share that each of the text's t tokens (rows) takes from each token (columns); rows sum to 1.

        Raises:
            StudioError: A text that the model cannot read.
        """
        ...

    def token_labels(self, text: str) -> list[str]:
        """The t tokens that `attention_maps` shows, as text."""
        ...
