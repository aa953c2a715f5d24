"""Make the bundled scene `scenes/tabletop`: photos of a procedural still life, exact poses, sparse points.

    pip install "neural-studio[scenes]"
    python scenes/make_tabletop.py                        # the committed scene
    python scenes/make_tabletop.py --output /tmp/quick --size 160 --samples 16

The photos are path traced with Mitsuba 3. Everything follows from the seed but for the renderer's rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray

SEED = 7
LOOK_AT = np.array([-0.01, -0.02, 0.075])
TRAIN_RINGS = ((27, 21.0, 0.66), (20, 34.0, 0.68), (13, 51.0, 0.68))  # photos, elevation in degrees, distance in metres
TEST_COUNT = 12
FIELD_OF_VIEW = 48.0
EXPOSURE = 1.6
WHITE_BALANCE = (0.94, 1.0, 1.1)
PATHS = {"type": "path", "max_depth": 5, "rr_depth": 3}
GUIDES = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal,depth:depth"}
GUIDE_SAMPLES = 36


@dataclass(frozen=True)
class Shot:
    """One photo to take: camera_to_world (4, 4) in the OpenGL convention (x right, y up, looking along -z)."""

    camera_to_world: Array
    azimuth: float
    held_out: bool


def look_at(eye: Array, target: Array) -> Array:
    """The OpenGL camera_to_world (4, 4) of a level camera at `eye` that looks at `target`; z is up."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    out = np.eye(4)
    out[:3, :4] = np.stack([right, np.cross(back, right), back, eye], axis=1)
    return out


def shots(rng: np.random.Generator) -> list[Shot]:
    """Training photos on rings of jittered positions, test photos between the rings, all in order of azimuth."""

    def shot(azimuth: float, elevation: float, distance: float, held_out: bool) -> Shot:
        a, e = np.radians(azimuth), np.radians(elevation)
        target = LOOK_AT + rng.normal(0, [0.012, 0.012, 0.006])
        eye = target + distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        return Shot(look_at(eye, target), azimuth % 360, held_out)

    out = []
    for ring, (count, elevation, distance) in enumerate(TRAIN_RINGS):
        for i in range(count):
            azimuth = 360 * (i + 0.37 * ring + rng.uniform(-0.22, 0.22)) / count
            out.append(shot(azimuth, elevation + rng.uniform(-3, 3), distance * rng.uniform(0.95, 1.06), False))
    for i in range(TEST_COUNT):
        azimuth = 360 * (i + 0.5 + rng.uniform(-0.25, 0.25)) / TEST_COUNT
        out.append(shot(azimuth, (26.0, 42.0, 32.0)[i % 3] + rng.uniform(-2, 2), 0.68, True))
    return sorted(out, key=lambda s: s.azimuth)


def sensor(camera_to_world: Array, size: int, samples: int) -> dict[str, Any]:
    """A Mitsuba pinhole camera. Mitsuba's x points left and its z forward, so both flip against OpenGL's."""
    import mitsuba as mi

    return {
        "type": "perspective",
        "fov": FIELD_OF_VIEW,
        "fov_axis": "x",
        "near_clip": 0.01,
        "to_world": mi.ScalarTransform4f(camera_to_world @ np.diag([-1.0, 1.0, -1.0, 1.0])),
        "film": {"type": "hdrfilm", "width": size, "height": size, "rfilter": {"type": "box"}, "pixel_format": "rgb"},
        "sampler": {"type": "multijitter", "sample_count": samples},
    }


def develop(radiance: Array) -> Array:
    """Linear radiance (..., 3) to 8-bit sRGB: exposure, white balance, a soft shoulder above 0.7, the sRGB curve."""
    x = np.clip(radiance * (EXPOSURE * np.asarray(WHITE_BALANCE)), 0, None)
    knee = 0.7
    x = np.where(x < knee, x, 1 - (1 - knee) * np.exp(-(x - knee) / (1 - knee)))
    y = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(np.maximum(x, 1e-8), 1 / 2.4) - 0.055)
    return (np.clip(y, 0, 1) * 255 + 0.5).astype(np.uint8)


