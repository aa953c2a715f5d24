"""How much of what captions of `shapes` say is right, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from studio.datasets.shapes.captions import OPPOSITE, Kind, Statement, parse_caption

ATTRIBUTES = ("shape", "color", "size", "material")


@dataclass(frozen=True)
class AttributeScores:
    """Shares in [0, 1]. Objects of the true captions are the base: one that is left out has all attributes wrong."""

    shape: float
    color: float
    size: float
    material: float
    shape_and_color: float
    """Both right of the same object."""
    relation: float
    """Right relations, of those that the true captions state."""
    count: float
    """Captions with the right number of objects."""
    exact: float
    """Captions that say exactly what the true ones say."""


def score_captions(said: Sequence[str], truth: Sequence[str]) -> AttributeScores:
    """Compare captions with true ones; objects are paired so that most of them fit.

    Raises:
        ValueError: Not as many captions as truths, or none.
    """
    if len(said) != len(truth) or not said:
        raise ValueError(f"needs as many captions as truths, got {len(said)} and {len(truth)}")
    right = dict.fromkeys((*ATTRIBUTES, "both"), 0)
    objects = relations = right_relations = counts = exact = 0
    for text, true_text in zip(said, truth, strict=True):
        claim, fact = parse_caption(text), parse_caption(true_text)
        objects += len(fact.objects)
        counts += len(claim.objects) == len(fact.objects)
        exact += claim == fact
        pairs = pair_objects(claim.objects, fact.objects)
        for mine, true in pairs.items():
            a, b = claim.objects[mine], fact.objects[true]
            for name in ATTRIBUTES:
                right[name] += getattr(a, name) == getattr(b, name)
            right["both"] += a.shape == b.shape and a.color == b.color
        relations += len(fact.relations)
        claimed = _relations_between(claim, pairs)
        right_relations += sum(claimed.get((0, i + 1)) == relation for i, relation in enumerate(fact.relations))
    n = max(objects, 1)
    return AttributeScores(
        shape=right["shape"] / n,
        color=right["color"] / n,
        size=right["size"] / n,
        material=right["material"] / n,
        shape_and_color=right["both"] / n,
        relation=right_relations / relations if relations else 1.0,
        count=counts / len(said),
        exact=exact / len(said),
    )


def pair_objects(claimed: Sequence[Kind], true: Sequence[Kind]) -> dict[int, int]:
    """Which claimed object is which true one (as many as the fewer), so that the most attributes fit.

    Shape and colour weigh more than all else: they are what tells objects of a scene apart.
    """
    best: dict[int, int] = {}
    best_fit = -1.0
    short, swap = (claimed, False) if len(claimed) <= len(true) else (true, True)
    other = true if not swap else claimed
    # Captions are short, but a bad model may ramble.
    for order in permutations(range(min(len(other), 6)), min(len(short), 6)):
        fit = sum(_fit(short[i], other[j]) for i, j in enumerate(order))
        if fit > best_fit:
            best_fit = fit
            best = {(j if swap else i): (i if swap else j) for i, j in enumerate(order)}
    return best


def asked_and_seen(asked: Sequence[str], seen: Sequence[str]) -> float:
    """Share of the objects asked for that were read back with the right shape and colour (where these were asked)."""
    objects = right = 0
    for text, answer in zip(asked, seen, strict=True):
        wanted, found = parse_caption(text).objects, parse_caption(answer).objects
        objects += len(wanted)
        for mine, true in pair_objects(found, wanted).items():
            a, b = found[mine], wanted[true]
            right += a.shape == b.shape and (b.color is None or a.color == b.color)
    return right / objects if objects else 0.0


def _fit(a: Kind, b: Kind) -> float:
    return (a.shape == b.shape) + (a.color == b.color) + 0.1 * (a.size == b.size) + 0.1 * (a.material == b.material)


def _relations_between(claim: Statement, pairs: dict[int, int]) -> dict[tuple[int, int], str]:
    """Claimed relations by the numbers of the true objects, both ways round."""
    found = {}
    for i, relation in enumerate(claim.relations, start=1):
        if relation and 0 in pairs and i in pairs:
            found[pairs[0], pairs[i]] = relation
            found[pairs[i], pairs[0]] = OPPOSITE[relation]
    return found
