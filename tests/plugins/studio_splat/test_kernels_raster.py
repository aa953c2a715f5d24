"""The tile rasteriser against a float64 brute force: every pixel, every splat, in depth order, with autograd."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.workspace import Workspace, aligned_zeros
from studio_splat.kernels.binning import Tiles, bin_splats, count_pairs
from studio_splat.kernels.raster_backward import RasterGradients, rasterize_backward
from studio_splat.kernels.raster_forward import Raster, rasterize_forward

LOG2E = math.log2(math.e)


@pytest.fixture(autouse=True)
def _restore_threads():
    before = cache.get_threads()
    yield
    cache.set_threads(before)


def make_records(
    means: NDArray, sigmas: NDArray, angles: NDArray, opacities: NDArray, colours: NDArray, depths: NDArray
) -> NDArray[np.float32]:
    """Records of 2D Gaussians with standard deviations `sigmas` (N, 2) along axes turned by `angles`."""
    cos, sin = np.cos(angles), np.sin(angles)
    s1, s2 = sigmas[:, 0] ** 2, sigmas[:, 1] ** 2
    xx, yy, xy = s1 * cos**2 + s2 * sin**2, s1 * sin**2 + s2 * cos**2, (s1 - s2) * cos * sin
    determinant = s1 * s2
    records = aligned_zeros((len(means), 16))
    records[:, 0:2] = means
    records[:, 2] = -0.5 * LOG2E * yy / determinant
    records[:, 3] = LOG2E * xy / determinant
    records[:, 4] = -0.5 * LOG2E * xx / determinant
    records[:, 5] = np.log2(opacities)
    records[:, 6:9] = colours
    records[:, 9] = depths
    reach = np.sqrt(np.maximum(0.0, 2.0 * np.log(255.0 * opacities)))
    records[:, 10] = reach * np.sqrt(xx)
    records[:, 11] = reach * np.sqrt(yy)
    return records


def random_records(
    count: int,
    width: int,
    height: int,
    seed: int,
    size: float = 3.0,
    opacity: tuple[float, float] = (0.01, 0.95),
    settle: bool = True,
) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    records = make_records(
        rng.uniform(-4.0, 4.0, (count, 2)) + rng.uniform(0.0, 1.0, (count, 2)) * (width, height),
        size * np.exp(rng.normal(0.0, 0.6, (count, 2))) + 0.3,
        rng.uniform(0.0, math.pi, count),
        rng.uniform(*opacity, count),
        rng.uniform(0.0, 1.5, (count, 3)),
        rng.uniform(1.0, 5.0, count),
    )
    return settle_thresholds(records, width, height) if settle else records


def exponents_of(records: NDArray, width: int, height: int) -> NDArray:
    """(N, H, W) float64 log2 of the unclamped alpha."""
    x, y, a, b, c, level = (records[:, k].astype(np.float64)[:, None, None] for k in range(6))
    dx = np.arange(width)[None, None, :] + 0.5 - x
    dy = np.arange(height)[None, :, None] + 0.5 - y
    return level + a * dx * dx + b * dx * dy + c * dy * dy


def settle_thresholds(records: NDArray, width: int, height: int) -> NDArray:
    """Move opacities a little until no pixel lies on the edge of a yes-or-no decision, where float32 may differ."""
    for _ in range(100):
        p = exponents_of(records, width, height)
        on_edge = (np.abs(p + math.log2(255.0)) < 1e-4) | (np.abs(p - math.log2(0.999)) < 1e-5)
        undecided = on_edge.any(axis=(1, 2))
        if not undecided.any():
            return records
        records[undecided, 5] -= 7e-4
    raise AssertionError("no scene without undecided pixels found")


@dataclass
class Reference:
    image: torch.Tensor
    transmittance: torch.Tensor
    median_depth: NDArray
    records: torch.Tensor
    colours: torch.Tensor
    background: torch.Tensor
    exponents: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]


def brute_force(records: NDArray, width: int, height: int, colours: NDArray, background: NDArray) -> Reference:
    rec = torch.tensor(records, dtype=torch.float64, requires_grad=True)
    col = torch.tensor(colours, dtype=torch.float64, requires_grad=True)
    back = torch.tensor(background, dtype=torch.float64, requires_grad=True)
    px = torch.arange(width, dtype=torch.float64)[None, :] + 0.5
    py = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    light = torch.ones(height, width, dtype=torch.float64)
    image = torch.zeros(col.shape[1], height, width, dtype=torch.float64)
    live = torch.ones(height, width, dtype=torch.bool)
    median = np.zeros((height, width))
    exponents = []
    for i in np.argsort(records[:, 9], kind="stable"):
        if not records[i, 10] > 0:
            continue
        dx, dy = px - rec[i, 0], py - rec[i, 1]
        p = rec[i, 5] + rec[i, 2] * dx * dx + rec[i, 3] * dx * dy + rec[i, 4] * dy * dy
        p.retain_grad()
        exponents.append((int(i), p, dx, dy))
        raw = torch.exp2(p)
        alpha = torch.where(raw > 0.999, torch.full_like(raw, 0.999), raw)
        alpha = torch.where(live & (p >= -math.log2(255.0)), alpha, torch.zeros_like(alpha))
        after = light * (1 - alpha)
        assert not (live & ((after / 1e-4 - 1).abs() < 2e-5)).any(), "undecided end of a pixel; choose another seed"
        live = live & (after > 1e-4)
        weight = torch.where(live, alpha * light, torch.zeros_like(alpha))
        image = image + weight * col[i][:, None, None]
        crosses = live & (light > 0.5) & (after <= 0.5)
        median[crosses.numpy()] = records[i, 9]
        light = torch.where(live, after, light)
    return Reference(image + light * back[:, None, None], light, median, rec, col, back, exponents)


def run(
    records: NDArray,
    width: int,
    height: int,
    background: NDArray,
    v_image: NDArray,
    v_transmittance: NDArray | None,
    workspace: Workspace | None = None,
    **options: object,
) -> tuple[Tiles, Raster, RasterGradients]:
    workspace = workspace or Workspace()
    tiles = bin_splats(records, width, height, workspace)
    raster = rasterize_forward(
        records,
        tiles,
        workspace,
        background=background,
        features=options.get("features"),
        depth=bool(options.get("depth", False)),
    )
    gradients = rasterize_backward(
        records,
        tiles,
        raster,
        workspace,
        v_image,
        v_transmittance,
        features=options.get("features"),
        absgrad=bool(options.get("absgrad", False)),
    )
    return tiles, raster, gradients


def assert_gradient(actual: NDArray, expected: NDArray, name: str) -> None:
    """Within 1e-4 of each value, with a floor of 1e-5 of the largest for those that are differences of large terms."""
    scale = np.abs(expected).max() if expected.size else 0.0
    bound = 1e-4 * np.abs(expected) + 1e-5 * scale
    worst = np.max(np.abs(actual - expected) - bound, initial=-1.0)
    assert worst <= 0.0, f"{name}: off by {np.abs(actual - expected).max():.3g} at a scale of {scale:.3g}"


SCENES = {
    "random": lambda: (random_records(150, 44, 29, seed=1), 44, 29),
    "tile multiple": lambda: (random_records(150, 32, 24, seed=2), 32, 24),
    "saturated": lambda: (random_records(400, 24, 24, seed=3, size=8.0, opacity=(0.6, 1.0)), 24, 24),
    "small splats": lambda: (random_records(300, 33, 17, seed=4, size=0.3), 33, 17),
    "one pixel": lambda: (random_records(40, 1, 1, seed=5), 1, 1),
    "one column": lambda: (random_records(60, 1, 37, seed=6), 1, 37),
    "one splat": lambda: (random_records(1, 19, 21, seed=7), 19, 21),
    "no splat": lambda: (aligned_zeros((0, 16)), 13, 9),
    "needles": lambda: (needles(), 50, 41),
}


def needles() -> NDArray[np.float32]:
    rng = np.random.default_rng(8)
    count = 60
    records = make_records(
        rng.uniform(0.0, 50.0, (count, 2)),
        np.stack([rng.uniform(10.0, 40.0, count), np.full(count, 0.4)], axis=1),
        rng.uniform(0.0, math.pi, count),
        rng.uniform(0.2, 0.9, count),
        rng.uniform(0.0, 1.0, (count, 3)),
        rng.uniform(1.0, 5.0, count),
    )
    return settle_thresholds(records, 50, 41)


@pytest.mark.parametrize("channels", ["rgb", "rgbd", "features"])
@pytest.mark.parametrize("scene", SCENES)
def test_matches_float64_autograd(scene: str, channels: str) -> None:
    records, width, height = SCENES[scene]()
    rng = np.random.default_rng(0)
    features = None
    if channels == "rgb":
        colours = records[:, 6:9]
    elif channels == "rgbd":
        colours = records[:, 6:10]
    else:
        colours = features = rng.normal(size=(len(records), 7)).astype(np.float32)
    planes = colours.shape[1]
    background = rng.uniform(size=planes).astype(np.float32)
    v_image = rng.normal(size=(planes, height, width)).astype(np.float32)
    v_transmittance = rng.normal(size=(height, width)).astype(np.float32)
    expected = brute_force(records, width, height, colours, background)
    loss = (expected.image * torch.tensor(v_image)).sum() + (
        expected.transmittance * torch.tensor(v_transmittance)
    ).sum()
    loss.backward()

    _, raster, gradients = run(
        records,
        width,
        height,
        background,
        v_image,
        v_transmittance,
        features=features,
        depth=channels == "rgbd",
        absgrad=True,
    )
    # 5e-6 of an image in [0, 1]; depths and features may be larger.
    span = max(1.0, float(np.abs(colours).max(initial=0.0)))
    np.testing.assert_allclose(raster.image, expected.image.detach().numpy(), rtol=0, atol=5e-6 * span)
    np.testing.assert_allclose(raster.transmittance, expected.transmittance.detach().numpy(), rtol=0, atol=5e-6)

    assert_gradient(gradients.background, expected.background.grad.numpy(), "background")
    if not len(records):
        assert gradients.rows.shape == (0, 16)
        return
    by_record = expected.records.grad.numpy()
    for column, name in enumerate(("x", "y", "A", "B", "C", "log2 opacity")):
        assert_gradient(gradients.rows[:, column], by_record[:, column], name)
    by_colour = expected.colours.grad.numpy()
    if features is None:
        assert_gradient(gradients.rows[:, 6 : 6 + planes], by_colour, "colours")
        assert not gradients.rows[:, 6 + planes : 10].any()
    else:
        assert gradients.features is not None
        assert_gradient(gradients.features, by_colour, "features")
        assert not gradients.rows[:, 6:10].any()
    assert not gradients.rows[:, 12:].any()
    absolute = np.zeros((len(records), 2))
    for i, p, dx, dy in expected.exponents:
        a, b, c = records[i, 2:5].astype(np.float64)
        g = torch.zeros_like(p) if p.grad is None else p.grad
        absolute[i] = ((g * (2 * a * dx + b * dy)).abs().sum().item(), (g * (b * dx + 2 * c * dy)).abs().sum().item())
    assert_gradient(gradients.rows[:, 10], absolute[:, 0], "Σ|d/dx|")
    assert_gradient(gradients.rows[:, 11], absolute[:, 1], "Σ|d/dy|")


def test_median_depth_is_that_of_the_splat_crossing_one_half() -> None:
    records, width, height = SCENES["saturated"]()
    workspace = Workspace()
    tiles = bin_splats(records, width, height, workspace)
    raster = rasterize_forward(records, tiles, workspace, median_depth=True)
    expected = brute_force(records, width, height, records[:, 6:9], np.zeros(3))
    assert raster.median_depth is not None
    assert (expected.median_depth > 0).mean() > 0.9
    np.testing.assert_array_equal(raster.median_depth, expected.median_depth.astype(np.float32))
    assert raster.image.shape == (3, height, width)
    np.testing.assert_allclose(raster.image, expected.image.detach().numpy(), rtol=0, atol=5e-6 * 1.5)


def _bits(result: tuple[Tiles, Raster, RasterGradients]) -> tuple[bytes, ...]:
    _, raster, gradients = result
    arrays = (raster.image, raster.transmittance, gradients.rows, gradients.touched, gradients.background)
    return tuple(array.tobytes() for array in arrays)


def _big_scene() -> tuple[NDArray[np.float32], int, int, NDArray, NDArray]:
    width, height = 150, 131
    records = random_records(3000, width, height, seed=11, settle=False)
    v_image = np.random.default_rng(1).normal(size=(3, height, width)).astype(np.float32)
    return records, width, height, np.full(3, 0.5, np.float32), v_image


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_repeats_bit_for_bit(threads: int) -> None:
    records, width, height, background, v_image = _big_scene()
    cache.set_threads(threads)
    shared = Workspace()
    runs = [
        _bits(run(records, width, height, background, v_image, None, workspace))
        for workspace in (shared, shared, Workspace())
    ]
    assert runs[0] == runs[1] == runs[2]


def test_thread_counts_agree_to_rounding() -> None:
    records, width, height, background, v_image = _big_scene()
    features = np.random.default_rng(2).normal(size=(len(records), 3)).astype(np.float32)
    results = []
    for threads in (1, 2, 5, 64):
        cache.set_threads(threads)
        results.append(run(records, width, height, background, v_image, None, features=features))
    tiles, raster, gradients = results[0]
    for other_tiles, other_raster, other in results[1:]:
        assert other_tiles.pairs == tiles.pairs
        # Pixels do not depend on who computes them.
        assert other_raster.image.tobytes() == raster.image.tobytes()
        np.testing.assert_array_equal(other.touched, gradients.touched)
        for name in ("rows", "features", "background"):
            one, several = getattr(gradients, name), getattr(other, name)
            scale = np.abs(one).max(axis=0)
            assert (np.abs(several - one) <= 1e-5 * scale).all(), name


@pytest.mark.parametrize("threads", [2, 5, 16, 64])
def test_threads_share_tiles_evenly_and_keep_rows_for_their_own_splats_only(threads: int) -> None:
    records, width, height, background, v_image = _big_scene()
    cache.set_threads(threads)
    workspace = Workspace()
    tiles, _, _ = run(records, width, height, background, v_image, None, workspace)
    bounds = workspace.array("backward.bounds", (threads + 1,), np.int64)
    assert bounds[0] == 0
    assert bounds[-1] == len(tiles.count)
    work = tiles.count + 4
    loads = np.array([work[a:b].sum() for a, b in itertools.pairwise(bounds)])
    # A tile is not divided, so a share misses the mean by less than one tile at either end.
    assert np.abs(loads - work.sum() / threads).max() <= work.max()
    # A splat lies in the tile rows `first` to `last`; every thread whose run meets these may write to it.
    span = (tiles.info & np.uint64(0xFFFF)).astype(np.int64)
    first = ((tiles.info >> np.uint64(16)) & np.uint64(0xFFFF)).astype(np.int64) * tiles.columns
    owner = np.searchsorted(bounds[:-1], np.arange(len(tiles.count)), side="right") - 1
    drawn = span > 0
    owners = owner[(first + span * tiles.columns - 1)[drawn]] - owner[first[drawn]] + 1
    shared = owners > 1
    starts = workspace.array("backward.starts", (len(records) + 1,), np.int64)
    np.testing.assert_array_equal(np.diff(starts[: shared.sum() + 1]), owners[shared])
    assert starts[shared.sum()] == threads + owners[shared].sum()


def test_reused_workspace_carries_nothing_over() -> None:
    """Scenes of different size, splat count and channels in turn give what a fresh workspace gives."""
    workspace = Workspace()
    rng = np.random.default_rng(3)
    for scene in ("random", "no splat", "one pixel", "small splats", "one splat", "random"):
        records, width, height = SCENES[scene]()
        for planes in (3, 5, 3, 2):
            features = rng.normal(size=(len(records), planes)).astype(np.float32) if planes != 3 else None
            background = np.zeros(planes, np.float32)
            v_image = rng.normal(size=(planes, height, width)).astype(np.float32)
            results = [
                run(records, width, height, background, v_image, None, w, features=features)
                for w in (workspace, Workspace())
            ]
            assert _bits(results[0]) == _bits(results[1])
            if features is not None:
                assert results[0][2].features is not None
                np.testing.assert_array_equal(results[0][2].features, results[1][2].features)


def test_growing_workspace_carries_nothing_over() -> None:
    # Buffers grow by a quarter, each rounded on its own, so at some of these counts one grows and another does not.
    workspace, size = Workspace(), 16
    background, seen = np.zeros(3, np.float32), np.ones((3, size, size), np.float32)
    for blocks in range(1, 40):
        records = random_records(16 * blocks, size, size, seed=blocks, settle=False)
        results = [run(records, size, size, background, seen, None, w) for w in (workspace, Workspace())]
        assert _bits(results[0]) == _bits(results[1])
        run(records, size, size, background, 1e6 * seen, None, workspace)


def test_touched_flags_cover_all_gradients_and_only_visible_blocks() -> None:
    records, width, height, background, v_image = _big_scene()
    records[1600:] = 0.0
    records[1600:, 5] = -1e30
    _, _, gradients = run(records, width, height, background, v_image, None)
    has_gradient = np.zeros(len(gradients.touched) * 16, bool)
    has_gradient[: len(records)] = gradients.rows.any(axis=1)
    assert (gradients.touched >= has_gradient.reshape(-1, 16).any(axis=1)).all()
    assert gradients.touched[:100].all()
    assert not gradients.touched[100:].any()


def test_culled_and_broken_records_draw_nothing() -> None:
    records, width, height = SCENES["random"]()
    clean = run(records, width, height, np.zeros(3), np.ones((3, height, width), np.float32), None)
    extra = np.repeat(records[:1], 8, axis=0)
    extra[0, 10:12] = 0.0
    extra[1, 0] = np.nan
    extra[2, 1] = np.inf
    extra[3, 5] = np.nan
    extra[4, 2:5] = np.nan
    extra[5, 5] = -1e30
    extra[6, 0] = 1e30
    extra[7, 10] = np.nan
    both = np.concatenate([records, extra])
    dirty = run(both, width, height, np.zeros(3), np.ones((3, height, width), np.float32), None)
    np.testing.assert_array_equal(dirty[1].image, clean[1].image)
    assert not dirty[2].rows[len(records) :].any()


def test_equal_depths_are_blended_in_index_order() -> None:
    count = 40
    records = make_records(
        np.full((count, 2), 4.0),
        np.full((count, 2), 3.0),
        np.zeros(count),
        np.full(count, 0.5),
        np.eye(count)[:, :3],
        np.full(count, 2.0),
    )
    tiles = bin_splats(records, 8, 8, Workspace())
    np.testing.assert_array_equal(tiles.ids[: tiles.pairs], np.arange(count))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1.0, 1e30])
def test_depth_order_of_any_floats(spread: float) -> None:
    rng = np.random.default_rng(4)
    count = 500
    records = random_records(count, 16, 16, seed=9, size=30.0, opacity=(0.02, 0.03), settle=False)
    records[:, 9] = 1.0 + spread * rng.normal(size=count)
    tiles = bin_splats(records, 16, 16, Workspace())
    order = np.argsort(records[:, 9], kind="stable")
    for tile in range(4):
        ids = tiles.ids[tiles.start[tile] : tiles.start[tile] + tiles.count[tile]]
        np.testing.assert_array_equal(ids, order[np.isin(order, ids)])


def test_lists_hold_exactly_the_tiles_reached() -> None:
    """No pixel over 1/255 is missed, and few tiles without one are listed."""
    width, height = 150, 131
    records = random_records(800, width, height, seed=12, size=5.0, settle=False)
    workspace = Workspace()
    tiles = bin_splats(records, width, height, workspace)
    hit = exponents_of(records, width, height) >= -math.log2(255.0)
    padded = np.zeros((len(records), -(-height // 8) * 8, tiles.columns * 8), bool)
    padded[:, :height, :width] = hit
    reached = padded.reshape(len(records), -1, 8, tiles.columns, 8).any(axis=(2, 4)).reshape(len(records), -1)
    listed = np.zeros_like(reached)
    for tile in range(len(tiles.count)):
        listed[tiles.ids[tiles.start[tile] : tiles.start[tile + 1]], tile] = True
    assert not (reached & ~listed).any()
    assert listed.sum() == tiles.pairs == count_pairs(records, width, height, workspace)
    assert (listed & ~reached).sum() < 0.02 * reached.sum()


def test_more_than_65536_tiles() -> None:
    width, height = 4099, 1301
    rng = np.random.default_rng(5)
    count = 2000
    records = make_records(
        rng.uniform(0.0, 1.0, (count, 2)) * (width, height),
        np.full((count, 2), 2.0),
        np.zeros(count),
        np.full(count, 0.9),
        np.ones((count, 3)),
        rng.uniform(1.0, 2.0, count),
    )
    records[-1, 0:2] = (width - 0.5, height - 0.5)
    workspace = Workspace()
    tiles = bin_splats(records, width, height, workspace)
    assert len(tiles.count) > 2**16
    raster = rasterize_forward(records, tiles, workspace)
    assert raster.image[0, -1, -1] == pytest.approx(0.9, abs=0.1)
    # The image holds each splat's light: opacity · 2πσ², less what overlaps.
    assert raster.image[0].sum() == pytest.approx(count * 0.9 * 2 * math.pi * 4, rel=0.05)


def test_wrong_arguments_are_named() -> None:
    records, width, height = SCENES["random"]()
    workspace = Workspace()
    with pytest.raises(ValueError, match=r"records: expected float32 of shape \(N, 16\)"):
        bin_splats(records.astype(np.float64), width, height, workspace)
    with pytest.raises(ValueError, match="C-contiguous"):
        bin_splats(np.asfortranarray(records), width, height, workspace)
    with pytest.raises(ValueError, match="width, height"):
        bin_splats(records, 0, height, workspace)
    tiles = bin_splats(records, width, height, workspace)
    with pytest.raises(ValueError, match="background"):
        rasterize_forward(records, tiles, workspace, background=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="features"):
        rasterize_forward(records, tiles, workspace, features=np.zeros((3, 2), np.float32))
    raster = rasterize_forward(records, tiles, workspace)
    with pytest.raises(ValueError, match=r"v_image: expected shape \(3, 29, 44\)"):
        rasterize_backward(records, tiles, raster, workspace, np.zeros((3, 44, 29), np.float32))


def test_zero_opacity_background_only() -> None:
    workspace = Workspace()
    tiles = bin_splats(aligned_zeros((0, 16)), 10, 10, workspace)
    raster = rasterize_forward(aligned_zeros((0, 16)), tiles, workspace, background=np.array([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(raster.image[:, 3, 4], np.array([0.1, 0.2, 0.3], np.float32))
    assert (raster.transmittance == 1.0).all()
