"""The batched camera: poses, intrinsics, one projection model, and everything that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.cameras.checks import raise_first_fault
from studio.cameras.models import (
    CAMERA_MODELS,
    DISTORTED_MODELS,
    CameraModel,
    is_seen,
    project_normalised,
    unproject_normalised,
)
from studio.cameras.poses import Similarity, invert_pose, make_pose, nearest_rotation, rotate
from studio.cameras.rays import Rays, pixel_centres
from studio.errors import StudioError


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of cameras of one projection model.

    OpenCV conventions: +x right, +y down, +z forward; the centre of pixel column i, row j lies at (i + 0.5, j + 0.5),
    so the picture covers [0, width] x [0, height]. The batch shape may be empty: that is one camera. The constructor
    checks shapes only; `check` looks at the values. `make` and `from_fov` build from plain numbers.

    Attributes:
        camera_to_world: Rigid poses.
        fx, fy: Focal lengths in pixels (orthographic: pixels per world unit; equirectangular: ``width / 2`` and
            ``height`` for a full sphere).
        cx, cy: Principal point in pixels.
        width, height: Size of the picture in pixels; may differ within a batch.
        model: See `studio.cameras.models` for the formulas.
        distortion: opencv: ``k1 k2 p1 p2 k3 k4 k5 k6``; fisheye: ``k1 k2 k3 k4 0 0 0 0``; None: no distortion, and
            the only choice for the other models.

    Raises:
        ValueError: If a shape, an integer type or the model does not fit.
    """

    camera_to_world: Float[Tensor, "*batch 4 4"]
    fx: Float[Tensor, "*batch"]
    fy: Float[Tensor, "*batch"]
    cx: Float[Tensor, "*batch"]
    cy: Float[Tensor, "*batch"]
    width: Int[Tensor, "*batch"]
    height: Int[Tensor, "*batch"]
    model: CameraModel = "pinhole"
    distortion: Float[Tensor, "*batch 8"] | None = None

    def __post_init__(self) -> None:
        if self.camera_to_world.shape[-2:] != (4, 4):
            raise ValueError(f"camera_to_world must have shape (*batch, 4, 4), got {tuple(self.camera_to_world.shape)}")
        batch = self.camera_to_world.shape[:-2]
        for name in ("fx", "fy", "cx", "cy", "width", "height"):
            if getattr(self, name).shape != batch:
                raise ValueError(f"{name} must have shape {tuple(batch)}, got {tuple(getattr(self, name).shape)}")
        if self.distortion is not None and self.distortion.shape != (*batch, 8):
            raise ValueError(f"distortion must have shape {(*batch, 8)}, got {tuple(self.distortion.shape)}")
        for name in ("width", "height"):
            if getattr(self, name).dtype != torch.int64:
                raise ValueError(f"{name} must be int64, got {getattr(self, name).dtype}")
        if self.model not in CAMERA_MODELS:
            raise ValueError(f"model must be one of {', '.join(CAMERA_MODELS)}, got {self.model!r}")
        if self.distortion is not None and self.model not in DISTORTED_MODELS:
            raise ValueError(f"a camera of model {self.model!r} has no distortion; use 'opencv' or 'fisheye'")

    # ---------------------------------------------------------------- building

    @classmethod
    def make(
        cls,
        camera_to_world: Float[Tensor, "*batch 4 4"],
        *,
        width: int | Tensor,
        height: int | Tensor,
        fx: float | Tensor,
        fy: float | Tensor | None = None,
        cx: float | Tensor | None = None,
        cy: float | Tensor | None = None,
        model: CameraModel = "pinhole",
        distortion: Sequence[float] | Tensor | None = None,
    ) -> Cameras:
        """Build cameras from numbers or tensors that broadcast to the batch of poses.

        ``fy`` defaults to ``fx``, the principal point to the middle of the picture. Fewer than eight distortion
        coefficients are filled with zeros.
        """
        batch = camera_to_world.shape[:-2]
        like: dict[str, Any] = {"dtype": camera_to_world.dtype, "device": camera_to_world.device}

        def number(value: float | Tensor) -> Tensor:
            return torch.as_tensor(value, **like).expand(batch)

        def size(value: int | Tensor) -> Tensor:
            return torch.as_tensor(value, dtype=torch.int64, device=camera_to_world.device).expand(batch)

        coefficients = None
        if distortion is not None:
            given = torch.as_tensor(distortion, **like)
            if given.shape[-1] > 8:
                raise ValueError(f"distortion must have at most 8 coefficients, got {given.shape[-1]}")
            coefficients = torch.nn.functional.pad(given, (0, 8 - given.shape[-1])).expand(*batch, 8)
        return cls(
            camera_to_world=camera_to_world,
            fx=number(fx),
            fy=number(fx if fy is None else fy),
            cx=number(width / 2 if cx is None else cx),
            cy=number(height / 2 if cy is None else cy),
            width=size(width),
            height=size(height),
            model=model,
            distortion=coefficients,
        )

    @classmethod
    def from_fov(
        cls,
        camera_to_world: Float[Tensor, "*batch 4 4"],
        *,
        width: int,
        height: int,
        fov_x: float | None = None,
        fov_y: float | None = None,
    ) -> Cameras:
        """Pinhole cameras with square pixels from one field of view in radians, in (0, pi)."""
        if (fov_x is None) == (fov_y is None):
            raise ValueError("from_fov: give exactly one of fov_x and fov_y")
        extent, angle = (width, fov_x) if fov_x is not None else (height, fov_y)
        if angle is None or not 0 < angle < torch.pi:
            raise ValueError(f"from_fov: a field of view must lie between 0 and pi radians, got {angle}")
        focal = extent / 2 / float(torch.tan(torch.tensor(angle / 2, dtype=torch.float64)))
        return cls.make(camera_to_world, width=width, height=height, fx=focal)

    @classmethod
    def stack(cls, cameras: Sequence[Cameras], dim: int = 0) -> Cameras:
        """Join cameras of equal batch shape along a new batch axis.

        Raises:
            StudioError: If the models differ (one batch has one model).
        """
        return cls._join(torch.stack, cameras, dim)

    @classmethod
    def cat(cls, cameras: Sequence[Cameras], dim: int = 0) -> Cameras:
        """Join cameras along an existing batch axis; the same conditions as `stack`."""
        return cls._join(torch.cat, cameras, dim)

    @classmethod
    def _join(cls, join: Callable[..., Tensor], cameras: Sequence[Cameras], dim: int) -> Cameras:
        if not cameras:
            raise ValueError("cannot join an empty list of cameras")
        models = sorted({c.model for c in cameras})
        if len(models) > 1:
            raise StudioError(
                f"Cameras of different models cannot share one batch: {', '.join(models)}.",
                fix="Undistort the photos to pinhole, or load each camera model as its own scene.",
            )
        dim = dim if dim >= 0 else dim + cameras[0].ndim + (join is torch.stack)
        joined = {
            f.name: join([getattr(c, f.name) for c in cameras], dim=dim)
            for f in fields(cls)
            if f.name not in ("model", "distortion")
        }
        if any(c.distortion is not None for c in cameras):
            zeros = [c.fx.new_zeros(*c.shape, 8) if c.distortion is None else c.distortion for c in cameras]
            joined["distortion"] = join(zeros, dim=dim)
        return cls(model=models[0], **joined)

    def with_poses(self, camera_to_world: Float[Tensor, "*poses 4 4"]) -> Cameras:
        """The same lens at other poses; this batch must broadcast to theirs."""
        batch = camera_to_world.shape[:-2]
        lens = self._each(lambda t: t.expand((*batch, *t.shape[self.ndim :])))
        return replace(lens, camera_to_world=camera_to_world.to(self.camera_to_world))

    # ------------------------------------------------------------- batch shape

    @property
    def shape(self) -> torch.Size:
        """The batch shape."""
        return self.fx.shape

    @property
    def ndim(self) -> int:
        return self.fx.ndim

    @property
    def device(self) -> torch.device:
        return self.camera_to_world.device

    @property
    def dtype(self) -> torch.dtype:
        return self.camera_to_world.dtype

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a single camera has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Cameras:
        """Index the batch axes like a tensor's: integers, slices, ``...``, masks, index tensors and tuples of them."""
        numbers = torch.arange(self.shape.numel(), device=self.device).reshape(self.shape)[index]
        return self._each(lambda t: t.reshape(-1, *t.shape[self.ndim :])[numbers])

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def reshape(self, *shape: int) -> Cameras:
        """Reshape the batch axes; one may be -1."""
        batch = self.fx.reshape(shape).shape
        return self._each(lambda t: t.reshape((*batch, *t.shape[self.ndim :])))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """Move to a device and/or change the floating-point type (sizes stay int64)."""
        return self._each(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Cameras:
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            changed[f.name] = function(value) if isinstance(value, Tensor) else value
        return Cameras(**changed)

    # ------------------------------------------------------------------ checks

    def check(self, *, source: str | PathLike[str], frames: Sequence[str] | None = None) -> Cameras:
        """Judge the values, as a reader must before handing cameras on.

        Args:
            source: The file that the cameras come from, for the message.
            frames: A name for each camera of the flattened batch (default: its index).

        Returns:
            These cameras with each rotation replaced by the closest exact one, since files round theirs.

        Raises:
            StudioError: For values that are not finite, a pose that is not a rigid motion, a size or focal length that
                is not positive. Names the source, the frame and the field.
        """
        raise_first_fault(self.reshape(-1), source=source, frames=frames)
        exact = nearest_rotation(self.camera_to_world[..., :3, :3].cpu().double()).to(self.camera_to_world)
        return replace(self, camera_to_world=make_pose(exact, self.camera_to_world[..., :3, 3]))

    # -------------------------------------------------------------- properties

    @property
    def world_to_camera(self) -> Float[Tensor, "*batch 4 4"]:
        """Inverse of the poses."""
        return invert_pose(self.camera_to_world)

    @property
    def origins(self) -> Float[Tensor, "*batch 3"]:
        """Camera centres in the world."""
        return self.camera_to_world[..., :3, 3]

    @property
    def forward(self) -> Float[Tensor, "*batch 3"]:
        """Unit optical axes in the world."""
        return self.camera_to_world[..., :3, 2]

    @property
    def up(self) -> Float[Tensor, "*batch 3"]:
        """Unit vectors towards the top of the picture, in the world."""
        return -self.camera_to_world[..., :3, 1]

    @property
    def intrinsics(self) -> Float[Tensor, "*batch 3 3"]:
        """``K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``."""
        zero, one = torch.zeros_like(self.fx), torch.ones_like(self.fx)
        rows = [self.fx, zero, self.cx, zero, self.fy, self.cy, zero, zero, one]
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` shared by the whole batch.

        Raises:
            ValueError: If the batch is empty or its sizes differ.
        """
        if self.width.numel() == 0:
            raise ValueError("an empty batch of cameras has no size")
        width, height = self.width.reshape(-1), self.height.reshape(-1)
        if bool((width != width[0]).any() | (height != height[0]).any()):
            raise ValueError("the cameras of this batch have pictures of different sizes; take them one by one")
        return int(width[0]), int(height[0])

    # -------------------------------------------------------------- projecting

    def project(self, points: Float[Tensor, "*batch *points 3"]) -> tuple[Tensor, Tensor]:
        """Where world points land in the picture.

        Args:
            points: World points. The leading axes are those of the batch (or broadcast to them); any axes may follow.

        Returns:
            Pixel coordinates (*batch, *points, 2) and depth (*batch, *points): z-depth, but distance for
            equirectangular cameras. Points that the lens cannot see have finite coordinates that mean nothing: use
            `sees` to find them.
        """
        local = self._to_camera(points)
        extra = local.ndim - 1 - self.ndim
        flat, depth = project_normalised(self.model, local, self._distortion(extra, local.dtype))
        return flat * self._focal(extra) + self._principal(extra), depth

    def sees(self, points: Float[Tensor, "*batch *points 3"]) -> Bool[Tensor, "*batch *points"]:
        """Whether world points are in front of the camera, inside the picture, and not folded into it by distortion."""
        local = self._to_camera(points)
        extra = local.ndim - 1 - self.ndim
        coefficients = self._distortion(extra, local.dtype)
        flat, _ = project_normalised(self.model, local, coefficients)
        pixels = flat * self._focal(extra) + self._principal(extra)
        size = self._trailing(torch.stack([self.width, self.height], dim=-1), extra)
        return ((pixels >= 0) & (pixels <= size)).all(-1) & is_seen(self.model, local, coefficients)

    def unproject(
        self, pixels: Float[Tensor, "*batch *points 2"], depth: Float[Tensor, "*batch *points"]
    ) -> Float[Tensor, "*batch *points 3"]:
        """World points at a depth (as `project` returns it) behind pixel coordinates.

        Pixels that have no ray (see `Rays.valid`) give points that mean nothing; so does a fisheye exactly 90 degrees
        off its axis, where z-depth is zero whatever the distance.
        """
        rays = self.rays(pixels)
        return rays.at(depth / rays.depth_scale)

    def rays(self, pixels: Float[Tensor, "*batch *points 2"] | None = None) -> Rays:
        """Rays through pixel coordinates, by default through the centres of all pixels.

        Args:
            pixels: Pixel coordinates (column, row), centres at half-integers. The leading axes are those of the batch
                (or broadcast to them); any axes may follow. None: all pixels, for a batch of equal sizes.

        Returns:
            Rays of shape (*batch, *points), or (*batch, height, width) for all pixels.
        """
        if pixels is None:
            grid = pixel_centres(*self.size, device=self.device, dtype=self.dtype)
            pixels = grid.expand(*self.shape, *grid.shape)
        self._check_leading(pixels, 2, "pixels")
        extra = pixels.ndim - 1 - self.ndim
        flat = (pixels - self._principal(extra)) / self._focal(extra)
        local = unproject_normalised(self.model, flat, self._distortion(extra, flat.dtype))
        rotation = self._trailing(self.camera_to_world[..., :3, :3], extra)
        origins = self._trailing(self.origins, extra)
        directions = rotate(rotation, local.directions)
        origins = origins.expand_as(directions) if local.offsets is None else origins + rotate(rotation, local.offsets)
        return Rays(origins, directions, local.depth_scale, local.valid)

    def ray_directions(self, pixels: Float[Tensor, "*batch *points 2"] | None = None) -> Tensor:
        """Unit world directions of `rays`, (*batch, *points, 3)."""
        return self.rays(pixels).directions

    # ---------------------------------------------------------------- resizing

    def rescale(self, target: float | tuple[int, int]) -> Cameras:
        """The same view with more or fewer pixels.

        Args:
            target: A factor (the new sizes are rounded to whole pixels, at least one), or the new (width, height).

        Returns:
            Cameras whose intrinsics are scaled, on each axis, by exactly the ratio of the sizes. Pixel centres at
            half-integers make this exact: every coordinate scales, and so does the principal point.
        """
        if isinstance(target, tuple):
            width, height = (torch.full_like(self.width, _positive(n, "rescale")) for n in target)
        else:
            factor = _positive(target, "rescale")
            width, height = (
                (n.double().cpu() * factor).add(0.5).floor().long().clamp(min=1).to(n.device)
                for n in (self.width, self.height)
            )
        sx = width.to(self.dtype) / self.width.to(self.dtype)
        sy = height.to(self.dtype) / self.height.to(self.dtype)
        return replace(
            self, fx=self.fx * sx, cx=self.cx * sx, fy=self.fy * sy, cy=self.cy * sy, width=width, height=height
        )

    def crop(self, left: int, top: int, width: int, height: int) -> Cameras:
        """The view through a window of the picture, in whole pixels; the window may reach beyond the picture."""
        return replace(
            self,
            cx=self.cx - left,
            cy=self.cy - top,
            width=torch.full_like(self.width, _positive(width, "crop")),
            height=torch.full_like(self.height, _positive(height, "crop")),
        )

    def for_size(self, width: int, height: int) -> Cameras:
        """The middle of the view at another size and aspect: both axes scaled alike until it covers, then cropped."""
        sx = _positive(width, "for_size") / self.width.to(self.dtype)
        sy = _positive(height, "for_size") / self.height.to(self.dtype)
        scale = torch.maximum(sx, sy)
        return replace(
            self,
            fx=self.fx * scale,
            fy=self.fy * scale,
            cx=(self.cx - self.width / 2) * scale + width / 2,
            cy=(self.cy - self.height / 2) * scale + height / 2,
            width=torch.full_like(self.width, width),
            height=torch.full_like(self.height, height),
        )

    def transformed(self, similarity: Similarity) -> Cameras:
        """These cameras in another frame of reference: they see the moved world as they saw the old one."""
        moved = replace(self, camera_to_world=similarity.poses(self.camera_to_world))
        if self.model != "orthographic":
            return moved
        return replace(moved, fx=self.fx / similarity.scale, fy=self.fy / similarity.scale)

    # ----------------------------------------------------------------- private

    def _to_camera(self, points: Tensor) -> Tensor:
        self._check_leading(points, 3, "points")
        extra = points.ndim - 1 - self.ndim
        back = self._trailing(self.camera_to_world[..., :3, :3].transpose(-1, -2), extra)
        # Subtracting first keeps digits when the cameras lie far from the world's origin.
        return rotate(back, points - self._trailing(self.origins, extra))

    def _check_leading(self, values: Tensor, last: int, name: str) -> None:
        leading = values.shape[: self.ndim]
        fits = values.ndim > self.ndim and all(a in (1, b) for a, b in zip(leading, self.shape, strict=True))
        if values.ndim == 0 or values.shape[-1] != last or not fits:
            raise ValueError(
                f"{name} must have shape {(*self.shape, '...', last)} for cameras of batch shape {tuple(self.shape)}, "
                f"got {tuple(values.shape)}"
            )

    def _trailing(self, value: Tensor, extra: int) -> Tensor:
        """Insert ``extra`` axes of length 1 after the batch axes."""
        return value.reshape((*self.shape, *(1,) * extra, *value.shape[self.ndim :]))

    def _focal(self, extra: int) -> Tensor:
        return self._trailing(torch.stack([self.fx, self.fy], dim=-1), extra)

    def _principal(self, extra: int) -> Tensor:
        return self._trailing(torch.stack([self.cx, self.cy], dim=-1), extra)

    def _distortion(self, extra: int, dtype: torch.dtype) -> Tensor | None:
        return None if self.distortion is None else self._trailing(self.distortion.to(dtype), extra)


def _positive(value: Any, where: str) -> Any:
    if not value > 0:
        raise ValueError(f"{where}: sizes and factors must be positive, got {value}")
    return value
