"""What was measured of a generator, with all that the figures depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.errors import StudioError
from studio.reading.json_text import parse_json

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """How a figure is shown: its name, a format, and which way is better."""

    name: str
    format: str
    better: str = ""
    """'lower', 'higher', or nothing."""
    about: str = ""


FIGURES: Mapping[str, Figure] = {
    "samples_per_second": Figure("samples a second", ",.1f", "higher"),
    "fid": Figure("FID", ".3f", "lower", "Fréchet distance of features"),
    "kid": Figure("KID x 1000", ".3f", "lower", "unbiased MMD^2 of features, cubic kernel, times 1000"),
    "precision": Figure("precision", ".3f", "higher", "share of samples that are like data"),
    "recall": Figure("recall", ".3f", "higher", "share of data that is like samples"),
    "density": Figure("density", ".3f", "higher"),
    "coverage": Figure("coverage", ".3f", "higher", "share of held-out data with a sample near by"),
    "class_accuracy": Figure("class accuracy", ".1%", "higher", "samples recognised as the class asked for"),
    "classes_covered": Figure("classes covered", ".0f", "higher"),
    "read_back": Figure("read back", ".1%", "higher", "objects asked for whose shape and colour a caption run reads"),
    "sliced_wasserstein": Figure("sliced Wasserstein", ".4f", "lower"),
    "mmd": Figure("MMD^2 x 1000", ".3f", "lower", "unbiased, Gaussian kernel of the median distance, times 1000"),
    "nats_per_sample": Figure("nats a sample", ".2f", "higher", "mean log-likelihood of held-out samples"),
    "bits_per_dim": Figure("bits a dimension", ".3f", "lower"),
    "nats_per_token": Figure("nats a token", ".4f", "lower"),
    "perplexity": Figure("perplexity", ".3f", "lower", "exp of the nats a token"),
    "nats_per_character": Figure("nats a character", ".4f", "lower"),
    "characters_per_second": Figure("characters a second", ",.0f", "higher"),
    "shape": Figure("shapes right", ".1%", "higher"),
    "color": Figure("colours right", ".1%", "higher"),
    "shape_and_color": Figure("both right", ".1%", "higher"),
    "size": Figure("sizes right", ".1%", "higher"),
    "material": Figure("materials right", ".1%", "higher"),
    "relation": Figure("relations right", ".1%", "higher"),
    "count": Figure("object counts right", ".1%", "higher"),
    "exact": Figure("captions exactly right", ".1%", "higher"),
    "bleu": Figure("BLEU-4", ".3f", "higher"),
}


@dataclass(frozen=True)
class GeneratorReport:
    """Figures by the names of `FIGURES`, and how they were measured."""

    kind: str
    """'pictures', 'points', 'text' or 'captions'."""
    figures: dict[str, float]
    protocol: dict[str, Any] = field(default_factory=dict)
    """Plain data: counts, seed, features, reference."""
    floor: dict[str, float] = field(default_factory=dict)
    """The same figures of as many training samples in place of generated ones: what a perfect generator would get."""
    per_class: dict[str, float] = field(default_factory=dict)
    """Share of each class's samples that are recognised."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which knows no infinity: those are the strings "inf", "nan"."""
        plain = {
            name: {key: value if math.isfinite(value) else str(value) for key, value in figures.items()}
            for name, figures in (("figures", self.figures), ("floor", self.floor), ("per_class", self.per_class))
        }
        return {"kind": self.kind, **plain, "protocol": self.protocol}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "evaluation report") -> GeneratorReport:
        """Inverse of `to_dict`; raises StudioError naming `source` where it is no such report."""
        try:
            parts = [
                {str(k): float(v) for k, v in data.get(name, {}).items()} for name in ("figures", "floor", "per_class")
            ]
            return cls(str(data["kind"]), parts[0], dict(data.get("protocol", {})), parts[1], parts[2])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudioError(
                f"{source}: is not a report on a generator ({error}).", fix="Run `studio eval`."
            ) from error

    def table(self, *, title: str | None = None) -> Table:
        """A rich table: one row a figure; the protocol as caption."""
        from rich.table import Table

        protocol = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in self.protocol.items())
        table = Table(title=title, caption=protocol, caption_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        if self.floor:
            table.add_column("training data", justify="right")
        table.add_column("better")
        table.add_column("")
        for name, value in self.figures.items():
            row = [FIGURES[name].name if name in FIGURES else name, show_figure(name, value)]
            if self.floor:
                row.append(show_figure(name, self.floor[name]) if name in self.floor else "")
            known = FIGURES.get(name)
            table.add_row(*row, known.better if known else "", known.about if known else "")
        return table


def show_figure(name: str, value: float) -> str:
    """A figure as people read it."""
    return format(value, FIGURES[name].format if name in FIGURES else ".4g")


def figures_from_json(text: str, source: str) -> GeneratorReport:
    """Read the report in an ``eval.json``."""
    data = parse_json(text, source, fix="Run `studio eval`.")
    if not isinstance(data, dict) or "figures" not in data:
        raise StudioError(f"{source}: is not a report on a generator.", fix="Run `studio eval` on a generator's run.")
    return GeneratorReport.from_dict(data, source)
