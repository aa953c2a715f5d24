"""One camera as the kernels take it: a short float32 vector and two integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from studio.errors import StudioError

CameraModel = Literal["pinhole", "ortho", "fisheye"]

PINHOLE, ORTHO, FISHEYE = 0, 1, 2
_CODES: dict[str, int] = {"pinhole": PINHOLE, "ortho": ORTHO, "fisheye": FISHEYE}

# Slots of the packed vector; 0-11 are the rows of world_to_camera.
FX, FY, CX, CY, WIDTH, HEIGHT, NEAR, FAR, EPS2D, RADIUS_CLIP = range(12, 22)
CENTRE_X, CENTRE_Y, CENTRE_Z = range(22, 25)
LOW_U, HIGH_U, LOW_V, HIGH_V = range(25, 29)
PACKED_SIZE = 32

_JACOBIAN_MARGIN = 0.3


@dataclass(frozen=True)
class View:
    """A camera and how Gaussians are projected into it (gsplat 1.5.3 semantics).

    Attributes:
        world_to_camera: (3, 4) or (4, 4), OpenCV axes; its 3x3 part must be invertible.
        fx: Focal length in pixels (pixels per world unit for "ortho").
        fy: As `fx`, vertically.
        cx: Principal point in pixels; the centre of the first pixel is 0.5.
        cy: As `cx`, vertically.
        width: Image width, pixels.
        height: Image height, pixels.
        near: Gaussians with a smaller z-depth are culled.
        far: Gaussians with a larger z-depth are culled.
        eps2d: Added to the diagonal of the screen-space covariance, px^2.
        radius_clip: Gaussians whose half-extents, rounded up, are both at most this many pixels are culled.
        antialiased: Scale the opacity by sqrt(det before / det after the dilation by `eps2d`) (Mip-Splatting).
        camera_model: "pinhole", "ortho", or "fisheye" (equidistant).
    """

    world_to_camera: ArrayLike
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    radius_clip: float = 0.0
    antialiased: bool = False
    camera_model: CameraModel = "pinhole"
    packed: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    """(32,) float32 for the kernels."""
    model: int = field(init=False, repr=False, compare=False)
    """The camera model's code for the kernels."""

    def __post_init__(self) -> None:
        matrix = np.asarray(self.world_to_camera, dtype=np.float64)
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"world_to_camera must have shape (3, 4) or (4, 4), got {matrix.shape}")
        if self.camera_model not in _CODES:
            raise ValueError(f"camera_model must be one of {', '.join(_CODES)}, got {self.camera_model!r}")
        rotation, translation = matrix[:3, :3], matrix[:3, 3]
        numbers = (self.fx, self.fy, self.cx, self.cy, self.near, self.eps2d, self.radius_clip)
        if not (np.isfinite(matrix).all() and np.isfinite(numbers).all()):
            raise StudioError("the camera has a NaN or infinite entry.", fix="Check its pose and intrinsics.")
        if not (self.fx > 0 and self.fy > 0 and self.width > 0 and self.height > 0):
            raise StudioError(
                f"the camera has focal lengths {self.fx}, {self.fy} and size {self.width} x {self.height}.",
                fix="All four must be positive.",
            )
        if abs(np.linalg.det(rotation)) < 1e-12:
            raise StudioError(
                "world_to_camera is singular: the camera has no centre.", fix="Check the rotation part of its pose."
            )
        packed = np.zeros(PACKED_SIZE, np.float32)
        packed[:12] = matrix[:3].ravel()
        packed[FX : RADIUS_CLIP + 1] = (
            self.fx,
            self.fy,
            self.cx,
            self.cy,
            self.width,
            self.height,
            self.near,
            min(self.far, float(np.finfo(np.float32).max)),
            self.eps2d,
            self.radius_clip,
        )
        packed[CENTRE_X : CENTRE_Z + 1] = -np.linalg.solve(rotation, translation)
        margin_u = _JACOBIAN_MARGIN * 0.5 * self.width / self.fx
        margin_v = _JACOBIAN_MARGIN * 0.5 * self.height / self.fy
        packed[LOW_U] = -(self.cx / self.fx + margin_u)
        packed[HIGH_U] = (self.width - self.cx) / self.fx + margin_u
        packed[LOW_V] = -(self.cy / self.fy + margin_v)
        packed[HIGH_V] = (self.height - self.cy) / self.fy + margin_v
        object.__setattr__(self, "packed", packed)
        object.__setattr__(self, "model", _CODES[self.camera_model])
