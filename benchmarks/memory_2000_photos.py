"""Memory of a training on thousands of photos: bounded by the cache setting plus the model, not by the photo count.

    python benchmarks/memory_2000_photos.py

Makes the photos in a temporary folder, trains on them once for each cache setting, in a process of its own, and writes
results/memory_2000_photos.json. The first row trains on a tenth of the photos, for comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import RESULTS, Report, gib, peak_memory
from PIL import Image

MIB = 1 << 20
PROTOCOL = (
    "{photos} generated {width}x{height} JPEG photos of a textured ground, {decoded} decoded; the splat plugin "
    "trains {steps} steps, one photo each, in shuffled order, so that the photos are decoded again and again. Peak "
    "memory is the largest resident set (VmHWM) of a fresh process, Python, torch and compiled kernels included."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--cache-gb", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], help="cache settings, GiB")
    parser.add_argument("--steps", type=int, default=2500, help="steps of each training; more than there are photos")
    parser.add_argument("--gaussians", type=int, default=20_000, help="cap on the Gaussians")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    decoded = arguments.photos * arguments.width * arguments.height * 3
    report = Report(
        "memory_2000_photos",
        title="Peak memory of a training by the size of the photo cache",
        protocol=PROTOCOL.format(**vars(arguments), decoded=gib(decoded)),
        settings=vars(arguments),
        folder=arguments.results,
    )
    few = max(2, arguments.photos // 10)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder)
        _make_photos(scene, arguments.photos, arguments.width, arguments.height)
        smallest = min(arguments.cache_gb)
        trials = [(few, smallest), *((arguments.photos, cache) for cache in sorted(arguments.cache_gb))]
        # The first training only fills the kernel cache: compiling takes memory of its own.
        _write_transforms(scene, few, arguments.width, arguments.height)
        _in_fresh_process(Job(scene, smallest, 120, arguments.gaussians))
        for photos, cache in trials:
            _write_transforms(scene, photos, arguments.width, arguments.height)
            done = _in_fresh_process(Job(scene, cache, arguments.steps, arguments.gaussians))
            report.add(
                photos=photos,
                cache_mib=round(cache * 1024),
                decoded_mib=round(photos * arguments.width * arguments.height * 3 / MIB),
                start_mib=round(done.before / MIB),
                peak_mib=round(done.peak / MIB),
                peak_less_cache_mib=round(done.peak / MIB - cache * 1024),
                cached_mib=round(done.cached / MIB),
                steps=done.steps,
                seconds=done.seconds,
            )
    report.print()


@dataclass(frozen=True)
class Job:
    """One training, told to a fresh process."""

    scene: Path
    cache_gb: float
    steps: int
    gaussians: int


@dataclass(frozen=True)
class Outcome:
    """What a training took; memory in bytes."""

    before: int
    peak: int
    cached: int
    steps: int
    seconds: float


def _in_fresh_process(job: Job) -> Outcome:
    # Spawned, not forked: the child's memory must not begin with ours.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train_once, job).result()


def train_once(job: Job) -> Outcome:
    """Train in this process, which should be a fresh one."""
    from studio.devices import apply_threads
    from studio.registry import find_plugin, load_config_class
    from studio.training.start import TrainOptions, prepare

    apply_threads()
    settings = load_config_class(find_plugin("splat")).from_dict(
        {"steps": job.steps, "max_gaussians": job.gaussians, "initial_count": job.gaussians // 2}, source="benchmark"
    )
    with tempfile.TemporaryDirectory() as runs:
        options = TrainOptions(output=Path(runs), device="cpu", cache_gb=job.cache_gb, tensorboard=False)
        prepared = prepare("splat", job.scene, settings, options)
        before = peak_memory()
        result = prepared.train()
        assert prepared.photos is not None
        return Outcome(before, peak_memory(), prepared.photos.cached_bytes, result.step, result.seconds)


def _make_photos(scene: Path, count: int, width: int, height: int) -> None:
    """Photos of the plane z = 0 with a painted texture, from a dome of cameras; poses exact."""
    photos = scene / "photos"
    photos.mkdir()
    texture = _texture(1024)
    focal = 0.9 * width
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    pixels = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1).astype(np.float32)
    for index in range(count):
        pose = _pose(index, count).astype(np.float32)
        rays = pixels @ pose[:3, :3].T
        # Rays that miss the ground see the sky.
        reach = np.where(rays[..., 2] < -1e-3, -pose[2, 3] / np.minimum(rays[..., 2], -1e-3), np.inf)
        ground = pose[:2, 3] + rays[..., :2] * np.minimum(reach, 50)[..., None]
        texel = np.floor(ground * 256).astype(np.int64) % 1024
        image = texture[texel[..., 1], texel[..., 0]]
        image[reach > 20] = (170, 200, 235)
        Image.fromarray(image).save(photos / f"{index:05d}.jpg", quality=90)


def _texture(size: int) -> np.ndarray:
    """Tileable coloured noise of several octaves, (size, size, 3) uint8."""
    random = np.random.default_rng(0)
    total = np.zeros((size, size, 3), dtype=np.float32)
    for octave in range(3, 9):
        cells = random.random((1 << octave, 1 << octave, 3), dtype=np.float32)
        total += cells.repeat(size >> octave, 0).repeat(size >> octave, 1) / (octave - 1)
    low, high = total.min(), total.max()
    return ((total - low) / (high - low) * 255).astype(np.uint8)


def _pose(index: int, count: int) -> np.ndarray:
    """camera_to_world (4, 4), OpenCV axes: one of `count` cameras of a spiral on a dome, looking at the origin."""
    height = 0.35 + 0.5 * (index + 0.5) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    ring = math.sqrt(1 - height * height)
    eye = 2.5 * np.array([ring * math.cos(angle), ring * math.sin(angle), height])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=-1)
    pose[:3, 3] = eye
    return pose


def _write_transforms(scene: Path, count: int, width: int, height: int) -> None:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])  # the file has OpenGL axes
    total = len(list((scene / "photos").iterdir()))
    frames = [
        {"file_path": f"photos/{index:05d}.jpg", "transform_matrix": (_pose(index, total) @ flip).tolist()}
        for index in range(0, total, max(1, total // count))
    ][:count]
    lens = {"w": width, "h": height, "fl_x": 0.9 * width, "fl_y": 0.9 * width, "cx": width / 2, "cy": height / 2}
    (scene / "transforms.json").write_text(json.dumps({**lens, "frames": frames}), encoding="utf-8")


if __name__ == "__main__":
    main()
