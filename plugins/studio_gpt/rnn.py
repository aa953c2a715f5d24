"""Elman's recurrent network as a language model.

Elman, "Finding Structure in Time" (1990). Everything that is known of the past stands in one vector of fixed size:

    e_t = E[x_t]                                      embedding
    h_t = tanh(W_e e_t + b_e + W_h h_{t-1} + b_h)     h_0 = 0
    logits of x_{t+1} = W_o h_t + b_o

The state has no bound in time, but its gradient reaches back over one training window only.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from studio_gpt.language_model import LanguageModel, State


class RecurrentState(State):
    """h_t of each text, (layers, n, width)."""

    def __init__(self, n: int, layers: int, width: int, like: Tensor) -> None:
        self.length = 0
        self.h = like.new_zeros(layers, n, width)

    def select(self, rows: Int[Tensor, " m"]) -> None:
        self.h = self.h[:, rows].contiguous()


class RNN(LanguageModel):
    """Embedding, Elman RNN, head with bias.

    Args:
        vocab_size: Tokens, specials included.
        width: Length of embeddings and of the state.
        layers: RNNs stacked on one another.
        dropout: Between them, and before the head.
    """

    context = None

    def __init__(self, vocab_size: int, width: int = 384, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.rnn = nn.RNN(width, width, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def new_state(self, n: int) -> RecurrentState:
        return RecurrentState(n, self.rnn.num_layers, self.rnn.hidden_size, self.head.weight.detach())

    def read(self, tokens: Int[Tensor, "n t"], state: RecurrentState) -> Float[Tensor, "n t width"]:
        states, state.h = self.rnn(self.embedding(tokens), state.h)
        state.length += tokens.shape[1]
        return self.dropout(states)
