"""What the language models share: the interface that training, scoring and decoding work with, and the loss.

A language model factorises the probability of a text by the chain rule,

    p(x_1, ..., x_T) = prod_t p(x_t | x_1, ..., x_{t-1}),

so its likelihood is exact and sampling is one token after the other. The models differ in what they keep of the past:
a recurrent state (`rnn`), a window of fixed length (`gpt`), or a receptive field (`wavenet`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_LOGITS_AT_ONCE = 2**25
"""How many logits `linear_cross_entropy` holds: 128 MiB of float32."""


class State(ABC):
    """What a model keeps of the tokens it has read, for n texts of one length at once."""

    length: int = 0
    """Tokens read so far."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Keep only these texts, in this order; one may be named more than once (beam search)."""


class LanguageModel(nn.Module, ABC):
    """p(next token | tokens before it)."""

    head: nn.Linear
    """From the hidden vector to logits over the vocabulary."""
    context: int | None
    """Most tokens that a state can hold; None: no bound."""

    @property
    def vocab_size(self) -> int:
        return self.head.out_features

    @abstractmethod
    def new_state(self, n: int) -> Any:
        """The `State` before any token."""

    @abstractmethod
    def read(self, tokens: Int[Tensor, "n t"], state: Any) -> Float[Tensor, "n t width"]:
        """Read tokens on top of a state, which is changed in place; the vectors that the head makes logits from.

        ``read(a, s)`` then ``read(b, s)`` gives what ``hidden(cat(a, b))`` gives, at the cost of each token once.
        """

    def hidden(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t width"]:
        """The vectors that the head reads: that of position t depends on tokens 0 to t only."""
        return self.read(tokens, self.new_state(len(tokens)))

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocab"]:
        """Logits of the token after each position."""
        return self.head(self.hidden(tokens))

    def advance(self, tokens: Int[Tensor, "n t"], state: Any) -> Float[Tensor, "n vocab"]:
        """Read tokens on top of a state; logits of the one that comes next."""
        return self.head(self.read(tokens, state)[:, -1])

    def loss(self, tokens: Int[Tensor, "b t"], targets: Int[Tensor, "b t"], padding: int) -> Float[Tensor, ""]:
        """Mean cross-entropy of the targets in nats; targets equal to `padding` do not count."""
        hidden = self.hidden(tokens)
        return linear_cross_entropy(
            hidden.flatten(0, 1), self.head.weight, self.head.bias, targets.flatten(), ignore=padding
        )


def linear_cross_entropy(
    hidden: Float[Tensor, "n width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    targets: Int[Tensor, " n"],
    *,
    ignore: int,
) -> Float[Tensor, ""]:
    """Mean of -log softmax(hidden @ weight.T + bias)[target] over the targets that are not `ignore`.

    The same figure and gradients as a linear layer followed by cross-entropy, without ever holding all logits: a
    vocabulary of 60,198 words at 32 windows of 256 tokens would make 2 GB of them, and as much again for gradients.
    """
    kind = hidden.device.type
    # Inside, products are in the number format that autocast would choose, and everything else is float32.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, ignore, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are made together with the loss, a group of rows at a time, while its logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ignore: int,
        dtype: torch.dtype,
    ) -> Tensor:
        counted = targets != ignore
        count = counted.sum().clamp(min=1)
        wanted = any(ctx.needs_input_grad[:3])
        rows = max(1, _LOGITS_AT_ONCE // len(weight))
        total = weight.new_zeros(())
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias) if wanted and bias is not None else None
        with torch.autocast(hidden.device.type, enabled=False):
            low_weight = weight.to(dtype)
            for start in range(0, len(hidden), rows):
                part = hidden[start : start + rows].to(dtype)
                kept = counted[start : start + rows]
                target = targets[start : start + rows].where(kept, 0)[:, None]
                # log p_j = l_j - logsumexp(l)
                logits = (part @ low_weight.T).to(weight.dtype)
                log_p = (logits if bias is None else logits + bias).log_softmax(dim=-1)
                total -= log_p.gather(1, target)[:, 0].where(kept, 0).sum()
                if grad_hidden is None:
                    continue
                # dL/dl_j = (p_j - [j is the target]) / count
                grad = log_p.exp_().scatter_add_(1, target, log_p.new_full((), -1.0).expand(len(target), 1))
                grad.mul_((kept / count)[:, None])
                if grad_bias is not None:
                    grad_bias += grad.sum(dim=0)
                low_grad = grad.to(dtype)
                grad_hidden[start : start + rows] = low_grad @ low_weight
                product = (low_grad.T @ part).to(weight.dtype)
                grad_weight = product if grad_weight is None else grad_weight.add_(product)
        ctx.save_for_backward(*(g for g in (grad_hidden, grad_weight, grad_bias) if g is not None))
        return total / count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [gradient * upstream for gradient in ctx.saved_tensors]
        return gradients[0], gradients[1], gradients[2] if len(gradients) == 3 else None, None, None, None
