"""A multi-level occupancy grid: where a scene is empty, so that rays need not ask the network there.

Müller et al. 2022 (instant-ngp), appendix E.2: the greatest density seen in each cell is kept and fades slowly; a cell
counts as occupied while a step through it could be noticed. Level l covers the box scaled by 2^l about its centre; a
point belongs to the finest level that covers it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from studio.cameras import Cameras
from studio.marching import march_torch
from studio.marching.arguments import check_box, check_interval, check_same_shape
from studio.marching.kernels import occupancy
from studio.marching.kernels.marching import march as kernel_march
from studio.marching.lattice import Lattice
from studio.marching.march_torch import BLOCK
from studio.marching.near_far import ray_box
from studio.marching.packed import PackedSamples, packed_weights, visible

_POINTS_AT_ONCE = 1 << 18
_MOST_LOOKED_AT = 400_000
"""Cells that an update of everything looks at one by one."""
_MOST_STEPS = 1e9


class OccupancyGrid(nn.Module):
    """Which cells of a box may hold something. Holds buffers only; `state_dict` saves and restores it exactly.

    A new grid is occupied everywhere.

    Args:
        box: Lower and upper corner of level 0.
        resolution: Cells along each axis of every level; a multiple of 4.
        levels: Number of boxes, each twice the size of the one before.
        decay: What is left of a cell's greatest density after each update that looks at it.
        threshold: Optical thickness of one step (on level l, of 2^l steps) from which a cell is occupied; the mean of
            the grid where that is less, so that a young field is not declared empty.
        warmup: Number of first updates that look at all cells; later ones look at a sample.

    Raises:
        StudioError: The box has no volume.
        ValueError: Another argument is out of range.
    """

    box: Tensor
    density: Tensor
    words: Tensor
    clearance: Tensor
    updates: Tensor

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        resolution: int = 128,
        levels: int = 1,
        *,
        decay: float = 0.95,
        threshold: float = 0.01,
        warmup: int = 16,
    ) -> None:
        super().__init__()
        check_box(box)
        if resolution < BLOCK or resolution % BLOCK:
            raise ValueError(f"resolution: expected a positive multiple of {BLOCK}, got {resolution}")
        if levels < 1:
            raise ValueError(f"levels: expected at least 1, got {levels}")
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"decay: expected a factor in (0, 1], got {decay}")
        if threshold < 0.0 or warmup < 0:
            raise ValueError(f"threshold and warmup: expected at least 0, got {threshold} and {warmup}")
        self.resolution, self.levels = resolution, levels
        self.decay, self.threshold, self.warmup = decay, threshold, warmup
        blocks = resolution // BLOCK
        self.register_buffer("box", box.detach().clone().float())
        # Greatest density seen in each cell; negative in cells that stay empty whatever is seen.
        self.register_buffer("density", torch.zeros(levels, resolution, resolution, resolution))
        # Bit (x % 4 * 4 + y % 4) * 4 + z % 4 of word [level, x // 4, y // 4, z // 4] is the cell (x, y, z).
        self.register_buffer("words", torch.full((levels, blocks, blocks, blocks), -1, dtype=torch.int64))
        # Distance (Chebyshev, in blocks) to the next block that is not empty, 0 in such a block.
        self.register_buffer("clearance", torch.zeros(levels, blocks, blocks, blocks, dtype=torch.uint8))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def outer_box(self) -> Float[Tensor, "2 3"]:
        """The box of the outermost level."""
        centre, half = 0.5 * (self.box[0] + self.box[1]), 0.5 * (self.box[1] - self.box[0])
        return torch.stack([centre - half * 2 ** (self.levels - 1), centre + half * 2 ** (self.levels - 1)])

    @property
    def cells(self) -> Bool[Tensor, "levels r r r"]:
        """Which cells are occupied."""
        if self.words.device.type == "cpu":
            cells = np.empty(self.density.shape, np.bool_)
            occupancy.unpack(self.words.numpy(), cells)
            return torch.from_numpy(cells)
        bits = (self.words[..., None] >> torch.arange(64, device=self.words.device)) & 1
        blocks = self.words.shape[1]
        parts = bits.bool().view(self.levels, blocks, blocks, blocks, BLOCK, BLOCK, BLOCK)
        return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(self.density.shape)

    @property
    def occupied_share(self) -> float:
        """Share of the cells that points can fall into (not those that a finer level answers for) that is occupied."""
        inner = self._inner()
        cells = self.cells
        full, reachable = int(cells.count_nonzero()), cells.numel()
        if self.levels > 1:
            # The inner part of a level belongs to the next finer one.
            hidden = cells[1:, inner, inner, inner]
            full, reachable = full - int(hidden.count_nonzero()), reachable - hidden.numel()
        return full / reachable

    def occupied(self, points: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
        """Whether points lie in occupied cells; False outside the outermost level."""
        return march_torch.occupied(self.words, points, self.box)

    @torch.no_grad()
    def set_cells(self, cells: Bool[Tensor, "levels r r r"]) -> None:
        """Declare which cells are occupied, until the next update."""
        check_same_shape("cells", cells, tuple(self.density.shape), "levels and three axes")
        cells = cells.clone()
        inner = self._inner()
        for level in range(1, self.levels):
            # Only rounding at the border sends a point here, and then the finer level's opinion is wanted.
            finer = functional.max_pool3d(cells[level - 1][None, None].float(), 2)
            cells[level, inner, inner, inner] = finer[0, 0] > 0
        blocks = self.words.shape[1]
        parts = cells.view(self.levels, blocks, BLOCK, blocks, BLOCK, blocks, BLOCK)
        bits = parts.permute(0, 1, 3, 5, 2, 4, 6).reshape(*self.words.shape, 64).to(torch.int64)
        self.words.copy_((bits << torch.arange(64, device=bits.device)).sum(-1))
        if self._on_kernels():
            occupancy.clear(self.words.numpy(), self.clearance.numpy())
        else:
            self.clearance.copy_(self._distances(self.words != 0))

    @torch.no_grad()
    def exclude_unseen(self, cameras: Cameras) -> None:
        """Declare empty for good all cells that no camera sees: nothing could correct what grows there.

        Cells are asked about eight at a time, by the corner that they share.

        Args:
            cameras: The training cameras, one batch axis.
        """
        half = self.resolution // 2
        middle = torch.full((half**3, 3), 0.5, device=self.density.device)
        for level in range(self.levels):
            points = self._points(level, torch.arange(half**3, device=self.density.device), middle, half)
            unseen = torch.arange(half**3, device=points.device)
            for camera in cameras:
                unseen = unseen[~camera.sees(points[unseen])]
            hidden = torch.zeros(half**3, dtype=torch.bool, device=points.device)
            hidden[unseen] = True
            groups = hidden.view(half, 1, half, 1, half, 1).expand(half, 2, half, 2, half, 2)
            self.density[level].view(half, 2, half, 2, half, 2)[groups] = -1.0
        self.set_cells(self.cells & (self.density >= 0))

    @torch.no_grad()
    def update(
        self,
        density_fn: Callable[[Float[Tensor, "m 3"]], Tensor],
        *,
        step_size: float,
        generator: torch.Generator | None = None,
        count: int | None = None,
    ) -> None:
        """Look at the field again, at a random point of each cell looked at, and decide anew which are occupied.

        The first `warmup` updates look at all cells, and where these are very many at one cell in each group of 2³ or
        4³ that stands for all of them: a young field is smooth, and its millions of cells are not worth the seconds.
        Later ones look at `count` cells drawn from all and `count` drawn from
        the occupied ones of each level (a cell may be drawn twice; it is looked at once).

        Args:
            density_fn: Densities (m) or (m, 1) at points; called with many points at a time, without gradients.
            step_size: Length of a marching step, to which `threshold` refers.
            generator: Draws cells and points; on any device.
            count: Default: a quarter of a level's cells.
        """
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive distance, got {step_size}")
        everything = int(self.updates) < self.warmup
        cells = None if everything else self.cells
        side = self._group_side() if everything else 1
        for level in range(self.levels):
            allowed = self._allowed(level)
            if cells is not None:
                allowed &= self._draw(cells[level].view(-1), count, generator)
            flat = self.density[level].view(-1)
            if side > 1:
                self._look_at_groups(level, allowed, side, density_fn, generator)
                continue
            for part in _where(allowed).split(_POINTS_AT_ONCE):
                seen = self._seen(density_fn, self._points(level, part, self._random(len(part), generator)))
                flat[part] = torch.maximum(flat[part] * self.decay, seen.to(flat))
        threshold = min(self.threshold, self._mean_thickness(step_size))
        limits = [threshold / (step_size * 2.0**level) for level in range(self.levels)]
        if self._on_kernels():
            occupancy.pack(self.density.numpy(), limits, self.words.numpy())
            occupancy.clear(self.words.numpy(), self.clearance.numpy())
        else:
            self.set_cells(self.density > self.density.new_tensor(limits)[:, None, None, None])
        self.updates += 1

    @torch.no_grad()
    def march(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        near: Float[Tensor, " n"] | None = None,
        far: Float[Tensor, " n"] | None = None,
        *,
        step_size: float,
        cone_angle: float = 0.0,
        jitter: Float[Tensor, " n"] | None = None,
        max_samples: int = 1024,
        density_fn: Callable[[PackedSamples], Float[Tensor, " m"]] | None = None,
        early_stop: float = 1e-4,
    ) -> PackedSamples:
        """The intervals along each ray that lie in occupied cells.

        The stretch of each ray between near and far within the outermost box is cut into steps (the first and the last
        may be shorter, so that they fill it); a step is kept if the cell in its middle is occupied. Steps are
        `step_size` long, and ``cone_angle`` times the distance where that is more.

        Args:
            origins: Where rays start.
            directions: Of unit length.
            near: Where each ray begins to count; default 0.
            far: Where it ends; default: where it leaves the box.
            step_size: Least length of a step.
            cone_angle: Growth of the step with distance, for scenes seen near and far.
            jitter: In [0, 1), one a ray: moves its steps towards the origin by this part of a step. None is 0.
            max_samples: Most intervals a ray; what lies behind them is left out.
            density_fn: If given, asked (without gradients) for the density at the samples; those behind which the
                transmittance has fallen below `early_stop` are dropped.
            early_stop: Least transmittance with which light enters a sample that is kept.

        Returns:
            Detached samples. Rays that miss the box or its occupied cells have none.

        Raises:
            StudioError: near > far, or a ray is not finite or has no direction.
            ValueError: Shapes; step_size, cone_angle or max_samples out of range.
        """
        if not step_size > 0 or not cone_angle >= 0 or max_samples < 1:
            raise ValueError(
                "step_size: expected a positive distance, cone_angle at least 0 and max_samples at least 1, "
                f"got {step_size}, {cone_angle} and {max_samples}"
            )
        for name, value in (("origins", origins), ("directions", directions)):
            check_same_shape(name, value, (len(origins), 3), "one a ray")
        for name, bound in (("near", near), ("far", far), ("jitter", jitter)):
            if bound is not None:
                check_same_shape(name, bound, (len(origins),), "one a ray")
        if jitter is not None and not bool(((jitter >= 0) & (jitter < 1)).all()):
            raise ValueError("jitter: expected parts of a step in [0, 1)")
        low, high = self.outer_box
        if not float((high - low).norm()) < _MOST_STEPS * step_size:
            raise ValueError(f"step_size: {step_size:g} cuts the box into more than {_MOST_STEPS:g} steps")
        samples = self._march_kernel(origins, directions, near, far, jitter, step_size, cone_angle, max_samples)
        if samples is None:
            samples = self._march_torch(origins, directions, near, far, jitter, step_size, cone_angle, max_samples)
        if density_fn is None or len(samples) == 0:
            return samples
        _, transmittance = packed_weights(density_fn(samples).reshape(-1), samples)
        return samples.keep(visible(transmittance, early_stop))

    def _march_kernel(
        self,
        origins: Tensor,
        directions: Tensor,
        near: Tensor | None,
        far: Tensor | None,
        jitter: Tensor | None,
        step_size: float,
        cone_angle: float,
        max_samples: int,
    ) -> PackedSamples | None:
        """March on the CPU in float32; None if the tensors are not, or a ray is bad and the caller must say why."""
        given = [value for value in (origins, directions, near, far, jitter) if value is not None]
        if any(value.device.type != "cpu" or value.dtype != torch.float32 for value in (*given, self.box)):
            return None
        found = kernel_march(
            self.words.numpy(),
            self.clearance.numpy(),
            self.box.numpy(),
            _array(origins),
            _array(directions),
            None if near is None else _array(near),
            None if far is None else _array(far),
            None if jitter is None else _array(jitter),
            step_size=step_size,
            cone_angle=cone_angle,
            max_samples=max_samples,
        )
        return None if found is None else PackedSamples(*(torch.from_numpy(array) for array in found))

    def _march_torch(
        self,
        origins: Tensor,
        directions: Tensor,
        near: Tensor | None,
        far: Tensor | None,
        jitter: Tensor | None,
        step_size: float,
        cone_angle: float,
        max_samples: int,
    ) -> PackedSamples:
        entry, leave, hit = ray_box(origins, directions, self.outer_box)
        if near is not None or far is not None:
            low = torch.zeros_like(entry) if near is None else near
            check_interval(low, low if far is None else far)
        begin = entry if near is None else torch.maximum(entry, near)
        end = leave if far is None else torch.minimum(leave, far)
        end = torch.where(hit, end, begin)
        lattice = Lattice.build(begin, jitter, step_size, cone_angle)
        return PackedSamples(
            *march_torch.march(self.words, self.box, origins, directions, begin, end, lattice, max_samples)
        )

    def _on_kernels(self) -> bool:
        return self.density.device.type == "cpu" and self.density.dtype == torch.float32

    @staticmethod
    def _seen(density_fn: Callable[[Tensor], Tensor], points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        seen = density_fn(points)
        if seen.numel() != len(points):
            raise ValueError(f"density_fn: expected {len(points)} densities, got shape {tuple(seen.shape)}")
        return seen.reshape(-1)

    def _group_side(self) -> int:
        """Cells along each side of the groups of which an update of everything looks at one."""
        wanted = sum(int(self._allowed(level).count_nonzero()) for level in range(self.levels))
        return next(side for side in (1, 2, BLOCK) if side == BLOCK or wanted <= _MOST_LOOKED_AT * side**3)

    def _look_at_groups(
        self,
        level: int,
        allowed: Bool[Tensor, " c"],
        side: int,
        density_fn: Callable[[Tensor], Tensor],
        generator: torch.Generator | None,
    ) -> None:
        """Look at a random point of each group of side³ cells, and take what is there for all of them."""
        r = self.resolution // side
        split = (r, side, r, side, r, side)
        members = allowed.view(split)
        group = _where(members.any(5).any(3).any(1).reshape(-1))
        found = self.density.new_zeros(r**3)
        for part in group.split(_POINTS_AT_ONCE):
            points = self._points(level, part, self._random(len(part), generator), r)
            found[part] = self._seen(density_fn, points).to(found)
        density = self.density[level].view(split)
        spread = found.view(r, 1, r, 1, r, 1)
        density.copy_(torch.where(members, torch.maximum(density * self.decay, spread), density))

    def _allowed(self, level: int) -> Bool[Tensor, " c"]:
        """Cells of a level that an update may look at: not excluded, and not a finer level's business."""
        allowed = self.density[level] >= 0
        if level > 0:
            inner = self._inner()
            allowed[inner, inner, inner] = False
        return allowed.view(-1)

    def _inner(self) -> slice:
        """The cells on each axis of a level that the next finer one covers."""
        quarter = self.resolution // 4
        return slice(quarter, 3 * quarter)

    def _mean_thickness(self, step_size: float) -> float:
        """Mean optical thickness of a step, over the cells that updates may look at."""
        inner = self._inner()
        if self._on_kernels():
            sums = occupancy.sum_density(self.density.numpy(), inner.start, inner.stop)
        else:
            rows = []
            for level, density in enumerate(self.density):
                hidden = density[inner, inner, inner] if level > 0 else density[:0]
                rows.append(
                    [float(density.clamp_min(0).sum() - hidden.clamp_min(0).sum()),
                     int((density >= 0).sum() - (hidden >= 0).sum())]
                )  # fmt: skip
            sums = np.array(rows, np.float64)
        total, count = (sums[:, 0] * step_size * 2.0 ** np.arange(self.levels)).sum(), sums[:, 1].sum()
        return float(total / count) if count else 0.0

    def _points(self, level: int, index: Tensor, within: Tensor, r: int | None = None) -> Float[Tensor, "m 3"]:
        """Points within cells (parts of a cell) of a level cut into r cells a side, by default the grid's own."""
        r = r or self.resolution
        cell = torch.stack([index // (r * r), index // r % r, index % r], dim=-1)
        unit = (cell + within) * (2.0 / r) - 1.0
        centre, half = 0.5 * (self.box[0] + self.box[1]), 0.5 * (self.box[1] - self.box[0])
        return centre + unit * half * 2.0**level

    def _draw(self, cells: Bool[Tensor, " c"], count: int | None, generator: torch.Generator | None) -> Tensor:
        """Mask of `count` cells drawn from all and `count` drawn from the occupied ones."""
        count = len(cells) // 4 if count is None else count
        drawn = torch.zeros_like(cells)
        drawn[self._integers(len(cells), count, generator)] = True
        full = _where(cells)
        if len(full) <= count:
            drawn[full] = True
        else:
            drawn[full[self._integers(len(full), count, generator)]] = True
        return drawn

    def _integers(self, below: int, count: int, generator: torch.Generator | None) -> Tensor:
        device = self.density.device if generator is None else generator.device
        return torch.randint(below, (count,), generator=generator, device=device).to(self.density.device)

    def _random(self, count: int, generator: torch.Generator | None) -> Tensor:
        device = self.density.device if generator is None else generator.device
        return torch.rand((count, 3), generator=generator, device=device).to(self.density.device)

    def _distances(self, full: Bool[Tensor, "levels w w w"]) -> Tensor:
        near = full.float()
        # A ray must not leap into the part that the finer level answers for.
        low, high = occupancy.finer_blocks(self.resolution)
        near[1:, low:high, low:high, low:high] = 1.0
        distance = torch.zeros(full.shape, dtype=torch.uint8, device=full.device)
        for _ in range(occupancy.LEAP):
            distance += (near == 0).to(torch.uint8)
            near = functional.max_pool3d(near[:, None], 3, stride=1, padding=1)[:, 0]
        return distance


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().numpy()


def _where(mask: Bool[Tensor, " c"]) -> Tensor:
    """Indices where a mask is set, in order (NumPy's is several times as fast on the host)."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero()[:, 0]
