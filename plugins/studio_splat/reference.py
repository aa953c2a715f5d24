"""3D Gaussian splatting in plain torch: slow, readable, differentiable in any float dtype.

Every faster backend is tested against this module in float64. It follows the published model step by step and
shares no code with the kernels; all pixels are compared with all visible Gaussians, so there is no tiling or binning
whose mistakes it could hide. Sources, cited at each formula:

* [EWA]    Zwicker, Pfister, van Baar, Gross: *EWA Volume Splatting* (2001) and *EWA Splatting* (TVCG 2002).
* [3DGS]   Kerbl, Kopanas, Leimkuehler, Drettakis: *3D Gaussian Splatting for Real-Time Radiance Field
  Rendering* (ACM TOG 2023).
* [GSPLAT] Ye et al.: *gsplat: An Open-Source Library for Gaussian Splatting*, arXiv:2409.06765; the thresholds, the
  clamped Jacobian and the culling rules are those of its version 1.5.3.
* [MIP]    Yu et al.: *Mip-Splatting: Alias-free 3D Gaussian Splatting*, arXiv:2311.16493.
* [STP]    Radl et al.: *StopThePop*, arXiv:2402.00525 (opacity-aware extent).

What is differentiated and what is not: culling, the depth order, the alpha threshold, the early stop and the radii are
piecewise constant, and their gradient is zero. Where a clamp is active (alpha at 0.999, a colour at 0), no gradient
passes. Clamping the mean inside the Jacobian changes the Jacobian's gradient accordingly, not the projected centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CameraModel = Literal["pinhole", "ortho", "fisheye"]

ALPHA_THRESHOLD = 1.0 / 255.0
"""A splat whose alpha at a pixel is below this is skipped there ([3DGS] appendix C)."""

ALPHA_MAX = 0.999
"""Alpha is clamped here, so that a ray's transmittance never becomes zero and stays invertible ([GSPLAT])."""

TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before the splat that would bring its transmittance down to this ([3DGS] appendix C)."""

JACOBIAN_MARGIN = 0.3
"""The Jacobian is evaluated at most this share of the half field of view outside the image ([3DGS], [GSPLAT])."""

_MAX_EXTENT = 3.33
"""Cut-off in standard deviations; sqrt(2 ln 255) = 3.329 is smaller, so that opacities <= 1 never feel it."""

_PAIRS_PER_CHUNK = 2_000_000


@dataclass(frozen=True)
class Projection:
    """Gaussians on the image plane of one camera.

    Attributes:
        means2d: Centres in pixels; the centre of the first pixel is (0.5, 0.5).
        covars2d: Screen-space covariances after the dilation by `eps2d`, px^2.
        conics: Upper triangle (xx, xy, yy) of the inverse of `covars2d`.
        depths: z in camera space.
        compensations: sqrt(det before dilation / det after), in [0, 1] ([MIP]).
    """

    means2d: Float[Tensor, "n 2"]
    covars2d: Float[Tensor, "n 2 2"]
    conics: Float[Tensor, "n 3"]
    depths: Float[Tensor, " n"]
    compensations: Float[Tensor, " n"]


@dataclass(frozen=True)
class Composite:
    """What a set of splats looks like.

    Attributes:
        features: Sum of weight times feature, plus transmittance times background.
        alphas: 1 - transmittance behind the last splat, in [0, 1).
        median_depths: Depth of the splat at which the transmittance crosses 1/2, and 0 where more than half of the
            light is left behind the last. (Huang et al., *2D Gaussian Splatting for Geometrically Accurate Radiance
            Fields*, 2024, and gsplat's 2D splats give the last contributing splat there; a surface nobody can see is
            no place to put a point, and its pixels would have to be told by their opacity.)
    """

    features: Float[Tensor, "h w d"]
    alphas: Float[Tensor, "h w 1"]
    median_depths: Float[Tensor, "h w 1"]


def quaternion_to_rotation(quats: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices of (w, x, y, z) quaternions of any length but zero."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def covariance(quats: Float[Tensor, "... 4"], scales: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """World-space covariance R S S^T R^T ([3DGS] eq. 6); `scales` are standard deviations in world units."""
    factor = quaternion_to_rotation(quats) * scales[..., None, :]
    return factor @ factor.transpose(-1, -2)


def spherical_harmonics(
    degree: int, directions: Float[Tensor, "n 3"], coefficients: Float[Tensor, "n k c"]
) -> Float[Tensor, "n c"]:
    """Real spherical harmonics with the Condon-Shortley phase, summed up to `degree`.

    The polynomials of Sloan, *Efficient Spherical Harmonic Evaluation* (JCGT 2013), in the order l = 0, 1, ...,
    m = -l ... l that [3DGS] stores.

    Args:
        degree: 0 to 4; the first (degree + 1)^2 coefficients are used.
        directions: Need not be of unit length, but not zero.
        coefficients: At least (degree + 1)^2 rows for each Gaussian.
    """
    if not 0 <= degree <= 4:
        raise ValueError(f"degree must be 0 to 4, got {degree}")
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    basis = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree >= 1:
        k = math.sqrt(3 / (4 * math.pi))
        basis += [-k * y, k * z, -k * x]
    if degree >= 2:
        k = 0.5 * math.sqrt(15 / math.pi)
        basis += [
            k * x * y,
            -k * y * z,
            0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1),
            -k * x * z,
            0.5 * k * (x * x - y * y),
        ]
    if degree >= 3:
        k1, k2 = 0.25 * math.sqrt(21 / (2 * math.pi)), 0.25 * math.sqrt(105 / math.pi)
        k3 = 0.25 * math.sqrt(35 / (2 * math.pi))
        basis += [
            -k3 * y * (3 * x * x - y * y),
            2 * k2 * x * y * z,
            -k1 * y * (5 * z * z - 1),
            0.25 * math.sqrt(7 / math.pi) * z * (5 * z * z - 3),
            -k1 * x * (5 * z * z - 1),
            k2 * z * (x * x - y * y),
            -k3 * x * (x * x - 3 * y * y),
        ]
    if degree >= 4:
        k1, k2 = 0.75 * math.sqrt(5 / (2 * math.pi)), 0.375 * math.sqrt(5 / math.pi)
        k3, k4 = 0.75 * math.sqrt(35 / (2 * math.pi)), 0.1875 * math.sqrt(35 / math.pi)
        basis += [
            4 * k4 * x * y * (x * x - y * y),
            -k3 * y * z * (3 * x * x - y * y),
            2 * k2 * x * y * (7 * z * z - 1),
            -k1 * y * z * (7 * z * z - 3),
            0.1875 / math.sqrt(math.pi) * (35 * z**4 - 30 * z * z + 3),
            -k1 * x * z * (7 * z * z - 3),
            k2 * (x * x - y * y) * (7 * z * z - 1),
            -k3 * x * z * (x * x - 3 * y * y),
            k4 * (x * x * (x * x - 3 * y * y) - y * y * (3 * x * x - y * y)),
        ]
    return torch.einsum("kn,nkc->nc", torch.stack(basis), coefficients[:, : len(basis)])


def view_dependent_colors(
    degree: int,
    means: Float[Tensor, "n 3"],
    coefficients: Float[Tensor, "n k 3"],
    viewmat: Float[Tensor, "4 4"],
) -> Float[Tensor, "n 3"]:
    """Colours seen from a camera: harmonics of the direction centre to mean, + 1/2, at least 0 ([3DGS])."""
    centre = -torch.linalg.solve(viewmat[:3, :3], viewmat[:3, 3])
    return (spherical_harmonics(degree, means - centre, coefficients) + 0.5).clamp_min(0.0)


def _pinhole(
    p: Float[Tensor, "n 3"], intrinsics: Float[Tensor, "3 3"], width: int, height: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 3"]]:
    """Perspective projection and its Jacobian ([EWA], with the third row, along the ray, left out as in [3DGS]).

    The Jacobian is taken at a point no further than 0.3 half fields of view outside the image: far to the side the
    affine approximation breaks down, and splats there would grow without bound.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    x, y, z = p.unbind(-1)
    margin_x, margin_y = JACOBIAN_MARGIN * 0.5 * width / fx, JACOBIAN_MARGIN * 0.5 * height / fy
    tx = z * (x / z).clamp(-(cx / fx + margin_x), (width - cx) / fx + margin_x)
    ty = z * (y / z).clamp(-(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, zero, -fx * tx / z**2], -1), torch.stack([zero, fy / z, -fy * ty / z**2], -1)], -2
    )
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1), jacobian


