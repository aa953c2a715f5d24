"""Parsers of COLMAP's sparse models: ``cameras``, ``images`` and ``points3D`` as ``.bin`` or ``.txt``.

Layouts are those of COLMAP's documentation ("Output Format"). What a scene does not need (observations, tracks) is
skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from studio.errors import StudioError
from studio.reading.files import is_file, open_regular, read_bytes, show_path


class ModelKind(NamedTuple):
    """A camera model of COLMAP: its name and the number of its parameters."""

    name: str
    parameters: int


MODEL_KINDS: dict[int, ModelKind] = {
    0: ModelKind("SIMPLE_PINHOLE", 3),
    1: ModelKind("PINHOLE", 4),
    2: ModelKind("SIMPLE_RADIAL", 4),
    3: ModelKind("RADIAL", 5),
    4: ModelKind("OPENCV", 8),
    5: ModelKind("OPENCV_FISHEYE", 8),
    6: ModelKind("FULL_OPENCV", 12),
    7: ModelKind("FOV", 5),
    8: ModelKind("SIMPLE_RADIAL_FISHEYE", 4),
    9: ModelKind("RADIAL_FISHEYE", 5),
    10: ModelKind("THIN_PRISM_FISHEYE", 12),
    11: ModelKind("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ModelKind("SIMPLE_DIVISION", 4),
    13: ModelKind("DIVISION", 5),
    14: ModelKind("SIMPLE_FISHEYE", 3),
    15: ModelKind("FISHEYE", 4),
    16: ModelKind("EUCM", 6),
    17: ModelKind("EQUIRECTANGULAR", 2),
}
"""By the identifier in binary files."""

KINDS_BY_NAME = {kind.name: kind for kind in MODEL_KINDS.values()}


@dataclass(frozen=True)
class ColmapCamera:
    """A lens; `params` in the order of COLMAP's model."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """A registered photo; the pose is world_to_camera, in OpenCV axes."""

    id: int
    quaternion: tuple[float, float, float, float]
    """(w, x, y, z)"""
    translation: tuple[float, float, float]
    camera_id: int
    name: str


@dataclass(frozen=True, eq=False)
class ColmapPoints:
    """The sparse points."""

    xyz: npt.NDArray[np.float64]
    """(n, 3)"""
    rgb: npt.NDArray[np.uint8]
    """(n, 3)"""
    error: npt.NDArray[np.float64]
    """(n,) mean reprojection error in pixels"""


def model_file(folder: Path, stem: str) -> Path | None:
    """``stem.bin`` or ``stem.txt`` in the folder, binary first (COLMAP's own preference), or None."""
    return next((p for p in (folder / f"{stem}.bin", folder / f"{stem}.txt") if is_file(p)), None)


