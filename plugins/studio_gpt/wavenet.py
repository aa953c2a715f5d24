"""Dilated causal convolutions as a language model.

van den Oord et al., "WaveNet: A Generative Model for Raw Audio" (2016), on embedded tokens. Layer i looks at two of its
inputs, d = 2^i positions apart, so L layers see 2^L tokens:

    a_t, g_t = W [x_{t-d}; x_t] + b        the filter and the gate; x before the text's begin is 0
    z_t = tanh(a_t) * sigmoid(g_t)
    x_t <- x_t + W_r z_t,  s_t <- s_t + W_s z_t

The head reads relu(W_h relu(s_t)). All positions of a training text are computed at once; while sampling, each layer
keeps its last d inputs, so a token costs the same whatever came before.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from studio_gpt.language_model import LanguageModel, State


class DelayLines(State):
    """The last 2^i inputs of each layer i, (n, 2^i, width); zeros before the text's begin."""

    def __init__(self, n: int, layers: int, width: int, like: Tensor) -> None:
        self.length = 0
        self.lines = [like.new_zeros(n, 2**i, width) for i in range(layers)]

    def select(self, rows: Int[Tensor, " m"]) -> None:
        self.lines = [line[rows] for line in self.lines]


class GatedLayer(nn.Module):
    """One dilated convolution of two taps with its gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Linear(2 * width, 2 * width)
        self.residual = nn.Linear(width, width)
        self.skip = nn.Linear(width, width)

    def forward(self, delayed: Float[Tensor, "n t width"], x: Float[Tensor, "n t width"]) -> tuple[Tensor, Tensor]:
        filtered, gate = self.taps(torch.cat([delayed, x], dim=-1)).chunk(2, dim=-1)
        z = filtered.tanh() * gate.sigmoid()
        return x + self.residual(z), self.skip(z)


class WaveNet(LanguageModel):
    """A stack of gated layers whose dilation doubles.

    Args:
        vocab_size: Tokens, specials included.
        width: Channels.
        layers: How many; the receptive field is 2^layers tokens.
        dropout: Before the head.
    """

    context = None

    def __init__(self, vocab_size: int, width: int = 128, layers: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList(GatedLayer(width) for _ in range(layers))
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def receptive_field(self) -> int:
        """Tokens that a prediction depends on."""
        return int(2 ** len(self.layers))

    def new_state(self, n: int) -> DelayLines:
        width = self.embedding.embedding_dim
        return DelayLines(n, len(self.layers), width, self.embedding.weight.detach())

    def read(self, tokens: Int[Tensor, "n t"], state: DelayLines) -> Float[Tensor, "n t width"]:
        x = self.embedding(tokens)
        skips = torch.zeros_like(x)
        for i, layer in enumerate(self.layers):
            extended = torch.cat([state.lines[i], x], dim=1)
            state.lines[i] = extended[:, tokens.shape[1] :]
            x, skip = layer(extended[:, : tokens.shape[1]], x)
            skips = skips + skip
        state.length += tokens.shape[1]
        return self.dropout(self.mix(skips.relu()).relu())