def _ortho(
    p: Float[Tensor, "n 3"], intrinsics: Float[Tensor, "3 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 3"]]:
    """Orthographic projection; fx, fy are pixels a world unit, and the Jacobian is constant."""
    focal = torch.stack([intrinsics[0, 0], intrinsics[1, 1]])
    jacobian = torch.diag(focal) @ torch.eye(2, 3, dtype=p.dtype, device=p.device)
    return p[:, :2] * focal + intrinsics[:2, 2], jacobian.expand(len(p), 2, 3)


def _fisheye(
    p: Float[Tensor, "n 3"], intrinsics: Float[Tensor, "3 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 3"]]:
    """Equidistant fisheye (Kannala and Brandt 2006, without the polynomial): radius in pixels = focal * angle.

    With r = |(x, y)| and theta = atan2(r, z), the image point is f (x, y) g with g = theta / r. Near the axis theta / r
    and its derivative over r come from the series, as both quotients are 0 / 0 there.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    x, y, z = p.unbind(-1)
    r2 = x * x + y * y
    near_axis = (r2 < 1e-4 * z * z) & (z > 0)
    r = torch.where(near_axis, torch.ones_like(r2), r2).sqrt()
    s = torch.where(near_axis, r2 / (z * z), torch.zeros_like(r2))
    # theta / r, and (d(theta / r) / dr) / r; the series run to s^4 with s = (r / z)^2 < 1e-4.
    series = (1 - s * (1 / 3 - s * (1 / 5 - s * (1 / 7 - s / 9)))) / z
    slope_series = -(2 / 3 - s * (4 / 5 - s * (6 / 7 - s * (8 / 9)))) / z**3
    angle = torch.atan2(r, z)
    g = torch.where(near_axis, series, angle / r)
    slope = torch.where(near_axis, slope_series, (z / (r * r + z * z) - angle / r) / (r * r))
    dz = -1 / (r2 + z * z)
    jacobian = torch.stack(
        [
            torch.stack([fx * (g + x * x * slope), fx * x * y * slope, fx * x * dz], -1),
            torch.stack([fy * x * y * slope, fy * (g + y * y * slope), fy * y * dz], -1),
        ],
        -2,
    )
    return torch.stack([fx * x * g + cx, fy * y * g + cy], -1), jacobian


def project(
    means: Float[Tensor, "n 3"],
    covars: Float[Tensor, "n 3 3"],
    viewmat: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    eps2d: float = 0.3,
    camera_model: CameraModel = "pinhole",
) -> Projection:
    """Project Gaussians by the local affine approximation ([EWA], [3DGS] eq. 5): cov' = J W cov W^T J^T + eps2d I.

    Args:
        means: World-space centres, none of them in the camera plane.
        covars: World-space covariances.
        viewmat: World to camera, OpenCV axes.
        intrinsics: Pinhole matrix with fx, fy, cx, cy in pixels; its skew is ignored.
        width: Image width, pixels.
        height: Image height, pixels.
        eps2d: Added to both diagonal entries of the screen-space covariance, px^2: a splat covers at least a pixel.
        camera_model: "pinhole", "ortho" or "fisheye" (equidistant).
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    p = means @ rotation.T + translation
    if camera_model == "pinhole":
        means2d, jacobian = _pinhole(p, intrinsics, width, height)
    elif camera_model == "ortho":
        means2d, jacobian = _ortho(p, intrinsics)
    else:
        means2d, jacobian = _fisheye(p, intrinsics)
    to_screen = jacobian @ rotation
    sharp = to_screen @ covars @ to_screen.transpose(-1, -2)
    xx, xy, yy = sharp[:, 0, 0], sharp[:, 0, 1], sharp[:, 1, 1]
    blurred_xx, blurred_yy = xx + eps2d, yy + eps2d
    det_sharp, det = xx * yy - xy * xy, blurred_xx * blurred_yy - xy * xy
    return Projection(
        means2d=means2d,
        covars2d=torch.stack([torch.stack([blurred_xx, xy], -1), torch.stack([xy, blurred_yy], -1)], -2),
        conics=torch.stack([blurred_yy, -xy, blurred_xx], -1) / det[:, None],
        depths=p[:, 2],
        compensations=(det_sharp / det).clamp_min(0.0).sqrt(),
    )


