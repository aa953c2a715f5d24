"""The things on the table. Each function returns (mesh, material) parts standing on z = 0 around the origin."""

from __future__ import annotations

import numpy as np

from . import materials as m
from . import textures as t
from .shapes import Array, Mesh, displaced, grid, join, mm, revolve, rotation, rounded_box, smooth_curve, tube

Part = tuple[Mesh, m.Description]
Rng = np.random.Generator

BRASS = (0.93, 0.80, 0.52)


def moved(parts: list[Part], x: float, y: float, z: float = 0.0, turn: float = 0.0) -> list[Part]:
    """Parts turned by `turn` degrees about z and shifted."""
    return [(mesh.moved((x, y, z), turn), material) for mesh, material in parts]


def teapot(rng: Rng) -> list[Part]:
    """A celadon teapot with a lid, 0.13 m high; the spout points along +x."""
    glaze = t.mottled(rng, (768, 1536), (0.33, 0.53, 0.47), 0.05, 90)
    height = np.linspace(1, 0, 768)[:, None] + 0.02 * t.field(rng, (768, 1536), (60, 60))
    glaze = t.mix(glaze, (0.55, 0.40, 0.24), np.clip((0.10 - height) * 30, 0, 1) * 0.8)
    glaze = t.speckled(rng, glaze.shape[:2], glaze, (0.20, 0.24, 0.20), 0.012, 5)
    body = revolve(mm("0 0, 40 0, 43 3, 42 8, 64 28, 75 56, 68 83, 45 101, 36 105, 35 108, 30 108, 30 100"))
    lid = revolve(
        mm("33.5 107.5, 33.5 110, 27 116, 12 120.5, 6.5 123, 6 127, 11.5 133, 10.5 139, 5 142, 0 142.5"),
        100,
        96,
    )
    spout = tube(
        mm("50 0 40, 78 0 48, 100 0 70, 108 0 92, 122 0 106"),
        np.array([0.022, 0.019, 0.0135, 0.0105, 0.0095]),
    )
    mouth = tube(mm("122 0 106, 119 0 102.5"), np.array([0.0095, 0.0005]), 8)
    handle = tube(
        mm("-56 0 90, -80 0 104, -106 0 96, -114 0 70, -98 0 46, -64 0 34"),
        np.array([0.0085, 0.0075, 0.007, 0.007, 0.007, 0.0085]),
        flatten=0.7,
    )
    material = m.glossy(glaze, 0.045)
    return [(part, material) for part in (body, lid, join(spout, handle))] + [(mouth, m.matte((0.1, 0.1, 0.09)))]


def vase(rng: Rng) -> list[Part]:
    """A blue-and-white vase, 0.19 m high."""
    outside = revolve(mm("34 0, 36 3, 38 10, 53 55, 58 90, 47 128, 27 156, 23 168, 26 182, 33 190"))
    inside = revolve(mm("33 190, 30 189.5, 22 178, 19 166, 23 150, 0 130"), 60)
    return [(outside, m.glossy(t.painted_vase(rng), 0.04)), (inside, m.glossy((0.80, 0.82, 0.82), 0.08))]


def sprigs(rng: Rng) -> list[Part]:
    """Stems with pairs of round, slightly cupped leaves, standing in the vase."""
    stems, leaves = [], []
    for angle, lean, length in (
        (0.5, 0.42, 0.21),
        (2.3, 0.5, 0.19),
        (3.9, 0.35, 0.23),
        (5.4, 0.55, 0.18),
        (1.4, 0.12, 0.24),
    ):
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        s = np.array([0.0, 0.3, 0.65, 1.0])[:, None]
        knots = (
            np.array([0, 0, 0.14])
            + out * (0.005 + lean * length * s**1.6)
            + np.array([0, 0, 1.0]) * length * (s - 0.22 * lean * s**2)
        )
        knots[1:] += rng.normal(0, 0.004, (3, 3))
        stems.append(tube(knots, np.array([0.0020, 0.0018, 0.0014, 0.0008]), 40, 8))
        path = smooth_curve(knots, 60)
        for k, i in enumerate(range(20, 60, 5)):
            along = path[min(i + 1, 59)] - path[i - 1]
            along /= np.linalg.norm(along)
            side = np.cross(along, [np.cos(k * 1.7), np.sin(k * 1.7), 0.1])
            side /= np.linalg.norm(side)
            size = (0.0185 - 0.010 * (i - 20) / 40) * rng.uniform(0.85, 1.15)
            for sign in (-1.0, 1.0):
                leaves.append(_leaf(rng, path[i], sign * side * 0.9 + along * rng.uniform(0.1, 0.6), along, size))
    green = np.clip(t.mottled(rng, (256, 256), (0.38, 0.50, 0.40), 0.10, 60), 0, 1)
    return [(join(*stems), m.glossy((0.35, 0.27, 0.17), 0.3)), (join(*leaves), m.glossy(green, 0.28))]


def _leaf(rng: Rng, base: Array, direction: Array, stem: Array, size: float) -> Mesh:
    direction = direction / np.linalg.norm(direction)
    across = np.cross(stem, direction)
    across /= np.linalg.norm(across)
    normal = np.cross(direction, across)
    s, a = np.meshgrid(np.linspace(0.02, 1, 9), np.linspace(-1, 1, 9), indexing="ij")
    width = np.sqrt(np.clip(s * (1 - s), 0, 1)) * 2 * 0.92
    lift = 0.25 * (a * width / 2) ** 2 + rng.uniform(-0.25, 0.15) * s**2
    points = 2 * size * (s[..., None] * direction + 0.5 * (a * width)[..., None] * across + lift[..., None] * normal)
    leaf = grid(base + points)
    patch = rng.uniform(0, 0.8, 2)
    return Mesh(leaf.vertices, leaf.faces, patch + 0.2 * leaf.uv)


def mug(rng: Rng) -> list[Part]:
    """A painted stoneware mug, 0.09 m high, with tea in it; the handle points along +x."""
    outside = revolve(mm("30 0, 34 2, 38 8, 40 30, 40 60, 41 88, 40.5 90.5"))
    inside = revolve(mm("40.5 90.5, 39 91.5, 37.5 89.5, 36.5 70, 36.5 50"), 50)
    tea = revolve(mm("36.8 75.5, 0 75.5"), 4)
    handle = tube(
        mm("38 0 72, 58 0 78, 70 0 60, 66 0 36, 38 0 22"),
        np.array([0.0065, 0.0058, 0.0055, 0.0055, 0.0065]),
        flatten=1.25,
    )
    return [
        (outside, m.glossy(t.painted_mug(rng), 0.045)),
        (join(inside, handle), m.glossy((0.92, 0.88, 0.79), 0.06)),
        (tea, m.glossy((0.30, 0.12, 0.04), 0.05, 1.33)),
    ]


def candlestick(rng: Rng) -> list[Part]:
    """A turned, brushed brass candlestick with a used candle, 0.24 m high in all."""
    brass = revolve(
        mm(
            "0 0, 44 0, 46 3, 44 7, 30 11, 16 18, 9 28, 8 40, 15.5 50, 15.5 54, 8 63, 6.5 85, 9 100, "
            "13.5 106, 9 112, 10 117, 24 124, 24.5 127, 14 129, 13.5 146, 11.5 147"
        ),
        320,
    )
    candle = revolve(
        mm("10.5 135, 10.8 160, 10.5 226, 9.5 232, 6 230.5, 0 229"),
        80,
        64,
    )
    candle = displaced(candle, rng, 0.00012, scale=90)
    drips = [
        tube(
            np.array([(np.cos(a) * 0.0108, np.sin(a) * 0.0108, z) for z in (0.230, 0.222, 0.232 - length)]),
            np.array([0.0010, 0.0015, 0.0021]),
            24,
            12,
        )
        for a, length in ((0.4, 0.035), (2.9, 0.055), (4.6, 0.024))
    ]
    wick = tube(mm("0 0 228, 0.6 0 236, 2 0 241"), np.array([0.0009, 0.0009, 0.0007]), 12, 8)
    return [
        (brass, m.brushed(BRASS, 0.12, 0.26)),
        (join(candle, *drips), m.glossy((0.90, 0.84, 0.70), 0.35)),
        (wick, m.matte((0.08, 0.07, 0.06))),
    ]


