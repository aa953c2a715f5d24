"""Holding out photos for evaluation where the format has no test split of its own."""

from __future__ import annotations

from dataclasses import replace

from studio.errors import StudioError
from studio.scene import Scene


def hold_out(scene: Scene, every: int = 8) -> Scene:
    """Move every `every`-th training photo, in order of name from the first on, to the test split.

    This is the custom of LLFF and mip-NeRF 360 (photos 0, 8, 16, ...), so figures compare. A scene that has a test or
    validation split already is left alone.

    Args:
        scene: A scene as read.
        every: 0 keeps all photos for training.

    Raises:
        StudioError: `every` is 1 (nothing would be left to train on) or negative.
    """
    if every < 0 or every == 1:
        raise StudioError(f"eval_every must be 0 (hold out nothing) or at least 2, got {every}.")
    if every == 0 or scene.split("test") or scene.split("val"):
        return scene
    names = sorted(frame.name for frame in scene.split("train"))
    if len(names) < 2:
        return replace(scene, notes=(*scene.notes, "only one photo: nothing is held out for evaluation"))
    held = set(names[::every])
    frames = tuple(replace(f, split="test") if f.name in held and f.split == "train" else f for f in scene.frames)
    note = f"no test split: every {every}th photo by name is held out for evaluation ({len(held)} of {len(names)})"
    return replace(scene, frames=frames, notes=(*scene.notes, note))