@torch.no_grad()
def splat_radii(
    projection: Projection,
    opacities: Float[Tensor, " n"],
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
) -> Int[Tensor, "n 2"]:
    """Half extents of the splats in whole pixels, (0, 0) for those that cannot be seen ([GSPLAT] section 3, [STP] B.2).

    Beyond sqrt(2 ln(255 opacity)) standard deviations alpha is below 1/255. A splat is culled when its depth is outside
    [near, far], its peak alpha is below 1/255, its covariance is not positive definite, both half extents are at most
    `radius_clip`, or its bounding box misses the image.
    """
    xx, yy = projection.covars2d[:, 0, 0], projection.covars2d[:, 1, 1]
    det = xx * yy - projection.covars2d[:, 0, 1] ** 2
    extent = (2 * (opacities / ALPHA_THRESHOLD).log()).clamp_min(0).sqrt().clamp_max(_MAX_EXTENT)
    radii = torch.stack([(extent * xx.sqrt()).ceil(), (extent * yy.sqrt()).ceil()], -1)
    size = torch.tensor([width, height], dtype=radii.dtype, device=radii.device)
    visible = (
        (projection.depths >= near_plane)
        & (projection.depths <= far_plane)
        & (opacities >= ALPHA_THRESHOLD)
        & (det > 0)
        & (radii > radius_clip).any(-1)
        & (projection.means2d + radii > 0).all(-1)
        & (projection.means2d - radii < size).all(-1)
    )
    # A radius beyond int32 comes only from a splat that covers every image there is.
    return torch.where(visible[:, None], radii.clamp_max(2**30), torch.zeros_like(radii)).to(torch.int32)


