"""From logits to tokens: penalty, temperature, truncation and the draw, in this order.

    1. repetition penalty   l_j <- l_j / gamma^c_j where l_j > 0, else l_j gamma^c_j;  c_j: occurrences of j so far
    2. temperature          l_j <- l_j / T;  T = 0 takes the largest
    3. top-k                keep the k largest
    4. top-p (nucleus)      keep the smallest set of the largest whose probability reaches p
    5. min-p                keep what is at least p_min times as probable as the most probable
    6. draw from softmax(l) over what is kept

Keskar et al., "CTRL" (2019) for the penalty, here with a power that counts; Holtzman et al., "The Curious Case of
Neural Text Degeneration" (ICLR 2020) for the nucleus; Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative
and Coherent LLM Outputs" (ICLR 2025) for min-p.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import SampleOptions
from studio.plugin.noise import uniform


class TokenReader(Protocol):
    """Reads n texts token by token, such as `studio_gpt.windows.Reader`."""

    def read(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n vocab"]:
        """Append tokens to the texts; a tensor of its own with the logits of what follows."""
        ...


@dataclass
class TextOptions(SampleOptions):
    """How text is drawn."""

    temperature: float = 0.8
    """Below 1: more likely tokens; above: more varied ones; 0: always the likeliest."""
    top_k: int = 50
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.01
    """Divide the logit of a token by this for each time it occurred; 1: none."""
    max_tokens: int = 256
    """Most tokens of a sample, besides its prompt."""
    beams: int = 1
    """Above 1: search for the likeliest text with this many open ones, instead of drawing; all else but max-tokens is
    without effect then."""

    def check(self) -> None:
        """Refuse impossible values.

        Raises:
            StudioError: Names the option and its range.
        """
        rules = [
            ("temperature", self.temperature >= 0 and math.isfinite(self.temperature), "0 or more"),
            ("top_k", self.top_k >= 0, "0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("beams", self.beams >= 1, "1 or more"),
        ]
        for name, holds, wanted in rules:
            if not holds:
                flag = name.replace("_", "-")
                raise StudioError(f"{name}: {getattr(self, name)} must be {wanted}.", fix=f"Change --{flag}.")


def penalize(
    logits: Float[Tensor, "n vocab"], counts: Float[Tensor, "n vocab"], penalty: float
) -> Float[Tensor, "n vocab"]:
    """Push down tokens that occurred, once for each time: positive logits are divided, negative ones multiplied."""
    factor = penalty**counts
    return torch.where(logits > 0, logits / factor, logits * factor)


def candidates(
    logits: Float[Tensor, "n vocab"], options: TextOptions
) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Steps 2 to 5 of the chain for a temperature above 0.

    Returns:
        Probabilities (0 for what was left out), most probable first, and the tokens that they belong to.
    """
    scaled = logits.double() / options.temperature
    k = min(options.top_k or scaled.shape[1], scaled.shape[1])
    values, tokens = scaled.topk(k, dim=-1)
    p = values.softmax(dim=-1)
    # A token stays when those before it do not reach top_p yet: so the first always stays.
    kept = (p.cumsum(dim=-1) - p < options.top_p) & (p >= options.min_p * p[:, :1])
    p = p.where(kept, 0)
    return p / p.sum(dim=-1, keepdim=True), tokens


def draw(probabilities: Float[Tensor, "n m"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """One index a row, by inverting the cumulative distribution at a uniform number in [0, 1)."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Just below the total, whatever the rounding: an index of probability 0 is then never the first above it.
    threshold = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def next_tokens(
    logits: Float[Tensor, "n vocab"],
    counts: Float[Tensor, "n vocab"] | None,
    options: TextOptions,
    generator: torch.Generator | None,
) -> Int[Tensor, " n"]:
    """The whole chain: one token a row.

    Args:
        counts: How often each token stands in each text; None without penalty.
        generator: CPU generator.
    """
    if counts is not None:
        logits = penalize(logits, counts, options.repetition_penalty)
    if options.temperature == 0:
        return logits.argmax(dim=-1)
    drawn = uniform((len(logits),), generator, dtype=torch.float64)
    p, tokens = candidates(logits, options)
    return tokens.gather(1, draw(p, drawn.to(p.device))[:, None])[:, 0]


def continue_texts(
    reader: TokenReader,
    prompts: Sequence[Sequence[int]],
    options: TextOptions,
    generator: torch.Generator | None,
    *,
    end: int,
    banned: Sequence[int],
    device: torch.device,
) -> Iterator[tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]]:
    """Continue n prompts at once, a token a step.

    All texts are read in step from their first token; where a prompt is longer than others, its tokens take the place
    of drawn ones. So rows of different lengths need no padding, and each gets the figures it would get alone.

    Args:
        reader: Fresh, for as many texts as there are prompts.
        prompts: Tokens to begin with, at least one each (BOS).
        end: The token that ends a text.
        banned: Tokens that are never drawn.

    Yields:
        The tokens of a step and whether each is a new token of its text (neither of the prompt nor after its end).
    """
    n = len(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    given = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    read = int(lengths.min())
    logits = reader.read(given[:, :read].to(device))
    counts = None
    if options.repetition_penalty != 1:
        counts = torch.zeros_like(logits)
        counts.scatter_add_(1, given[:, :read].to(device), torch.ones(n, read, device=device, dtype=logits.dtype))
    made = torch.zeros(n, dtype=torch.long)
    running = torch.ones(n, dtype=torch.bool)
    while True:
        logits[:, list(banned)] = -math.inf
        drawn = next_tokens(logits, counts, options, generator).cpu()
        forced = read < lengths
        tokens = given[:, read].where(forced, drawn) if bool(forced.any()) else drawn
        new = running & ~forced
        running = running & (forced | (tokens != end))
        yield tokens, new & running
        made += new.long()
        running = running & (made < options.max_tokens)
        if not bool(running.any()):
            return
        column = tokens[:, None].to(device)
        if counts is not None:
            counts.scatter_add_(1, column, torch.ones_like(column, dtype=counts.dtype))
        logits = reader.read(column)
        read += 1
