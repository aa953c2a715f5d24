"""Scores of single photos and the report over all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.errors import StudioError
from studio.metrics.lpips import Lpips
from studio.metrics.photo_metric import PhotoMetric
from studio.metrics.protocol import Protocol
from studio.metrics.psnr import psnr
from studio.metrics.ssim import Padding, ssim
from studio.reading.json_text import parse_json

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class PhotoScore:
    """The figures of one photo."""

    name: str
    """The frame's name."""
    psnr: float
    """dB, higher is better."""
    ssim: float
    """At most 1, higher is better."""
    lpips: float | None = None
    """Lower is better; None where LPIPS was not available."""
    seconds: float = 0.0
    """How long the render took."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Figures by metrics of other packages."""


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of all photos of a split, their means, and the protocol."""

    scores: tuple[PhotoScore, ...]
    protocol: Protocol

    @property
    def psnr(self) -> float:
        """Mean of the photos' PSNR in dB, as the field reports it (not the PSNR of the pooled error)."""
        return _mean([score.psnr for score in self.scores])

    @property
    def ssim(self) -> float:
        """Mean of the photos' SSIM."""
        return _mean([score.ssim for score in self.scores])

    @property
    def lpips(self) -> float | None:
        """Mean of the photos' LPIPS; None unless every photo has one."""
        values = [score.lpips for score in self.scores if score.lpips is not None]
        return _mean(values) if values and len(values) == len(self.scores) else None

    @property
    def seconds(self) -> float:
        """Mean seconds a render."""
        return _mean([score.seconds for score in self.scores])

    @property
    def further(self) -> dict[str, float]:
        """Means by metrics of other packages."""
        names = self.scores[0].further if self.scores else {}
        return {name: _mean([score.further[name] for score in self.scores]) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `mean`, `protocol`, `photos`; in each mean and photo `further`, where other packages measured.

        JSON knows no infinity: those are the strings "inf", "nan".
        """
        return {
            "mean": _figures(self),
            "protocol": self.protocol.to_dict(),
            "photos": [{"name": score.name} | _figures(score) for score in self.scores],
        }

    def to_json(self) -> str:
        """Strict JSON, indented, as `eval.json` in a run folder."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EvaluationReport:
        """Read what `to_json` wrote; the means are computed again.

        Raises:
            StudioError: Not such a report; names the field.
        """
        try:
            data = parse_json(text, "evaluation report")
            scores = tuple(
                PhotoScore(
                    name=str(photo["name"]),
                    psnr=float(photo["psnr"]),
                    ssim=float(photo["ssim"]),
                    lpips=None if photo.get("lpips") is None else float(photo["lpips"]),
                    seconds=float(photo.get("seconds", 0.0)),
                    further={str(name): float(value) for name, value in photo.get("further", {}).items()},
                )
                for photo in data["photos"]
            )
            return cls(scores=scores, protocol=Protocol.from_dict(data["protocol"]))
        except KeyError as error:
            raise StudioError(
                f"evaluation report: the field {error} is missing.", fix="Run the evaluation again."
            ) from error
        except (TypeError, ValueError, AttributeError) as error:
            raise StudioError(
                f"evaluation report: a field is malformed ({error}).", fix="Run the evaluation again."
            ) from error

    def table(self, *, title: str | None = None) -> Table:
        """A rich table: one row a photo, the means below, the protocol as caption; no LPIPS column without figures."""
        from rich.table import Table

        with_lpips = any(score.lpips is not None for score in self.scores)
        table = Table(title=title, caption=str(self.protocol), caption_justify="left", show_footer=True)
        table.add_column("photo", footer=f"mean of {len(self.scores)}", overflow="fold")
        table.add_column("PSNR dB", footer=f"{self.psnr:.2f}", justify="right")
        table.add_column("SSIM", footer=f"{self.ssim:.4f}", justify="right")
        if with_lpips:
            table.add_column("LPIPS", footer="-" if self.lpips is None else f"{self.lpips:.4f}", justify="right")
        for name, value in self.further.items():
            table.add_column(name, footer=f"{value:.4f}", justify="right")
        table.add_column("seconds", footer=f"{self.seconds:.3f}", justify="right")
        for score in self.scores:
            row = [score.name, f"{score.psnr:.2f}", f"{score.ssim:.4f}"]
            if with_lpips:
                row.append("-" if score.lpips is None else f"{score.lpips:.4f}")
            row += [f"{value:.4f}" for value in score.further.values()]
            table.add_row(*row, f"{score.seconds:.3f}")
        return table


def as_saved(picture: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch c"]:
    """The picture as an 8-bit file would give it back: clamped to [0, 1], rounded to the nearest of 256 levels."""
    return (picture.clamp(0.0, 1.0) * 255.0 + 0.5).floor() / 255.0


@torch.no_grad()
def score_photo(
    name: str,
    render: Float[Tensor, "h w 3"],
    photo: Float[Tensor, "h w 3"],
    *,
    mask: Bool[Tensor, "h w"] | None = None,
    lpips: Lpips | None = None,
    metrics: Sequence[PhotoMetric] = (),
    ssim_padding: Padding = "same",
    render_8_bit: bool = True,
    seconds: float = 0.0,
) -> PhotoScore:
    """Measure one render against its photo, both composited on one background already.

    Args:
        name: The frame's name.
        render: Values outside [0, 1] are clamped.
        photo: Taken as it is.
        mask: True where the photo counts. PSNR and SSIM average over those pixels; LPIPS, whose network sees
            neighbourhoods, is given the photo itself in place of the render elsewhere.
        lpips: From `find_lpips`; None leaves the figure out.
        metrics: Further ones, for `PhotoScore.further`.
        ssim_padding: See `studio.metrics.ssim`.
        render_8_bit: Round the render to 8 bits first, as saved pictures are; else it is clamped only.
        seconds: How long the render took, stored with the score.

    Raises:
        ValueError: Shapes do not fit.
    """
    render = render.to(photo)
    render = as_saved(render) if render_8_bit else render.clamp(0.0, 1.0)
    distance = None
    if lpips is not None:
        seen = render if mask is None else torch.where(mask.unsqueeze(-1), render, photo)
        distance = lpips(seen, photo).item()
    return PhotoScore(
        name=name,
        psnr=psnr(render, photo, mask).item(),
        ssim=ssim(render, photo, mask, padding=ssim_padding).item(),
        lpips=distance,
        seconds=seconds,
        further={metric.name: float(metric.measure(render, photo, mask)) for metric in metrics},
    )


def _figures(scored: PhotoScore | EvaluationReport) -> dict[str, Any]:
    found: dict[str, Any] = {key: _plain(getattr(scored, key)) for key in ("psnr", "ssim", "lpips", "seconds")}
    if scored.further:
        found["further"] = {name: _plain(value) for name, value in scored.further.items()}
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