def book(
    rng: Rng, size: tuple[float, float, float], cloth: t.Colour, ink: t.Colour, title: str, author: str
) -> list[Part]:
    """A clothbound book lying flat: (height of the page, width, thickness); the spine faces -y."""
    length, width, thick = size
    board = 0.0026
    cover = t.book_cover(rng, cloth, ink, (0.90, 0.86, 0.76), title, author)
    top = rounded_box((width, length, board), 0.0009).moved((0, 0, thick - board / 2), -90)
    bottom = rounded_box((width, length, board), 0.0009).moved((0, 0, board / 2), -90)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 25)[:, None]
    x = np.linspace(-length / 2, length / 2, 60)[None]
    bulge = -width / 2 + 0.001 - 0.006 * np.cos(angle)
    spine = grid(np.stack(np.broadcast_arrays(x, bulge, thick / 2 + thick / 2 * np.sin(angle)), -1))
    pages = rounded_box((length - 0.007, width - 0.007, thick - 2 * board), 0.0006).moved((0, -0.0035, thick / 2))
    return [
        (join(top, bottom), m.fabric(cover)),
        (spine, m.fabric(t.book_spine(rng, cloth, ink, title, author))),
        (pages, m.matte(t.page_edges(rng))),
    ]


def apple(rng: Rng, blush: t.Colour, ground: t.Colour) -> list[Part]:
    """An apple, 0.072 m across, with its stalk."""
    skin = revolve(mm("0 6, 6 3, 16 0, 26 6, 34 24, 36 42, 30 60, 18 66.5, 8 62, 2 56, 0 55.5"))
    around = np.arctan2(skin.vertices[:, 1], skin.vertices[:, 0])
    lobes = 1 + 0.03 * np.cos(5 * around) * np.clip(1 - skin.vertices[:, 2] / 0.05, 0, 1)
    skin = displaced(
        Mesh(skin.vertices * np.stack([lobes, lobes, np.ones_like(lobes)], 1), skin.faces, skin.uv), rng, 0.0011
    )
    stalk = tube(
        mm("0 0 54, 1 1 66, 5 2 76"),
        np.array([0.0013, 0.0011, 0.0017]),
        20,
        10,
    )
    return [(skin, m.glossy(t.apple_skin(rng, (640, 1024), blush, ground), 0.16)), (stalk, m.matte((0.30, 0.20, 0.11)))]


def citrus(rng: Rng, profile: Array, colour: t.Colour, size: float) -> list[Part]:
    """A citrus fruit with pitted skin; `profile` is scaled to `size` metres across."""
    profile = profile * size / (2 * profile[:, 0].max())
    mesh = displaced(revolve(profile), rng, 0.0010)
    skin, pits = t.citrus_skin(rng, (1024, 2048), colour)
    end = np.linspace(1, 0, 1024)[:, None] + np.zeros((1, 2048))
    skin = t.mix(skin, (0.30, 0.36, 0.14), np.clip((end - 0.975) * 80, 0, 1))
    return [(mesh, m.embossed(pits, 0.00025, m.glossy(skin, 0.22)))]


ORANGE = mm("0 0, 200 10, 600 200, 920 600, 1000 1000, 920 1400, 600 1800, 200 1965, 0 1955")
LEMON = mm("0 0, 130 20, 240 200, 600 550, 930 1050, 1000 1500, 920 1950, 580 2420, 200 2700, 100 2800, 0 2800")


def pear(rng: Rng) -> list[Part]:
    """A pear, 0.1 m high."""
    mesh = revolve(mm("0 4, 8 0, 24 6, 34 28, 30 52, 18 74, 12 88, 4 95, 0 94"))
    stalk = tube(
        mm("0 0 92, 2 1 104, 7 1 114"),
        np.array([0.0016, 0.0013, 0.0019]),
        20,
        10,
    )
    skin = t.apple_skin(rng, (640, 1024), (0.66, 0.50, 0.20), (0.68, 0.67, 0.27))
    skin = t.speckled(rng, skin.shape[:2], skin, (0.42, 0.34, 0.14), 0.03, 4)
    return [(displaced(mesh, rng, 0.0014), m.glossy(skin, 0.25)), (stalk, m.matte((0.27, 0.19, 0.11)))]


