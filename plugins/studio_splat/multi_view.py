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
    with_shapes = covars is None
    all_means, all_opacities = _parts(means, batches, n, 3), _parts(opacities, batches, n)
    all_quats = None if quats is None or not with_shapes else _parts(quats, batches, n, 4)
    all_scales = None if scales is None or not with_shapes else _parts(scales, batches, n, 3)
    all_covars = None if covars is None else _parts(covars, batches, n, 3, 3)
    all_colors = _colors(colors, batch, cameras, sh_degree, render_mode)
    views, projected = [], []
    for image in range(batches * cameras):
        b = image // cameras
        view = View(flat_viewmats[image], flat_Ks[image], options)
        gaussians = Gaussians(
            means=all_means[b],
            quats=None if all_quats is None else all_quats[b],
            scales=None if all_scales is None else all_scales[b],
            covars=None if all_covars is None else all_covars[b],
            opacities=all_opacities[b],
            colors=all_colors[image * len(all_colors) // (batches * cameras)],
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
    return _stacked(images).reshape(shape), _stacked(alphas).reshape(shape), meta


def _joined(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _stacked(images: list[Tensor]) -> Tensor:
    return images[0][None] if len(images) == 1 else torch.stack(images)


def _parts(tensor: Tensor, count: int, *shape: int) -> tuple[Tensor, ...]:
    """`tensor` as `count` tensors of a shape; one alone is a view, whose gradient is not copied."""
    return (tensor.reshape(shape),) if count == 1 else tensor.reshape(count, *shape).unbind(0)


def _colors(
    colors: Tensor, batch: tuple[int, ...], cameras: int, sh_degree: int | None, render_mode: RenderMode
) -> tuple[Tensor, ...]:
    """What the images of a batch, or each image, blend: [N, D] or coefficients [N, K, 3]; [N, 0] for depth alone."""
    tail = colors.shape[-2:] if sh_degree is None else colors.shape[-3:]
    count = math.prod(batch) * (1 if colors.dim() == len(batch) + len(tail) else cameras)
    if "RGB" not in render_mode:
        return (colors.new_zeros(tail[0], 0),) * count
    return _parts(colors, count, *tail)


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
        self.gaussian_ids = _joined([splats.ids for splats in projected])
        device = self.gaussian_ids.device
        self._counts = torch.tensor(counts, device=device)
        self.image_ids = torch.arange(len(counts), device=device).repeat_interleave(self._counts)
        self.values: dict[str, Tensor] = {}
        for name in ("means2d", "depths", "conics", "opacities", "radii"):
            rows = _joined([getattr(splats, name) for splats in projected])
            self.values[name] = rows if packed else self._scatter(rows, gaussians)
        # One operation with one gradient, where a slice for each image would add up as many.
        self._by_image = {name: value.split(counts) for name, value in self.values.items()} if packed else {}
        if packed and len(counts) == 1:
            self._by_image = {name: (value,) for name, value in self.values.items()}

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
                values[name] = self._by_image[name][image]
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
            images = torch.arange(len(self._counts), device=self._counts.device)
            ids = {
                "batch_ids": (images // cameras).repeat_interleave(self._counts),
                "camera_ids": (images % cameras).repeat_interleave(self._counts),
                "gaussian_ids": self.gaussian_ids,
            }
        return {**ids, **self.values}


@torch.no_grad()
def _tile_meta(table: _SplatTable, options: ViewOptions, tile_size: int) -> dict[str, Any]:
    """The tile grid, and how many tiles the bounding box of each splat meets."""
    grid = [math.ceil(options.width / tile_size), math.ceil(options.height / tile_size)]
    means2d, radii = table.values["means2d"], table.values["radii"]
    limits = torch.tensor(grid, dtype=means2d.dtype, device=means2d.device)
    # In place, and columns one by one: products and tests along an axis of two are slow.
    first = (means2d - radii).div_(tile_size).floor_().clamp_(min=0)
    last = (means2d + radii).div_(tile_size).ceil_().clamp_(min=0)
    sides = torch.minimum(last, limits, out=last).sub_(torch.minimum(first, limits, out=first))
    seen = (radii[..., 0] > 0) & (radii[..., 1] > 0)
    tiles = (sides[..., 0] * sides[..., 1]).mul_(seen).to(torch.int32)
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
