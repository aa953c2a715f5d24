"""The shapes: pictures show what their captions say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from studio.datasets import load_dataset
from studio.datasets.shapes import (
    COLORS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    Kind,
    ShapesDataset,
    Statement,
    draw_shape_scenes,
    parse_caption,
    render_scenes,
)
from studio.datasets.shapes.scenes import ShapeObject, ShapeScene
from studio.errors import StudioError

SCENES = draw_shape_scenes(0, 0, np.arange(250))
EYE = ShapeScene((), (), azimuth=0.3, elevation=0.6, distance=6.0, light_azimuth=0.9)


def of_one(shape: str, **kind: str) -> ShapeScene:
    chosen = {"color": "red", "size": "large", "material": "matte", **kind}
    return replace(EYE, objects=(ShapeObject(Kind(shape, **chosen), 0.0, 0.0, 0.4),))


def test_a_scene_is_a_function_of_seed_stream_and_index() -> None:
    again = draw_shape_scenes(0, 0, np.array([200, 3]))
    assert again == [SCENES[200], SCENES[3]]
    assert draw_shape_scenes(1, 0, np.array([3])) != [SCENES[3]]
    assert draw_shape_scenes(0, 1, np.array([3])) != [SCENES[3]]
    pictures, _ = render_scenes(SCENES[:3], 32)
    np.testing.assert_array_equal(pictures[2], render_scenes(SCENES[2:3], 32)[0][0])


def test_attributes_and_counts_are_evenly_spread() -> None:
    scenes = draw_shape_scenes(3, 0, np.arange(3000))
    kinds = [obj.kind for scene in scenes for obj in scene.objects]
    for values, get in ((SHAPES, "shape"), (COLORS, "color"), (SIZES, "size"), (MATERIALS, "material")):
        shares = [sum(getattr(kind, get) == value for kind in kinds) / len(kinds) for value in values]
        assert max(abs(share * len(values) - 1) for share in shares) < 0.15, get
    for count in (1, 2, 3):
        assert abs(sum(len(scene.objects) == count for scene in scenes) / 3000 - 1 / 3) < 0.04
    said = [relation for scene in scenes for relation in scene.relations]
    assert all(said.count(relation) > 0.15 * len(said) for relation in RELATIONS)


def test_captions_read_back_as_the_scene() -> None:
    for scene in SCENES:
        said = parse_caption(scene.caption)
        assert said.objects == tuple(obj.kind for obj in scene.objects)
        assert said.relations == scene.relations
        assert len({(kind.shape, kind.color) for kind in said.objects}) == len(said.objects)
    example = Statement((Kind("cube", "red", "small", "metal"), Kind("sphere", "blue", "large", "matte")), ("left of",))
    assert example.caption() == "a small red metal cube left of a large blue sphere"
    assert parse_caption(example.caption()) == example
    assert parse_caption("nothing").objects == ()


def where_seen(scene: ShapeScene, number: int, size: int = 48) -> tuple[float, float, float]:
    """Mean column, lowest row, and visible share of an object, found by painting everything else out."""
    full, seen = render_scenes([scene], size)
    others = tuple(obj for i, obj in enumerate(scene.objects) if i != number)
    without = render_scenes([replace(scene, objects=others, relations=())], size)[0]
    alone, seen_alone = render_scenes([replace(scene, objects=(scene.objects[number],), relations=())], size)
    empty = render_scenes([replace(scene, objects=(), relations=())], size)[0]
    # Objects are strong colours; their shadows on the grey floor are not.
    difference = alone[0].astype(int) - empty[0].astype(int)
    spread = (difference - difference.mean(-1, keepdims=True)).__abs__().sum(-1)
    rows, columns = np.nonzero(spread > 40)
    assert not np.array_equal(full, without)
    return float(columns.mean()), float(rows.max()), float(seen[0, number] / seen_alone[0, 0])


def test_relations_hold_on_the_picture_and_nothing_is_hidden() -> None:
    checked = 0
    for scene in [s for s in SCENES if len(s.objects) > 1 and all(o.kind.color != "white" for o in s.objects)][:25]:
        found = [where_seen(scene, i) for i in range(len(scene.objects))]
        assert min(share for _, _, share in found) > 0.35, scene.caption
        for (x, y, _), relation in zip(found[1:], scene.relations, strict=True):
            x0, y0 = found[0][:2]
            assert {"left of": x0 < x, "right of": x0 > x, "in front of": y0 > y, "behind": y0 < y}[relation], (
                scene.caption
            )
            checked += 1
    assert checked > 25


def test_the_camera_of_a_scene_is_that_of_its_picture() -> None:
    scene = of_one("sphere")
    size = 96
    picture, seen = render_scenes([scene], size)
    camera = scene.camera(size)
    place, _ = camera.project(torch.tensor(scene.objects[0].centre, dtype=torch.float64))
    red = (picture[0, ..., 0].astype(int) - picture[0, ..., 2]) > 60
    rows, columns = np.nonzero(red)
    assert abs(columns.mean() + 0.5 - float(place[0])) < 1.0
    assert abs(rows.mean() + 0.5 - float(place[1])) < 1.5
    # A sphere of radius r at distance d is seen as a disc of f r / sqrt(d^2 - r^2), a little stretched off the axis.
    d = float(torch.linalg.norm(camera.origins - torch.tensor(scene.objects[0].centre, dtype=torch.float64)))
    radius = float(camera.fx) * 0.58 / math.sqrt(d * d - 0.58**2)
    assert seen[0, 0] == pytest.approx(math.pi * radius**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_stands_on_the_floor_and_casts_a_shadow(shape: str) -> None:
    scene = of_one(shape)
    picture, seen = render_scenes([scene], 64)
    floor = render_scenes([replace(scene, objects=())], 64)[0]
    assert 250 < seen[0, 0] < 900
    darker = (floor[0].astype(int).sum(-1) - picture[0].astype(int).sum(-1)) > 60
    grey = picture[0].max(-1).astype(int) - picture[0].min(-1) < 25
    assert (darker & grey).sum() > 30


def test_metal_shines_and_matte_does_not() -> None:
    scene = of_one("sphere")
    place = scene.camera(64).project(torch.tensor(scene.objects[0].centre, dtype=torch.float64))[0].numpy()
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    inside = np.hypot(columns - place[0], rows - place[1]) < 8
    matte, metal = (render_scenes([of_one("sphere", material=m)], 64)[0][0].astype(int) for m in MATERIALS)
    # The light mirrored in red metal is pale; matte red stays red all over.
    assert metal[inside][:, 1].max() > matte[inside][:, 1].max() + 40


def test_pictures_of_two_sizes_show_the_same() -> None:
    large, small = (render_scenes(SCENES[:4], size)[0].astype(np.float64) for size in (64, 32))
    reduced = large.reshape(4, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(reduced - small).mean() < 2.0


def test_the_data_set() -> None:
    train, test = (load_dataset("shapes:32", split=split, samples=90) for split in ("train", "test"))
    assert (len(train), len(test), train.sample_shape, train.has_captions) == (90, 10, (3, 32, 32), True)
    x, captions = train.batch([5, 2, 5])
    assert x.shape == (3, 3, 32, 32)
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert captions == [train.captions[5], train.captions[2], train.captions[5]]
    torch.testing.assert_close(x[0], x[2])
    assert isinstance(train, ShapesDataset)
    assert train.scenes([5])[0].caption == captions[0]
    scenes = [*train.scenes(range(90)), *test.scenes(range(10))]  # type: ignore[attr-defined]
    assert len({(s.azimuth, s.elevation) for s in scenes}) == 100
    assert train.scenes([5])[0].to_dict()["objects"][0]["kind"]["shape"] in SHAPES
    # More samples continue the same row.
    assert ShapesDataset(32, samples=200).captions[:90] == train.captions
    for name in ("shapes:abc", "shapes:4", "shapes:"):
        with pytest.raises(StudioError, match="picture size"):
            load_dataset(name)
