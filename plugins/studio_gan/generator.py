"""The gan plugin: one class that trains and uses every family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleOptions, SampleRequest, TrainingContext
from studio.plugin.conditions import class_weights
from studio.plugin.latents import path_between
from studio.plugin.modes import evaluating
from studio.plugin.needs import check_picture_range
from studio.plugin.noise import normal, numbers_of
from studio.plugin.padding import crop_to, pad_to
from studio_gan.attention import AttentionDiscriminator, AttentionGenerator, normalise_spectrally
from studio_gan.average import MovingAverage
from studio_gan.config import GanConfig
from studio_gan.convolutional import (
    ConvolutionalDiscriminator,
    ConvolutionalGenerator,
    initialise,
    layer_norm,
)
from studio_gan.data_shape import NO_DATA, check_data, network_side, nominal
from studio_gan.fully_connected import (
    ConditionalDiscriminator,
    ConditionalGenerator,
    PointDiscriminator,
    PointGenerator,
)
from studio_gan.latent import Boundary, arithmetic, edit_boundary, invert
from studio_gan.losses import clip_weights, discriminator_loss, generator_loss, gradient_penalty
from studio_gan.progressive import (
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    enlarge,
    last_level,
    shrink,
    stage_at,
)

Condition = Sequence[int] | Sequence[str] | Tensor

_SEARCH_STEPS, _RESTARTS = 200, 4


@dataclass
class GanSampleOptions(SampleOptions):
    """How a GAN draws."""

    truncation: float = 1.0
    """Standard deviation of the latents; below 1 trades variety for quality."""
    average: bool = True
    """Draw from the moving average of the generator instead of its newest weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.truncation < math.inf:
            raise StudioError(f"truncation: {self.truncation} is not a standard deviation.", fix="Give 0 or more.")


