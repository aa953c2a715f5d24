"""Mitsuba BSDF descriptions (plain dictionaries) for the textures and surfaces of the still life."""

from __future__ import annotations

from typing import Any

import mitsuba as mi
import numpy as np

from .textures import Array, Colour

Description = dict[str, Any]


def linear(colour: Colour) -> list[float]:
    """sRGB to linear light."""
    c = np.asarray(colour, float)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).tolist()


def paint(colour: Colour | Array) -> Description:
    """A reflectance: one sRGB colour, or a picture laid over the texture coordinates."""
    if isinstance(colour, np.ndarray):
        pixels = (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8)
        return {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(pixels)), "wrap_mode": "repeat"}
    return {"type": "rgb", "value": linear(colour)}


def values(heights: Array, low: float, high: float) -> Description:
    """A scalar texture running from `low` to `high` over the range [0, 1] of a picture (H, W)."""
    pixels = (low + (high - low) * np.clip(heights, 0, 1)).astype(np.float32)[..., None]
    return {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(pixels)), "raw": True, "wrap_mode": "repeat"}


def matte(colour: Colour | Array) -> Description:
    """Plaster, paper, wax: perfectly diffuse, seen from both sides."""
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": paint(colour)}}


def glossy(colour: Colour | Array, roughness: float, ior: float = 1.5) -> Description:
    """A diffuse body under a clear coat: glaze (0.05), fruit skin (0.2), varnish (0.15)."""
    coat = {
        "type": "roughplastic",
        "distribution": "ggx",
        "diffuse_reflectance": paint(colour),
        "alpha": roughness,
        "int_ior": ior,
        "nonlinear": True,
    }
    return {"type": "twosided", "bsdf": coat}


def fabric(colour: Colour | Array) -> Description:
    """Cloth: rough, with a sheen at grazing angles."""
    return {
        "type": "twosided",
        "bsdf": {
            "type": "principled",
            "base_color": paint(colour),
            "roughness": 0.85,
            "specular": 0.2,
            "sheen": 0.6,
            "sheen_tint": 0.5,
        },
    }


def varnished(colour: Array, roughness: Description) -> Description:
    """Wood with a worn varnish of varying roughness."""
    return {
        "type": "twosided",
        "bsdf": {"type": "principled", "base_color": paint(colour), "roughness": roughness, "specular": 0.35},
    }


def brushed(colour: Colour | Array, along_u: float, along_v: float) -> Description:
    """Metal of a colour with anisotropic scratches: GGX roughness along u and along v."""
    return {
        "type": "twosided",
        "bsdf": {
            "type": "roughconductor",
            "material": "none",
            "specular_reflectance": paint(colour),
            "distribution": "ggx",
            "alpha_u": along_u,
            "alpha_v": along_v,
        },
    }


def embossed(heights: Array, depth: float, below: Description) -> Description:
    """A surface whose shading follows a height field (H, W) in [-1, 1], `depth` in metres."""
    texture = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(heights.astype(np.float32)[..., None])),
        "raw": True,
        "wrap_mode": "repeat",
    }
    return {"type": "bumpmap", "arbitrary": texture, "scale": depth, "bsdf": below}
