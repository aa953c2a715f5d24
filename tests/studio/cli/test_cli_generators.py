"""Commands on trained generators, with toy plugins that have every ability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.metrics import classifier as classifier_module


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty 8x8 pictures: class 'bright' and class 'dark'."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 90, (40, 8, 8)) + 150 * (np.arange(40) % 2)[:, None, None]
    folder = tmp_path_factory.mktemp("digits")
    for i, pixels in enumerate(x):
        place = folder / ("bright" if i % 2 else "dark") / f"{i:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    return folder


def trained(tmp: Path, plugin: str, data: str | Path, **reader: Any) -> Path:
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=tmp, tensorboard=False, reader=reader)
    return train(plugin, data, options=options).path


@pytest.fixture(scope="module")
def pixels_run(tmp_path_factory: pytest.TempPathFactory, digits: Path, plugins: None) -> Path:
    return trained(tmp_path_factory.mktemp("pixels"), "toy-pixels", digits)


@pytest.fixture(scope="module")
def bytes_run(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text("to be or not to be\n\n" * 200)
    return trained(folder, "toy-bytes", folder / "text.txt")


@pytest.fixture(scope="module")
def caption_run(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    return trained(tmp_path_factory.mktemp("caption"), "toy-nearest", "shapes:16", samples=180)


def newest(run: Path, pattern: str) -> Path:
    return max(run.glob(pattern), key=lambda path: path.stat().st_mtime)


# ---- sample --------------------------------------------------------------------------------------------------------
def test_sample_every_class_into_a_grid_arrays_and_a_folder(studio: Any, pixels_run: Path, tmp_path: Path) -> None:
    assert studio("sample", pixels_run, "--cond", "all", "--n", 6, "--output", "x.npz").code == 0
    with np.load("x.npz") as archive:
        assert archive["x"].shape == (6, 8, 8, 1)
        assert archive["y"].tolist() == [0, 0, 0, 1, 1, 1]
        assert archive["x"][:3].mean() > 100 + archive["x"][3:].mean()
    outcome = studio("sample", pixels_run, "--cond", "dark", "--n", 4)
    assert Path(outcome.out.strip()).resolve() == newest(pixels_run, "samples/*.png").resolve()
    assert studio("sample", pixels_run, "--n", 3, "--output", "many").code == 0
    assert sorted(p.name for p in Path("many").iterdir()) == ["00000.png", "00001.png", "00002.png"]


def test_equal_seeds_give_equal_samples_and_plugin_options_are_flags(studio: Any, pixels_run: Path) -> None:
    drawn = {}
    for name, extra in (("a", []), ("b", []), ("c", ["--seed", 1]), ("d", ["--noise", 0])):
        assert studio("sample", "--n", 5, *extra, pixels_run, "--output", f"{name}.npz").code == 0
        with np.load(f"{name}.npz") as archive:
            drawn[name] = archive["x"]
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
    assert (drawn["a"] != drawn["c"]).any()
    np.testing.assert_array_equal(drawn["d"][0], drawn["d"][2])
    assert "--noise" in studio("sample", pixels_run, "--help").out


def test_film(studio: Any, pixels_run: Path) -> None:
    assert studio("sample", pixels_run, "--film", "film", "--n", 2, "--fps", 3).code == 0
    frames = sorted(Path("film").iterdir())
    # Three of the plugin's own, and the last for a second.
    assert len(frames) == 6
    assert frames[2].read_bytes() == frames[5].read_bytes() != frames[0].read_bytes()


def test_text_is_streamed_printed_or_saved(studio: Any, bytes_run: Path) -> None:
    outcome = studio("sample", bytes_run, "--prompt", "hello ")
    assert outcome.out.startswith("hello ")
    assert studio("sample", bytes_run, "--n", 3).out.count("----") == 2
    assert studio("sample", bytes_run, "--n", 2, "--output", "a.txt").code == 0
    assert len(Path("a.txt").read_text(encoding="utf-8")) >= 40
    assert "saved as .txt" in studio("sample", bytes_run, "--n", 2, "--output", "a.png").err


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("pixels_run", ["sample", "--cond", "darc"], "Did you mean 'dark'?"),
        ("pixels_run", ["sample", "--cond", "7"], "there is no class '7'"),
        ("pixels_run", ["sample", "--prompt", "x"], "--prompt is for text"),
        ("pixels_run", ["sample", "--nois", "1"], "Did you mean '--noise'?"),
        ("pixels_run", ["sample", "--output", "a.txt"], "pictures are saved as"),
        ("pixels_run", ["caption", "x.png"], "lacks the capability 'caption'"),
        ("pixels_run", ["interpolate", "--between", "a.png"], "takes two pictures"),
        ("pixels_run", ["interpolate", "--frames", "1"], "two ends"),
        ("pixels_run", ["reconstruct", "gone.png"], "gone.png: there is no such file"),
        ("pixels_run", ["edit", "--mode", "melt"], "has no 'melt'"),
        ("pixels_run", ["edit", "--mode", "fill"], "Name the picture"),
        ("pixels_run", ["eval", "--n", "3"], "say nothing"),
        ("bytes_run", ["sample", "--cond", "x"], "this run writes text"),
        ("bytes_run", ["interpolate"], "lacks the capability 'interpolate'"),
        ("bytes_run", ["sample", "--film", "x.mp4"], "lacks the capability 'trajectory'"),
        ("caption_run", ["sample", "--cond", "all"], "captions, not classes"),
        ("caption_run", ["caption"], "Name pictures"),
        ("gauss_run", ["sample", "--cond", "x"], "there is no class 'x'"),
        ("ball_run", ["sample"], "no generator but a scene"),
    ],
)
def test_clear_errors(
    studio: Any, request: pytest.FixtureRequest, run: str, arguments: list[str], message: str
) -> None:
    command, *rest = arguments
    outcome = studio(command, request.getfixturevalue(run), *rest)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


# ---- through the latents -------------------------------------------------------------------------------------------
def test_interpolation_stands_above_the_blend_of_its_ends(studio: Any, pixels_run: Path, digits: Path) -> None:
    ends = [newest(digits, "bright/*.png"), newest(digits, "dark/*.png")]
    assert studio("interpolate", pixels_run, "--between", *ends, "--frames", 3, "--output", "i.png").code == 0
    picture = np.asarray(Image.open("i.png").convert("L")).astype(float)
    # Two rows of three cells of 64 pixels, 4 apart, each row under its labels.
    assert picture.shape[1] == 3 * 64 + 2 * 4
    strip = (picture.shape[0] - 4) // 2 - 64
    walk, blend = picture[strip : strip + 64], picture[2 * strip + 68 :]
    np.testing.assert_array_equal(walk[:, :64], blend[:, :64])
    np.testing.assert_array_equal(walk[:, -64:], blend[:, -64:])
    middle = slice(68, 132)
    np.testing.assert_allclose(blend[:, middle], (blend[:, :64] + blend[:, -64:]) / 2, atol=1)
    assert walk[:, middle].mean() > blend[:, middle].mean() + 2
    assert studio("interpolate", pixels_run, "--rows", 1, "--output", "film").code == 0


def test_reconstruction_says_its_error(studio: Any, pixels_run: Path, digits: Path) -> None:
    outcome = studio("reconstruct", pixels_run, "--n", 4, "--output", "r.png")
    assert outcome.code == 0, outcome.err
    assert "mean squared error of 4 samples" in outcome.out
    assert "PSNR" in outcome.out
    one = newest(digits, "dark/*.png")
    assert "of 1 samples" in studio("reconstruct", pixels_run, one, "--cond", "dark", "--output", "r.png").out


def test_edit_with_a_mask(studio: Any, pixels_run: Path, digits: Path) -> None:
    assert "inside the mask" in studio("edit", pixels_run).out
    picture = newest(digits, "dark/*.png")
    assert "needs a mask" in studio("edit", pixels_run, picture, "--mode", "fill").err
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save("mask.png")
    arguments = ("--mode", "fill", "--mask", "mask.png", "--cond", "bright", "--alone", "--output", "e.png")
    assert studio("edit", pixels_run, picture, *arguments).code == 0
    edited = np.asarray(Image.open("e.png").convert("L")).astype(int)
    before = np.kron(np.asarray(Image.open(picture)), np.ones((8, 8), int))
    np.testing.assert_array_equal(edited[:, :32], before[:, :32])
    assert edited[:, 32:].mean() > before[:, 32:].mean() + 80


# ---- captions ------------------------------------------------------------------------------------------------------
def test_captions_of_pictures_and_of_novel_views(studio: Any, caption_run: Path, ball_run: Path, digits: Path) -> None:
    picture = newest(digits, "dark/*.png")
    outcome = studio("caption", caption_run, picture, picture, "--json", "--output", "sheet.png")
    assert [row["picture"] for row in outcome.json] == [str(picture)] * 2
    assert outcome.json[0]["caption"].startswith("a ")
    assert Path("sheet.png").is_file()
    outcome = studio("caption", caption_run, "--field", ball_run, "--path", "orbit", "--frames", 3)
    assert outcome.code == 0, outcome.err
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == ["view 0", "view 1", "view 2"]
    assert newest(caption_run, "samples/captions_*.png").is_file()


# ---- eval, compare -------------------------------------------------------------------------------------------------
def test_evaluation_of_pictures(studio: Any, pixels_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(classifier_module, "_FEWEST_STEPS", 30)
    monkeypatch.setattr(classifier_module, "_BATCH", 24)
    outcome = studio("eval", pixels_run, "--n", 40, "--json")
    assert outcome.code == 0, outcome.err
    figures = outcome.json["figures"]
    assert figures["class_accuracy"] > 0.9
    assert figures["classes_covered"] == 2
    assert {"fid", "kid", "precision", "recall", "density", "coverage", "samples_per_second"} <= set(figures)
    assert outcome.json["protocol"]["classifier_accuracy"] > 0.9
    assert "2 classes" in outcome.json["protocol"]["features"]
    assert json.loads((pixels_run / "eval.json").read_text()) == outcome.json
    assert (pixels_run / "eval" / "samples.png").is_file()
    shown = studio("eval", pixels_run, "--n", 40, "--noise", 0, "--no-pictures")
    assert "class accuracy" in shown.out
    # Without noise every sample of a class is the same picture: nothing of the data is covered.
    collapsed = json.loads((pixels_run / "eval.json").read_text())
    assert collapsed["figures"]["recall"] < figures["recall"] + 1e-9
    assert collapsed["protocol"]["sampling"] == {"noise": 0.0}


def test_evaluation_of_text_points_and_captions(
    studio: Any, bytes_run: Path, gauss_run: Path, caption_run: Path
) -> None:
    text = studio("eval", bytes_run, "--json").json["figures"]
    assert text["nats_per_token"] == pytest.approx(text["nats_per_character"])
    assert text["perplexity"] == pytest.approx(np.exp(text["nats_per_token"]))
    # The model knows the letters' frequencies alone, so it cannot do better than their entropy.
    letters = "to be or not to be\n\n"
    shares = np.array([letters.count(letter) / len(letters) for letter in set(letters)])
    entropy = -(shares * np.log(shares)).sum()
    assert entropy - 0.01 < text["nats_per_character"] < entropy + 0.3
    points = studio("eval", gauss_run, "--n", 300, "--json").json
    assert points["figures"]["sliced_wasserstein"] > points["floor"]["sliced_wasserstein"]
    assert points["figures"]["nats_per_sample"] < 0
    captions = studio("eval", caption_run, "--n", 20, "--json").json["figures"]
    assert 0 < captions["shape"] <= 1
    assert 0 <= captions["bleu"] <= 1
    assert (caption_run / "eval" / "captions.png").is_file()


def test_comparison(studio: Any, bytes_run: Path, gauss_run: Path, scene_folder: Path, ball_run: Path) -> None:
    assert studio("eval", bytes_run).code == studio("eval", gauss_run, "--n", 50).code == 0
    outcome = studio("compare", bytes_run, bytes_run, "--output", "c.png")
    assert outcome.code == 0, outcome.err
    assert "perplexity" in outcome.out
    assert Image.open("c.png").size[0] > 300
    rows = studio("compare", bytes_run, "--json", "--output", "c.png").json["runs"]
    assert rows[0]["figures"]["perplexity"] > 1
    assert "different things" in studio("compare", bytes_run, gauss_run).err
    assert "some generators" in studio("compare", ball_run, bytes_run).err
    (gauss_run / "eval.json").unlink()
    assert "has not been measured" in studio("compare", gauss_run).err


# ---- training ------------------------------------------------------------------------------------------------------
def test_training_with_options_of_the_data(studio: Any, digits: Path, tmp_path: Path) -> None:
    outcome = studio("train", "toy-pixels", digits, "--image-size", 6, "--color", "rgb", "--steps", 3)
    assert outcome.code == 0, outcome.err
    assert "36 samples of shape 3x6x6, 2 classes" in outcome.out
    run = next(Path("runs").glob("*/*/*"))
    assert (run / "curves.png").is_file()
    preview = newest(run, "previews/*.png")
    # Twelve pictures under their classes, six in a row.
    assert Image.open(preview).size[0] > 6 * 56
    assert studio("train", "--resume", run, "--steps", 5).code == 0
    assert (run / "previews.mp4").is_file()
    assert "--image-size cannot be given" in studio("train", "--resume", run, "--image-size", 9).err
    assert "has no option" in studio("train", "toy-rays", digits, "--image-size", 6).err


def test_strict_training_on_damaged_data(studio: Any, digits: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(digits, tmp_path / "copy")
    for broken in ("dark/00.png", "dark/02.png", "dark/04.png"):
        (copy / broken).write_bytes(b"no picture")
    outcome = studio("train", "toy-pixels", copy, "--steps", 1)
    assert "note: skipped" in outcome.out
    outcome = studio("train", "toy-pixels", copy, "--steps", 1, "--strict", "--output", "other")
    assert (outcome.code, "unreadable picture" in outcome.err) == (2, True)
    assert not Path("other").exists()


def test_a_data_set_that_is_gone(studio: Any, digits: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(digits, tmp_path / "copy")
    assert studio("train", "toy-pixels", copy, "--steps", 1, "--no-previews").code == 0
    shutil.rmtree(copy)
    run = next(Path("runs").glob("*/*/*"))
    assert studio("sample", run, "--n", 1).code == 0
    outcome = studio("eval", run)
    assert (outcome.code, "no longer there" in outcome.err) == (2, True)


def test_data_info(studio: Any, digits: Path) -> None:
    facts = studio("data", "info", digits, "--json").json
    assert (facts["samples"], facts["test_samples"], facts["class_names"]) == (36, 4, ["bright", "dark"])
    assert "captions" in studio("data", "info", "shapes:16", "--samples", 20).out
    Path("a.txt").write_text("one\n\ntwo\n" * 20, encoding="utf-8")
    assert "one document" in studio("data", "info", "a.txt").out
    assert "36 lines" in studio("data", "info", "a.txt", "--lines", "yes").out
