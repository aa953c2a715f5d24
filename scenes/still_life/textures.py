"""Procedural pictures: wood, cloth, plaster, fruit skin, painted ceramics, printed labels.

Every function returns float sRGB (H, W, 3) in [0, 1], or a height field (H, W), and draws only from the given
generator.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray
Colour = tuple[float, float, float]


def field(rng: np.random.Generator, shape: tuple[int, int], size: tuple[float, float], slope: float = 1.6) -> Array:
    """A tileable Gaussian random field (H, W), mean 0 and variance 1, features of about `size` (rows, columns) pixels.

    The amplitude falls with frequency as a power law of exponent `slope`, made by filtering white noise.
    """
    fy = np.fft.fftfreq(shape[0])[:, None] * size[0]
    fx = np.fft.rfftfreq(shape[1])[None] * size[1]
    white = np.fft.rfft2(rng.normal(size=shape))
    out = np.fft.irfft2(white * (1 + fx**2 + fy**2) ** -slope, s=shape)
    out -= out.mean()
    return out / out.std()


def mix(a: Colour | Array, b: Colour | Array, t: Array) -> Array:
    """a where t is 0, b where t is 1; colours broadcast over the picture t (H, W)."""
    t = np.clip(t, 0, 1)[..., None]
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


def wood(
    rng: np.random.Generator,
    shape: tuple[int, int],
    length: float,
    planks: int,
    light: Colour,
    dark: Colour,
    gap: float = 0.0012,
) -> Array:
    """Planks along u, `length` metres long, sawn from a log: warped growth rings, fibres, pores, thin dark gaps."""
    h, w = shape
    rows = np.array_split(np.arange(h), planks)
    metre = length / w
    out = np.empty((h, w, 3))
    for plank in rows:
        size = (len(plank), w)
        x = np.arange(w)[None] * metre
        y = (np.arange(len(plank))[:, None] - rng.uniform(-0.3, 1.3) * len(plank)) * metre
        warp = 0.006 * field(rng, size, (0.03 / metre, 0.35 / metre), 2.0)
        depth = rng.uniform(0.02, 0.06) + 0.03 * np.sin(x * rng.uniform(1.5, 4) + rng.uniform(0, 6)) + warp
        ring = np.sqrt(y**2 + depth**2) / rng.uniform(0.0045, 0.007)
        ring += 0.12 * field(rng, size, (0.002 / metre, 0.12 / metre))
        late = (ring % 1.0) ** 2.5
        fibre = field(rng, size, (0.0012 / metre, 0.05 / metre), 1.2)
        pores = np.clip(field(rng, size, (0.0008 / metre, 0.012 / metre), 1.0) - 1.7, 0, 1)
        shade = 0.30 + 0.42 * late + 0.10 * fibre + 0.55 * pores + rng.normal(0, 0.07)
        colour = mix(light, dark, shade) * (1 + rng.normal(0, 0.012, 3))
        edge = np.minimum(np.arange(len(plank)), np.arange(len(plank))[::-1])[:, None] * metre
        out[plank] = colour * np.where(edge < gap, 0.35 + 0.5 * edge / max(gap, metre), 1.0)[..., None]
    return np.clip(out, 0, 1)


def cloth(rng: np.random.Generator, shape: tuple[int, int], colour: Colour | Array, threads: tuple[int, int]) -> Array:
    """A plain weave of (across, along) threads; thread thickness and dye vary."""
    h, w = shape
    v, u = np.mgrid[0:h, 0:w]
    a, b = u / w * threads[1], v / h * threads[0]
    over = (np.floor(a) + np.floor(b)) % 2
    profile = np.where(over > 0, np.sin(np.pi * (a % 1)), np.sin(np.pi * (b % 1)))
    slub = field(rng, shape, (h / threads[0], w / 6)) * (over > 0) + field(rng, shape, (h / 6, w / threads[1])) * (
        over == 0
    )
    tint = field(rng, shape, (h / 5, w / 5))
    gain = (0.80 + 0.22 * profile) * (1 + 0.10 * slub + 0.035 * tint)
    return np.clip(np.asarray(colour) * gain[..., None], 0, 1)


def mottled(rng: np.random.Generator, shape: tuple[int, int], colour: Colour, amount: float, size: float) -> Array:
    """A colour with soft blotches and a faint fine grain, such as plaster, paper or glaze."""
    blotch = field(rng, shape, (size, size)) + 0.4 * field(rng, shape, (3, 3), 1.0)
    tint = field(rng, shape, (size * 2, size * 2))[..., None] * np.array([0.4, 0.0, -0.4]) * amount
    return np.clip(np.asarray(colour) * (1 + amount * blotch[..., None] + tint), 0, 1)


def speckled(
    rng: np.random.Generator, shape: tuple[int, int], base: Array, colour: Colour, share: float, size: float
) -> Array:
    """Small spots of a colour covering about `share` of a picture."""
    noise = field(rng, shape, (size, size), 2.2)
    threshold = np.quantile(noise, 1 - share)
    return mix(base, colour, (noise - threshold) * 6)


def apple_skin(rng: np.random.Generator, shape: tuple[int, int], blush: Colour, ground: Colour) -> Array:
    """Streaks of blush over a ground colour, from stalk (v = 1) to calyx, with pale lenticels."""
    h, w = shape
    v = np.linspace(1, 0, h)[:, None]
    streaks = field(rng, shape, (h, w / 90), 1.0)
    patch = field(rng, shape, (h / 1.5, w / 2.5), 2.0)
    amount = 0.62 + 0.30 * patch + 0.13 * streaks - 1.6 * np.clip(0.14 - v, 0, 1) - 3.2 * np.clip(v - 0.86, 0, 1)
    skin = mix(ground, blush, amount)
    skin = mix(skin, np.asarray(blush) * 0.55, 0.25 * np.clip(streaks - 0.6, 0, 1))
    return speckled(rng, shape, skin, (0.90, 0.78, 0.50), 0.006, 5)


def citrus_skin(rng: np.random.Generator, shape: tuple[int, int], colour: Colour) -> tuple[Array, Array]:
    """Colour, and a height field in [-1, 0] of the oil glands' pits."""
    pits = -np.clip(field(rng, shape, (16, 16), 2.5) - 0.25, 0, 1.6) / 1.6
    skin = mottled(rng, shape, colour, 0.035, shape[0] / 3)
    return np.clip(skin * (1 + 0.05 * pits[..., None]), 0, 1), pits


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A DejaVu font, which matplotlib carries on every system."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def to_image(picture: Array) -> Image.Image:
    """A pillow image of a float picture."""
    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def to_array(image: Image.Image) -> Array:
    """A float picture of a pillow image."""
    return np.asarray(image.convert("RGB"), np.float64) / 255


