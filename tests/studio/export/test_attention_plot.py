"""Pictures of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import StudioError
from studio.export.attention_plot import plot_attention


def causal(layers: int, heads: int, tokens: int) -> torch.Tensor:
    scores = torch.randn(layers, heads, tokens, tokens, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(~torch.ones(tokens, tokens, dtype=torch.bool).tril(), -torch.inf).softmax(dim=-1)


def test_a_panel_for_each_layer_and_head(tmp_path: Path) -> None:
    plot_attention(tmp_path / "some" / "maps.png", causal(2, 3, 5), ["BOS", "to", " be", "\n", "$x$"], title="t")
    width, height = Image.open(tmp_path / "some" / "maps.png").size
    assert width > height > 500


def test_the_shares_are_what_is_drawn(tmp_path: Path) -> None:
    """Everything on the first token: a quarter of the panel in the brightest colour, the rest in grey."""
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 0] = 1
    plot_attention(tmp_path / "one.png", maps, list("abcd"))
    pixels = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    bright, unseen = (
        int((np.abs(pixels.astype(int) - color).max(axis=2) <= 1).sum()) for color in ((252, 253, 191), (232, 232, 232))
    )
    assert bright > 10_000
    assert unseen == pytest.approx(3 * bright, rel=0.02)


def test_many_tokens_have_no_labels_but_a_picture(tmp_path: Path) -> None:
    plot_attention(tmp_path / "long.svg", causal(1, 2, 100), ["secretword"] * 100, layers=[3], heads=[0, 5])
    text = (tmp_path / "long.svg").read_text()
    assert "layer 3, head 5" in text
    assert "secretword" not in text


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"attention is drawn as \.png, \.pdf, \.svg"):
        plot_attention(tmp_path / "x.txt", causal(1, 1, 2), ["a", "b"])
    with pytest.raises(ValueError, match="labels: expected 2"):
        plot_attention(tmp_path / "x.png", causal(1, 1, 2), ["a"])
    assert not list(tmp_path.iterdir())
