"""Captions of what a captioning plugin was not trained on: pictures of other sizes, views of scenes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio.plugin.base import Generator


@torch.no_grad()
def caption_views(generator: Generator, views: Sequence[Float[Tensor, "h w 3"]], *, seed: int = 0) -> list[str]:
    """What a captioning plugin says about RGB pictures of any size.

    Args:
        generator: With the capability 'caption', in evaluation mode.
        views: In [0, 1].
        seed: Where the plugin draws words by lot.

    Raises:
        StudioError: The plugin was not trained on pictures.
    """
    shape = generator.data_info.sample_shape
    if len(shape) != 3:
        raise StudioError(f"The captioning run was trained on {generator.data_info.describe()}, not on pictures.")
    pictures = torch.stack([fit_view(view, (shape[0], shape[1], shape[2])) for view in views])
    noise = torch.Generator().manual_seed(seed)
    captions: list[str] = generator.caption(pictures.to(generator.device), noise)  # type: ignore[operator]
    return captions


def fit_view(view: Float[Tensor, "h w 3"], shape: tuple[int, int, int]) -> Float[Tensor, "c h2 w2"]:
    """A view as a sample (c, h, w): the middle at the right aspect, resized with an antialiasing filter."""
    channels, height, width = shape
    planes = view.clamp(0, 1).movedim(-1, 0)
    have_height, have_width = planes.shape[1:]
    crop_width = min(have_width, round(have_height * width / height))
    crop_height = min(have_height, round(have_width * height / width))
    top, left = (have_height - crop_height) // 2, (have_width - crop_width) // 2
    planes = planes[:, top : top + crop_height, left : left + crop_width]
    planes = F.interpolate(planes[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
    if channels == 1:
        # Luma of ITU-R BT.601, as Pillow's conversion to grey.
        return (planes * planes.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    return planes
