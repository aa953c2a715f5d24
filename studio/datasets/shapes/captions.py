"""The language of the shapes: what an object is called, what a caption says, and reading captions back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SHAPES = ("cone", "cube", "cylinder", "sphere")
COLORS = ("blue", "cyan", "green", "orange", "purple", "red", "white", "yellow")
SIZES = ("large", "small")
MATERIALS = ("matte", "metal")
RELATIONS = ("left of", "right of", "in front of", "behind")
OPPOSITE = {"left of": "right of", "right of": "left of", "in front of": "behind", "behind": "in front of"}

_WORDS = re.compile(r"[a-z]+")


@dataclass(frozen=True, order=True)
class Kind:
    """What an object is; a caption names matte ones without their material. Unknown attributes are None."""

    shape: str
    color: str | None = None
    size: str | None = None
    material: str | None = None

    def phrase(self) -> str:
        """As 'a small red metal cube'."""
        words = [self.size, self.color, self.material if self.material == "metal" else None, self.shape]
        return " ".join(["a", *(word for word in words if word)])


@dataclass(frozen=True)
class Statement:
    """What a caption says."""

    objects: tuple[Kind, ...]
    relations: tuple[str, ...] = ()
    """Where the first object is, seen from each of the others."""

    def caption(self) -> str:
        """As 'a small red metal cube left of a large blue sphere and behind a small green cone'."""
        text = self.objects[0].phrase()
        for i, (relation, other) in enumerate(zip(self.relations, self.objects[1:], strict=True)):
            text += f"{' and' if i else ''} {relation} {other.phrase()}"
        return text


def parse_caption(text: str) -> Statement:
    """Read a caption, as far as it makes sense: words that are not of the language are passed over.

    An object ends at the name of a shape; a relation holds between the first object and the one that follows it. What
    has no material is matte, as captions mean it, where colour or size are told.
    """
    words = _WORDS.findall(text.lower())
    objects: list[Kind] = []
    relations: list[str] = []
    pending: str | None = None
    color = size = material = None
    for i, word in enumerate(words):
        pair = " ".join(words[i : i + 2])
        triple = " ".join(words[i : i + 3])
        found = next((name for name in (triple, pair, word) if name in RELATIONS), None)
        if found is not None:
            pending = found
        elif word in COLORS:
            color = word
        elif word in SIZES:
            size = word
        elif word in MATERIALS:
            material = word
        elif word in SHAPES:
            objects.append(Kind(word, color, size, material or ("matte" if color or size else None)))
            if len(objects) > 1:
                relations.append(pending or "")
            color = size = material = pending = None
    return Statement(tuple(objects), tuple(relations))


def canonical_order(kinds: Sequence[Kind]) -> list[int]:
    """The order in which a caption names objects: by shape, then by colour, both alphabetically.

    It follows from the picture alone, so that there is one right caption to learn.
    """
    return sorted(range(len(kinds)), key=lambda i: kinds[i])
