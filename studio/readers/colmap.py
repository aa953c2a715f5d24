"""COLMAP sparse models with their photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from studio.cameras import CameraModel, Cameras
from studio.cameras.poses import quaternion_to_matrix
from studio.errors import StudioError
from studio.readers.colmap_model import (
    KINDS_BY_NAME,
    ColmapCamera,
    ColmapImage,
    ColmapPoints,
    count_images,
    model_file,
    read_cameras,
    read_images,
    read_points,
)
from studio.readers.mask_files import MaskFolder
from studio.readers.photo_files import (
    camera_for_photo,
    existing_photo,
    frame_name,
    images_folder,
    pose_tensor,
)
from studio.readers.photo_names import PhotoIndex, find_photos
from studio.readers.point_files import read_ply
from studio.readers.pose_checks import rigid_pose
from studio.readers.registry import ReadOptions
from studio.readers.splits import absent_note
from studio.reading.files import is_file, is_folder, list_folder
from studio.reading.limits import LARGEST_LENGTH, LARGEST_SIDE
from studio.scene import Frame, PointCloud, Scene
from studio.scene.decode import photo_size

_PLACES = ("sparse", "colmap/sparse", "dense/sparse", ".")
"""Where models are looked for, each with its numbered submodels, before all other direct subfolders."""

_Intrinsics = tuple[CameraModel, float, float, float, float, tuple[float, ...]]

_LENSES: dict[str, Callable[..., _Intrinsics]] = {
    "SIMPLE_PINHOLE": lambda f, cx, cy: ("pinhole", f, f, cx, cy, ()),
    "PINHOLE": lambda fx, fy, cx, cy: ("pinhole", fx, fy, cx, cy, ()),
    "SIMPLE_RADIAL": lambda f, cx, cy, k: ("opencv", f, f, cx, cy, (k,)),
    "RADIAL": lambda f, cx, cy, k1, k2: ("opencv", f, f, cx, cy, (k1, k2)),
    "OPENCV": lambda fx, fy, cx, cy, *k: ("opencv", fx, fy, cx, cy, k),
    "FULL_OPENCV": lambda fx, fy, cx, cy, *k: ("opencv", fx, fy, cx, cy, k),
    "SIMPLE_FISHEYE": lambda f, cx, cy: ("fisheye", f, f, cx, cy, ()),
    "FISHEYE": lambda fx, fy, cx, cy: ("fisheye", fx, fy, cx, cy, ()),
    "SIMPLE_RADIAL_FISHEYE": lambda f, cx, cy, k: ("fisheye", f, f, cx, cy, (k,)),
    "RADIAL_FISHEYE": lambda f, cx, cy, k1, k2: ("fisheye", f, f, cx, cy, (k1, k2)),
    "OPENCV_FISHEYE": lambda fx, fy, cx, cy, *k: ("fisheye", fx, fy, cx, cy, k),
    "EQUIRECTANGULAR": lambda w, h: ("equirectangular", w / 2, h, w / 2, h / 2, ()),
}
"""COLMAP's parameters -> our intrinsics. Both count pixels with centres at .5 and order coefficients like OpenCV."""


