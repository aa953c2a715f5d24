"""The CPU backend: the Numba kernels as differentiable torch functions.

Two autograd functions, one on each side of the projected splats, so that callers can read and differentiate `means2d`
as with gsplat. The training loop needs no torch between projection and update, and uses the kernels directly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from studio.kernels.workspace import Workspace
from studio_splat.kernels import layout
from studio_splat.kernels.binning import Tiles, bin_splats, count_pairs
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import project_backward
from studio_splat.kernels.raster_backward import rasterize_backward
from studio_splat.kernels.raster_forward import Raster, rasterize_forward
from studio_splat.kernels.records import RECORD, TILE
from studio_splat.kernels.view import View as KernelView
from studio_splat.memory import require_memory
from studio_splat.view_rendering import Gaussians, Splats, TorchRenderer, View

_LOG2_E = math.log2(math.e)
# In the records alpha = 2^(L + A dx^2 + B dx dy + C dy^2); these are A, B, C over the conic's xx, xy, yy.
_CONIC_SCALES = (-0.5 * _LOG2_E, -_LOG2_E, -0.5 * _LOG2_E)

# What the logarithms of the parameters are cut to: a scale of 0 is a flat disc, an opacity of 1 is opaque.
_SMALLEST_SCALE = 1e-30
_LARGEST_LOGIT = 40.0

_BYTES_A_PAIR = 4


class KernelRenderer:
    """`ViewRenderer` on the compiled kernels; float32 tensors on the CPU."""

    def project(self, view: View, gaussians: Gaussians) -> Splats:
        """Find the visible Gaussians and project them."""
        if gaussians.covars is not None:
            # The kernels take rotations and scales only.
            return TorchRenderer().project(view, gaussians)
        with_sh = gaussians.sh_degree is not None
        ids, radii, means2d, depths, conics, opacities, rgb = _Project.apply(
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            gaussians.colors if with_sh else None,
            view.viewmat,
            _kernel_view(view),
            gaussians.sh_degree if with_sh else -1,
        )
        return Splats(
            ids=ids,
            radii=radii,
            means2d=means2d,
            depths=depths,
            conics=conics,
            opacities=opacities,
            colors=rgb if with_sh else gaussians.colors[ids],
        )

    def composite(
        self,
        view: View,
        splats: Splats,
        features: Float[Tensor, "m d"],
        background: Float[Tensor, " d"] | None,
        absgrad: Float[Tensor, "m 2"] | None,
    ) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w 1"]]:
        """Blend features, three or rgb and depth in one pass, any other number through a table of features."""
        image, alphas = _Composite.apply(
            splats.means2d,
            splats.conics,
            splats.opacities,
            features,
            background,
            splats.depths.detach(),
            splats.radii,
            view.options.width,
            view.options.height,
            absgrad,
        )
        return image, alphas


def _kernel_view(view: View) -> KernelView:
    viewmat, K = view.viewmat.detach().numpy(), view.intrinsics.detach().numpy()
    options = view.options
    return KernelView(
        world_to_camera=viewmat,
        fx=float(K[0, 0]),
        fy=float(K[1, 1]),
        cx=float(K[0, 2]),
        cy=float(K[1, 2]),
        width=options.width,
        height=options.height,
        near=options.near_plane,
        far=options.far_plane,
        eps2d=options.eps2d,
        radius_clip=options.radius_clip,
        antialiased=options.antialiased,
        camera_model=options.camera_model,
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().numpy()


class _Project(torch.autograd.Function):
    """Projection and shading of all Gaussians; returns the visible ones."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Float[Tensor, "n 3"],
        quats: Float[Tensor, "n 4"],
        scales: Float[Tensor, "n 3"],
        opacities: Float[Tensor, " n"],
        coefficients: Float[Tensor, "n k 3"] | None,
        viewmat: Float[Tensor, "4 4"],
        view: KernelView,
        degree: int,
    ) -> tuple[Tensor, ...]:
        used = None if coefficients is None else coefficients.detach()[:, : (degree + 1) ** 2]
        params = layout.pack(
            _array(means),
            _array(quats),
            _array(scales.detach().clamp_min(_SMALLEST_SCALE).log()),
            _array(torch.logit(opacities.detach()).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)),
            None if used is None else _array(used),
        )
        records = layout.aligned_empty((len(params) * layout.LANES, RECORD))
        half_extents = layout.aligned_empty((len(records),))
        project_forward(params, view, degree, records, half_extents)
        ids = torch.from_numpy(np.flatnonzero(half_extents[: len(means)]))
        seen = torch.from_numpy(records)[ids]
        out_opacities = seen[:, 5].exp2()
        ctx.save_for_backward(scales, opacities, ids, out_opacities)
        ctx.coefficients_shape = None if coefficients is None else coefficients.shape
        ctx.kernel_inputs = (params, view, degree, records)
        ctx.set_materialize_grads(False)
        radii = seen[:, 10:12].ceil().to(torch.int32)
        ctx.mark_non_differentiable(ids, radii)
        conics = seen[:, 2:5] / seen.new_tensor(_CONIC_SCALES)
        return ids, radii, seen[:, 0:2].clone(), seen[:, 9].clone(), conics, out_opacities, seen[:, 6:9].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        scales, opacities, ids, out_opacities = ctx.saved_tensors
        params, view, degree, records = ctx.kernel_inputs
        _, _, v_means2d, v_depths, v_conics, v_opacities, v_rgb = grads
        seen = torch.zeros(len(ids), RECORD)
        if v_means2d is not None:
            seen[:, 0:2] = v_means2d
        if v_conics is not None:
            seen[:, 2:5] = v_conics / seen.new_tensor(_CONIC_SCALES)
        if v_opacities is not None:
            seen[:, 5] = v_opacities * out_opacities * math.log(2)
        if v_rgb is not None:
            seen[:, 6:9] = v_rgb
        if v_depths is not None:
            seen[:, 9] = v_depths
        rows = layout.aligned_zeros(records.shape)
        rows[ids.numpy()] = seen.numpy()
        gradients = layout.aligned_empty(params.shape)
        v_pose = project_backward(params, view, degree, records, rows, gradients, pose=ctx.needs_input_grad[5])
        unpacked = layout.unpack(gradients, len(scales))
        v_scales = torch.from_numpy(unpacked["log_scales"]) / scales.clamp_min(_SMALLEST_SCALE)
        # Through the logit this would be 0 / 0 for an opacity of 1.
        v_in_opacities = None
        if v_opacities is not None:
            v_in_opacities = torch.zeros_like(opacities)
            v_in_opacities[ids] = v_opacities * out_opacities / opacities[ids]
        v_coefficients = None
        if ctx.coefficients_shape is not None:
            v_coefficients = torch.zeros(ctx.coefficients_shape)
            v_coefficients[:, : (degree + 1) ** 2] = torch.from_numpy(unpacked["sh"])
        v_viewmat = None
        if v_pose is not None:
            v_viewmat = torch.zeros(4, 4)
            v_viewmat[:3] = torch.from_numpy(v_pose)
        return (
            torch.from_numpy(unpacked["means"]),
            torch.from_numpy(unpacked["quats"]),
            v_scales,
            v_in_opacities,
            v_coefficients,
            v_viewmat,
            None,
            None,
        )


