"""One call that renders Gaussians on a CPU, a GPU or in plain torch, with the arguments and results of gsplat 1.5.3."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio_splat import backends
from studio_splat.arguments import check_cameras, check_choices, check_shapes, check_values
from studio_splat.memory import require_memory
from studio_splat.multi_view import RenderMode, render_views
from studio_splat.reference import CameraModel
from studio_splat.view_rendering import TorchRenderer, ViewOptions, ViewRenderer

# Float numbers a Gaussian that projection keeps at once, without gradients: covariances, Jacobians, conics, records.
_NUMBERS_PER_GAUSSIAN = 40


def rasterization(
    means: Float[Tensor, "*batch n 3"],
    quats: Float[Tensor, "*batch n 4"] | None,
    scales: Float[Tensor, "*batch n 3"] | None,
    opacities: Float[Tensor, "*batch n"],
    colors: Tensor,
    viewmats: Float[Tensor, "*batch c 4 4"],
    Ks: Float[Tensor, "*batch c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "*batch c d"] | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye", "ftheta"] = "pinhole",
    segmented: bool = False,
    covars: Float[Tensor, "*batch n 3 3"] | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any = None,
    rolling_shutter: Any = None,
    viewmats_rs: Tensor | None = None,
    *,
    backend: backends.BackendName | None = None,
    check: bool = True,
) -> tuple[Float[Tensor, "*batch c h w d"], Float[Tensor, "*batch c h w 1"], dict[str, Any]]:
    """Render N Gaussians into C cameras; leading batch dimensions repeat that.

    Gradients flow to `means`, `quats`, `scales`, `covars`, `opacities`, `colors`, `backgrounds` and `viewmats`, not to
    `Ks`. Arguments and their order are those of gsplat 1.5.3, so that its callers need to change the import only.

    Args:
        means: Centres in world space.
        quats: Rotations (w, x, y, z) of any length but zero.
        scales: Standard deviations along the axes, world units, not their logarithms.
        opacities: In [0, 1], not logits.
        colors: [..., N, D] or, for each camera, [..., C, N, D] numbers to blend; with `sh_degree`,
            coefficients [..., (C,) N, K, 3] of spherical harmonics with K >= (sh_degree + 1)^2.
        viewmats: World to camera, OpenCV axes.
        Ks: Pinhole matrices; fx, fy, cx, cy in pixels are read, skew is not.
        width: Of the images, pixels.
        height: Of the images, pixels.
        near_plane: Gaussians whose centre has a smaller z-depth are culled.
        far_plane: Gaussians whose centre has a larger z-depth are culled.
        radius_clip: Gaussians whose half extents are both at most this many pixels are culled.
        eps2d: Added to the diagonal of the screen-space covariances, px^2.
        sh_degree: None for plain colours, else the degree 0 to 4 in use.
        packed: Layout of `meta`: one row for each visible (camera, Gaussian) pair, else [..., C, N, .] with zeros.
        tile_size: Tile edge in pixels, for the tile entries of `meta` and the "cuda" backend; "cpu" tiles as it likes.
        backgrounds: What is seen where light is left, black when None; depth channels have background 0.
        render_mode: "RGB" colours, "D" the sum of weight times z-depth, "ED" that divided by alpha; or both, with depth
            as the last channel.
        sparse_grad: Gradients of means, quats and scales come as sparse COO tensors over visible rows; needs `packed`.
        absgrad: After the backward pass `meta["means2d"].absgrad` is the sum over pixels of |d loss / d means2d|. The
            gradient of a pixel is that of all its channels together; above `channel_chunk` channels gsplat's "cuda"
            takes the absolute value in each chunk of channels, and leaves that of the last chunk which it ran back.
        rasterize_mode: "antialiased" scales opacities by sqrt(det before / det after the dilation) (Mip-Splatting).
        channel_chunk: Channels blended at once on the "cuda" backend; pictures do not depend on it (see `absgrad`).
        distributed: "cuda" only.
        camera_model: "pinhole", "ortho" (fx, fy are pixels a world unit), "fisheye" (equidistant); "ftheta" is "cuda"
            only.
        segmented: How the "cuda" backend sorts; results do not depend on it.
        covars: World-space covariances instead of `quats` and `scales`; their upper triangles are read.
        with_ut: "cuda" only, as are the remaining arguments up to `viewmats_rs`.
        with_eval3d: See `with_ut`.
        radial_coeffs: See `with_ut`.
        tangential_coeffs: See `with_ut`.
        thin_prism_coeffs: See `with_ut`.
        ftheta_coeffs: See `with_ut`.
        rolling_shutter: See `with_ut`; None is a global shutter.
        viewmats_rs: See `with_ut`.
        backend: "reference", "cpu" or "cuda"; None takes "cpu" or "cuda" by the device of `means`.
        check: Look at the numbers of all arguments (finite, opacities in [0, 1], ...), a few passes over them; a
            training loop that checks its loss can leave this out. Shapes are always checked.

    Returns:
        The images [..., C, H, W, D]; their alphas [..., C, H, W, 1] in [0, 1); and `meta` with `means2d`, `radii`,
        `depths`, `conics`, `opacities` (after compensation), `batch_ids`, `camera_ids`, `gaussian_ids` (None unless
        packed), `tiles_per_gauss`, `tile_width`, `tile_height`, `tile_size`, `width`, `height`, `n_cameras` and
        `n_batches`. gsplat's lists of tile intersections (`isect_ids`, `flatten_ids`, `isect_offsets`) come from the
        "cuda" backend only.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or an unknown value.
        StudioError: The numbers of an argument are bad (`check`), the backend cannot run here or lacks an option, or
            the memory does not suffice.
    """
    sizes = check_shapes(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, backgrounds, covars
    )
    check_choices(
        render_mode,
        rasterize_mode,
        camera_model,
        near_plane,
        far_plane,
        radius_clip,
        eps2d,
        tile_size,
        channel_chunk,
    )
    if sparse_grad and sizes.batch:
        raise ValueError(f"sparse_grad takes no batch dimensions, got means of shape {tuple(means.shape)}")
    name = backend or backends.default_backend(means.device.type)
    backends.require_backend(name)
    _check_backend_fits(name, means)
    require_memory(
        f"Rendering {sizes.gaussians:,} Gaussians",
        sizes.gaussians * _NUMBERS_PER_GAUSSIAN * means.element_size(),
        means.device,
        fix="Use fewer Gaussians.",
    )
    images = math.prod(sizes.batch) * sizes.cameras
    channels = {"RGB": sizes.channels, "D": 1, "ED": 1}.get(render_mode, sizes.channels + 1)
    require_memory(
        f"{images} images of {width} x {height} pixels with {channels} channels",
        images * width * height * (channels + 1) * means.element_size(),
        means.device,
        fix="Render smaller images, or fewer at once.",
    )
    look = partial(check_values, means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, covars)
    # The compiled kernels see all numbers of the Gaussians as they read them, if they read all.
    kernels_look = name == "cpu" and covars is None and sh_degree is not None and "RGB" in render_mode
    kernels_look = kernels_look and colors.shape[-2] == ((sh_degree or 0) + 1) ** 2
    if check and kernels_look:
        check_cameras(viewmats, Ks, backgrounds)
    elif check:
        look()
    gsplat_only = {
        "distributed": distributed,
        "with_ut": with_ut,
        "with_eval3d": with_eval3d,
        "radial_coeffs": radial_coeffs,
        "tangential_coeffs": tangential_coeffs,
        "thin_prism_coeffs": thin_prism_coeffs,
        "ftheta_coeffs": ftheta_coeffs,
        "rolling_shutter": None if getattr(rolling_shutter, "name", None) == "GLOBAL" else rolling_shutter,
        "viewmats_rs": viewmats_rs,
    }
    gsplat_only = {key: value for key, value in gsplat_only.items() if value is not None and value is not False}
    if name == "cuda":
        from studio_splat import cuda

        return cuda.rasterize(
            means=means,
            quats=quats,
            scales=scales,
            opacities=opacities,
            colors=colors,
            viewmats=viewmats,
            Ks=Ks,
            width=width,
            height=height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            sh_degree=sh_degree,
            packed=packed,
            tile_size=tile_size,
            backgrounds=backgrounds,
            render_mode=render_mode,
            sparse_grad=sparse_grad,
            absgrad=absgrad,
            rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk,
            camera_model=camera_model,
            segmented=segmented,
            covars=covars,
            **gsplat_only,
        )
    refused = [*gsplat_only, *(["camera_model='ftheta'"] if camera_model == "ftheta" else [])]
    if refused:
        raise StudioError(
            f"rasterization: the backend '{name}' has no {refused[0]}.",
            fix="Leave it out, or run on an NVIDIA GPU with backend='cuda'.",
        )
    return render_views(
        _renderer(name, look if check and kernels_look else None),
        means=means,
        quats=quats,
        scales=scales,
        covars=covars,
        opacities=opacities,
        colors=colors,
        sh_degree=sh_degree,
        viewmats=viewmats,
        Ks=Ks,
        backgrounds=backgrounds,
        options=ViewOptions(
            width=width,
            height=height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            antialiased=rasterize_mode == "antialiased",
            camera_model=cast(CameraModel, camera_model),
        ),
        render_mode=render_mode,
        tile_size=tile_size,
        packed=packed,
        absgrad=absgrad,
        sparse_grad=sparse_grad and packed,
    )


def _renderer(name: backends.BackendName, look: Callable[[], None] | None) -> ViewRenderer:
    if name == "reference":
        return TorchRenderer()
    # Numba is imported only by those who render with it.
    from studio_splat.cpu_autograd import KernelRenderer

    return KernelRenderer(look)


def _check_backend_fits(name: backends.BackendName, means: Tensor) -> None:
    """The compiled backends take float32 on their own device, and say so instead of converting behind one's back."""
    if name == "reference":
        return
    if means.device.type != name:
        raise ValueError(f"backend '{name}' takes tensors on a {name} device, got means on {means.device}")
    if means.dtype != torch.float32:
        raise TypeError(
            f"backend '{name}' takes float32, got means of {means.dtype}; "
            "convert with .float(), or pass backend='reference' (slow)"
        )
