"""The compiled kernels of the hash-grid field against plain torch in float64: values, gradients, steps, bits."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.kernels import cache
from studio.marching import PackedSamples, packed_sum, packed_weights
from studio.plugin import SceneInfo
from studio_nerf.ngp import following
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Further, Rates, RayTargets, Thinning
from studio_nerf.ngp.engine_cpu import CpuEngine
from studio_nerf.ngp.engine_torch import TorchEngine
from studio_nerf.ngp.kernels import evaluate, hash_grid
from studio_nerf.ngp.kernels.samples import follow_rays, place_samples
from studio_nerf.ngp.kernels.train import SHARES, scratch_size, train_rays
from studio_nerf.ngp.networks import Shading
from studio_nerf.ngp.optimizer import LazyAdam
from studio_nerf.ngp.space import Space

RAYS = 45


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = cache.get_threads()
    yield cache.set_threads(request.param)
    cache.set_threads(before)


def make_model(*, view: int = 16, space: str = "box", seed: int = 3) -> tuple[HashGrid, Shading, Space]:
    """A small model with features and densities far from their small start, so that everything has a gradient."""
    torch.manual_seed(seed)
    encoding = HashGrid(levels=4, coarsest=4, finest=40, log2_rows=10)
    shading = Shading(encoding.width, 32, 48, view)
    with torch.no_grad():
        encoding.table.normal_(0, 0.5)
    info = SceneInfo(bounds=((-1.0, -1.5, -0.5), (1.0, 1.0, 1.5)), has_alpha=True, camera_extent=0.7)
    return encoding, shading, Space.build(NgpConfig(space=space), info)  # type: ignore[arg-type]


def make_rays(seed: int = 4) -> tuple[Tensor, Tensor, PackedSamples]:
    """Rays through the box with 0 to 40 samples, one of them more than a whole block of the kernel."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 40, (RAYS,), generator=generator)
    counts[7], counts[20] = 0, 150
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total = int(offsets[-1])
    lengths = 0.01 + 0.03 * torch.rand(total, generator=generator)
    lengths[offsets[20] : offsets[21]] *= 0.2
    gaps = 0.01 * torch.rand(total, generator=generator)
    starts = torch.cat([(gaps + lengths)[a:b].cumsum(0) - lengths[a:b] for a, b in itertools.pairwise(offsets)])
    origins = 0.8 * torch.rand(RAYS, 3, generator=generator) - 0.4
    directions = torch.nn.functional.normalize(torch.randn(RAYS, 3, generator=generator), dim=-1)
    return origins, directions, PackedSamples(offsets, starts, starts + lengths)


def make_targets(
    view: int,
    *,
    distortion: float = 0.0,
    bend: float = 0.0,
    nearness: float = 0.0,
    scored: int | None = None,
    with_view: bool = False,
    dtype: torch.dtype,
) -> RayTargets:
    generator = torch.Generator().manual_seed(6)
    rgb, background = torch.rand(2, RAYS, 3, generator=generator)
    seen = torch.randn(RAYS, view, generator=generator).to(dtype)
    seen.requires_grad_(with_view)
    return RayTargets(rgb.to(dtype), background.to(dtype), seen, 0.2, distortion, bend, nearness, scored)


def relative(value: Tensor, reference: Tensor) -> float:
    """Largest error as a share of the largest value."""
    value, reference = value.detach().double(), reference.detach().double()
    return float((value - reference).abs().max() / reference.abs().max())


def test_encoding_matches_torch_in_double(threads: int) -> None:
    encoding, _, _ = make_model()
    positions = torch.rand(333, 3, generator=torch.Generator().manual_seed(0))
    # Corners of the cube and of cells, where a floor may go either way but the value may not.
    positions[0], positions[1], positions[2] = 0.0, 1.0, 0.25
    padded = np.zeros((3, 336), np.float32)
    padded[:, :333] = positions.T
    features = np.empty((4, 336, 4), np.float32)
    hash_grid.encode(padded, encoding.arrays, encoding.table.detach().numpy(), features)
    got = torch.from_numpy(features).permute(1, 0, 2).reshape(336, 16)[:333]
    assert relative(got, encoding(positions.double())) < 1e-5


