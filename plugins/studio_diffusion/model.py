"""The diffusion plugin: training by denoising, sampling, the latent space of deterministic DDIM, and the film."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from studio.datasets import Dataset
from studio.devices import Precision, precision_for, select
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleRequest, TrainingContext
from studio.plugin.latents import path_between
from studio.plugin.noise import normal, rows_of
from studio_diffusion.conditions import vocabulary_of
from studio_diffusion.config import DiffusionConfig, DiffusionSampling
from studio_diffusion.editing import EDIT_MODES, edit_start
from studio_diffusion.muon import Muon
from studio_diffusion.network import Condition, Network
from studio_diffusion.samplers import (
    Correction,
    Denoiser,
    Visit,
    denoise,
    fresh_noise,
    invert,
    visited_levels,
)
from studio_diffusion.schedule import NoiseSchedule, draw_levels

_LARGEST_BATCH = 128
_GUIDANCE = 2.0
_EVALUATIONS = 50
"""Of the network for a sample, where no number is chosen."""
_TABLE_SPREAD = 0.5


class DiffusionModel(Generator):
    """Denoising diffusion (Ho et al. 2020) of points or pictures.

    Training: draw a level t and noise ε, and let the network predict ε (or x_0, or v) from x_t. Sampling: start from
    noise, and go down the levels. Inside, pictures lie in [−1, 1] and points have zero mean and unit deviation.
    """

    config: DiffusionConfig
    sample_options = DiffusionSampling
    edit_modes: ClassVar[Mapping[str, str]] = EDIT_MODES

    def __init__(self, config: DiffusionConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        if config.min_snr is None and config.snr_floor != 0:
            raise StudioError(
                f"snr_floor: {config.snr_floor:g} does nothing without a cap to which it is added.",
                fix="Give --min-snr 5 as well, or --snr-floor 0.",
            )
        self.network = Network(config, data_info)
        self.schedule = NoiseSchedule(config.schedule, config.timesteps)
        points = len(data_info.sample_shape) == 1
        shape = data_info.sample_shape if points else ()
        self.register_buffer("center", torch.zeros(shape) if points else torch.tensor(0.5))
        self.register_buffer("spread", torch.ones(shape) if points else torch.tensor(0.5))
        self._average_weights()

    center: Tensor
    spread: Tensor

    def networks(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"denoiser": self.network.denoiser}
        if self.network.is_conditional:
            parts["condition"] = self.network.captions or self.network.classes or nn.Identity()
        return parts

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        """Learn the words of the captions, or the mean and deviation of points."""
        if self.network.captions is not None:
            self.network.captions.set_vocabulary(vocabulary_of(dataset.captions))
            nn.init.normal_(self.network.captions.table.weight, std=_TABLE_SPREAD, generator=generator)
        if len(self.data_info.sample_shape) == 1:
            points, _ = dataset.batch(range(len(dataset)))
            self.center = points.mean(dim=0)
            self.spread = points.std(dim=0).clamp(min=1e-6)
        self._average_weights()

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if self.network.captions is not None:
            self.network.captions.make_room(shapes["network.captions.table.weight"][0])
            self._average_weights()

    # ---- training ------------------------------------------------------------------------------------------------
    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        config = self.config
        self._precision = self._choose_precision()
        self._scaler = self._precision.grad_scaler()
        inner = self.network.inner_matrices() if config.optimizer == "muon" else []
        taken = {id(p) for p in inner}
        decayed = [p for p in self.network.parameters() if p.ndim > 1 and id(p) not in taken]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        adamw = torch.optim.AdamW(groups, lr=config.lr, fused=context.device.type in ("cpu", "cuda"))
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, config.lr)]
        if inner:
            # float16 has too few bits for small singular values, and no units on most processors.
            dtype = torch.bfloat16 if self._precision.name == "bf16" else torch.float32
            muon = Muon(inner, config.muon_lr, weight_decay=config.weight_decay, dtype=dtype)
            self._optimizers.append((muon, config.muon_lr))

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        self.network.train()
        config, generator = self.config, self._context.generator
        x0 = self._to_model(batch.x)
        n = x0.shape[0]
        t = draw_levels(n, config.timesteps, generator, middle=config.levels == "middle").to(x0.device)
        noise = fresh_noise(x0, generator)
        condition = self.network.condition(batch.cond, n) if self.network.is_conditional else None
        if condition is not None:
            dropped = torch.rand(n, generator=generator) < config.condition_dropout
            condition = self.network.without(condition, dropped)
            condition = condition.to(x0.device) if condition is not None else None
        x = self.schedule.add_noise(x0, noise, t)
        with self._precision.autocast():
            prediction = self.network(x, t, condition)
        error = prediction.float() - self.schedule.target(x0, noise, t, config.prediction)
        mean_square = error.square().flatten(1).mean(dim=1)
        weight = self.schedule.loss_weight(t, config.prediction, config.min_snr, config.snr_floor)
        loss = (weight * mean_square).mean()
        self.network.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * self._rate(step)
            self._scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip)
        for optimizer, _ in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach(), "mean_square": mean_square.detach().mean(), "grad_norm": norm.detach()}

    def training_state(self) -> dict[str, Any]:
        optimizers = [optimizer.state_dict() for optimizer, _ in self._optimizers]
        return {"optimizers": optimizers, "scaler": self._scaler.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        for (optimizer, _), saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(dict(saved))
        if state["scaler"]:
            self._scaler.load_state_dict(dict(state["scaler"]))

    def _rate(self, step: int) -> float:
        """Share of the learning rate: a linear rise, then a cosine to zero at the end of training."""
        warm = min(1.0, (step + 1) / max(self.config.warm_up, 1))
        if not self.config.cosine_decay:
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * self._context.progress(step)))

    # ---- sampling ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, " n *shape"]:
        chosen = self._options(options, guided=condition is not None)
        rows = self._condition(condition, n)
        drawn = []
        for first in range(0, n, _LARGEST_BATCH):
            count = min(_LARGEST_BATCH, n - first)
            part = None if rows is None else rows[first : first + count]
            own = rows_of(generator, first, count)
            *_, last = self._denoise(self._noise(count, own), part, chosen, own)
            drawn.append(last.x)
        samples = torch.cat(drawn) if drawn else self._noise(0, generator)
        return self._from_model(samples)

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        *,
        predicted: bool = False,
        **options: Any,
    ) -> Float[Tensor, " frames n *shape"]:
        """The film of `sample`: x_t at each visited level and at last the sample.

        Args:
            predicted: Show the x_0 that the network expects at each level, instead of the noisy x_t.
        """
        chosen = self._options(options, guided=condition is not None)
        visits = self._denoise(self._noise(n, generator), self._condition(condition, n), chosen, generator)
        return torch.stack([self._from_model(visit.x0 if predicted else visit.x) for visit in visits])

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, " b *shape"], condition: Sequence[int] | Sequence[str] | None = None, **options: Any
    ) -> Float[Tensor, "b latent"]:
        """The noise from which deterministic DDIM sampling leads back to `x`, flattened."""
        chosen = self._options(options)
        model = self._denoiser(self._condition(condition, x.shape[0]), chosen.guidance)
        levels = self._levels(chosen)
        x = self._to_model(x.to(self.device))
        return invert(model, x, self.schedule, levels, prediction=self.config.prediction).flatten(1)

    @torch.no_grad()
    def decode(
        self, z: Float[Tensor, "b latent"], condition: Sequence[int] | Sequence[str] | None = None, **options: Any
    ) -> Float[Tensor, " b *shape"]:
        """The samples that deterministic DDIM makes of given noise."""
        chosen = self._options({**options, "sampler": "ddim", "eta": 0.0})
        start = z.to(self.device).reshape(-1, *self.data_info.sample_shape)
        *_, last = self._denoise(start, self._condition(condition, len(z)), chosen, None)
        return self._from_model(last.x)

    @torch.no_grad()
    def interpolate(
        self,
        steps: int,
        start: Float[Tensor, "*shape"] | None = None,
        end: Float[Tensor, "*shape"] | None = None,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        *,
        evaluations: int | None = None,
        guidance: float = 1.0,
    ) -> Float[Tensor, " steps *shape"]:
        """Samples on the great circle between two noises: drawn ones, or those that two given samples come from.

        Args:
            steps: Number of samples, the ends among them.
            evaluations: Of the network for each sample, as `steps` of `sample`.
        """
        options: dict[str, Any] = {"steps": evaluations, "guidance": guidance}
        ends = []
        for given in (start, end):
            if given is None:
                ends.append(self._noise(1, generator).flatten())
            else:
                one = None if condition is None else condition[:1]
                ends.append(self.encode(given[None], one, **options)[0])
        # Straight lines would pass through noise of less variance than the network has ever seen.
        return self.decode(path_between(ends[0], ends[1], steps, spherical=True), condition, **options)

    @torch.no_grad()
    def edit(
        self,
        picture: Float[Tensor, "b c h w"],
        mode: str,
        *,
        mask: Tensor | None = None,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, "b c h w"]:
        """Change pictures without training anew; see `edit_modes`.

        Args:
            picture: In [0, 1]; for super-resolution smaller than the model's pictures by a whole
                number, or of their size and made smaller by `factor` first.
            mask: (h, w) or (b, 1, h, w), 1 where the picture is to be painted anew; for inpaint.
            options: Fields of `DiffusionSampling`; `strength` counts for sdedit.

        Raises:
            StudioError: An unknown mode, a missing mask, or a picture that does not fit.
        """
        chosen = self._options(options, guided=condition is not None)
        levels = self._levels(chosen)
        given = self._to_model(picture.to(self.device))
        task = edit_start(mode, given, mask, self.data_info.sample_shape, chosen.strength, chosen.factor)
        if task.share < 1.0:
            levels = self._levels(chosen, round(task.share * (self.config.timesteps - 1)))
        start = self._noise(picture.shape[0], generator)
        if task.origin is not None:
            t = torch.full((picture.shape[0],), levels[0], device=self.device)
            start = self.schedule.add_noise(task.origin, start, t)
        rows = self._condition(condition, picture.shape[0])
        *_, last = self._denoise(start, rows, chosen, generator, levels=levels, correct=task.correct)
        return self._from_model(last.x)

    # ---- inside --------------------------------------------------------------------------------------------------
    def _average_weights(self) -> None:
        decay = self.config.ema_decay

        @torch.no_grad()
        def towards(averaged: Any, current: Any, count: Any) -> None:
            # Early weights are far from where they end, so the memory grows with the number of steps.
            memory = min(decay, (1 + float(count)) / (10 + float(count)))
            torch._foreach_lerp_(averaged, current, 1 - memory)

        self.average = AveragedModel(self.network, multi_avg_fn=towards)
        self.average.requires_grad_(False)

    @property
    def _averaged(self) -> Network:
        return cast(Network, self.average.module)

    def _choose_precision(self) -> Precision:
        return precision_for(select(str(self.device)), self.config.precision)

    def _levels(self, options: DiffusionSampling, highest: int | None = None) -> list[int]:
        """The levels that sampling visits."""
        most = self.config.timesteps
        return visited_levels(most, options.steps or min(_EVALUATIONS, most), highest)

    def _options(self, given: Mapping[str, Any], *, guided: bool = False) -> DiffusionSampling:
        """Options as given, with defaults filled in; `guided`: there is a condition that guidance may strengthen."""
        try:
            chosen = DiffusionSampling(**given)
        except TypeError as error:
            raise TypeError(f"sampling options: {error}") from error
        if chosen.steps is not None and not 1 <= chosen.steps <= self.config.timesteps:
            raise StudioError(
                f"steps: {chosen.steps} is not possible; the model has {self.config.timesteps} noise levels.",
                fix=f"Give 1 to {self.config.timesteps}.",
            )
        if not 0 <= chosen.eta <= 1:
            raise StudioError(f"eta: {chosen.eta:g} is out of range.", fix="Give 0 (deterministic) to 1 (ancestral).")
        if chosen.guidance is None:
            able = self.network.is_conditional and self.config.condition_dropout > 0
            chosen = dataclasses.replace(chosen, guidance=_GUIDANCE if guided and able else 1.0)
        if chosen.guidance != 1 and not self.network.is_conditional:
            raise StudioError("guidance: the model was trained without conditions.", fix="Leave it out.")
        if chosen.guidance != 1 and self.config.condition_dropout == 0:
            raise StudioError(
                "guidance: the model was trained without empty conditions.", fix="Train with --condition-dropout 0.1."
            )
        return chosen

    def _condition(self, given: Sequence[int] | Sequence[str] | None, n: int) -> Condition | None:
        network = self._averaged
        if given is None and network.classes is not None and self.config.condition_dropout == 0:
            given = [i % network.classes.num_classes for i in range(n)]
        rows = network.condition(given, n)
        return None if rows is None else rows.to(self.device)

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        return normal((n, *self.data_info.sample_shape), generator).to(self.device)

    def _denoiser(self, condition: Condition | None, guidance: float | None) -> Denoiser:
        """The averaged network, with classifier-free guidance (Ho & Salimans 2022): ε = ε_∅ + s (ε_c − ε_∅)."""
        network = self._averaged.eval()
        precision = self._choose_precision()
        nothing = None if condition is None else network.nothing(condition.shape[0])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            with precision.autocast():
                if guidance is None or guidance == 1 or condition is None or nothing is None:
                    return network(x, t, condition).float()
                empty = torch.zeros_like(condition)
                empty[..., : nothing.shape[-1]] = nothing.to(condition.device)
                both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([empty, condition])).float()
            without, towards = both.chunk(2)
            return without + guidance * (towards - without)

        return predict

    def _denoise(
        self,
        start: Tensor,
        condition: Condition | None,
        options: DiffusionSampling,
        generator: torch.Generator | None,
        *,
        levels: list[int] | None = None,
        correct: Correction | None = None,
    ) -> Iterator[Visit]:
        def keep_range(x0: Tensor) -> Tensor:
            x0 = x0 if correct is None else correct(x0)
            return x0.clamp(-1, 1)

        is_picture = len(self.data_info.sample_shape) == 3
        return denoise(
            self._denoiser(condition, options.guidance),
            start,
            self.schedule,
            levels or self._levels(options),
            prediction=self.config.prediction,
            sampler=options.sampler,
            eta=options.eta,
            correct=keep_range if is_picture else None,
            generator=generator,
        )

    def _to_model(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.spread

    def _from_model(self, x: Tensor) -> Tensor:
        x = x * self.spread + self.center
        return x.clamp(0, 1) if len(self.data_info.sample_shape) == 3 else x