def rgb(colour: Colour) -> tuple[int, int, int]:
    """8-bit version of a colour."""
    return (round(colour[0] * 255), round(colour[1] * 255), round(colour[2] * 255))


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: ImageFont.FreeTypeFont, colour: Colour
) -> None:
    """Text centred at a pixel."""
    draw.text(at, text, fill=rgb(colour), font=face, anchor="mm")


def book_spine(rng: np.random.Generator, colour: Colour, ink: Colour, title: str, author: str) -> Array:
    """Cloth with a title, author and rules, read along the spine."""
    image = to_image(cloth(rng, (192, 1280), colour, (36, 240)))
    draw = ImageDraw.Draw(image)
    for x in (70, 84, 1196, 1210):
        draw.rectangle([x, 0, x + 5, 192], fill=rgb(ink))
    write(draw, (520, 96), title, font("DejaVuSerif-Bold", 84), ink)
    write(draw, (1020, 98), author, font("DejaVuSans", 52), ink)
    return to_array(image)


def book_cover(rng: np.random.Generator, colour: Colour, ink: Colour, paper: Colour, title: str, author: str) -> Array:
    """Cloth with a frame and a pasted paper label."""
    image = to_image(cloth(rng, (1280, 900), colour, (240, 170)))
    draw = ImageDraw.Draw(image)
    draw.rectangle([40, 40, 860, 1240], outline=rgb(ink), width=9)
    draw.rectangle([62, 62, 838, 1218], outline=rgb(ink), width=3)
    draw.rectangle([170, 230, 730, 640], fill=rgb(paper))
    draw.rectangle([188, 248, 712, 622], outline=rgb(colour), width=6)
    lines = title.split(" ")
    for i, line in enumerate(lines):
        write(draw, (450, 350 + (i - (len(lines) - 1) / 2) * 92), line, font("DejaVuSerif-Bold", 78), colour)
    write(draw, (450, 560), author, font("DejaVuSerif", 46), (0.2, 0.17, 0.15))
    for i in range(12):
        angle = i * np.pi / 6
        c, s = np.cos(angle), np.sin(angle)
        draw.line([450 + 40 * c, 930 + 40 * s, 450 + 120 * c, 930 + 120 * s], fill=rgb(ink), width=9)
        draw.ellipse([450 + 145 * c - 14, 930 + 145 * s - 14, 450 + 145 * c + 14, 930 + 145 * s + 14], fill=rgb(ink))
    return to_array(image)


