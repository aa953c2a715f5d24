"""studio inspect on text models: what the tokens attend to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def gpt_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from studio.training.start import TrainOptions, train

    folder = tmp_path_factory.mktemp("gpt")
    (folder / "text.txt").write_text("to be or not to be\n" * 100)
    sizes = {"tokenizer": "character", "width": 8, "layers": 2, "context": 16, "batch": 2, "steps": 1}
    runs = {}
    for model in ("gpt", "rnn"):
        options = TrainOptions(output=folder / model, tensorboard=False, device="cpu")
        runs[model] = train("gpt", folder / "text.txt", options=options, model=model, heads=2, **sizes).path
    return runs


def test_attention_of_all_heads_and_of_one(studio: Any, gpt_runs: dict[str, Path]) -> None:
    done = studio("inspect", gpt_runs["gpt"], "--text", "to be")
    assert done.code == 0, done.err
    assert "2 layers of 2 heads, 6 tokens" in done.err
    target = Path(done.out.strip())
    assert target.resolve() == gpt_runs["gpt"] / "samples" / "attention.png"
    assert min(Image.open(target).size) > 400
    done = studio("inspect", gpt_runs["gpt"], "--text", "to be", "--layer", 1, "--head", 0, "--output", "one.svg")
    assert (done.code, done.out) == (0, "one.svg\n")
    drawn = Path("one.svg").read_text(encoding="utf-8")
    assert "layer 1, head 0" in drawn
    assert "layer 0" not in drawn


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("gpt", (), "--text is missing."),
        ("gpt", ("--text", "to", "--layer", 2), "--layer: there is no 2. Give 0 to 1."),
        ("gpt", ("--text", "to", "--head", -1), "--head: there is no -1."),
        ("gpt", ("--text", "to", "--output", "a.txt"), "attention is drawn as .png, .pdf, .svg"),
        ("gpt", ("--text", "to", "--ray", 1, 2), "--ray: a generator has no rays."),
        ("rnn", ("--text", "to"), "A rnn has no attention."),
    ],
)
def test_bad_requests(
    studio: Any, gpt_runs: dict[str, Path], model: str, arguments: tuple[Any, ...], message: str
) -> None:
    done = studio("inspect", gpt_runs[model], *arguments)
    assert done.code == 2
    assert message in done.err


def test_what_cannot_show_attention_says_so(studio: Any, ball_run: Path) -> None:
    done = studio("inspect", ball_run, "--text", "to be")
    assert done.code == 2
    assert "--text: a scene reads no text." in done.err
