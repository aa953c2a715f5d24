"""Corrections of single training photos: exposure (an affine colour transform) and pose, learnt beside the scene.

Both are small float64 tables on the engine's device; nothing here waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _RowAdam:
    """Adam (Kingma and Ba, 2015) on the rows of a small table, each row with its own step count."""

    def __init__(self, rows: int, columns: int, rate: float) -> None:
        self.rate = rate
        self.first = torch.zeros(rows, columns, dtype=torch.float64)
        self.second = torch.zeros(rows, columns, dtype=torch.float64)
        # Stays on the CPU, where it is read.
        self.steps = torch.zeros(rows, dtype=torch.int64)

    def to(self, device: torch.device) -> None:
        self.first, self.second = self.first.to(device), self.second.to(device)

    def step(self, row: int, gradient: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        """What to add to the row's value."""
        self.steps[row] += 1
        count = int(self.steps[row])
        self.first[row] += 0.1 * (gradient - self.first[row])
        self.second[row] += 0.001 * (gradient.square() - self.second[row])
        first = self.first[row] / (1 - 0.9**count)
        second = self.second[row] / (1 - 0.999**count)
        return -self.rate * first / (second.sqrt() + 1e-12)

    def state(self) -> dict[str, Any]:
        return {"first": self.first.clone(), "second": self.second.clone(), "steps": self.steps.clone()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name in ("first", "second", "steps"):
            getattr(self, name).copy_(state[name])


class Exposure:
    """colour' = A colour + b for each training photo; rendering and evaluation use the mean exposure, the identity.

    Args:
        photos: Number of training photos.
        rate: Adam's learning rate.
    """

    def __init__(self, photos: int, rate: float = 1e-3) -> None:
        self.values = torch.eye(3, 4, dtype=torch.float64).repeat(photos, 1, 1)
        self._adam = _RowAdam(photos, 12, rate)

    def to(self, device: torch.device) -> None:
        """Move to the device of the images."""
        self.values = self.values.to(device)
        self._adam.to(device)

    def apply(self, index: int, colors: Float[Tensor, "3 p"]) -> Float[Tensor, "3 p"]:
        """The photo's exposure on the colours of its pixels."""
        matrix = self.values[index].to(colors.dtype)
        return torch.addmm(matrix[:, 3:], matrix[:, :3], colors)

    def backward(
        self, index: int, colors: Float[Tensor, "3 p"], gradient: Float[Tensor, "3 p"]
    ) -> Float[Tensor, "3 p"]:
        """Gradient with respect to the colours before `apply`; takes an Adam step on the photo's own exposure."""
        through = self.values[index, :, :3].to(gradient.dtype).T @ gradient
        own = torch.cat([gradient @ colors.T, gradient.sum(dim=1, keepdim=True)], dim=1)
        self.values[index] += self._adam.step(index, own.double().flatten()).view(3, 4)
        # Scene and exposures share one freedom: brighter one, darker the other. The mean exposure is held at identity.
        self.values -= self.values.mean(dim=0) - torch.eye(3, 4, dtype=torch.float64, device=self.values.device)
        return through

    def state(self) -> dict[str, Any]:
        return {"values": self.values.clone(), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values.copy_(state["values"])
        self._adam.load_state(state["adam"])


class PoseCorrection:
    """world_to_camera' = C world_to_camera, with a rigid C for each training photo.

    Args:
        photos: Number of training photos.
        rate: Adam's learning rate, radians and scene units.
    """

    def __init__(self, photos: int, rate: float = 1e-4) -> None:
        self.values = torch.eye(4, dtype=torch.float64).repeat(photos, 1, 1)
        self._adam = _RowAdam(photos, 6, rate)

    def to(self, device: torch.device) -> None:
        """Move to the device of the gradients."""
        self.values = self.values.to(device)
        self._adam.to(device)

    def apply(self, index: int, world_to_camera: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
        """The photo's corrected pose, float64."""
        return self.values[index] @ world_to_camera.to(self.values)

    def update(self, index: int, world_to_camera: Float[Tensor, "_ 4"], gradient: Float[Tensor, "_ 4"]) -> None:
        """Step along the tangent at the present pose.

        Args:
            index: Position of the photo.
            world_to_camera: The corrected pose that the gradient belongs to, its first three rows or all four.
            gradient: Of the loss with respect to the entries of `world_to_camera`, taken as independent.
        """
        step = self._adam.step(index, tangent_gradient(world_to_camera.to(self.values), gradient.to(self.values)))
        self.values[index] = _rigid(step) @ self.values[index]

    def state(self) -> dict[str, Any]:
        return {"values": self.values.clone(), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values.copy_(state["values"])
        self._adam.load_state(state["adam"])


def tangent_gradient(world_to_camera: Float[Tensor, "_ 4"], gradient: Float[Tensor, "_ 4"]) -> Float[Tensor, " 6"]:
    """Gradient with respect to a rotation vector w and a translation t at W -> exp(w, t) W, both at zero.

    exp(w, t) W = W + (w x W_j for each column j) + (t in the last column) to first order, so with G the gradient of the
    entries of W, w gets the sum over columns of W_j x G_j, and t the last column of G.
    """
    pose, entries = world_to_camera[:3], gradient[:3]
    rotation = torch.linalg.cross(pose.T, entries.T).sum(dim=0)
    return torch.cat([rotation, entries[:, 3]])


def _rigid(step: Float[Tensor, " 6"]) -> Float[Tensor, "4 4"]:
    """Rotation by the vector step[:3] (Rodrigues' formula, without a division by the angle), then translation."""
    x, y, z = step[:3].unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    # torch.sinc(a) is sin(pi a) / (pi a).
    turns = torch.linalg.vector_norm(step[:3]) / math.pi
    matrix = torch.eye(4, dtype=step.dtype, device=step.device)
    matrix[:3, :3] += torch.sinc(turns) * cross + 0.5 * torch.sinc(0.5 * turns).square() * (cross @ cross)
    matrix[:3, 3] = step[3:]
    return matrix
