"""Bringing one set of points onto another by a similarity: models from photos have a frame and a scale of their own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Similarity


def align_similarity(points: Float[Tensor, "n 3"], reference: Float[Tensor, "n 3"]) -> Similarity:
    """The similarity that brings points closest to their reference points, in the sense of least squares.

    Umeyama, *Least-squares estimation of transformation parameters between two point patterns*, 1991.

    Args:
        points: At least three that do not lie on one line.
        reference: Where each belongs.

    Returns:
        float64; ``reference ≈ result.points(points)``.

    Raises:
        ValueError: The shapes differ, or there are too few points or they coincide.
    """
    if points.shape != reference.shape or points.ndim != 2 or points.shape[-1] != 3 or len(points) < 3:
        raise ValueError(
            f"points and reference must both have shape (n, 3) with n >= 3, got {tuple(points.shape)} and "
            f"{tuple(reference.shape)}"
        )
    a, b = points.double(), reference.double()
    a_mean, b_mean = a.mean(dim=0), b.mean(dim=0)
    a, b = a - a_mean, b - b_mean
    spread = a.square().sum()
    if not spread > 0:
        raise ValueError("points must not all coincide")
    u, values, vt = torch.linalg.svd(b.T @ a)
    signs = torch.ones(3, dtype=torch.float64)
    # A reflection may fit better, but is no motion.
    signs[2] = torch.sign(torch.linalg.det(u @ vt))
    rotation = (u * signs) @ vt
    scale = (values * signs).sum() / spread
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = b_mean - scale * rotation @ a_mean
    return Similarity.from_matrix(matrix)