def count_images(folder: Path) -> int:
    """Number of registered photos of a model, without parsing it; 0 where the file is missing or unreadable."""
    path = model_file(folder, "images")
    if path is None:
        return 0
    if path.suffix == ".bin":
        with open_regular(path) as file:
            head = file.read(8)
        return struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    return len(_image_lines(path))


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Parse ``cameras.bin`` or ``cameras.txt``; by camera id.

    Raises:
        StudioError: Truncated or malformed; names the byte or line.
    """
    cameras = _read_cameras_bin(path) if path.suffix == ".bin" else _read_cameras_txt(path)
    by_id = {camera.id: camera for camera in cameras}
    if len(by_id) < len(cameras):
        twice = _first_twice([camera.id for camera in cameras])
        raise StudioError(f"{path}: there are two cameras {twice}.", fix="Export the model again.")
    return by_id


def read_images(path: Path) -> list[ColmapImage]:
    """Parse ``images.bin`` or ``images.txt``, sorted by name.

    Raises:
        StudioError: As `read_cameras`.
    """
    images = _read_images_bin(path) if path.suffix == ".bin" else _read_images_txt(path)
    if (twice := _first_twice([image.name for image in images])) is not None:
        raise StudioError(f"{path}: there are two images named {show_path(str(twice))}.", fix="Export the model again.")
    return sorted(images, key=lambda image: image.name)


def read_points(path: Path) -> ColmapPoints:
    """Parse ``points3D.bin`` or ``points3D.txt``.

    Raises:
        StudioError: As `read_cameras`.
    """
    rows = _read_points_bin(path) if path.suffix == ".bin" else _read_points_txt(path)
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    colors = table[:, 3:6]
    if not ((colors >= 0) & (colors <= 255)).all():
        raise StudioError(f"{path}: a point has a colour outside of 0 to 255.", fix="Export the model again.")
    return ColmapPoints(table[:, :3].copy(), table[:, 3:6].astype(np.uint8), table[:, 6].copy())


def _first_twice(values: Sequence[Hashable]) -> Hashable | None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


class _Bytes:
    """A binary file read from front to back, with errors that name the place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_bytes(path)
        self.at = 0

    def take(self, layout: struct.Struct) -> tuple[int | float, ...]:
        end = self.at + layout.size
        if end > len(self.data):
            raise self.ends_early()
        values = layout.unpack_from(self.data, self.at)
        self.at = end
        return values

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise self.ends_early()

    def string(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.ends_early()
        text = self.data[self.at : end].decode("utf-8", errors="surrogateescape")
        self.at = end + 1
        return text

    def ends_early(self) -> StudioError:
        return StudioError(
            f"{self.path}: ends early (at byte {len(self.data)}) or is no COLMAP file.", fix="Copy or export it again."
        )


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_POINT = struct.Struct("<Q3d3BdQ")
_OBSERVATION_BYTES = 24
_TRACK_BYTES = 8


def _read_cameras_bin(path: Path) -> list[ColmapCamera]:
    data = _Bytes(path)
    cameras = []
    for _ in range(int(data.take(_COUNT)[0])):
        camera_id, model_id, width, height = (int(v) for v in data.take(_CAMERA))
        if model_id not in MODEL_KINDS:
            raise StudioError(
                f"{path}: camera {camera_id} has the unknown model number {model_id}.",
                fix="Run 'colmap image_undistorter' and load its output.",
            )
        kind = MODEL_KINDS[model_id]
        params = data.take(struct.Struct(f"<{kind.parameters}d"))
        cameras.append(ColmapCamera(camera_id, kind.name, width, height, params))
    return cameras


def _read_images_bin(path: Path) -> list[ColmapImage]:
    data = _Bytes(path)
    images = []
    for _ in range(int(data.take(_COUNT)[0])):
        image_id, w, x, y, z, tx, ty, tz, camera_id = data.take(_IMAGE)
        name = data.string()
        data.skip(_OBSERVATION_BYTES * int(data.take(_COUNT)[0]))
        images.append(ColmapImage(int(image_id), (w, x, y, z), (tx, ty, tz), int(camera_id), name))
    return images


def _read_points_bin(path: Path) -> list[tuple[float, ...]]:
    data = _Bytes(path)
    rows: list[tuple[float, ...]] = []
    for _ in range(int(data.take(_COUNT)[0])):
        _, x, y, z, r, g, b, error, track = data.take(_POINT)
        data.skip(_TRACK_BYTES * int(track))
        rows.append((x, y, z, r, g, b, error))
    return rows


def _text_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines without comments. Empty ones are kept: a photo without observations has one."""
    # Names of photos are the bytes of their files' names; and a name may hold what splitlines() splits at.
    lines = read_bytes(path).decode("utf-8-sig", errors="surrogateescape").split("\n")
    return [(n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if not line.startswith("#")]


def _malformed(path: Path, number: int, line: str, expected: str) -> StudioError:
    return StudioError(
        f"{path}: line {number} is not '{expected}': {show_path(line.strip()[:80])}", fix="Correct that line."
    )


def _read_cameras_txt(path: Path) -> list[ColmapCamera]:
    cameras = []
    for number, line in _text_lines(path):
        words = line.split()
        if not words:
            continue
        try:
            camera_id, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            params = tuple(float(word) for word in words[4:])
        except (ValueError, IndexError) as error:
            raise _malformed(path, number, line, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS") from error
        kind = KINDS_BY_NAME.get(model)
        if kind is not None and len(params) != kind.parameters:
            raise StudioError(
                f"{path}: line {number}: {model} has {kind.parameters} parameters, got {len(params)}.",
                fix="Correct that line.",
            )
        cameras.append(ColmapCamera(camera_id, model, width, height, params))
    return cameras


def _image_lines(path: Path) -> list[tuple[int, str]]:
    """The lines with poses: every second one, the others hold observations."""
    lines = _text_lines(path)
    # Blank lines before the first photo are layout, later ones stand for "no observations".
    first = next((i for i, (_, line) in enumerate(lines) if line.strip()), len(lines))
    return [(number, line) for number, line in lines[first::2] if line.strip()]


def _read_images_txt(path: Path) -> list[ColmapImage]:
    images = []
    for number, line in _image_lines(path):
        words = line.strip().split(maxsplit=9)
        try:
            image_id, camera_id, name = int(words[0]), int(words[8]), words[9]
            w, x, y, z, tx, ty, tz = (float(word) for word in words[1:8])
        except (ValueError, IndexError) as error:
            raise _malformed(path, number, line, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from error
        images.append(ColmapImage(image_id, (w, x, y, z), (tx, ty, tz), camera_id, name))
    return images


def _read_points_txt(path: Path) -> list[tuple[float, ...]]:
    rows = []
    for number, line in _text_lines(path):
        words = line.split(maxsplit=8)
        if not words:
            continue
        try:
            if len(words) < 8:
                raise ValueError("too few numbers")
            rows.append(tuple(float(word) for word in words[1:8]))
        except ValueError as error:
            raise _malformed(path, number, line, "POINT3D_ID X Y Z R G B ERROR TRACK") from error
    return rows
