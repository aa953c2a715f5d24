"""Ray casting of a few primitives on a lit floor: soft shadows from an area light, one bounce of metal.

Frame: z up, the floor is z = 0. Colours are linear until a sample is written. An object is a row of `OBJECT` numbers:
kind, x, y, size, cos yaw, sin yaw, red, green, blue, metal.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from studio.kernels.cache import device, inline, kernel

SPHERE, CUBE, CYLINDER, CONE = 0, 1, 2, 3
OBJECT = 10
SUBSAMPLES = 3
"""Samples along each side of a pixel."""

CUBE_HALF, CYLINDER_RADIUS, CYLINDER_HALF, CONE_RADIUS, CONE_HEIGHT = 0.80, 0.82, 0.82, 1.0, 1.9
"""Times the size of an object, so that all kinds look about equally large; a sphere's radius is the size."""
BOUND = 1.40
"""Radius of a sphere around any of them, times the size."""

_FAR = 1e30
_NEAR = 1e-4
_LIGHT_WIDTH = 0.16
"""Half the side of the light, seen from the floor, as a tangent."""
_CUSHION = 0.55
_KEY, _SKY, _BOUNCE = 0.85, 0.42, 0.16
_FLOOR = (0.47, 0.455, 0.43)
_BACKDROP = (0.66, 0.66, 0.665)


@inline
def height_of(kind: Any, size: Any) -> Any:
    """Height of the middle of an object that stands on the floor."""
    if kind == CUBE:
        return CUBE_HALF * size
    if kind == CYLINDER:
        return CYLINDER_HALF * size
    if kind == CONE:
        return 0.5 * CONE_HEIGHT * size
    return size


@device
def hit(obj: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any) -> Any:
    """Distance along a unit ray to an object (`_FAR` where it misses), and the surface normal there."""
    kind, size = int(obj[0]), obj[3]
    cz = height_of(kind, size)
    px, py, pz = ox - obj[1], oy - obj[2], oz - cz
    # The sphere around it answers most rays.
    b = px * dx + py * dy + pz * dz
    squared = px * px + py * py + pz * pz
    bound = size if kind == SPHERE else BOUND * size
    inner = b * b - squared + bound * bound
    if inner <= 0.0 or (b > 0.0 and squared > bound * bound):
        return _FAR, 0.0, 0.0, 0.0
    if kind == SPHERE:
        t = -b - math.sqrt(inner)
        if t < _NEAR:
            return _FAR, 0.0, 0.0, 0.0
        return t, (px + t * dx) / size, (py + t * dy) / size, (pz + t * dz) / size
    if kind == CUBE:
        return _hit_cube(px, py, pz, dx, dy, dz, CUBE_HALF * size, obj[4], obj[5])
    if kind == CYLINDER:
        return _hit_cylinder(px, py, pz, dx, dy, dz, CYLINDER_RADIUS * size, CYLINDER_HALF * size)
    return _hit_cone(px, py, oz, dx, dy, dz, CONE_RADIUS * size, CONE_HEIGHT * size)


@device
def _hit_cube(px: Any, py: Any, pz: Any, dx: Any, dy: Any, dz: Any, half: Any, cos: Any, sin: Any) -> Any:
    qx, qy = cos * px + sin * py, cos * py - sin * px
    ex, ey = cos * dx + sin * dy, cos * dy - sin * dx
    low, high, axis = -_FAR, _FAR, 0
    for i in range(3):
        q = qx if i == 0 else (qy if i == 1 else pz)
        e = ex if i == 0 else (ey if i == 1 else dz)
        if abs(e) < 1e-12:
            if abs(q) > half:
                return _FAR, 0.0, 0.0, 0.0
            continue
        near, far = (-half - q) / e, (half - q) / e
        if near > far:
            near, far = far, near
        if near > low:
            low, axis = near, i
        high = min(high, far)
    if low > high or low < _NEAR:
        return _FAR, 0.0, 0.0, 0.0
    if axis == 2:
        return low, 0.0, 0.0, -1.0 if dz > 0.0 else 1.0
    if axis == 0:
        side = -1.0 if ex > 0.0 else 1.0
        return low, side * cos, side * sin, 0.0
    side = -1.0 if ey > 0.0 else 1.0
    return low, -side * sin, side * cos, 0.0


