"""From photos to a scene: what comes out, and what bad input is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import StudioError
from studio.readers import load_scene
from studio.reconstruction import ProcessOptions, align_similarity, process
from studio.reconstruction.colmap import Model, Statistics
from studio.reconstruction.photos import find_photos, group_by_lens, prepare_photo
from studio.reconstruction.report import judge_photos, summarize_reasons

QUICK = ProcessOptions(quality="quick", threads=1)


def noise(path: Path, seed: int, size: tuple[int, int] = (300, 200)) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def noise_photos(tmp_path: Path) -> Path:
    """Four pictures of noise: full of features, none of which is anywhere else."""
    pytest.importorskip("pycolmap", reason="needs the extra sfm")
    folder = tmp_path / "noise"
    folder.mkdir()
    for number in range(4):
        noise(folder / f"{number}.png", number)
    return folder


def test_real_photos_register_where_they_were_taken(data_dir: Path, tmp_path: Path) -> None:
    """Twelve photos at 40 % of their size, with a spoiled one among them and one turned by EXIF."""
    pytest.importorskip("pycolmap", reason="needs the extra sfm")
    given = tmp_path / "given"
    given.mkdir()
    for number, path in enumerate(sorted((data_dir / "lund_door" / "images").iterdir())):
        small = Image.open(path).resize((518, 774), Image.Resampling.LANCZOS)
        if number == 3:
            tags = Image.Exif()
            tags[0x0112] = 6
            small.transpose(Image.Transpose.ROTATE_90).save(given / path.name, quality=95, exif=tags)
        else:
            small.save(given / path.name, quality=95)
    noise(given / "a stray picture.png", 1, (300, 200))
    scene_folder = tmp_path / "scene"
    report = process(given, scene_folder, QUICK)

    assert len(report.registered) == 12
    assert [photo.name for photo in report.unregistered] == ["a stray picture.png"]
    reason = report.unregistered[0].reason
    assert reason is not None
    assert reason.startswith("no matches: ")
    assert report.cameras == ("518x774", "300x200") or report.cameras == ("300x200", "518x774")
    assert json.loads((scene_folder / "registration.json").read_text())["models"] == [12]
    assert sorted(path.name for path in scene_folder.iterdir()) == ["images", "registration.json", "sparse"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    scene = load_scene(scene_folder, normalize="none")
    assert {frame.camera.model for frame in scene.frames} == {"pinhole"}
    # COLMAP's given model of the full photos is the reference.
    truth = load_scene(data_dir / "lund_door", normalize="none", ignore_distortion=True)
    centres = {Path(f.name).stem: f.camera.camera_to_world[:3, 3].double() for f in scene.frames}
    places = {Path(f.name).stem: f.camera.camera_to_world[:3, 3].double() for f in truth.frames}
    assert len(centres) == 12
    # The turned photo was stored anew, as PNG.
    stems = {name.removesuffix(".JPG"): centre for name, centre in centres.items()}
    found = torch.stack([stems[name] for name in sorted(places)])
    wanted = torch.stack([places[name] for name in sorted(places)])
    error = (align_similarity(found, wanted).points(found) - wanted).norm(dim=-1)
    assert error.max() < 0.01 * truth.camera_extent
    focal = float(truth.frames[0].camera.fx) * 518 / 1296
    assert [float(frame.camera.fx) for frame in scene.frames] == pytest.approx([focal] * 12, rel=0.02)

    before = (scene_folder / "registration.json").stat().st_ino
    with pytest.raises(StudioError, match=r"scene: is there already.*--overwrite"):
        process(given, scene_folder, QUICK)
    assert (scene_folder / "registration.json").stat().st_ino == before


def test_photos_without_anything_in_common_leave_nothing(noise_photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scene"
    with pytest.raises(StudioError, match=r"none of the 4 photos got a pose \(4 with no matches\)"):
        process(noise_photos, output, QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


def test_plain_walls_have_few_features(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="needs the extra sfm")
    given = tmp_path / "walls"
    given.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (90, 90, 80 + number)).save(given / f"{number}.png")
    with pytest.raises(StudioError, match="3 with few features"):
        process(given, tmp_path / "scene", QUICK)


def test_bad_input_is_told_before_any_work(noise_photos: Path, tmp_path: Path) -> None:
    def refuse(message: str, source: Path, output: Path, **options: object) -> None:
        with pytest.raises(StudioError, match=message):
            process(source, output, ProcessOptions(**{"quality": "quick", **options}))  # type: ignore[arg-type]

    scene = tmp_path / "scene"
    refuse("there is no such file or folder", tmp_path / "absent", scene)
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse("holds no photos", empty, scene)
    noise(empty / "alone.png", 0)
    refuse(r"holds one photo \(alone\.png\)", empty, scene)
    noise(empty / "second.png", 0)
    refuse("holds only 2 photos", empty, scene)
    refuse("neither a folder of photos nor a video", empty / "alone.png", scene)
    refuse("holds the photos themselves", noise_photos, noise_photos, overwrite=True)
    refuse("holds the photos themselves", noise_photos, tmp_path, overwrite=True)
    refuse("was not made by this command", noise_photos, empty, overwrite=True)
    refuse("too few for poses", noise_photos, scene, frames=2)
    (noise_photos / "cut.jpg").write_bytes((noise_photos / "0.png").read_bytes()[:3000])
    refuse(r"cut\.jpg", noise_photos, scene)
    assert not scene.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "noise"]
    nested = tmp_path / "outer"
    noise_photos.rename(tmp_path / "inner")
    nested.mkdir()
    (tmp_path / "inner").rename(nested / "inner")
    refuse(r"Name the folder that they are in: .*inner", nested, scene)


def test_photos_are_told_apart_by_camera(tmp_path: Path) -> None:
    def write(name: str, size: tuple[int, int], focal: float | None = None, orientation: int = 1) -> None:
        tags = Image.Exif()
        tags[0x0112] = orientation
        if focal is not None:
            tags[0x0110] = "Box camera"
            tags.get_ifd(0x8769)[0x920A] = focal
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / name, exif=tags)

    write("a.jpg", (40, 30), 35.0)
    write("b.jpg", (40, 30), 50.0)
    write("c.jpg", (40, 30))
    write("d.jpg", (30, 40), 35.0, orientation=6)
    write("e.jpg", (30, 40))
    Image.new("RGBA", (40, 30), (0, 0, 255, 0)).save(tmp_path / "f.png")
    copies = tmp_path / "copies"
    copies.mkdir()
    photos = [prepare_photo(path, copies) for path in find_photos(tmp_path)]
    assert list(group_by_lens(photos).values()) == [[0, 3], [1], [2, 5], [4]]
    assert str(photos[0].lens) == "40x30 by Box camera at 35 mm"
    # Only what is not plain and upright is stored anew: the turned one, and the transparent one on white.
    assert [photo.stands_in == photo.path for photo in photos] == [True, True, True, False, True, False]
    assert Image.open(photos[3].stands_in).size == (40, 30)
    assert Image.open(photos[5].stands_in).getpixel((0, 0)) == (255, 255, 255)


def test_reasons_follow_from_matches_and_models() -> None:
    names = [f"{number}.jpg" for number in range(8)]
    known = Statistics(
        features={0: 900, 1: 900, 2: 900, 3: 40, 4: 900, 5: 900, 6: 900, 7: 900},
        matches={(0, 1): 200, (0, 2): 150, (1, 2): 90, (4, 5): 70, (2, 6): 31, (5, 6): 20, (4, 7): 15},
    )
    models = [Model(1, {0: 50, 1: 60, 2: 70}, 100, 0.4), Model(0, {4: 20, 5: 30}, 40, 0.5)]
    found = judge_photos(names, known, models)
    assert [photo.registered for photo in found] == [True] * 3 + [False] * 5
    assert [photo.points for photo in found] == [50, 60, 70, 0, 0, 0, 0, 0]
    assert [photo.matched_photos for photo in found] == [2, 2, 3, 0, 2, 2, 2, 1]
    assert found[3].reason == "few features: 40 found; it is blurred, dark, or shows little texture"
    assert found[4].reason == "not connected: it belongs to a model of its own with 2 photos"
    assert found[6].reason is not None
    assert found[6].reason.startswith("weak matches: it matches 1 photos of the model (31 matches at best)")
    assert found[7].reason == "not connected: the photo that it matches has no pose"
    assert summarize_reasons(found) == "3 with not connected, 1 with few features, 1 with weak matches"
