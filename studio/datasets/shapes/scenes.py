"""Scenes of one to three primitives, drawn by lot so that their captions are true and every object is well seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from studio.cameras import Cameras, look_at
from studio.datasets.draws import keys_of, uniforms
from studio.datasets.kernels.primitives import (
    CONE_HEIGHT,
    CONE_RADIUS,
    CUBE_HALF,
    CYLINDER_HALF,
    CYLINDER_RADIUS,
)
from studio.datasets.shapes.captions import COLORS, MATERIALS, SHAPES, SIZES, Kind, Statement, canonical_order

MOST_OBJECTS = 3
SIZE_OF = {"large": 0.58, "small": 0.38}
"""World units."""

_FIELD_OF_VIEW = math.radians(30.0)
_TARGET_HEIGHT = 0.30
_SPREAD = 1.35
_GAP = 0.10
_MARGIN = 0.03
_DRAWS, _PROPOSALS, _MOST_ROUNDS = 24, 24, 200
_PER_OBJECT = 3
# Of the sizes: how far an object reaches over the floor, and the height of its middle.
_REACH = {"sphere": 1.0, "cube": CUBE_HALF * math.sqrt(2.0), "cylinder": CYLINDER_RADIUS, "cone": CONE_RADIUS}
_MIDDLE = {"sphere": 1.0, "cube": CUBE_HALF, "cylinder": CYLINDER_HALF, "cone": CONE_HEIGHT / 2}


@dataclass(frozen=True)
class ShapeObject:
    """One object on the floor."""

    kind: Kind
    x: float
    y: float
    yaw: float
    """Radians about the vertical."""

    @property
    def centre(self) -> tuple[float, float, float]:
        """Middle of the object; z is up and the floor at 0."""
        return self.x, self.y, _MIDDLE[self.kind.shape] * SIZE_OF[str(self.kind.size)]


@dataclass(frozen=True)
class ShapeScene:
    """A picture's description, as plain data. Objects stand in the order in which the caption names them."""

    objects: tuple[ShapeObject, ...]
    relations: tuple[str, ...]
    """Where the first object is, seen from each of the others."""
    azimuth: float
    elevation: float
    """Of the camera, radians."""
    distance: float
    """Of the camera from the middle of the scene."""
    light_azimuth: float
    """Radians, from the camera's azimuth; towards the left of the picture where positive."""

    @property
    def caption(self) -> str:
        return Statement(tuple(obj.kind for obj in self.objects), self.relations).caption()

    def camera(self, size: int) -> Cameras:
        """The camera of a square picture of `size` pixels."""
        return scene_cameras([self], size)[0]

    def to_dict(self) -> dict[str, Any]:
        """Dicts, lists, numbers and strings."""
        return {**dataclasses.asdict(self), "caption": self.caption}


def scene_cameras(scenes: Sequence[ShapeScene], size: int) -> Cameras:
    """The cameras (b,) of square pictures of `size` pixels; float64."""
    views = np.array([(scene.azimuth, scene.elevation, scene.distance) for scene in scenes])
    return _cameras(views[:, 0], views[:, 1], views[:, 2], size)


def _cameras(azimuth: Any, elevation: Any, distance: Any, size: int) -> Cameras:
    flat = np.cos(elevation) * distance
    eyes = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=-1)
    target = torch.tensor([0.0, 0.0, _TARGET_HEIGHT], dtype=torch.float64)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = look_at(torch.from_numpy(eyes) + target, target, up)
    return Cameras.from_fov(poses, width=size, height=size, fov_x=_FIELD_OF_VIEW)


def draw_shape_scenes(seed: int, stream: int, indices: npt.NDArray[Any]) -> list[ShapeScene]:
    """The scenes with these indices; each is a function of (seed, stream, index) alone.

    Positions are drawn until all objects lie inside the picture, stand apart on the floor, hide little of each other,
    and each relation of the caption is plain: sideways by far more than in depth, or the other way round.
    """
    keys = keys_of(seed, stream, np.asarray(indices))
    fixed = uniforms(keys, 0, _DRAWS)
    counts = 1 + np.minimum((fixed[:, 0] * MOST_OBJECTS).astype(int), MOST_OBJECTS - 1)
    azimuth = 2 * math.pi * fixed[:, 1]
    elevation = np.radians(28 + 14 * fixed[:, 2])
    distance = 5.8 + 0.6 * fixed[:, 3]
    light = np.radians(35 + 40 * fixed[:, 4])
    kinds = [_kinds(row[5:], count) for row, count in zip(fixed, counts, strict=True)]
    cameras = _cameras(azimuth, elevation, distance, 1)
    places, relations = _place(keys, kinds, cameras)
    scenes = []
    for i, group in enumerate(kinds):
        objects = tuple(ShapeObject(kind, *map(float, places[i, j])) for j, kind in enumerate(group))
        scenes.append(
            ShapeScene(
                objects, relations[i], float(azimuth[i]), float(elevation[i]), float(distance[i]), float(light[i])
            )
        )
    return scenes


def _kinds(draws: npt.NDArray[np.float64], count: int) -> list[Kind]:
    """Objects of which no two share both shape and colour, in the order of a caption."""
    left = [(shape, color) for shape in SHAPES for color in COLORS]
    kinds = []
    for i in range(count):
        shape, color = left.pop(int(draws[3 * i] * len(left)))
        kinds.append(Kind(shape, color, SIZES[int(draws[3 * i + 1] * 2)], MATERIALS[int(draws[3 * i + 2] * 2)]))
    return [kinds[i] for i in canonical_order(kinds)]