@device
def _hit_cylinder(px: Any, py: Any, pz: Any, dx: Any, dy: Any, dz: Any, radius: Any, half: Any) -> Any:
    best, nx, ny, nz = _FAR, 0.0, 0.0, 0.0
    a = dx * dx + dy * dy
    b = px * dx + py * dy
    inner = b * b - a * (px * px + py * py - radius * radius)
    if inner <= 0.0:
        # Outside the mantle's infinite tube, so outside the lid, too; along the axis `a` and so `inner` are zero.
        if a > 1e-12 or px * px + py * py > radius * radius:
            return _FAR, 0.0, 0.0, 0.0
    else:
        t = (-b - math.sqrt(inner)) / a
        if t > _NEAR and abs(pz + t * dz) <= half:
            best, nx, ny = t, (px + t * dx) / radius, (py + t * dy) / radius
    if dz < 0.0 and pz > half:
        t = (half - pz) / dz
        x, y = px + t * dx, py + t * dy
        if _NEAR < t < best and x * x + y * y <= radius * radius:
            best, nx, ny, nz = t, 0.0, 0.0, 1.0
    return best, nx, ny, nz


@device
def _hit_cone(px: Any, py: Any, pz: Any, dx: Any, dy: Any, dz: Any, radius: Any, height: Any) -> Any:
    # x^2 + y^2 = (k (height - z))^2 with k = radius / height, z above the floor.
    k = radius / height
    w = k * (height - pz)
    a = dx * dx + dy * dy - (k * dz) * (k * dz)
    b = px * dx + py * dy + k * dz * w
    c = px * px + py * py - w * w
    inner = b * b - a * c
    if inner <= 0.0 or abs(a) < 1e-12:
        return _FAR, 0.0, 0.0, 0.0
    root = math.sqrt(inner)
    first, second = (-b - root) / a, (-b + root) / a
    if first > second:
        first, second = second, first
    for i in range(2):
        t = first if i == 0 else second
        z = pz + t * dz
        if t > _NEAR and 0.0 <= z <= height:
            x, y = px + t * dx, py + t * dy
            slope = k * k * (height - z)
            norm = 1.0 / math.sqrt(x * x + y * y + slope * slope + 1e-18)
            # Rays start outside, so a hit whose normal points along the ray is the far side seen through the base.
            if x * dx + y * dy + slope * dz < 0.0:
                return t, x * norm, y * norm, slope * norm
    return _FAR, 0.0, 0.0, 0.0


@device
def _nearest(objects: Any, count: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any) -> Any:
    """Distance, normal and number of what a ray meets first: an object, the floor (-1), or nothing (-2)."""
    best, nx, ny, nz, which = _FAR, 0.0, 0.0, 1.0, -2
    if dz < -1e-6:
        best, which = -oz / dz, -1
    for i in range(count):
        t, ax, ay, az = hit(objects[i], ox, oy, oz, dx, dy, dz)
        if t < best:
            best, nx, ny, nz, which = t, ax, ay, az, i
    return best, nx, ny, nz, which


