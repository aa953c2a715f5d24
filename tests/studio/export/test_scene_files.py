"""Posed photos written for other programs and read back: the same cameras, points and photos in the same frame."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_scenes import write_ring_scene

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.scene_files import SCENE_FORMATS, write_scene
from studio.readers import load_scene
from studio.scene import PointCloud, Scene

LENSES = {
    "pinhole": None,
    "opencv": [0.1, -0.02, 0.003, 0.004, 0, 0, 0, 0],
    "full": [0.1, -0.02, 0.003, 0.004, 0.01, 0.02, 0.003, 0.001],
    "fisheye": [0.1, -0.02, 0.003, 0.004, 0, 0, 0, 0],
}


def ring(tmp_path: Path, lens: str, normalize: str = "none") -> Scene:
    scene = load_scene(write_ring_scene(tmp_path / "ring"), normalize=normalize)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    points = PointCloud(torch.randn(20, 3, generator=random), torch.randint(0, 256, (20, 3), generator=random) / 255)
    model = {"full": "opencv"}.get(lens, lens)
    coefficients = None if LENSES[lens] is None else torch.tensor(LENSES[lens])
    frames = tuple(
        replace(frame, camera=replace(frame.camera, model=model, distortion=coefficients)) for frame in scene.frames
    )
    return replace(scene, frames=frames, points=points)


def by_photo(scene: Scene) -> dict[Path, Cameras]:
    return {frame.image_path.resolve(): frame.camera for frame in scene.frames}


@pytest.mark.parametrize("format", list(SCENE_FORMATS))
@pytest.mark.parametrize("lens", list(LENSES))
def test_cameras_and_points_come_back(tmp_path: Path, format: str, lens: str) -> None:
    scene = ring(tmp_path, lens)
    notes = write_scene(scene, tmp_path / "out", format)
    back = load_scene(tmp_path / "out", normalize="none")
    assert back.format == format
    before, after = by_photo(scene), by_photo(back)
    assert before.keys() == after.keys()
    for path, camera in before.items():
        again = after[path]
        assert again.model == camera.model
        assert again.size == camera.size
        torch.testing.assert_close(again.camera_to_world, camera.camera_to_world, atol=1e-6, rtol=0)
        for name in ("fx", "fy", "cx", "cy", "distortion"):
            torch.testing.assert_close(getattr(again, name), getattr(camera, name), atol=1e-6, rtol=0)
    assert scene.points is not None
    assert back.points is not None
    torch.testing.assert_close(back.points.xyz, scene.points.xyz, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.points.rgb, scene.points.rgb, atol=1e-6, rtol=0)
    if format == "transforms":
        assert notes == []
        assert {f.image_path.resolve(): f.split for f in back.frames} == {
            f.image_path.resolve(): f.split for f in scene.frames
        }
        # Intrinsics that all photos share stand once.
        assert "fl_x" not in json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"][0]
    else:
        assert notes == ["COLMAP has no splits: which photos were held out is not kept"]
        assert len((tmp_path / "out" / "sparse" / "0" / "cameras.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("format", list(SCENE_FORMATS))
def test_a_normalised_scene_is_written_in_the_frame_of_its_input(tmp_path: Path, format: str) -> None:
    move = torch.tensor([[0.0, -0.5, 0, 1], [0.5, 0, 0, 2], [0, 0, 0.5, 3], [0, 0, 0, 1]], dtype=torch.float64)
    plain = ring(tmp_path, "pinhole")
    from studio.cameras import Similarity

    similarity = Similarity.from_matrix(move)
    assert plain.points is not None
    moved = replace(
        plain,
        frames=tuple(replace(f, camera=f.camera.transformed(similarity)) for f in plain.frames),
        points=PointCloud(similarity.points(plain.points.xyz), plain.points.rgb),
        scene_from_input=move,
    )
    write_scene(moved, tmp_path / "out", format)
    back = load_scene(tmp_path / "out", normalize="none")
    after = by_photo(back)
    for path, camera in by_photo(plain).items():
        torch.testing.assert_close(after[path].camera_to_world, camera.camera_to_world, atol=1e-5, rtol=0)
    assert back.points is not None
    torch.testing.assert_close(back.points.xyz, plain.points.xyz, atol=1e-5, rtol=0)


def test_cameras_that_differ_are_kept_apart(tmp_path: Path) -> None:
    scene = ring(tmp_path, "pinhole")
    first = replace(scene.frames[0], camera=replace(scene.frames[0].camera, fx=scene.frames[0].camera.fx * 2))
    scene = replace(scene, frames=(first, *scene.frames[1:]))
    for format in SCENE_FORMATS:
        write_scene(scene, tmp_path / format, format)
        after = by_photo(load_scene(tmp_path / format, normalize="none"))
        assert float(after[first.image_path.resolve()].fx) == pytest.approx(float(first.camera.fx))
        assert float(after[scene.frames[1].image_path.resolve()].fx) == pytest.approx(float(scene.frames[1].camera.fx))


def test_what_no_format_has_is_refused(tmp_path: Path) -> None:
    scene = ring(tmp_path, "pinhole")
    odd = replace(scene.frames[2], camera=replace(scene.frames[2].camera, model="orthographic"))
    with pytest.raises(StudioError, match="its camera is orthographic; colmap has perspective and fisheye"):
        write_scene(replace(scene, frames=(*scene.frames[:2], odd)), tmp_path / "out", "colmap")
    with pytest.raises(ValueError, match="format must be one of transforms, colmap"):
        write_scene(scene, tmp_path / "out", "blend")
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / scene.frames[0].image_path.name).write_bytes(b"another")
    with pytest.raises(StudioError, match="is there already and is another photo"):
        write_scene(scene, tmp_path / "out", "colmap")
