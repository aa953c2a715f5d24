"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from studio.metrics.masked import Mask, check_pair, pixel_mean


def psnr(
    prediction: Float[Tensor, "*batch h w c"],
    target: Float[Tensor, "*batch h w c"],
    mask: Mask | None = None,
    *,
    data_range: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range² / MSE), one figure a picture.

    A set of photos is reported as the mean of these figures (`EvaluationReport.psnr`), as the field does; that is
    at least the PSNR of the pooled squared error, which would weigh bad photos more.

    Args:
        prediction: Render, any floating dtype; the arithmetic stays in that dtype.
        target: Photo, same shape and dtype.
        mask: Pixels that count: bool, or weights in [0, 1]. The mean runs over those pixels and all channels.
        data_range: Largest possible value minus smallest.

    Returns:
        dB; inf where the pictures are equal, NaN where the mask is empty.

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """
    check_pair(prediction, target, mask)
    mse = pixel_mean((prediction - target).square(), mask)
    return 20.0 * math.log10(data_range) - 10.0 * mse.log10()
