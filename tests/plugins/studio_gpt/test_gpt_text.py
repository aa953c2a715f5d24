"""The `gpt` plugin through the engine: training, exact resume, sampling, streaming and scoring."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.datasets import load_dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, TokenBatch, TrainingContext
from studio.training.loaded import LoadedRun, open_run
from studio.training.start import TrainOptions, prepare, prepare_resume, train
from studio_gpt import GPT as SPEC
from studio_gpt.config import GPTConfig
from studio_gpt.decoding import TextOptions
from studio_gpt.optimization import learning_rate_factor
from studio_gpt.text_plugin import TextGenerator
from studio_gpt.tokenizer import WordTokenizer
from studio_gpt.vocabulary import Vocabulary

TINY = {"width": 32, "layers": 2, "heads": 2, "context": 16, "batch": 8, "dropout": 0.1, "vocab_size": 400}
VERSES = "the cat sat on the mat, and the dog sat on the log.\nso said the frog: fog, bog, and smog!\n\n" * 12


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_text(VERSES, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("gpt")
    path = folder / "verses.txt"
    path.write_text(VERSES, encoding="utf-8")
    settings = GPTConfig.from_dict({**TINY, "tokenizer": "character", "steps": 150, "lr": 3e-3, "dropout": 0.0})
    return train("gpt", path, config=settings, options=TrainOptions(output=folder, tensorboard=False))


def model_of(run: LoadedRun) -> TextGenerator:
    assert isinstance(run.plugin, TextGenerator)
    return run.plugin


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": "word"},
        {"tokenizer": "bpe", "tied": True},
        {"tokenizer": "byte", "model": "rnn"},
        {"tokenizer": "character", "model": "wavenet"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_resume_is_exact(document: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = GPTConfig.from_dict({**TINY, **changes, "steps": 12})
    options = TrainOptions(output=tmp_path / "runs", tensorboard=False, log_every=1, checkpoint_steps=5)
    whole = prepare("gpt", document, settings, options)
    whole.train()
    cut = prepare("gpt", document, settings, options)
    cut.trainer.observers.append(_Stop(5))
    with pytest.raises(_Killed):
        cut.train()
    torch.manual_seed(999)
    # The vocabulary is the run's own: that of the text now would be another.
    resumed = prepare_resume(cut.run.path, options)
    assert resumed.trainer.step == 5
    resumed.train()
    for name, tensor in whole.plugin.state_dict().items():
        assert torch.equal(tensor, resumed.plugin.state_dict()[name]), name
    losses = [[row["loss"] for row in run.read_metrics()] for run in (whole.run, resumed.run)]
    assert losses[0] == losses[1]
    # Opened without its data.
    document.unlink()
    again = open_run(resumed.run.path, device="cpu").plugin
    assert isinstance(again, TextGenerator)
    a, b = (
        model.sample(2, ["the cat", "the dog"], torch.Generator().manual_seed(0), max_tokens=12)
        for model in (whole.plugin, again)  # type: ignore[union-attr]
    )
    assert a == b


class _Killed(Exception):
    pass


class _Stop:
    """Ends a training without a word, as a kill does; the last checkpoint is that of a step before."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None

    def on_step(self, trainer: Any, step: int) -> None:
        if step == self.step + 2:
            raise _Killed


def test_training_learns_the_text(trained: LoadedRun) -> None:
    losses = [row["loss"] for row in trained.run.read_metrics()]
    model = model_of(trained)
    assert losses[0] == pytest.approx(math.log(model.tokenizer.vocab_size), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]
    likely, unlikely = model.log_likelihood(["the cat sat on the mat", "tam eht no tas tac eht"]).tolist()
    assert likely > unlikely + 10


def test_the_learning_rate_rises_and_falls() -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor(progress, first=0.001, warmup=0.1, final=0.1)

    assert 0 < factor(0.0) < 0.02
    assert factor(0.0999) == pytest.approx(1.0, abs=2e-3)
    assert factor(0.1) == pytest.approx(1.0)
    assert factor(0.55) == pytest.approx(0.55)
    assert factor(1.0) == pytest.approx(0.1)
    values = [factor(i / 100) for i in range(101)]
    assert values[:11] == sorted(values[:11])
    assert values[10:] == sorted(values[10:], reverse=True)


