"""What came of each photo, and why some have no pose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from studio.files import atomic_write
from studio.reconstruction.colmap import Model, Statistics

FILE = "registration.json"
"""Name of the report in the folder of the scene."""

_FEW_FEATURES = 100


@dataclass(frozen=True)
class PhotoResult:
    """What came of one photo."""

    name: str
    registered: bool
    """Whether its pose was found, in the model that was kept."""
    features: int
    matched_photos: int
    """Photos that enough matches with it fit one geometry."""
    points: int
    """Points of the model that it sees."""
    reason: str | None = None
    """Why there is no pose."""


@dataclass(frozen=True)
class ProcessReport:
    """How poses were found; `to_dict` gives plain data for JSON."""

    source: str
    kind: str
    """photos or video"""
    photos: tuple[PhotoResult, ...]
    cameras: tuple[str, ...]
    """One line a camera: size, make, model and lens, focal length by EXIF."""
    models: tuple[int, ...]
    """Photos of each model that was found, the kept one first."""
    points: int
    reprojection_error: float
    """Mean, pixels of the photos that were given."""
    pairs: int
    """Pairs of photos that were compared."""
    matched_pairs: int
    """Those of them that show the same things."""
    video_frames: int | None
    """Frames of the video that the photos were chosen from."""
    settings: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the photos with a pose."""
        return tuple(photo.name for photo in self.photos if photo.registered)

    @property
    def unregistered(self) -> tuple[PhotoResult, ...]:
        """The photos without one."""
        return tuple(photo for photo in self.photos if not photo.registered)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Write `FILE` into a folder."""
        with atomic_write(folder / FILE, "w") as file:
            json.dump(self.to_dict(), file, indent=1, ensure_ascii=False)
            file.write("\n")


def judge_photos(names: Sequence[str], known: Statistics, models: Sequence[Model]) -> tuple[PhotoResult, ...]:
    """What came of each photo.

    Args:
        names: Of all photos, by number.
        known: Features and matches.
        models: The kept one first; may be empty.
    """
    neighbours: dict[int, dict[int, int]] = {number: {} for number in range(len(names))}
    for (i, j), count in known.matches.items():
        neighbours[i][j] = neighbours[j][i] = count
    kept = models[0].photos if models else {}
    return tuple(
        PhotoResult(
            name=name,
            registered=number in kept,
            features=known.features.get(number, 0),
            matched_photos=len(neighbours[number]),
            points=kept.get(number, 0),
            reason=None if number in kept else _reason(number, known, neighbours[number], models),
        )
        for number, name in enumerate(names)
    )


def summarize_reasons(photos: Sequence[PhotoResult]) -> str:
    """Reasons with how many photos each holds for, the most frequent first, in one line."""
    # Counts within the reasons differ from photo to photo; the kind of reason is what people need.
    kinds = Counter((photo.reason or "").partition(":")[0] for photo in photos if not photo.registered)
    return ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common())


def _reason(number: int, known: Statistics, neighbours: dict[int, int], models: Sequence[Model]) -> str:
    features = known.features.get(number, 0)
    if features < _FEW_FEATURES and len(neighbours) < 2:
        return f"few features: {features} found; it is blurred, dark, or shows little texture"
    if not neighbours:
        return f"no matches: none of its {features:,} features fits another photo that it was compared with"
    for model in models[1:]:
        if number in model.photos:
            return f"not connected: it belongs to a model of its own with {len(model.photos)} photos"
    reached = [other for other in neighbours if models and other in models[0].photos]
    if not reached:
        which = (
            "photo that it matches has" if len(neighbours) == 1 else f"{len(neighbours)} photos that it matches have"
        )
        return f"not connected: the {which} no pose"
    best = max(neighbours[other] for other in reached)
    return (
        f"weak matches: it matches {len(reached)} photos of the model ({best} matches at best), too few or too much on "
        "one plane or side to find its pose"
    )