class ColmapReader:
    """A model in ``sparse/0`` (or elsewhere) and photos in ``images`` (or ``images_N``)."""

    name = "colmap"

    def detect(self, root: Path) -> str | None:
        if any(_is_complete(folder) for folder in _candidates(root)):
            return None
        partial = [p for p in _candidates(root) if model_file(p, "cameras") or model_file(p, "images")]
        if partial:
            lacks = "images" if model_file(partial[0], "images") is None else "cameras"
            place = _relative(partial[0], root)
            return f"{place} is a COLMAP model without {lacks}.bin or {lacks}.txt"
        return "no cameras.bin/images.bin or cameras.txt/images.txt in sparse/0, sparse or a subfolder"

    def read(self, root: Path, options: ReadOptions) -> Scene:
        folder, notes = _choose_model(root, options.model)
        camera_path, image_path = model_file(folder, "cameras"), model_file(folder, "images")
        assert camera_path is not None
        assert image_path is not None
        images = read_images(image_path)
        if not images:
            raise StudioError(f"{image_path}: the model has no registered photos.", fix="Run COLMAP's mapper again.")
        lenses = {i: lens_camera(camera, camera_path) for i, camera in read_cameras(camera_path).items()}
        photos = _photos_folder(root, options.images, images[0].name)
        if photos != root / "images" and options.images is None:
            notes.append(f"photos are read from {photos.name}, as there is no folder images")
        masks = MaskFolder(root, options.masks)
        found, name_notes = find_photos(
            [image.name for image in images],
            lambda name: existing_photo(photos / name, other_endings=True) if _stays_below(name) else None,
            PhotoIndex(root, photos),
        )
        notes += name_notes

        frames: list[Frame] = []
        missing: list[str] = []
        for image in images:
            place = f"{image_path}: image {image.id} ({image.name})"
            if image.camera_id not in lenses:
                raise StudioError(
                    f"{place}: there is no camera {image.camera_id} in {camera_path.name}.",
                    fix="Export the model again.",
                )
            pose = _pose(image, place)
            photo = found.get(image.name)
            if photo is None:
                missing.append(image.name)
                continue
            camera = replace(lenses[image.camera_id], camera_to_world=pose)
            frames.append(
                Frame(
                    name=frame_name(photo, root),
                    image_path=photo,
                    camera=camera_for_photo(camera, photo_size(photo), photo, f"{camera_path.name}"),
                    split="train",
                    mask_path=masks.find(frame_name(photo, photos)),
                )
            )
        if not frames:
            raise StudioError(
                f"{photos}: holds none of the {len(images)} photos of the model {folder} (first: {missing[0]}).",
                fix="Name the folder of the photos with --images.",
            )
        notes += absent_note(image_path.name, missing, len(images))
        notes += masks.notes()
        return Scene(root.name, root, self.name, tuple(frames), read_model_points(folder), notes=tuple(notes))


def read_model_points(folder: Path) -> PointCloud | None:
    """The points of a COLMAP model as a point cloud; None where there are none."""
    path = model_file(folder, "points3D")
    if path is None:
        # 3DGS's own programs and others keep the points in this form.
        return read_ply(folder / "points3D.ply") if is_file(folder / "points3D.ply") else None
    points: ColmapPoints = read_points(path)
    finite = (np.abs(points.xyz) <= LARGEST_LENGTH).all(axis=1)
    if not finite.any():
        return None
    return PointCloud(
        torch.from_numpy(points.xyz[finite]), torch.from_numpy(points.rgb[finite].astype(np.float32) / 255)
    )


def _is_complete(folder: Path) -> bool:
    return model_file(folder, "cameras") is not None and model_file(folder, "images") is not None


def _candidates(root: Path) -> list[Path]:
    """Folders that may hold a model, best place first."""
    found: list[Path] = []
    subfolders = [p for p in list_folder(root) if is_folder(p)] if is_folder(root) else []
    for place in [*(root / name for name in _PLACES), *subfolders]:
        if is_folder(place):
            numbered = sorted(
                (p for p in list_folder(place) if p.name.isdecimal() and is_folder(p)), key=lambda p: int(p.name)
            )
            found += [p for p in [*numbered, place] if p not in found]
    return found