def _place(
    keys: npt.NDArray[np.uint64], kinds: list[list[Kind]], cameras: Cameras
) -> tuple[npt.NDArray[np.float64], list[tuple[str, ...]]]:
    """Positions and yaw (b, MOST_OBJECTS, 3), and the relations that hold between the first object and the others."""
    b = len(kinds)
    exists = np.zeros((b, MOST_OBJECTS), bool)
    size, reach, middle = (np.zeros((b, MOST_OBJECTS)) for _ in range(3))
    for i, group in enumerate(kinds):
        for j, kind in enumerate(group):
            exists[i, j], size[i, j] = True, SIZE_OF[str(kind.size)]
            reach[i, j], middle[i, j] = _REACH[kind.shape] * size[i, j], _MIDDLE[kind.shape] * size[i, j]
    places = np.zeros((b, MOST_OBJECTS, _PER_OBJECT))
    relations: list[tuple[str, ...]] = [()] * b
    waiting = np.arange(b)
    per_proposal = MOST_OBJECTS * _PER_OBJECT
    for turn in range(_MOST_ROUNDS):
        drawn = uniforms(keys[waiting], _DRAWS + turn * _PROPOSALS * per_proposal, _PROPOSALS * per_proposal)
        drawn = drawn.reshape(len(waiting), _PROPOSALS, MOST_OBJECTS, _PER_OBJECT)
        # Uniform over a disc.
        radius, angle = _SPREAD * np.sqrt(drawn[..., 0]), 2 * math.pi * drawn[..., 1]
        floor = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        fits, lateral, depth = _judge(
            floor, exists[waiting, None], size[waiting, None], reach[waiting, None], middle[waiting, None],
            cameras[torch.from_numpy(waiting)],
        )  # fmt: skip
        first = fits.argmax(axis=1)
        done = fits[np.arange(len(waiting)), first]
        for row in np.flatnonzero(done):
            scene, choice = waiting[row], first[row]
            places[scene, :, :2] = floor[row, choice]
            places[scene, :, 2] = 2 * math.pi * drawn[row, choice, :, 2]
            relations[scene] = tuple(
                _relation(lateral[row, choice, j], depth[row, choice, j]) for j in range(1, len(kinds[scene]))
            )
        waiting = waiting[~done]
        if len(waiting) == 0:
            return places, relations
    raise RuntimeError(f"no place found for the objects of {len(waiting)} scenes")


def _relation(lateral: float, depth: float) -> str:
    """Of the first object, by how far the other lies to its right and behind it."""
    if abs(lateral) > abs(depth):
        return "left of" if lateral > 0 else "right of"
    return "in front of" if depth > 0 else "behind"


def _judge(
    floor: npt.NDArray[np.float64],
    exists: npt.NDArray[np.bool_],
    size: npt.NDArray[np.float64],
    reach: npt.NDArray[np.float64],
    middle: npt.NDArray[np.float64],
    cameras: Cameras,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Which proposals (b, k) of places (b, k, n, 2) are good, and how far right and behind of the first the others lie.

    Sizes of the picture are 1: `cameras` have one pixel.
    """
    b, k, n, _ = floor.shape
    points = np.concatenate([floor, np.broadcast_to(middle, (b, k, n))[..., None]], axis=-1)
    projected, depth = cameras.project(torch.from_numpy(points.reshape(b, k * n, 3)))
    image = projected.numpy().reshape(b, k, n, 2)
    z = depth.numpy().reshape(b, k, n)
    focal = cameras.fx.numpy()[:, None, None]
    disc = 1.08 * size * focal / z
    inside = ((image - disc[..., None] > _MARGIN) & (image + disc[..., None] < 1 - _MARGIN)).all(axis=-1)
    good = (inside | ~exists).all(axis=-1)
    # Directions along the floor, to the right and away from the viewer.
    right = cameras.camera_to_world[:, :2, 0].numpy()
    away = np.stack([-right[:, 1], right[:, 0]], axis=-1)
    lateral = np.einsum("bknd,bd->bkn", floor - floor[:, :, :1], right)
    behind = np.einsum("bknd,bd->bkn", floor - floor[:, :, :1], away)
    for i in range(n):
        for j in range(i):
            both = exists[..., i] & exists[..., j]
            apart = np.linalg.norm(floor[:, :, i] - floor[:, :, j], axis=-1)
            seen_apart = np.linalg.norm(image[:, :, i] - image[:, :, j], axis=-1)
            clear = (apart > reach[..., i] + reach[..., j] + _GAP) & (seen_apart > 0.72 * (disc[..., i] + disc[..., j]))
            if j == 0:
                side, deep = np.abs(lateral[..., i]), np.abs(behind[..., i])
                # Perspective pulls far objects together: left and right must hold on the picture, too.
                shown = (image[:, :, i, 0] - image[:, :, 0, 0]) * np.sign(lateral[..., i])
                clear &= ((side > 1.35 * deep) & (shown > 0.12)) | ((deep > 1.35 * side) & (deep > 0.5))
            good &= clear | ~both
    return good, lateral, behind
