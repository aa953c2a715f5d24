"""Triangle meshes: cleaning, cropping, moving to another frame, and writing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.cameras import Similarity
from studio.errors import StudioError
from studio.export.glb import TRIANGLES, GlbAttribute, glb_floats, linear_rgb, write_glb
from studio.files import atomic_write

MESH_ENDINGS = ("ply", "obj", "glb", "stl")


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles, counter-clockwise seen from outside, with colours at the vertices."""

    vertices: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    """int64 indices of vertices."""
    colors: Float[Tensor, "v 3"] | None = None
    """sRGB in [0, 1]."""

    def transformed(self, similarity: Similarity) -> Mesh:
        """In another frame, such as that of the input cameras."""
        moved = similarity.points(self.vertices.double())
        return replace(self, vertices=moved.to(self.vertices.dtype))

    def keep_faces(self, mask: Tensor) -> Mesh:
        """Only the faces where `mask` (f) is True, and the vertices that they use."""
        faces = self.faces[mask]
        used = torch.zeros(len(self.vertices), dtype=torch.bool)
        used[faces.flatten()] = True
        index = used.cumsum(0) - 1
        return Mesh(self.vertices[used], index[faces], None if self.colors is None else self.colors[used])

    def cropped(self, box: Float[Tensor, "2 3"]) -> Mesh:
        """Without faces that reach out of a box."""
        inside = ((self.vertices >= box[0]) & (self.vertices <= box[1])).all(dim=-1)
        return self.keep_faces(inside[self.faces].all(dim=-1))

    def components(self) -> Int[Tensor, " f"]:
        """The number of the connected part that each face belongs to, the largest part (by faces) first."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        first, second = self.faces[:, [0, 1]].T.numpy()
        third = self.faces[:, 2].numpy()
        rows, columns = np.concatenate([first, second]), np.concatenate([second, third])
        size = len(self.vertices)
        links = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
        _, labels = connected_components(links, directed=False)
        found, part, counts = np.unique(labels[first], return_inverse=True, return_counts=True)
        rank = np.empty(len(found), np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(found))
        return torch.from_numpy(rank[part])

    def without_fragments(self, least_share: float = 0.01) -> Mesh:
        """Without connected parts that have fewer than this share of the faces of the largest part."""
        if len(self.faces) == 0:
            return self
        part = self.components()
        counts = part.bincount()
        return self.keep_faces((counts >= least_share * counts[0])[part])


def mesh_ending(path: str | os.PathLike[str]) -> str:
    """The ending of a file for a mesh, without the dot; raises StudioError unless it is one of `MESH_ENDINGS`."""
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in MESH_ENDINGS:
        known = ", ".join(f".{ending}" for ending in MESH_ENDINGS)
        raise StudioError(f"{path}: meshes are written as {known}.", fix="Choose one of these endings.")
    return ending


def write_mesh(path: str | os.PathLike[str], mesh: Mesh) -> None:
    """Write as PLY, OBJ, GLB or STL (without colours), by the ending; the file appears whole or not at all.

    Colours are sRGB in PLY and OBJ, and linear in GLB, as its specification has them.

    Raises:
        StudioError: Another ending, or the file cannot be written.
    """
    import trimesh

    kind = mesh_ending(path)
    if kind == "glb" and len(mesh.faces):
        _write_glb(path, mesh)
        return
    colors = None
    if mesh.colors is not None:
        colors = (mesh.colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), vertex_colors=colors, process=False)
    data = solid.export(file_type=kind)
    with atomic_write(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _write_glb(path: str | os.PathLike[str], mesh: Mesh) -> None:
    attributes = [GlbAttribute("POSITION", glb_floats(mesh.vertices.numpy()))]
    if mesh.colors is not None:
        linear = linear_rgb(mesh.colors.double().clamp(0, 1).numpy())
        opaque = np.concatenate([linear, np.ones((len(linear), 1))], axis=1)
        attributes.append(GlbAttribute("COLOR_0", np.round(opaque * 65535).astype("<u2")))
    indices = np.ascontiguousarray(mesh.faces.numpy().reshape(-1), dtype="<u4")
    # Vertex colours are multiplied with the material: white, rough and no metal shows them as they are.
    material = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    write_glb(
        path,
        attributes,
        mode=TRIANGLES,
        indices=indices,
        primitive={"material": 0},
        document={"materials": [material]},
        fix="Lower --resolution.",
    )
