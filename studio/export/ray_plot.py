"""The picture that teaches what a radiance field is: density, weights, transmittance and colour along one ray."""

from __future__ import annotations

import os

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from studio.export.figure_file import figure_format, save_figure
from studio.plugin.abilities import RaySamples

_MARK = "#ff2d95"
"""A colour that few photos have."""
_STRIP = 600
"""Pixels of the strips of colour."""


def plot_ray(
    path: str | os.PathLike[str],
    samples: RaySamples,
    *,
    picture: Float[Tensor, "h w 3"],
    pixel: tuple[float, float],
    title: str = "",
    unit: float = 1.0,
    background: Float[Tensor, " 3"] | None = None,
) -> None:
    """Draw what a Field composites along the ray of one pixel, beside the picture with the pixel marked.

    Args:
        path: Ends in .png, .pdf or .svg.
        samples: Along the ray; with none, only the picture says something.
        picture: In which the pixel is, in [0, 1].
        pixel: Its coordinates (column, row), centres at half-integers.
        title: Over the whole.
        unit: Units of the input cameras in one unit of `samples`; distances are shown in the former.
        background: What shines through at the end, sRGB.

    Raises:
        StudioError: Another ending, or the file cannot be written.
    """
    ending = figure_format(path, "a ray")
    from matplotlib.figure import Figure

    t = samples["t"].detach().cpu().double().numpy() * unit
    density = samples["density"].detach().cpu().double().numpy() / unit
    weights = samples["weights"].detach().cpu().double().numpy()
    light = np.clip(1 - np.concatenate([[0.0], np.cumsum(weights)[:-1]]), 0, 1) if len(t) else weights
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    axes = figure.subplot_mosaic(
        [["picture", "density"], ["picture", "weights"], ["picture", "colors"]],
        width_ratios=[1, 1.35],
        height_ratios=[1, 1, 0.5],
    )
    _draw_picture(axes["picture"], picture, pixel)
    _draw_curves(axes["density"], axes["weights"], t, density, weights, light)
    _draw_colors(axes["colors"], t, samples["rgb"].detach().cpu(), weights, _pixel_color(samples, background))
    for name in ("density", "weights"):
        axes[name].tick_params(labelbottom=False)
    low, high = (t[0], t[-1]) if len(t) > 1 else (0.0, 1.0)
    margin = 0.03 * max(high - low, 1e-6)
    for name in ("density", "weights", "colors"):
        axes[name].set_xlim(low - margin, high + margin)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path, ending)


def _draw_picture(axes, picture: Tensor, pixel: tuple[float, float]) -> None:  # type: ignore[no-untyped-def]
    height, width = picture.shape[:2]
    axes.imshow(picture.detach().cpu().clamp(0, 1).numpy(), extent=(0, width, height, 0), interpolation="nearest")
    column, row = pixel
    axes.axvline(column, color=_MARK, linewidth=0.7, alpha=0.7)
    axes.axhline(row, color=_MARK, linewidth=0.7, alpha=0.7)
    axes.plot([column], [row], "o", markersize=11, markerfacecolor="none", markeredgecolor=_MARK, markeredgewidth=2)
    axes.set(xlabel=f"pixel ({column:g}, {row:g})", xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def _draw_curves(  # type: ignore[no-untyped-def]
    upper, lower, t: np.ndarray, density: np.ndarray, weights: np.ndarray, light: np.ndarray
) -> None:
    upper.set_ylabel("density σ\n[1 / unit]")
    lower.set_ylabel("share")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    lower.set_ylim(-0.03, 1.05)
    if len(t) == 0:
        upper.text(0.5, 0.5, "the ray meets nothing", ha="center", va="center", transform=upper.transAxes)
        upper.set_yticks([])
        return
    upper.fill_between(t, density, color="C0", alpha=0.25, linewidth=0)
    upper.plot(t, density, ".-", color="C0", markersize=3, linewidth=1)
    upper.set_ylim(bottom=0)
    lower.plot(t, light, color="0.35", linewidth=1.4, label="transmittance T: light that still arrives")
    lower.vlines(t, 0, weights, color="C3", linewidth=1)
    lower.plot(t, weights, ".", color="C3", markersize=4, label="weight w = T (1 − exp(−σ δ))")
    lower.legend(fontsize=8, loc="center right")
    expected = float((weights * t).sum() / max(weights.sum(), 1e-9))
    if weights.sum() > 0.1:
        for axes in (upper, lower):
            axes.axvline(expected, color=_MARK, linewidth=1, linestyle="--")
        upper.annotate(
            f"expected distance {expected:.3g}",
            (expected, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -11),
            textcoords="offset points",
            color=_MARK,
            fontsize=8,
        )


def _draw_colors(  # type: ignore[no-untyped-def]
    axes, t: np.ndarray, rgb: Tensor, weights: np.ndarray, final: Tensor
) -> None:
    """Three strips over the distance: each sample's colour, the same as far as it counts, and the pixel."""
    axes.set(xlabel="distance along the ray [units of the input]", yticks=[], ylim=(0, 3))
    if len(t) > 1:
        # The sample nearest to each place of the strip.
        places = np.linspace(t[0], t[-1], _STRIP)
        nearest = np.abs(places[:, None] - t[None]).argmin(axis=1)
        colors = rgb.clamp(0, 1).numpy()[nearest]
        counted = (weights / max(weights.max(), 1e-9))[nearest, None]
        extent = (t[0], t[-1])
        axes.imshow(colors[None], extent=(*extent, 2.05, 2.95), aspect="auto")
        axes.imshow((1 - counted * (1 - colors))[None], extent=(*extent, 1.05, 1.95), aspect="auto")
        axes.imshow(final.reshape(1, 1, 3).numpy(), extent=(*extent, 0.05, 0.95), aspect="auto")
    axes.set_yticks([2.5, 1.5, 0.5], ["colour", "× weight", "pixel"], fontsize=8)
    axes.tick_params(axis="y", length=0)


def _pixel_color(samples: RaySamples, background: Tensor | None) -> Float[Tensor, " 3"]:
    weights, rgb = samples["weights"].detach().cpu(), samples["rgb"].detach().cpu()
    behind = torch.zeros(3) if background is None else background.cpu()
    return (weights[:, None] * rgb).sum(dim=0).add((1 - weights.sum()) * behind).clamp(0, 1)
