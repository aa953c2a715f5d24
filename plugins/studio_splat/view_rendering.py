"""What a rasteriser of this plugin implements, one camera at a time, and the torch implementation of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio_splat import reference


@dataclass(frozen=True)
class ViewOptions:
    """What all cameras of a call share; see `studio_splat.rasterization`."""

    width: int
    height: int
    near_plane: float
    far_plane: float
    radius_clip: float
    eps2d: float
    antialiased: bool
    camera_model: reference.CameraModel


@dataclass(frozen=True)
class View:
    """One camera: world to camera, pinhole matrix, and the shared options."""

    viewmat: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    options: ViewOptions


@dataclass(frozen=True)
class Gaussians:
    """Activated parameters of one set of Gaussians; `covars` replaces `quats` and `scales` where it is not None.

    `colors` are [N, D] where `sh_degree` is None, else coefficients [N, K, 3].
    """

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"] | None
    scales: Float[Tensor, "n 3"] | None
    covars: Float[Tensor, "n 3 3"] | None
    opacities: Float[Tensor, " n"]
    colors: Tensor
    sh_degree: int | None


@dataclass(frozen=True)
class Splats:
    """The Gaussians that one camera sees, in the order of their indices.

    Attributes:
        ids: Indices of the Gaussians.
        radii: Half extents in whole pixels, both above 0.
        means2d: Centres, pixels.
        depths: z in camera space.
        conics: Upper triangles of the inverse screen-space covariances.
        opacities: Peak alphas, after the antialiasing compensation.
        colors: Colours seen from this camera.
    """

    ids: Int[Tensor, " m"]
    radii: Int[Tensor, "m 2"]
    means2d: Float[Tensor, "m 2"]
    depths: Float[Tensor, " m"]
    conics: Float[Tensor, "m 3"]
    opacities: Float[Tensor, " m"]
    colors: Float[Tensor, "m d"]


class ViewRenderer(Protocol):
    """Projection and compositing for one camera, both differentiable."""

    def project(self, view: View, gaussians: Gaussians) -> Splats:
        """Find the visible Gaussians and project them."""
        ...

    def composite(
        self,
        view: View,
        splats: Splats,
        features: Float[Tensor, "m d"],
        background: Float[Tensor, " d"] | None,
        absgrad: Float[Tensor, "m 2"] | None,
    ) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w 1"]]:
        """Blend features; the backward pass adds the sums of |d loss / d means2d| over pixels to `absgrad`."""
        ...


def symmetric(covars: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
    """Symmetric matrices from upper triangles: the lower ones are neither read nor given a gradient, as in gsplat."""
    return covars.triu() + covars.triu(1).transpose(-1, -2)


class TorchRenderer:
    """`ViewRenderer` on the reference functions, in the dtype and on the device of its inputs."""

    def project(self, view: View, gaussians: Gaussians) -> Splats:
        """Find the visible Gaussians and project them."""
        with torch.no_grad():
            radii = self._radii(view, gaussians)
            ids = (radii > 0).all(-1).nonzero()[:, 0]
        # Survivors are picked before anything is differentiated: what is culled has a zero gradient, and its
        # projection may be singular.
        means, opacities = gaussians.means[ids], gaussians.opacities[ids]
        projection = _project(view, means, self._covars(gaussians, ids))
        colors = gaussians.colors[ids]
        if gaussians.sh_degree is not None:
            colors = reference.view_dependent_colors(gaussians.sh_degree, means, colors, view.viewmat)
        return Splats(
            ids=ids,
            radii=radii[ids],
            means2d=projection.means2d,
            depths=projection.depths,
            conics=projection.conics,
            opacities=opacities * projection.compensations if view.options.antialiased else opacities,
            colors=colors,
        )

    def composite(
        self,
        view: View,
        splats: Splats,
        features: Float[Tensor, "m d"],
        background: Float[Tensor, " d"] | None,
        absgrad: Float[Tensor, "m 2"] | None,
    ) -> tuple[Float[Tensor, "h w d"], Float[Tensor, "h w 1"]]:
        """Blend features at all pixels."""
        out = reference.composite(
            splats.means2d,
            splats.conics,
            splats.opacities,
            features,
            splats.depths,
            view.options.width,
            view.options.height,
            background=background,
            absgrad=absgrad,
        )
        return out.features, out.alphas

    def _radii(self, view: View, gaussians: Gaussians) -> Int[Tensor, "n 2"]:
        everything = torch.arange(len(gaussians.means), device=gaussians.means.device)
        projection = _project(view, gaussians.means, self._covars(gaussians, everything))
        opacities = gaussians.opacities
        return reference.splat_radii(
            projection,
            opacities * projection.compensations if view.options.antialiased else opacities,
            view.options.width,
            view.options.height,
            near_plane=view.options.near_plane,
            far_plane=view.options.far_plane,
            radius_clip=view.options.radius_clip,
        )

    @staticmethod
    def _covars(gaussians: Gaussians, ids: Int[Tensor, " m"]) -> Float[Tensor, "m 3 3"]:
        if gaussians.covars is not None:
            return symmetric(gaussians.covars[ids])
        assert gaussians.quats is not None
        assert gaussians.scales is not None
        return reference.covariance(gaussians.quats[ids], gaussians.scales[ids])


def _project(view: View, means: Float[Tensor, "n 3"], covars: Float[Tensor, "n 3 3"]) -> reference.Projection:
    return reference.project(
        means,
        covars,
        view.viewmat,
        view.intrinsics,
        view.options.width,
        view.options.height,
        eps2d=view.options.eps2d,
        camera_model=view.options.camera_model,
    )