class _SpreadToPixels(torch.autograd.Function):
    """Repeat the centres for each pixel, so that the backward pass sees each pixel's gradient before they are summed.

    The sum of absolute values is what AbsGS (Ye et al., arXiv:2404.10484, eq. 5) ranks Gaussians by; in the usual sum,
    pixels that pull a splat to opposite sides cancel.
    """

    @staticmethod
    def forward(
        ctx: Any, means2d: Float[Tensor, "n 2"], pixels: int, absgrad: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "p n 2"]:
        ctx.absgrad = absgrad
        return means2d.expand(pixels, *means2d.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.absgrad.add_(grads[0].abs().sum(0))
        return grads[0].sum(0), None, None


def splat_alphas(
    pixels: Float[Tensor, "p 2"],
    means2d: Float[Tensor, "n 2"] | Float[Tensor, "p n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
) -> Float[Tensor, "p n"]:
    """Alpha of splats at pixels: opacity exp(-1/2 d^T conic d), at most 0.999, 0 if below 1/255 ([3DGS] eq. 4)."""
    dx, dy = (means2d - pixels[:, None]).unbind(-1)
    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alphas = (opacities * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    return torch.where((alphas >= ALPHA_THRESHOLD) & (sigma >= 0), alphas, torch.zeros_like(alphas))


def compositing_weights(alphas: Float[Tensor, "p n"]) -> tuple[Float[Tensor, "p n"], Float[Tensor, " p"]]:
    """Weights alpha_i T_i of splats in depth order, and the transmittance behind the last ([3DGS] eq. 3).

    T_i is the product of (1 - alpha_j) over all j in front of i. The splat that would bring T to 1e-4 or below, and all
    behind it, count nothing.
    """
    reached: Bool[Tensor, "p n"] = torch.cumprod(1 - alphas.detach(), dim=1) > TRANSMITTANCE_MIN
    alphas = torch.where(reached, alphas, torch.zeros_like(alphas))
    behind = torch.cumprod(1 - alphas, dim=1)
    in_front = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=1)
    return alphas * in_front, (1 - alphas).prod(dim=1)


def composite(
    means2d: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    features: Float[Tensor, "n d"],
    depths: Float[Tensor, " n"],
    width: int,
    height: int,
    *,
    background: Float[Tensor, " d"] | None = None,
    absgrad: Float[Tensor, "n 2"] | None = None,
) -> Composite:
    """Blend splats front to back at all pixel centres ([3DGS] eq. 3); of equal depths the smaller index is in front.

    Args:
        means2d: Centres, pixels.
        conics: Upper triangles of the inverse screen-space covariances.
        opacities: Peak alphas in [0, 1].
        features: Any number of channels, at least one.
        depths: What the splats are sorted by; passes no gradient here (render it as a feature to get one).
        width: Image width, pixels.
        height: Image height, pixels.
        background: What is seen where light is left; zero when None.
        absgrad: The backward pass adds the sum over pixels of |d loss / d means2d| to it, when given.
    """
    order = torch.sort(depths.detach(), stable=True).indices
    sorted_depths = depths.detach()[order]
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=means2d.dtype, device=means2d.device) + 0.5,
        torch.arange(width, dtype=means2d.dtype, device=means2d.device) + 0.5,
        indexing="ij",
    )
    all_pixels = torch.stack([xs, ys], -1).reshape(-1, 2)
    back = features.new_zeros(features.shape[1]) if background is None else background

    def shade(pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor) -> Tensor:
        centres = means2d if absgrad is None else _SpreadToPixels.apply(means2d, len(pixels), absgrad)
        sorted_centres = centres[..., order, :]
        weights, transmittance = compositing_weights(
            splat_alphas(pixels, sorted_centres, conics[order], opacities[order])
        )
        colour = weights @ features[order] + transmittance[:, None] * back
        with torch.no_grad():
            # The transmittance behind splat i is above 1/2 for a prefix of the list; the next splat crosses it.
            crossing = ((1 - torch.cumsum(weights, dim=1)) > 0.5).sum(dim=1)
            padded = torch.cat([sorted_depths, sorted_depths.new_zeros(1)])
        return torch.cat([colour, (1 - transmittance)[:, None], padded[crossing][:, None]], dim=1)

    chunks = all_pixels.split(max(1, _PAIRS_PER_CHUNK // max(1, len(order))))
    recompute = torch.is_grad_enabled() and len(chunks) > 1
    rows = [
        # Recomputing a chunk in the backward pass keeps memory at one chunk's (pixel, Gaussian) pairs.
        checkpoint(shade, pixels, means2d, conics, opacities, features, use_reentrant=False)
        if recompute
        else shade(pixels, means2d, conics, opacities, features)
        for pixels in chunks
    ]
    image = torch.cat(rows).reshape(height, width, -1)
    return Composite(image[..., :-2], image[..., -2:-1], image[..., -1:].detach())
