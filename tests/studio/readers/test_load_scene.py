from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from installed_plugins import install_extensions
from PIL import Image

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.readers import ReadOptions, get_reader, hold_out, load_scene, reader_names, register_reader, registry
from studio.scene import Frame, Scene


def frame(name, split="train"):
    pose = torch.eye(4)
    return Frame(name, Path(name), Cameras.make(pose, width=4, height=4, fx=4.0), split)


def scene_of(*frames):
    return Scene("s", Path("s"), "test", tuple(frames))


def test_every_eighth_by_name_is_held_out():
    scene = scene_of(*(frame(f"{i:02d}") for i in reversed(range(20))))
    held = hold_out(scene)
    assert [f.name for f in held.split("test")] == ["16", "08", "00"]
    assert len(held.split("train")) == 17
    assert held.notes == ("no test split: every 8th photo by name is held out for evaluation (3 of 20)",)
    assert len(hold_out(scene, 0).split("train")) == 20
    assert len(hold_out(scene, 2).split("test")) == 10


def test_given_splits_are_kept():
    for split in ("val", "test"):
        scene = scene_of(frame("a"), frame("b"), frame("c", split))
        assert hold_out(scene) is scene


def test_hold_out_never_takes_everything():
    for every in (1, -3):
        with pytest.raises(StudioError, match="eval_every must be 0"):
            hold_out(scene_of(frame("a"), frame("b")), every)
    alone = hold_out(scene_of(frame("a")))
    assert len(alone.split("train")) == 1
    assert alone.notes == ("only one photo: nothing is held out for evaluation",)


def test_missing_folder_and_file_instead_of_folder(tmp_path):
    with pytest.raises(StudioError, match=r"nope: there is no such folder"):
        load_scene(tmp_path / "nope")
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(StudioError, match=r"photo\.png: is a file, not a folder"):
        load_scene(tmp_path / "photo.png")


def test_unknown_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(StudioError) as caught:
        load_scene(tmp_path)
    for part in (
        "not a scene in any known format",
        "transforms: no transforms.json",
        "blender: no transforms_train.json",
        "colmap: no cameras.bin/images.bin",
        "llff: no poses_bounds.npy",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_format_and_wrong_format(transforms_scene):
    root = transforms_scene(2)
    with pytest.raises(StudioError, match=r"no scene format 'gif'\. Formats: transforms, blender, colmap, llff"):
        load_scene(root, format="gif")
    with pytest.raises(StudioError, match="no COLMAP model"):
        load_scene(root, format="colmap")
    with pytest.raises(StudioError, match=r"poses_bounds\.npy: there is no such file"):
        load_scene(root, format="llff")


def test_colmap_is_preferred_to_llff(tmp_path, write_colmap, write_photo):
    write_photo(tmp_path / "images/a.png")
    write_colmap(
        tmp_path / "sparse/0",
        [(1, "PINHOLE", 16, 12, [20.0, 20, 8, 6])],
        [(1, [1.0, 0, 0, 0], [0.0, 0, 0], 1, "a.png")],
    )
    (tmp_path / "poses_bounds.npy").write_bytes(b"")
    assert load_scene(tmp_path).format == "colmap"


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"hello", "not a picture in a known format"), (None, "")]
)
def test_unreadable_photo_is_named(transforms_scene, data, reason):
    root = transforms_scene(3)
    photo = root / "images/001.png"
    photo.write_bytes(photo.read_bytes()[:20] if data is None else data)
    with pytest.raises(StudioError, match=rf"images/001\.png: cannot be read as a picture \(.*{reason}"):
        load_scene(root)


def test_everything_is_float32_but_far_origins_keep_their_digits(transforms_scene, pose):
    def far(i):
        matrix = pose(0.7 * i)
        matrix[0][3] += 5_000_000.0
        return {"transform_matrix": matrix}

    scene = load_scene(transforms_scene(8, each=far))
    reference = load_scene(transforms_scene(8, each=lambda i: {"transform_matrix": pose(0.7 * i)}))
    for a, b in zip(scene.frames, reference.frames, strict=True):
        assert a.camera.dtype == torch.float32
        torch.testing.assert_close(a.camera.camera_to_world, b.camera.camera_to_world, atol=1e-6, rtol=0)


def test_points_give_bounds_without_strays(transforms_scene, tmp_path):
    rows = [f"{i / 1000} {i / 500} 1" for i in range(1000)] + ["900 900 900"]
    header = "ply\nformat ascii 1.0\nelement vertex 1001\n" + "".join(f"property float {a}\n" for a in "xyz")
    (tmp_path / "p.ply").write_text(header + "end_header\n" + "\n".join(rows) + "\n")
    scene = load_scene(transforms_scene(3, top={"ply_file_path": "p.ply"}), normalize="none")
    torch.testing.assert_close(scene.bounds, torch.tensor([[0.005, 0.01, 1], [0.995, 1.99, 1]]))


@dataclass(frozen=True)
class ListReader:
    """Reads a file that names one photo a line, all from one place."""

    name: str = "list"

    def detect(self, root: Path) -> str | None:
        return None if (root / "list.txt").is_file() else "no list.txt"

    def read(self, root: Path, options: ReadOptions) -> Scene:
        names = (root / "list.txt").read_text().split()
        return Scene(root.name, root, self.name, tuple(frame(name) for name in names))


READER = ListReader()