@device
def _lit_share(
    objects: Any, count: Any, light: Any, x: Any, y: Any, z: Any, nx: Any, ny: Any, nz: Any, first: Any, last: Any
) -> Any:
    """Share of the light seen from a point, times the cosine; each cell (subsample) has four places on the light."""
    facing = nx * light[0] + ny * light[1] + nz * light[2]
    if facing <= 0.0:
        return 0.0
    # Objects that no part of the light can lie behind are asked for no ray.
    candidates = 0
    for i in range(count):
        size = objects[i][3]
        px, py = objects[i][1] - x, objects[i][2] - y
        pz = height_of(int(objects[i][0]), size) - z
        along = px * light[0] + py * light[1] + pz * light[2]
        across = px * px + py * py + pz * pz - along * along
        reach = BOUND * size + 1.5 * _LIGHT_WIDTH * max(along, 0.0)
        if along > -BOUND * size and across < reach * reach:
            candidates |= 1 << i
    if candidates == 0:
        return facing
    seen = 0
    for place in range(4 * first, 4 * last):
        cell, j = place // 4, place % 4
        u = ((cell % SUBSAMPLES + SUBSAMPLES * (j % 2)) + 0.5) / SUBSAMPLES - 1.0
        v = ((cell // SUBSAMPLES + SUBSAMPLES * (j // 2)) + 0.5) / SUBSAMPLES - 1.0
        dx = light[0] + _LIGHT_WIDTH * (u * light[3] + v * light[6])
        dy = light[1] + _LIGHT_WIDTH * (u * light[4] + v * light[7])
        dz = light[2] + _LIGHT_WIDTH * (u * light[5] + v * light[8])
        norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
        blocked = False
        for i in range(count):
            if candidates & (1 << i) and not blocked:
                t, _, _, _ = hit(
                    objects[i], x + _NEAR * nx, y + _NEAR * ny, z + _NEAR * nz, dx * norm, dy * norm, dz * norm
                )
                blocked = t < _FAR
        if not blocked:
            seen += 1
    return facing * seen / (4.0 * (last - first))


@device
def _openness(objects: Any, count: Any, x: Any, y: Any, z: Any, nx: Any, ny: Any, nz: Any, own: Any) -> Any:
    """How much of the sky a point sees past the other objects, each taken as a sphere: cosine times solid angle."""
    share = 1.0
    for i in range(count):
        if i == own:
            continue
        size = objects[i][3]
        px, py = objects[i][1] - x, objects[i][2] - y
        pz = height_of(int(objects[i][0]), size) - z
        squared = max(px * px + py * py + pz * pz, 1e-6)
        cosine = (px * nx + py * ny + pz * nz) / math.sqrt(squared)
        covered = max(0.5 + 0.5 * cosine, 0.0) ** 2 * min(0.85 * size * size / squared, 1.0)
        share *= 1.0 - min(covered, 0.92)
    return share


@inline
def _floor_fade(x: Any, y: Any) -> Any:
    """0 near the scene to 1 where the floor has become the backdrop."""
    s = min(max((math.sqrt(x * x + y * y) - 2.0) / 7.0, 0.0), 1.0)
    return s * s * (3.0 - 2.0 * s)


@device
def _reflected(
    objects: Any, count: Any, light: Any, x: Any, y: Any, z: Any, dx: Any, dy: Any, dz: Any, own: Any
) -> Any:
    """Colour that a metal sees in a direction: the studio, its light, the floor, and the other objects as matte."""
    t, nx, ny, nz, which = _nearest(objects, count, x, y, z, dx, dy, dz)
    if which >= 0 and which != own:
        facing = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
        level = _KEY * facing + _SKY * (0.5 + 0.5 * nz) + _BOUNCE
        return objects[which][6] * level, objects[which][7] * level, objects[which][8] * level
    if which == -1:
        fx, fy = x + t * dx, y + t * dy
        fade = _floor_fade(fx, fy)
        open_share = _openness(objects, count, fx, fy, 0.0, 0.0, 0.0, 1.0, -1)
        level = (1.0 - fade) * (_KEY * light[2] + _SKY) * open_share
        return (
            _FLOOR[0] * level + fade * _BACKDROP[0],
            _FLOOR[1] * level + fade * _BACKDROP[1],
            _FLOOR[2] * level + fade * _BACKDROP[2],
        )
    # A bright panel where the light is, above a grey wall that darkens upwards.
    toward = dx * light[0] + dy * light[1] + dz * light[2]
    panel = min(max((toward - 0.90) / 0.06, 0.0), 1.0)
    wall = 0.70 - 0.42 * min(max(dz, 0.0), 1.0)
    level = wall + 2.6 * panel * panel * (3.0 - 2.0 * panel)
    return level, level, 1.02 * level


@device
def _radiance(
    objects: Any, count: Any, light: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any, first: Any, last: Any
) -> Any:
    """Linear colour along a ray, lit as in the cells from first to last, and what it meets (as `_nearest`)."""
    t, nx, ny, nz, which = _nearest(objects, count, ox, oy, oz, dx, dy, dz)
    if which == -2:
        return _BACKDROP[0], _BACKDROP[1], _BACKDROP[2], which
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    lit = _KEY * _lit_share(objects, count, light, x, y, z, nx, ny, nz, first, last)
    sky = _openness(objects, count, x, y, z, nx, ny, nz, which)
    if which == -1:
        level = lit + _SKY * sky
        fade = _floor_fade(x, y)
        return (
            _FLOOR[0] * level * (1.0 - fade) + _BACKDROP[0] * fade,
            _FLOOR[1] * level * (1.0 - fade) + _BACKDROP[1] * fade,
            _FLOOR[2] * level * (1.0 - fade) + _BACKDROP[2] * fade,
            which,
        )
    ambient = _SKY * sky * (0.55 + 0.45 * nz) + _BOUNCE * (0.5 - 0.5 * nz) * min(1.0, 0.3 + z)
    level = 1.25 * (lit + ambient)
    r, g, b = objects[which][6], objects[which][7], objects[which][8]
    if objects[which][9] == 0.0:
        return r * level, g * level, b * level, which
    # Metal faces are a little cushioned, as pressed metal is: plane mirrors on a grey floor would look like grey paint.
    size = objects[which][3]
    nx += _CUSHION * (x - objects[which][1]) / size
    ny += _CUSHION * (y - objects[which][2]) / size
    nz += _CUSHION * (z - height_of(int(objects[which][0]), size)) / size
    norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
    nx, ny, nz = nx * norm, ny * norm, nz * norm
    along = dx * nx + dy * ny + dz * nz
    mx, my, mz = dx - 2.0 * along * nx, dy - 2.0 * along * ny, dz - 2.0 * along * nz
    er, eg, eb = _reflected(objects, count, light, x, y, z, mx, my, mz, which)
    # Schlick's approximation: towards the rim every metal turns into a plain mirror.
    rim = 0.6 * (1.0 - min(max(-along, 0.0), 1.0)) ** 5
    body = 0.35 * level
    return (
        r * body + (0.02 + 0.95 * r + (0.9 - 0.9 * r) * rim) * er,
        g * body + (0.02 + 0.95 * g + (0.9 - 0.9 * g) * rim) * eg,
        b * body + (0.02 + 0.95 * b + (0.9 - 0.9 * b) * rim) * eb,
        which,
    )


@inline
def _to_srgb(value: Any) -> Any:
    # A shoulder above 0.8 keeps highlights from being cut off flatly.
    v = value if value < 0.8 else 1.0 - 0.2 * math.exp((0.8 - value) / 0.2)
    return 12.92 * v if v <= 0.0031308 else 1.055 * v ** (1.0 / 2.4) - 0.055


@device
def _pixel_ray(pose: Any, lens: Any, x: Any, y: Any) -> Any:
    """Unit direction through a place of the picture."""
    u, v = (x - lens[1]) / lens[0], (y - lens[2]) / lens[0]
    norm = 1.0 / math.sqrt(u * u + v * v + 1.0)
    return (
        (pose[0, 0] * u + pose[0, 1] * v + pose[0, 2]) * norm,
        (pose[1, 0] * u + pose[1, 1] * v + pose[1, 2]) * norm,
        (pose[2, 0] * u + pose[2, 1] * v + pose[2, 2]) * norm,
    )


@device
def _touches(objects: Any, count: Any, pose: Any, lens: Any, dx: Any, dy: Any, dz: Any) -> Any:
    """Whether an object may be seen in the pixel around a ray, by the spheres around the objects."""
    for i in range(count):
        size = objects[i][3]
        px, py = objects[i][1] - pose[0, 3], objects[i][2] - pose[1, 3]
        pz = height_of(int(objects[i][0]), size) - pose[2, 3]
        along = px * dx + py * dy + pz * dz
        reach = BOUND * size + along / lens[0]
        if px * px + py * py + pz * pz - along * along < reach * reach:
            return True
    return False


@device
def _draw(objects: Any, count: Any, light: Any, pose: Any, lens: Any, picture: Any, seen: Any) -> None:
    height, width = picture.shape[0], picture.shape[1]
    step = 1.0 / SUBSAMPLES
    cells = SUBSAMPLES * SUBSAMPLES
    for row in range(height):
        for column in range(width):
            red, green, blue = 0.0, 0.0, 0.0
            dx, dy, dz = _pixel_ray(pose, lens, column + 0.5, row + 0.5)
            # The bare floor is smooth, so that one ray does for its pixels, if it asks all of the light.
            rays = cells if _touches(objects, count, pose, lens, dx, dy, dz) else 1
            for cell in range(rays):
                first, last = 0, cells
                if rays > 1:
                    first, last = cell, cell + 1
                    dx, dy, dz = _pixel_ray(
                        pose, lens, column + (cell % SUBSAMPLES + 0.5) * step, row + (cell // SUBSAMPLES + 0.5) * step
                    )
                r, g, b, which = _radiance(
                    objects, count, light, pose[0, 3], pose[1, 3], pose[2, 3], dx, dy, dz, first, last
                )
                # Clamped before they are averaged, or a highlight would swallow its pixel's edge.
                red += min(r, 1.6)
                green += min(g, 1.6)
                blue += min(b, 1.6)
                if which >= 0:
                    seen[which] += 1
            picture[row, column, 0] = np.uint8(255.0 * _to_srgb(red / rays) + 0.5)
            picture[row, column, 1] = np.uint8(255.0 * _to_srgb(green / rays) + 0.5)
            picture[row, column, 2] = np.uint8(255.0 * _to_srgb(blue / rays) + 0.5)


@kernel("void(f8[:,:,::1], i8[::1], f8[:,::1], f8[:,:,::1], f8[:,::1], u1[:,:,:,::1], i8[:,::1])", parallel=True)
def draw_scenes(objects: Any, counts: Any, lights: Any, poses: Any, lenses: Any, pictures: Any, seen: Any) -> None:
    """Draw one picture a scene.

    Args:
        objects: (b, n, OBJECT).
        counts: (b,) objects of each scene.
        lights: (b, 9): unit direction towards the light, and two unit vectors across.
        poses: (b, 3, 4) OpenCV camera_to_world.
        lenses: (b, 3) focal length and principal point, pixels.
        pictures: (b, h, w, 3) sRGB, written.
        seen: (b, n) subsamples that show each object, added to.
    """
    for i in numba.prange(pictures.shape[0]):
        _draw(objects[i], counts[i], lights[i], poses[i], lenses[i], pictures[i], seen[i])
