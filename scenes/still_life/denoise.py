"""Removal of the path tracer's remaining noise: joint non-local means on radiance freed from texture.

Dividing by the albedo of the first hit leaves light alone, which is smooth; what is averaged is the light, so texture
stays as sharp as rendered. Weights follow Rousselle et al., "Robust Denoising using Feature and Color Information"
(2013): differences of light are measured against the variance of the passes, differences of features against fixed
widths.
"""

from __future__ import annotations

import numpy as np

from .shapes import Array

RADIUS = 5
STRENGTH = 0.6  # bandwidth on the light, in standard deviations of its noise
NORMAL_WIDTH, DEPTH_WIDTH, ALBEDO_WIDTH = 0.12, 0.012, 0.08


def _box(image: Array, radius: int) -> Array:
    """The mean over a square window, edges repeated."""
    for axis in (0, 1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        total = np.zeros_like(image)
        for i in range(2 * radius + 1):
            total += padded.take(range(i, i + image.shape[axis]), axis)
        image = total / (2 * radius + 1)
    return image


def _shift(image: Array, dy: int, dx: int) -> Array:
    """out[y, x] = image[y + dy, x + dx], edges repeated."""
    h, w = image.shape[:2]
    rows, columns = np.clip(np.arange(h) + dy, 0, h - 1), np.clip(np.arange(w) + dx, 0, w - 1)
    return image[rows][:, columns]


def _without_stray_paths(light: Array) -> Array:
    """Passes (P, H, W, 3) with single bright samples ("fireflies") cut down.

    First against the other passes of the pixel; then, where the passes disagree, against the pixels around.
    """
    light = np.minimum(light, 0.005 + 2.5 * np.median(light, axis=0))
    mean = light.mean(0)
    error = light.std(0, ddof=1) / np.sqrt(len(light))
    around = np.median([_shift(mean, dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)], axis=0)
    limit = np.where(error > 0.1 * mean, 1.5 * around, np.inf)
    return np.minimum(light, limit)


def denoise(passes: Array, albedo: Array, normal: Array, depth: Array) -> Array:
    """The mean of independent renderings (P, H, W, 3), denoised; albedo and normal (H, W, 3), depth (H, W)."""
    texture = albedo + 0.03
    light = _without_stray_paths(passes / texture)
    mean = light.mean(0)
    variance = _box(light.var(0, ddof=1) / len(light), 2)
    total, out = np.zeros(mean.shape[:2]), np.zeros_like(mean)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            other, other_variance = _shift(mean, dy, dx), _shift(variance, dy, dx)
            difference = (mean - other) ** 2 - (variance + np.minimum(variance, other_variance))
            distance = (difference / (1e-5 + STRENGTH**2 * (variance + other_variance))).mean(-1)
            features = ((normal - _shift(normal, dy, dx)) ** 2).sum(-1) / NORMAL_WIDTH**2
            features += ((albedo - _shift(albedo, dy, dx)) ** 2).sum(-1) / ALBEDO_WIDTH**2
            features += ((depth - _shift(depth, dy, dx)) / (DEPTH_WIDTH * depth)) ** 2
            weight = np.exp(-np.maximum(_box(distance, 1), 0) - features / 2)
            total += weight
            out += weight[..., None] * other
    return out / total[..., None] * texture
