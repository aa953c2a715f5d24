"""LLFF's ``poses_bounds.npy`` (Mildenhall 2019): poses, one size and focal length, and depth bounds a photo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.readers.colmap import lens_camera, read_model_points
from studio.readers.colmap_model import model_file, read_cameras
from studio.readers.mask_files import MaskFolder
from studio.readers.photo_files import camera_for_photo, frame_name, images_folder, list_photos, pose_tensor
from studio.readers.pose_checks import rigid_pose
from studio.readers.registry import ReadOptions
from studio.reading.arrays import read_npy
from studio.reading.files import is_file
from studio.reading.limits import LARGEST_LENGTH, LARGEST_SIDE
from studio.scene import Frame, Scene
from studio.scene.decode import photo_size

_FILE = "poses_bounds.npy"

_DISTORTED = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")

_SAME_FOCAL = 0.005
"""Relative difference of focal lengths that passes as the same lens."""


class LlffReader:
    """One row a photo, in order of the photos' names; sizes are those of the full-resolution photos."""

    name = "llff"

    def detect(self, root: Path) -> str | None:
        return None if is_file(root / _FILE) else f"no {_FILE}"

    def read(self, root: Path, options: ReadOptions) -> Scene:
        path = root / _FILE
        table = _load(path)
        folder = images_folder(root, options.images)
        photos = list_photos(folder)
        if not photos:
            raise StudioError(
                f"{folder}: there are no photos.", fix="Put the photos there, or name their folder with --images."
            )
        if len(photos) != len(table):
            raise StudioError(
                f"{path}: has {len(table)} poses, but {folder} has {len(photos)} photos.",
                fix="Rows and photos must match one to one, in order of name.",
            )
        stated = int(table[0, 9]), int(table[0, 4])
        model = next((p for p in (root / "sparse" / "0", root / "sparse") if model_file(p, "points3D")), None)
        lens, notes = _lens_beside(model, stated, float(table[0, 14]))
        frames = tuple(
            _frame(path, i, row, photo, root, lens) for i, (row, photo) in enumerate(zip(table, photos, strict=True))
        )
        if photo_size(photos[0]) != stated:
            notes.append(
                f"photos of {folder.name} are smaller than the {stated[0]}x{stated[1]} that the poses state: "
                "intrinsics are scaled"
            )
        masks = MaskFolder(root, options.masks)
        frames = tuple(replace(frame, mask_path=masks.find(frame_name(frame.image_path, folder))) for frame in frames)
        notes += masks.notes()
        points = read_model_points(model) if model else None
        bounds = None if points is not None else _frustum_box(frames)
        return Scene(root.name, root, self.name, frames, points, bounds, notes=tuple(notes))


def _load(path: Path) -> npt.NDArray[np.float64]:
    """The (n, 17) table, checked for shape and values."""
    table = read_npy(path, fix="Copy or compute it again.")
    if table.ndim != 2 or table.shape[1] != 17 or table.dtype.kind != "f":
        raise StudioError(
            f"{path}: must have 17 numbers a photo (15 of pose and size, 2 of depth), got {table.shape}.",
            fix="Compute the poses again.",
        )
    if len(table) == 0:
        raise StudioError(f"{path}: lists no photos.", fix="Compute the poses again.")
    with np.errstate(over="ignore"):
        table = table.astype(np.float64)
    bad = ~np.isfinite(table).all(axis=1)
    if bad.any():
        raise StudioError(
            f"{path}: row {int(np.argmax(bad))} has NaN or infinite numbers.", fix="Compute the poses again."
        )
    far = (np.abs(table) > LARGEST_LENGTH).any(axis=1)
    if far.any():
        raise StudioError(
            f"{path}: row {int(np.argmax(far))} has numbers beyond all measure.", fix="Compute the poses again."
        )
    return table


def _frame(
    path: Path, index: int, row: npt.NDArray[np.float64], photo: Path, root: Path, lens: Cameras | None
) -> Frame:
    stated = row[:15].reshape(3, 5)
    height, width, focal = stated[:, 4]
    near, far = float(row[15]), float(row[16])
    if focal <= 0 or not 1 <= width <= LARGEST_SIDE or not 1 <= height <= LARGEST_SIDE:
        raise StudioError(
            f"{path}: row {index} states height {height:g}, width {width:g} and focal length {focal:g}; "
            f"all must be above zero, and sizes at most {LARGEST_SIDE:,}.",
            fix="Correct the last column of the 3x5 matrix.",
        )
    if not 0 < near < far:
        raise StudioError(
            f"{path}: row {index} has depth bounds {near:g} to {far:g}.", fix="They must be above zero and in order."
        )
    # The columns are the camera's down, right and backward axes.
    pose = np.stack([stated[:, 1], stated[:, 0], -stated[:, 2], stated[:, 3]], axis=1)
    camera_to_world = pose_tensor(rigid_pose(pose, f"{path}: row {index}"))
    if lens is not None:
        camera = replace(lens, camera_to_world=camera_to_world)
    else:
        camera = Cameras.make(camera_to_world, width=int(width), height=int(height), fx=float(focal))
    return Frame(
        name=frame_name(photo, root),
        image_path=photo,
        camera=camera_for_photo(camera, photo_size(photo), photo, f"row {index} of {path.name}"),
        split="train",
        depth_range=(near, far),
    )


def _frustum_box(frames: tuple[Frame, ...]) -> torch.Tensor:
    """Box around what the cameras see between their depth bounds."""
    corners = []
    for frame in frames:
        assert frame.depth_range is not None
        width, height = frame.camera.size
        pixels = torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]], dtype=torch.float64)
        for depth in frame.depth_range:
            corners.append(frame.camera.unproject(pixels, torch.full((4,), depth, dtype=torch.float64)))
    points = torch.cat(corners)
    return torch.stack([points.amin(dim=0), points.amax(dim=0)]).float()


def _lens_beside(model: Path | None, stated: tuple[int, int], focal: float) -> tuple[Cameras | None, list[str]]:
    """The distorted lens that COLMAP found for these photos, which the table of poses has no room for, and a note.

    It is only taken where the model has one camera that agrees with the table in size and focal length.
    """
    path = model_file(model, "cameras") if model else None
    if path is None:
        return None, []
    cameras = list(read_cameras(path).values())
    if focal <= 0 or len(cameras) != 1 or cameras[0].model not in _DISTORTED:
        return None, []
    lens = lens_camera(cameras[0], path)
    if lens.distortion is None or lens.size != stated or abs(float(lens.fx) / focal - 1) > _SAME_FOCAL:
        return None, []
    strength = float(lens.distortion.abs().max())
    return lens, [
        f"the lens distortion ({strength:.3g}) is taken from {path.parent.name}/{path.name}; published figures of this "
        "format ignore it, as does --ignore-distortion"
    ]


READER = LlffReader()
