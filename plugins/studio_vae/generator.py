"""The vae plugin: one class that trains and uses every family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleOptions, SampleRequest, TrainingContext
from studio.plugin.conditions import class_weights
from studio.plugin.latents import path_between
from studio.plugin.needs import check_picture_range
from studio.plugin.noise import normal, numbers_of, uniform
from studio.plugin.padding import crop_to, pad_to
from studio_vae.autoencoder import (
    CodeDecoder,
    CodeEncoder,
    CodeStatistics,
    contraction_penalty,
    corrupt,
    sparsity_penalty,
)
from studio_vae.config import VaeConfig
from studio_vae.data_shape import NO_DATA, check_data, makes_pictures, nominal
from studio_vae.distributions import bernoulli_log_prob, gaussian_log_prob
from studio_vae.image_vae import PictureDecoder, PictureEncoder, side_of
from studio_vae.vae import GaussianEncoder, PointDecoder, elbo_terms, importance_weighted_bound

Condition = Sequence[int] | Sequence[str] | Tensor

_FIRST_STD = 0.2
"""Where a learned decoder deviation starts: about that of the pixels of a picture."""


@dataclass
class VaeSampleOptions(SampleOptions):
    """How a VAE draws."""

    temperature: float = 1.0
    """Standard deviation of the codes drawn; below 1 trades variety for typicality."""
    noise: bool = False
    """Draw from p(x|z) instead of showing its mean."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise StudioError(f"temperature: {self.temperature} is not a standard deviation.", fix="Give 0 or more.")


