"""The photometric loss of 3D Gaussian splatting in torch, on any device: the definition of `kernels.loss`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from studio.metrics import ssim
from studio.metrics.masked import pixel_mean


@dataclass(frozen=True)
class PhotometricLoss:
    """What `photometric_loss` found; scalars are tensors on the images' device."""

    loss: Float[Tensor, ""]
    """(1 - ssim_weight) l1 + ssim_weight (1 - ssim)."""
    l1: Float[Tensor, ""]
    """Mean absolute difference, smooth near zero (`torch.nn.functional.smooth_l1_loss`)."""
    ssim: Float[Tensor, ""]
    """Mean structural similarity, in [-1, 1]."""
    gradient: Float[Tensor, "h w c"]
    """Of the loss with respect to the image."""


def photometric_loss(
    image: Float[Tensor, "h w c"],
    target: Float[Tensor, "h w c"],
    *,
    ssim_weight: float = 0.2,
    smooth_l1: float = 0.0,
    mask: Bool[Tensor, "h w"] | None = None,
) -> PhotometricLoss:
    """L1 and SSIM between an image and its target, and the loss's gradient with respect to the image.

    Pixels outside the mask count as zero in both images, as everything outside the image does: what is in them has no
    influence, and their gradient is 0. With an empty mask the loss is NaN.
    """
    with torch.enable_grad(), _full_precision(image.device):
        leaf = image.detach().requires_grad_()
        shown, wanted = leaf, target
        if mask is not None:
            shown, wanted = (x.where(mask[..., None], x.new_zeros(())) for x in (leaf, target))
        l1 = pixel_mean(functional.smooth_l1_loss(shown, wanted, reduction="none", beta=smooth_l1), mask)
        similarity = ssim(shown, wanted, mask)
        loss = (1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return PhotometricLoss(loss.detach(), l1.detach(), similarity.detach(), gradient)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Without TF32: SSIM's variances are differences of nearly equal blurred squares."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
