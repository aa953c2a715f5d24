"""The autograd engine: training and rendering through `rasterization`, for CUDA and for the reference backend.

All parameters are one table with a row for each Gaussian and the columns of the training layout (`kernels.layout`), so
that the optimiser and every edit are a handful of operations whatever the number of parameters. A training step reads
no value back from the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.cameras import Cameras
from studio.metrics.masked import pixel_mean
from studio_splat.backends import BackendName
from studio_splat.config import SplatConfig
from studio_splat.corrections import PoseCorrection, make_exposure
from studio_splat.engine import StepOptions, Target, psnr_from_mse
from studio_splat.functional import rasterization
from studio_splat.loss_torch import photometric_loss
from studio_splat.median_depth import median_depth
from studio_splat.memory import drawing_bytes, require_memory, training_bytes
from studio_splat.normals import facing_normals
from studio_splat.schedule import LearningRates
from studio_splat.strategy import Edit, RefineStats
from studio_splat.strategy.mcmc import position_noise

_GEOMETRY = {"means": slice(0, 3), "quats": slice(3, 7), "scales": slice(7, 10), "opacities": slice(10, 11)}
_SH0, _SHN = slice(11, 14), slice(14, None)
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-15


class TorchEngine:
    """`studio_splat.engine.Engine` through autograd, on the device of the parameters it is given.

    Args:
        config: The plugin's configuration.
        num_photos: Training photos, for the corrections of single photos.
        backend: 'cuda' or 'reference'.
        dtype: Of parameters and arithmetic; 'cuda' takes float32 only.
    """

    def __init__(
        self, config: SplatConfig, num_photos: int, backend: BackendName, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.config = config
        self.backend: BackendName = backend
        self.dtype = dtype
        self.steps = 0
        self._table = torch.zeros(0, 11 + 3 * (config.sh_degree + 1) ** 2, dtype=dtype)
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._statistics = torch.zeros(0, 3, dtype=dtype)
        self._weighed: Tensor | None = None
        self._tiles = 0.0
        self._mean: Tensor | None = None
        self._averaged = 0
        self._exposure = make_exposure(config.exposure, num_photos)
        self._poses = PoseCorrection(num_photos) if config.pose_refinement else None

    # ---- parameters ----------------------------------------------------------------------------------------------
    @property
    def count(self) -> int:
        return self._table.shape[0]

    def load(self, params: Mapping[str, Tensor]) -> None:
        count, device = params["means"].shape[0], params["means"].device
        require_memory(
            f"Drawing {count:,} Gaussians",
            drawing_bytes(count, self.config.sh_degree),
            device,
            fix="Use fewer Gaussians.",
        )
        self.steps = 0
        self._table = _join(params).to(self.dtype)
        self._first = self._second = None
        self._statistics = self._table.new_zeros(count, 3)
        self._weighed, self._tiles = None, 0.0
        self._mean, self._averaged = None, 0
        for correction in (self._exposure, self._poses):
            if correction is not None:
                correction.to(device)

    def parameters(self) -> dict[str, Tensor]:
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in self._views().items()}

    def _views(self) -> dict[str, Tensor]:
        """The parameters as parts of the table."""
        views = {name: self._table[:, columns] for name, columns in _GEOMETRY.items()}
        views["opacities"] = views["opacities"][:, 0]
        rest = (self.config.sh_degree + 1) ** 2 - 1
        views["sh0"] = self._table[:, _SH0].unflatten(1, (1, 3))
        views["shN"] = self._table[:, _SHN].unflatten(1, (rest, 3))
        return views

    def _moments(self) -> tuple[Tensor, Tensor]:
        if self._first is None or self._second is None:
            require_memory(
                f"Training {self.count:,} Gaussians",
                training_bytes(self.count, self.config.sh_degree) - drawing_bytes(self.count, self.config.sh_degree),
                self._table.device,
                fix="Use fewer Gaussians.",
            )
            self._first, self._second = torch.zeros_like(self._table), torch.zeros_like(self._table)
        return self._first, self._second

    # ---- training ------------------------------------------------------------------------------------------------
    def step(self, target: Target, options: StepOptions) -> dict[str, float | Tensor]:
        photo, index = target.photo, target.index
        wanted = self._composited(photo.image, target.background)
        mask = None if photo.mask is None else self._upload(photo.mask)
        viewmat = self._upload(photo.camera.world_to_camera.double())
        if self._poses is not None:
            viewmat = self._poses.apply(index, viewmat)
        viewmat = viewmat.to(self.dtype).requires_grad_(self._poses is not None)
        # A leaf of its own on the same memory.
        table = self._table.detach().requires_grad_()
        behind, absgrad = self._upload(target.background), self.config.absgrad
        image, _, meta = self._rasterize(
            table, photo.camera, viewmat, options.sh_degree, behind, absgrad=absgrad, eps2d=options.eps2d
        )
        meta["means2d"].retain_grad()
        colors = image.detach().view(wanted.shape).permute(2, 0, 1)
        shown = colors if self._exposure is None else self._exposure.apply(index, colors)
        shown = shown.permute(1, 2, 0).reshape(image.shape)
        loss = photometric_loss(shown, wanted, ssim_weight=options.ssim_weight, smooth_l1=options.smooth_l1, mask=mask)
        # With a loss that is not finite, every gradient is 0: the parameters stay as they are for the loop to stop at.
        sound = loss.loss.isfinite()
        gradient = torch.where(sound, loss.gradient, 0)
        if self._exposure is not None:
            behind_exposure = gradient.view(wanted.shape).permute(2, 0, 1)
            through = self._exposure.backward(index, torch.where(sound, colors, 0), behind_exposure)
            gradient = through.permute(1, 2, 0).reshape(image.shape)
        image.backward(gradient)
        self.steps += 1
        assert table.grad is not None
        gradients = torch.where(sound, table.grad, 0)
        if options.collect_stats:
            self._collect(meta, sound)
        if options.weigh:
            self._weigh(photo.camera, viewmat.detach())
        self._update(gradients, options)
        if self._poses is not None and viewmat.grad is not None:
            self._poses.update(index, viewmat.detach(), torch.where(sound, viewmat.grad, 0))
        error = (shown.clamp(0, 1) - wanted).square()
        return {
            "loss": loss.loss,
            "l1": loss.l1,
            "ssim": loss.ssim,
            "psnr": psnr_from_mse(pixel_mean(error, mask)),
        }

    def _upload(self, tensor: Tensor) -> Tensor:
        """On the parameters' device, floating values in their dtype, without waiting for what the GPU is doing."""
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        if self._table.is_cuda and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._table.device, non_blocking=True)

    def _composited(self, pixels: Tensor, background: Tensor) -> Float[Tensor, "h w 3"]:
        values = self._upload(pixels).to(self.dtype) / 255
        behind = self._upload(background)
        return values if values.shape[-1] == 3 else behind + values[..., 3:] * (values[..., :3] - behind)

    def _rasterize(
        self,
        table: Float[Tensor, "n r"],
        camera: Cameras,
        viewmat: Float[Tensor, "4 4"],
        sh_degree: int,
        background: Float[Tensor, " 3"] | None,
        *,
        colors: Float[Tensor, "n 3"] | None = None,
        depth: bool = False,
        absgrad: bool = False,
        eps2d: float | None = None,
    ) -> tuple[Float[Tensor, "h w c"], Float[Tensor, "h w 1"], dict[str, Any]]:
        means, quats, scales, opacities, sh = table.split([3, 4, 3, 1, table.shape[1] - 11], dim=1)
        width, height = camera.size
        fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        intrinsics = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(3, 3)
        images, alphas, meta = rasterization(
            means,
            quats,
            scales.exp(),
            opacities[:, 0].sigmoid(),
            sh.unflatten(1, (-1, 3)) if colors is None else colors,
            viewmat[None],
            self._upload(intrinsics)[None],
            width,
            height,
            near_plane=self.config.near,
            eps2d=self.config.eps2d if eps2d is None else eps2d,
            sh_degree=sh_degree if colors is None else None,
            packed=False,
            backgrounds=None if background is None else background[None],
            render_mode="RGB+ED" if depth else "RGB",
            rasterize_mode="antialiased" if self.config.antialiased else "classic",
            camera_model="ortho" if camera.model == "orthographic" else "pinhole",
            absgrad=absgrad,
            backend=self.backend,
            check=False,
        )
        return images[0], alphas[0], meta

    def _collect(self, meta: Mapping[str, Any], sound: Bool[Tensor, ""]) -> None:
        means2d = meta["means2d"]
        found = getattr(means2d, "absgrad", None) if self.config.absgrad else means2d.grad
        size = self._upload(torch.tensor([meta["width"], meta["height"]], dtype=self.dtype))
        radii = meta["radii"][0]
        if found is not None:
            norms = (torch.where(sound, found[0], 0) * (0.5 * size)).norm(dim=-1)
            self._statistics[:, 0] += norms
        self._statistics[:, 1] += (radii > 0).all(dim=-1)
        share = radii.amax(dim=-1) / size.amax()
        self._statistics[:, 2] = torch.maximum(self._statistics[:, 2], share)

    def _weigh(self, camera: Cameras, viewmat: Float[Tensor, "4 4"]) -> None:
        """Add what each Gaussian shows of this photo, and in how many tiles its bounding box is."""
        if self._weighed is None:
            self._weighed = self._table.new_zeros(self.count, 2)
        # The picture's derivative by a colour is the blending weight.
        colors = torch.ones_like(self._table[:, _GEOMETRY["means"]]).requires_grad_()
        image, _, meta = self._rasterize(self._table, camera, viewmat, self.config.sh_degree, None, colors=colors)
        image[..., 0].sum().backward()
        assert colors.grad is not None
        self._weighed[:, 0] += colors.grad[:, 0]
        self._weighed[:, 1] += meta["tiles_per_gauss"][0]
        self._tiles += meta["tile_width"] * meta["tile_height"]

    def _update(self, gradients: Float[Tensor, "n r"], options: StepOptions) -> None:
        """Adam (Kingma and Ba, algorithm 1) on the Gaussians that have a gradient, as `project_backward_adam` does."""
        used = 11 + 3 * (options.sh_degree + 1) ** 2
        first, second = (moment[:, :used] for moment in self._moments())
        table, gradients = self._table[:, :used], gradients[:, :used]
        touched = (gradients != 0).any(dim=1, keepdim=True)
        if options.opacity_reg:
            opacity = table[:, _GEOMETRY["opacities"]].sigmoid()
            weight = options.opacity_reg / max(self.count, 1)
            gradients[:, _GEOMETRY["opacities"]] += weight * opacity * (1 - opacity) * touched
        if options.scale_reg:
            weight = options.scale_reg / max(3 * self.count, 1)
            gradients[:, _GEOMETRY["scales"]] += weight * table[:, _GEOMETRY["scales"]].exp() * touched
        share = touched.to(self.dtype)
        first.lerp_(gradients, (1 - _BETA1) * share)
        second.lerp_(gradients.square(), (1 - _BETA2) * share)
        root_correction = (1 - _BETA2**self.steps) ** -0.5
        move = second.sqrt().mul_(root_correction).add_(_EPS).reciprocal_().mul_(first).mul_(share)
        for columns, rate in _column_rates(options.rates):
            table[:, columns].sub_(move[:, columns], alpha=rate / (1 - _BETA1**self.steps))

    def explore(self, strength: float, generator: torch.Generator) -> None:
        device = self._table.device
        # Drawn on the device: a million Gaussians need three million numbers at every step.
        local = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        self._table[:, _GEOMETRY["means"]] += position_noise(self._views(), strength, local)

    def average(self) -> None:
        self._averaged += 1
        if self._mean is None:
            self._mean = self._table.clone()
        else:
            self._mean.lerp_(self._table, 1 / self._averaged)

    def settle(self) -> None:
        if self._mean is not None:
            self._table, self._mean, self._averaged = self._mean, None, 0

    def stats(self) -> RefineStats:
        grad_sum, count, max_radius = self._statistics.unbind(dim=1)
        stats = RefineStats(grad_sum, count, max_radius)
        if self._weighed is not None:
            stats.weight, stats.pairs = self._weighed.unbind(dim=1)
            stats.tiles = self._tiles
        return stats

    def apply(self, edit: Edit) -> None:
        # The mean goes first, as an edit takes the most memory of all.
        self._mean, self._averaged = None, 0
        kept = (~edit.fresh).to(self.dtype)[:, None]
        first, second = (moment[edit.source] * kept for moment in self._moments())
        if edit.reset_opacity_moments:
            for moment in (first, second):
                moment[:, _GEOMETRY["opacities"]] = 0
        self._table = _join(edit.params).to(self._table)
        self._first, self._second = first, second
        self._statistics = self._table.new_zeros(self.count, 3)
        self._weighed, self._tiles = None, 0.0

    # ---- rendering -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def render(
        self, camera: Cameras, outputs: Sequence[str], background: Float[Tensor, " 3"]
    ) -> dict[str, Float[Tensor, "h w c"]]:
        viewmat, degree = self._upload(camera.world_to_camera), self.config.sh_degree
        image, opacity, meta = self._rasterize(
            self._table, camera, viewmat, degree, self._upload(background), depth="depth" in outputs
        )
        drawn = {"rgb": image[..., :3].clamp(0, 1), "opacity": opacity}
        if "depth" in outputs:
            drawn["depth"] = image[..., 3:]
        if "median_depth" in outputs:
            splats = {name: meta[name][0] for name in ("means2d", "conics", "opacities", "depths", "radii")}
            drawn["median_depth"] = median_depth(**splats, width=meta["width"], height=meta["height"])
        if "normals" in outputs:
            colors = facing_normals(self._views(), camera.to(self._table.device))
            normals, _, _ = self._rasterize(self._table, camera, viewmat, degree, None, colors=colors)
            drawn["normals"] = torch.nn.functional.normalize(normals, dim=-1)
        return {name: drawn[name] for name in outputs}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        first, second = self._moments()
        return {
            "steps": self.steps,
            "first": first.clone(),
            "second": second.clone(),
            "statistics": self._statistics.clone(),
            "weighed": None if self._weighed is None else self._weighed.clone(),
            "tiles": self._tiles,
            "mean": None if self._mean is None else self._mean.clone(),
            "averaged": self._averaged,
            "exposure": None if self._exposure is None else self._exposure.state(),
            "poses": None if self._poses is None else self._poses.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self._first, self._second = (state[name].to(self._table, copy=True) for name in ("first", "second"))
        self._statistics = state["statistics"].to(self._table, copy=True)
        weighed = state["weighed"]
        self._weighed = None if weighed is None else weighed.to(self._table, copy=True)
        self._tiles = state["tiles"]
        self._mean = None if state["mean"] is None else state["mean"].to(self._table, copy=True)
        self._averaged = state["averaged"]
        if self._exposure is not None:
            self._exposure.load_state(state["exposure"])
        if self._poses is not None:
            self._poses.load_state(state["poses"])


def _join(params: Mapping[str, Tensor]) -> Float[Tensor, "n r"]:
    """The table of parameters that are given one by one."""
    return torch.cat(
        [
            params["means"],
            params["quats"],
            params["scales"],
            params["opacities"][:, None],
            params["sh0"].flatten(1),
            params["shN"].flatten(1),
        ],
        dim=1,
    ).detach()


def _column_rates(rates: LearningRates) -> list[tuple[slice, float]]:
    values = rates.as_dict()
    return [(columns, values[name]) for name, columns in {**_GEOMETRY, "sh0": _SH0, "shN": _SHN}.items()]
