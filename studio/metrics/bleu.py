"""BLEU (Papineni et al. 2002) of a corpus of sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def corpus_bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], *, order: int = 4
) -> float:
    """Brevity penalty times the geometric mean of clipped n-gram precisions up to `order`, in [0, 1], not smoothed.

    Args:
        candidates: Words of each sentence.
        references: One or more right sentences for each, as words.
        order: Longest n-gram.

    Raises:
        ValueError: Not as many references as candidates, or none.
    """
    if len(candidates) != len(references) or not candidates:
        raise ValueError(f"needs as many candidates as references, got {len(candidates)} and {len(references)}")
    matched, total = [0] * order, [0] * order
    length = reference_length = 0
    for words, right in zip(candidates, references, strict=True):
        length += len(words)
        # The reference nearest in length, the shorter of two equally near.
        reference_length += min((abs(len(r) - len(words)), len(r)) for r in right)[1]
        for n in range(1, order + 1):
            have = _ngrams(words, n)
            # Each n-gram counts as often as the one reference that has it most often.
            limit: Counter[tuple[str, ...]] = Counter()
            for r in right:
                limit |= _ngrams(r, n)
            matched[n - 1] += sum((have & limit).values())
            total[n - 1] += sum(have.values())
    if min(matched) == 0 or length == 0:
        return 0.0
    precision = sum(math.log(hits / count) for hits, count in zip(matched, total, strict=True)) / order
    brevity = min(0.0, 1.0 - reference_length / length)
    return math.exp(brevity + precision)


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
