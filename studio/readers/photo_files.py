"""Finding the photo and mask files that a scene file names."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.reading.files import is_file, is_folder, list_folder
from studio.scene.decode import PHOTO_SUFFIXES

_NUMBERED = re.compile(r"^images_(\d+)$")


def images_folder(root: Path, wanted: str | None) -> Path:
    """The folder of the photos: the wanted one, else ``images``, else the ``images_N`` with the largest photos.

    Raises:
        StudioError: There is no such folder.
    """
    if wanted is not None:
        folder = root / wanted
        if not is_folder(folder):
            others = [p.name for p in list_folder(root) if is_folder(p)]
            raise StudioError(
                f"{folder}: there is no such folder of photos.", fix=f"Folders there: {', '.join(others) or 'none'}."
            )
        return folder
    if is_folder(root / "images"):
        return root / "images"
    numbered = [(int(m.group(1)), p) for p in list_folder(root) if (m := _NUMBERED.match(p.name)) and is_folder(p)]
    if not numbered:
        raise StudioError(
            f"{root}: there is no folder 'images' or 'images_N' with the photos.",
            fix="Put the photos into 'images', or name their folder with --images.",
        )
    return min(numbered)[1]


class PhotoFinder:
    """Finds the photos that a ``transforms.json`` names relative to its folder.

    Names may lack their ending (NeRF-synthetic), and the leading folder (``images/``) may be swapped for another size
    of the same photos (``images_4``): the wanted one, or, where the named folder is missing, the largest there is.
    """

    def __init__(self, root: Path, images: str | None = None) -> None:
        self.root = root
        self._wanted = images_folder(root, images).relative_to(root).as_posix() if images is not None else None
        self.folder = root / (self._wanted or "images")
        """Where photos of other names are looked for first."""
        self._swaps: dict[str, str | None] = {}
        self.swapped: dict[str, str] = {}
        """Named folder -> folder that was read instead, for the notes."""

    def find(self, named: str) -> Path | None:
        """The photo's file, or None if there is none. Names that lead out of the folder are followed."""
        name = named.replace("\\", "/")
        head, slash, rest = posixpath.normpath(name).partition("/")
        other = self._other_folder(head) if slash and head not in ("..", "") else None
        if other is not None:
            found = existing_photo(self.root / other / rest, other_endings=True)
            if found is not None:
                self.swapped[head] = other
                return found
            if self._wanted is not None:
                return None
        return existing_photo(self.root / name)

    def is_swapped(self, photo: Path) -> bool:
        """Whether `find` took the photo from another folder than the named one, so at another size."""
        return any(photo.is_relative_to(self.root / other) for other in self.swapped.values())

    def _other_folder(self, head: str) -> str | None:
        if head not in self._swaps:
            other: str | None = None
            is_photos = head == "images" or _NUMBERED.match(head) is not None
            if self._wanted is not None:
                other = self._wanted if head != self._wanted else None
            elif is_photos and not is_folder(self.root / head):
                try:
                    other = images_folder(self.root, None).name
                except StudioError:
                    other = None
            self._swaps[head] = other
        return self._swaps[head]


def existing_photo(path: Path, *, other_endings: bool = False) -> Path | None:
    """`path` if it is a file, else the same with a photo's ending appended (or, if asked, put in place of its own)."""
    if is_file(path):
        return path
    if not path.name:
        return None
    if path.suffix.lower() not in PHOTO_SUFFIXES:
        candidates = [path.with_name(path.name + suffix) for suffix in _endings()]
    elif other_endings:
        candidates = [path.with_suffix(suffix) for suffix in _endings()]
    else:
        return None
    return next((c for c in candidates if is_file(c)), None)


def frame_name(path: Path, root: Path) -> str:
    """A photo's path relative to the scene folder, with forward slashes (absolute if it lies on another drive)."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:
        return path.as_posix()


def list_photos(folder: Path) -> list[Path]:
    """All photos directly in a folder, sorted by name."""
    return [p for p in list_folder(folder) if p.suffix.lower() in PHOTO_SUFFIXES and is_file(p)]


def camera_for_photo(camera: Cameras, size: tuple[int, int], photo: Path, source: str) -> Cameras:
    """A stated camera brought to the size that its photo has on disk.

    Raises:
        StudioError: The shapes differ by more than rounding: another photo, a crop, or one turned by 90 degrees.
    """
    stated = (int(camera.width), int(camera.height))
    if stated == size:
        return camera
    ratio = size[0] / stated[0], size[1] / stated[1]
    # A downsized folder rounds each side to whole pixels, so the two ratios may differ by that much.
    if abs(ratio[0] / ratio[1] - 1) > 1.5 / min(size) + 1e-3:
        turned = (size[1], size[0]) == stated
        raise StudioError(
            f"{photo}: the photo is {size[0]}x{size[1]}, but {source} states {stated[0]}x{stated[1]}.",
            fix="Turn the stored pixels; EXIF orientation is not applied."
            if turned
            else "Use the photos that the cameras were computed from, or smaller copies of the same shape.",
        )
    return camera.rescale(size)


def pose_tensor(pose: npt.NDArray[np.float64]) -> torch.Tensor:
    """A (4, 4) float64 tensor of a pose."""
    return torch.from_numpy(np.ascontiguousarray(pose))


def _endings() -> list[str]:
    return [*PHOTO_SUFFIXES, *(suffix.upper() for suffix in PHOTO_SUFFIXES)]
