"""What a notebook uses: the names of `studio`, in ten lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import studio


def test_every_public_name_is_there() -> None:
    for name in studio.__all__:
        assert getattr(studio, name) is not None
    assert set(studio.__all__) <= set(dir(studio))
    assert sorted(studio._HOMES) == sorted(set(studio.__all__) - {"__version__"})
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = studio.trian


def test_a_notebook(toy_plugins: None, tiny_scene: Path, tmp_path: Path) -> None:
    assert "toy-rays" in [entry.name for entry in studio.list_plugins()]
    scene = studio.load_scene(tiny_scene)
    assert len(scene.split("train")) == 8
    options = studio.TrainOptions(output=tmp_path / "runs", tensorboard=False)
    run = studio.train("toy-rays", tiny_scene, options=options, preset="tiny", steps=20)
    with studio.VideoWriter(tmp_path / "orbit.gif") as video:
        for view in run.render(studio.orbit_of(run.cameras(), 3)):
            video.write(view["rgb"])
    assert (tmp_path / "orbit.gif").stat().st_size > 0
    again = studio.open_run(run.path)
    assert again.evaluate().psnr == pytest.approx(run.evaluate().psnr)
    with pytest.raises(studio.StudioError, match="no such folder"):
        studio.load_scene(tmp_path / "nowhere")
