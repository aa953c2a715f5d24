from __future__ import annotations

import json
import math

import pytest
import torch

from studio.errors import StudioError
from studio.readers import load_scene


@pytest.fixture
def synthetic(transforms_scene):
    """A scene like NeRF-synthetic's: one field of view, names without ending, three split files."""

    def make(counts=(8, 2, 4), present=lambda split, i: True):
        root = None
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            if count is not None:
                root = transforms_scene(
                    count,
                    top={"fl_x": None, "w": None, "h": None, "camera_angle_x": math.radians(90)},
                    each=lambda i, split=split: {"file_path": f"./{split}/{i:03d}", "rotation": 0.1},
                    present=lambda i, split=split: present(split, i),
                    name=f"transforms_{split}.json",
                    folder=split,
                    size=(16, 16),
                )
        return root

    return make


def test_splits_camera_and_bounds(synthetic):
    scene = load_scene(synthetic())
    assert scene.format == "blender"
    assert [len(scene.split(s)) for s in ("train", "val", "test")] == [8, 2, 4]
    camera = scene.frames[0].camera
    assert camera.model == "pinhole"
    assert [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == pytest.approx([8, 8, 8, 8])
    assert scene.bounds.tolist() == [[-1.5] * 3, [1.5] * 3]
    # The frame of these scenes is known; nothing is normalised unless asked for.
    assert torch.equal(scene.scene_from_input, torch.eye(4, dtype=torch.float64))
    assert not torch.equal(
        load_scene(synthetic(), normalize="focus").scene_from_input, torch.eye(4, dtype=torch.float64)
    )


def test_absent_val_is_only_a_note(synthetic):
    scene = load_scene(synthetic(present=lambda split, i: split != "val"))
    assert not scene.split("val")
    assert "transforms_val.json: 2 of 2 photos are absent and left out (first: ./val/000)" in scene.notes


def test_test_split_with_absent_photos(synthetic):
    root = synthetic(present=lambda split, i: split != "test" or i < 3)
    message = r"transforms_test\.json: the test split names absent photos \(1 of 4, first: \./test/003\)\. "
    with pytest.raises(StudioError, match=message + r"Add the photos, or .*--test-file transforms_test\.json"):
        load_scene(root)
    # Choosing the file accepts that some of its photos are absent.
    scene = load_scene(root, test_file="transforms_test.json")
    assert len(scene.split("test")) == 3
    assert "transforms_test.json: 1 of 4 photos is absent and left out (first: ./test/003)" in scene.notes
    # A sibling that is complete is offered, an incomplete or broken one is not.
    document = json.loads((root / "transforms_test.json").read_text())
    (root / "transforms_test_all.json").write_text(json.dumps(document))
    (root / "transforms_test_bad.json").write_text("{")
    document["frames"] = document["frames"][:3]
    (root / "transforms_test_few.json").write_text(json.dumps(document))
    with pytest.raises(StudioError, match=message + "Choose transforms_test_few.json, whose photos are all here"):
        load_scene(root)
    assert len(load_scene(root, test_file="transforms_test_few.json").split("test")) == 3


def test_chosen_test_file_must_exist_and_have_photos(synthetic):
    root = synthetic(present=lambda split, i: split != "test")
    with pytest.raises(StudioError, match=r"nope\.json: there is no such file\. Files there: transforms_test\.json"):
        load_scene(root, test_file="nope.json")
    with pytest.raises(StudioError, match="none of its photos exist"):
        load_scene(root, test_file="transforms_test.json")


def test_without_other_splits_photos_are_held_out(synthetic):
    scene = load_scene(synthetic((16, None, None)))
    assert [f.name for f in scene.split("test")] == ["train/000.png", "train/008.png"]


def test_a_test_file_of_another_name_is_mentioned(synthetic):
    root = synthetic()
    (root / "transforms_test.json").rename(root / "transforms_test4.json")
    note = "no transforms_test.json, but transforms_test4.json: choose it with --test-file"
    assert note in load_scene(root).notes
    assert len(load_scene(root, test_file="transforms_test4.json").split("test")) == 4


def test_train_split_without_photos(synthetic):
    with pytest.raises(StudioError, match=r"transforms_train\.json: none of its photos exist"):
        load_scene(synthetic(present=lambda split, i: split != "train"))


def test_broken_json_is_reported_not_hidden_by_detection(synthetic):
    root = synthetic()
    (root / "transforms_train.json").write_text('{"frames": [}')
    with pytest.raises(StudioError, match=r"transforms_train\.json: JSON syntax error at line 1, column 13"):
        load_scene(root)
