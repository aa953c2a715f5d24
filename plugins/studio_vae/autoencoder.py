"""Autoencoders without a distribution: plain, denoising, sparse and contractive.

An encoder E and a decoder D learn D(E(x)) ≈ x through a narrow code. Nothing says how the codes are spread, so a code
drawn from a Gaussian fitted to them falls between those that the decoder knows: such an autoencoder is no good
generator, which `CodeStatistics` lets one see.

Sources: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", 2008; Ng, "Sparse
autoencoder", 2011; Rifai et al., "Contractive Auto-Encoders", 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio_vae.layers import mlp


class CodeEncoder(nn.Module):
    """E: data_dim → hidden → latent_dim, the activation after every layer but the last."""

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int, activation: str = "relu") -> None:
        super().__init__()
        self.layers = mlp((data_dim, *hidden, latent_dim), activation)

    def forward(self, x: Float[Tensor, "b data_dim"]) -> Float[Tensor, "b latent_dim"]:
        return self.layers(x)

    def jacobian(self, x: Float[Tensor, "b data_dim"]) -> Float[Tensor, "b latent_dim data_dim"]:
        """∂E/∂x of each sample by the chain rule, layer by layer; gradients pass through it."""
        product: Tensor | None = None
        slopes: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                slopes.append((x > 0).to(x.dtype))
            elif isinstance(layer, nn.Sigmoid):
                slopes.append(x * (1 - x))
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        # J = W_n diag(s_{n-1}) W_{n-1} … diag(s_1) W_1, from the left: codes are narrower than data.
        product = linear[-1].weight.expand(x.shape[0], -1, -1)
        for layer, slope in zip(reversed(linear[:-1]), reversed(slopes), strict=True):
            product = (product * slope[:, None, :]) @ layer.weight
        return product


class CodeDecoder(nn.Module):
    """D: the encoder's layers mirrored. Returns logits where pictures are made: the sigmoid lives in the loss."""

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int, activation: str = "relu") -> None:
        super().__init__()
        self.layers = mlp((latent_dim, *reversed(hidden), data_dim), activation)

    def forward(self, z: Float[Tensor, "b latent_dim"]) -> Float[Tensor, "b data_dim"]:
        return self.layers(z)


def corrupt(
    x: Float[Tensor, "b ..."], kind: str, level: float, generator: torch.Generator | None = None
) -> Float[Tensor, "b ..."]:
    """Damage samples as a denoising autoencoder is to undo it.

    Args:
        x: Samples; pictures in [0, 1].
        kind: 'gaussian' adds noise of standard deviation `level`; 'masking' sets a share `level` of the entries to 0;
            'salt-and-pepper' sets a share `level` to 0 or 1, each as likely; 'none' leaves them.
        level: At least 0, and at most 1 for shares.
        generator: CPU generator of the draws.

    Raises:
        ValueError: Another kind.
    """
    if kind == "none":
        return x
    if kind == "gaussian":
        return x + level * torch.randn(x.shape, generator=generator).to(x)
    draw = torch.rand(x.shape, generator=generator).to(x.device)
    if kind == "masking":
        return x.masked_fill(draw < level, 0.0)
    if kind == "salt-and-pepper":
        return x.masked_fill(draw < level, 1.0).masked_fill(draw < level / 2, 0.0)
    raise ValueError(f"kind must be none, gaussian, masking or salt-and-pepper, got {kind!r}")


def sparsity_penalty(codes: Float[Tensor, "b d"], p: float = 1.0) -> Float[Tensor, ""]:
    """(1/N) Σ ‖E(x)‖_p over the N samples of a batch."""
    return codes.norm(p=p, dim=1).mean()


def contraction_penalty(encoder: CodeEncoder, x: Float[Tensor, "b data_dim"]) -> Float[Tensor, ""]:
    """(1/N) Σ ‖∂E/∂x‖²_F over the N samples of a batch."""
    return encoder.jacobian(x).square().sum((1, 2)).mean()


class CodeStatistics(nn.Module):
    """Mean and covariance of the codes met in training, for drawing codes from the Gaussian that fits them."""

    mean: Tensor
    second_moment: Tensor
    weight: Tensor

    def __init__(self, latent_dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("second_moment", torch.zeros(latent_dim, latent_dim))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, codes: Float[Tensor, "b d"]) -> None:
        """Take a batch's codes into the moving averages."""
        self.mean.lerp_(codes.mean(0), 1 - self.decay)
        self.second_moment.lerp_(codes.T @ codes / codes.shape[0], 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)

    def draw(self, noise: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Codes of the fitted Gaussian from standard normal noise; the noise itself before any batch was seen."""
        if float(self.weight) == 0.0:
            return noise
        # Both averages began at zero and so are too small by `weight` (the bias correction of Adam).
        mean = self.mean / self.weight
        covariance = self.second_moment / self.weight - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance.double().cpu())
        # Directions that the codes do not use have eigenvalues that rounding may make negative.
        factor = vectors * values.clamp(min=0).sqrt()
        return mean + noise @ factor.to(noise).T