def test_only_matrices_decay() -> None:
    model = TextGenerator(GPTConfig.from_dict({**TINY, "weight_decay": 0.5}), DataInfo(()))
    model.setup_training(TrainingContext(10))
    decaying, others = model.training_state()["optimizer"]["param_groups"]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    names = [name for name, p in model.named_parameters() if p.ndim < 2]
    assert len(others["params"]) == len(names)
    assert all("norm" in name for name in names)


def test_padding_is_not_learned() -> None:
    """A short line in a long window gives the loss and the step that it gives alone."""
    after = []
    for padding in (0, 12):
        torch.manual_seed(0)
        model = TextGenerator(GPTConfig.from_dict({**TINY, "vocab_size": 30, "dropout": 0.0}), DataInfo(()))
        model.vocabulary = Vocabulary(WordTokenizer([*"abcdefghijklmnopqrstuvwxyz"]), whole=True)
        tokenizer = model.tokenizer
        rows = torch.full((2, 5 + padding), tokenizer.pad)
        rows[0, :5] = torch.tensor([tokenizer.bos, 1, 2, 3, tokenizer.eos])
        model.setup_training(TrainingContext(10))
        figures = model.training_step(TokenBatch(rows), 0)
        assert float(figures["loss"]) == pytest.approx(math.log(30), abs=0.3)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        loss = model.network.loss(rows[:, :-1], rows[:, 1:], tokenizer.pad).detach()
        alone = model.network.loss(rows[:1, :4], rows[:1, 1:5], tokenizer.pad).detach()
        torch.testing.assert_close(loss, alone)
    assert torch.equal(*after)


def test_samples_repeat_with_their_seed_and_begin_with_the_prompt(trained: LoadedRun) -> None:
    model = model_of(trained)
    prompts = ["the cat ", "so", "the dog sat on the"]
    texts = [
        model.sample(3, prompts, torch.Generator().manual_seed(seed), max_tokens=30, temperature=1.0)
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    for prompt, text in zip(prompts, texts[0], strict=True):
        assert text.startswith(prompt)
        assert 0 < len(text) - len(prompt) <= 30
    assert model.sample(0) == []
    assert model.sample(2) == model.sample(2)


def test_streaming_is_sampling_piece_by_piece(trained: LoadedRun) -> None:
    model = model_of(trained)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    (whole,) = model.sample(1, ["the "], generators[0], max_tokens=40)
    pieces = []
    for piece in model.stream("the ", generators[1], max_tokens=40):
        assert not model.training
        pieces.append(piece)
    assert "".join(pieces) == whole
    assert len(pieces) > 10
    (found,) = model.sample(1, ["the "], beams=3, max_tokens=20)
    assert "".join(model.stream("the ", beams=3, max_tokens=20)) == found
    with pytest.raises(StudioError, match="top_p"):
        model.stream("the ", top_p=2.0)


def test_sampling_in_the_midst_of_training_leaves_it_as_it_was(trained: LoadedRun) -> None:
    model = model_of(trained)
    model.train()
    before = torch.get_rng_state()
    model.sample(1, None, torch.Generator().manual_seed(0), max_tokens=5)
    model.log_likelihood(["the cat"])
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()


def test_the_likelihood_is_that_of_the_windows(trained: LoadedRun) -> None:
    """Longer than the context of 16; and by the chain rule, a text is its begin and what follows it."""
    model = model_of(trained)
    text = VERSES[:75]
    whole = float(model.log_likelihood([text])[0])
    begin = float(model.log_likelihood([text[:30]])[0])
    rest = float(model.log_likelihood([text[30:]], condition=[text[:30]])[0])
    assert whole == pytest.approx(begin + rest, rel=1e-6)
    assert model.perplexity([text]) == pytest.approx(math.exp(-whole / 75), rel=1e-6)


def test_lines_have_an_end_and_documents_do_not(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"number {i} is {'even' if i % 2 == 0 else 'odd'}" for i in range(60)), encoding="utf-8")
    settings = GPTConfig.from_dict({**TINY, "steps": 60, "lr": 3e-3})
    run = train("gpt", path, config=settings, options=TrainOptions(output=tmp_path / "runs", tensorboard=False))
    model = model_of(run)
    assert model.vocabulary.whole
    texts = model.sample(20, generator=torch.Generator().manual_seed(0), max_tokens=60)
    assert sum(len(text) < 40 for text in texts) > 10, "lines must end by themselves"
    complete, cut = model.log_likelihood(["number 3 is odd", "number 3 is"]).tolist()
    assert complete > cut, "a line that stops midway is less likely, as its end counts"


