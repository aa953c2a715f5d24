"""What a run was trained on, so that going on with something else never happens unsaid: its data and the versions.

Of photos and pictures each file's name, size and SHA-256 in the order of use, of texts and arrays their content; and
what belongs to them: cameras, masks, labels, captions. Kept as `data.json` in the run folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from studio import __version__
from studio.datasets import Dataset, TextDataset
from studio.datasets.arrays import ArrayDataset
from studio.datasets.pictures import PictureDataset
from studio.errors import StudioError
from studio.files import atomic_write
from studio.reading.json_text import read_json_object
from studio.registry import PluginEntry
from studio.scene import PhotoStore
from studio.scene.record import camera_to_dict

_PACKAGES = ("torch", "numpy", "numba")
_HEX = 32
"""Digits kept of a file's SHA-256: 128 bits."""
_SHOWN = 3
_PROBED = 64
"""Samples that are hashed of a data set of a kind that has no files to name."""


@dataclass(frozen=True)
class Fingerprint:
    """The data and the versions of a run."""

    items: tuple[tuple[str, int, str], ...]
    """Name, bytes and hash of each file, in the order of use."""
    parts: dict[str, str]
    """Hashes of what belongs to them all, such as 'cameras' or 'captions'."""
    versions: dict[str, str]
    accepted: tuple[dict[str, Any], ...] = field(default=())
    """Changes that the run went on with: at which step, and what had changed."""

    @property
    def digest(self) -> str:
        """Of the data alone: equal for runs that were trained on equal data."""
        text = json.dumps([[[size, sha] for _, size, sha in self.items], self.parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_HEX]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"digest": self.digest, **asdict(self)}


def fingerprint(entry: PluginEntry, photos: PhotoStore | None, dataset: Dataset | None) -> Fingerprint:
    """Of the data that a run is trained on, read as a whole once, and of what trains it.

    Args:
        entry: The plugin.
        photos: The training photos of a field.
        dataset: The training split of a generator.

    Raises:
        StudioError: A file cannot be read.
    """
    versions = {"studio": __version__}
    if entry.distribution and entry.version:
        versions[entry.distribution] = entry.version
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if photos is not None:
        return Fingerprint(tuple(_photos(photos)), {"cameras": _cameras(photos)}, versions)
    assert dataset is not None
    parts = {"class names": _of_texts(dataset.class_names)} if dataset.class_names else {}
    if dataset.has_captions:
        parts["captions"] = _of_texts(dataset.captions)
    if isinstance(dataset, PictureDataset):
        labels = dataset.labels
        parts |= {"labels": _of_tensor(labels)} if labels is not None else {}
        return Fingerprint(tuple(_pictures(dataset)), parts, versions)
    if isinstance(dataset, ArrayDataset):
        parts |= {"labels": _of_tensor(dataset.y)} if dataset.y is not None else {}
        arrays = (("x", dataset.x.numel() * dataset.x.element_size(), _of_tensor(dataset.x)),)
        return Fingerprint(arrays, parts, versions)
    if isinstance(dataset, TextDataset):
        size = sum(len(text.encode()) for text in dataset.texts)
        return Fingerprint((("text", size, _of_texts(dataset.texts)),), parts, versions)
    rows = sorted({i * len(dataset) // _PROBED for i in range(_PROBED)})
    x, condition = dataset.batch(rows)
    if isinstance(condition, Tensor):
        parts["labels"] = _of_tensor(condition)
    return Fingerprint(((f"{len(dataset)} samples", x.numel(), _of_tensor(x)),), parts, versions)


def save_fingerprint(found: Fingerprint, path: Path) -> None:
    """Write it as JSON."""
    with atomic_write(path, "w") as handle:
        json.dump(found.to_dict(), handle)


def load_fingerprint(path: Path) -> Fingerprint | None:
    """Inverse of `save_fingerprint`; None where there is none, as in runs from before it was kept.

    Raises:
        StudioError: The file is damaged.
    """
    if not os.path.lexists(path):
        return None
    try:
        data = read_json_object(path)
        items = tuple((str(name), int(size), str(sha)) for name, size, sha in data["items"])
        parts, versions = ({str(k): str(v) for k, v in data[name].items()} for name in ("parts", "versions"))
        return Fingerprint(items, parts, versions, tuple(dict(row) for row in data["accepted"]))
    except (OverflowError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StudioError(
            f"{path}: not a readable record of the data ({' '.join(str(error).split())}).",
            fix="Delete it to go on without comparing the data.",
        ) from error


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, a short phrase each; empty where nothing does."""
    old, new = {name: rest for name, *rest in before.items}, {name: rest for name, *rest in now.items}
    found = []
    for verb, names in (
        ("gone", [name for name in old if name not in new]),
        ("new", [name for name in new if name not in old]),
        ("another content", [name for name in old if name in new and old[name] != new[name]]),
    ):
        if names:
            more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            found.append(f"{', '.join(names[:_SHOWN])}{more}: {verb}")
    if not found and [name for name, *_ in before.items] != [name for name, *_ in now.items]:
        found.append("the order of the files")
    found += [
        f"the {name}" for name in dict.fromkeys([*before.parts, *now.parts])
        if before.parts.get(name) != now.parts.get(name)
    ]  # fmt: skip
    found += [
        f"{name} {before.versions[name]} is now {now.versions[name]}" for name in before.versions
        if name in now.versions and before.versions[name] != now.versions[name]
    ]  # fmt: skip
    return found


def _photos(photos: PhotoStore) -> Iterator[tuple[str, int, str]]:
    for frame in photos.frames:
        yield (frame.name, *_of_file(frame.image_path))
        if frame.mask_path is not None:
            yield (f"the mask of {frame.name}", *_of_file(frame.mask_path))


def _cameras(photos: PhotoStore) -> str:
    return _of_texts([json.dumps(camera_to_dict(frame.camera), sort_keys=True) for frame in photos.frames])


def _pictures(dataset: PictureDataset) -> Iterator[tuple[str, int, str]]:
    for name in dataset.files:
        try:
            with dataset.open(name) as stream:
                yield (name, *_of_stream(stream))
        except OSError as error:
            raise StudioError(f"{dataset.name}: {name} cannot be read ({error.strerror or error}).") from error


def _of_file(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as stream:
            return _of_stream(stream)
    except OSError as error:
        raise StudioError(f"{path}: cannot be read ({error.strerror or error}).", fix="Put the photo back.") from error


def _of_stream(stream: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()[:_HEX]


def _of_texts(texts: Iterable[str] | Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:_HEX]


def _of_tensor(tensor: Tensor) -> str:
    array = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:_HEX]
