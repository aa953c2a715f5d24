"""Moving about in latent space: inversion, arithmetic, and directions that edit an attribute.

Sources: Zhu et al., "Generative Visual Manipulation on the Natural Image Manifold", 2016 (inversion); Radford et al.,
"Unsupervised Representation Learning with Deep Convolutional GANs", 2016 (arithmetic); Shen et al., "Interpreting the
Latent Space of GANs for Semantic Face Editing", 2020 (linear boundaries).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def invert(
    decode: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b ..."],
    starts: Float[Tensor, "r b d"],
    *,
    steps: int = 200,
    lr: float = 0.05,
    prior_weight: float = 1e-3,
) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """z* = argmin_z ‖G(z) − x‖² by Adam, the best of several starts for each sample.

    Args:
        decode: G: z (n, d) → samples (n, ...), each from its own z only; n is r · b, start by start.
        x: Samples to find.
        starts: Where each of the r searches begins.
        steps: Steps of Adam, whose rate falls to zero as a cosine.
        lr: Its rate at the start.
        prior_weight: Weight of ‖z‖²/d, which keeps z where G was trained.

    Returns:
        The latents, and the mean squared error of each.
    """
    restarts, count, _ = starts.shape
    target = x.detach().flatten(1).repeat(restarts, 1)
    with torch.enable_grad():
        z = starts.detach().reshape(restarts * count, -1).clone().requires_grad_(True)
        optimizer = torch.optim.Adam([z], lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        for _ in range(steps):
            error = (decode(z).flatten(1) - target).square().mean(1)
            loss = (error + prior_weight * z.square().mean(1)).sum()
            (z.grad,) = torch.autograd.grad(loss, z)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        error = (decode(z).flatten(1) - target).square().mean(1).reshape(restarts, count)
        best = error.argmin(0)
        each = torch.arange(count, device=z.device)
        return z.detach().reshape(restarts, count, -1)[best, each], error[best, each]


def arithmetic(
    base: Float[Tensor, "a d"], minus: Float[Tensor, "b d"], plus: Float[Tensor, "c d"]
) -> Float[Tensor, " d"]:
    """mean(base) − mean(minus) + mean(plus), as in "smiling woman − neutral woman + neutral man"."""
    return base.mean(0) - minus.mean(0) + plus.mean(0)


@dataclass(frozen=True)
class Boundary:
    """A hyperplane nᵀz = offset that parts the latents with an attribute (positive side) from those without."""

    normal: Float[Tensor, " d"]
    """Unit vector: the edit direction."""
    offset: float
    accuracy: float
    """Share of the latents it was fitted to that lie on their side."""

    def distance(self, z: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Signed distance of latents from the plane."""
        return z @ self.normal - self.offset

    def move(self, z: Float[Tensor, "b d"], amount: float) -> Float[Tensor, "b d"]:
        """Latents moved by `amount` along the normal: more of the attribute, or less where negative."""
        return z + amount * self.normal


def edit_boundary(
    latents: Float[Tensor, "n d"], has_attribute: Bool[Tensor, " n"], *, ridge: float = 1e-2, iterations: int = 30
) -> Boundary:
    """The linear boundary of an attribute by logistic regression (Newton's method).

    Args:
        latents: Latents whose samples were looked at, by a person or a classifier.
        has_attribute: Whether each sample has the attribute.
        ridge: Weight of ½‖w‖² beside the mean log-loss; keeps the fit finite where the two sides can be parted.
        iterations: Newton steps.

    Raises:
        ValueError: All latents lie on one side.
    """
    labels = has_attribute.bool()
    if not bool(labels.any()) or bool(labels.all()):
        raise ValueError("has_attribute must hold both True and False")
    count = latents.shape[0]
    design = torch.cat([latents.double().cpu(), torch.ones(count, 1, dtype=torch.float64)], dim=1)
    target = labels.double().cpu()
    damping = ridge * torch.eye(design.shape[1], dtype=torch.float64)
    # The bias is free, but for what keeps the system solvable.
    damping[-1, -1] = 1e-9
    w = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(iterations):
        p = (design @ w).sigmoid()
        slope = design.T @ (p - target) / count + damping @ w
        curvature = design.T @ (design * (p * (1 - p))[:, None]) / count + damping
        w = w - torch.linalg.solve(curvature, slope)
    length = w[:-1].norm()
    right = ((design @ w > 0) == labels.cpu()).double().mean()
    return Boundary((w[:-1] / length).to(latents), float(-w[-1] / length), float(right))
