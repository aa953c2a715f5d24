"""The U-Net that predicts noise in pictures (Ho et al. 2020, app. B), with attention at low resolutions.

    input ─ down(1) ─ down(2) ─ … ─ middle ─ … ─ up(2) ─ up(1) ─ output      every down block hands its result across

Each residual block is told the noise level, and the class where there is one, through an embedding that is added to its
channels. Captions are read through cross-attention, at self-attention's resolutions or at finer ones too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GROUPS = 32
_LEAST_IN_GROUP = 4
_NORM_EPSILON = 1e-5
_WORDS_AT_ONCE = 32
"""Captions are padded to a multiple of this."""


def level_embedding(t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """cos and sin of t at frequencies 10000^(−i/(dim/2)) (Vaswani et al. 2017, sec. 3.5)."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class LevelMLP(nn.Sequential):
    """Noise level → embedding that all residual blocks are conditioned on."""

    def __init__(self, dim: int, embedding_dim: int) -> None:
        super().__init__(nn.Linear(dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(level_embedding(t, self.dim))


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation, 32 groups where that leaves at least 4 channels to each.

    In groups of a single channel it would take away again what the embedding adds to that channel.
    """
    groups = math.gcd(_GROUPS, max(channels // _LEAST_IN_GROUP, 1))
    return nn.GroupNorm(groups, channels, eps=_NORM_EPSILON)


def activate(x: Tensor) -> Tensor:
    """SiLU of a fresh tensor: in place where no gradient needs what was there."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + linear(embedding))))."""

    def __init__(self, channels: int, out_channels: int, embedding_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(embedding_dim, out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`embedding` is already activated."""
        h = self.conv1(activate(self.norm1(x)))
        h = h + self.embed(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(activate(self.norm2(h))))
        return self.shortcut(x) + h


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v of (b, heads, places, d), over the places where `mask` is True."""
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # On processors the fused kernel computes its 16-bit gradients several times slower than two matrix products.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head attention of all places of a picture to each other, or to the words of a caption."""

    def __init__(self, channels: int, head_dim: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = max(channels // head_dim, 1)
        self.norm = norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(context_dim or channels, channels)
        self.value = nn.Linear(context_dim or channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x (b, c, h, w), context (b, words, d), mask (b, words), True where there is a word."""
        b, c, h, w = x.shape
        # Three layers read the places: transposed once, instead of by each.
        places = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        source = places if context is None else context
        q, k, v = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, places), (self.key, source), (self.value, source))
        )
        read = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        return x + self.output(read.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(b, c, h, w)


class Stage(nn.Module):
    """A residual block; after it, at low resolutions, self-attention and the reading of captions of `text_dim`."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding_dim: int,
        *,
        dropout: float,
        head_dim: int,
        attends: bool,
        text_dim: int | None,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(channels, out_channels, embedding_dim, dropout)
        self.attention = Attention(out_channels, head_dim) if attends else None
        self.reading = None if text_dim is None else Attention(out_channels, head_dim, text_dim)

    def forward(self, x: Tensor, embedding: Tensor, words: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.reading is not None:
            x = self.reading(x, words, mask)
        return x


class UNet(nn.Module):
    """Predicts (b, c, h, w) for noisy pictures of the same shape.

    Args:
        picture_shape: (c, h, w); h and w divisible by `patch_size` · 2^(resolutions − 1).
        channels: At full resolution.
        multipliers: Channels of each resolution, times `channels`.
        blocks: Residual blocks a resolution on the way down.
        attention_size: Resolutions up to this side have self-attention.
        reading_size: Resolutions up to this side read captions; None: those with self-attention.
        patch_size: Pixels of p×p blocks become channels at the input (Hoogeboom et al. 2023, "Simple Diffusion").
        text_dim: Width of the caption's words, where there are captions.

    Raises:
        ValueError: A side of the picture that cannot be halved as often as there are resolutions.
    """

    def __init__(
        self,
        picture_shape: tuple[int, int, int],
        *,
        channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention_size: int = 16,
        reading_size: int | None = None,
        head_dim: int = 32,
        patch_size: int = 1,
        dropout: float = 0.0,
        text_dim: int | None = None,
    ) -> None:
        super().__init__()
        planes, height, width = picture_shape
        factor = patch_size * 2 ** (len(multipliers) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"pictures of {height}x{width} cannot be halved to a whole size; needed: multiples of {factor}"
            )
        self.patch_size = patch_size
        self.embedding_dim = 4 * channels
        self.level = LevelMLP(channels, self.embedding_dim)
        self.input = nn.Conv2d(planes * patch_size**2, channels, 3, padding=1)
        sides = [max(height, width) // patch_size // 2**i for i in range(len(multipliers))]
        widths = [channels * m for m in multipliers]

        def stage(width_in: int, width_out: int, side: int) -> Stage:
            return Stage(
                width_in,
                width_out,
                self.embedding_dim,
                dropout=dropout,
                head_dim=head_dim,
                attends=side <= attention_size,
                text_dim=text_dim if side <= (attention_size if reading_size is None else reading_size) else None,
            )

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        skips = [channels]
        before = channels
        for i, (width_out, side) in enumerate(zip(widths, sides, strict=True)):
            for _ in range(blocks):
                self.down.append(stage(before, width_out, side))
                before = width_out
                skips.append(before)
            if i < len(widths) - 1:
                self.shrink.append(nn.Conv2d(before, before, 3, stride=2, padding=1))
                skips.append(before)
        # The middle always has attention: it is where all of the picture comes together.
        self.middle = nn.ModuleList(
            [stage(before, before, 0), ResidualBlock(before, before, self.embedding_dim, dropout)]
        )
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for i, (width_out, side) in reversed(list(enumerate(zip(widths, sides, strict=True)))):
            for _ in range(blocks + 1):
                self.up.append(stage(before + skips.pop(), width_out, side))
                before = width_out
            if i > 0:
                self.grow.append(nn.Conv2d(before, before, 3, padding=1))
        self.output_norm = norm(before)
        self.output = nn.Conv2d(before, planes * patch_size**2, 3, padding=1)
        # The first prediction is zero, so that training starts from the loss of knowing nothing.
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)
        self.blocks = blocks

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Tensor,
        condition: Float[Tensor, "b e"] | None = None,
        words: Float[Tensor, "b l d"] | None = None,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Args: t (b,) noise levels; condition is added to their embedding; words and mask are those of captions."""
        if words is not None and mask is not None:
            # Whole vectors of 16-bit numbers: the softmax over an odd number of words takes processors twice the time.
            spare = -words.shape[1] % _WORDS_AT_ONCE
            words, mask = F.pad(words, (0, 0, 0, spare)), F.pad(mask, (0, spare))
        embedding = self.level(t)
        if condition is not None:
            embedding = embedding + condition
        embedding = F.silu(embedding)
        x = self.input(F.pixel_unshuffle(x, self.patch_size))
        if x.device.type == "cpu" and x.dtype == torch.float32:
            # On processors the convolutions are a seventh faster with the channels innermost, but not in 16 bits.
            x = x.contiguous(memory_format=torch.channels_last)
        skips = [x]
        for i, stage in enumerate(self.down):
            x = stage(x, embedding, words, mask)
            skips.append(x)
            resolution, last = divmod(i, self.blocks)
            if last == self.blocks - 1 and resolution < len(self.shrink):
                x = self.shrink[resolution](x)
                skips.append(x)
        first, second = self.middle
        x = second(first(x, embedding, words, mask), embedding)
        for i, stage in enumerate(self.up):
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding, words, mask)
            resolution, last = divmod(i, self.blocks + 1)
            if last == self.blocks and resolution < len(self.grow):
                x = self.grow[resolution](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.output(activate(self.output_norm(x))), self.patch_size)
