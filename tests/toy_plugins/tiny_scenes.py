"""Small scenes for tests, written from formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image


def write_ring_scene(folder: Path, photos: int = 10, width: int = 24, height: int = 16, alpha: bool = False) -> Path:
    """Photos from a ring of radius 2 looking inwards at a sphere-like blob; nerfstudio's transforms.json."""
    folder.mkdir(parents=True)
    frames = []
    rows, columns = np.mgrid[0:height, 0:width]
    for i in range(photos):
        angle = 2 * math.pi * i / photos
        # OpenGL camera: x right, y up, z backwards; at the ring, looking at the origin, world up +z.
        back = np.array([math.cos(angle), math.sin(angle), 0.0])
        right = np.array([-math.sin(angle), math.cos(angle), 0.0])
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, (0, 0, 1), back, 2 * back
        disc = ((columns + 0.5 - width / 2) ** 2 + (rows + 0.5 - height / 2) ** 2) < (height / 3) ** 2
        image = np.zeros((height, width, 4 if alpha else 3), np.uint8)
        image[..., 0] = np.where(disc, 127 + 120 * math.cos(angle), 255 * columns / width)
        image[..., 1] = np.where(disc, 127 + 120 * math.sin(angle), 255 * rows / height)
        image[..., 2] = np.where(disc, 220, 60)
        if alpha:
            image[..., 3] = np.where(disc, 255, 0)
        Image.fromarray(image).save(folder / f"photo_{i:02d}.png")
        frames.append({"file_path": f"photo_{i:02d}.png", "transform_matrix": pose.tolist()})
    document = {
        "fl_x": 1.2 * width, "fl_y": 1.2 * width, "cx": width / 2, "cy": height / 2,
        "w": width, "h": height, "frames": frames,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder
