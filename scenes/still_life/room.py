"""The still life as one Mitsuba scene: table, room, lights, and where each thing stands."""

from __future__ import annotations

from typing import Any

import mitsuba as mi
import numpy as np

from . import materials as m
from . import objects as o
from . import textures as t
from .shapes import Mesh, grid, rotation, rounded_box

FLOOR, CEILING, HALF_X, HALF_Y = -0.74, 1.75, 2.3, 1.9
RED, BLUE, GREEN, OCHRE = (0.72, 0.15, 0.12), (0.13, 0.27, 0.55), (0.16, 0.42, 0.22), (0.84, 0.56, 0.12)


def _quad(corner: tuple[float, ...], u: tuple[float, ...], v: tuple[float, ...]) -> Mesh:
    """The parallelogram corner + s u + t v; it faces along u x v."""
    c, a, b = (np.asarray(p, float) for p in (corner, u, v))
    return grid(np.stack([np.stack([c, c + a]), np.stack([c + b, c + a + b])]))


def room(rng: np.random.Generator) -> list[o.Part]:
    """Walls, wainscot, floor, rug and the furniture along the walls."""
    x, y, height = 2 * HALF_X, 2 * HALF_Y, CEILING - FLOOR
    floor = t.wood(rng, (1400, 1700), 4.6, 22, (0.58, 0.43, 0.28), (0.36, 0.24, 0.14), gap=0.004)
    plaster = t.mottled(rng, (700, 1200), (0.66, 0.63, 0.57), 0.045, 120)
    sage = t.mottled(rng, (700, 1200), (0.44, 0.50, 0.47), 0.05, 120)
    parts: list[o.Part] = [
        (_quad((-HALF_X, -HALF_Y, FLOOR), (x, 0, 0), (0, y, 0)), m.glossy(floor, 0.3)),
        (_quad((-1.15, -0.95, FLOOR + 0.008), (2.5, 0, 0), (0, 1.9, 0)), m.matte(t.rug(rng, (760, 1000)))),
        (_quad((-HALF_X, HALF_Y, CEILING), (x, 0, 0), (0, -y, 0)), m.matte((0.86, 0.85, 0.82))),
        (_quad((-HALF_X, HALF_Y, FLOOR), (x, 0, 0), (0, 0, height)), m.matte(sage)),
        (_quad((HALF_X, -HALF_Y, FLOOR), (-x, 0, 0), (0, 0, height)), m.matte(plaster)),
        (_quad((-HALF_X, -HALF_Y, FLOOR), (0, y, 0), (0, 0, height)), m.matte(plaster)),
        (_quad((HALF_X, HALF_Y, FLOOR), (0, -y, 0), (0, 0, height)), m.matte(sage)),
    ]
    white = m.glossy((0.80, 0.79, 0.75), 0.25)
    for length, turn, distance in ((x, 0, HALF_Y), (x, 180, HALF_Y), (y, 90, HALF_X), (y, 270, HALF_X)):
        back = rotation("z", turn)
        for z, size in ((FLOOR + 0.06, (length, 0.024, 0.12)), (FLOOR + 0.80, (length, 0.03, 0.035))):
            parts.append((rounded_box(size, 0.008).placed(back, back @ np.array([0, distance, z])), white))
    for size, at in (
        ((0.03, 0.05, 1.06), (-HALF_X + 0.03, 0.0, 1.23)),
        ((0.03, 1.90, 0.05), (-HALF_X + 0.03, 0.0, 1.23)),
        ((0.05, 1.96, 0.06), (-HALF_X + 0.03, 0.0, 0.72)),
    ):
        parts.append((rounded_box(size, 0.008).moved(at), white))
    walnut = t.wood(rng, (500, 1000), 1.4, 3, (0.44, 0.29, 0.18), (0.24, 0.14, 0.08))
    # A sideboard against the +y wall with drawers and things on it.
    parts.append(
        (rounded_box((1.7, 0.42, 0.62), 0.012).moved((-0.35, HALF_Y - 0.23, FLOOR + 0.37)), m.glossy(walnut, 0.25))
    )
    for i in range(3):
        at = (-0.90 + 0.55 * i, HALF_Y - 0.447, FLOOR + 0.40)
        parts.append((rounded_box((0.50, 0.02, 0.46), 0.008).moved(at), m.glossy(walnut[:, ::-1].copy(), 0.2)))
        parts.append(
            (
                rounded_box((0.10, 0.03, 0.014), 0.006).moved((at[0], at[1] - 0.02, at[2] + 0.14)),
                m.brushed(o.BRASS, 0.3, 0.3),
            )
        )
    parts += o.moved(o.citrus(rng, o.ORANGE, (0.62, 0.66, 0.60), 0.30), -0.85, HALF_Y - 0.24, FLOOR + 0.68)
    for i, colour in enumerate((RED, OCHRE, BLUE, (0.75, 0.72, 0.65), GREEN, (0.35, 0.2, 0.25))):
        spine = t.cloth(rng, (128, 128), colour, (60, 60))
        size = (0.035 + 0.008 * (i % 3), 0.17, 0.21 + 0.03 * ((i * 2) % 3))
        parts.append(
            (
                rounded_box(size, 0.004).moved((-0.05 + 0.048 * i, HALF_Y - 0.22, FLOOR + 0.68 + size[2] / 2)),
                m.fabric(spine),
            )
        )
    # An armchair against the +x wall.
    tweed = t.cloth(rng, (600, 600), (0.62, 0.38, 0.25), (150, 150))
    for size, at in (
        ((0.75, 0.78, 0.30), (HALF_X - 0.50, -0.25, FLOOR + 0.24)),
        ((0.24, 0.82, 0.75), (HALF_X - 0.20, -0.25, FLOOR + 0.50)),
        ((0.75, 0.17, 0.50), (HALF_X - 0.50, -0.70, FLOOR + 0.36)),
        ((0.75, 0.17, 0.50), (HALF_X - 0.50, 0.20, FLOOR + 0.36)),
    ):
        parts.append((rounded_box(size, 0.07).moved(at), m.fabric(tweed)))
    cushion = t.cloth(rng, (400, 400), (0.80, 0.68, 0.36), (100, 100))
    pillow = rounded_box((0.13, 0.42, 0.40), 0.062).placed(rotation("y", -14), (HALF_X - 0.41, -0.22, FLOOR + 0.60))
    parts.append((pillow, m.fabric(cushion)))
    # A chest and a basket along the remaining walls.
    pine = t.wood(rng, (400, 800), 1.2, 4, (0.72, 0.55, 0.36), (0.52, 0.35, 0.20))
    parts.append(
        (rounded_box((1.2, 0.45, 0.46), 0.015).moved((0.3, -HALF_Y + 0.26, FLOOR + 0.23)), m.glossy(pine, 0.3))
    )
    blanket = t.cloth(rng, (500, 500), (0.42, 0.47, 0.56), (90, 90))
    parts.append(
        (rounded_box((0.55, 0.38, 0.11), 0.04).moved((0.45, -HALF_Y + 0.27, FLOOR + 0.515), 4), m.fabric(blanket))
    )
    clay = t.mottled(rng, (300, 600), (0.66, 0.37, 0.25), 0.07, 40)
    pot = o.revolve(
        np.array(
            [
                (0.0, 0.0),
                (0.13, 0),
                (0.14, 0.02),
                (0.19, 0.30),
                (0.21, 0.31),
                (0.21, 0.36),
                (0.18, 0.36),
                (0.16, 0.30),
                (0, 0.30),
            ]
        )
    )
    parts.append((pot.moved((-HALF_X + 0.40, -0.9, FLOOR)), m.matte(clay)))
    parts.append(
        (
            rounded_box((0.40, 0.9, 0.44), 0.03).moved((-HALF_X + 0.24, 0.75, FLOOR + 0.22)),
            m.fabric(t.cloth(rng, (400, 400), (0.70, 0.64, 0.54), (70, 70))),
        )
    )
    return parts