def photograph(scene: Any, camera: Array, size: int, samples: int, seed: int, passes: int = 3) -> Array:
    """One 8-bit photo (size, size, 3)."""
    import mitsuba as mi
    from still_life.denoise import denoise

    lens = mi.load_dict(sensor(camera, size, GUIDE_SAMPLES))
    features = mi.load_dict(GUIDES)
    guides = np.array(mi.render(scene, sensor=lens, integrator=features, spp=GUIDE_SAMPLES, seed=mi.UInt32(seed)))
    each = max(1, samples // passes)
    lens = mi.load_dict(sensor(camera, size, each))
    tracer = mi.load_dict(PATHS)
    seeds = [mi.UInt32(seed * passes + i) for i in range(passes)]
    light = np.stack([np.array(mi.render(scene, sensor=lens, integrator=tracer, spp=each, seed=s)) for s in seeds])
    albedo, normal, depth = guides[..., -7:-4], guides[..., -4:-1], guides[..., -1]
    return develop(denoise(light, albedo, normal, depth))


def sparse_points(
    scene: Any, cameras: Array, photos: Array, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """What structure from motion would give: points (N, 3) near image detail and their mean colours (N, 3) uint8.

    Cameras (K, 4, 4) are OpenGL camera_to_world, photos (K, H, W, 3) uint8. Points that fewer than three photos see are
    dropped; the rest get noise of 0.4 pixels as seen from the photo that they were found in.
    """
    size = photos.shape[1]
    focal = 0.5 * size / np.tan(np.radians(FIELD_OF_VIEW) / 2)
    found, spacing = [], []
    for camera, photo in zip(cameras, photos, strict=True):
        grey = photo.mean(-1)
        detail = np.hypot(*np.gradient(grey)) + 2.0
        share = int(np.ceil(1.15 * count / len(photos)))
        chosen = rng.choice(size * size, share, replace=False, p=(detail / detail.sum()).ravel())
        pixel = np.stack([chosen % size, chosen // size], -1) + 0.5
        away = np.column_stack([(pixel - size / 2) / focal * [1, -1], -np.ones(len(pixel))])
        direction = away @ camera[:3, :3].T
        distance = first_hit(scene, camera[:3, 3], direction)
        found.append(camera[:3, 3] + distance[:, None] * direction)
        spacing.append(distance / focal)
    points, pixel_width = np.concatenate(found), np.concatenate(spacing)
    total, seen = np.zeros((len(points), 3)), np.zeros(len(points))
    for camera, photo in zip(cameras, photos, strict=True):
        local = (points - camera[:3, 3]) @ camera[:3, :3]
        depth = -local[:, 2]
        column, row = (size / 2 + focal * local[:, :2] / np.where(depth > 0, depth, np.inf)[:, None] * [1, -1]).T
        inside = (depth > 0) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
        hit = first_hit(scene, camera[:3, 3], points - camera[:3, 3])
        visible = inside & (hit > 1 - 3e-3)
        total[visible] += photo[row[visible].astype(int), column[visible].astype(int)]
        seen += visible
    kept = np.flatnonzero(seen >= 3)
    kept = np.sort(rng.choice(kept, min(count, len(kept)), replace=False))
    noise = rng.normal(size=(len(kept), 3)) * 0.4 * pixel_width[kept, None]
    return points[kept] + noise, (total[kept] / seen[kept, None] + 0.5).astype(np.uint8)


def first_hit(scene: Any, origin: Array, directions: Array) -> Array:
    """The first surface along each direction (N, 3), in multiples of the direction; inf where there is none."""
    import mitsuba as mi

    start = mi.Point3f(*np.broadcast_to(origin, directions.shape).T.astype(np.float32))
    ray = mi.Ray3f(start, mi.Vector3f(*directions.T.astype(np.float32)))
    return np.array(scene.ray_intersect_preliminary(ray).t, dtype=np.float64)


def write_ply(path: Path, points: Array, colours: Array) -> None:
    """A binary PLY of points (N, 3) and 8-bit colours (N, 3)."""
    names = ("x", "y", "z", "red", "green", "blue")
    table = np.empty(len(points), dtype=[(n, "<f4" if i < 3 else "u1") for i, n in enumerate(names)])
    for i, name in enumerate(names):
        table[name] = points[:, i] if i < 3 else colours[:, i - 3]
    lines = [f"property {'float' if i < 3 else 'uchar'} {n}" for i, n in enumerate(names)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *lines, "end_header"]
    path.write_bytes(("\n".join(header) + "\n").encode() + table.tobytes())


def describe(plan: list[Shot], size: int) -> dict[str, Any]:
    """The contents of transforms.json."""
    focal = 0.5 * size / np.tan(np.radians(FIELD_OF_VIEW) / 2)
    held_out = [photo_name(i) for i, shot in enumerate(plan) if shot.held_out]
    return {
        "camera_model": "OPENCV",
        "w": size,
        "h": size,
        "fl_x": focal,
        "fl_y": focal,
        "cx": size / 2,
        "cy": size / 2,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "ply_file_path": "points.ply",
        "train_filenames": [photo_name(i) for i, shot in enumerate(plan) if not shot.held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
        "frames": [
            {"file_path": photo_name(i), "transform_matrix": shot.camera_to_world.tolist()}
            for i, shot in enumerate(plan)
        ],
    }


def photo_name(number: int) -> str:
    """Path of a photo relative to the scene's folder."""
    return f"photos/photo_{number:03d}.jpg"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """JSON with one line an entry, and one line a frame."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items() if key != "frames"]
    frames = ",\n".join(f"    {json.dumps(frame)}" for frame in document["frames"])
    path.write_text("{\n" + ",\n".join(lines) + ',\n  "frames": [\n' + frames + "\n  ]\n}\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tabletop")
    parser.add_argument("--size", type=int, default=320, help="width and height in pixels")
    parser.add_argument("--samples", type=int, default=72, help="paths a pixel")
    parser.add_argument("--points", type=int, default=7000, help="sparse points at most")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--resume", action="store_true", help="keep photos that are already there")
    args = parser.parse_args()

    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    from still_life.room import build

    start = time.perf_counter()
    scene = build(args.seed)
    plan = shots(np.random.default_rng([args.seed, 99]))
    (args.output / "photos").mkdir(parents=True, exist_ok=True)
    for i, shot in enumerate(plan):
        path = args.output / photo_name(i)
        if args.resume and path.is_file():
            continue
        photo = photograph(scene, shot.camera_to_world, args.size, args.samples, i)
        Image.fromarray(photo).save(path, quality=95, subsampling=0, optimize=True)
        print(f"photo {i + 1}/{len(plan)}  {time.perf_counter() - start:.0f} s", flush=True)

    write_json(args.output / "transforms.json", describe(plan, args.size))
    training = [(i, shot.camera_to_world) for i, shot in enumerate(plan) if not shot.held_out]
    photos = np.stack([np.asarray(Image.open(args.output / photo_name(i))) for i, _ in training])
    cameras = np.stack([camera for _, camera in training])
    points, colours = sparse_points(scene, cameras, photos, args.points, np.random.default_rng([args.seed, 100]))
    write_ply(args.output / "points.ply", points, colours)
    print(f"{len(points)} points; {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
