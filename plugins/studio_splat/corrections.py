"""Corrections of single training photos, learnt beside the scene: exposure and pose.

All are tables with a row for each photo on the engine's device; nothing here waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from studio_splat.memory import require_memory

ExposureKind = Literal["none", "affine", "bilateral"]


class _RowAdam:
    """Adam (Kingma and Ba, 2015) on the rows of a table, each row with its own step count."""

    def __init__(self, rows: int, columns: int, rate: float, dtype: torch.dtype = torch.float64) -> None:
        self.rate = rate
        self.first = torch.zeros(rows, columns, dtype=dtype)
        self.second = torch.zeros(rows, columns, dtype=dtype)
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

    def apply(self, index: int, colors: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The photo's exposure on the colours of its pixels."""
        matrix = self.values[index].to(colors.dtype)
        return torch.addmm(matrix[:, 3:], matrix[:, :3], colors.flatten(1)).view(colors.shape)

    def backward(
        self, index: int, colors: Float[Tensor, "3 h w"], gradient: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "3 h w"]:
        """Gradient with respect to the colours before `apply`; takes an Adam step on the photo's own exposure."""
        flat = gradient.flatten(1)
        through = (self.values[index, :, :3].to(gradient.dtype).T @ flat).view(gradient.shape)
        own = torch.cat([flat @ colors.flatten(1).T, flat.sum(dim=1, keepdim=True)], dim=1)
        self.values[index] += self._adam.step(index, own.double().flatten()).view(3, 4)
        # Scene and exposures share one freedom: brighter one, darker the other. The mean exposure is held at identity.
        self.values -= self.values.mean(dim=0) - torch.eye(3, 4, dtype=torch.float64, device=self.values.device)
        return through

    def state(self) -> dict[str, Any]:
        return {"values": self.values.clone(), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values.copy_(state["values"])
        self._adam.load_state(state["adam"])


class BilateralExposure:
    """colour' = A colour + b, with A and b looked up by a pixel's place and brightness in each training photo's grid.

    What cameras and photo programs do is not one transform a photo: lights are pulled down, shadows up, corners
    darkened. A bilateral grid holds such local operators (Chen, Paris and Durand, *Real-time Edge-Aware Image
    Processing with the Bilateral Grid*, 2007); one for each photo, kept smooth by its total variation, takes them out
    of a radiance field (Wang et al., *Bilateral Guided Radiance Field Processing*, 2024). The mean grid over the photos
    is held at the identity, which is what rendering and evaluation use.

    Args:
        photos: Number of training photos.
        rate: Adam's learning rate.
        smoothness: Weight of the total variation beside the loss.

    Raises:
        StudioError: So many grids do not fit in memory.
    """

    LEVELS, ROWS, COLUMNS = 8, 16, 16
    """Cells of brightness, from top to bottom, and from left to right."""

    def __init__(self, photos: int, rate: float = 2e-3, smoothness: float = 10.0) -> None:
        cells = self.LEVELS * self.ROWS * self.COLUMNS
        require_memory(
            f"A bilateral grid for each of {photos:,} photos",
            3 * photos * 12 * cells * 4,
            torch.device("cpu"),
            fix="Use the affine exposure.",
        )
        self.smoothness = smoothness
        identity = torch.eye(3, 4).view(12, 1, 1, 1).expand(12, self.LEVELS, self.ROWS, self.COLUMNS)
        self.values = identity.repeat(photos, 1, 1, 1, 1)
        # What the mean of `values` has moved by: taken off each grid that is used, so that no step touches all of them.
        self._moved = torch.zeros_like(self.values[0]) if photos else torch.zeros(identity.shape)
        self._adam = _RowAdam(photos, 12 * cells, rate, torch.float32)

    def to(self, device: torch.device) -> None:
        """Move to the device of the images."""
        self.values, self._moved = self.values.to(device), self._moved.to(device)
        self._adam.to(device)

    def grid(self, index: int) -> Float[Tensor, "12 levels rows columns"]:
        """The photo's transforms, row by row of (A | b)."""
        return self.values[index] - self._moved

    def apply(self, index: int, colors: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """The photo's exposure on the colours of its pixels."""
        return bilateral_colors(self.grid(index).to(colors.dtype), colors)

    def backward(
        self, index: int, colors: Float[Tensor, "3 h w"], gradient: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "3 h w"]:
        """Gradient with respect to the colours before `apply`; takes an Adam step on the photo's own grid."""
        grid, leaf = self.grid(index).requires_grad_(), colors.detach().requires_grad_()
        with torch.enable_grad():
            shown = bilateral_colors(grid.to(colors.dtype), leaf)
            roughness = self.smoothness * total_variation(grid)
        own, through = torch.autograd.grad((shown, roughness), (grid, leaf), (gradient, torch.ones_like(roughness)))
        step = self._adam.step(index, own.flatten()).view(grid.shape)
        self.values[index] += step
        self._moved += step / len(self.values)
        return through

    def state(self) -> dict[str, Any]:
        return {"values": self.values.clone(), "moved": self._moved.clone(), "adam": self._adam.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values.copy_(state["values"])
        self._moved.copy_(state["moved"])
        self._adam.load_state(state["adam"])


def bilateral_colors(
    grid: Float[Tensor, "12 levels rows columns"], colors: Float[Tensor, "3 h w"]
) -> Float[Tensor, "3 h w"]:
    """Colours after the affine transform that a grid has at each pixel's place and brightness, between cells linearly.

    The corner cells lie on the corners of the picture, the first and last level at luma 0 and 1 (ITU-R BT.601).
    """
    height, width = colors.shape[1:]
    options: dict[str, Any] = {"dtype": colors.dtype, "device": colors.device}
    y = (torch.arange(height, **options) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, **options) + 0.5) * (2 / width) - 1
    luma = torch.einsum("chw,c->hw", colors, torch.tensor([0.299, 0.587, 0.114], **options))
    where = torch.stack([x.expand(height, width), y[:, None].expand(height, width), 2 * luma - 1], dim=-1)
    # Brightness outside [0, 1] takes the nearest level.
    found = torch.nn.functional.grid_sample(grid[None], where[None, None], padding_mode="border", align_corners=True)
    transform = found.view(3, 4, height, width)
    return torch.einsum("rchw,chw->rhw", transform[:, :3], colors) + transform[:, 3]


def total_variation(grid: Float[Tensor, "12 levels rows columns"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbours along each of the three axes, summed over the axes."""
    along = (grid.diff(dim=axis) for axis in (1, 2, 3))
    return torch.stack([difference.square().mean() for difference in along]).sum()


def make_exposure(kind: ExposureKind, photos: int) -> Exposure | BilateralExposure | None:
    """The exposure correction of this name for so many training photos."""
    if kind == "none":
        return None
    return Exposure(photos) if kind == "affine" else BilateralExposure(photos)


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
