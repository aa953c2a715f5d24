"""Beam search: the likeliest text instead of a drawn one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


class BranchingReader(Protocol):
    """Reads texts that fork, such as `studio_gpt.windows.Reader`."""

    def read(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        """Append tokens to the texts; the logits of what follows."""
        ...

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Keep these texts; one may be named more than once."""
        ...


def beam_search(
    reader: BranchingReader,
    prompt: Sequence[int],
    *,
    beams: int,
    max_tokens: int,
    end: int,
    banned: Sequence[int],
    device: torch.device,
) -> list[int]:
    """The continuation of highest probability among those that are ever among the `beams` best of their length.

    A text's score is ln p of all its tokens, its end included, so it only falls as the text grows: the search is over
    once no open text is likelier than the best ended one. One beam is greedy decoding; as many beams as there are texts
    is exhaustive search.

    Args:
        reader: Fresh, for one text.
        prompt: Tokens to begin with, at least one.
        beams: Texts kept open.
        max_tokens: Where an open text is cut and counts as it is.
        end: The token that ends a text.
        banned: Tokens that never occur.

    Returns:
        The new tokens, without prompt and end.
    """
    logits = reader.read(torch.tensor([list(prompt)], device=device))
    scores = torch.zeros(1, dtype=torch.float64, device=device)
    texts: list[list[int]] = [[]]
    best: tuple[float, list[int]] = (-math.inf, [])
    for made in range(max_tokens):
        log_p = logits.double().log_softmax(dim=-1)
        log_p[:, list(banned)] = -math.inf
        total = (scores[:, None] + log_p).flatten()
        # Each text can end at most once, so this many hold `beams` that go on.
        values, flat = total.topk(min(beams + len(texts), len(total)))
        rows, tokens = flat // log_p.shape[1], flat % log_p.shape[1]
        ended = (tokens == end).tolist()
        possible = values.isfinite().tolist()
        for i, row in enumerate(rows.tolist()):
            if i < beams and ended[i] and possible[i] and float(values[i]) > best[0]:
                best = (float(values[i]), texts[row])
        open_ones = [i for i in range(len(flat)) if possible[i] and not ended[i]][:beams]
        if not open_ones or best[0] >= float(values[open_ones[0]]):
            return best[1]
        kept = torch.tensor(open_ones, device=device)
        texts = [[*texts[int(rows[i])], int(tokens[i])] for i in open_ones]
        scores = values[kept]
        if made + 1 < max_tokens:
            reader.select(rows[kept])
            logits = reader.read(tokens[kept, None])
    # The open texts are in the order of their scores.
    return texts[0] if float(scores[0]) > best[0] else best[1]
