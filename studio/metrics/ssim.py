"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment", IEEE TIP 2004)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from studio.metrics.masked import Mask, check_pair, pixel_mean

WINDOW = 11
SIGMA = 1.5
K1 = 0.01
K2 = 0.03

Padding = Literal["same", "valid"]


def ssim(
    prediction: Float[Tensor, "*batch h w c"],
    target: Float[Tensor, "*batch h w c"],
    mask: Mask | None = None,
    *,
    padding: Padding = "same",
    data_range: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Mean structural similarity over pixels and channels, one figure a picture; differentiable.

    Two figures go by this name, which differ at the border only:

    - "same" (the default): the pictures are padded with zeros and every pixel has a value. This is what the papers on
      Gaussian splatting since Kerbl 2023 report and train with.
    - "valid": only windows that lie inside the picture count. This is Wang's own definition, and what the papers on
      NeRF report; scikit-image gives it with
      `structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)`.

    Figures of other programs under the same name are not the same: scikit-image's own defaults are even windows of 7x7
    and the sample covariance (n - 1), and it leaves the border out; torchmetrics' `structural_similarity_index_measure`
    has this window but mirrors the picture beyond its border and counts all windows, so it lies between the two. Both
    take `data_range` from the pictures where it is not given (scikit-image from the dtype, and refuses float pictures).

    Args:
        prediction: Render, any floating dtype; the arithmetic stays in that dtype.
        target: Photo, same shape and dtype.
        mask: Pixels that count, bool or weights: the mean of the SSIM map over window centres there. The windows
            themselves see all pixels, so what lies outside the mask but within 5 pixels of it has some influence.
        padding: See above.
        data_range: Largest possible value minus smallest.

    Returns:
        In [-1, 1], 1 for equal pictures; NaN where the mask is empty.

    Raises:
        ValueError: Shapes or dtypes do not fit, or "valid" with pictures smaller than the 11x11 window.
    """
    check_pair(prediction, target, mask)
    values = ssim_map(prediction, target, padding=padding, data_range=data_range)
    if mask is not None and padding == "valid":
        edge = WINDOW // 2
        mask = mask[..., edge:-edge, edge:-edge]
    return pixel_mean(values, mask)


def ssim_map(
    prediction: Float[Tensor, "*batch h w c"],
    target: Float[Tensor, "*batch h w c"],
    *,
    padding: Padding = "same",
    data_range: float = 1.0,
) -> Float[Tensor, "*batch h2 w2 c"]:
    """SSIM of each window and channel (Wang 2004, eq. 13); see `ssim`.

    Returns:
        (..., H, W, C) with "same", (..., H - 10, W - 10, C) with "valid".
    """
    check_pair(prediction, target, None)
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
    height, width, channels = prediction.shape[-3:]
    if padding == "valid" and min(height, width) < WINDOW:
        raise ValueError(f"padding='valid' needs pictures of at least {WINDOW}x{WINDOW} pixels, got {width}x{height}")

    x, y = (t.movedim(-1, -3).reshape(-1, height, width) for t in (prediction, target))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack([x, y, x * x, y * y, x * y]), padding)
    variance_x = mean_xx - mean_x.square()
    variance_y = mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    c1 = (K1 * data_range) ** 2
    c2 = (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    contrast_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    result = luminance * contrast_structure
    return result.reshape(*prediction.shape[:-3], channels, *result.shape[-2:]).movedim(-3, -1)


def _blur(planes: Float[Tensor, "k n h w"], padding: Padding) -> Float[Tensor, "k n h2 w2"]:
    """Gaussian window of weight 1, as two one-dimensional passes: the 11x11 window is their outer product."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = (window / window.sum()).to(planes)
    count = planes.shape[0] * planes.shape[1]
    edge = WINDOW // 2 if padding == "same" else 0
    # One group a plane: many times faster on a CPU than the planes as a batch of single-channel pictures.
    flat = planes.reshape(1, count, *planes.shape[2:])
    flat = F.conv2d(flat, window.view(1, 1, -1, 1).expand(count, 1, -1, 1), padding=(edge, 0), groups=count)
    flat = F.conv2d(flat, window.view(1, 1, 1, -1).expand(count, 1, 1, -1), padding=(0, edge), groups=count)
    return flat.view(*planes.shape[:2], *flat.shape[2:])