class VaeGenerator(Generator):
    """Autoencoders and VAEs behind the common interface.

    Conditional models: where no condition comes with given samples, the class that explains each best (by the ELBO) is
    taken; new samples are of all classes in turn. Other models ignore the labels that given samples come with, and
    refuse to draw samples of a class.
    """

    config: VaeConfig
    sample_options = VaeSampleOptions
    likelihood_kind: ClassVar[str] = "bound"
    """`log_likelihood` is a lower bound."""

    def __init__(self, config: VaeConfig, data_info: DataInfo) -> None:
        if data_info == NO_DATA:
            data_info = nominal(config)
        super().__init__(config, data_info)
        check_data(config, data_info)
        self.num_classes = (data_info.num_classes or 0) if config.conditional else 0
        shape, latent = data_info.sample_shape, config.latent_dim
        size = math.prod(shape)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.family == "autoencoder":
            self.encoder = CodeEncoder(size, config.hidden, latent, config.activation)
            self.decoder = CodeDecoder(size, config.hidden, latent, config.activation)
            self.codes = CodeStatistics(latent)
        elif config.family == "vae":
            self.encoder = GaussianEncoder(size, config.hidden, latent)
            self.decoder = PointDecoder(size, config.hidden, latent)
        else:
            picture = (shape[0], self.num_classes, config.widths, latent, config.kernel_size)
            # Convolutions are up to a fifth faster with the channels innermost.
            self.encoder = PictureEncoder(*picture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.decoder = PictureDecoder(*picture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._variational and config.likelihood == "gaussian" and config.decoder_std is None:
            self.decoder_log_std = nn.Parameter(torch.tensor(math.log(_FIRST_STD)))

    def networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def _variational(self) -> bool:
        return self.config.family != "autoencoder"

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        info = DataInfo(dataset.sample_shape, dataset.num_classes, dataset.class_names)
        check_data(self.config, info)
        if makes_pictures(self.config):
            check_picture_range(dataset)

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch_size)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        progress = self._context.progress(step)
        x = self._enter(batch.x)
        if self._variational:
            classes = self._weights(batch.cond, len(x)) if self.num_classes else None
            figures = self._variational_loss(x, classes, progress)
        else:
            figures = self._autoencoder_loss(x)
        for group in self._optimizer.param_groups:
            # Cosine from lr down to lr · lr_final.
            left = self.config.lr_final
            group["lr"] = self.config.lr * (left + (1 - left) * 0.5 * (1 + math.cos(math.pi * progress)))
        self._optimizer.zero_grad()
        figures["loss"].backward()
        self._optimizer.step()
        return {name: value.detach() for name, value in figures.items()}

    def _variational_loss(self, x: Tensor, classes: Tensor | None, progress: float) -> dict[str, Tensor]:
        mean, log_std = self._posterior(x, classes)
        noise = torch.randn(mean.shape, generator=self._context.generator).to(mean)
        log_prob, kl = elbo_terms(mean, log_std, noise, lambda z: self._log_prob(x, self._decoded(z, classes)))
        beta = self.config.beta
        if self.config.beta_warmup > 0:
            beta *= min(progress / self.config.beta_warmup, 1.0)
        loss = (beta * kl - log_prob).mean()
        return {"loss": loss, "kl": kl.mean(), "log_prob": log_prob.mean()}

    def _autoencoder_loss(self, x: Tensor) -> dict[str, Tensor]:
        config, encoder = self.config, self.encoder
        assert isinstance(encoder, CodeEncoder)
        damaged = corrupt(x, config.corruption, config.corruption_level, self._context.generator)
        codes = encoder(damaged)
        self.codes.update(codes.detach())
        error = F.mse_loss(self._mean(self.decoder(codes)), x)
        figures = {"loss": error, "mse": error}
        if config.sparsity > 0:
            figures["sparsity"] = sparsity_penalty(codes, config.sparsity_p)
            figures["loss"] = figures["loss"] + config.sparsity * figures["sparsity"]
        if config.contraction > 0:
            figures["contraction"] = contraction_penalty(encoder, damaged)
            figures["loss"] = figures["loss"] + config.contraction * figures["contraction"]
        return figures

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))

    # ---- use -----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, " n *shape"]:
        """Decode `n` codes of the prior; an autoencoder, which has none, decodes a Gaussian fitted to its codes.

        Options are the fields of `VaeSampleOptions`.
        """
        chosen = VaeSampleOptions(**options)
        generator = generator or torch.Generator()
        z = chosen.temperature * normal((n, self.config.latent_dim), generator).to(self.device)
        if not self._variational:
            z = self.codes.draw(z)
        if condition is None and self.num_classes:
            condition = [i % self.num_classes for i in numbers_of(generator, n)]
        decoded = self._decoded(z, self._weights(condition, n))
        x = self._mean(decoded)
        if chosen.noise and self._variational:
            x = self._draw(x, generator)
        return self._leave(x)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, " b *shape"], condition: Condition | None = None) -> Float[Tensor, "b d"]:
        """Codes of samples; a VAE's are the means of q(z|x)."""
        entered = self._enter(x)
        return self._code(entered, self._weights_of(entered, condition))

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b d"], condition: Condition | None = None) -> Float[Tensor, " b *shape"]:
        """The samples, or means of p(x|z), of codes.

        Raises:
            StudioError: No condition for a conditional model.
        """
        if condition is None and self.num_classes:
            raise StudioError("The model is conditional; a code alone says no class.", fix="Give a condition.")
        z = z.to(self.device)
        return self._leave(self._mean(self._decoded(z, self._weights(condition, len(z)))))

    @torch.no_grad()
    def reconstruct(
        self,
        x: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " b *shape"]:
        """Encode and decode; nothing is drawn."""
        entered = self._enter(x)
        return self._leave(self._reconstructed(entered, condition))

    @torch.no_grad()
    def interpolate(
        self,
        steps: int,
        start: Float[Tensor, "*shape"] | None = None,
        end: Float[Tensor, "*shape"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " steps *shape"]:
        """Decode z_t = (1 − t) z_0 + t z_1 for t from 0 to 1; a class blends into the other likewise.

        Args:
            steps: How many, ends included.
            start, end: Samples to go between; codes of the prior where None.
            condition: One class, kept all the way, or one a step. None: from the class of one end to the other's.
            generator: CPU generator of what is drawn.
        """
        generator = generator or torch.Generator()
        weights = None if condition is None else self._weights(condition, steps)
        codes, classes = [], []
        for x, step in ((start, 0), (end, steps - 1)):
            code = torch.randn(1, self.config.latent_dim, generator=generator).to(self.device)
            drawn = torch.randint(max(self.num_classes, 1), (1,), generator=generator)
            if x is not None:
                entered = self._enter(x[None])
                known = self._weights_of(entered, None) if weights is None else weights[step : step + 1]
                code = self._code(entered, known)
            else:
                known = self._weights(drawn, 1) if self.num_classes else None
                code = code if self._variational else self.codes.draw(code)
            codes.append(code)
            classes.append(known)
        if weights is None and classes[0] is not None and classes[1] is not None:
            weights = path_between(classes[0][0], classes[1][0], steps)
        return self._leave(self._mean(self._decoded(path_between(codes[0][0], codes[1][0], steps), weights)))

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
        *,
        importance_samples: int | None = None,
    ) -> Float[Tensor, " b"]:
        """A lower bound of ln p(x|y), or without a condition of ln p(x) with all classes equally likely; nats.

        Borders that pad pictures for the network do not count. For Bernoulli pixels, see `bernoulli_log_prob`.

        Args:
            x: Samples.
            condition: Classes, one a sample.
            generator: CPU generator of the draws.
            importance_samples: Draws a sample; those of the configuration when None.

        Raises:
            StudioError: An autoencoder, which assigns no probability.
        """
        self._need_distribution()
        generator = generator or torch.Generator()
        draws = importance_samples or self.config.importance_samples
        entered = self._enter(x)

        def bound(classes: Tensor | None) -> Tensor:
            mean, log_std = self._posterior(entered, classes)
            noises = (torch.randn(mean.shape, generator=generator).to(mean) for _ in range(draws))
            return importance_weighted_bound(mean, log_std, noises, lambda z: self._inner_log_prob(entered, z, classes))

        if not self.num_classes or condition is not None:
            return bound(self._weights_of(entered, condition))
        each = torch.stack([bound(self._weights([label], len(x))) for label in range(self.num_classes)])
        return each.logsumexp(0) - math.log(self.num_classes)

    @torch.no_grad()
    def elbo(
        self,
        x: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " b"]:
        """The ELBO by one draw, nats: what training maximises with β = 1, borders included."""
        self._need_distribution()
        entered = self._enter(x)
        classes = self._weights_of(entered, condition)
        mean, log_std = self._posterior(entered, classes)
        noise = torch.randn(mean.shape, generator=generator or torch.Generator()).to(mean)
        log_prob, kl = elbo_terms(mean, log_std, noise, lambda z: self._log_prob(entered, self._decoded(z, classes)))
        return log_prob - kl

    @torch.no_grad()
    def anomaly_score(self, x: Float[Tensor, " b *shape"], condition: Condition | None = None) -> Float[Tensor, " b"]:
        """Mean squared error of each sample's reconstruction: large for what the training data did not hold."""
        entered = self._enter(x)
        error = self._leave(self._reconstructed(entered, condition)) - self._leave(entered)
        return error.square().flatten(1).mean(1)

    @torch.no_grad()
    def class_grid(self, styles: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *shape"]:
        """Each of `styles` codes decoded as every class: (styles · num_classes, *shape), classes running fastest.

        Raises:
            StudioError: Not a conditional model.
        """
        if not self.num_classes:
            raise StudioError("A class grid needs a conditional model.", fix="Train with --preset cvae-mnist.")
        z = torch.randn(styles, self.config.latent_dim, generator=generator or torch.Generator()).to(self.device)
        classes = torch.eye(self.num_classes, device=self.device).repeat(styles, 1)
        return self._leave(self._mean(self._decoded(z.repeat_interleave(self.num_classes, dim=0), classes)))

    @torch.no_grad()
    def attribute_direction(
        self, having: Float[Tensor, " a *shape"], lacking: Float[Tensor, " b *shape"]
    ) -> Float[Tensor, " d"]:
        """The code of an attribute: the mean code of samples that have it minus that of samples that lack it.

        Added to a sample's code before decoding, it edits the attribute in.
        """
        return self.encode(having).mean(0) - self.encode(lacking).mean(0)

    @torch.no_grad()
    def most_likely_class(self, x: Float[Tensor, " b *shape"]) -> Tensor:
        """The class under which each sample's ELBO, at the mean of q(z|x, y), is largest, (b,) int64."""
        return self._best_class(self._enter(x))

    # ---- between data and networks ---------------------------------------------------------------------------------
    def _enter(self, x: Tensor) -> Tensor:
        """Samples as the networks take them: padded pictures, or rows."""
        shape = self.data_info.sample_shape
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"x must have shape (b, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        x = x.to(self.device, torch.float32)
        return pad_to(x, side_of(self.config.widths)) if self.config.family == "convolutional" else x.flatten(1)

    def _leave(self, x: Tensor) -> Tensor:
        """Inverse of `_enter`."""
        shape = self.data_info.sample_shape
        return crop_to(x, *shape[1:]) if self.config.family == "convolutional" else x.reshape(-1, *shape)

    def _weights(self, condition: Condition | None, n: int) -> Tensor | None:
        """Class weights (n, num_classes) of a condition; None for an unconditional model."""
        if not self.num_classes:
            if condition is not None:
                raise StudioError("The model was trained without classes.", fix="Leave out the condition.")
            return None
        if condition is None:
            raise StudioError("The data set has no labels, which this model needs.", fix="Use --preset beta-vae.")
        return class_weights(condition, n, self.data_info).to(self.device)

    def _weights_of(self, entered: Tensor, condition: Condition | None) -> Tensor | None:
        """The same for given samples: their most likely classes where there is no condition."""
        if not self.num_classes:
            return None
        return self._weights(self._best_class(entered) if condition is None else condition, len(entered))

    def _best_class(self, entered: Tensor) -> Tensor:
        if not self.num_classes:
            raise StudioError("The model was trained without classes.", fix="Train with --preset cvae-mnist.")
        scores = []
        for label in range(self.num_classes):
            classes = self._weights([label], len(entered))
            mean, log_std = self._posterior(entered, classes)
            log_prob, kl = elbo_terms(
                mean,
                log_std,
                torch.zeros_like(mean),
                lambda z, classes=classes: self._log_prob(entered, self._decoded(z, classes)),  # type: ignore[misc]
            )
            scores.append(log_prob - kl)
        return torch.stack(scores).argmax(0)

    # ---- distributions -------------------------------------------------------------------------------------------
    def _posterior(self, entered: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """μ and ln σ of q(z|x, y)."""
        return self.encoder(entered) if classes is None else self.encoder(entered, classes)

    def _code(self, entered: Tensor, classes: Tensor | None) -> Tensor:
        return self._posterior(entered, classes)[0] if self._variational else self.encoder(entered)

    def _decoded(self, z: Tensor, classes: Tensor | None) -> Tensor:
        """What the decoder says: Bernoulli logits, or means."""
        return self.decoder(z) if classes is None else self.decoder(z, classes)

    def _reconstructed(self, entered: Tensor, condition: Condition | None) -> Tensor:
        classes = self._weights_of(entered, condition)
        return self._mean(self._decoded(self._code(entered, classes), classes))

    def _mean(self, decoded: Tensor) -> Tensor:
        """Mean of p(x|z)."""
        logits = self.config.likelihood == "bernoulli" if self._variational else self.config.decoder_output == "sigmoid"
        return decoded.sigmoid() if logits else decoded

    def _log_std(self) -> Tensor | float:
        return self.decoder_log_std if self.config.decoder_std is None else math.log(self.config.decoder_std)

    def _log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """ln p(x|z) of each sample."""
        if self.config.likelihood == "bernoulli":
            return bernoulli_log_prob(x, decoded)
        return gaussian_log_prob(x, decoded, self._log_std())

    def _inner_log_prob(self, entered: Tensor, z: Tensor, classes: Tensor | None) -> Tensor:
        """The same without the border: given z the pixels are independent, so leaving some out is exact."""
        return self._log_prob(self._leave(entered), self._leave(self._decoded(z, classes)))

    def _draw(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of p(x|z) around its mean."""
        if self.config.likelihood == "bernoulli":
            return (uniform(mean.shape, generator).to(mean) < mean).to(mean.dtype)
        std = torch.as_tensor(self._log_std()).exp().to(mean.device)
        return mean + std * normal(mean.shape, generator).to(mean)

    def _need_distribution(self) -> None:
        if not self._variational:
            raise StudioError(
                "An autoencoder gives no likelihood: it has no distribution of samples.",
                fix="Train a VAE, such as --preset vae-2d or cvae-mnist.",
            )