def bowl(rng: Rng) -> list[Part]:
    """A stoneware bowl, 0.19 m across: speckled cream outside, deep blue inside."""
    cream = t.speckled(
        rng, (512, 1536), t.mottled(rng, (512, 1536), (0.80, 0.74, 0.63), 0.03, 90), (0.36, 0.25, 0.17), 0.02, 6
    )
    rim = np.linspace(1, 0, 512)[:, None] + 0.012 * t.field(rng, (512, 1536), (40, 40))
    cream = t.mix(cream, (0.13, 0.23, 0.34), (rim - 0.80) * 40)
    blue = t.mottled(rng, (512, 1536), (0.12, 0.25, 0.38), 0.10, 60)
    outside = revolve(mm("0 0, 40 0, 43 3, 42 8, 70 26, 88 50, 94.5 68"))
    inside = revolve(mm("94.5 68, 93.5 69.5, 91 68, 83 49, 64 27, 34 14, 0 12"))
    return [(outside, m.glossy(cream, 0.10)), (inside, m.glossy(blue, 0.08))]


def block(rng: Rng, letters: str, colours: list[t.Colour]) -> list[Part]:
    """A wooden letter block with an edge of 0.042 m."""
    mesh = rounded_box((0.042, 0.042, 0.042), 0.0035, atlas=True).moved((0, 0, 0.021))
    return [(mesh, m.glossy(t.toy_block(rng, letters, colours), 0.3))]


def die(colour: t.Colour, pip: t.Colour) -> list[Part]:
    """A playing die with an edge of 0.018 m."""
    return [
        (
            rounded_box((0.018, 0.018, 0.018), 0.003, atlas=True).moved((0, 0, 0.009)),
            m.glossy(t.die_faces(colour, pip), 0.08),
        )
    ]


def napkin(rng: Rng, size: tuple[float, float], pressed: list[tuple[float, float, float]]) -> list[Part]:
    """A striped linen cloth with soft folds; it lies flat within each (x, y, radius) of `pressed`."""
    n = 220
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, n) * size[0], np.linspace(-0.5, 0.5, n) * size[1])
    wave = t.field(rng, (2 * n, 2 * n), (70, 40), 2.0)[:n, :n]
    free = np.ones((n, n))
    for cx, cy, radius in pressed:
        free *= 1 - np.exp(-((np.hypot(x - cx, y - cy) / radius) ** 6))
    z = 0.0012 + 0.0065 * free * np.clip(wave, 0, None)
    drift = 0.004 * t.field(rng, (2 * n, 2 * n), (120, 120), 2.0)[:n, :n]
    picture = t.cloth(rng, (1400, 1400), (0.82, 0.80, 0.75), (280, 280))
    v = np.linspace(0, 1, 1400)
    stripe = (
        sum(
            ((np.abs(v - at) < half) for at, half in ((0.06, 0.012), (0.095, 0.005), (0.94, 0.012), (0.905, 0.005))),
            np.zeros(1400),
        )
        > 0
    )
    tint = np.where(stripe, 1.0, 0.0)
    both = np.maximum(tint[:, None], tint[None])
    picture *= t.mix((1, 1, 1), (0.42, 0.53, 0.66), both)
    top = grid(np.stack([x + drift, y + drift.T, z], -1))
    return [(top, m.fabric(picture))]


def fruit_in_bowl(rng: Rng) -> list[Part]:
    """Fruit piled in the bowl of `bowl`."""
    red, green, orange = (0.66, 0.09, 0.08), (0.60, 0.64, 0.20), (0.93, 0.48, 0.07)
    parts = moved(apple(rng, red, (0.80, 0.62, 0.24)), 0.034, 0.022, 0.021, 40)
    parts += moved(apple(rng, (0.62, 0.66, 0.22), green), -0.040, 0.022, 0.024, 160)
    parts += moved(citrus(rng, ORANGE, orange, 0.074), -0.002, -0.042, 0.024, 70)
    tilt = rotation("z", 200) @ rotation("x", 68)
    parts += [(mesh.placed(tilt, (0.012, -0.052, 0.104)), material) for mesh, material in pear(rng)]
    return parts
