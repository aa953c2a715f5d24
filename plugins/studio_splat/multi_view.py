"""Many cameras over one `ViewRenderer`: the loop, render modes, gradient layouts and the `meta` entries of gsplat."""

from __future__ import annotations

import math
import weakref
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from studio_splat.view_rendering import Gaussians, Splats, View, ViewOptions, ViewRenderer

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]

# Where a ray meets nothing, the expected depth is 0 / this instead of 0 / 0.
_MIN_ALPHA = 1e-10


def render_views(
    renderer: ViewRenderer,
    *,
    means: Float[Tensor, "*batch n 3"],
    quats: Float[Tensor, "*batch n 4"] | None,
    scales: Float[Tensor, "*batch n 3"] | None,
    covars: Float[Tensor, "*batch n 3 3"] | None,
    opacities: Float[Tensor, "*batch n"],
    colors: Tensor,
    sh_degree: int | None,
    viewmats: Float[Tensor, "*batch c 4 4"],
    Ks: Float[Tensor, "*batch c 3 3"],
    backgrounds: Float[Tensor, "*batch c d"] | None,
    options: ViewOptions,
    render_mode: RenderMode,
    tile_size: int,
    packed: bool,
    absgrad: bool,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render every camera of every batch; arguments are those of `studio_splat.rasterization`, checked already."""
    batch, n, cameras = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    batches = math.prod(batch)
    rows_seen: list[Tensor] = []
    if sparse_grad:
        means = _RowSparseGradient.apply(means, rows_seen)
        quats = None if quats is None else _RowSparseGradient.apply(quats, rows_seen)
        scales = None if scales is None else _RowSparseGradient.apply(scales, rows_seen)
    flat_viewmats, flat_Ks = viewmats.reshape(-1, 4, 4), Ks.reshape(-1, 3, 3)
    flat_backgrounds = None if backgrounds is None else backgrounds.reshape(batches * cameras, -1)
    views, projected = [], []
    for image in range(batches * cameras):
        b = image // cameras
        view = View(flat_viewmats[image], flat_Ks[image], options)
        gaussians = Gaussians(
            means=means.reshape(batches, n, 3)[b],
            quats=None if quats is None or covars is not None else quats.reshape(batches, n, 4)[b],
            scales=None if scales is None or covars is not None else scales.reshape(batches, n, 3)[b],
            covars=None if covars is None else covars.reshape(batches, n, 3, 3)[b],
            opacities=opacities.reshape(batches, n)[b],
            colors=_colors_of(colors, image, batch, cameras, sh_degree, render_mode),
            sh_degree=sh_degree if "RGB" in render_mode else None,
        )
        views.append(view)
        projected.append(renderer.project(view, gaussians))
    rows_seen += [splats.ids for splats in projected]

    table = _SplatTable(projected, (*batch, cameras), n, packed)
    collected = torch.zeros(len(table.gaussian_ids), 2, dtype=means.dtype, device=means.device) if absgrad else None
    images, alphas = [], []
    for image, view in enumerate(views):
        splats = table.splats_of(image, projected[image])
        background = None if flat_backgrounds is None else flat_backgrounds[image]
        features, background = _features(splats, background, render_mode)
        into = None if collected is None else collected[table.rows_of(image)]
        rendered, alpha = renderer.composite(view, splats, features, background, into)
        if render_mode.endswith("ED"):
            expected = rendered[..., -1:] / alpha.clamp_min(_MIN_ALPHA)
            rendered = torch.cat([rendered[..., :-1], expected], dim=-1)
        images.append(rendered)
        alphas.append(alpha)
    if collected is not None:
        table.publish_after_backward(collected)
    meta = {
        **table.meta(cameras),
        **_tile_meta(table, options, tile_size),
        "width": options.width,
        "height": options.height,
        "n_batches": batches,
        "n_cameras": cameras,
    }
    shape = (*batch, cameras, options.height, options.width, -1)
    return torch.stack(images).reshape(shape), torch.stack(alphas).reshape(shape), meta


def _colors_of(
    colors: Tensor,
    image: int,
    batch: tuple[int, ...],
    cameras: int,
    sh_degree: int | None,
    render_mode: RenderMode,
) -> Tensor:
    """What one image blends: [N, D] or coefficients [N, K, 3]; [N, 0] where only depth is rendered."""
    tail = colors.shape[-2:] if sh_degree is None else colors.shape[-3:]
    if colors.dim() == len(batch) + len(tail):
        chosen = colors.reshape(math.prod(batch), *tail)[image // cameras]
    else:
        chosen = colors.reshape(math.prod(batch) * cameras, *tail)[image]
    return chosen if "RGB" in render_mode else chosen.new_zeros(len(chosen), 0)


def _features(
    splats: Splats, background: Float[Tensor, " d"] | None, render_mode: RenderMode
) -> tuple[Float[Tensor, "m e"], Float[Tensor, " e"] | None]:
    """The numbers to blend and what is behind them; behind depth there is 0."""
    if render_mode == "RGB":
        return splats.colors, background
    features = torch.cat([splats.colors, splats.depths[:, None]], dim=-1)
    if background is None:
        return features, None
    shown = background if "RGB" in render_mode else background[:0]
    return features, torch.cat([shown, shown.new_zeros(1)])


class _SplatTable:
    """The visible splats of all images in the layout of `meta`, from which compositing reads them back.

    Compositing must read the very tensors that `meta` holds: callers set `retain_grad()` on `meta["means2d"]`.

    Attributes:
        image_ids: Image of each row.
        gaussian_ids: Gaussian of each row; rows are sorted by image, then Gaussian.
        values: `means2d`, `depths`, `conics`, `opacities`, `radii` as one row each, or scattered to [..., C, N, .].
    """

    def __init__(self, projected: list[Splats], images: tuple[int, ...], gaussians: int, packed: bool) -> None:
        counts = [len(splats.ids) for splats in projected]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.image_shape, self.packed = images, packed
        self._slices = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
        self.gaussian_ids = torch.cat([splats.ids for splats in projected])
        device = self.gaussian_ids.device
        self.image_ids = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.values: dict[str, Tensor] = {}
        for name in ("means2d", "depths", "conics", "opacities", "radii"):
            rows = torch.cat([getattr(splats, name) for splats in projected])
            self.values[name] = rows if packed else self._scatter(rows, gaussians)

    def _scatter(self, rows: Tensor, gaussians: int) -> Tensor:
        images = math.prod(self.image_shape)
        full = rows.new_zeros(images, gaussians, *rows.shape[1:]).index_put((self.image_ids, self.gaussian_ids), rows)
        return full.reshape(*self.image_shape, gaussians, *rows.shape[1:])

    def rows_of(self, image: int) -> slice:
        """The rows that belong to one image."""
        return self._slices[image]

    def splats_of(self, image: int, projected: Splats) -> Splats:
        """The splats of one image, as differentiable functions of the tensors in `values`."""
        values = {}
        for name, value in self.values.items():
            if self.packed:
                values[name] = value[self._slices[image]]
            else:
                per_image = value.reshape(math.prod(self.image_shape), *value.shape[len(self.image_shape) :])
                values[name] = per_image[image, projected.ids]
        return Splats(ids=projected.ids, colors=projected.colors, **values)

    def publish_after_backward(self, collected: Float[Tensor, "r 2"]) -> None:
        """Let each backward pass move what it has collected to the attribute `absgrad` of `means2d`."""
        means2d = self.values["means2d"]
        if not means2d.requires_grad:
            return
        # The hook must not keep the tensor alive that keeps the hook alive.
        target = weakref.ref(means2d)
        gaussians = 0 if self.packed else means2d.shape[-2]

        def publish(_: Tensor) -> None:
            tensor = target()
            if tensor is not None:
                absgrad = collected.clone() if self.packed else self._scatter(collected, gaussians)
                tensor.absgrad = absgrad  # type: ignore[attr-defined]
            collected.zero_()

        means2d.register_hook(publish)

    def meta(self, cameras: int) -> dict[str, Tensor | None]:
        """The entries that describe the splats."""
        ids: dict[str, Tensor | None] = {"batch_ids": None, "camera_ids": None, "gaussian_ids": None}
        if self.packed:
            ids = {
                "batch_ids": self.image_ids // cameras,
                "camera_ids": self.image_ids % cameras,
                "gaussian_ids": self.gaussian_ids,
            }
        return {**ids, **self.values}


@torch.no_grad()
def _tile_meta(table: _SplatTable, options: ViewOptions, tile_size: int) -> dict[str, Any]:
    """The tile grid, and how many tiles the bounding box of each splat meets."""
    grid = [math.ceil(options.width / tile_size), math.ceil(options.height / tile_size)]
    means2d, radii = table.values["means2d"], table.values["radii"]
    limits = torch.tensor(grid, dtype=means2d.dtype, device=means2d.device)
    first = ((means2d - radii) / tile_size).floor().clamp_min(0).minimum(limits)
    last = ((means2d + radii) / tile_size).ceil().clamp_min(0).minimum(limits)
    tiles = torch.where((radii > 0).all(-1), (last - first).prod(-1), 0).to(torch.int32)
    return {"tile_width": grid[0], "tile_height": grid[1], "tile_size": tile_size, "tiles_per_gauss": tiles}


class _RowSparseGradient(torch.autograd.Function):
    """Identity whose backward pass keeps only the given rows of the gradient, as a sparse COO tensor.

    What the rows are is known after the forward pass; the caller appends index tensors to the list until then.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: list[Tensor]) -> Tensor:
        ctx.rows = rows
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        rows = torch.cat(ctx.rows).unique()
        return torch.sparse_coo_tensor(rows[None], grads[0][rows], grads[0].shape, check_invariants=False), None
