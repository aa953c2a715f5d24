"""Triangle meshes with texture coordinates: grids, surfaces of revolution, tubes and boxes with rounded edges.

Lengths are metres, z is up. Texture coordinates (u, v) lie in [0, 1] with v pointing up in the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Mesh:
    """Vertices (N, 3), faces (M, 3) counter-clockwise seen from outside, texture coordinates (N, 2)."""

    vertices: Array
    faces: Array
    uv: Array

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), turn: float = 0.0) -> Mesh:
        """Turned by `turn` degrees about the z axis, then shifted by `offset`."""
        return self.placed(rotation("z", turn), offset)

    def placed(self, rotate: Array, offset: tuple[float, float, float] | Array = (0, 0, 0)) -> Mesh:
        """Rotated by a (3, 3) matrix about the origin, then shifted by `offset`."""
        return Mesh(self.vertices @ rotate.T + np.asarray(offset, float), self.faces, self.uv)

    def normals(self) -> Array:
        """Unit vertex normals (N, 3), area weighted, continuous over vertices that share a position (seams)."""
        corners = self.vertices[self.faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        _, shared = np.unique(np.round(self.vertices * 1e7).astype(np.int64), axis=0, return_inverse=True)
        shared = shared.reshape(-1)
        total = np.zeros((shared.max() + 1, 3))
        for corner in range(3):
            np.add.at(total, shared[self.faces[:, corner]], face_normals)
        total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
        return total[shared]


def rotation(axis: str, degrees: float) -> Array:
    """The (3, 3) right-handed rotation about a coordinate axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out = np.eye(3)
    out[i, i], out[i, j], out[j, i], out[j, j] = c, -s, s, c
    return out


def mm(points: str) -> Array:
    """Points given in millimetres as "x y, x y, ...", in metres."""
    return np.array([[float(x) / 1000 for x in point.split()] for point in points.split(",")])


def join(*meshes: Mesh) -> Mesh:
    """All meshes as one."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=True)]),
        np.concatenate([m.uv for m in meshes]),
    )


def grid(points: Array) -> Mesh:
    """The surface through points (rows, columns, 3); u runs along the columns, v along the rows.

    It faces along (d/du) x (d/dv).
    """
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    return Mesh(points.reshape(-1, 3).astype(float), faces, np.stack([u, v], -1).reshape(-1, 2))


def smooth_curve(knots: Array, samples: int) -> Array:
    """A centripetal Catmull-Rom curve (samples, D) through knots (K, D); equal neighbours make a sharp corner."""
    knots = np.asarray(knots, float)
    steps = np.sqrt(np.maximum(np.linalg.norm(np.diff(knots, axis=0), axis=1), 1e-9))
    time = np.concatenate([[0], np.cumsum(steps)])
    slope = np.gradient(knots, time, axis=0) if len(knots) > 2 else np.repeat(np.diff(knots, axis=0) / steps, 2, 0)
    at = np.linspace(0, time[-1], samples)
    i = np.clip(np.searchsorted(time, at, side="right") - 1, 0, len(knots) - 2)
    h = (time[i + 1] - time[i])[:, None]
    s = (at - time[i])[:, None] / h
    return (
        (2 * s**3 - 3 * s**2 + 1) * knots[i]
        + (s**3 - 2 * s**2 + s) * h * slope[i]
        + (3 * s**2 - 2 * s**3) * knots[i + 1]
        + (s**3 - s**2) * h * slope[i + 1]
    )


def revolve(profile: Array, samples: int = 160, around: int = 128) -> Mesh:
    """The surface of revolution about z of a smooth profile through (radius, height) knots, outside going up."""
    curve = smooth_curve(profile, samples)
    angle = np.linspace(0, 2 * np.pi, around + 1)
    angle[-1] = 0.0
    radius, height = np.maximum(curve[:, :1], 0.0), curve[:, 1:]
    return grid(
        np.stack([radius * np.cos(angle), radius * np.sin(angle), np.broadcast_to(height, (samples, around + 1))], -1)
    )


def tube(knots: Array, radii: Array, samples: int = 48, around: int = 24, flatten: float = 1.0) -> Mesh:
    """A tube along a smooth curve through knots (K, 3) with a radius (K,) at each; `flatten` scales one cross axis."""
    curve = smooth_curve(np.column_stack([knots, radii]), samples)
    path, radius = curve[:, :3], np.maximum(curve[:, 3], 1e-4)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    # The plane that holds the curve best gives a side direction that never twists.
    flat = np.linalg.svd(path - path.mean(0))[2][2]
    side = flat - tangent * (tangent @ flat)[:, None]
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangent, side)
    angle = np.linspace(0, 2 * np.pi, around + 1)
    angle[-1] = 0.0
    ring = np.cos(angle)[None, :, None] * side[:, None] + flatten * np.sin(angle)[None, :, None] * up[:, None]
    return grid(path[:, None] + radius[:, None, None] * ring)


def rounded_box(size: tuple[float, float, float], radius: float, atlas: bool = False, bevel: int = 5) -> Mesh:
    """A box centred at the origin with rounded edges.

    Each face carries the whole texture, or with `atlas` one cell of a 3 x 2 atlas: +x -x +y in the upper row,
    -y +z -z in the lower one, every cell upright when its face is looked at from outside.
    """
    half = np.asarray(size, float) / 2
    parts = []
    for face in range(6):
        axis, sign = face // 2, 1.0 if face % 2 == 0 else -1.0
        right, up = np.zeros(3), np.zeros(3)
        if axis == 2:
            right[0], up[1] = 1.0, sign
        else:
            right[1 - axis], up[2] = (sign if axis == 0 else -sign), 1.0
        lines = []
        for direction in (right, up):
            extent = half[np.argmax(np.abs(direction))]
            edge = extent - radius + radius * np.tan(np.linspace(0, np.pi / 4, bevel))
            lines.append(np.concatenate([-edge[::-1], edge]))
        a, b = np.meshgrid(lines[0], lines[1])
        normal = np.zeros(3)
        normal[axis] = sign * half[axis]
        outer = normal + a[..., None] * right + b[..., None] * up
        inner = np.clip(outer, -half + radius, half - radius)
        away = outer - inner
        mesh = grid(inner + radius * away / np.linalg.norm(away, axis=-1, keepdims=True))
        u = (a / (2 * lines[0][-1]) + 0.5).reshape(-1)
        v = (b / (2 * lines[1][-1]) + 0.5).reshape(-1)
        if atlas:
            u, v = (face % 3 + u) / 3, (1 - face // 3 + v) / 2
        parts.append(Mesh(mesh.vertices, mesh.faces, np.stack([u, v], -1)))
    return join(*parts)


def displaced(mesh: Mesh, rng: np.random.Generator, amount: float, waves: int = 10, scale: float = 20.0) -> Mesh:
    """A mesh dented smoothly along its normals by random plane waves of about `scale` radians a metre."""
    k = rng.normal(size=(waves, 3)) * scale
    height = np.cos(mesh.vertices @ k.T + rng.uniform(0, 2 * np.pi, waves)).mean(1) * np.sqrt(waves)
    return Mesh(mesh.vertices + amount * height[:, None] * mesh.normals(), mesh.faces, mesh.uv)