class GanGenerator(Generator):
    """Generative adversarial networks behind the common interface.

    One training step is a round: `discriminator_steps` of the discriminator, a fresh batch each, then
    `generator_steps` of the generator. Pictures live in [−1, 1] inside, in [0, 1] outside. A model without classes
    ignores the labels that given samples come with, and refuses to draw samples of a class.
    """

    config: GanConfig
    sample_options = GanSampleOptions
    stage: Tensor | None

    def __init__(self, config: GanConfig, data_info: DataInfo) -> None:
        if data_info == NO_DATA:
            data_info = nominal(config)
        super().__init__(config, data_info)
        check_data(config, data_info)
        self.num_classes = (data_info.num_classes or 0) if config.family == "conditional" else 0
        self.generator, self.discriminator = _build(config, data_info)
        if config.family not in ("points", "conditional"):
            # Convolutions are about a fifth faster with the channels innermost.
            self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # How far a ProGAN has grown; a run's samples depend on it, so it is saved with the weights.
        self.register_buffer("stage", torch.zeros(()) if config.family == "progressive" else None)
        self.average = MovingAverage(self.generator, config.average_decay) if config.average_decay > 0 else None

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        check_data(self.config, DataInfo(dataset.sample_shape, dataset.num_classes, dataset.class_names))
        if self.config.family != "points":
            check_picture_range(dataset)

    def setup_training(self, context: TrainingContext) -> None:
        config = self.config
        self._context = context
        betas = (config.beta1, config.beta2)
        self._optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=config.lr_generator, betas=betas),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), lr=config.lr_discriminator, betas=betas),
        }

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch_size * self.config.discriminator_steps)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        progress = self._context.progress(step)
        self._schedule(progress)
        real = self._enter(batch.x)
        if self.stage is not None:
            self.stage.fill_(self._stage_at(progress))
            real = shrink(real, float(self.stage))
        classes = self._weights(batch.cond, len(real)) if self.num_classes else None
        figures: dict[str, Tensor] = {}
        parts = self.config.discriminator_steps
        for i, part in enumerate(real.chunk(parts)):
            labels = None if classes is None else classes.chunk(parts)[i]
            figures.update(self._discriminator_step(part, labels))
        for _ in range(self.config.generator_steps):
            figures.update(self._generator_step(self.config.batch_size))
            if self.average is not None:
                self.average.update(self.generator)
        return figures

    def _stage_at(self, progress: float) -> float:
        return stage_at(progress, last_level(network_side(self.data_info)), self.config.growth)

    def step_cost(self, progress: float) -> float:
        # Every level has half the channels at four times the pixels: it costs about as much as the one before.
        return 1.0 if self.stage is None else 1.0 + math.ceil(self._stage_at(progress))

    def _schedule(self, progress: float) -> None:
        start = self.config.lr_decay_start
        left = 1.0 if progress <= start else (1 - progress) / (1 - start)
        self._optimizers["generator"].param_groups[0]["lr"] = self.config.lr_generator * left
        self._optimizers["discriminator"].param_groups[0]["lr"] = self.config.lr_discriminator * left

    def _discriminator_step(self, real: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad():
            # Of the same classes as the real ones, so that nothing but the samples tells the two apart.
            fake = self._generate(len(real), classes)
        real_logits, fake_logits = self._judge(real, classes), self._judge(fake, classes)
        loss = discriminator_loss(config.loss, real_logits, fake_logits, config.label_smoothing)
        figures = {
            "loss": loss.detach(),
            "real_accuracy": (real_logits > 0).float().mean(),
            "fake_accuracy": (fake_logits < 0).float().mean(),
        }
        if config.loss == "wgan-gp":
            shares = torch.rand(len(real), generator=self._context.generator).to(real)
            penalty = gradient_penalty(lambda x: self._judge(x, classes), real, fake, shares)
            figures["penalty"] = penalty.detach()
            loss = loss + config.penalty_weight * penalty
        self._update("discriminator", loss)
        if config.loss == "wasserstein":
            clip_weights(self.discriminator.parameters(), config.clip)
        return figures

    def _generator_step(self, count: int) -> dict[str, Tensor]:
        # The discriminator passes gradients on but needs none of its own.
        self.discriminator.requires_grad_(False)
        classes = self._drawn_classes(count) if self.num_classes else None
        fake = self._generate(count, classes)
        loss = generator_loss(self.config.loss, self._judge(fake, classes))
        self._update("generator", loss)
        self.discriminator.requires_grad_(True)
        return {"generator_loss": loss.detach()}

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _generate(self, count: int, classes: Tensor | None) -> Tensor:
        """Samples of the present generator, for training."""
        z = torch.randn(count, self.config.latent_dim, generator=self._context.generator).to(self.device)
        return self.generator(z, *self._beside(classes))

    def _drawn_classes(self, count: int) -> Tensor:
        """Class weights of uniformly drawn classes."""
        labels = torch.randint(self.num_classes, (count,), generator=self._context.generator)
        return F.one_hot(labels, self.num_classes).float().to(self.device)

    def _judge(self, x: Tensor, classes: Tensor | None) -> Tensor:
        return self.discriminator(x, *self._beside(classes))

    def _beside(self, classes: Tensor | None) -> tuple[Tensor | float, ...]:
        """What both networks are told besides latents or samples: the classes, or how far they have grown."""
        if self.stage is not None:
            return (float(self.stage),)
        return () if classes is None else (classes,)

    def training_state(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(dict(state[name]))

    # ---- use -----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, " n *shape"]:
        """Generate from `n` normal latents; without a condition, a conditional model draws all classes in turn.

        Options are the fields of `GanSampleOptions`.
        """
        chosen = GanSampleOptions(**options)
        z = chosen.truncation * self._latents(n, generator or torch.Generator())
        if condition is None and self.num_classes:
            condition = [i % self.num_classes for i in numbers_of(generator, n)]
        return self._leave(self._run(z, self._weights(condition, n), average=chosen.average))

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b d"], condition: Condition | None = None) -> Float[Tensor, " b *shape"]:
        """G(z), by the averaged generator.

        Raises:
            StudioError: No condition for a conditional model.
        """
        if condition is None and self.num_classes:
            raise StudioError("The model is conditional; a latent alone says no class.", fix="Give a condition.")
        return self._leave(self._run(z.to(self.device), self._weights(condition, len(z))))

    def invert(
        self,
        x: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
        steps: int = _SEARCH_STEPS,
        restarts: int = _RESTARTS,
    ) -> Float[Tensor, "b d"]:
        """z* = argmin ‖G(z) − x‖² for each sample, the best of `restarts` random starts.

        Without a condition, a conditional model is searched in every class (`most_likely_class` tells which fits).
        """
        return self._inverted(x, condition, generator or torch.Generator(), steps, restarts)[0]

    def most_likely_class(
        self, x: Float[Tensor, " b *shape"], generator: torch.Generator | None = None, steps: int = _SEARCH_STEPS
    ) -> Tensor:
        """The class in which each sample can be generated most closely, (b,) int64.

        Raises:
            StudioError: The model has no classes.
        """
        if not self.num_classes:
            raise StudioError("The model was trained without classes.", fix="Train with --preset cgan-mnist.")
        weights = self._inverted(x, None, generator or torch.Generator(), steps, 1)[1]
        assert weights is not None
        return weights.argmax(1)

    def reconstruct(
        self,
        x: Float[Tensor, " b *shape"],
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " b *shape"]:
        """What the generator can do that is closest to the samples: G(z*)."""
        z, classes = self._inverted(x, condition, generator or torch.Generator(), _SEARCH_STEPS, _RESTARTS)
        with torch.no_grad():
            return self._leave(self._run(z, classes))

    def interpolate(
        self,
        steps: int,
        start: Float[Tensor, "*shape"] | None = None,
        end: Float[Tensor, "*shape"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
        *,
        spherical: bool = False,
    ) -> Float[Tensor, " steps *shape"]:
        """G along z_t = (1 − t) z_0 + t z_1; a class blends into the other likewise.

        Args:
            steps: How many, ends included.
            start, end: Samples to go between, inverted first; random latents where None.
            condition: One class, kept all the way, or one a step. None: from the class of one end to the other's.
            generator: CPU generator of what is drawn.
            spherical: Go along the great circle instead of the straight line.
        """
        generator = generator or torch.Generator()
        weights = None if condition is None else self._weights(condition, steps)
        ends, classes = [], []
        for x, step in ((start, 0), (end, steps - 1)):
            z = self._latents(1, generator)
            drawn = torch.randint(max(self.num_classes, 1), (1,), generator=generator)
            if x is not None:
                fixed = None if weights is None else weights[step : step + 1].argmax(1)
                z, known = self._inverted(x[None], fixed, generator, _SEARCH_STEPS, _RESTARTS)
            else:
                known = self._weights(drawn, 1) if self.num_classes else None
            ends.append(z[0])
            classes.append(known)
        if weights is None and classes[0] is not None and classes[1] is not None:
            weights = path_between(classes[0][0], classes[1][0], steps)
        with torch.no_grad():
            return self._leave(self._run(path_between(ends[0], ends[1], steps, spherical=spherical), weights))

    def latent_arithmetic(
        self,
        base: Float[Tensor, "a d"],
        minus: Float[Tensor, "b d"],
        plus: Float[Tensor, "c d"],
        condition: Condition | None = None,
    ) -> Float[Tensor, "*shape"]:
        """The sample of mean(base) − mean(minus) + mean(plus)."""
        return self.decode(arithmetic(base, minus, plus)[None], condition)[0]

    def edit_direction(self, latents: Float[Tensor, "n d"], has_attribute: Tensor) -> Boundary:
        """The linear boundary of an attribute in latent space; its normal is the direction that edits the attribute.

        Args:
            latents: Such as drawn for samples, or found by `invert`.
            has_attribute: Whether each one's sample has the attribute, (n,) bool.
        """
        return edit_boundary(latents, has_attribute)

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _latents(self, n: int, generator: torch.Generator) -> Tensor:
        return normal((n, self.config.latent_dim), generator).to(self.device)

    def _run(self, z: Tensor, classes: Tensor | None, *, average: bool = True) -> Tensor:
        """The generator as it is used: statistics of batch norm fixed, averaged weights."""
        inputs = (z, *self._beside(classes))
        with evaluating(self.generator):
            if average and self.average is not None:
                made = self.average.run(self.generator, *inputs)
            else:
                made = self.generator(*inputs)
        return made if self.stage is None else enlarge(made, network_side(self.data_info))

    def _inverted(
        self, x: Tensor, condition: Condition | None, generator: torch.Generator, steps: int, restarts: int
    ) -> tuple[Tensor, Tensor | None]:
        """Latents of samples and the class weights that they go with."""
        target = self._enter(x)
        count = len(target)
        starts = torch.randn(restarts, count, self.config.latent_dim, generator=generator).to(self.device)

        def search(classes: Tensor | None) -> tuple[Tensor, Tensor]:
            repeated = None if classes is None else classes.repeat(restarts, 1)
            return invert(lambda z: self._run(z, repeated), target, starts, steps=steps)

        if not self.num_classes:
            return search(None)[0], None
        if condition is not None:
            classes = self._weights(condition, count)
            return search(classes)[0], classes
        found = [search(self._weights([label], count)) for label in range(self.num_classes)]
        best = torch.stack([error for _, error in found]).argmin(0)
        latents = torch.stack([z for z, _ in found])[best, torch.arange(count, device=best.device)]
        return latents, self._weights(best, count)

    def _weights(self, condition: Condition | None, n: int) -> Tensor | None:
        """Class weights (n, num_classes) of a condition; None for an unconditional model."""
        if not self.num_classes:
            if condition is not None:
                raise StudioError("The model was trained without classes.", fix="Leave out the condition.")
            return None
        if condition is None:
            raise StudioError("The data set has no labels, which this model needs.", fix="Use --preset dcgan.")
        return class_weights(condition, n, self.data_info).to(self.device)

    def _enter(self, x: Tensor) -> Tensor:
        """Samples as the networks take them: points, or pictures in [−1, 1], as rows or padded to the side."""
        shape = self.data_info.sample_shape
        if tuple(x.shape[1:]) != shape:
            raise ValueError(f"x must have shape (b, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        x = x.to(self.device, torch.float32)
        if self.config.family == "points":
            return x
        x = 2 * x - 1
        if self.config.family == "conditional":
            return x.flatten(1)
        return pad_to(x, network_side(self.data_info), value=-1.0)

    def _leave(self, x: Tensor) -> Tensor:
        """Inverse of `_enter`."""
        shape = self.data_info.sample_shape
        if self.config.family == "points":
            return x
        if self.config.family == "conditional":
            x = x.reshape(-1, *shape)
        else:
            x = crop_to(x, *shape[1:])
        # ProGAN ends without tanh and may leave the range.
        return ((x + 1) / 2).clamp(0, 1)


def _build(config: GanConfig, info: DataInfo) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of a family, with their initial weights."""
    latent, size = config.latent_dim, math.prod(info.sample_shape)
    generator: nn.Module
    discriminator: nn.Module
    if config.family == "points":
        # Small networks of two numbers would start all but dead with the weights that pictures start from.
        return (
            PointGenerator(latent, config.generator_hidden, size),
            PointDiscriminator(size, config.discriminator_hidden),
        )
    if config.family == "conditional":
        classes = (info.num_classes or 0, config.embedding_dim)
        generator = ConditionalGenerator(latent, config.generator_hidden, size, *classes)
        discriminator = ConditionalDiscriminator(size, config.discriminator_hidden, *classes, config.dropout)
    else:
        channels, side = info.sample_shape[0], network_side(info)
        if config.family == "progressive":
            # These bring their own initial weights.
            return (
                ProgressiveGenerator(latent, channels, side, config.width),
                ProgressiveDiscriminator(channels, side, config.width),
            )
        if config.family == "convolutional":
            generator = ConvolutionalGenerator(latent, channels, side, config.width)
            norm = layer_norm if config.loss == "wgan-gp" else nn.BatchNorm2d
            discriminator = ConvolutionalDiscriminator(channels, side, config.width, norm)
        else:
            generator = AttentionGenerator(latent, channels, side, config.width, config.attention_side)
            discriminator = AttentionDiscriminator(channels, side, config.width, config.attention_side)
    for network in (generator, discriminator):
        initialise(network)
        if config.family == "attention":
            normalise_spectrally(network)
    return generator, discriminator