def test_position_gradient_matches_autograd(threads: int) -> None:
    encoding, _, _ = make_model()
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(64, 3, generator=generator)
    upstream = torch.randn(64, 16, generator=generator)
    places = positions.double().requires_grad_()
    (expected,) = torch.autograd.grad((encoding(places) * upstream).sum(), places)
    got = np.empty((3, 64), np.float32)
    by_level = upstream.view(64, 4, 4).permute(1, 0, 2).contiguous().numpy()
    hash_grid.position_gradient(
        positions.T.contiguous().numpy(), encoding.arrays, encoding.table.detach().numpy(), by_level, got
    )
    assert relative(torch.from_numpy(got.T.copy()), expected) < 1e-4


def test_normals_leave_the_finest_levels_out() -> None:
    torch.manual_seed(0)
    encoding = HashGrid(levels=4, coarsest=50, finest=400, log2_rows=10)
    assert encoding.cells == (50, 100, 200, 400)
    assert encoding.smooth_levels == 3
    with torch.no_grad():
        encoding.table.normal_(0, 0.5)
    shading = Shading(encoding.width, 32, 32, 16)
    _, _, where = make_model()
    origins, directions, samples = make_rays()
    fast, slow = CpuEngine(encoding, shading, where), TorchEngine(encoding, shading, where)
    slopes = slow.density_gradients(slow.visible(samples, origins.double(), directions.double(), 0.0, 0.0))
    places = where.to_unit(samples.positions(origins, directions)).double().requires_grad_()
    (whole,) = torch.autograd.grad(shading.density(encoding(places))[1][:, 0].sum(), places)
    assert relative(fast.density_gradients(fast.visible(samples, origins, directions, 0.0, 0.0)), slopes) < 1e-4
    assert float((slopes - whole).norm()) > 0.1 * float(whole.norm())


def test_inner_box_fits_what_the_cameras_look_at() -> None:
    def build(extent: float | None, reach: float = 6.0) -> Space:
        box = ((-reach, -1.0, -1.0), (1.0, 1.0, 1.0))
        return Space.build(NgpConfig(), SceneInfo(camera_extent=2.0, bounds=box, points_extent=extent))

    halves = {extent: build(extent).box[1][0] for extent in (None, 0.5, 0.001, 9.0)}
    assert halves == pytest.approx({None: 2.0, 0.5: 0.7, 0.001: 0.2, 9.0: 2.0})
    near, far = build(0.5), build(None)
    # Steps, the near plane and the distances of the distortion loss do not depend on it.
    assert (near.step_size, near.near, near.bend) == (far.step_size, far.near, far.bend)
    # The grid reaches as far: 6 / 0.7 and 6 / 2 in powers of two.
    assert (near.levels, far.levels) == (5, 3)
    assert build(0.001, 60.0).box[1][0] * 2 ** (build(0.001, 60.0).levels - 1) >= 60.0


@pytest.mark.parametrize("space", ["box", "contract"])
def test_densities_and_choice_of_samples_match_torch(space: str) -> None:
    encoding, shading, where = make_model(space=space)
    origins, directions, samples = make_rays()
    points = samples.positions(origins, directions)
    fast, slow = CpuEngine(encoding, shading, where), TorchEngine(encoding, shading, where)
    assert relative(fast.density(points), slow.density(points.double())) < 1e-5
    got = fast.visible(samples, origins, directions, 1e-2, 1e-3)
    expected = slow.visible(samples, origins.double(), directions.double(), 1e-2, 1e-3)
    assert 0 < len(expected.samples) < len(samples)
    assert torch.equal(got.samples.offsets, expected.samples.offsets)
    assert relative(got.samples.midpoints, expected.samples.midpoints) < 1e-6
    view = make_targets(16, dtype=torch.float64).view
    assert relative(fast.colors(got, view.float()), slow.colors(expected, view)) < 1e-5
    assert relative(fast.density_gradients(got), slow.density_gradients(expected)) < 1e-4


