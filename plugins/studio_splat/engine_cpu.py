"""The fused CPU engine: all of a training step runs in kernels on blocks of sixteen Gaussians."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from studio.cameras import Cameras
from studio.kernels.workspace import Workspace
from studio_splat.config import SplatConfig
from studio_splat.corrections import PoseCorrection, make_exposure
from studio_splat.engine import StepOptions, Target, psnr_from_mse
from studio_splat.kernels.binning import Tiles, bin_splats
from studio_splat.kernels.layout import (
    LANES,
    aligned_empty,
    aligned_zeros,
    block_count,
    block_rows,
    morton_order,
    pack,
    permute,
    unpack,
)
from studio_splat.kernels.loss import photometric_loss
from studio_splat.kernels.noise import explore
from studio_splat.kernels.photo import compose, mean_squared_error
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import STATISTICS_ROWS, AdamSettings, project_backward_adam
from studio_splat.kernels.raster_backward import rasterize_backward
from studio_splat.kernels.raster_forward import Raster, rasterize_forward
from studio_splat.kernels.view import CameraModel, View
from studio_splat.memory import drawing_bytes, require_memory, training_bytes
from studio_splat.normals import facing_normals
from studio_splat.schedule import LearningRates
from studio_splat.strategy import Edit, RefineStats

_CPU = torch.device("cpu")
_MODELS: dict[str, CameraModel] = {"pinhole": "pinhole", "orthographic": "ortho"}


class CpuEngine:
    """`studio_splat.engine.Engine` on the compiled kernels."""

    def __init__(self, config: SplatConfig, num_photos: int) -> None:
        self.config = config
        self.count = 0
        self.sh_degree = config.sh_degree
        self.steps = 0
        self._blocks = aligned_zeros((0, block_rows(config.sh_degree), 16))
        self._first: NDArray[np.float32] | None = None
        self._second: NDArray[np.float32] | None = None
        self._statistics = aligned_zeros((0, STATISTICS_ROWS, 16))
        self._weighed: NDArray[np.float32] | None = None
        self._tiles = 0.0
        self._mean: NDArray[np.float32] | None = None
        self._averaged = 0
        self._training, self._drawing = Workspace(), Workspace()
        self._turn = threading.Lock()
        self._exposure = make_exposure(config.exposure, num_photos)
        self._poses = PoseCorrection(num_photos) if config.pose_refinement else None

    # ---- parameters ----------------------------------------------------------------------------------------------
    def load(self, params: Mapping[str, Tensor]) -> None:
        count = params["means"].shape[0]
        require_memory(
            f"Drawing {count:,} Gaussians", drawing_bytes(count, self.sh_degree), _CPU, fix="Use fewer Gaussians."
        )
        self.count = count
        self.steps = 0
        self._blocks = _pack(params)
        self._first = self._second = None
        self._clear_statistics()

    def _clear_statistics(self) -> None:
        self._statistics = aligned_zeros((len(self._blocks), STATISTICS_ROWS, LANES))
        self._weighed, self._tiles = None, 0.0
        self._mean, self._averaged = None, 0

    def _moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Adam's moments; there are none until something is trained."""
        if self._first is None or self._second is None:
            require_memory(
                f"Training {self.count:,} Gaussians",
                training_bytes(self.count, self.sh_degree) - drawing_bytes(self.count, self.sh_degree),
                _CPU,
                fix="Use fewer Gaussians.",
            )
            self._first, self._second = aligned_zeros(self._blocks.shape), aligned_zeros(self._blocks.shape)
        return self._first, self._second

    def parameters(self) -> dict[str, Tensor]:
        arrays = {name: torch.from_numpy(value) for name, value in unpack(self._blocks, self.count).items()}
        sh = arrays["sh"]
        return {
            "means": arrays["means"],
            "quats": arrays["quats"],
            "scales": arrays["log_scales"],
            "opacities": arrays["logit_opacities"],
            "sh0": sh[:, :1].contiguous(),
            "shN": sh[:, 1:].contiguous(),
        }

    # ---- training ------------------------------------------------------------------------------------------------
    def step(self, target: Target, options: StepOptions) -> dict[str, float | Tensor]:
        work, photo = self._training, target.photo
        pixels = np.ascontiguousarray(photo.image.numpy())
        height, width = pixels.shape[:2]
        background = target.background.float().numpy()
        wanted = work.array("step.target", (3, height, width))
        compose(pixels, background, wanted)
        camera = photo.camera
        pose = camera.world_to_camera.double()
        if self._poses is not None:
            pose = self._poses.apply(target.index, pose)
        view = self.view(camera, pose, options.eps2d)
        records, radii = self._records(work)
        project_forward(self._blocks, view, options.sh_degree, records, radii)
        tiles = bin_splats(records, width, height, work)
        raster = rasterize_forward(records, tiles, work, background=background)
        shown = raster.image
        if self._exposure is not None:
            shown = np.ascontiguousarray(self._exposure.apply(target.index, torch.from_numpy(raster.image)).numpy())
        gradient = work.array("step.gradient", (3, height, width))
        mask = None if photo.mask is None else np.ascontiguousarray(photo.mask.numpy())
        loss = photometric_loss(
            shown, wanted, gradient, ssim_weight=options.ssim_weight, smooth_l1=options.smooth_l1, mask=mask
        )
        figures: dict[str, float | Tensor] = {
            "loss": loss.loss,
            "l1": loss.l1,
            "ssim": loss.ssim,
            "psnr": psnr_from_mse(mean_squared_error(shown, wanted, mask)),
        }
        if not np.isfinite(loss.loss):
            # The parameters stay as they are: the loop stops here and names this step.
            return figures
        if self._exposure is not None:
            colors = torch.from_numpy(raster.image)
            through = self._exposure.backward(target.index, colors, torch.from_numpy(gradient))
            gradient = np.ascontiguousarray(through.numpy())
        absgrad = self.config.absgrad and options.collect_stats
        gradients = rasterize_backward(records, tiles, raster, work, gradient, absgrad=absgrad)
        self.steps += 1
        first, second = self._moments()
        pose_gradient = project_backward_adam(
            self._blocks,
            first,
            second,
            self._rates(options.rates),
            self.steps,
            view,
            options.sh_degree,
            records,
            radii,
            gradients.rows,
            settings=AdamSettings(
                opacity_weight=options.opacity_reg / max(self.count, 1),
                scale_weight=options.scale_reg / max(3 * self.count, 1),
            ),
            touched=gradients.touched,
            statistics=self._statistics if options.collect_stats else None,
            absgrad=absgrad,
            pose=self._poses is not None,
        )
        if self._poses is not None and pose_gradient is not None:
            self._poses.update(target.index, pose, torch.from_numpy(pose_gradient))
        if options.weigh:
            self._weigh(records, tiles, raster, work)
        return figures

    def _weigh(self, records: NDArray[np.float32], tiles: Tiles, raster: Raster, work: Workspace) -> None:
        """Add what each Gaussian shows of this photo, and in how many tiles it is blended."""
        if self._weighed is None:
            self._weighed = np.zeros((self.count, 2), np.float32)
        # The picture's derivative by a colour is the blending weight.
        red = work.array("step.red", raster.image.shape)
        red.fill(0)
        red[0] = 1
        self._weighed[:, 0] += rasterize_backward(records, tiles, raster, work, red).rows[: self.count, 6]
        lengths = tiles.count.astype(np.int64)
        # Positions in `ids`: lists start where they were put, but have been shortened since.
        gaps = tiles.start[: len(lengths)] - np.cumsum(lengths) + lengths
        listed = tiles.ids[np.repeat(gaps, lengths) + np.arange(lengths.sum())]
        self._weighed[:, 1] += np.bincount(listed, minlength=self.count)[: self.count]
        self._tiles += len(lengths)

    def explore(self, strength: float, generator: torch.Generator) -> None:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        explore(self._blocks, strength, seed)

    def average(self) -> None:
        self._averaged += 1
        if self._mean is None:
            self._mean = aligned_empty(self._blocks.shape)
            self._mean[:] = self._blocks
        else:
            # In place, by all threads, without a temporary of the same size.
            torch.from_numpy(self._mean).lerp_(torch.from_numpy(self._blocks), 1 / self._averaged)

    def settle(self) -> None:
        if self._mean is not None:
            self._blocks, self._mean, self._averaged = self._mean, None, 0

    def stats(self) -> RefineStats:
        grad_sum, count, max_radius = self._rows(self._statistics).unbind(dim=1)
        stats = RefineStats(grad_sum, count, max_radius)
        if self._weighed is not None:
            stats.weight, stats.pairs = torch.from_numpy(self._weighed.copy()).unbind(dim=1)
            stats.tiles = self._tiles
        return stats

    def apply(self, edit: Edit) -> None:
        # The mean goes first, as an edit takes the most memory of all.
        self._mean, self._averaged = None, 0
        # Along a space-filling curve the Gaussians of a block are seen together, so whole blocks can be skipped.
        order = morton_order(edit.params["means"].numpy())
        source = edit.source.numpy()[order]
        fresh = edit.fresh.numpy()[order]
        self.count = len(source)
        self._blocks = _pack({name: value[torch.from_numpy(order)] for name, value in edit.params.items()})
        moments = []
        for moment in self._moments():
            moved = permute(moment, source)
            lanes = np.zeros(len(moved) * 16, bool)
            lanes[: self.count] = fresh
            moved *= ~lanes.reshape(-1, 1, 16)
            if edit.reset_opacity_moments:
                moved[:, 10] = 0
            moments.append(moved)
        self._first, self._second = moments
        self._clear_statistics()

    def _rates(self, rates: LearningRates) -> NDArray[np.float32]:
        row = np.empty(self._blocks.shape[1], np.float32)
        row[:3], row[3:7], row[7:10] = rates.means, rates.quats, rates.scales
        row[10], row[11:14], row[14:] = rates.opacities, rates.sh0, rates.shN
        return row

    def _records(self, work: Workspace) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        lanes = len(self._blocks) * 16
        return work.array("step.records", (lanes, 16)), work.array("step.radii", (lanes,))

    def view(self, camera: Cameras, world_to_camera: Float[Tensor, "4 4"], eps2d: float | None = None) -> View:
        """What the kernels are told of a camera, with the rendering options of the configuration.

        Args:
            eps2d: Instead of the configuration's.
        """
        width, height = camera.size
        return View(
            world_to_camera.numpy()[:3],
            float(camera.fx),
            float(camera.fy),
            float(camera.cx),
            float(camera.cy),
            width,
            height,
            near=self.config.near,
            eps2d=self.config.eps2d if eps2d is None else eps2d,
            antialiased=self.config.antialiased,
            camera_model=_MODELS[camera.model],
        )

    # ---- rendering -----------------------------------------------------------------------------------------------
    def render(
        self, camera: Cameras, outputs: Sequence[str], background: Float[Tensor, " 3"]
    ) -> dict[str, Float[Tensor, "h w c"]]:
        # Threads that render at once would draw into each other's buffers.
        with self._turn:
            return self._draw(camera, outputs, background)

    def _draw(
        self, camera: Cameras, outputs: Sequence[str], background: Float[Tensor, " 3"]
    ) -> dict[str, Float[Tensor, "h w c"]]:
        work = self._drawing
        width, height = camera.size
        view = self.view(camera, camera.world_to_camera.double())
        records, radii = self._records(work)
        project_forward(self._blocks, view, self.sh_degree, records, radii)
        tiles = bin_splats(records, width, height, work)
        with_depth = "depth" in outputs
        behind = np.append(background.float().numpy(), np.float32(0))[: 4 if with_depth else 3]
        raster = rasterize_forward(
            records, tiles, work, background=behind, depth=with_depth, median_depth="median_depth" in outputs
        )
        # Copies, as the workspace is used again by the next camera.
        drawn = {"rgb": torch.from_numpy(np.moveaxis(raster.image[:3], 0, -1).copy()).clamp_(0, 1)}
        opacity = 1 - torch.from_numpy(raster.transmittance.copy())[..., None]
        drawn["opacity"] = opacity
        if with_depth:
            drawn["depth"] = torch.from_numpy(raster.image[3].copy())[..., None] / opacity.clamp(min=1e-6)
        if raster.median_depth is not None:
            drawn["median_depth"] = torch.from_numpy(raster.median_depth.copy())[..., None]
        if "normals" in outputs:
            features = aligned_empty((len(records), 3))
            features[: self.count] = facing_normals(self.parameters(), camera).numpy()
            features[self.count :] = 0
            normals = rasterize_forward(records, tiles, work, features=features).image
            drawn["normals"] = torch.nn.functional.normalize(
                torch.from_numpy(np.moveaxis(normals, 0, -1).copy()), dim=-1
            )
        return {name: drawn[name] for name in outputs}

    # ---- state ---------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        first, second = self._moments()
        return {
            "steps": self.steps,
            "first": self._rows(first),
            "second": self._rows(second),
            "statistics": self._rows(self._statistics),
            "weighed": None if self._weighed is None else torch.from_numpy(self._weighed.copy()),
            "tiles": self._tiles,
            "mean": None if self._mean is None else self._rows(self._mean),
            "averaged": self._averaged,
            "exposure": None if self._exposure is None else self._exposure.state(),
            "poses": None if self._poses is None else self._poses.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self._first, self._second = self._lanes(state["first"]), self._lanes(state["second"])
        self._statistics = self._lanes(state["statistics"])
        weighed = state["weighed"]
        self._weighed = None if weighed is None else weighed.cpu().numpy().copy()
        self._tiles = state["tiles"]
        self._mean = None if state["mean"] is None else self._lanes(state["mean"])
        if self._mean is not None and self.count % LANES:
            # What fills up the last block is not drawn, and zeros would be.
            self._mean[-1, :, self.count % LANES :] = self._blocks[-1, :, self.count % LANES :]
        self._averaged = state["averaged"]
        if self._exposure is not None:
            self._exposure.load_state(state["exposure"])
        if self._poses is not None:
            self._poses.load_state(state["poses"])

    def _rows(self, blocks: NDArray[np.float32]) -> Float[Tensor, "n r"]:
        """A copy of blocks (b, r, 16) as one row a Gaussian."""
        return torch.from_numpy(blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])[: self.count].copy())

    def _lanes(self, rows: Float[Tensor, "n r"]) -> NDArray[np.float32]:
        """Inverse of `_rows`; zeros in the padding."""
        blocks = aligned_zeros((block_count(self.count), rows.shape[1], LANES))
        padded = np.zeros((len(blocks) * LANES, rows.shape[1]), np.float32)
        padded[: self.count] = rows.cpu().numpy()
        blocks[:] = padded.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1)
        return blocks


def _pack(params: Mapping[str, Tensor]) -> NDArray[np.float32]:
    arrays = {name: value.detach().cpu().float().numpy() for name, value in params.items()}
    sh = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)
    return pack(arrays["means"], arrays["quats"], arrays["scales"], arrays["opacities"], sh)
