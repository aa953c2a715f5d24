"""The occupancy grid: what is marched, what is learned, what is saved."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.errors import StudioError
from studio.kernels import cache
from studio.marching import OccupancyGrid, PackedSamples, packed_opacity, packed_weights, ray_box, ray_sphere
from studio.marching import grid as grid_module

BOX = torch.tensor([[-1.0, -0.75, -1.25], [1.0, 1.0, 0.75]])
CUBE = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def _rays(count: int, seed: int = 0, radius: float = 3.0) -> tuple[Tensor, Tensor]:
    """Half of them from outside towards the box, half from inside; some parallel to an axis."""
    g = torch.Generator().manual_seed(seed)
    origins = torch.randn(count, 3, generator=g)
    origins = origins / origins.norm(dim=-1, keepdim=True) * radius
    origins[::2] *= 0.2
    directions = 0.8 * torch.randn(count, 3, generator=g) - origins
    directions[3::10] = torch.eye(3)[torch.arange(len(directions[3::10])) % 3]
    return origins, directions / directions.norm(dim=-1, keepdim=True)


def _speckled(resolution: int, levels: int, share: float, seed: int = 0) -> Tensor:
    """Boxes and dust: empty blocks, full blocks, and mixed ones."""
    g = torch.Generator().manual_seed(seed)
    cells = torch.rand(levels, *[resolution] * 3, generator=g) < share
    for level in range(levels):
        for _ in range(6):
            a = torch.randint(0, resolution - 9, (3,), generator=g).tolist()
            cells[level, a[0] : a[0] + 9, a[1] : a[1] + 8, a[2] : a[2] + 9] = True
    empty = resolution // 2
    cells[:, :empty, :empty, :empty] = False
    return cells


def _expected(
    grid: OccupancyGrid,
    cells: Tensor,
    origin: Tensor,
    direction: Tensor,
    interval: tuple,
    step: float,
    cone: float,
    jitter: float,
) -> list[tuple[float, float, bool, bool]]:
    """The lattice of one ray by its recurrence: (start, end, occupied, clear of rounding) of every interval."""
    centre, half = grid.box.double().mean(0), (grid.box[1] - grid.box[0]).double() / 2
    near, far, hit = ray_box(origin.double(), direction.double(), grid.outer_box.double())
    begin, end = max(float(near), interval[0]), min(float(far), interval[1])
    out = []
    edge = begin - jitter * max(step, begin * cone / (1 + cone))
    while bool(hit) and edge < end:
        following = edge + max(step, cone * edge)
        a, b = max(edge, begin), min(following, end)
        unit = ((origin + direction.double() * (a + b) / 2) - centre) / half
        radius = float(unit.abs().max())
        level = max(0, math.ceil(math.log2(radius))) if radius > 0 else 0
        clear = abs(radius / 2 ** round(math.log2(max(radius, 1e-3))) - 1) > 1e-5
        where = (unit / 2**level + 1) / 2 * grid.resolution
        clear &= bool(((where - where.round()).abs() > 1e-4).all())
        inside = level < grid.levels
        x, y, z = where.floor().long().clamp(0, grid.resolution - 1).tolist()
        out.append((a, b, inside and bool(cells[min(level, grid.levels - 1), x, y, z]), clear))
        edge = following
    return out


@pytest.mark.parametrize(
    ("levels", "cone", "share"), [(1, 0.0, 0.02), (1, 0.008, 0.0), (3, 0.0, 0.005), (3, 0.01, 0.3)]
)
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_exactly_the_intervals_in_occupied_cells_are_kept(levels: int, cone: float, share: float, path: str) -> None:
    grid = OccupancyGrid(BOX, 32, levels)
    cells = _speckled(32, levels, share)
    grid.set_cells(cells)
    origins, directions = _rays(60, radius=3.0 * 2 ** (levels - 1))
    g = torch.Generator().manual_seed(3)
    jitter = torch.rand(60, generator=g)
    near = torch.where(torch.arange(60) % 3 == 0, 0.5, 0.0)
    far = torch.where(torch.arange(60) % 4 == 0, 2.0, 50.0)
    step = 0.013 * 2 ** (levels - 1)
    if path == "torch":  # in float64, which no kernel takes
        samples = grid.march(
            *(x.double() for x in (origins, directions, near, far)),
            step_size=step,
            cone_angle=cone,
            jitter=jitter.double(),
            max_samples=100000,
        )
    else:
        samples = grid.march(
            origins, directions, near, far, step_size=step, cone_angle=cone, jitter=jitter, max_samples=100000
        )
    kept = skipped = 0
    for ray in range(60):
        row = slice(*samples.offsets[ray : ray + 2].tolist())
        found = list(zip(samples.starts[row].tolist(), samples.ends[row].tolist(), strict=True))
        starts = np.array([a for a, _ in found])
        lattice = _expected(
            grid,
            cells,
            origins[ray],
            directions[ray],
            (float(near[ray]), float(far[ray])),
            step,
            cone,
            float(jitter[ray]),
        )
        for a, b, occupied, clear in lattice:
            if not clear or b - a < 1e-5:
                continue
            nearest = int(np.abs(starts - a).argmin()) if len(starts) else -1
            present = nearest >= 0 and abs(found[nearest][0] - a) < 1e-5 and abs(found[nearest][1] - b) < 1e-5
            assert present == occupied
            kept += occupied
            skipped += not occupied
        assert len(found) <= len(lattice)
        assert bool((np.diff(starts) > 0).all())
    assert kept > 200
    assert skipped > 200


@pytest.mark.parametrize("cone", [0.0, 1 / 64])
def test_full_grid_fills_near_to_far_whatever_the_jitter(cone: float) -> None:
    grid = OccupancyGrid(BOX, 16, 2)
    origins, directions = _rays(200)
    near, far, hit = ray_box(origins, directions, grid.outer_box)
    assert 0.4 < float(hit.float().mean()) < 1
    for jitter in (None, torch.zeros(200), torch.rand(200, generator=torch.Generator().manual_seed(0))):
        samples = grid.march(origins, directions, step_size=0.03, cone_angle=cone, jitter=jitter)
        total = torch.zeros(200).index_add(0, samples.ray_index, samples.lengths)
        assert torch.allclose(total, far - near, atol=1e-4)
        assert bool((samples.counts[~hit] == 0).all())
        # So a constant density has the closed form's opacity.
        weights, _ = packed_weights(torch.full((len(samples),), 0.4), samples)
        assert torch.allclose(packed_opacity(weights, samples), 1 - torch.exp(-0.4 * (far - near)), atol=1e-5)


@pytest.mark.parametrize(("step", "cone"), [(0.005, 0.0), (2e-4, 0.003), (1e-5, 0.001), (1e-4, 1.0)])
def test_kernel_and_torch_agree(step: float, cone: float) -> None:
    """From inside the box, where steps may grow thousands of times before a ray leaves it."""
    grid = OccupancyGrid(CUBE, 64, 1)
    grid.set_cells(_speckled(64, 1, 0.01))
    origins, directions = _rays(300)
    if cone > 0:
        origins = 0.05 * origins
    fast = grid.march(origins, directions, step_size=step, cone_angle=cone, max_samples=100_000)
    slow = grid.march(origins.double(), directions.double(), step_size=step, cone_angle=cone, max_samples=100_000)
    same = fast.counts == slow.counts
    rows = same[fast.ray_index]
    torch.testing.assert_close(fast.starts[rows].double(), slow.starts[same[slow.ray_index]], rtol=1e-5, atol=1e-6)
    assert fast.starts.dtype == torch.float32
    assert slow.starts.dtype == torch.float64
    # They may differ only where a middle falls on a border.
    assert abs(len(fast) - len(slow)) < 1e-3 * len(fast)
    assert float((fast.counts == slow.counts).float().mean()) > 0.95


def test_empty_grid_gives_no_samples() -> None:
    grid = OccupancyGrid(CUBE, 16, 2)
    grid.set_cells(torch.zeros_like(grid.cells))
    origins, directions = _rays(50)
    samples = grid.march(origins, directions, step_size=0.01)
    assert len(samples) == 0
    assert samples.offsets.tolist() == [0] * 51
    assert grid.occupied_share == 0.0


def test_no_rays() -> None:
    samples = OccupancyGrid(CUBE, 16).march(torch.zeros(0, 3), torch.zeros(0, 3), step_size=0.1)
    assert samples.offsets.tolist() == [0]


def test_levels_extend_the_box() -> None:
    grid = OccupancyGrid(CUBE, 16, 3)
    assert grid.outer_box.tolist() == [[-4.0] * 3, [4.0] * 3]
    origins, directions = torch.tensor([[-10.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    samples = grid.march(origins, directions, step_size=0.25)
    assert float(samples.starts[0]) == pytest.approx(6.0)
    assert float(samples.ends[-1]) == pytest.approx(14.0)
    cells = torch.zeros_like(grid.cells)
    cells[1] = True  # answers from 1 to 2 only
    grid.set_cells(cells)
    samples = grid.march(origins, directions, step_size=0.25)
    x = samples.midpoints - 10
    assert bool(((x.abs() > 1) & (x.abs() < 2)).all())
    assert len(samples) == 8


def test_query_and_cells_agree() -> None:
    grid = OccupancyGrid(CUBE, 16, 2)
    cells = _speckled(16, 2, 0.1)
    grid.set_cells(cells)
    assert torch.equal(grid.cells[0], cells[0])
    centres = (torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"), -1) + 0.5) / 8 - 1
    assert torch.equal(grid.occupied(centres), cells[0])
    outer = (centres * 2).abs().amax(-1) > 1
    assert torch.equal(grid.occupied(2 * centres)[outer], cells[1][outer])
    assert not bool(grid.occupied(torch.tensor([[5.0, 0, 0], [math.nan, 0, 0], [math.inf, 0, 0]])).any())


def test_clearance_is_the_distance_to_the_next_block() -> None:
    grid = OccupancyGrid(CUBE, 64)
    cells = torch.zeros_like(grid.cells)
    cells[0, 5, 6, 7] = cells[0, 60, 33, 20] = True
    grid.set_cells(cells)
    index = torch.stack(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"), -1)
    full = torch.tensor([[1, 1, 1], [15, 8, 5]])
    expected = (index[..., None, :] - full).abs().amax(-1).amin(-1)
    assert torch.equal(grid.clearance[0].long(), expected.clamp_max(15))


def test_most_samples_a_ray() -> None:
    grid = OccupancyGrid(CUBE, 16)
    origins, directions = _rays(40)
    whole = grid.march(origins, directions, step_size=0.01)
    cut = grid.march(origins, directions, step_size=0.01, max_samples=7)
    wide = grid.march(origins.double(), directions.double(), step_size=0.01, max_samples=7)
    assert torch.equal(cut.counts, whole.counts.clamp_max(7))
    assert torch.equal(wide.counts, cut.counts)
    first = whole.offsets[:-1][whole.counts > 7]
    assert torch.equal(cut.starts[cut.offsets[:-1][whole.counts > 7] + 6], whole.starts[first + 6])


def test_many_runs_on_one_ray() -> None:
    grid = OccupancyGrid(CUBE, 128)
    cells = torch.zeros_like(grid.cells)
    cells[0, ::2] = True  # 64 runs along x, more than are kept between the passes
    grid.set_cells(cells)
    samples = grid.march(torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0, 0]]), step_size=2 / 512)
    assert len(samples) == 256
    cell = ((samples.midpoints - 2) * 64).floor().long()
    assert bool((cell % 2 == 0).all())
    assert bool((samples.starts.diff() > 0).all())


def test_dense_sphere_stops_rays_early() -> None:
    grid = OccupancyGrid(CUBE, 32)
    origins, directions = _rays(100)

    def density(points: Tensor) -> Tensor:
        return 60.0 * (points.norm(dim=-1) < 0.8).float()

    def at_samples(samples: PackedSamples) -> Tensor:
        return density(samples.positions(origins, directions))

    whole = grid.march(origins, directions, step_size=0.01)
    cut = grid.march(origins, directions, step_size=0.01, density_fn=at_samples, early_stop=1e-3)
    assert len(cut) < 0.7 * len(whole)
    total, shown = (packed_opacity(packed_weights(at_samples(s), s)[0], s) for s in (whole, cut))
    assert float((total - shown).abs().max()) < 1e-3
    _, transmittance = packed_weights(at_samples(cut), cut)
    assert float(transmittance.min()) >= 1e-3 - 1e-6


def test_update_finds_a_sphere_and_forgets_what_vanishes() -> None:
    grid = OccupancyGrid(CUBE, 32, 2, decay=0.3, warmup=100)
    g = torch.Generator().manual_seed(0)

    def ball(points: Tensor) -> Tensor:
        return 5e5 * (points.norm(dim=-1, keepdim=True) < 1.5).float()

    for _ in range(8):
        grid.update(ball, step_size=0.01, generator=g)
    assert int(grid.updates) == 8
    centres = (torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"), -1) + 0.5) / 8 - 2
    radius = centres.norm(dim=-1)
    outer = centres.abs().amax(-1) > 1
    half_diagonal = math.sqrt(3) / 16
    cells = grid.cells[1]
    assert bool(cells[outer & (radius < 1.5 - half_diagonal)].all())
    assert not bool(cells[outer & (radius > 1.5 + half_diagonal)].any())
    assert bool(grid.cells[0][(centres / 2).norm(dim=-1) < 1.5 - half_diagonal].all())
    # A homogeneous sphere through the grid: the chord's opacity, to a step at either end.
    origins, directions = _rays(100, radius=3.0)
    samples = grid.march(origins, directions, step_size=0.002, max_samples=4096)
    weights, _ = packed_weights(ball(samples.positions(origins, directions))[:, 0] / 2.5e5, samples)
    near, far, _ = ray_sphere(origins, directions, torch.zeros(3), 1.5)
    inside = (far - near) > 0.5  # a grazing ray may pass through a cell that was only looked at beside the ball
    error = packed_opacity(weights, samples) - (1 - torch.exp(-2 * (far - near)))
    # A cell that the ball only touches may have been missed by all eight looks; the others are all there.
    assert float(error.abs()[inside].max()) < 0.05
    assert float(error.abs()[inside].median()) < 0.0005
    for _ in range(14):
        grid.update(lambda p: 5e5 * (p.norm(dim=-1) < 0.5).float(), step_size=0.01, generator=g)
    assert not bool(grid.cells[1][outer].any())
    assert 0.9 * math.pi / 6 / 8 < float(grid.cells[0].float().mean()) < 1.6 * math.pi / 6 / 8


def test_update_uses_the_mean_of_a_young_field() -> None:
    grid = OccupancyGrid(CUBE, 16, threshold=0.01)
    grid.update(lambda p: 1e-3 * (1 + (p[:, 0] > 0)), step_size=0.01)  # far below the threshold everywhere
    assert grid.occupied_share == pytest.approx(0.5)


@pytest.mark.parametrize(("most", "side"), [(6_000, 2), (1_000, 4)])
def test_early_updates_of_large_grids_look_at_groups_of_cells(
    monkeypatch: pytest.MonkeyPatch, most: int, side: int
) -> None:
    monkeypatch.setattr(grid_module, "_MOST_LOOKED_AT", most)
    grid = OccupancyGrid(CUBE, 32, warmup=9)
    grid.density[0, :, :, :8] = -1.0
    asked: list[Tensor] = []

    def half(points: Tensor) -> Tensor:
        asked.append(points)
        return torch.where(points[:, 0] > 0, 10.0, 0.0)

    g = torch.Generator().manual_seed(0)
    for _ in range(8):
        grid.update(half, step_size=0.01, generator=g)
    points = torch.cat(asked)
    assert len(points) == 8 * (32 * 32 * 24) // side**3
    assert float(points[:, 2].min()) > -0.5, "nothing is asked of cells that stay empty"
    cells = grid.cells[0]
    assert not bool(cells[:, :, :8].any())
    assert bool(cells[16:, :, 8:].all())
    assert not bool(cells[:16].any())


def test_later_updates_look_at_a_sample_only() -> None:
    grid = OccupancyGrid(CUBE, 32, warmup=1)
    asked = []

    def count(points: Tensor) -> Tensor:
        asked.append(len(points))
        return torch.where(points[:, 0] > 0.9, 10.0, 0.0)

    g = torch.Generator().manual_seed(0)
    grid.update(count, step_size=0.01, generator=g)
    assert sum(asked) == 32**3
    asked.clear()
    grid.update(count, step_size=0.01, generator=g, count=500)
    assert 900 < sum(asked) <= 1000


def test_updates_repeat_with_the_generator() -> None:
    grids = [OccupancyGrid(CUBE, 16, 2, warmup=1) for _ in range(2)]
    for grid in grids:
        g = torch.Generator().manual_seed(7)
        for _ in range(3):
            grid.update(lambda p: (3 * p).sin().sum(-1).clamp_min(0), step_size=0.01, generator=g)
    for name, value in grids[0].state_dict().items():
        assert torch.equal(value, grids[1].state_dict()[name])


def test_state_is_restored_exactly() -> None:
    grid = OccupancyGrid(BOX, 16, 2, warmup=1)
    g = torch.Generator().manual_seed(1)

    def field(points: Tensor) -> Tensor:
        return 9 * (points.norm(dim=-1) < 1).float()

    for _ in range(3):
        grid.update(field, step_size=0.01, generator=g)
    other = OccupancyGrid(CUBE, 16, 2, warmup=1)
    other.load_state_dict({k: v.clone() for k, v in grid.state_dict().items()})
    state = g.get_state()
    grid.update(field, step_size=0.01, generator=g)
    g.set_state(state)
    other.update(field, step_size=0.01, generator=g)
    origins, directions = _rays(30)
    a, b = (x.march(origins, directions, step_size=0.02) for x in (grid, other))
    assert torch.equal(a.offsets, b.offsets)
    assert torch.equal(a.starts, b.starts)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in grid.state_dict().items())


def test_what_no_camera_sees_stays_empty() -> None:
    grid = OccupancyGrid(CUBE, 16)
    pose = look_at(torch.tensor([[0.0, 0.0, 3.0]]), torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    cameras = Cameras.make(pose, fx=100.0, fy=100.0, cx=16.0, cy=16.0, width=32, height=32)
    grid.exclude_unseen(cameras)
    seen = grid.cells.clone()
    assert 0.05 < grid.occupied_share < 0.5
    assert bool(grid.occupied(torch.tensor([0.0, 0.0, 0.0])))
    assert not bool(grid.occupied(torch.tensor([0.9, 0.0, 0.9])))
    grid.update(lambda p: torch.ones(len(p)), step_size=0.1)
    assert torch.equal(grid.cells, seen)


def test_number_of_threads_does_not_matter() -> None:
    grid = OccupancyGrid(CUBE, 32)
    grid.set_cells(_speckled(32, 1, 0.05))
    origins, directions = _rays(333)
    before = cache.get_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            cache.set_threads(threads)
            results.append(grid.march(origins, directions, step_size=0.01))
    finally:
        cache.set_threads(before)
    for other in results[1:]:
        assert torch.equal(other.offsets, results[0].offsets)
        assert torch.equal(other.starts, results[0].starts)
        assert torch.equal(other.ends, results[0].ends)


def test_samples_carry_gradients_to_rays_only_through_positions() -> None:
    origins, directions = (x.requires_grad_() for x in _rays(20))
    grid = OccupancyGrid(CUBE, 16)
    samples = grid.march(origins, directions, step_size=0.1)
    assert not samples.starts.requires_grad
    samples.positions(origins, directions).square().sum().backward()
    assert origins.grad is not None
    assert bool(origins.grad.isfinite().all())


def test_bad_input_is_named() -> None:
    grid = OccupancyGrid(CUBE, 16)
    o, d = torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    with pytest.raises(StudioError, match="directions: ray 1 is NaN or infinite"):
        grid.march(o, torch.tensor([[1.0, 0, 0], [math.inf, 0, 0]]), step_size=0.1)
    with pytest.raises(StudioError, match="directions: ray 0 is zero"):
        grid.march(o, torch.zeros(2, 3), step_size=0.1)
    with pytest.raises(StudioError, match="origins: ray 0"):
        grid.march(torch.full((2, 3), math.nan), d, step_size=0.1)
    with pytest.raises(StudioError, match="near: 2 is beyond far = 1 at ray 1"):
        grid.march(o, d, torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), step_size=0.1)
    with pytest.raises(StudioError, match="near: ray 0 is NaN"):
        grid.march(o, d, torch.tensor([math.nan, 0.0]), step_size=0.1)
    with pytest.raises(ValueError, match="step_size"):
        grid.march(o, d, step_size=0.0)
    with pytest.raises(ValueError, match="step_size"):
        grid.march(o, d, step_size=1e-12)
    with pytest.raises(ValueError, match="jitter: expected shape"):
        grid.march(o, d, step_size=0.1, jitter=torch.zeros(3))
    with pytest.raises(ValueError, match="jitter: expected parts"):
        grid.march(o, d, step_size=0.1, jitter=torch.ones(2))
    with pytest.raises(StudioError, match="box: has no volume"):
        OccupancyGrid(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="resolution"):
        OccupancyGrid(CUBE, 30)
    with pytest.raises(ValueError, match="density_fn: expected"):
        grid.update(lambda p: torch.zeros(3), step_size=0.1)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2])
def test_kernels_and_torch_keep_the_same_state(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for kernels in (True, False):
        grid = OccupancyGrid(BOX, 48, 3, warmup=1)
        monkeypatch.setattr(grid, "_on_kernels", lambda kernels=kernels: kernels)
        dust = _speckled(48, 3, share).float()
        if share == 0.0:
            dust[:] = 0.0
        for _ in range(3):

            def field(points: Tensor, dust: Tensor = dust) -> Tensor:
                cell = ((points / 8 + 0.5).clamp(0, 0.999) * 48).long()
                return 5 * dust[1, cell[:, 0], cell[:, 1], cell[:, 2]]

            grid.update(field, step_size=0.01, generator=torch.Generator().manual_seed(4))
        states.append(grid.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert (int((states[0]["words"] != 0).sum()) > 0) == (share > 0)


def test_mean_thickness_leaves_out_what_is_excluded_and_what_a_finer_level_answers_for() -> None:
    grid = OccupancyGrid(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]), 8, 3)
    generator = torch.Generator().manual_seed(0)
    grid.density.copy_(torch.rand(grid.density.shape, generator=generator))
    grid.density[torch.rand(grid.density.shape, generator=generator) < 0.2] = -1.0
    total, count = 0.0, 0
    for level, x, y, z in itertools.product(range(3), range(8), range(8), range(8)):
        value = float(grid.density[level, x, y, z])
        if value >= 0 and not (level > 0 and all(2 <= i < 6 for i in (x, y, z))):
            total, count = total + 0.1 * 2**level * value, count + 1
    assert grid._mean_thickness(0.1) == pytest.approx(total / count, rel=1e-6)
    # In double precision it goes through torch.
    assert grid.double()._mean_thickness(0.1) == pytest.approx(total / count, rel=1e-6)