def test_thinned_samples_stand_for_all() -> None:
    encoding, shading, where = make_model(space="contract")
    origins, directions, samples = make_rays()
    fast, slow = CpuEngine(encoding, shading, where), TorchEngine(encoding, shading, where)
    everything = fast.visible(samples, origins, directions, 1e-2, 1e-3)
    thickness = packed_sum(everything.density * everything.samples.lengths, everything.samples)
    every = everything.samples
    weights = packed_weights(everything.density, every)[0]
    sure = float(weights.quantile(0.7))
    certain = int((weights >= sure).sum())
    total, kept = torch.zeros(RAYS), []
    # Turns evenly over [0, 1): the mean over them is the expectation, to the width of a step for each sample.
    steps = 200
    for k in range(steps):
        thinning = Thinning(sure, torch.full((RAYS,), (k + 0.5) / steps))
        got = fast.visible(samples, origins, directions, 1e-2, 1e-3, thinning=thinning)
        total += packed_sum(got.density * got.samples.lengths, got.samples) / steps
        kept.append(got.count)
        if k % 20 == 0:
            expected = slow.visible(samples, origins.double(), directions.double(), 1e-2, 1e-3, thinning=thinning)
            assert torch.equal(got.samples.offsets, expected.samples.offsets)
            assert relative(got.samples.midpoints, expected.samples.midpoints) < 1e-6
            assert relative(got.samples.lengths, expected.samples.lengths) < 1e-4
            assert torch.equal(got.deepest, expected.deepest)
    assert relative(total, thickness) < 0.02
    assert certain / 2 < min(kept) <= max(kept) < everything.count


def test_rays_are_followed_until_their_light_ends() -> None:
    # Rays of 20, 0 and 3 samples of length 0.1; light ends behind an optical thickness of 1.
    offsets = np.array([0, 20, 20, 23])
    starts = 0.1 * np.arange(23, dtype=np.float32)
    for density, behind in ((2.0, []), (0.5, [0])):
        seen, depth, counts = offsets[:-1].copy(), np.zeros(3, np.float32), np.zeros(3, np.int32)
        rays, columns = np.arange(3, dtype=np.int32), np.zeros(23, np.int32)
        by_column = np.full(32, density, np.float32)
        arrays = (offsets[1:].copy(), starts, starts + np.float32(0.1), by_column, columns, seen, depth, rays, counts)
        lit = follow_rays(3, 8, np.exp(-1), *arrays)
        assert rays[:lit].tolist() == [0, 2]
        assert counts[:lit].tolist() == [8, 3]
        places = np.array([0, 8, 11])
        origins, directions = np.zeros((3, 3), np.float32), np.eye(3, dtype=np.float32)
        positions = np.full((3, 16), np.nan, np.float32)
        frame = np.array([0, 0, 0, 0.5], np.float32)
        place_samples(
            rays[:lit], places, seen, origins, directions, *arrays[1:3], frame, False, positions, columns
        )  # fmt: skip
        assert columns[[0, 7, 20, 22]].tolist() == [0, 7, 8, 10]
        np.testing.assert_allclose(positions[0, :8], 0.5 + 0.25 * (0.05 + starts[:8]), rtol=1e-6)
        np.testing.assert_allclose(positions[2, 8:11], 0.5 + 0.25 * (0.05 + starts[20:]), rtol=1e-6)
        assert np.isnan(positions[:, 11:]).all()
        lit = follow_rays(lit, 8, np.exp(-1), *arrays)
        assert rays[:lit].tolist() == behind
        assert seen.tolist() == [8, 20, 23]
        assert depth == pytest.approx([0.8 * density, 0, 0.3 * density])


def test_what_lies_behind_a_surface_is_not_encoded() -> None:
    encoding, shading, where = make_model()
    origins, directions, samples = make_rays()
    engine = CpuEngine(encoding, shading, where)
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        density = evaluate.evaluate_density
        patch.setattr(following, "evaluate_density", lambda f, s, w, d: (calls.append(len(s)), density(f, s, w, d)))
        everything = engine.visible(samples, origins, directions, 0.0, 0.0)
        assert sum(calls) == len(samples) == everything.count
        calls.clear()
        few = engine.visible(samples, origins, directions, 0.95, 0.0)
    assert few.count <= sum(calls) < 0.8 * len(samples)


