"""What nerfstudio's data parsers give, as a scene of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras, Similarity
from studio.cameras.poses import flip_opengl
from studio.errors import StudioError
from studio.readers.photo_files import camera_for_photo, frame_name
from studio.readers.splits import merge_splits
from studio.scene import Frame, PointCloud, Scene, Split
from studio.scene.decode import photo_size
from studio.scene.normalize import transform_scene

_PERSPECTIVE, _FISHEYE = 1, 2
"""Values of nerfstudio's CameraType that have a counterpart here."""


def to_studio_camera(cameras: Any, index: int, source: str) -> Cameras:
    """One of nerfstudio's cameras, float64: OpenGL axes become OpenCV's; both count pixels with centres at .5.

    Args:
        cameras: `nerfstudio.cameras.cameras.Cameras` of batch shape (n,).
        index: Which one.
        source: What the camera belongs to, for messages.

    Raises:
        StudioError: A lens that is not ours.
    """
    kind = int(cameras.camera_type[index])
    if kind not in (_PERSPECTIVE, _FISHEYE):
        raise StudioError(
            f"{source}: its camera is of nerfstudio's type {kind}; perspective and fisheye cameras are understood.",
            fix="Leave such photos out.",
        )
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = cameras.camera_to_worlds[index].detach().cpu().double()
    distortion = None
    if cameras.distortion_params is not None and bool((cameras.distortion_params[index] != 0).any()):
        k1, k2, k3, k4, p1, p2 = cameras.distortion_params[index].detach().cpu().double().flatten().tolist()
        if kind == _FISHEYE:
            distortion = [k1, k2, k3, k4]
        elif k4 == 0:
            distortion = [k1, k2, p1, p2, k3]
        else:
            raise StudioError(
                f"{source}: its lens has a fourth radial coefficient (k4 = {k4:g}), which OpenCV's model has not.",
                fix="Undistort the photos first.",
            )
    numbers = {name: float(getattr(cameras, name)[index]) for name in ("fx", "fy", "cx", "cy")}
    return Cameras.make(
        flip_opengl(pose),
        width=int(cameras.width[index]),
        height=int(cameras.height[index]),
        model="fisheye" if kind == _FISHEYE else "pinhole" if distortion is None else "opencv",
        distortion=distortion,
        **numbers,
    )


def to_scene(outputs: Mapping[Split, Any], root: Path, *, format: str) -> Scene:
    """The photos, cameras and points of a data parser, in the frame that it moved them to.

    Args:
        outputs: Split -> `nerfstudio.data.dataparsers.base_dataparser.DataparserOutputs`.
        root: The folder of the scene.
        format: Name of the reader.

    Returns:
        `Scene.scene_from_input` says how the parser moved the scene.

    Raises:
        StudioError: Photos that are missing, of another size than their cameras, or of foreign lenses.
    """
    frames = [frame for split, parsed in outputs.items() for frame in _frames(parsed, split, root)]
    merged, notes = merge_splits(frames)
    first = next(iter(outputs.values()))
    return Scene(
        name=root.resolve().name,
        root=root,
        format=format,
        frames=merged,
        points=_points(first.metadata),
        scene_from_input=_moved(first),
        notes=tuple(notes),
    )


def undo_parser(scene: Scene) -> Scene:
    """The scene in the frame of its files, before the data parser moved it."""
    back = transform_scene(scene, Similarity.from_matrix(scene.input_from_scene))
    # Exactly, without the rounding of a product with its own inverse.
    back.scene_from_input.copy_(torch.eye(4, dtype=torch.float64))
    return back


def _frames(parsed: Any, split: Split, root: Path) -> list[Frame]:
    found = []
    masks = parsed.mask_filenames or [None] * len(parsed.image_filenames)
    for index, (path, mask) in enumerate(zip(parsed.image_filenames, masks, strict=True)):
        photo = Path(path)
        camera = to_studio_camera(parsed.cameras, index, str(photo))
        found.append(
            Frame(
                name=frame_name(photo, root),
                image_path=photo,
                camera=camera_for_photo(camera, photo_size(photo), photo, "nerfstudio's data parser"),
                split=split,
                mask_path=None if mask is None else Path(mask),
            )
        )
    return found


def _points(metadata: Mapping[str, Any]) -> PointCloud | None:
    if metadata.get("points3D_xyz") is None:
        return None
    xyz = metadata["points3D_xyz"].double()
    rgb = metadata.get("points3D_rgb")
    return PointCloud(xyz, torch.full_like(xyz, 0.5).float() if rgb is None else rgb.float() / 255)


def _moved(parsed: Any) -> Float[Tensor, "4 4"]:
    """What the parser did to positions: a rigid motion, then a scale."""
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3] = float(parsed.dataparser_scale) * parsed.dataparser_transform.double()
    return moved
