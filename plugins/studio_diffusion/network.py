"""The network with its conditions: what is trained, averaged and sampled from as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.errors import StudioError
from studio.plugin import DataInfo
from studio.plugin.conditions import class_labels
from studio_diffusion.conditions import CaptionEncoder, ClassCondition
from studio_diffusion.config import DiffusionConfig
from studio_diffusion.points import PointNetwork
from studio_diffusion.unet import UNet

_NO_CAPTION = ""

Condition = Tensor
"""Class labels (b,), num_classes for none; or words (b, l) of captions, all padding for none."""


class Network(nn.Module):
    """A denoiser of points or pictures, told a class, a caption, or nothing."""

    def __init__(self, config: DiffusionConfig, data_info: DataInfo) -> None:
        super().__init__()
        shape = data_info.sample_shape
        conditional = config.condition == "auto"
        reads = conditional and data_info.has_captions
        if len(shape) == 1 and not reads:
            self.denoiser: UNet | PointNetwork = PointNetwork(shape[0], config.channels)
        elif len(shape) == 3:
            try:
                self.denoiser = UNet(
                    (shape[0], shape[1], shape[2]),
                    channels=config.channels,
                    multipliers=config.multipliers,
                    blocks=config.blocks,
                    attention_size=config.attention_size,
                    reading_size=config.reading_size,
                    head_dim=config.head_dim,
                    patch_size=config.patch_size,
                    dropout=config.dropout,
                    text_dim=config.text_dim if reads else None,
                )
            except ValueError as error:
                raise StudioError(
                    f"diffusion: {error}.", fix="Resize with --image-size, or give fewer --multipliers."
                ) from error
        else:
            raise StudioError(
                f"diffusion: the data set holds {data_info.describe()}; it takes points or pictures.",
                fix="For text there is the plugin gpt.",
            )
        width = self.denoiser.embedding_dim
        self.classes: ClassCondition | None = None
        self.captions: CaptionEncoder | None = None
        if reads:
            self.captions = CaptionEncoder(
                width, dim=config.text_dim, layers=config.text_layers, length=config.caption_length
            )
        elif conditional and data_info.num_classes:
            self.classes = ClassCondition(data_info.num_classes, width)
        self.data_info = data_info

    def forward(
        self, x: Float[Tensor, " b *shape"], t: Tensor, condition: Condition | None
    ) -> Float[Tensor, " b *shape"]:
        if self.captions is not None:
            pooled, words, present = self.captions(cast(Tensor, condition))
            return self.denoiser(x, t, pooled, words, present)
        if self.classes is not None:
            return self.denoiser(x, t, self.classes(condition))
        return self.denoiser(x, t)

    def inner_matrices(self) -> list[nn.Parameter]:
        """Weights of the layers between the first and the last one: without embeddings, which are tables of vectors."""
        ends = [self.denoiser.input.weight, self.denoiser.output.weight]
        ends += [module.weight for module in self.modules() if isinstance(module, nn.Embedding)]
        if self.captions is not None:
            ends.append(self.captions.position)
        outer = {id(parameter) for parameter in ends}
        return [p for p in self.parameters() if p.ndim > 1 and id(p) not in outer]

    @property
    def is_conditional(self) -> bool:
        return self.classes is not None or self.captions is not None

    def nothing(self, n: int) -> Condition | None:
        """The empty condition of `n` samples; None for a model without conditions."""
        if self.captions is not None:
            return self.captions.tokens([_NO_CAPTION] * n)
        if self.classes is not None:
            return torch.full((n,), self.classes.num_classes)
        return None

    def condition(self, given: Sequence[int] | Sequence[str] | Tensor | None, n: int) -> Condition | None:
        """What users give as a condition of `n` samples, as `forward` takes it, on the CPU.

        Raises:
            StudioError: An unknown class, a caption of unknown words, or a condition that this model does not take.
            ValueError: Neither one nor `n` of them.
        """
        if given is None:
            return self.nothing(n)
        if self.captions is not None:
            texts = [given] if isinstance(given, str) else list(given)
            if not all(isinstance(text, str) for text in texts):
                raise StudioError(
                    "condition: the model was trained on captions.", fix='Give text: --cond "a red cube".'
                )
            if len(texts) not in (1, n):
                raise ValueError(f"condition: expected 1 or {n} captions, got {len(texts)}")
            return self.captions.tokens(cast("list[str]", texts)).expand(n, -1)
        if self.classes is not None:
            return class_labels(given, n, self.data_info)
        raise StudioError("condition: the model was trained without classes or captions.", fix="Leave it out.")

    def without(self, condition: Condition | None, dropped: Tensor) -> Condition | None:
        """The condition with some samples' own replaced by the empty one."""
        if condition is None:
            return None
        empty = cast(Tensor, self.nothing(1)).to(condition.device)
        if self.captions is not None:
            padded = torch.zeros_like(condition[:1])
            padded[:, : empty.shape[1]] = empty
            return torch.where(dropped[:, None], padded, condition)
        return torch.where(dropped, empty, condition)
