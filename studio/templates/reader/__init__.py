"""A reader of posed photos from one table: poses.csv beside the photos.

Each line describes a photo: ``file,focal,x,y,z,qw,qx,qy,qz``. The focal length is in pixels, the position that of the
camera, and the quaternion turns the camera's axes (+x right, +y up, looking along -z, as in OpenGL) into the world's.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from PIL import Image

from studio.cameras import Cameras, flip_opengl
from studio.cameras.poses import make_pose, quaternion_to_matrix
from studio.errors import StudioError
from studio.readers import ReadOptions
from studio.scene import Frame, Scene

__all__ = ["READER", "TemplateReader"]

FILE = "poses.csv"
COLUMNS = ("file", "focal", "x", "y", "z", "qw", "qx", "qy", "qz")


class TemplateReader:
    """Reads folders that hold a poses.csv."""

    name = "template"

    def detect(self, root: Path) -> str | None:
        """None for a folder of this format, else what it lacks."""
        return None if (root / FILE).is_file() else f"no {FILE}"

    def read(self, root: Path, options: ReadOptions) -> Scene:
        """The scene, in the file's own frame.

        Raises:
            StudioError: The table or a photo is missing, or a line is damaged; the line is named.
        """
        path = root / FILE
        if not path.is_file():
            raise StudioError(f"{path}: there is no such file.", fix="Name the folder that holds it.")
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise StudioError(f"{path}: there is no column '{missing[0]}'.", fix=f"Columns: {', '.join(COLUMNS)}.")
            frames = tuple(_frame(root, options, row, f"{path}: line {table.line_num}") for row in table)
        return Scene(root.name, root, self.name, frames)


def _frame(root: Path, options: ReadOptions, row: dict[str, str], where: str) -> Frame:
    image = root / (options.images or ".") / row["file"]
    if not image.resolve().is_relative_to(root.resolve()) or not image.is_file():
        raise StudioError(f"{where}: there is no photo {image}.", fix="Put it there, or delete the line.")
    try:
        focal, *pose = (float(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError) as error:
        raise StudioError(f"{where}: {error}.", fix="All columns but the first hold numbers.") from error
    if not all(map(math.isfinite, (focal, *pose))) or focal <= 0 or not any(pose[3:]):
        raise StudioError(f"{where}: a focal length, position or quaternion that cannot be.", fix="Correct the line.")
    with Image.open(image) as picture:
        width, height = picture.size
    position, quaternion = torch.tensor(pose[:3], dtype=torch.float64), torch.tensor(pose[3:], dtype=torch.float64)
    rotation = quaternion_to_matrix(quaternion / quaternion.norm())
    # Past a reader all cameras are OpenCV's: +y down, +z forward.
    camera_to_world = flip_opengl(make_pose(rotation, position))
    camera = Cameras.make(camera_to_world, width=width, height=height, fx=focal)
    return Frame(row["file"], image, camera, "train")


READER = TemplateReader()