def test_unknown_words_are_noted_and_unknown_characters_refused(
    trained: LoadedRun, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StudioError, match="never saw: 'é'"):
        model_of(trained).sample(1, ["café"])
    words = TextGenerator(GPTConfig.from_dict({**TINY, "vocab_size": 8}), DataInfo(()))
    words.vocabulary = Vocabulary(WordTokenizer(["the", "cat", " ", "sat"]))
    with caplog.at_level(logging.WARNING):
        (text,) = words.sample(1, ["the zebra"], torch.Generator().manual_seed(0), max_tokens=3)
    assert "'zebra'" in caplog.text
    assert text.startswith("the zebra")
    assert "<unk>" not in text


def test_a_prompt_beyond_the_context_is_continued_with_a_note(
    trained: LoadedRun, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(trained)
    prompt = VERSES[:70]
    with caplog.at_level(logging.WARNING):
        (text,) = model.sample(1, [prompt], torch.Generator().manual_seed(0), max_tokens=10)
    assert "sees its last" in caplog.text
    assert text.startswith(prompt)
    assert len(text) == len(prompt) + 10


def test_attention_maps_of_a_text(trained: LoadedRun, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(trained)
    maps = model.attention_maps("the cat")
    assert maps.shape == (2, 2, 8, 8)
    assert torch.equal(maps, maps.tril())
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, 8))
    assert model.token_labels("the cat") == ["<bos>", *"the cat"]
    with caplog.at_level(logging.WARNING):
        assert model.attention_maps(VERSES[:99]).shape == (2, 2, 16, 16)
    assert "last 16" in caplog.text
    recurrent = TextGenerator(GPTConfig.from_dict({**TINY, "model": "rnn"}), DataInfo(()))
    with pytest.raises(StudioError, match="rnn has no attention"):
        recurrent.attention_maps("the cat")


def test_bad_input_is_refused() -> None:
    with pytest.raises(StudioError, match="is no text"):
        TextGenerator(GPTConfig.from_dict(TINY), DataInfo((2,))).initialize(
            load_dataset("toy:moons"), torch.Generator()
        )
    with pytest.raises(StudioError, match="not a multiple of heads"):
        TextGenerator(GPTConfig.from_dict({**TINY, "heads": 5}), DataInfo(()))
    untrained = TextGenerator(GPTConfig.from_dict(TINY), DataInfo(()))
    with pytest.raises(StudioError, match="no vocabulary"):
        untrained.sample(1)
    with pytest.raises(StudioError, match="no classes"):
        untrained.sample(1, [3])


def test_presets_build_and_are_described() -> None:
    assert set(SPEC.presets) == set(GPTConfig.PRESETS)
    assert SPEC.problems() == []
    for name in SPEC.presets:
        if name != "default":
            TextGenerator(GPTConfig.preset(name), DataInfo((2,)))
    assert TextGenerator.sample_options is TextOptions


@pytest.mark.real_data
def test_the_small_preset_learns_shakespeare(data_dir: Path, tmp_path: Path) -> None:
    text = data_dir / "tinyshakespeare" / "input.txt"
    settings = GPTConfig.from_dict({**GPTConfig.PRESETS["nanogpt-cpu"], "steps": 40})
    run = train("gpt", text, config=settings, options=TrainOptions(output=tmp_path, tensorboard=False))
    model = model_of(run)
    assert model.tokenizer.vocab_size == 65 + 4
    held_out = load_dataset(text, split="test").texts[0][:2000]  # type: ignore[attr-defined]
    # Single letters by frequency have 3.3 nats; bigrams 2.5.
    assert -float(model.log_likelihood([held_out])[0]) / 2000 < 2.9
