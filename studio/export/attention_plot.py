"""What the tokens of a text look at: the attention of every layer and head, a panel each."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from studio.export.figure_file import figure_format, save_figure

_LABELLED = 64
"""Up to so many tokens are named at the panels' edges."""
_SINGLE, _MANY = 7.0, 2.2
"""Inches of a panel: alone, and among others."""
_LARGEST = 40.0
"""Inches of the figure at most."""
_GAMMA = 0.5
_UNSEEN = "#e8e8e8"


def plot_attention(
    path: str | os.PathLike[str],
    maps: Float[Tensor, "layers heads t t"],
    labels: Sequence[str],
    *,
    title: str = "",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> None:
    """Draw attention maps: layers down, heads across, in each panel the looking token a row, the seen one a column.

    Colours follow the square root of the share, so that small shares show; what is not seen at all is grey.

    Args:
        path: Ends in .png, .pdf or .svg.
        maps: Shares; rows sum to 1.
        labels: The t tokens.
        title: Over the whole.
        layers, heads: The maps' numbers, from 0, where they are not all.

    Raises:
        StudioError: Another ending, or the file cannot be written.
        ValueError: Not as many labels as tokens.
    """
    ending = figure_format(path, "attention")
    depth, count, tokens = maps.shape[:3]
    if len(labels) != tokens:
        raise ValueError(f"labels: expected {tokens}, as many as tokens, got {len(labels)}")
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    panel = min(_SINGLE if depth * count == 1 else _MANY, _LARGEST / max(depth, count))
    figure = Figure(figsize=(panel * count + 1.6, panel * depth + 1.2), layout="constrained")
    grid = figure.subplots(depth, count, squeeze=False, sharex=True, sharey=True)
    shares = maps.detach().cpu().double().numpy()
    norm = PowerNorm(_GAMMA, 0.0, 1.0)
    size = min(8.0, 60 * panel / max(tokens, 1))
    for row in range(depth):
        for column in range(count):
            axes = grid[row, column]
            axes.set_facecolor(_UNSEEN)
            drawn = axes.imshow(
                np.ma.masked_equal(shares[row, column], 0.0), cmap="magma", norm=norm, interpolation="nearest"
            )
            layer, head = (layers or range(depth))[row], (heads or range(count))[column]
            axes.set_title(f"layer {layer}, head {head}", fontsize=7 if panel < _SINGLE else 10, pad=2)
            if tokens <= _LABELLED:
                shown = [_visible(label) for label in labels]
                axes.set_xticks(range(tokens), shown, rotation=90, fontsize=size)
                axes.set_yticks(range(tokens), shown, fontsize=size)
                axes.tick_params(length=0, pad=1)
            else:
                axes.tick_params(labelsize=7)
    figure.supxlabel("token that is seen", fontsize=9)
    figure.supylabel("token that looks", fontsize=9)
    bar = figure.colorbar(drawn, ax=grid, fraction=0.03, pad=0.01, aspect=40)
    bar.set_label("share", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    save_figure(figure, path, ending)


def _visible(label: str) -> str:
    """A token whose blanks can be seen; signs that begin a formula are no formulas here."""
    shown = label.replace("\n", "↵").replace("\t", "→").replace(" ", "␣") or "∅"
    return shown.replace("$", r"\$")
