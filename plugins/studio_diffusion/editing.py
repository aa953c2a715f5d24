"""Editing by a trained model, without training: what is known of the picture is put into every predicted x_0.

Inpainting, colourisation and super-resolution are one linear problem y = A x, whose known part replaces that of the
prediction while the rest is left to the model (Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion
Null-Space Model", eq. 10):

    x_0 ← A⁺y + (I − A⁺A) x_0 = x_0 + A⁺(y − A x_0)

SDEdit (Meng et al. 2022) sends a rough picture part of the way into noise, and lets the model come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio_diffusion.samplers import Correction

EDIT_MODES: Mapping[str, str] = {
    "inpaint": "paint anew where the mask is white",
    "colorize": "give a grey picture colours",
    "super-resolution": "enlarge a small picture to the model's size",
    "sdedit": "make a rough picture, such as strokes of colour, look real; --strength says how far it may change",
}


@dataclass(frozen=True)
class EditTask:
    """Where an edit starts and what it keeps."""

    correct: Correction | None
    """Puts the known part into a predicted x_0."""
    origin: Tensor | None = None
    """The picture that noise is added to at the start; None starts from noise alone."""
    share: float = 1.0
    """Share of the noise levels that it is sent through."""


def edit_start(
    mode: str,
    picture: Float[Tensor, "b c h w"],
    mask: Tensor | None,
    shape: tuple[int, ...],
    strength: float,
    factor: int = 4,
) -> EditTask:
    """The task of an edit of pictures in the model's range.

    Raises:
        StudioError: An unknown mode, a missing or unfitting mask, a picture that does not fit the model, or one that is
            no picture.
    """
    if len(shape) != 3:
        raise StudioError("edit: the model was trained on points; only pictures are edited.")
    if mode not in EDIT_MODES:
        raise StudioError(f"edit: there is no mode '{mode}'.", fix=f"Modes: {', '.join(EDIT_MODES)}.")
    planes, height, width = shape
    fits = picture.shape[2:] == (height, width)
    if mode == "super-resolution":
        if fits:
            if factor < 2 or height % factor or width % factor:
                raise StudioError(f"factor: {height}x{width} is not divisible by {factor}.", fix="Give 2 or 4.")
            picture = F.avg_pool2d(picture, factor)
        return EditTask(_keeping(*_average_blocks(_factor(picture, shape)), picture))
    if mode == "colorize":
        if planes != 3 or not fits:
            raise StudioError(
                f"edit: colourisation needs a model of colour pictures and one of {height}x{width} pixels."
            )
        return EditTask(_keeping(_grey, _all_planes, _grey(picture)))
    if picture.shape[1:] != shape:
        got = "x".join(map(str, picture.shape[1:]))
        raise StudioError(f"edit: the picture is {got}, the model's are {planes}x{height}x{width}.", fix="Resize it.")
    if mode == "sdedit":
        if not 0 < strength <= 1:
            raise StudioError(f"strength: {strength:g} is out of range.", fix="Give more than 0, at most 1.")
        return EditTask(None, picture, strength)
    if mask is None:
        raise StudioError("edit: inpaint needs a mask.", fix="Give --mask FILE, white where it shall paint.")
    if mask.shape[-2:] != (height, width):
        got = "x".join(map(str, mask.shape[-2:]))
        raise StudioError(f"mask: it is {got}, the picture {height}x{width}.", fix="Give one of the same size.")
    known = 1 - (mask > 0.5).to(picture).reshape(-1, 1, height, width)
    if not known.any():
        raise StudioError("mask: it is white everywhere, nothing would be kept.", fix="Use `studio sample` for that.")
    return EditTask(_keeping(lambda x: known * x, lambda y: y, known * picture))


def _keeping(down: Callable[[Tensor], Tensor], up: Callable[[Tensor], Tensor], y: Tensor) -> Correction:
    """x_0 + A⁺(y − A x_0), with A `down` and its pseudo-inverse `up`."""
    return lambda x0: x0 + up(y - down(x0))


def _grey(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)


def _all_planes(y: Tensor) -> Tensor:
    return y.expand(-1, 3, -1, -1)


def _average_blocks(factor: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    return lambda x: F.avg_pool2d(x, factor), lambda y: F.interpolate(y, scale_factor=factor, mode="nearest")


def _factor(picture: Tensor, shape: tuple[int, ...]) -> int:
    """How many times smaller a picture is than the model's."""
    height, width = picture.shape[2:]
    factor = shape[1] // max(height, 1)
    if picture.shape[1] != shape[0] or factor < 2 or (height * factor, width * factor) != shape[1:]:
        got, wanted = "x".join(map(str, picture.shape[1:])), "x".join(map(str, shape))
        raise StudioError(
            f"edit: the picture is {got}, which is not {wanted} divided by a whole number from 2 on.",
            fix=f"For example {shape[0]}x{shape[1] // 2}x{shape[2] // 2}.",
        )
    return factor
