"""`shapes`: captioned pictures of one to three coloured primitives on a lit floor, drawn by the studio itself."""

from studio.datasets.shapes.captions import (
    COLORS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    Kind,
    Statement,
    parse_caption,
)
from studio.datasets.shapes.dataset import ShapesDataset, load_shapes
from studio.datasets.shapes.rendering import render_scenes
from studio.datasets.shapes.scenes import ShapeObject, ShapeScene, draw_shape_scenes

__all__ = [
    "COLORS",
    "MATERIALS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Kind",
    "ShapeObject",
    "ShapeScene",
    "ShapesDataset",
    "Statement",
    "draw_shape_scenes",
    "load_shapes",
    "parse_caption",
    "render_scenes",
]
