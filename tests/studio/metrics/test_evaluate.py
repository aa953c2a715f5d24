"""The report: means, rounding, masks, JSON and table."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from studio.errors import StudioError
from studio.metrics import EvaluationReport, Lpips, PhotoScore, Protocol, as_saved, psnr, score_photo, ssim

PROTOCOL = Protocol(split="test", photos=2, background="white", resize="area 1/2", lpips="alex")


def _report() -> EvaluationReport:
    return EvaluationReport(
        scores=(PhotoScore("a.png", 30.0, 0.9, 0.2, 0.5), PhotoScore("b.png", 34.0, 0.95, 0.1, 1.5)), protocol=PROTOCOL
    )


def test_means_are_of_the_photos_figures() -> None:
    report = _report()
    assert report.psnr == 32.0
    assert report.ssim == pytest.approx(0.925)
    assert report.lpips == pytest.approx(0.15)
    assert report.seconds == 1.0
    partly = EvaluationReport((*report.scores, PhotoScore("c.png", 32.0, 0.9)), PROTOCOL)
    assert partly.lpips is None
    assert math.isnan(EvaluationReport((), PROTOCOL).psnr)


def test_json_round_trip_is_strict_even_with_infinities() -> None:
    report = EvaluationReport((PhotoScore("ü.png", math.inf, 1.0), PhotoScore("b.png", 34.0, 0.95)), PROTOCOL)
    text = report.to_json()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
    assert data["mean"] == {"psnr": "inf", "ssim": 0.975, "lpips": None, "seconds": 0.0}
    assert data["protocol"]["resize"] == "area 1/2"
    assert EvaluationReport.from_json(text) == report
    assert EvaluationReport.from_json(_report().to_json()) == _report()
    assert Protocol.from_dict(json.loads(PROTOCOL.to_json()) | {"of_a_later_version": 1}) == PROTOCOL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"photos": [\n}', "JSON syntax error at line 2"),
        ('{"photos": []}', "'protocol' is missing"),
        ('{"photos": [{"name": "a", "psnr": "high", "ssim": 1}], "protocol": {}}', "malformed"),
        ("[]", "malformed"),
    ],
)
def test_damaged_reports_are_told(text: str, words: str) -> None:
    with pytest.raises(StudioError, match=words):
        EvaluationReport.from_json(text)


def test_table_and_protocol_text() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(_report().table(title="lego"))
    text = out.getvalue()
    for piece in ("lego", "a.png", "32.00", "0.9250", "0.1500", "mean of 2", "white", "area 1/2"):
        assert piece in text
    without = EvaluationReport((PhotoScore("a.png", 30.0, 0.9),), Protocol("val", 1, "none"))
    out = io.StringIO()
    Console(file=out, width=200).print(without.table())
    header = next(line for line in out.getvalue().splitlines() if "PSNR dB" in line)
    assert "LPIPS" not in header
    assert "\n" not in str(PROTOCOL)
    assert "1 photo of split 'val'" in str(without.protocol)
    assert "mean of the photos' PSNR" in str(PROTOCOL)


def test_as_saved_equals_a_png_round_trip() -> None:
    from PIL import Image

    values = torch.cat([torch.linspace(-0.2, 1.2, 999), torch.arange(256) / 255]).view(1, -1, 1)
    levels = np.clip(np.floor(values.numpy() * 255 + 0.5), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels[..., 0]).save(file, "PNG")
    back = np.asarray(Image.open(file), dtype=np.float32) / 255
    np.testing.assert_array_equal(as_saved(values)[..., 0].numpy(), back)


def test_score_rounds_and_clamps_by_default() -> None:
    torch.manual_seed(0)
    photo = as_saved(torch.rand(20, 20, 3))
    render = photo + 0.4 / 255
    assert score_photo("a", render, photo).psnr == math.inf
    plain = score_photo("a", render.clamp(0, 1), photo, render_8_bit=False)
    assert plain.psnr == pytest.approx(psnr(render.clamp(0, 1), photo).item())
    white = torch.ones(20, 20, 3)
    assert score_photo("a", white + 3, white, render_8_bit=False).psnr == math.inf


def test_score_with_mask_and_lpips() -> None:
    torch.manual_seed(1)
    photo, render = torch.rand(2, 40, 48, 3)
    mask = torch.zeros(40, 48, dtype=torch.bool)
    mask[5:30, 5:30] = True
    lpips = Lpips("alex")
    score = score_photo("a", render, photo, mask=mask, lpips=lpips, seconds=0.25)
    rounded = as_saved(render)
    assert score.psnr == pytest.approx(psnr(rounded, photo, mask).item())
    assert score.ssim == pytest.approx(ssim(rounded, photo, mask).item())
    pasted = photo.clone()
    pasted[5:30, 5:30] = rounded[5:30, 5:30]
    assert score.lpips == pytest.approx(lpips(pasted, photo).item())
    assert score.seconds == 0.25
    nothing_outside = render.clone()
    nothing_outside[30:, :] = 0.0
    assert score_photo("a", nothing_outside, photo, mask=mask, lpips=lpips).lpips == score.lpips