class _Lease:
    """A workspace that goes back to the shelf when the graph that needs its contents is gone."""

    _shelf: ClassVar[list[Workspace]] = []

    def __init__(self) -> None:
        # pop and append are atomic, so threads may share the shelf.
        try:
            self.workspace = self._shelf.pop()
        except IndexError:
            self.workspace = Workspace()

    def __del__(self) -> None:
        self._shelf.append(self.workspace)


@dataclass(frozen=True)
class _Blended:
    """What the backward pass needs of a forward pass; arrays are views into the lease's workspace, or of `records`.

    Attributes:
        records: (m, 16).
        table: (m, d) features that are not in the records, or None.
        tiles: The splats of each tile.
        raster: Image and transmittance.
        lease: Keeps the workspace.
    """

    records: NDArray[np.float32]
    table: NDArray[np.float32] | None
    tiles: Tiles
    raster: Raster
    lease: _Lease


class _Composite(torch.autograd.Function):
    """Binning and blending of projected splats."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Float[Tensor, "m 2"],
        conics: Float[Tensor, "m 3"],
        opacities: Float[Tensor, " m"],
        features: Float[Tensor, "m d"],
        background: Float[Tensor, " d"] | None,
        depths: Float[Tensor, " m"],
        radii: Int[Tensor, "m 2"],
        width: int,
        height: int,
        absgrad: Float[Tensor, "m 2"] | None,
    ) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w 1"]]:
        channels = features.shape[1]
        # The fourth channel of a record is its depth, which the splats are sorted by.
        in_records = channels <= 3 or (channels == 4 and torch.equal(features[:, 3], depths))
        buffer = layout.aligned_zeros((len(means2d), RECORD))
        records = torch.from_numpy(buffer)
        records[:, 0:2] = means2d.detach()
        records[:, 2:5] = conics.detach() * conics.new_tensor(_CONIC_SCALES)
        records[:, 5] = opacities.detach().log2()
        records[:, 9] = depths
        records[:, 10:12] = radii
        table = None
        if in_records:
            records[:, 6 : 6 + min(channels, 3)] = features.detach()[:, :3]
            behind = np.zeros(max(channels, 3), np.float32)
        else:
            table = _array(features).copy()
            behind = np.zeros(channels, np.float32)
        if background is not None:
            behind[:channels] = background.detach().numpy()
        lease = _Lease()
        _check_pair_memory(buffer, radii, width, height, lease.workspace)
        tiles = bin_splats(buffer, width, height, lease.workspace)
        raster = rasterize_forward(
            buffer, tiles, lease.workspace, features=table, background=behind, depth=in_records and channels == 4
        )
        ctx.blended = _Blended(buffer, table, tiles, raster, lease)
        ctx.channels, ctx.absgrad = channels, absgrad
        ctx.save_for_backward(opacities)
        ctx.set_materialize_grads(False)
        image = torch.from_numpy(raster.image)[:channels].permute(1, 2, 0).contiguous()
        return image, (1 - torch.from_numpy(raster.transmittance))[..., None]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (opacities,) = ctx.saved_tensors
        blended: _Blended = ctx.blended
        v_image, v_alphas = grads
        planes = np.zeros(blended.raster.image.shape, np.float32)
        if v_image is not None:
            planes[: ctx.channels] = v_image.permute(2, 0, 1).numpy()
        found = rasterize_backward(
            blended.records,
            blended.tiles,
            blended.raster,
            blended.lease.workspace,
            planes,
            None if v_alphas is None else -_array(v_alphas[..., 0]),
            features=blended.table,
            absgrad=ctx.absgrad is not None,
        )
        rows = torch.from_numpy(found.rows)
        if ctx.absgrad is not None:
            ctx.absgrad.add_(rows[:, 10:12])
        if found.features is not None:
            v_features = torch.from_numpy(found.features).clone()
        elif ctx.channels == 4:
            v_features = rows[:, 6:10].clone()
        else:
            v_features = rows[:, 6 : 6 + ctx.channels].clone()
        return (
            rows[:, 0:2].clone(),
            rows[:, 2:5] * rows.new_tensor(_CONIC_SCALES),
            rows[:, 5] / (opacities * math.log(2)),
            v_features,
            torch.from_numpy(found.background[: ctx.channels]) if ctx.needs_input_grad[4] else None,
            *[None] * 5,
        )


def _check_pair_memory(
    records: NDArray[np.float32], radii: Int[Tensor, "m 2"], width: int, height: int, workspace: Workspace
) -> None:
    """Refuse an image whose list of (tile, splat) pairs would not fit."""
    grid = -(-width // TILE) * -(-height // TILE)
    bound = ((radii.double() * 2 / TILE + 2).prod(1).clamp_max(grid)).sum().item() * _BYTES_A_PAIR
    if bound < 1 << 28:
        return
    # The bounding boxes say little about slanted splats; counting exactly costs half of the binning.
    pairs = count_pairs(records, width, height, workspace)
    require_memory(
        f"A list of {pairs:,} pairs of a tile and a Gaussian",
        pairs * _BYTES_A_PAIR,
        radii.device,
        fix="Prune Gaussians, render a smaller image or raise radius_clip.",
    )
