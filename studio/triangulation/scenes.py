"""Giving points to a scene that has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from studio.scene import PhotoStore, Scene
from studio.triangulation.points import triangulate

FEWEST_POINTS = 100
"""A scene with fewer points, its own or found ones, is one without."""


def with_points(scene: Scene, photos: PhotoStore, announce: Callable[[str], None] = lambda text: None) -> Scene:
    """The scene with points triangulated from its training photos, where it has hardly any of its own.

    Photos with alpha tell by their outlines where the object is, and are left alone.

    Args:
        scene: As it was read.
        photos: Its training photos.
        announce: Told what was found.
    """
    if scene.points is not None and len(scene.points) >= FEWEST_POINTS:
        return scene
    if len(photos) < 2 or photos.camera(0).model == "orthographic" or photos[0].image.shape[-1] == 4:
        return scene
    began = time.perf_counter()
    points = triangulate(photos)
    seconds = time.perf_counter() - began
    if len(points) < FEWEST_POINTS:
        announce(f"note: the scene has no points, and its photos show too little alike to find some ({seconds:.1f} s)")
        return scene
    announce(f"the scene has no points: {len(points):,} were triangulated from its photos ({seconds:.1f} s)")
    return replace(scene, points=points, bounds=points.bounds() if scene.bounds is None else scene.bounds)
