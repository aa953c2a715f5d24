"""What a Field renders, as colours to look at: colours as they are, depth in a colour map, normals as directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.export.colormaps import colormap, value_range

SEEN = 0.5
"""Opacity from which on a pixel has a depth."""


def is_scalar(name: str, drawn: Mapping[str, Tensor]) -> bool:
    """Whether an output is shown in a colour map: one channel, other than opacity, which is its own grey."""
    return name != "opacity" and drawn[name].shape[-1] == 1


def seen(drawn: Mapping[str, Float[Tensor, "h w c"]]) -> Bool[Tensor, "h w"] | None:
    """Where pixels show something, so that their depth means something; None where the Field renders no opacity."""
    return drawn["opacity"][..., 0] > SEEN if "opacity" in drawn else None


def scalar_range(name: str, drawn: Mapping[str, Float[Tensor, "h w c"]]) -> tuple[float, float]:
    """The range of an output of one channel that shows most of it; see `value_range`."""
    return value_range(drawn[name][..., 0], seen(drawn))


def paint_output(
    name: str,
    drawn: Mapping[str, Float[Tensor, "h w c"]],
    *,
    color_map: str = "turbo",
    limits: tuple[float, float] | None = None,
    scale: float = 1.0,
    label: str | None = None,
    behind: float = 1.0,
) -> Float[Tensor, "h w2 3"]:
    """One output as an RGB picture.

    Args:
        name: Of the output.
        drawn: What `Field.render` gave: the output, and 'opacity' where the Field renders it.
        color_map: For outputs of one channel other than opacity; see `studio.export.colormaps.colormap`.
        limits: Values of the first and last colour, after `scale`; default: the range of this picture.
        scale: Factor on the values of one channel, such as to units of the input.
        label: If given, a colour bar with numbers and this label is drawn on the right.
        behind: Grey level where there is nothing.

    Raises:
        ValueError: The output has neither 1 nor 3 channels.
    """
    image = drawn[name]
    if name == "normals":
        shown = (image + 1) / 2
        # Unit vectors fade out where there is no surface.
        return torch.lerp(torch.full_like(shown, behind), shown, drawn["opacity"]) if "opacity" in drawn else shown
    if image.shape[-1] == 3:
        return image
    if name == "opacity":
        return image.expand(-1, -1, 3)
    if image.shape[-1] != 1:
        raise ValueError(f"output '{name}' has {image.shape[-1]} channels; pictures have 1 or 3")
    return colormap(image[..., 0] * scale, color_map, limits, valid=seen(drawn), invalid_color=behind, label=label)
