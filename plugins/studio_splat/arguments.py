"""Checks of the arguments of `rasterization`: types and shapes, options, numbers, and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.errors import StudioError

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")
CAMERA_MODELS = ("pinhole", "ortho", "fisheye", "ftheta")
MAX_SH_DEGREE = 4

_SINGULAR = 1e-12


@dataclass(frozen=True)
class Sizes:
    """How many of everything one call renders.

    Attributes:
        batch: Leading dimensions of the Gaussians; each batch has its own Gaussians and cameras.
        gaussians: Gaussians in a batch.
        cameras: Cameras in a batch.
        channels: Channels of the colours after activation.
    """

    batch: tuple[int, ...]
    gaussians: int
    cameras: int
    channels: int


def check_shapes(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    covars: Tensor | None,
) -> Sizes:
    """Check types, shapes, dtypes and devices; costs no pass over the data.

    Raises:
        TypeError: An argument is not a tensor of the floating dtype that `means` has.
        ValueError: A shape, a device, an image size or the SH degree is wrong.
    """
    if not isinstance(means, Tensor):
        raise TypeError(f"means must be a tensor, got {type(means).__name__}")
    if not means.is_floating_point():
        raise TypeError(f"means must have a floating dtype, got {means.dtype}")
    if means.dim() < 2 or means.shape[-1] != 3:
        raise ValueError(f"means must have shape (..., N, 3), got {tuple(means.shape)}")
    batch, n = tuple(means.shape[:-2]), means.shape[-2]
    if not isinstance(viewmats, Tensor):
        raise TypeError(f"viewmats must be a tensor, got {type(viewmats).__name__}")
    if viewmats.dim() != len(batch) + 3:
        raise ValueError(f"viewmats must have shape {_shown((*batch, 'C', 4, 4))}, got {tuple(viewmats.shape)}")
    cameras = viewmats.shape[-3]
    if math.prod(batch) * cameras == 0:
        raise ValueError(f"viewmats must hold at least one camera, got shape {tuple(viewmats.shape)}")
    if covars is None:
        _check("quats", quats, means, (*batch, n, 4))
        _check("scales", scales, means, (*batch, n, 3))
    else:
        _check("covars", covars, means, (*batch, n, 3, 3))
    _check("opacities", opacities, means, (*batch, n))
    _check("viewmats", viewmats, means, (*batch, cameras, 4, 4))
    _check("Ks", Ks, means, (*batch, cameras, 3, 3))
    channels = _check_colors(colors, means, batch, n, cameras, sh_degree)
    if backgrounds is not None:
        _check("backgrounds", backgrounds, means, (*batch, cameras, channels))
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of pixels, at least 1, got {size!r}")
    return Sizes(batch, n, cameras, channels)


def _check_colors(
    colors: Tensor, means: Tensor, batch: tuple[int, ...], n: int, cameras: int, sh_degree: int | None
) -> int:
    """Check colours [..., (C,) N, D] or coefficients [..., (C,) N, K, 3]; returns the number of rendered channels."""
    if sh_degree is None:
        tail: tuple[int | str, ...] = ("D",)
    elif isinstance(sh_degree, int) and 0 <= sh_degree <= MAX_SH_DEGREE:
        tail = ("K", 3)
    else:
        raise ValueError(f"sh_degree must be None or 0 to {MAX_SH_DEGREE}, got {sh_degree!r}")
    if not isinstance(colors, Tensor):
        raise TypeError(f"colors must be a tensor, got {type(colors).__name__}")
    shared, per_camera = (*batch, n, *tail), (*batch, cameras, n, *tail)
    if not any(_matches(colors, shape) for shape in (shared, per_camera)):
        meaning = "without sh_degree" if sh_degree is None else f"with sh_degree={sh_degree}"
        raise ValueError(
            f"colors {meaning} must have shape {_shown(shared)} or, one set a camera, {_shown(per_camera)}, "
            f"got {tuple(colors.shape)}"
        )
    _check("colors", colors, means, tuple(colors.shape))
    if sh_degree is not None and colors.shape[-2] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"colors must hold at least K={(sh_degree + 1) ** 2} coefficients for sh_degree={sh_degree}, "
            f"got {colors.shape[-2]}"
        )
    if colors.shape[-1] < 1:
        raise ValueError("colors must have at least one channel, got D=0")
    return colors.shape[-1]


def _matches(tensor: Tensor, shape: tuple[int | str, ...]) -> bool:
    return tensor.dim() == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape, strict=True)
    )


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def _check(name: str, tensor: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {_shown(shape)}, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {_shown(shape)}, got {tuple(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of means, {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on the device of means, {like.device}, got {tensor.device}")


def check_choices(
    render_mode: str,
    rasterize_mode: str,
    camera_model: str,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    tile_size: int,
    channel_chunk: int,
) -> None:
    """Check the options that are not tensors.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    for name, value, allowed in (
        ("render_mode", render_mode, RENDER_MODES),
        ("rasterize_mode", rasterize_mode, RASTERIZE_MODES),
        ("camera_model", camera_model, CAMERA_MODELS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if camera_model != "ortho" and not near_plane > 0:
        raise ValueError(f"near_plane must be above 0 for camera_model {camera_model!r}, got {near_plane}")
    if not near_plane < far_plane:
        raise ValueError(f"near_plane must be below far_plane, got {near_plane} and {far_plane}")
    for name, number in (("radius_clip", radius_clip), ("eps2d", eps2d)):
        if not (number >= 0 and math.isfinite(number)):
            raise ValueError(f"{name} must be finite and not negative, got {number}")
    for name, count in (("tile_size", tile_size), ("channel_chunk", channel_chunk)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {count!r}")


@torch.no_grad()
def check_values(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor | None,
    covars: Tensor | None,
) -> None:
    """Check the numbers; a few reductions over the parameters, and on a GPU a few waits for it.

    Raises:
        StudioError: A NaN or infinity, a zero quaternion, a negative scale, an opacity outside [0, 1], a singular or
            projective view matrix, or a focal length that is not positive. The message names the argument and the
            first bad row.
    """
    shape_arguments = {"quats": quats, "scales": scales} if covars is None else {"covars": covars}
    _refuse_infinite(means=means, **shape_arguments, opacities=opacities, colors=colors)
    if covars is None:
        assert quats is not None
        assert scales is not None
        _refuse(
            "quats", quats.abs().amax(-1) < 1e-12, "is a zero quaternion", "Give each a rotation, (1, 0, 0, 0) is none."
        )
        _refuse("scales", scales < 0, "is negative", "Pass activated scales, exp(log_scales), not their logarithms.")
    _refuse(
        "opacities",
        (opacities < 0) | (opacities > 1),
        "is outside [0, 1]",
        "Pass activated opacities, sigmoid(logits), not logits.",
    )
    check_cameras(viewmats, Ks, backgrounds)


@torch.no_grad()
def check_cameras(viewmats: Tensor, Ks: Tensor, backgrounds: Tensor | None) -> None:
    """The part of `check_values` that is about cameras and what lies behind the Gaussians.

    Raises:
        StudioError: See `check_values`.
    """
    _refuse_infinite(viewmats=viewmats, Ks=Ks, backgrounds=backgrounds)
    _refuse(
        "viewmats",
        torch.linalg.det(viewmats[..., :3, :3].double()).abs() < _SINGULAR,
        "is singular",
        "A world-to-camera matrix needs an invertible rotation part.",
    )
    last_row = torch.tensor([0, 0, 0, 1], dtype=viewmats.dtype, device=viewmats.device)
    _refuse(
        "viewmats",
        (viewmats[..., 3, :] - last_row).abs().amax(-1) > 1e-4,
        "does not end in the row (0, 0, 0, 1)",
        "Pass world-to-camera matrices that act on column vectors.",
    )
    _refuse(
        "Ks",
        (Ks[..., 0, 0] <= 0) | (Ks[..., 1, 1] <= 0),
        "has a focal length that is not positive",
        "Give fx and fy in pixels.",
    )


def _refuse_infinite(**named: Tensor | None) -> None:
    for name, tensor in named.items():
        # The sum is finite unless an element is not (or it overflowed): one pass without temporaries.
        if tensor is not None and not math.isfinite(float(tensor.sum())):
            _refuse(name, ~torch.isfinite(tensor), "is NaN or infinite", "Lower the learning rate or check the file.")


def _refuse(name: str, bad: Tensor, what: str, fix: str) -> None:
    if bad.numel() == 0 or not bool(bad.any()):
        return
    first = ", ".join(str(int(i)) for i in bad.nonzero()[0])
    count = int(bad.sum())
    raise StudioError(f"{name}[{first}] {what} ({count} of {bad.numel()} are).", fix=fix)