def page_edges(rng: np.random.Generator) -> Array:
    """The cut edge of a block of pages: thin lines along u."""
    lines = rng.normal(0, 0.05, (96, 1)) + 0.015 * field(rng, (96, 512), (2, 200))
    return np.clip(np.array([0.90, 0.85, 0.73]) * (1 + lines[..., None]), 0, 1)


def toy_block(rng: np.random.Generator, letters: str, colours: list[Colour]) -> Array:
    """A 3 x 2 atlas of pale wooden faces, each with a coloured frame and a letter."""
    cell = 320
    out = np.empty((2 * cell, 3 * cell, 3))
    for i in range(6):
        image = to_image(wood(rng, (cell, cell), 0.05, 1, (0.93, 0.79, 0.58), (0.76, 0.57, 0.36), gap=0.0))
        draw = ImageDraw.Draw(image)
        colour = colours[i % len(colours)]
        draw.rounded_rectangle([34, 34, cell - 34, cell - 34], 26, outline=rgb(colour), width=15)
        write(draw, (cell / 2, cell / 2), letters[i % len(letters)], font("DejaVuSerif-Bold", 190), colour)
        row, column = divmod(i, 3)
        out[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = to_array(image)
    return out


def die_faces(colour: Colour, pip: Colour) -> Array:
    """A 3 x 2 atlas of a die in the order of `shapes.rounded_box`; opposite faces add to seven."""
    cell, spots = 192, {1: "e", 2: "ai", 3: "aei", 4: "acgi", 5: "acegi", 6: "adgcfi"}
    image = Image.new("RGB", (3 * cell, 2 * cell), rgb(colour))
    draw = ImageDraw.Draw(image)
    for i, value in enumerate((3, 4, 2, 5, 6, 1)):
        for spot in spots[value]:
            row, column = divmod("abcdefghi".index(spot), 3)
            x, y = (i % 3 + 0.24 + 0.26 * column) * cell, (i // 3 + 0.24 + 0.26 * row) * cell
            draw.ellipse([x - 18, y - 18, x + 18, y + 18], fill=rgb(pip))
    return to_array(image)


def painted_vase(rng: np.random.Generator) -> Array:
    """Cobalt brushwork on white glaze: rules, waves, petals and leaves in bands."""
    w, h = 2048, 1536
    layer = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(layer)
    for y, thick in ((150, 16), (190, 6), (560, 14), (600, 6), (1010, 6), (1046, 14), (1290, 8), (1330, 34)):
        draw.rectangle([0, y, w, y + thick], fill=235)
    x = np.arange(0, w + 8, 8)
    for phase in (0.0, np.pi):
        wave = 1168 + 62 * np.sin(x / w * 2 * np.pi * 16 + phase)
        draw.line(list(zip(x.tolist(), wave.tolist(), strict=True)), fill=210, width=13)
    for i in range(32):
        draw.ellipse([i * 64 + 16 - 12, 1156, i * 64 + 16 + 12, 1180], fill=240)
    for i in range(8):
        cx, cy = (i + 0.5) * w / 8, 805.0
        for petal in range(10):
            angle = petal * np.pi / 5
            px, py = cx + 74 * np.cos(angle), cy + 74 * np.sin(angle)
            draw.ellipse([px - 36, py - 36, px + 36, py + 36], fill=150, outline=240, width=7)
        draw.ellipse([cx - 34, cy - 34, cx + 34, cy + 34], fill=255)
        for side in (-1, 1):
            for k in range(3):
                lx, ly = cx + 128, cy + side * (52 + 46 * k)
                draw.polygon([(lx, ly - 26), (lx + side * 30, ly), (lx, ly + 26), (lx - side * 30, ly)], fill=200)
    for i in range(24):
        cx = (i + 0.5) * w / 24
        draw.polygon(
            [(cx - 38, 240), (cx + 38, 240), (cx + 16, 400), (cx, 530), (cx - 16, 400)], fill=175, outline=240, width=6
        )
    ink = np.asarray(layer, float) / 255
    ink = ink * (1 + 0.16 * field(rng, (h, w), (30, 30))) * (ink > 0)
    base = mottled(rng, (h, w), (0.90, 0.91, 0.90), 0.015, 160)
    return mix(base, (0.06, 0.14, 0.44), ink)


def painted_mug(rng: np.random.Generator) -> Array:
    """Rows of triangles and dots in three colours on a cream glaze."""
    w, h = 1536, 768
    image = to_image(mottled(rng, (h, w), (0.93, 0.89, 0.80), 0.015, 120))
    draw = ImageDraw.Draw(image)
    red, teal, ochre = (0.74, 0.22, 0.16), (0.10, 0.38, 0.40), (0.86, 0.58, 0.16)
    for i in range(16):
        x = i * w / 16
        draw.polygon([(x + 6, 330), (x + 90, 330), (x + 48, 214)], fill=rgb(red if i % 2 else teal))
        draw.polygon([(x + 6, 344), (x + 90, 344), (x + 48, 460)], fill=rgb(teal if i % 2 else red))
        draw.ellipse([x + 32, 500, x + 64, 532], fill=rgb(ochre))
        draw.ellipse([x + 32, 142, x + 64, 174], fill=rgb(ochre))
    for y in (104, 560):
        draw.rectangle([0, y, w, y + 14], fill=rgb(teal))
    draw.rectangle([0, 600, w, h], fill=rgb(red))
    return to_array(image)


def rug(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """A woven rug: borders and a lattice of lozenges, colours abraded."""
    h, w = shape
    v, u = np.mgrid[0:h, 0:w] / np.array([h, w])[:, None, None]
    edge = np.minimum(np.minimum(u, 1 - u) * w, np.minimum(v, 1 - v) * h) / h
    lozenge = np.abs((u * 9 * w / h) % 1 - 0.5) + np.abs((v * 9) % 1 - 0.5)
    colour = mix((0.44, 0.16, 0.13), (0.66, 0.52, 0.36), (lozenge < 0.30).astype(float))
    colour = mix(colour, (0.16, 0.22, 0.32), (lozenge < 0.16).astype(float))
    colour = mix(colour, (0.16, 0.20, 0.29), (edge < 0.12).astype(float))
    colour = mix(colour, (0.68, 0.56, 0.41), ((edge < 0.095) & (edge > 0.07)).astype(float))
    return np.clip(
        colour
        * (1 + 0.10 * field(rng, shape, (4, 4))[..., None] + 0.06 * field(rng, shape, (h / 6, w / 6))[..., None]),
        0,
        1,
    )
