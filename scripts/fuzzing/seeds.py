"""One sound, small file or folder for each reader, which the mutations start from."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = dict[str, bytes]
"""Names in a folder, and what the files hold."""

_RNG = np.random.default_rng(0)


def png(width: int = 16, height: int = 12, mode: str = "RGB") -> bytes:
    return picture("PNG", width, height, mode)


def picture(format: str, width: int = 16, height: int = 12, mode: str = "RGB", **options: Any) -> bytes:
    pixels = _RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format, **options)
    return out.getvalue()


def pictures() -> Files:
    grey16 = io.BytesIO()
    Image.fromarray(_RNG.integers(0, 65536, (9, 7)).astype(np.uint16)).save(grey16, "PNG")
    wide = io.BytesIO()
    Image.fromarray(_RNG.random((9, 7), dtype=np.float32)).save(wide, "TIFF")
    whole = io.BytesIO()
    Image.fromarray(_RNG.integers(0, 9, (9, 7)).astype(np.int32)).save(whole, "TIFF")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.png": png(), "alpha.png": png(mode="RGBA"), "palette.png": png(mode="P"), "bits.png": png(mode="1"),
        "wide.png": grey16.getvalue(), "a.jpg": picture("JPEG", exif=exif), "cmyk.jpg": picture("JPEG", mode="CMYK"),
        "slow.jpg": picture("JPEG", progressive=True), "a.webp": picture("WEBP"),
        "exact.webp": picture("WEBP", lossless=True), "a.tif": picture("TIFF", compression="tiff_lzw"),
        "float.tif": wide.getvalue(), "int.tif": whole.getvalue(), "a.bmp": picture("BMP"), "a.gif": picture("GIF"),
        "a.ppm": picture("PPM"), "g.pgm": picture("PPM", mode="L"),
        "packed.tif": picture("TIFF", compression="tiff_adobe_deflate"),
    }  # fmt: skip


def _poses(count: int = 3) -> list[list[list[float]]]:
    poses = []
    for i in range(count):
        pose = np.eye(4)
        pose[:3, 3] = (0.5 * i, 0.1 * i, 3.0)
        poses.append(pose.tolist())
    return poses


def transforms() -> Files:
    frames: list[dict[str, Any]] = [
        {"file_path": f"images/{i}.png", "transform_matrix": pose} for i, pose in enumerate(_poses())
    ]
    document = {
        "camera_model": "OPENCV", "fl_x": 20.0, "fl_y": 20.5, "cx": 8, "cy": 6, "w": 16, "h": 12, "k1": 0.01, "p1": 0.0,
        "aabb_scale": 4, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "ply_file_path": "points.ply", "frames": frames,
        "train_filenames": ["images/0.png", "images/1.png"], "test_filenames": ["images/2.png"],
    }  # fmt: skip
    frames[0] |= {"mask_path": "mask.png", "fl_x": 21.0}
    photos = {f"images/{i}.png": png() for i in range(3)}
    return {"transforms.json": json.dumps(document).encode(), "points.ply": point_ply(), "mask.png": png(), **photos}


def blender() -> Files:
    files: Files = {}
    for split in ("train", "test"):
        frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": pose} for i, pose in enumerate(_poses())]
        files[f"transforms_{split}.json"] = json.dumps({"camera_angle_x": 0.69, "frames": frames}).encode()
        files |= {f"{split}/r_{i}.png": png(mode="RGBA") for i in range(3)}
    return files


def colmap_text() -> Files:
    images = "".join(f"{i + 1} 1 0 0 0 {i}.5 0 2 1 {i}.png\n1.0 2.0 1\n" for i in range(3))
    points = "".join(f"{i} {i}.5 1 2 255 128 0 0.5 1 0 2 1\n" for i in range(4))
    return {
        "sparse/0/cameras.txt": b"# cameras\n1 OPENCV 16 12 20 20 8 6 0.01 0 0 0\n",
        "sparse/0/images.txt": b"# images\n" + images.encode(),
        "sparse/0/points3D.txt": points.encode(),
        **{f"images/{i}.png": png() for i in range(3)},
    }


def colmap_binary() -> Files:
    images = struct.pack("<Q", 3)
    for i in range(3):
        images += struct.pack("<I7dI", i + 1, 1, 0, 0, 0, 0.5 * i, 0, 2, 1) + f"{i}.png".encode() + b"\0"
        images += struct.pack("<Q", 1) + struct.pack("<ddQ", 1.0, 2.0, 1)
    points = struct.pack("<Q", 4)
    for i in range(4):
        points += struct.pack("<Q3d3BdQ", i, i, 1, 2, 255, 128, 0, 0.5, 1) + struct.pack("<II", 1, 0)
    lens = (20, 20, 8, 6, 0.01, 0, 0, 0)
    cameras = struct.pack("<Q", 1) + struct.pack("<IiQQ", 1, 4, 16, 12) + struct.pack("<8d", *lens)
    return {
        "sparse/0/cameras.bin": cameras,
        "sparse/0/images.bin": images,
        "sparse/0/points3D.bin": points,
        **{f"images/{i}.png": png() for i in range(3)},
    }


def llff() -> Files:
    rows = []
    for i in range(3):
        pose = np.stack([[0.0, 1, 0], [1, 0, 0], [0, 0, -1], [0.5 * i, 0, 3]], axis=1)
        rows.append(np.concatenate([np.concatenate([pose, [[12.0], [16], [20]]], axis=1).ravel(), [1.0, 9.0]]))
    return {"poses_bounds.npy": npy(np.array(rows)), **{f"images/{i}.png": png() for i in range(3)}}


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def camera_path() -> Files:
    pose = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1]
    key = {"matrix": pose, "fov": 50, "override_transition_enabled": True, "override_transition_sec": 1.0}
    document = {
        "camera_type": "perspective", "render_height": 20, "render_width": 30, "fps": 24, "seconds": 0.1,
        "is_cycle": False, "default_transition_sec": 2.0, "keyframes": [{**key, "easing": "none"}, key],
        "camera_path": [{"camera_to_world": pose, "fov": 50, "fl_x": 20.0, "cx": 15}] * 2,
    }  # fmt: skip
    return {"path.json": json.dumps(document).encode()}


def scene_record() -> Files:
    from studio.readers import load_scene
    from studio.scene.record import save_scene

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), transforms())
        save_scene(load_scene(folder), Path(folder) / "scene.json")
        return {"scene.json": (Path(folder) / "scene.json").read_bytes()}


def run() -> Files:
    config = (
        "plugin: diffusion\npreset: null\nconfig:\n  steps: 10\n  lr: 0.001\n  name: x\n  sizes: [1, 2]\ndata:\n"
        "  path: toy:moons\n  downscale: 1.0\n  reader: {}\ninfo: {sample_shape: [2]}\nkind: generator\nseed: 0\n"
        "device: auto\nbudget_seconds: null\n"
    )
    rows = "".join(json.dumps({"step": i, "seconds": 0.5 * i, "loss": 1 / (i + 1)}) + "\n" for i in range(5))
    figures = {"kind": "generator", "data": "moons", "figures": {"mmd": 0.1, "seconds": 1.0}, "protocol": {"n": 9}}
    return {
        "r/config.yaml": config.encode(),
        "r/metrics.jsonl": rows.encode(),
        "r/eval.json": json.dumps(figures).encode(),
        "r/environment.json": json.dumps({"started": "2026-01-01T00:00:00+0000", "packages": {"torch": "2"}}).encode(),
        "r/checkpoints/.keep": b"",
    }


def arrays() -> Files:
    x, y = _RNG.normal(size=(20, 3)).astype(np.float32), np.arange(20) % 3
    members: dict[str, Any] = {
        "x": x, "y": y, "x_test": x[:5], "y_test": y[:5],
        "captions": np.array([f"caption {i}" for i in range(20)]), "captions_test": np.array(["a"] * 5),
    }  # fmt: skip
    packed, plain, pixels = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **members)
    np.savez(plain, x=x, y=y)
    np.savez(pixels, x=_RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    return {"packed.npz": packed.getvalue(), "plain.npz": plain.getvalue(), "pixels.npz": pixels.getvalue()}


def idx() -> Files:
    images = b"\0\0\x08\x03" + struct.pack(">III", 12, 4, 4) + _RNG.integers(0, 256, 192, dtype=np.uint8).tobytes()
    labels = b"\0\0\x08\x01" + struct.pack(">I", 12) + bytes(i % 3 for i in range(12))
    return {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels}


def packed_idx() -> Files:
    return {f"{name}.gz": gzip.compress(data) for name, data in idx().items()}


def text() -> Files:
    story = "Once upon a time there was a fox 🦊.\n\nIt ran.\r\n" * 30
    return {"story.txt": story.encode(), "lines.txt": "".join(f"line {i}\n" for i in range(40)).encode()}


def packed_text() -> Files:
    return {f"{name}.gz": gzip.compress(data) for name, data in text().items()}


def picture_folder() -> Files:
    rows = "".join(json.dumps({"file_name": f"n{i}.png", "text": f"caption\u2028 {i}"}) + "\n" for i in range(5))
    table = "file_name,text\n" + "".join(f'n{i}.png,"a, quoted {i}"\n' for i in range(5))
    names = {f"n{i}.png": png(8, 8) for i in range(5)}
    return {
        **{f"train/{name}": data for name, data in names.items()},
        **{f"test/{name}": data for name, data in names.items()},
        "train/metadata.jsonl": rows.encode(), "test/metadata.csv": table.encode(), "train/n0.txt": b"x",
    }  # fmt: skip


def picture_zip() -> Files:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in picture_folder().items():
            archive.writestr(name, data)
    return {"pictures.zip": out.getvalue()}


def _cloud(degree: int = 1, count: int = 300) -> Any:
    import torch

    from studio.export.gaussians import GaussianCloud

    g = torch.Generator().manual_seed(0)
    return GaussianCloud(
        means=torch.randn(count, 3, generator=g),
        quats=torch.randn(count, 4, generator=g),
        log_scales=torch.randn(count, 3, generator=g) - 4,
        logit_opacities=torch.randn(count, generator=g),
        sh=0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


def _written(name: str, write_file: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_file(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def splats() -> Files:
    from studio.export.splat_formats import write_gaussians
    from studio.export.spz import write_spz

    cloud = _cloud(count=40)
    files = {
        f"a.{ending}": _written(f"a.{ending}", lambda path, f=format: write_gaussians(path, cloud, f))  # type: ignore[misc]
        for ending, format in (("ply", "ply"), ("splat", "splat"), ("spz", "spz"))
    }
    files["packed.ply"] = _written("p.ply", lambda path: write_gaussians(path, cloud, "compressed-ply"))
    for version in (2, 4):
        files[f"v{version}.spz"] = _written("a.spz", lambda path, v=version: write_spz(path, cloud, version=v))  # type: ignore[misc]
    names = "f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()  # noqa: SIM905
    header = ["ply", "format ascii 1.0", "element vertex 4", *(f"property float {n}" for n in ("x", "y", "z", *names))]
    row = " ".join(f"{0.1 * i:.2f}" for i in range(14))
    files["text.ply"] = "\n".join([*header, "end_header", *[row] * 4, ""]).encode()
    return files


def sog() -> Files:
    count, side = 30, 6
    names = ("means_l", "means_u", "quats", "scales", "sh0", "labels")
    files = {f"{name}.webp": picture("WEBP", side, side, "RGBA", lossless=True) for name in names}
    quats = _RNG.integers(0, 256, (side, side, 4), dtype=np.uint8)
    quats[..., 3] = 252 + quats[..., 3] % 4
    out = io.BytesIO()
    Image.fromarray(quats).save(out, "WEBP", lossless=True, exact=True)
    files["quats.webp"] = out.getvalue()
    files["centroids.webp"] = picture("WEBP", 64 * 3, 4, "RGBA", lossless=True)
    labels = np.zeros((side, side, 4), np.uint8)
    labels[..., 3] = 255
    out = io.BytesIO()
    Image.fromarray(labels).save(out, "WEBP", lossless=True, exact=True)
    files["labels.webp"] = out.getvalue()
    book = [i / 100 for i in range(256)]
    meta = {
        "version": 2, "count": count,
        "means": {"mins": [-1, -1, -1], "maxs": [1, 1, 1], "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": book, "files": ["scales.webp"]}, "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
        "shN": {"count": 10, "bands": 1, "codebook": book, "files": ["centroids.webp", "labels.webp"]},
    }  # fmt: skip
    return {"meta.json": json.dumps(meta).encode(), **files}


def packed_sog() -> Files:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in sog().items():
            archive.writestr(name, data)
    return {"scene.sog": out.getvalue()}


def point_ply() -> bytes:
    header = "ply\nformat binary_little_endian 1.0\ncomment x\nelement face 1\nproperty list uchar int vertex_indices\n"
    header += "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    body = struct.pack("<Biii", 3, 0, 1, 2) + b"".join(struct.pack("<fffBBB", i, 1, 2, 9, 8, 7) for i in range(4))
    return header.encode() + body


def checkpoint() -> Files:
    import torch

    from studio.training.checkpoint import save_state

    state = {"step": 3, "model": {"w": torch.ones(3, 2), "b": torch.zeros(2)}, "x": [1, 2.5, "a", None, float("nan")]}
    return {"step.safetensors": _written("a.safetensors", lambda path: save_state(path, state))}


def write(folder: Path, files: Files) -> None:
    """Write the files into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