@pytest.mark.parametrize("early_stop", [0.0, 0.3])
def test_rays_marched_in_stretches_see_what_rays_marched_at_once_see(early_stop: float) -> None:
    encoding, shading, where = make_model()
    origins, directions, samples = make_rays()
    engine = CpuEngine(encoding, shading, where)
    whole = engine.visible(samples, origins, directions, early_stop, 1e-3)
    expected = (whole.samples, whole.deepest, whole.density.clone(), whole.places[:, : whole.count].copy())
    asked: list[tuple[int, int]] = []

    def part(rays: Tensor, beyond: Tensor, most: int) -> PackedSamples:
        counts, starts, ends = [], [], []
        for i, begin in zip(rays.tolist(), beyond.tolist(), strict=True):
            own = slice(int(samples.offsets[i]), int(samples.offsets[i + 1]))
            later = samples.starts[own] >= begin - 1e-7
            starts.append(samples.starts[own][later][:most])
            ends.append(samples.ends[own][later][:most])
            counts.append(len(starts[-1]))
        asked.append((len(rays), most))
        offsets = torch.tensor([0, *itertools.accumulate(counts)])
        return PackedSamples(offsets, torch.cat(starts), torch.cat(ends))

    first = part(torch.arange(RAYS), torch.full((RAYS,), -1.0), engine.stretch or 0)
    asked.clear()
    got = engine.visible(first, origins, directions, early_stop, 1e-3, Further(part, 150))
    # 150 samples of a ray are 32 + 64 + 54.
    assert [most for _, most in asked] == [64, 54][: len(asked)]
    assert len(asked) == (2 if early_stop == 0 else len(asked))
    assert all(rays < RAYS for rays, _ in asked)
    assert torch.equal(got.samples.offsets, expected[0].offsets)
    assert torch.equal(got.deepest, expected[1])
    assert torch.allclose(got.density, expected[2])
    np.testing.assert_allclose(got.places[:, : got.count], expected[3], rtol=1e-6)


@pytest.mark.parametrize(
    ("view", "distortion", "bend", "nearness", "scored"),
    [(16, 0.0, 0.0, 0.0, None), (32, 0.5, 0.0, 0.0, 30), (16, 0.5, 0.8, 0.0, None), (16, 0.0, 0.8, 0.3, 1)],
)
def test_training_gradients_match_autograd_in_double(
    view: int, distortion: float, bend: float, nearness: float, scored: int | None, threads: int
) -> None:
    encoding, shading, space = make_model(view=view)
    origins, directions, samples = make_rays()
    fast, slow = CpuEngine(encoding, shading, space), TorchEngine(encoding, shading, space)
    visible = fast.visible(samples, origins, directions, 0.0, 0.0)
    assert visible.count == len(samples)

    reference = slow.visible(samples, origins.double(), directions.double(), 0.0, 0.0)
    targets = make_targets(
        view, distortion=distortion, bend=bend, nearness=nearness, scored=scored, with_view=True, dtype=torch.float64
    )
    features = encoding(reference.places).detach().requires_grad_()
    encoding_forward, slow.encoding = slow.encoding, _Fixed(features)  # type: ignore[assignment]
    loss, error = slow.losses(reference, targets, reference.places)
    slow.encoding = encoding_forward
    matrices = list(shading.named_matrices().values())
    *expected, expected_features, expected_view = torch.autograd.grad(loss, [*matrices, features, targets.view])

    weights, transposed = fast.matrices()
    gradients = np.empty((SHARES, sum(w.size for w in weights)), np.float32)
    upstream = np.empty((4, visible.count, 4), np.float32)
    view_gradient = np.zeros((RAYS, view), np.float32)
    longest = int(np.diff(visible.offsets).max())
    scratch = np.empty((threads, scratch_size(16, weights, longest)), np.float32)
    single = make_targets(view, distortion=distortion, bend=bend, dtype=torch.float32)
    counted = RAYS if scored is None else scored
    options = np.array([0.2, 1 / (3 * RAYS), distortion / RAYS, bend, nearness / RAYS, counted], np.float32)
    sums = train_rays(
        visible.features, visible.index, visible.rays, visible.offsets, visible.lengths, visible.middles,
        single.view.numpy(), single.rgb.numpy(), single.background.numpy(), options, weights, transposed, scratch,
        gradients, upstream, view_gradient,
    )  # fmt: skip
    assert sums[0] == pytest.approx(float(loss), rel=1e-5)
    assert sums[1] / (3 * counted) == pytest.approx(float(error), rel=1e-5)
    total, at = torch.from_numpy(gradients.sum(axis=0)), 0
    for weight, wanted in zip(weights, expected, strict=True):
        got = total[at : at + weight.size].view(weight.shape)[:, : wanted.shape[1]]
        assert relative(got, wanted) < 1e-4
        at += weight.size
    by_sample = torch.from_numpy(upstream).permute(1, 0, 2).reshape(-1, 16)
    assert relative(by_sample, expected_features) < 1e-4
    assert relative(torch.from_numpy(view_gradient), expected_view) < 1e-4