def test_a_reader_can_be_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    register_reader(READER)
    (tmp_path / "list.txt").write_text("a b c")
    assert load_scene(tmp_path).format == "list"
    with pytest.raises(ValueError, match="there is a reader 'list' already"):
        register_reader(READER)
    with pytest.raises(ValueError, match="there is a reader 'colmap' already"):
        register_reader(ListReader("colmap"))


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Installs a distribution in a folder of its own, with these readers."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda distribution, entries: install_extensions(site, distribution, {"studio.readers": entries})


READER_MODULE = """
from studio.scene import Scene
class R:
    name = "list"
    def detect(self, root): return "no list.txt"
    def read(self, root, options): raise NotImplementedError
READER = R()
"""


def test_a_package_adds_a_reader_by_entry_point(tmp_path, offer):
    site = offer("lists", {"list": "a_reader_module:READER", "colmap": "a_reader_module:READER"})
    (site / "a_reader_module.py").write_text(READER_MODULE)
    assert reader_names() == ["transforms", "blender", "colmap", "llff", "list"]
    assert get_reader("list").detect(tmp_path) == "no list.txt"
    # The studio's own stays what it is.
    assert get_reader("colmap").__class__.__name__ == "ColmapReader"


def test_a_broken_reader_breaks_only_itself(transforms_scene, offer, tmp_path):
    site = offer("lists", {"broken": "no_such_module:READER", "wrong": "json:dumps", "list": "a_failing_reader:READER"})
    (site / "a_failing_reader.py").write_text(READER_MODULE.replace('return "no list.txt"', "raise OSError('no disk')"))
    with pytest.raises(StudioError, match=r"The reader 'broken' .* needs the package 'no_such_module'"):
        get_reader("broken")
    with pytest.raises(StudioError, match="json:dumps has no 'name'"):
        get_reader("wrong")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudioError, match=r"list: OSError: no disk; broken: needs the package 'no_such_module'"):
        load_scene(tmp_path / "empty")
    assert len(load_scene(transforms_scene(2)).frames) == 2


def test_two_packages_with_one_reader_name(transforms_scene, offer):
    site = offer("first", {"list": "a_reader_module:READER"})
    offer("second", {"list": "a_reader_module:READER"})
    (site / "a_reader_module.py").write_text(READER_MODULE)
    with pytest.raises(StudioError, match=r"two packages offer a reader 'list': first .* and second .*uninstall one"):
        get_reader("list")
    assert len(load_scene(transforms_scene(2)).frames) == 2


def test_a_scene_without_training_photos(transforms_scene):
    names = [f"images/{i:03d}.png" for i in range(3)]
    with pytest.raises(StudioError, match="no photos to train on"):
        load_scene(transforms_scene(3, top={"train_filenames": [], "test_filenames": names}))


def test_two_thousand_photos_are_listed_without_decoding(tmp_path, pose, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images/0000.jpg")
    data = (tmp_path / "images/0000.jpg").read_bytes()
    frames = []
    for i in range(2000):
        (tmp_path / f"images/{i:04d}.jpg").write_bytes(data)
        frames.append({"file_path": f"images/{i:04d}.jpg", "transform_matrix": pose(0.01 * i)})
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 50, "frames": frames}))

    def refuse(self):
        raise AssertionError("a photo was decoded while the scene was loaded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    scene = load_scene(tmp_path)
    assert len(scene.frames) == 2000
    assert {f.camera.size for f in scene.frames} == {(64, 48)}


FAMILY_MODULE = """
from studio.readers.transforms import TransformsReader

class Family(TransformsReader):
    def __init__(self, which=""):
        self.name = f"family:{which}" if which else "family"

    def variant(self, text):
        return Family(text)

FAMILY = Family()
"""


def test_a_family_of_readers_is_only_asked_for_by_name(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "families-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "a_family.py").write_text(FAMILY_MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: families\nVersion: 1.0\n")
    points = "family = a_family:FAMILY\nwrong = a_family:Family.__doc__\nlost = no_such_module:X\n"
    (info / "entry_points.txt").write_text(f"[studio.reader_families]\n{points}")
    monkeypatch.syspath_prepend(str(site))
    assert load_scene(tiny_scene, format="family:blue").format == "family:blue"
    assert load_scene(tiny_scene, format="family").format == "family"
    assert "family" not in reader_names()
    assert load_scene(tiny_scene).format == "transforms"
    for name, message in (
        ("wrong:x", "is not a family of readers"),
        ("lost", r"'lost' cannot be loaded from no_such_module:X \(ModuleNotFoundError"),
        ("blender:blue", "no scene format 'blender:blue'"),
    ):
        with pytest.raises(StudioError, match=message):
            load_scene(tiny_scene, format=name)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["a.jpg", "b.JPG"], r"has 2 photos, but no poses.*Find them: studio data process .* --output photos-scene"),
        (["images/a.png"], r"has 1 photos, but no poses of their cameras\. Find them: studio data process"),
        (
            ["IMG_1.HEIC", "IMG_2.HEIC"],
            r"has 2 photos in HEIC, which the studio does not read.*JPEG or PNG, then: studio",
        ),
        (["a.jpg", "sparse/0/cameras.txt"], "sparse/0 is a COLMAP model without images"),
        (["notes.txt"], "not a scene in any known format"),
    ],
)
def test_photos_without_poses_name_the_command_that_finds_them(tmp_path, files, match):
    for name in files:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with pytest.raises(StudioError, match=match):
        load_scene(tmp_path / "photos")


def test_a_video_names_the_command_that_finds_poses(tmp_path):
    (tmp_path / "my clip.MP4").write_bytes(b"x")
    with pytest.raises(StudioError, match=r"is a video.*studio data process '.*my clip.MP4' --output 'my clip-scene'"):
        load_scene(tmp_path / "my clip.MP4")
