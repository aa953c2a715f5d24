"""Drawing what is viewed: which output, of which part of the scene, in which colours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.output_pictures import is_scalar, paint_output, scalar_range
from studio.export.splat_selection import SplatSelection
from studio.plugin.base import Field
from studio.viewer.subject import Subject, derived_field
from studio.viewer.turns import Turns

_PROBE_SIDE = 128
_STRIP_SECONDS = 0.15
Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Look:
    """What a picture shows. Lengths are in scene units, in the scene's frame."""

    output: str = "rgb"
    color_map: str = "turbo"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    near: float | None = None
    """Nothing nearer is shown (z-depth); None: no limit."""
    far: float | None = None
    crop: Box | None = None
    """Low and high corner of the box outside of which nothing is shown."""
    max_gaussians: int | None = None
    """Only the most important ones, of Gaussians."""


class Overtaken(Exception):
    """A picture was given up because a newer one is wanted."""


class Drawer:
    """Draws a `Subject` as a `Look` says.

    Gaussians are left out one by one, by their centres, so that one sees what is behind. Other Fields, and one that is
    being trained, are cut where their surface lies beyond the limits, as all that is known of them is what they render.

    Args:
        subject: With a field.
        turns: When the field may be used.
        live: Whether the field is being trained.
    """

    def __init__(self, subject: Subject, turns: Turns, *, live: bool = False) -> None:
        assert subject.field is not None
        self.subject = subject
        self.field: Field = subject.field
        self.turns = turns
        self.live = live
        self._kept: tuple[tuple[Box | None, int | None], GaussianCloud, Field] | None = None
        self.limits: dict[str, tuple[float, float]] = {}
        """Range of the colours of each output of one channel, in units of the input where it is a depth."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.field.output_names)

    def selection(self, look: Look) -> GaussianCloud:
        """The Gaussians that a look leaves; only for subjects that have them.

        Raises:
            StudioError: None is left.
        """
        if look.crop is None and look.max_gaussians is None:
            return self.subject.gaussians()
        return SplatSelection(crop=look.crop, max_gaussians=look.max_gaussians).apply(self.subject.gaussians())

    def draw(
        self,
        camera: Cameras,
        look: Look,
        *,
        overtaken: Callable[[], bool] = lambda: False,
        expected_seconds: float = 0.0,
        fresh_limits: bool = False,
    ) -> Float[Tensor, "h w 3"]:
        """A picture in [0, 1], on the CPU.

        Args:
            camera: Single, perspective.
            look: See there.
            overtaken: Asked between the strips of a picture that takes long.
            expected_seconds: How long it is believed to take.
            fresh_limits: Adapt the range of a colour map to this view.

        Raises:
            Overtaken: `overtaken` said so.
            TurnsOver: The viewer is closing.
            StudioError: The field cannot draw this.
        """
        if look.output not in self.outputs:
            raise StudioError(
                f"This scene does not render '{look.output}'.", fix=f"Outputs: {', '.join(self.outputs)}."
            )
        if fresh_limits or look.output not in self.limits:
            self._find_limits(camera, look)
        width, height = camera.size
        # Every strip of Gaussians would project all of them.
        strips = 1 if self.subject.has_gaussians else round(expected_seconds / _STRIP_SECONDS)
        strips = min(max(strips, 1), max(height // 16, 1))
        edges = [round(i * height / strips) for i in range(strips + 1)]
        parts = []
        for top, bottom in itertools.pairwise(edges):
            if overtaken():
                raise Overtaken
            part = camera if strips == 1 else camera.crop(0, top, width, bottom - top)
            parts.append(self.turns.run(lambda part=part: self._painted(part, look)))  # type: ignore[misc]
        return parts[0] if strips == 1 else torch.cat(parts)

    def _painted(self, camera: Cameras, look: Look) -> Float[Tensor, "h w 3"]:
        drawn = self._render(camera, look)
        return paint_output(
            look.output,
            drawn,
            color_map=look.color_map,
            limits=self.limits.get(look.output),
            scale=self._scale(look.output),
            behind=sum(look.background) / 3,
        ).clamp(0, 1)

    def _scale(self, output: str) -> float:
        return self.subject.unit if "depth" in output else 1.0

    def _find_limits(self, camera: Cameras, look: Look) -> None:
        if look.output in ("rgb", "opacity", "normals"):
            return
        probe = camera.rescale(min(_PROBE_SIDE / max(camera.size), 1.0))
        drawn = self.turns.run(lambda: self._render(probe, look))
        if is_scalar(look.output, drawn):
            low, high = scalar_range(look.output, drawn)
            scale = self._scale(look.output)
            self.limits[look.output] = (scale * low, scale * high)

    @torch.no_grad()
    def _render(self, camera: Cameras, look: Look) -> dict[str, Tensor]:
        field, left_out = self._field(camera, look)
        clipped = not left_out and (look.crop is not None or look.near is not None or look.far is not None)
        names = [look.output]
        if (look.output not in ("rgb", "opacity") or clipped) and "opacity" in self.outputs:
            names.append("opacity")
        depth = "median_depth" if "median_depth" in self.outputs else "depth"
        clipped = clipped and depth in self.outputs
        if clipped:
            names.append(depth)
        background = torch.tensor(look.background)
        drawn = field.render(
            camera.to(field.device), tuple(dict.fromkeys(names)), background=background.to(field.device)
        )
        drawn = {name: image.float().cpu() for name, image in drawn.items()}
        return _clip(drawn, depth, camera, look, background) if clipped else drawn

    def _field(self, camera: Cameras, look: Look) -> tuple[Field, bool]:
        """What to render, and whether it leaves out by itself what the look does."""
        limited = look.near is not None or look.far is not None
        chosen = (look.crop, look.max_gaussians)
        if self.live or not self.subject.has_gaussians or (chosen == (None, None) and not limited):
            return self.field, False
        if self._kept is None or self._kept[0] != chosen:
            cloud = self.selection(look)
            field = self.field if chosen == (None, None) else derived_field(self.field, cloud)
            if field is None:
                return self.field, False
            self._kept = (chosen, cloud, field)
        _, cloud, field = self._kept
        if not limited:
            return field, True
        depth = (cloud.means - camera.origins.cpu()) @ camera.forward.cpu()
        low, high = look.near or 0.0, look.far if look.far is not None else float("inf")
        mask = (depth >= low) & (depth <= high)
        if not bool(mask.any()):
            # A field of no Gaussian is none: one that cannot be seen stands for it.
            mask[0] = True
            cloud = replace(cloud, logit_opacities=torch.full_like(cloud.logit_opacities, -30.0))
        limited_field = derived_field(self.field, cloud.select(mask))
        return (field, False) if limited_field is None else (limited_field, True)


def _clip(
    drawn: dict[str, Tensor], depth: str, camera: Cameras, look: Look, background: Float[Tensor, " 3"]
) -> dict[str, Tensor]:
    """Show the background where the surface lies outside of the look's box or range of depths."""
    z = drawn[depth][..., 0]
    inside = torch.ones_like(z, dtype=torch.bool)
    if look.near is not None:
        inside &= z >= look.near
    if look.far is not None:
        inside &= z <= look.far
    if look.crop is not None:
        rays = camera.rays()
        points = rays.at((z / rays.depth_scale.cpu()).to(rays.origins.device)).cpu()
        low, high = torch.tensor(look.crop).reshape(2, 3)
        inside &= ((points >= low) & (points <= high)).all(dim=-1)
    keep = inside[..., None]
    shown = dict(drawn)
    for name, image in drawn.items():
        shown[name] = torch.where(keep, image, background if name == "rgb" else torch.zeros_like(image))
    return shown