def table(rng: np.random.Generator) -> list[o.Part]:
    """An oak table top of 1.44 x 1.04 m on four legs; its surface is z = 0."""
    oak = t.wood(rng, (1664, 2304), 1.44, 8, (0.73, 0.59, 0.44), (0.52, 0.37, 0.24))
    worn = 0.5 + 0.25 * t.field(rng, (512, 512), (60, 90))
    top = rounded_box((1.44, 1.04, 0.034), 0.006).moved((0, 0, -0.017))
    material = m.varnished(oak, m.values(worn, 0.28, 0.48))
    parts: list[o.Part] = [(top, material)]
    for sx in (-1, 1):
        for sy in (-1, 1):
            leg = rounded_box((0.07, 0.07, -FLOOR - 0.034), 0.006).moved((sx * 0.64, sy * 0.44, (FLOOR - 0.034) / 2))
            parts.append((leg, m.glossy((0.46, 0.30, 0.17), 0.3)))
    return parts


def still_life(rng: np.random.Generator) -> list[o.Part]:
    """Everything on the table, within 0.3 m of the origin."""
    linen = o.napkin(rng, (0.40, 0.40), [(0.0, -0.02, 0.17), (0.1, 0.1, 0.08)])
    parts = o.moved(linen, 0.085, -0.045, 0.0, 18)
    cloth_top = 0.0014
    parts += o.moved(o.teapot(rng), 0.115, -0.045, cloth_top, -42)
    parts += o.moved(o.mug(rng), 0.205, 0.105, 0.0, 25)
    parts += o.moved(o.vase(rng) + o.sprigs(rng), 0.055, 0.165, 0.0, 15)
    parts += o.moved(o.candlestick(rng), 0.000, 0.045, 0.0)
    parts += o.moved(o.bowl(rng) + o.fruit_in_bowl(rng), -0.105, -0.125, 0.0, 10)

    shelf = [
        ((0.215, 0.155, 0.034), BLUE, (0.86, 0.76, 0.50), "Rivers of Light", "M. Arden", 24.0, (-0.155, 0.110)),
        (
            (0.200, 0.140, 0.026),
            (0.55, 0.13, 0.12),
            (0.90, 0.80, 0.55),
            "The Quiet Table",
            "J. Holm",
            9.0,
            (-0.152, 0.112),
        ),
        (
            (0.180, 0.125, 0.022),
            (0.20, 0.36, 0.27),
            (0.88, 0.82, 0.66),
            "Orchard Notes",
            "E. Vale",
            38.0,
            (-0.157, 0.118),
        ),
    ]
    z = 0.0
    for size, cloth, ink, title, author, turn, (x, y) in shelf:
        parts += o.moved(o.book(rng, size, cloth, ink, title, author), x, y, z, turn)
        z += size[2]
    parts += o.moved(o.apple(rng, (0.70, 0.12, 0.09), (0.82, 0.66, 0.28)), -0.165, 0.135, z, 130)

    colours = [RED, BLUE, GREEN, OCHRE]
    parts += o.moved(o.block(rng, "ABDEKA", colours), 0.045, -0.225, cloth_top, 33)
    parts += o.moved(o.block(rng, "CSBRMC", colours[1:] + colours[:1]), 0.097, -0.252, cloth_top, 8)
    parts += o.moved(o.block(rng, "OGTNBO", colours[2:] + colours[:2]), 0.068, -0.236, cloth_top + 0.042, -22)
    parts += o.moved(o.die((0.93, 0.91, 0.86), (0.08, 0.08, 0.08)), -0.010, -0.270, 0.0, 20)
    parts += o.moved(o.die((0.62, 0.08, 0.09), (0.95, 0.93, 0.90)), 0.018, -0.296, 0.0, 61)
    lying = rotation("z", 115) @ rotation("y", 90)
    parts += [
        (mesh.placed(lying, (0.205, -0.175, 0.0285)), mat)
        for mesh, mat in o.citrus(rng, o.LEMON, (0.94, 0.79, 0.16), 0.057)
    ]
    parts += o.moved(o.citrus(rng, o.ORANGE, (0.93, 0.46, 0.06), 0.076), -0.275, -0.015, 0.0, 200)
    return parts


