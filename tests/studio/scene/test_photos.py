from __future__ import annotations

import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.scene import Frame, PhotoStore, photos


def make_frame(path: Path, size=(20, 12), mask=None, **lens) -> Frame:
    camera = Cameras.make(torch.eye(4), width=size[0], height=size[1], fx=15.0, **lens)
    return Frame(path.name, path, camera, "train", mask)


@pytest.fixture
def frames(tmp_path):
    def make(count=1, size=(20, 12), channels=3, **lens):
        made = []
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            made.append(make_frame(tmp_path / f"{i}.png", size, **lens))
        return made

    return make


def test_photo_at_full_size(frames):
    store = PhotoStore(frames(2))
    photo = store[1]
    expected = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    assert photo.image.dtype == torch.uint8
    assert np.array_equal(photo.image.numpy(), expected)
    assert (photo.mask, photo.alpha, photo.size) == (None, None, (20, 12))
    torch.testing.assert_close(photo.composited([0.0, 1.0, 0.0]), torch.from_numpy(expected) / 255)
    assert store[1] is photo
    assert store[-1] is photo
    with pytest.raises(IndexError):
        store[2]
    assert [p.frame.name for p in store] == ["0.png", "1.png"]


def test_compositing(frames):
    photo = PhotoStore(frames(channels=4))[0]
    rgba = photo.image.double() / 255
    for background in (torch.tensor([1.0, 0.5, 0.0]), torch.rand(12, 20, 3)):
        expected = rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * background.double()
        result = photo.composited(background)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(photo.alpha, rgba[..., 3].float())
    with pytest.raises(ValueError, match=r"background must have shape \(3,\) or \(12, 20, 3\), got \(12, 20\)"):
        photo.composited(torch.rand(12, 20))


@pytest.mark.parametrize("downscale", [1, 2, 3.3])
def test_camera_and_pixels_shrink_together(frames, downscale):
    made = frames(cx=7.0, cy=5.0)
    store = PhotoStore(made, downscale)
    photo = store[0]
    width, height = photo.size
    assert (width, height) == {1: (20, 12), 2: (10, 6), 3.3: (6, 4)}[downscale]
    assert photo.camera.size == store.camera(0).size == photo.size
    assert float(photo.camera.cx) == pytest.approx(7 * width / 20)
    assert float(photo.camera.fy) == pytest.approx(15 * height / 12)
    point = torch.tensor([0.1, -0.2, 1.0])
    ratio = torch.tensor([width / 20, height / 12])
    torch.testing.assert_close(photo.camera.project(point)[0], made[0].camera.project(point)[0] * ratio)


def test_downscaled_photo_equals_downscaled_store(frames):
    made = frames(size=(24, 12), channels=4)
    direct, later = PhotoStore(made, 4)[0], PhotoStore(made)[0].downscaled(4)
    assert torch.equal(direct.image, later.image)
    assert torch.equal(direct.camera.fx, later.camera.fx)
    with pytest.raises(ValueError, match="factor must be at least 1"):
        later.downscaled(0.5)


def test_shifted_photos_show_all_of_the_full_photo(frames):
    made = frames(size=(20, 12), cx=7.0, cy=5.0)
    full, store = PhotoStore(made)[0].image.float(), PhotoStore(made, 2)
    assert store.shifts == 4
    point = torch.tensor([0.1, -0.2, 1.0])
    at_full_size = made[0].camera.project(point)[0]
    for way, (left, top) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        photo = store.get(0, shift=way)
        width, height = (20 - left) // 2, (12 - top) // 2
        window = full[top : top + 2 * height, left : left + 2 * width]
        mean = window.reshape(height, 2, width, 2, 3).mean(dim=(1, 3))
        assert (photo.image.float() - mean).abs().max() <= 0.5 + 1e-3
        assert photo.camera.size == photo.size == (width, height)
        expected = (at_full_size - torch.tensor([left, top])) / 2
        torch.testing.assert_close(photo.camera.project(point)[0], expected)
    assert torch.equal(store.get(0, shift=0).image, store[0].image)
    assert store.get(0, 2, shift=3).size == store.get(0, shift=3).downscaled(2).size


def test_shifted_masks_follow_their_photo(frames, tmp_path):
    pixels = np.full((12, 20), 255, dtype=np.uint8)
    pixels[:, 9:] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    store = PhotoStore([replace(frames()[0], mask_path=tmp_path / "mask.png")], 2)
    assert store.get(0, shift=0).mask[0].tolist() == [True] * 4 + [False] * 6
    assert store.get(0, shift=1).mask[0].tolist() == [True] * 4 + [False] * 5


