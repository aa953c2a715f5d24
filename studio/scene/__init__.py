"""Scenes: posed photos, points and bounds, independent of the file format they came from."""

from studio.scene.normalize import normalize_scene, transform_scene
from studio.scene.photos import Photo, PhotoStore
from studio.scene.scene import Frame, PointCloud, Scene, Split
from studio.scene.summary import SceneSummary, render_summary, summarize

__all__ = [
    "Frame",
    "Photo",
    "PhotoStore",
    "PointCloud",
    "Scene",
    "SceneSummary",
    "Split",
    "normalize_scene",
    "render_summary",
    "summarize",
    "transform_scene",
]
