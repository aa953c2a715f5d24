"""Pictures of `shapes` with what is said about them, for the benchmarks that have to be looked at."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from studio.export.pictures import caption

_BEFORE_RELATIONS = re.compile(r" (?=and |(?:left|right|in front) of |behind )(?<!and )")
_LINES = 3


def described(picture: Float[Tensor, "3 h w"], text: str, *, width: int = 224) -> Float[Tensor, "h2 width 3"]:
    """A small picture, enlarged, under its caption: a line for each object."""
    height = round(width * picture.shape[1] / picture.shape[2])
    shown = F.interpolate(picture[None].cpu().float(), size=(height, width), mode="nearest")[0].movedim(0, -1)
    lines = _BEFORE_RELATIONS.split(text)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], " ".join(lines[_LINES - 1 :])]
    for line in reversed([*lines, *[""] * (_LINES - len(lines))]):
        shown = caption(shown, line, text_height=12)
    return torch.as_tensor(shown)
