"""GPT: a stack of pre-norm transformer blocks with causal self-attention.

Vaswani et al., "Attention Is All You Need" (NeurIPS 2017); Radford et al., "Language Models are Unsupervised Multitask
Learners" (2019). One block, on x of shape (b, t, D):

    x = x + W_0 [head_1; ...; head_H]   head_i = softmax(Q_i K_i^T / sqrt(d), future masked) V_i
                                        Q, K, V = W_Q, W_K, W_V times LN(x), cut into H heads of d = D / H
    x = x + W_2 gelu(W_1 LN(x))         W_1: D -> 4 D, W_2: 4 D -> D

Parameters, with vocabulary V, context T and L layers: 2 V D + T D + L (12 D^2 + 4 D) + 2 D; V D less when the head is
tied to the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from studio.errors import StudioError
from studio_gpt.language_model import LanguageModel, State

_FIRST_CAPACITY = 64


class KeyValueCache(State):
    """Keys and values of the tokens read so far, one pair of (n, heads, capacity, head_dim) a layer.

    They never change once computed, since a position sees only the past; so each new token costs one position's work.
    """

    def __init__(self, n: int, layers: int, heads: int, head_dim: int, like: Tensor) -> None:
        self.length = 0
        self._keys = [like.new_empty(n, heads, _FIRST_CAPACITY, head_dim) for _ in range(layers)]
        self._values = [like.new_empty(n, heads, _FIRST_CAPACITY, head_dim) for _ in range(layers)]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values (n, heads, t, head_dim) of new positions; all of the layer's so far."""
        end = self.length + keys.shape[2]
        if end > self._keys[layer].shape[2]:
            self._keys[layer] = _enlarged(self._keys[layer], self.length, end)
            self._values[layer] = _enlarged(self._values[layer], self.length, end)
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def select(self, rows: Int[Tensor, " m"]) -> None:
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]


def _enlarged(stored: Tensor, length: int, needed: int) -> Tensor:
    n, heads, capacity, head_dim = stored.shape
    larger = stored.new_empty(n, heads, max(2 * capacity, needed), head_dim)
    larger[:, :, :length] = stored[:, :, :length]
    return larger


class CausalAttention(nn.Module):
    """Every position looks back at itself and the positions before it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        # W_Q, W_K and W_V one above the other: one matrix product instead of three.
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b t width"], layer: int, cache: KeyValueCache | None) -> Tensor:
        q, k, v = self._heads(x)
        past = 0
        if cache is not None:
            past = cache.length
            k, v = cache.append(layer, k, v)
        return self.out(self._mix(q, k, v, past).transpose(1, 2).reshape(x.shape))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, past: int) -> Tensor:
        new = q.shape[2]
        dropout = self.dropout if self.training else 0.0
        if q.device.type == "cpu" and (q.dtype != torch.float32 or dropout > 0):
            # The fused kernel of CPUs has no dropout, and its 16-bit gradient is slower than plain products.
            scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
            weights = scores.masked_fill_(~_visible(new, past, q.device), -math.inf).softmax(dim=-1)
            return F.dropout(weights, dropout).to(v.dtype) @ v
        # A single new position may see everything; the flag would align its one row with the first key.
        mask = None if past == 0 or new == 1 else _visible(new, past, q.device)
        causal = past == 0 and new > 1
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)

    def weights(self, x: Float[Tensor, "b t width"]) -> Float[Tensor, "b heads t t"]:
        """softmax(Q K^T / sqrt(d)): row i says how much position i takes from each position j <= i."""
        q, k, _ = self._heads(x)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return scores.masked_fill(~_visible(x.shape[1], 0, x.device), -math.inf).softmax(dim=-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, t, width = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(dim=2)
        return q, k, v


def _visible(new: int, past: int, device: torch.device) -> Tensor:
    """(new, past + new): whether a new position may look at a position."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


class Block(nn.Module):
    """Attention mixes positions, the feed-forward part works on each; both add to a residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.attention = CausalAttention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-5)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t width"], layer: int, cache: KeyValueCache | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), layer, cache))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


@dataclass(frozen=True)
class GPTShape:
    """The sizes of a GPT."""

    width: int = 384
    layers: int = 6
    heads: int = 6
    context: int = 256
    dropout: float = 0.1
    tied: bool = False
    """Let the head share the embedding's matrix."""


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that heads cannot share evenly.

    Raises:
        StudioError: Says so, and names a width that they can.
    """
    if heads < 1 or width % heads:
        raise StudioError(
            f"width: {width} is not a multiple of heads, {heads}.",
            fix=f"Give --width {max(width // max(heads, 1), 1) * max(heads, 1)}, or other --heads.",
        )


class GPT(LanguageModel):
    """A GPT over a vocabulary, optionally behind a prefix of vectors (a picture, for captions).

    Args:
        vocab_size: Tokens, specials included.
        shape: Its sizes; `width` must be a multiple of `heads`.
    """

    context: int

    def __init__(self, vocab_size: int, shape: GPTShape) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise ValueError(f"width must be a multiple of heads, got {shape.width} and {shape.heads}")
        self.shape = shape
        self.context = shape.context
        self.embedding = nn.Embedding(vocab_size, shape.width)
        self.positions = nn.Parameter(torch.empty(shape.context, shape.width))
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, vocab_size, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight
        self._initialize()

    def _initialize(self) -> None:
        # GPT-2's start: small logits, so that the first loss is about ln V; each block adds to the residual stream
        # twice, so its output matrices are smaller by sqrt(2 L) to keep the stream's variance.
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("attention.out.weight", "feed_forward.2.weight"))
                scale = math.sqrt(2 * self.shape.layers) if residual else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def new_state(self, n: int) -> KeyValueCache:
        shape = self.shape
        return KeyValueCache(n, shape.layers, shape.heads, shape.width // shape.heads, self.positions.detach())

    def read(
        self, tokens: Int[Tensor, "n t"], state: KeyValueCache, prefix: Float[Tensor, "n p width"] | None = None
    ) -> Float[Tensor, "n t width"]:
        """As `LanguageModel.read`; a prefix is read before the tokens, so it comes with the first of them.

        Raises:
            ValueError: More positions than the context has.
        """
        x = self._embed(tokens, prefix, state.length)
        read = x.shape[1]
        x = self._stream(x, state)
        state.length += read
        return self.norm(x[:, read - tokens.shape[1] :])

    def hidden(
        self, tokens: Int[Tensor, "b t"], prefix: Float[Tensor, "b p width"] | None = None
    ) -> Float[Tensor, "b t width"]:
        """As `LanguageModel.hidden`; every position also sees all of the prefix, which has no outputs itself."""
        x = self._stream(self._embed(tokens, prefix, 0), None)
        return self.norm(x[:, x.shape[1] - tokens.shape[1] :])

    def attention_maps(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "layers b heads t t"]:
        """The attention weights of every layer and head; all lower triangular, rows sum to 1."""
        maps = []
        x = self._embed(tokens, None, 0)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            maps.append(block.attention.weights(block.attention_norm(x)))
            x = block(x, i, None)
        return torch.stack(maps)

    def _embed(self, tokens: Tensor, prefix: Tensor | None, start: int) -> Tensor:
        x = self.embedding(tokens)
        if prefix is not None:
            x = torch.cat([prefix, x], dim=1)
        end = start + x.shape[1]
        if end > self.context:
            raise ValueError(f"tokens must fit the context of {self.context} positions, got {end}")
        return self.dropout(x + self.positions[start:end])

    def _stream(self, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, i, cache)
        return x
