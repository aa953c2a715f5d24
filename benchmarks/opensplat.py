"""Milliseconds of a training iteration of OpenSplat (github.com/pierotofy/OpenSplat), where its binary is given.

It trains from the same photos at the same size, and begins with as many Gaussians, at the places of our trained ones:
its initial points. It is timed before its first refinement, and two runs of different length are subtracted, so that
reading and start-up do not count. Its colours are then of degree 0, which is less work than ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from gaussian_scenes import Parameters
from PIL import Image

from studio.errors import StudioError
from studio.export.gaussians import SH_C0
from studio.export.pointcloud import write_point_cloud
from studio.scene import PhotoStore

_FIRST_REFINEMENT = 500
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_project(folder: Path, photos: PhotoStore, parameters: Parameters) -> None:
    """The photos on white, their cameras and the Gaussians' centres, as OpenSplat reads them (a Nerfstudio project)."""
    frames = []
    for i in range(len(photos)):
        photo = photos.get(i)
        pixels = photo.composited((1.0, 1.0, 1.0)).numpy()
        name = f"{i:04d}.png"
        Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)).save(folder / name)
        camera = photo.camera
        width, height = camera.size
        frames.append(
            {
                "file_path": name,
                "w": width,
                "h": height,
                "fl_x": float(camera.fx),
                "fl_y": float(camera.fy),
                "cx": float(camera.cx),
                "cy": float(camera.cy),
                "transform_matrix": (camera.camera_to_world.double().numpy() @ _OPENGL).tolist(),
            }
        )
    write_point_cloud(folder / "points.ply", parameters["means"], 0.5 + SH_C0 * parameters["sh0"][:, 0])
    project = {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(project), encoding="utf-8")


def milliseconds_an_iteration(
    binary: Path, photos: PhotoStore, parameters: Parameters, *, iterations: int, threads: int
) -> float:
    """Wall time of one iteration, the mean of `iterations`.

    Raises:
        StudioError: The binary is not there or fails.
        ValueError: So many iterations would reach its first refinement.
    """
    if not binary.is_file():
        raise StudioError(f"{binary}: there is no such file.", fix="Give --opensplat the path of OpenSplat's binary.")
    if not 1 <= iterations < _FIRST_REFINEMENT - 2:
        raise ValueError(f"iterations must be 1 to {_FIRST_REFINEMENT - 3}, got {iterations}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, photos, parameters)
        seconds = [_run(binary, folder, count, threads) for count in (2, 2 + iterations)]
    return 1e3 * (seconds[1] - seconds[0]) / iterations


def _run(binary: Path, folder: Path, iterations: int, threads: int) -> float:
    command = [str(binary.resolve()), str(folder), "-n", str(iterations), "-d", "1", "--num-downscales", "0"]
    command += ["--warmup-length", str(_FIRST_REFINEMENT), "--sh-degree", "3", "-o", str(folder / "out.ply")]
    # No GPU: this is a comparison of CPUs.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise StudioError(
            f"{binary}: stopped with code {done.returncode}: {said[-1] if said else 'it said nothing'}",
            fix=f"Try it by hand: {' '.join(command)}",
        )
    return time.perf_counter() - started