class _Fixed:
    """An encoding whose features are given, so that their gradient can be asked for."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __call__(self, positions: Tensor) -> Tensor:
        return self.features


def take_steps(
    engine_class: type, threads: int, dtype: torch.dtype, count: int = 3, decay: float = 0.0
) -> dict[str, Tensor]:
    """All parameters and moments after some steps."""
    cache.set_threads(threads)
    encoding, shading, space = copy.deepcopy(make_model())
    encoding, shading = encoding.to(dtype), shading.to(dtype)
    engine = engine_class(encoding, shading, space)
    adam = LazyAdam({"encoding.table": encoding.table, **shading.named_matrices()})
    origins, directions, samples = make_rays()
    for _ in range(count):
        visible = engine.visible(samples, origins.to(dtype), directions.to(dtype), 0.0, 0.0)
        result = engine.step(
            visible, make_targets(16, dtype=dtype), adam, Rates(1e-3, 1e-3, decay), with_positions=True
        )
        assert result.position_gradient is not None
    state = {f"first.{k}": v for k, v in adam.first.items()} | {f"second.{k}": v for k, v in adam.second.items()}
    return {**{k: v.detach() for k, v in adam.parameters.items()}, **state, "places": result.position_gradient}


@pytest.mark.parametrize("decay", [0.0, 30.0])
def test_steps_match_torch_and_repeat_bit_for_bit(decay: float) -> None:
    before = cache.get_threads()
    try:
        expected = take_steps(TorchEngine, 1, torch.float64, decay=decay)
        one, again, two = (take_steps(CpuEngine, n, torch.float32, decay=decay) for n in (1, 1, 2))
    finally:
        cache.set_threads(before)
    for name, value in one.items():
        # Work is shared out in the same parts for any number of threads.
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, two[name]), name
        # A few values have a gradient near 0, which Adam turns into a step of either sign.
        close = (value.double() - expected[name]).abs() <= 2e-3 * expected[name].abs().max()
        assert close.double().mean() > 0.995, name


@pytest.mark.parametrize("engine_class", [CpuEngine, TorchEngine])
def test_decay_shrinks_the_finer_half_of_what_is_touched(engine_class: type) -> None:
    """By rate x decay x value, whatever the gradient; Adam's first step is the rate in the gradient's direction."""
    encoding = make_model()[0]
    start, middle = encoding.table.detach(), int(encoding.arrays[3][len(encoding.cells) // 2])
    plain, decayed = (
        take_steps(engine_class, 1, torch.float32, count=1, decay=decay)["encoding.table"] for decay in (0.0, 50.0)
    )
    assert torch.equal(decayed[:middle], plain[:middle])
    touched = plain[middle:] != start[middle:]
    assert 0.05 < float(touched.float().mean()) < 0.95
    shrunk = (plain - decayed)[middle:]
    torch.testing.assert_close(shrunk[touched], (1e-3 * 50.0 * start[middle:])[touched], rtol=1e-3, atol=1e-7)
    assert not bool(shrunk[~touched].any())


def test_untouched_rows_keep_value_and_moments() -> None:
    after = take_steps(CpuEngine, 1, torch.float32)
    start = make_model()[0].table.detach()
    untouched = (after["second.encoding.table"] == 0).all(dim=-1)
    assert 0.05 < float(untouched.float().mean()) < 0.95
    assert torch.equal(after["encoding.table"][untouched], start[untouched])
    assert not bool((after["encoding.table"][~untouched] == start[~untouched]).all(dim=-1).any())