@pytest.mark.parametrize(
    ("downscale", "options"),
    [(1, {}), (2.5, {}), (2, {"undistort": True}), (2, {"cache_bytes": 20 * 12 * 5 - 1}), (8, {})],
)
def test_photos_that_cannot_be_shifted_are_given_as_they_are(frames, downscale, options):
    store = PhotoStore(frames(), downscale, **options)
    assert store.shifts == 1
    assert torch.equal(store.get(0, shift=0).image, store[0].image)
    with pytest.raises(IndexError):
        store.get(0, shift=1)


def test_masks_are_resized_with_the_photo(frames, tmp_path):
    frame = frames()[0]
    pixels = np.full((12, 20), 255, dtype=np.uint8)
    pixels[:, 9:] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    frame = replace(frame, mask_path=tmp_path / "mask.png")
    assert PhotoStore([frame])[0].mask.sum() == 12 * 9
    # Column 4 of the halved mask covers columns 8 and 9, one of which does not count.
    assert PhotoStore([frame], 2)[0].mask[0].tolist() == [True] * 4 + [False] * 6
    # A mask of half the photo's size serves as well.
    Image.fromarray(pixels[::2, ::2]).save(tmp_path / "mask.png")
    assert PhotoStore([frame])[0].mask[0].tolist() == [True] * 10 + [False] * 10
    Image.fromarray(pixels[:, :5]).save(tmp_path / "mask.png")
    with pytest.raises(StudioError, match=r"mask\.png: the mask is 5x12, but its photo 20x12"):
        PhotoStore([frame])[0]


@pytest.mark.parametrize("channels", [3, 4])
def test_undistortion_moves_pixels_where_the_pinhole_camera_sees_them(tmp_path, channels):
    """A picture painted by viewing direction stays consistent with its camera."""
    size = (120, 90)
    camera = Cameras.make(
        torch.eye(4), width=size[0], height=size[1], fx=80.0, model="opencv", distortion=[0.2, 0.05, 0.01, -0.01]
    )

    def painted(directions):
        flat = directions[..., :2] / directions[..., 2:]
        smooth = torch.stack([flat[..., 0], flat[..., 1], flat.sum(-1)], dim=-1) * 0.4 + 0.5
        return smooth.clamp(0, 1)

    image = (painted(camera.ray_directions()) * 255).round().to(torch.uint8).numpy()
    if channels == 4:
        image = np.concatenate([image, np.full_like(image[..., :1], 255)], axis=-1)
    Image.fromarray(image).save(tmp_path / "a.png")
    frame = Frame("a", tmp_path / "a.png", camera, "train")
    store = PhotoStore([frame], undistort=True)
    photo = store[0]
    assert photo.camera.model == store.camera(0).model == "pinhole"
    assert photo.mask is not None
    # Pincushion distortion: the corners of the pinhole picture look outside of the photo.
    assert not photo.mask[0, 0]
    assert photo.mask[45, 60]
    expected = painted(photo.camera.ray_directions())
    assert float((photo.rgb - expected).abs()[photo.mask].max()) < 1.5 / 255
    # Without undistortion the photo and its camera are as stored.
    plain = PhotoStore([frame])[0]
    assert plain.camera.model == "opencv"
    assert plain.mask is None
    assert np.array_equal(plain.image.numpy(), image)


def test_undistorted_masks_exclude_what_mixes(tmp_path):
    size = (64, 64)
    lens = {"fx": 60.0, "model": "opencv", "distortion": [-0.2]}
    camera = Cameras.make(torch.eye(4), width=64, height=64, **lens)
    Image.new("RGB", size, (10, 10, 10)).save(tmp_path / "a.png")
    hole = np.full((64, 64), 255, dtype=np.uint8)
    hole[40:50, 40:50] = 0
    Image.fromarray(hole).save(tmp_path / "m.png")
    photo = PhotoStore([Frame("a", tmp_path / "a.png", camera, "train", tmp_path / "m.png")], undistort=True)[0]
    pixels, _ = camera.project(photo.camera.ray_directions())
    inside = ((pixels > 40) & (pixels < 50)).all(-1)
    beside = ((pixels > 38.9) & (pixels < 51.1)).all(-1)
    assert inside.any()
    assert not photo.mask[inside].any()
    assert photo.mask[~beside].all()


def test_undistortion_of_other_models_is_refused(frames):
    with pytest.raises(StudioError, match=r"0\.png: a photo of model equirectangular cannot be undistorted"):
        PhotoStore(frames(model="equirectangular"), undistort=True)


def test_pinhole_photos_pass_undistortion_unchanged(frames):
    made = frames()
    assert torch.equal(PhotoStore(made, undistort=True)[0].image, PhotoStore(made)[0].image)


