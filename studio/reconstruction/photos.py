"""The photos that go in: found, checked whole, brought upright, and told apart by the camera that took them."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from studio.errors import StudioError
from studio.readers.photo_files import list_photos
from studio.scene.decode import PHOTO_SUFFIXES, decode_photo

MINIMUM = 3
"""Two photos make a model that nothing checks."""

_ORIENTATION, _MAKE, _MODEL, _EXIF = 0x0112, 0x010F, 0x0110, 0x8769
_FOCAL, _FOCAL_35, _LENS = 0x920A, 0xA405, 0xA434
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the stored pixels upright."""
_FEW_COLORS = ("RGB", "L")


@dataclass(frozen=True)
class Lens:
    """What tells one camera from another: photos that agree in all of it share their intrinsics."""

    width: int
    """Pixels of the upright photo, as the height."""
    height: int
    camera: str
    """Make, model and lens by EXIF; empty where the file does not tell."""
    focal: tuple[float, float]
    """Focal length, and that of equivalent 35 mm film, in millimetres; 0 where the file does not tell."""

    def __str__(self) -> str:
        named = f" by {self.camera}" if self.camera else ""
        length = f" at {self.focal[0]:g} mm" if self.focal[0] else ""
        return f"{self.width}x{self.height}{named}{length}"


@dataclass(frozen=True)
class SourcePhoto:
    """One photo to find the pose of."""

    name: str
    """File name, which the photo has in the scene too."""
    path: Path
    """The file as given."""
    lens: Lens
    stands_in: Path
    """What features are found in: the file itself, or an upright opaque copy of it."""
    has_alpha: bool = False


def find_photos(folder: Path) -> list[Path]:
    """The photos directly in a folder, by name.

    Raises:
        StudioError: Too few of them.
    """
    found = list_photos(folder)
    if len(found) >= MINIMUM:
        return found
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and len(list_photos(p)) >= MINIMUM)
    fix = (
        f"Name the folder that they are in: {folder / inside[0]}."
        if inside
        else f"Give {MINIMUM} or more photos of one place, taken from different points ({', '.join(PHOTO_SUFFIXES)})."
    )
    count = {0: "holds no photos", 1: f"holds one photo ({found[0].name})" if found else ""}
    raise StudioError(f"{folder}: {count.get(len(found), f'holds only {len(found)} photos')}.", fix=fix)


def prepare_photo(path: Path, copies: Path) -> SourcePhoto:
    """Decode a photo to see that it is whole; make a copy of one that is not plain, upright and opaque as it stands.

    Args:
        path: The file.
        copies: Folder for the copy.

    Raises:
        StudioError: The file is missing, truncated or damaged.
    """
    pixels = decode_photo(path)
    has_alpha = pixels.shape[-1] == 4
    orientation, camera, focal, mode = _look_into(path)
    turn = _TURNS.get(orientation)
    stands_in = path
    if turn is not None or has_alpha or mode not in _FEW_COLORS:
        picture = Image.fromarray(pixels)
        if has_alpha:
            # What lies under transparent pixels may be anything; features must not come from there.
            plain = Image.new("RGB", picture.size, (255, 255, 255))
            plain.paste(picture, mask=picture.getchannel("A"))
            picture = plain
        if turn is not None:
            picture = picture.transpose(turn)
        stands_in = copies / f"{path.name}.png"
        picture.save(stands_in, compress_level=1)
    height, width = pixels.shape[:2]
    if orientation >= 5:
        width, height = height, width
    return SourcePhoto(path.name, path, Lens(width, height, camera, focal), stands_in, has_alpha)


def group_by_lens(photos: Sequence[SourcePhoto]) -> dict[Lens, list[int]]:
    """Numbers of the photos that each camera took, in the order of first appearance."""
    groups: dict[Lens, list[int]] = {}
    for number, photo in enumerate(photos):
        groups.setdefault(photo.lens, []).append(number)
    return groups


def place_photo(photo: SourcePhoto, target: Path) -> None:
    """A link to what features are found in, or a copy where there are no links."""
    try:
        target.symlink_to(photo.stands_in.resolve())
    except OSError:
        shutil.copyfile(photo.stands_in, target)


def _look_into(path: Path) -> tuple[int, str, tuple[float, float], str]:
    """EXIF orientation, camera and focal lengths, and the pixel type. Damaged EXIF counts as none."""
    with Image.open(path) as picture:
        mode = picture.mode if "transparency" not in picture.info else "transparent"
        try:
            tags = picture.getexif()
            inner = tags.get_ifd(_EXIF)
        except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
            return 1, "", (0.0, 0.0), mode
    orientation = tags.get(_ORIENTATION)
    names = [str(value).strip("\0 ") for value in (tags.get(_MAKE), tags.get(_MODEL), inner.get(_LENS)) if value]
    focal = (_number(inner.get(_FOCAL)), _number(inner.get(_FOCAL_35)))
    return (orientation if isinstance(orientation, int) else 1), " ".join(names), focal, mode


def _number(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return found if 0 < found < 1e5 else 0.0