def _choose_model(root: Path, wanted: str | None) -> tuple[Path, list[str]]:
    if wanted is not None:
        folder = root / wanted
        if not _is_complete(folder):
            raise StudioError(
                f"{folder}: not a COLMAP model with cameras and images (.bin or .txt).",
                fix="Name its folder with --colmap-model, such as sparse/0.",
            )
        return folder, []
    complete = [p for p in _candidates(root) if _is_complete(p)]
    if not complete:
        raise StudioError(
            f"{root}: no COLMAP model with cameras and images (.bin or .txt) in sparse/0, sparse or a subfolder.",
            fix="Name its folder with --colmap-model.",
        )
    siblings = [
        p for p in complete if p.parent == complete[0].parent and p.name.isdecimal() == complete[0].name.isdecimal()
    ]
    counts = [count_images(p) for p in siblings]
    best = siblings[counts.index(max(counts))]
    if len(siblings) == 1:
        return best, []
    listed = ", ".join(f"{_relative(p, root)} ({n})" for p, n in zip(siblings, counts, strict=True))
    return best, [f"{len(siblings)} submodels with photos: {listed}; the largest, {_relative(best, root)}, is used"]


def _relative(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix()


def lens_camera(camera: ColmapCamera, source: Path) -> Cameras:
    """A camera of the model with the identity pose, at its stated size.

    Raises:
        StudioError: A model that cannot be rendered, or parameters that make no camera.
    """
    place = f"{source}: camera {camera.id} ({camera.model})"
    if camera.model not in _LENSES:
        raise StudioError(
            f"{place}: this lens cannot be rendered.", fix="Run 'colmap image_undistorter' and load its output folder."
        )
    if not all(np.isfinite(camera.params)):
        raise StudioError(f"{place}: has a parameter that is NaN or infinite.", fix="Calibrate the camera again.")
    if max(map(abs, camera.params), default=0.0) > LARGEST_LENGTH:
        raise StudioError(f"{place}: has a parameter beyond all measure.", fix="Calibrate the camera again.")
    kind = KINDS_BY_NAME[camera.model]
    if len(camera.params) != kind.parameters:
        raise StudioError(
            f"{place}: has {len(camera.params)} parameters instead of {kind.parameters}.", fix="Correct it."
        )
    model, fx, fy, cx, cy, distortion = _LENSES[camera.model](*camera.params)
    if fx <= 0 or fy <= 0:
        raise StudioError(
            f"{place}: the focal length {min(fx, fy):g} must be above zero.", fix="Calibrate the camera again."
        )
    if not 1 <= camera.width <= LARGEST_SIDE or not 1 <= camera.height <= LARGEST_SIDE:
        raise StudioError(
            f"{place}: the size {camera.width}x{camera.height} must be 1 to {LARGEST_SIDE:,} pixels a side.",
            fix="Correct it.",
        )
    if model == "opencv" and not any(distortion):
        model = "pinhole"
    identity = torch.eye(4, dtype=torch.float64)
    return Cameras.make(
        identity,
        width=camera.width,
        height=camera.height,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        model=model,
        distortion=distortion if any(distortion) else None,
    )


def _pose(image: ColmapImage, place: str) -> torch.Tensor:
    """camera_to_world of an image."""
    plain = all(abs(part) <= 2 for part in image.quaternion)
    length = float(np.linalg.norm(image.quaternion) if plain else np.abs(image.quaternion).max())
    if not abs(length - 1) < 1e-2:  # also where it is no number
        raise StudioError(
            f"{place}: its quaternion has length {length:g}, so it is not a rotation.", fix="Export the model again."
        )
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = quaternion_to_matrix(torch.tensor(image.quaternion, dtype=torch.float64)).numpy()
    world_to_camera[:3, 3] = image.translation
    return torch.linalg.inv(pose_tensor(rigid_pose(world_to_camera, place)))


def _photos_folder(root: Path, wanted: str | None, first: str) -> Path:
    """As `images_folder`; or the scene folder, where the photos' names are relative to that."""
    try:
        return images_folder(root, wanted)
    except StudioError:
        if wanted is None and existing_photo(root / first) is not None:
            return root
        raise


def _stays_below(name: str) -> bool:
    """Whether a name is one below a folder: joined to a folder, ``/00.png`` would lead to the root of the disk."""
    return not Path(name).is_absolute()


READER = ColmapReader()