def count_decodes(monkeypatch):
    calls: list[str] = []
    real = photos.decode_photo

    def counting(path):
        calls.append(path.name)
        return real(path)

    monkeypatch.setattr(photos, "decode_photo", counting)
    return calls


def test_nothing_is_decoded_before_it_is_asked_for(frames, monkeypatch):
    calls = count_decodes(monkeypatch)
    store = PhotoStore(frames(3), 2)
    assert store.camera(2).size == (10, 6)
    assert len(store) == 3
    assert calls == []
    store[1], store[1]
    assert calls == ["1.png"]


def test_least_recently_used_photos_go_first(frames, monkeypatch):
    calls = count_decodes(monkeypatch)
    one = 20 * 12 * 3
    store = PhotoStore(frames(3), cache_bytes=2 * one)
    store[0], store[1], store[0]
    store[2]  # 1 goes, as 0 was used later
    assert store.cached_bytes == 2 * one
    store[0]
    assert calls == ["0.png", "1.png", "2.png"]
    store[1]
    assert calls == ["0.png", "1.png", "2.png", "1.png"]


def test_memory_stays_within_the_bound(tmp_path):
    """Photos of many sizes, several times over, in a cache that holds a few of them."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(80):
        size = (int(rng.integers(8, 60)), int(rng.integers(8, 60)))
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3 + i % 2), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        made.append(make_frame(tmp_path / f"{i}.png", size, model="opencv", distortion=[0.01 * (i % 3)]))
    limit = 60_000
    store = PhotoStore(made, cache_bytes=limit, undistort=True)
    alone = [PhotoStore([frame], undistort=True)[0].image for frame in made]
    peak = 0
    for i in rng.integers(0, 80, 120):
        store.prefetch(int(j) for j in rng.integers(0, 80, 5))
        assert torch.equal(store[int(i)].image, alone[i])
        peak = max(peak, store.cached_bytes)
    store.close()
    assert limit / 2 < peak <= limit
    assert store.cached_bytes == 0


def test_the_cache_releases_the_memory_of_what_it_drops(frames):
    store = PhotoStore(frames(3), cache_bytes=20 * 12 * 3)
    first = weakref.ref(store[0].image)
    assert first() is not None
    store[1]
    assert first() is None


def test_a_photo_larger_than_the_cache_is_still_delivered(frames):
    store = PhotoStore(frames(), cache_bytes=10)
    assert store[0].size == (20, 12)
    assert store.cached_bytes == 0


def test_prefetch_decodes_in_the_background(frames, monkeypatch):
    calls = count_decodes(monkeypatch)
    store = PhotoStore(frames(6), cache_bytes=4 * 20 * 12 * 5)
    store[0]
    # Room for four by the most that a photo can need; 0 is there already.
    store.prefetch(range(6))
    store.prefetch(range(6))
    results = [store[i] for i in range(4)]
    assert sorted(calls) == ["0.png", "1.png", "2.png", "3.png"]
    for i, photo in enumerate(results):
        expected = np.random.default_rng(i).integers(0, 256, (12, 20, 3), dtype=np.uint8)
        assert np.array_equal(photo.image.numpy(), expected)
    store.close()
    assert store[5].size == (20, 12)


def test_errors_of_prefetched_photos_come_when_they_are_asked_for(frames):
    made = frames(2)
    made[1].image_path.write_bytes(made[1].image_path.read_bytes()[:60])
    store = PhotoStore(made)
    store.prefetch([0, 1])
    assert store[0].size == (20, 12)
    for _ in range(2):
        with pytest.raises(StudioError, match=r"1\.png: cannot be read as a picture"):
            store[1]
    store.close()


def test_many_threads_may_ask_at_once(frames):
    made = frames(8)
    store = PhotoStore(made, cache_bytes=3 * 20 * 12 * 3)
    failures: list[BaseException] = []

    def work(seed):
        try:
            for i in np.random.default_rng(seed).integers(0, 8, 60):
                assert store[int(i)].frame is made[i]
                store.prefetch([int(i + 1) % 8])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert not failures


def test_a_photo_that_changed_its_size_is_named(frames):
    made = frames()
    Image.new("RGB", (5, 5)).save(made[0].image_path)
    with pytest.raises(StudioError, match=r"0\.png: the photo is 5x5, but was 20x12 when the scene was loaded"):
        PhotoStore(made)[0]


def test_bad_arguments(frames):
    for downscale in (0.5, 0, float("nan")):
        with pytest.raises(StudioError, match="downscale must be at least 1"):
            PhotoStore(frames(), downscale)
    with pytest.raises(ValueError, match="cache_bytes"):
        PhotoStore(frames(), cache_bytes=-1)
