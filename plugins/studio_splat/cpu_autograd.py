"""The CPU backend: the Numba kernels as differentiable torch functions.

Two autograd functions, one on each side of the projected splats, so that callers can read and differentiate `means2d`
as with gsplat. The training loop needs no torch between projection and update, and uses the kernels directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from studio.kernels.workspace import Workspace
from studio_splat.kernels.arrays import Arrays, backward_arrays, gather_visible, project_arrays
from studio_splat.kernels.binning import Tiles, bin_splats, count_pairs
from studio_splat.kernels.raster_backward import rasterize_backward
from studio_splat.kernels.raster_forward import Raster, rasterize_forward
from studio_splat.kernels.records import RECORD
from studio_splat.kernels.splat_arrays import fill_planes, fill_records, pixels_of, split_rows
from studio_splat.kernels.view import View as KernelView
from studio_splat.memory import require_memory
from studio_splat.view_rendering import Gaussians, Splats, TorchRenderer, View

_BYTES_A_PAIR = 4


class KernelRenderer:
    """`ViewRenderer` on the compiled kernels; float32 tensors on the CPU.

    Args:
        check: Called where the kernels come across Gaussians with numbers that nobody means; raises what the user is
            told. It saves passes over parameters that are read anyway.
    """

    def __init__(self, check: Callable[[], None] | None = None) -> None:
        self._check = check

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
            self._check,
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
        check: Callable[[], None] | None,
    ) -> tuple[Tensor, ...]:
        lease = _Lease()
        projected = project_arrays(
            _arrays(means, quats, scales, opacities, coefficients), view, degree, lease.workspace
        )
        if projected.suspicious and check is not None:
            check()
        seen = gather_visible(projected)
        ids, out_opacities = torch.from_numpy(seen.ids), torch.from_numpy(seen.opacities)
        radii = torch.from_numpy(seen.radii)
        ctx.save_for_backward(means, quats, scales, opacities, coefficients, ids, out_opacities)
        ctx.kernel_inputs = (view, degree, projected, lease)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(ids, radii)
        floats = (torch.from_numpy(a) for a in (seen.means2d, seen.depths, seen.conics))
        return ids, radii, *floats, out_opacities, torch.from_numpy(seen.rgb)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        *parameters, ids, out_opacities = ctx.saved_tensors
        view, degree, projected, lease = ctx.kernel_inputs
        names = ("means2d", "depths", "conics", "opacities", "rgb")
        upstream = {n: None if g is None else _array(g) for n, g in zip(names, grads[2:], strict=True)}
        found, v_pose = backward_arrays(
            _arrays(*parameters),
            view,
            degree,
            projected,
            ids.numpy(),
            out_opacities.numpy(),
            upstream,
            lease.workspace,
            pose=ctx.needs_input_grad[5],
        )
        v_viewmat = None
        if v_pose is not None:
            v_viewmat = torch.zeros(4, 4)
            v_viewmat[:3] = torch.from_numpy(v_pose)
        return (
            torch.from_numpy(found.means),
            torch.from_numpy(found.quats),
            torch.from_numpy(found.scales),
            None if grads[5] is None else torch.from_numpy(found.opacities),
            None if found.sh is None else torch.from_numpy(found.sh),
            v_viewmat,
            None,
            None,
            None,
        )


def _arrays(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, coefficients: Tensor | None) -> Arrays:
    return Arrays(
        _array(means),
        _array(quats),
        _array(scales),
        _array(opacities),
        None if coefficients is None else _array(coefficients),
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
        lease = _Lease()
        records = lease.workspace.array("composite.records", (len(means2d), RECORD))
        values = _array(features)
        bound = fill_records(
            _array(means2d),
            _array(conics),
            _array(opacities),
            values if in_records else None,
            _array(depths),
            radii.contiguous().numpy(),
            width,
            height,
            records,
        )
        table = None if in_records else values.copy()
        behind = np.zeros(max(channels, 3) if in_records else channels, np.float32)
        if background is not None:
            behind[:channels] = background.detach().numpy()
        _check_pair_memory(bound, records, means2d.device, width, height, lease.workspace)
        tiles = bin_splats(records, width, height, lease.workspace)
        raster = rasterize_forward(
            records, tiles, lease.workspace, features=table, background=behind, depth=in_records and channels == 4
        )
        ctx.blended = _Blended(records, table, tiles, raster, lease)
        ctx.channels, ctx.absgrad = channels, absgrad
        ctx.save_for_backward(opacities)
        ctx.set_materialize_grads(False)
        image = torch.from_numpy(pixels_of(raster.image, channels))
        return image, (1 - torch.from_numpy(raster.transmittance))[..., None]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (opacities,) = ctx.saved_tensors
        blended: _Blended = ctx.blended
        v_image, v_alphas = grads
        planes = blended.lease.workspace.array("composite.v_image", blended.raster.image.shape)
        if v_image is None:
            planes.fill(0)
        else:
            fill_planes(_array(v_image), planes)
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
        absgrad = None if ctx.absgrad is None else ctx.absgrad.numpy()
        in_records = 0 if blended.table is not None else ctx.channels
        v_means2d, v_conics, v_opacities, v_features = split_rows(found.rows, _array(opacities), in_records, absgrad)
        if found.features is not None:
            v_features = found.features.copy()
        return (
            torch.from_numpy(v_means2d),
            torch.from_numpy(v_conics),
            torch.from_numpy(v_opacities),
            torch.from_numpy(v_features),
            torch.from_numpy(found.background[: ctx.channels]) if ctx.needs_input_grad[4] else None,
            *[None] * 5,
        )


def _check_pair_memory(
    bound: float, records: NDArray[np.float32], device: torch.device, width: int, height: int, workspace: Workspace
) -> None:
    """Refuse an image whose list of (tile, splat) pairs would not fit; `bound` is known of their number."""
    if bound * _BYTES_A_PAIR < 1 << 28:
        return
    # The bounding boxes say little about slanted splats; counting exactly costs half of the binning.
    pairs = count_pairs(records, width, height, workspace)
    require_memory(
        f"A list of {pairs:,} pairs of a tile and a Gaussian",
        pairs * _BYTES_A_PAIR,
        device,
        fix="Prune Gaussians, render a smaller image or raise radius_clip.",
    )
