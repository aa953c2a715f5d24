"""Cameras: intrinsics, distortion, poses, projecting, rays of pixels, camera paths.

Everything follows OpenCV: +x right, +y down, +z forward, pixel centres at (i + 0.5, j + 0.5). Pose maths lives in
`studio.cameras.poses`.
"""

from studio.cameras.camera_path_file import CameraPath, read_camera_path, write_camera_path
from studio.cameras.cameras import Cameras
from studio.cameras.keyframes import Keyframe, KeyframePath
from studio.cameras.models import CAMERA_MODELS, CameraModel
from studio.cameras.paths import interpolate, orbit, orbit_of, spiral_of, surrounds
from studio.cameras.poses import Similarity, flip_opengl, look_at
from studio.cameras.rays import Rays, pixel_centres
from studio.cameras.undistort import UndistortionMap, undistort_image, undistortion_map

__all__ = [
    "CAMERA_MODELS",
    "CameraModel",
    "CameraPath",
    "Cameras",
    "Keyframe",
    "KeyframePath",
    "Rays",
    "Similarity",
    "UndistortionMap",
    "flip_opengl",
    "interpolate",
    "look_at",
    "orbit",
    "orbit_of",
    "pixel_centres",
    "read_camera_path",
    "spiral_of",
    "surrounds",
    "undistort_image",
    "undistortion_map",
    "write_camera_path",
]
