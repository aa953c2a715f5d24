"""Photos and masks whose names differ from what the scene's files say."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import torch

from studio.errors import StudioError
from studio.export.scene_files import write_scene
from studio.readers import load_scene
from studio.readers.mask_files import MaskFolder
from studio.readers.photo_names import PhotoIndex, find_photos, name_parts


def transforms(root, listed, write_photo, on_disk):
    for name in on_disk:
        write_photo(root / name)
    frames = [{"file_path": name, "transform_matrix": torch.eye(4).tolist()} for name in listed]
    for i, frame in enumerate(frames):
        frame["transform_matrix"][0][3] = float(i)
    (root / "transforms.json").write_text(json.dumps({"fl_x": 50.0, "frames": frames}), encoding="utf-8")
    return load_scene(root, eval_every=0)


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "images/Höhe.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("listed", "disk"),
    [
        ("images/a.JPG", "images/a.jpg"),
        ("images/IMG_A.jpg", "images/img_a.jpg"),
        (r"C:\work\scene\images\a.jpg", "images/a.jpg"),
        ("/home/someone/scene/images/a.jpg", "images/a.jpg"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("photos/a.jpg", "images/a.jpg"),
    ],
)
def test_other_spellings_of_a_name(tmp_path, write_photo, listed, disk):
    scene = transforms(tmp_path, [listed], write_photo, [disk])
    assert [frame.image_path for frame in scene.frames] == [tmp_path / disk]
    note = f"transforms.json: 1 of 1 photos are found under other names (first: {listed} is {disk})"
    assert note in scene.notes


def test_the_folders_that_a_name_shares_decide(tmp_path, write_photo):
    scene = transforms(
        tmp_path, ["X/cam0/a.png", "X/cam1/a.png"], write_photo, ["images/cam0/a.png", "images/cam1/a.png"]
    )
    assert [frame.name for frame in scene.frames] == ["images/cam0/a.png", "images/cam1/a.png"]


def test_what_fits_equally_well_or_is_taken_is_no_match(tmp_path, write_photo):
    for name in ("one/a.png", "two/a.png", "b.png"):
        write_photo(tmp_path / name)
    index = PhotoIndex(tmp_path)
    assert index.find("three/a.png") is None
    assert index.find("../b.png") is None
    assert index.find("") is None

    def direct(name: str) -> Path | None:
        return tmp_path / name if (tmp_path / name).is_file() else None

    # b.png is meant exactly by one name, so it is not the other's photo too; nor are two names' lone candidate.
    assert find_photos(["b.png", "far/b.png"], direct, index) == ({"b.png": tmp_path / "b.png"}, [])
    assert find_photos(["near/b.png", "far/b.png"], direct, index) == ({}, [])


def test_a_photo_of_another_split_is_not_taken(tmp_path, write_photo):
    """train/r_1.png is not the absent test/r_1.png."""
    write_photo(tmp_path / "train/r_1.png")
    write_photo(tmp_path / "images/cam1/a.png")
    index = PhotoIndex(tmp_path, tmp_path / "images")
    assert index.find("test/r_1.png") is None
    assert index.find("images/cam0/a.png") is None
    assert index.find("elsewhere/cam1/a.png") == tmp_path / "images/cam1/a.png"


def test_name_parts():
    assert name_parts(r"C:\Work\.\A.JPG") == ("work", "a.jpg") == name_parts("/work//a.jpg")


def colmap(root, write_colmap, write_photo, names, on_disk, extra=()):
    for name in (*on_disk, *extra):
        write_photo(root / name)
    model = root / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 40 30 50 50 20 15\n", encoding="utf-8")
    lines = [f"{i + 1} 1 0 0 0 {i} 0 0 1 {name}\n\n" for i, name in enumerate(names)]
    (model / "images.txt").write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture
def photo_40x30(write_photo):
    def write(path: Path, **options) -> None:
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(options.get("mode", "RGB"), (40, 30)).save(path)

    return write


@pytest.mark.parametrize("named", ["images/a.png", "/a.png", r"images\a.png", "A.PNG"])
def test_names_of_colmap_models(tmp_path, write_colmap, photo_40x30, named):
    root = colmap(tmp_path, write_colmap, photo_40x30, [named], ["images/a.png"])
    scene = load_scene(root, eval_every=0)
    assert [frame.name for frame in scene.frames] == ["images/a.png"]


@pytest.mark.parametrize(
    "mask", ["a.png", "a.PNG", "a.jpg.png", "a.mask.png", "a_mask.png", "a.jpg.mask.png", "a_mask.jpg", "a-mask.png"]
)
def test_every_usual_name_of_a_mask(tmp_path, photo_40x30, mask):
    photo_40x30(tmp_path / "masks/sub" / mask)
    masks = MaskFolder(tmp_path, None)
    assert masks.find("sub/a.jpg") == tmp_path / "masks/sub" / mask
    assert masks.find("sub/b.jpg") is None
    assert masks.notes() == ["1 of 2 photos have a mask"]


def test_masks_of_which_none_fits_are_an_error(tmp_path, write_colmap, photo_40x30):
    root = colmap(tmp_path, write_colmap, photo_40x30, ["a.png"], ["images/a.png"], ["masks/other.png"])
    with pytest.raises(StudioError, match=r"masks: none of its 1 masks fits one of the 1 photos\. Name each like"):
        load_scene(root)


def test_masks_of_transforms_by_folder(tmp_path, write_photo):
    write_photo(tmp_path / "cutouts/a_mask.png", mode="L")
    transforms(tmp_path, ["images/a.png"], write_photo, ["images/a.png"])
    scene = load_scene(tmp_path, eval_every=0, masks="cutouts")
    assert scene.frames[0].mask_path == tmp_path / "cutouts/a_mask.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudioError, match="none of its 0 masks"):
        load_scene(tmp_path, masks="empty")


def test_points_beside_a_model_as_ply(tmp_path, write_colmap, photo_40x30):
    root = colmap(tmp_path, write_colmap, photo_40x30, ["a.png"], ["images/a.png"])
    (root / "sparse/0/points3D.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "property float f_dc_0\nproperty float f_dc_1\nproperty float f_dc_2\nend_header\n1 2 3 1 0 -9\n",
        encoding="utf-8",
    )
    points = load_scene(root, normalize="none").points
    torch.testing.assert_close(points.xyz, torch.tensor([[1.0, 2, 3]]))
    # 0.5 + Y00 f, clipped.
    torch.testing.assert_close(points.rgb, torch.tensor([[0.5 + 0.28209479177387814, 0.5, 0.0]]))


def test_map_coordinates_survive_conversion(tmp_path, write_photo):
    """float32 has steps of half a metre there."""
    offset = [500000.3, 5400000.7, 150.1]
    frames = []
    for i in range(9):
        write_photo(tmp_path / f"in/images/{i}.png")
        pose = [[1, 0, 0, offset[0] + 0.1 * i], [0, 1, 0, offset[1]], [0, 0, 1, offset[2]], [0, 0, 0, 1]]
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose})
    (tmp_path / "in/transforms.json").write_text(json.dumps({"fl_x": 50.0, "frames": frames}), encoding="utf-8")
    scene = load_scene(tmp_path / "in", normalize="none", double=True)
    write_scene(scene, tmp_path / "in2", "transforms")
    document = json.loads((tmp_path / "in2/transforms.json").read_text(encoding="utf-8"))
    for before, after in zip(frames, document["frames"], strict=True):
        expected = torch.tensor(before["transform_matrix"], dtype=torch.float64)
        torch.testing.assert_close(
            torch.tensor(after["transform_matrix"], dtype=torch.float64), expected, rtol=1e-15, atol=1e-9
        )
    # nerfstudio asks for each list as soon as there is one.
    assert {"train_filenames", "val_filenames", "test_filenames"} <= set(document)
