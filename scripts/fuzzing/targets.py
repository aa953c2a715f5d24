"""The readers under test: where their seeds are from, which file is damaged how, and how they are called."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing import mutations, seeds

Damage = Callable[[bytes, random.Random], bytes]

_BY_ENDING: dict[str, Damage] = {
    ".json": mutations.damage_json, ".jsonl": mutations.damage_lines, ".yaml": mutations.damage_text,
    ".txt": mutations.damage_text, ".csv": mutations.damage_text, ".npy": mutations.damage_npy,
    ".png": mutations.damage_png, ".ply": mutations.damage_text,
}  # fmt: skip


def damage_for(name: str) -> Damage:
    """The mutation that knows a file's format, by its ending."""
    ending = posixpath.splitext(name)[1]
    if ending in (".npz", ".zip", ".sog"):
        return mutations.damage_zip(damage_for)
    if ending == ".spz":
        return mutations.damage_gzip(mutations.damage_bytes)
    if ending == ".gz":
        return mutations.damage_gzip(damage_for(name.removesuffix(".gz")))
    return _BY_ENDING.get(ending, mutations.damage_bytes)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: As in the table.
        make: Makes the seed files.
        read: Reads a folder of them; the name is that of the damaged file.
        damaged: Endings of the files that are damaged; none: all.
    """

    name: str
    make: Callable[[], seeds.Files]
    read: Callable[[Path, str], object]
    damaged: tuple[str, ...] = ()

    def choices(self, files: seeds.Files) -> list[str]:
        """Names of the files that may be damaged."""
        return [name for name in files if not self.damaged or name.endswith(self.damaged)]


def _scene(format: str) -> Callable[[Path, str], None]:
    """The format is named, as looking for the readers of other packages takes twenty times as long as the rest."""

    def read(folder: Path, name: str) -> None:
        from studio.readers import get_reader, load_scene

        get_reader(format).detect(folder)
        for frame in load_scene(folder, format=format).frames:
            if not bool(frame.camera.camera_to_world.isfinite().all()):
                raise AssertionError("a camera that is not finite passed")

    return read


def _picture(folder: Path, name: str) -> None:
    from studio.datasets.pictures import read_picture
    from studio.errors import StudioError
    from studio.scene.decode import decode_mask, decode_photo

    failed = None
    for read in (decode_photo, decode_mask, lambda path: read_picture(path, (3, 8, 8))):
        try:
            read(folder / name)
        except StudioError as error:
            failed = error
    if failed is not None:
        raise failed


def _data(folder: Path, name: str) -> None:
    from studio.datasets import TextDataset, load_dataset

    data = load_dataset(folder if (folder / "train").is_dir() else folder / name)
    _ = (data.num_classes, data.notes, list(data.captions)[:3])
    if not isinstance(data, TextDataset):
        data.batch(range(min(4, len(data))))


def _points(folder: Path, name: str) -> None:
    from studio.readers.point_files import read_ply

    if not bool(read_ply(folder / name).xyz.isfinite().all()):
        raise AssertionError("a point that is not finite passed")


def _splat(folder: Path, name: str) -> None:
    from studio.export.splat_formats import read_gaussians

    read_gaussians(folder if (folder / "meta.json").is_file() else folder / name)


def _camera_path(folder: Path, name: str) -> None:
    from studio.cameras import read_camera_path

    read_camera_path(folder / name)


def _scene_record(folder: Path, name: str) -> None:
    from studio.scene.record import load_saved_scene

    load_saved_scene(folder / name)


def _run(folder: Path, name: str) -> None:
    """A broken run is listed as broken, so that listing raises nothing at all; its files are read besides."""
    import json

    from studio.catalog import find_runs
    from studio.errors import StudioError
    from studio.metrics.generator_report import figures_from_json
    from studio.reading.files import read_text
    from studio.training.run import RunFolder

    try:
        json.dumps([record.to_dict() for record in find_runs(folder)], allow_nan=False)
    except StudioError as error:
        raise AssertionError(f"listing raised {error}") from error
    found = RunFolder(folder / "r")
    found.read_config()
    found.read_metrics()
    found.rewind_metrics(3)
    figures_from_json(read_text(found.eval_file), str(found.eval_file))


def _checkpoint(folder: Path, name: str) -> None:
    from studio.training.checkpoint import load_state

    load_state(folder / name)


TARGETS = (
    Target("transforms.json", seeds.transforms, _scene("transforms"), ("transforms.json",)),
    Target("blender", seeds.blender, _scene("blender"), (".json",)),
    Target("COLMAP text", seeds.colmap_text, _scene("colmap"), (".txt",)),
    Target("COLMAP binary", seeds.colmap_binary, _scene("colmap"), (".bin",)),
    Target("LLFF poses_bounds.npy", seeds.llff, _scene("llff"), (".npy",)),
    Target("camera path", seeds.camera_path, _camera_path),
    Target("scene.json of a run", seeds.scene_record, _scene_record),
    Target("config, metrics, figures of a run", seeds.run, _run, (".yaml", ".jsonl", ".json")),
    Target("npz arrays", seeds.arrays, _data),
    Target("idx", seeds.idx, _data),
    Target("idx.gz", seeds.packed_idx, _data),
    Target("text", seeds.text, _data),
    Target("text.gz", seeds.packed_text, _data),
    Target("pictures", seeds.pictures, _picture),
    Target("picture folder", seeds.picture_folder, _data, (".jsonl", ".csv", ".png")),
    Target("picture zip", seeds.picture_zip, _data),
    Target("point PLY", lambda: {"points.ply": seeds.point_ply()}, _points),
    Target("splat PLY, SPZ, .splat", seeds.splats, _splat),
    Target("SOG folder", seeds.sog, _splat),
    Target("SOG zip", seeds.packed_sog, _splat),
)
"""All of them. Checkpoints have a target of their own, `CHECKPOINT`, as they are read by safetensors."""

CHECKPOINT = Target("checkpoint", seeds.checkpoint, _checkpoint)
