"""The conformance kit for readers of posed photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio.cameras import flip_opengl
from studio.readers import ReadOptions
from studio.readers.transforms import READER as TRANSFORMS
from studio.scene import Scene
from studio.testing import check_reader


class Wrapped:
    """The reader of transforms.json under its own name, with a mistake."""

    name = "transforms"

    def detect(self, root: Path) -> str | None:
        return TRANSFORMS.detect(root)

    def read(self, root: Path, options: ReadOptions) -> Scene:
        return TRANSFORMS.read(root, options)


class DetectsAll(Wrapped):
    def detect(self, root: Path) -> str | None:
        return None


class OpenGl(Wrapped):
    def read(self, root: Path, options: ReadOptions) -> Scene:
        scene = super().read(root, options)
        cameras = [replace(f.camera, camera_to_world=flip_opengl(f.camera.camera_to_world)) for f in scene.frames]
        return replace(scene, frames=tuple(replace(f, camera=c) for f, c in zip(scene.frames, cameras, strict=True)))


class Mirrored(Wrapped):
    def read(self, root: Path, options: ReadOptions) -> Scene:
        scene = super().read(root, options)
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
        cameras = [replace(f.camera, camera_to_world=f.camera.camera_to_world @ mirror) for f in scene.frames]
        return replace(scene, frames=tuple(replace(f, camera=c) for f, c in zip(scene.frames, cameras, strict=True)))


class HalfSize(Wrapped):
    def read(self, root: Path, options: ReadOptions) -> Scene:
        scene = super().read(root, options)
        return replace(scene, frames=tuple(replace(f, camera=f.camera.rescale(0.5)) for f in scene.frames))


class Misnamed(Wrapped):
    name = "another"


class Traceback(Wrapped):
    def read(self, root: Path, options: ReadOptions) -> Scene:
        if not (root / "transforms.json").is_file():
            raise KeyError("frames")
        return super().read(root, options)


def test_a_sound_reader(tiny_scene: Path) -> None:
    report = check_reader("transforms", tiny_scene).require()
    assert all(check.status == "pass" for check in report)


@pytest.mark.parametrize(
    ("reader", "check", "message"),
    [
        (DetectsAll(), "detects its format", "returns None for an empty folder"),
        (OpenGl(), "poses", "look away"),
        (Mirrored(), "poses", "mirrors"),
        (HalfSize(), "frames", "has .* pixels, its camera"),
        (Misnamed(), "frames", "format is 'transforms', the reader's name 'another'"),
        (Traceback(), "bad input", "raises KeyError"),
    ],
)
def test_a_mistake_is_found(reader: Wrapped, check: str, message: str, tiny_scene: Path) -> None:
    report = check_reader(reader, tiny_scene)
    assert [failure.name for failure in report.failures] == [check]
    with pytest.raises(AssertionError, match=message):
        report.require()
