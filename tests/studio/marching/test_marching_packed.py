"""Packed volume rendering: equal to the dense one, gradients of the kernels against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from studio.kernels import cache
from studio.marching import (
    PackedSamples,
    composite,
    distortion_loss,
    expected_depth,
    median_depth,
    midpoints,
    opacity,
    packed_composite,
    packed_distortion_loss,
    packed_expected_depth,
    packed_median_depth,
    packed_opacity,
    packed_render,
    packed_sum,
    packed_weights,
    visible,
    weights_from_density,
)

F8 = torch.float64


def _ragged(dtype: torch.dtype = torch.float32, seed: int = 0, rays: int = 40) -> PackedSamples:
    """Rays with 0 to 19 samples, with gaps between some."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 20, (rays,), generator=g)
    counts[[0, 7, rays - 1]] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    starts, ends = [], []
    for count in counts.tolist():
        cuts = 2 + 3 * torch.rand(2 * count, generator=g, dtype=F8).sort().values
        cuts[2::4] = cuts[1::4][: len(cuts[2::4])]  # some intervals touch, some leave a gap
        starts.append(cuts[::2])
        ends.append(cuts[1::2])
    return PackedSamples(offsets, torch.cat(starts).to(dtype), torch.cat(ends).to(dtype))


def _rows(samples: PackedSamples) -> Iterator[tuple[int, slice]]:
    for ray, (a, b) in enumerate(zip(samples.offsets[:-1].tolist(), samples.offsets[1:].tolist(), strict=True)):
        yield ray, slice(a, b)


def _inputs(samples: PackedSamples, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    density = 8 * torch.rand(len(samples), generator=g, dtype=F8)
    values = torch.randn(len(samples), 3, generator=g, dtype=F8)
    return density.to(samples.starts.dtype), values.to(samples.starts.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F8])
def test_packed_equals_dense(dtype: torch.dtype) -> None:
    samples = _ragged(dtype)
    density, values = _inputs(samples)
    weights, transmittance = packed_weights(density, samples)
    blended = packed_composite(weights, values, samples, torch.tensor([0.1, 0.2, 0.3], dtype=dtype))
    found = (
        packed_opacity(weights, samples),
        packed_expected_depth(weights, samples),
        packed_median_depth(weights, samples),
        packed_distortion_loss(weights, samples),
    )
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for ray, row in _rows(samples):
        if row.start == row.stop:
            assert [float(x[ray]) for x in found] == [0.0] * 4
            assert torch.allclose(blended[ray], blended.new_tensor([0.1, 0.2, 0.3]))
            continue
        # A gap is an interval without density, so the dense functions can be told of it.
        starts, ends = samples.starts[row].double(), samples.ends[row].double()
        edges = torch.stack([starts, ends], -1).flatten()
        dense_density = torch.stack([density[row].double(), torch.zeros_like(starts)], -1).flatten()[:-1]
        w = weights_from_density(dense_density, edges)
        colour = torch.stack([values[row].double(), torch.zeros_like(values[row]).double()], 1).flatten(0, 1)[:-1]
        assert torch.allclose(weights[row].double(), w[::2], **tolerance)
        assert torch.allclose(
            blended[ray].double(), composite(w, colour, torch.tensor([0.1, 0.2, 0.3], dtype=F8)), **tolerance
        )
        expected = (
            opacity(w),
            expected_depth(w, midpoints(edges)),
            median_depth(w, edges),
            distortion_loss(w, edges),
        )
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a[ray].double(), b, **tolerance)
        before = 1 - w[::2].cumsum(0) + w[::2]
        assert torch.allclose(transmittance[row].double(), before, **tolerance)


def _everything(density: Tensor, values: Tensor, samples: PackedSamples) -> tuple[Tensor, ...]:
    weights, transmittance = packed_weights(density, samples)
    return (
        packed_composite(weights, values, samples),
        packed_sum(values * transmittance[:, None], samples),
        packed_opacity(weights, samples),
        packed_expected_depth(weights, samples),
        packed_distortion_loss(weights, samples),
        weights,
        transmittance,
    )


def _rendered(density: Tensor, values: Tensor, samples: PackedSamples) -> tuple[Tensor, ...]:
    out = packed_render(density, values, samples, density.new_tensor([0.3, 0.5, 0.9]))
    return out.values, out.opacity, out.expected_depth, out.weights


@pytest.mark.parametrize("function", [_everything, _rendered])
def test_torch_gradients_match_finite_differences(function: Callable[..., tuple[Tensor, ...]]) -> None:
    samples = _ragged(F8, rays=9)
    density, values = (x.requires_grad_() for x in _inputs(samples))
    starts, ends = samples.starts.requires_grad_(), samples.ends.requires_grad_()
    torch.autograd.gradcheck(
        lambda d, v, s, e: function(d, v, PackedSamples(samples.offsets, s, e)),
        (density, values, starts, ends),
        fast_mode=True,
    )


