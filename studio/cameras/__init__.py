"""Cameras: intrinsics, distortion, poses, projecting, rays of pixels, camera paths.

Everything follows OpenCV: +x right, +y down, +z forward, pixel centres at (i + 0.5, j + 0.5).
"""

from studio.cameras.cameras import Cameras, pixel_centres
from studio.cameras.models import CAMERA_MODELS, CameraModel
from studio.cameras.rays import Rays

__all__ = ["CAMERA_MODELS", "CameraModel", "Cameras", "Rays", "pixel_centres"]
