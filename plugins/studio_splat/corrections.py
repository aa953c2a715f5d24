"""Corrections of single training photos: exposure (an affine colour transform) and pose, learnt beside the scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class _RowAdam:
    """Adam (Kingma and Ba, 2015) on the rows of a small float64 table, each row with its own step count."""

    def __init__(self, rows: int, columns: int, rate: float) -> None:
        self.rate = rate
        self.first, self.second = np.zeros((rows, columns)), np.zeros((rows, columns))
        self.steps = np.zeros(rows, np.int64)

    def step(self, row: int, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """What to add to the row's value."""
        self.steps[row] += 1
        self.first[row] += 0.1 * (gradient - self.first[row])
        self.second[row] += 0.001 * (gradient**2 - self.second[row])
        first = self.first[row] / (1 - 0.9 ** self.steps[row])
        second = self.second[row] / (1 - 0.999 ** self.steps[row])
        return -self.rate * first / (np.sqrt(second) + 1e-12)

    def state(self) -> dict[str, Any]:
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("first", "second", "steps")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in ("first", "second", "steps"):
            getattr(self, name)[:] = state[name].numpy()


class Exposure:
    """colour' = A colour + b for each training photo; rendering and evaluation use the mean exposure, the identity."""

    def __init__(self, photos: int, rate: float = 1e-3) -> None:
        self.values = np.tile(np.eye(3, 4), (photos, 1, 1))
        self._adam = _RowAdam(photos, 12, rate)

    def apply(self, index: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The photo's exposure on an image (3, H, W)."""
        matrix = self.values[index].astype(np.float32)
        mixed = matrix[:, :3] @ image.reshape(3, -1) + matrix[:, 3:]
        return np.ascontiguousarray(mixed.reshape(image.shape), np.float32)

    def backward(self, index: int, image: NDArray[np.float32], gradient: NDArray[np.float32]) -> NDArray[np.float32]:
        """Gradient with respect to the image before `apply`; takes an Adam step on the photo's own exposure."""
        flat = gradient.reshape(3, -1)
        through = self.values[index, :, :3].astype(np.float32).T @ flat
        own = np.concatenate([flat @ image.reshape(3, -1).T, flat.sum(axis=1, keepdims=True)], axis=1)
        self.values[index] += self._adam.step(index, own.astype(np.float64).ravel()).reshape(3, 4)
        # Scene and exposures share one freedom: brighter one, darker the other. The mean exposure is held at identity.
        self.values -= self.values.mean(axis=0) - np.eye(3, 4)
        return np.ascontiguousarray(through.reshape(gradient.shape), np.float32)

    def state(self) -> dict[str, Any]:
        return {"values": torch.from_numpy(self.values.copy()), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values[:] = state["values"].numpy()
        self._adam.load_state(state["adam"])


class PoseCorrection:
    """world_to_camera' = C world_to_camera, with a rigid C for each training photo."""

    def __init__(self, photos: int, rate: float = 1e-4) -> None:
        self.values = np.tile(np.eye(4), (photos, 1, 1))
        self._adam = _RowAdam(photos, 6, rate)

    def matrix(self, index: int) -> NDArray[np.float64]:
        return self.values[index]

    def update(self, index: int, world_to_camera: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
        """Step along the tangent at the present pose.

        Args:
            world_to_camera: (3, 4), the corrected pose W that `gradient` (3, 4) belongs to. With W -> exp(xi) W, the
                gradient with respect to the rotation part of xi is the sum over columns of W_j x G_j, that of the
                translation part the last column of G.
        """
        rotation = np.cross(world_to_camera[:3].T, gradient.T).sum(axis=0)
        step = self._adam.step(index, np.concatenate([rotation, gradient[:, 3]]))
        self.values[index] = _rigid(step) @ self.values[index]

    def state(self) -> dict[str, Any]:
        return {"values": torch.from_numpy(self.values.copy()), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values[:] = state["values"].numpy()
        self._adam.load_state(state["adam"])


def _rigid(step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation by the rotation vector step[:3] (Rodrigues), then translation by step[3:]."""
    angle = float(np.linalg.norm(step[:3]))
    matrix = np.eye(4)
    if angle > 0:
        x, y, z = step[:3] / angle
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = step[3:]
    return matrix
