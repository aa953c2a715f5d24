"""Texts longer than a model's context: which part of the past a model sees, the same in sampling and in scoring.

A model with a context of C tokens sees all L tokens before the next one while L <= C. Beyond, the window's start moves
on by C/2 tokens whenever the window is full:

    start(L) = 0 for L <= C, else h ceil((L - C) / h) with h = floor(C / 2)

so between C/2 and C tokens are always seen. Moving token by token would change every learned position at every step
and make each token cost a whole window; this way cached keys and values serve h tokens. The probability of each token
is that of one fixed window, so likelihoods stay exact for the very process that sampling draws from.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio_gpt.language_model import LanguageModel

_TOKENS_AT_ONCE = 4096
_LARGE_HEAD = 2**21


def window_start(length: int, context: int | None) -> int:
    """Where the window of a model begins that has read `length` tokens."""
    if context is None or length <= context:
        return 0
    hop = max(context // 2, 1)
    return hop * -(-(length - context) // hop)


class Reader:
    """Reads n texts of equal length token by token, however long, and gives the logits of the next token.

    Args:
        model: In evaluation mode.
        n: How many texts.
        cached: Keep what the model computed for earlier tokens; without, each call computes its whole window anew
            (the same figures, slower).
    """

    def __init__(self, model: LanguageModel, n: int, *, cached: bool = True) -> None:
        self._model = model
        self._n = n
        self._cached = cached
        self._tokens: Int[Tensor, "n length"] | None = None
        self._start = 0
        self._state = model.new_state(n)
        self._columns = _columns(model)

    def read(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        """Append tokens (at least one) to the texts; the logits of what follows."""
        self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens], dim=1)
        start = window_start(self._tokens.shape[1], self._model.context)
        if start == self._start and self._cached:
            return self._logits(tokens)
        self._start = start
        self._state = self._model.new_state(self._n)
        return self._logits(self._tokens[:, start:])

    def _logits(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        if self._columns is None:
            return self._model.advance(tokens, self._state)
        last = self._model.read(tokens, self._state)[:, -1]
        bias = self._model.head.bias
        return last @ self._columns if bias is None else torch.addmm(bias, last, self._columns)

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Keep only these texts, in this order; one may be named more than once."""
        assert self._tokens is not None
        self._tokens = self._tokens[rows]
        self._n = len(rows)
        self._state.select(rows)


def _columns(model: LanguageModel) -> Float[Tensor, "width vocab"] | None:
    """The head's matrix, transposed in memory, where that pays: on a CPU a few rows times a large matrix take half
    the time if the matrix is read along its rows."""
    weight = model.head.weight
    return weight.detach().T.contiguous() if weight.device.type == "cpu" and weight.numel() >= _LARGE_HEAD else None


def score(model: LanguageModel, tokens: Int[Tensor, " length"]) -> Float[Tensor, " length-1"]:
    """ln p of each token but the first, given those before it that its window holds; on the CPU, float64.

    Args:
        model: In evaluation mode.
        tokens: One text of any length, on the model's device.
    """
    if model.context is None:
        return _score_by_state(model, tokens)
    context, length = model.context, len(tokens)
    starts = list(dict.fromkeys(window_start(seen, context) for seen in range(1, length)))
    parts = []
    group = max(1, _TOKENS_AT_ONCE // context)
    for first in range(0, len(starts), group):
        windows = [tokens[s : s + context + 1] for s in starts[first : first + group]]
        # Only the last window can be shorter: what is put behind it is not read back.
        padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
        hidden = model.hidden(padded[:, :-1])
        for row, window in enumerate(windows):
            # The window before has scored up to position `context` of its own, which is `context - hop` of this one.
            new = 0 if first + row == 0 else context - max(context // 2, 1)
            parts.append(_log_p(model, hidden[row, new : len(window) - 1], window[new + 1 :]))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _score_by_state(model: LanguageModel, tokens: Tensor) -> Tensor:
    state = model.new_state(1)
    parts = []
    for start in range(0, len(tokens) - 1, _TOKENS_AT_ONCE):
        targets = tokens[start + 1 : start + 1 + _TOKENS_AT_ONCE]
        parts.append(_log_p(model, model.read(tokens[None, start : start + len(targets)], state)[0], targets))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _log_p(model: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    parts = []
    for start in range(0, len(hidden), 1024):
        log_p = model.head(hidden[start : start + 1024]).double().log_softmax(dim=-1)
        parts.append(log_p.gather(1, targets[start : start + 1024, None])[:, 0].cpu())
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
