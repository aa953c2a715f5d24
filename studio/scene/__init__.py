"""Scenes: posed photos, points and bounds, independent of the file format they came from."""

from studio.scene.normalize import normalize_scene
from studio.scene.photos import Photo, PhotoStore
from studio.scene.scene import Frame, PointCloud, Scene, Split

__all__ = ["Frame", "Photo", "PhotoStore", "PointCloud", "Scene", "Split", "normalize_scene"]