def lights() -> dict[str, Any]:
    """A window in the -x wall (daylight) and a large warm shade under the ceiling."""
    return {
        "window": _lamp((-HALF_X + 0.01, 0, 1.23), (0.9, 0.48), (1, 0, 0), (11.5, 13.0, 14.8)),
        "shade": _lamp((0.35, -0.15, CEILING - 0.06), (0.75, 0.6), (0, 0, -1), (4.0, 3.65, 3.2)),
    }


def _lamp(
    centre: tuple[float, ...], half: tuple[float, float], facing: tuple[float, ...], radiance: tuple[float, ...]
) -> dict[str, Any]:
    up = (0, 0, 1) if facing[2] == 0 else (0, 1, 0)
    transform = mi.ScalarTransform4f
    target = [c + f for c, f in zip(centre, facing, strict=True)]
    place = transform().look_at(origin=list(centre), target=target, up=list(up)) @ transform().scale(
        [half[0], half[1], 1]
    )
    return {
        "type": "rectangle",
        "to_world": place,
        "emitter": {"type": "area", "radiance": {"type": "rgb", "value": list(radiance)}},
    }


def _shape(name: str, mesh: Mesh, material: m.Description) -> Any:
    """A Mitsuba mesh; v is flipped, as Mitsuba's pictures begin with their upper row at v = 0."""
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(material)
    shape = mi.Mesh(
        name, len(mesh.vertices), len(mesh.faces), has_vertex_normals=True, has_vertex_texcoords=True, props=properties
    )
    data = mi.traverse(shape)
    data["vertex_positions"] = mi.Float(np.ravel(mesh.vertices).astype(np.float32))
    data["vertex_normals"] = mi.Float(np.ravel(mesh.normals()).astype(np.float32))
    data["vertex_texcoords"] = mi.Float(np.ravel(mesh.uv * [1, -1] + [0, 1]).astype(np.float32))
    data["faces"] = mi.UInt32(np.ravel(mesh.faces).astype(np.uint32))
    data.update()
    return shape


def build(seed: int) -> Any:
    """The Mitsuba scene of a seed, without camera and integrator."""
    scene: dict[str, Any] = {"type": "scene", **lights()}
    parts: list[o.Part] = []
    for number, make in enumerate((table, still_life, room)):
        parts += make(np.random.default_rng([seed, number]))
    for i, (mesh, material) in enumerate(parts):
        scene[f"part_{i:03d}"] = _shape(f"part_{i:03d}", mesh, material)
    return mi.load_dict(scene)