@pytest.mark.parametrize("function", [_everything, _rendered])
def test_kernel_values_and_gradients_match_float64(function: Callable[..., tuple[Tensor, ...]]) -> None:
    single, double = _ragged(), _ragged()
    double = PackedSamples(double.offsets, double.starts.double(), double.ends.double())
    density, values = _inputs(single)
    g = torch.Generator().manual_seed(5)
    for sample_set in range(2):
        if sample_set == 1:
            density = density * torch.randint(0, 2, density.shape, generator=g) * 1e4  # opaque and empty samples
        a = [x.clone().requires_grad_() for x in (density, values)]
        b = [x.double().requires_grad_() for x in (density, values)]
        out, reference = function(*a, single), function(*b, double)
        gains = [torch.randn(x.shape, generator=g) for x in out]
        for x, y in zip(out, reference, strict=True):
            assert x.dtype == torch.float32
            assert torch.allclose(x.double(), y, rtol=2e-6, atol=2e-6)
        found = torch.autograd.grad(sum((x * w).sum() for x, w in zip(out, gains, strict=True)), a)
        wanted = torch.autograd.grad(sum((x * w.double()).sum() for x, w in zip(reference, gains, strict=True)), b)
        for x, y in zip(found, wanted, strict=True):
            assert torch.allclose(x.double(), y, rtol=1e-5, atol=1e-5 * float(y.abs().max()))


def test_each_output_alone_has_its_gradient() -> None:
    samples = _ragged()
    for index in range(4):
        density, values = (x.requires_grad_() for x in _inputs(samples))
        _rendered(density, values, samples)[index].sum().backward()
        d64, v64 = (x.detach().double().requires_grad_() for x in (density, values))
        wide = PackedSamples(samples.offsets, samples.starts.double(), samples.ends.double())
        _rendered(d64, v64, wide)[index].sum().backward()
        assert density.grad is not None
        assert d64.grad is not None
        assert torch.allclose(density.grad.double(), d64.grad, rtol=1e-5, atol=1e-5)


def test_number_of_threads_does_not_matter() -> None:
    samples = _ragged(rays=500)
    density, values = _inputs(samples)
    results = []
    before = cache.get_threads()
    try:
        for threads in (1, 2, 3):
            cache.set_threads(threads)
            d, v = density.clone().requires_grad_(), values.clone().requires_grad_()
            out = (*_everything(d, v, samples), *_rendered(d, v, samples))
            grads = torch.autograd.grad(sum(x.sum() for x in out), (d, v))
            results.append([*(x.detach() for x in out), *grads])
    finally:
        cache.set_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_weights_changed_in_place_are_noticed() -> None:
    samples = _ragged()
    density, _ = _inputs(samples)
    density.requires_grad_()
    weights, _ = packed_weights(density, samples)
    with torch.no_grad():
        weights.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        weights.sum().backward()


def test_no_samples_at_all() -> None:
    samples = PackedSamples(torch.zeros(4, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    density, values = torch.zeros(0, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    out = packed_render(density, values, samples, torch.tensor([1.0, 0.5, 0.0]))
    assert out.values.tolist() == [[1.0, 0.5, 0.0]] * 3
    assert out.opacity.tolist() == out.expected_depth.tolist() == [0.0] * 3
    assert packed_median_depth(out.weights, samples).tolist() == [0.0] * 3
    (out.values.sum() + packed_distortion_loss(out.weights, samples).sum()).backward()
    empty = PackedSamples(torch.zeros(1, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    assert packed_render(density, values, empty).values.shape == (0, 3)


def test_a_ray_is_summed_by_itself_whatever_the_others_hold() -> None:
    # A float32 running sum over all rays would leave the second ray no digits.
    samples = PackedSamples(torch.tensor([0, 1, 3]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 2.0]))
    density = torch.tensor([1e12, 0.25, 0.5])
    expected = torch.tensor([1.0, 1.0, 0.7788008])
    assert torch.allclose(packed_weights(density, samples)[1], expected)
    wide = PackedSamples(samples.offsets, samples.starts.double(), samples.ends.double())
    assert torch.allclose(packed_weights(density.double(), wide)[1].float(), expected)


def test_samples_know_their_rays() -> None:
    samples = PackedSamples(torch.tensor([0, 2, 2, 3]), torch.tensor([1.0, 2, 5]), torch.tensor([2.0, 4, 6]))
    origins, directions = torch.eye(3), torch.eye(3).roll(1, 0)
    assert samples.ray_index.tolist() == [0, 0, 2]
    assert samples.counts.tolist() == [2, 0, 1]
    assert samples.midpoints.tolist() == [1.5, 3.0, 5.5]
    assert samples.lengths.tolist() == [1.0, 2.0, 1.0]
    assert samples.positions(origins, directions)[1].tolist() == [1.0, 0.0, 3.0]
    assert samples.directions(directions)[2].tolist() == directions[2].tolist()
    kept = samples.keep(torch.tensor([False, True, True]))
    assert kept.offsets.tolist() == [0, 1, 1, 2]
    assert kept.starts.tolist() == [2.0, 5.0]
    assert kept.ends.tolist() == [4.0, 6.0]
    assert visible(torch.tensor([1.0, 1e-4, 0.9e-4])).tolist() == [True, True, False]


def test_wrong_shapes_are_named() -> None:
    samples = _ragged()
    with pytest.raises(ValueError, match="density: expected shape"):
        packed_weights(torch.zeros(3), samples)
    with pytest.raises(ValueError, match="values: expected shape"):
        packed_composite(torch.zeros(len(samples)), torch.zeros(3, 3), samples)
    for offsets in ([0, 2], [1, 3], [0, 4, 3]):
        with pytest.raises(ValueError, match="offsets: expected to rise from 0 to 3"):
            PackedSamples(torch.tensor(offsets), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="offsets: expected int64"):
        PackedSamples(torch.zeros(2), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="ends: expected shape"):
        PackedSamples(torch.tensor([0, 3]), torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="mask: expected shape"):
        samples.keep(torch.ones(3, dtype=torch.bool))
