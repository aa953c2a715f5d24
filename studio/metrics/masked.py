"""What all picture metrics share: checking a pair of pictures, and the mean over the pixels that count."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

Mask = Bool[Tensor, "*batch h w"] | Float[Tensor, "*batch h w"]


def check_pair(prediction: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError unless both are (..., H, W, C) of one shape and floating dtype, and the mask is (..., H, W)."""
    if prediction.ndim < 3 or prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must have one shape (..., H, W, C), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if not prediction.is_floating_point() or prediction.dtype != target.dtype:
        raise ValueError(
            f"prediction and target must share one floating dtype, got {prediction.dtype} and {target.dtype}"
        )
    if mask is not None and mask.shape != prediction.shape[:-1]:
        raise ValueError(f"mask must be (..., H, W) = {tuple(prediction.shape[:-1])}, got {tuple(mask.shape)}")


def pixel_mean(values: Float[Tensor, "*batch h w c"], mask: Mask | None) -> Float[Tensor, "*batch"]:
    """Mean over pixels and channels, weighted by the mask; NaN where a mask is empty.

    Pixels of weight zero are left out even where they are not finite.
    """
    if mask is None:
        return values.mean(dim=(-3, -2, -1))
    weight = mask.to(values.dtype).unsqueeze(-1)
    weighted = (values * weight).where(weight > 0, values.new_zeros(()))
    return weighted.sum(dim=(-3, -2, -1)) / (weight.sum(dim=(-3, -2, -1)) * values.shape[-1])
