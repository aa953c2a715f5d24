"""What pixels show of the field: colour, depth, opacity and surface normals of rays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from studio.cameras.rays import Rays
from studio.marching import (
    PackedSamples,
    packed_composite,
    packed_expected_depth,
    packed_opacity,
    packed_weights,
)
from studio_nerf.ngp.space import MarchedFrame

if TYPE_CHECKING:
    from studio_nerf.ngp.field import NgpField

_LEAST_THICKNESS = 1e-4
"""Optical thickness below which a sample is not worth its colour."""


class RayShader:
    """Renders flat rays, without gradients.

    Args:
        field: What is seen.
        outputs: Names out of the field's `output_names`.
        background: Colour behind it, where nothing else is known of what lies there (`NgpField.ambient`).
    """

    def __init__(self, field: NgpField, outputs: tuple[str, ...], background: Float[Tensor, " 3"]) -> None:
        self.field, self.outputs, self.background = field, outputs, background

    def __call__(self, rays: Rays) -> dict[str, Float[Tensor, "n c"]]:
        with self.field.engine().turn:
            return self._shown(rays)

    def _shown(self, rays: Rays) -> dict[str, Float[Tensor, "n c"]]:
        directions = rays.directions.float()
        visible, marched = self.field.look(
            rays.origins, directions, max(_LEAST_THICKNESS, self.field.space.least_thickness)
        )
        samples = visible.samples
        weights, _ = packed_weights(visible.density, samples)
        shown: dict[str, Tensor] = {}
        if "rgb" in self.outputs:
            colors = self.field.colors(visible, directions)
            ambient = self.field.ambient
            behind = self.background if ambient is None else ambient.colors(directions)
            shown["rgb"] = packed_composite(weights, colors, samples, behind).clamp(0, 1)
        if "depth" in self.outputs:
            shown["depth"] = (self._distance(weights, samples, marched, rays) * rays.depth_scale)[:, None]
        if "opacity" in self.outputs:
            shown["opacity"] = packed_opacity(weights, samples).clamp(0, 1)[:, None]
        if "normals" in self.outputs:
            shown["normals"] = self._normals(visible, weights, samples, marched, directions)
        return {name: shown[name] for name in self.outputs}

    def _distance(
        self, weights: Tensor, samples: PackedSamples, marched: MarchedFrame, rays: Rays
    ) -> Float[Tensor, " n"]:
        """Mean world distance of what is seen; 0 where nothing is."""
        t = packed_expected_depth(weights, samples)
        if self.field.space.kind != "ndc":
            return t
        points = self.field.world.world_points(marched.origins + t[:, None] * marched.directions)
        return (points - rays.origins).norm(dim=-1) * (packed_opacity(weights, samples) > 0)

    def _normals(
        self,
        visible: Any,
        weights: Tensor,
        samples: PackedSamples,
        marched: MarchedFrame,
        directions: Float[Tensor, "n 3"],
    ) -> Float[Tensor, "n 3"]:
        """Mean direction in which the density falls, of unit length, towards the camera; 0 where nothing is seen."""
        slopes = self.field.engine().density_gradients(visible)
        points = self.field.world.world_points(samples.positions(marched.origins, marched.directions))
        with torch.enable_grad():
            # From the unit cube of the encoding back to the world, which may have been contracted or projected.
            points = points.detach().requires_grad_()
            places = self.field.space.to_unit(self.field.world.marched_points(points))
            (slopes,) = torch.autograd.grad((places * slopes).sum(), points)
        falls = -functional.normalize(slopes, dim=-1)
        mean = functional.normalize(packed_composite(weights, falls, samples), dim=-1)
        away = (mean * directions).sum(dim=-1, keepdim=True) > 0
        return torch.where(away, -mean, mean)
