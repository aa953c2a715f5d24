"""The fused CPU engine and the autograd engine take the same steps, make the same edits and draw the same pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from splat_scenes import draw, make_camera, make_gaussians, make_photo, ring_poses, step_options
from torch import Tensor

from studio_splat.backends import backend_status
from studio_splat.config import SplatConfig
from studio_splat.corrections import _rigid, tangent_gradient
from studio_splat.engine import Engine, Target
from studio_splat.engine_cpu import CpuEngine
from studio_splat.engine_torch import TorchEngine
from studio_splat.kernels.layout import morton_order
from studio_splat.schedule import LearningRates
from studio_splat.strategy import AdaptiveStrategy, BudgetStrategy, McmcStrategy
from studio_splat.strategy.base import keep_all

pytestmark = pytest.mark.usefixtures("one_thread")

CORRECTIONS = {"exposure": "affine", "pose_refinement": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"absgrad": False},
    "absgrad": {"absgrad": True},
    "antialiased": {"antialiased": True, "eps2d": 0.3},
    "regularised": {"opacity_reg": 2.0, "scale_reg": 2.0},
    "corrected": CORRECTIONS,
    "masked": {},
}


def make_targets(model: str, *, masked: bool = False, count: int = 3) -> list[Target]:
    """Photos with alpha of other Gaussians than those that are trained."""
    targets = []
    for i, pose in enumerate(ring_poses(count)):
        camera = make_camera(pose.float(), model=model)
        image, opacity = draw(make_gaussians(seed=9), camera)
        pixels = (torch.cat([image, opacity], dim=-1).clamp(0, 1) * 255).to(torch.uint8)
        mask = None
        if masked:
            mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
            mask[: 10 + i, 7:] = False
        targets.append(Target(make_photo(camera, pixels, mask), i, torch.tensor([0.2, 0.9, 0.5])))
    return targets


def make_engines(dtype: torch.dtype = torch.float64, **fields: Any) -> tuple[CpuEngine, TorchEngine]:
    config = SplatConfig(**fields)
    engines = CpuEngine(config, 3), TorchEngine(config, 3, "reference", dtype=dtype)
    for engine in engines:
        engine.load(make_gaussians())
    return engines


def assert_close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    """Largest difference, relative to the largest value."""
    difference = float((a.double() - b.double()).abs().max() / b.abs().max().clamp(min=1e-12))
    assert difference < tolerance, f"{what}: {difference:.2e}"


@pytest.mark.parametrize("model", ["pinhole", "orthographic"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_has_equal_loss_gradients_and_statistics(variant: str, model: str) -> None:
    fields = VARIANTS[variant]
    cpu, autograd = make_engines(**fields)
    target = make_targets(model, masked=variant == "masked")[1]
    options = step_options(opacity_reg=fields.get("opacity_reg", 0.0), scale_reg=fields.get("scale_reg", 0.0))
    figures, expected = cpu.step(target, options), autograd.step(target, options)
    for name in ("loss", "l1", "ssim", "psnr"):
        assert float(figures[name]) == pytest.approx(float(expected[name]), rel=2e-5), name
    # After one step, the first moments are a tenth of the gradients, the second a thousandth of their squares.
    state, truth = cpu.state(), autograd.state()
    for columns, what in ((slice(0, 3), "means"), (slice(3, 7), "quats"), (slice(7, 10), "scales"),
                          (slice(10, 11), "opacities"), (slice(11, 14), "sh0"), (slice(14, None), "shN")):  # fmt: skip
        assert_close(state["first"][:, columns], truth["first"][:, columns], 1e-4, what)
        assert_close(state["second"][:, columns], truth["second"][:, columns], 2e-4, what)
    assert torch.equal(state["first"].any(dim=1), truth["first"].any(dim=1)), "other Gaussians are touched"
    assert bool(truth["first"].any())
    stats, stats_truth = cpu.stats(), autograd.stats()
    assert_close(stats.grad_sum, stats_truth.grad_sum, 1e-4, "screen-space gradients")
    assert torch.equal(stats.count.double(), stats_truth.count)
    # The autograd engine knows radii in whole pixels, rounded up.
    assert bool(((stats_truth.max_radius - stats.max_radius) < 1.001 / 37).all())
    assert bool((stats.max_radius < stats_truth.max_radius + 1e-6).all())
    if variant == "corrected":
        for part in ("exposure", "poses"):
            assert_close(state[part]["adam"]["first"], truth[part]["adam"]["first"], 1e-3, part)
            assert bool(state[part]["adam"]["first"].any())


@pytest.mark.parametrize("model", ["pinhole", "orthographic"])
@pytest.mark.parametrize("variant", ["plain", "corrected", "masked", "regularised"])
def test_several_steps_stay_together(variant: str, model: str) -> None:
    fields = VARIANTS[variant]
    cpu, autograd = make_engines(**fields)
    targets = make_targets(model, masked=variant == "masked")
    options = step_options(opacity_reg=fields.get("opacity_reg", 0.0), scale_reg=fields.get("scale_reg", 0.0))
    before = cpu.parameters()
    for step in range(6):
        figures, expected = (engine.step(targets[step % 3], options) for engine in (cpu, autograd))
        assert float(figures["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
    for name, value in cpu.parameters().items():
        moved = (value - before[name]).abs().mean()
        apart = (value - autograd.parameters()[name]).abs().mean()
        # Adam turns a gradient that is lost in rounding into a whole step: all cannot agree, nearly all must.
        assert float(apart) < 0.02 * float(moved), name


def test_both_weigh_what_each_gaussian_shows() -> None:
    """The weights of all Gaussians add up to the opacity of the pictures, and the counts survive in the state."""
    engines, targets = make_engines(), make_targets("pinhole")
    rates = LearningRates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for engine in engines:
        assert engine.stats().weight is None
        for target in targets:
            engine.step(target, step_options(rates=rates, weigh=True))
    cpu, autograd = (engine.stats() for engine in engines)
    assert cpu.weight is not None
    assert autograd.weight is not None
    assert_close(cpu.weight, autograd.weight, 1e-4, "weight")
    shown = sum(
        float(engines[1].render(t.photo.camera, ("opacity",), torch.zeros(3))["opacity"].sum()) for t in targets
    )
    assert float(cpu.weight.sum()) == pytest.approx(shown, rel=1e-4)
    for stats in (cpu, autograd):
        assert stats.pairs is not None
        assert stats.weight is not None
        assert not bool(((stats.pairs == 0) & (stats.weight > 0)).any())
        assert float(stats.pairs.max()) <= stats.tiles
    other = CpuEngine(SplatConfig(), 3)
    other.load(make_gaussians())
    other.load_state(engines[0].state())
    again = other.stats()
    assert again.weight is not None
    assert torch.equal(again.weight, cpu.weight)
    assert again.tiles == cpu.tiles
    other.apply(keep_all(other.parameters()))
    assert other.stats().weight is None, "an edit starts the count anew"


def test_a_low_degree_leaves_the_higher_coefficients_alone() -> None:
    target = make_targets("pinhole")[0]
    for engine in make_engines():
        before = engine.parameters()
        engine.step(target, step_options(sh_degree=1))
        after = engine.parameters()
        assert torch.equal(before["shN"][:, 3:], after["shN"][:, 3:])
        assert not torch.equal(before["shN"][:, :3], after["shN"][:, :3])


def test_untouched_gaussians_do_not_move() -> None:
    """Neither moments nor parameters change for a Gaussian that the photo does not see, however they were before."""
    hidden = make_gaussians()
    hidden["means"][3] = torch.tensor([0.0, 0.0, 500.0])
    targets = make_targets("pinhole")
    for engine in make_engines(opacity_reg=1.0):
        engine.load(hidden)
        state = engine.state()
        state["first"][3], state["second"][3] = 0.5, 0.25
        engine.load_state(state)
        before = {name: value[3].clone() for name, value in engine.parameters().items()}
        for step in range(2):
            engine.step(targets[step], step_options(opacity_reg=1.0))
        for name, value in engine.parameters().items():
            assert torch.equal(value[3], before[name]), name
        assert engine.stats().count[3] == 0
        assert bool((engine.state()["first"][3] == 0.5).all())


def test_pose_gradient_equals_finite_differences() -> None:
    # With a wider dilation the edge of a Gaussian, where it ends, crosses a pixel within the step of the differences.
    cpu, autograd = make_engines(pose_refinement=True, eps2d=0.1)
    target = make_targets("pinhole")[2]
    for engine in (cpu, autograd):
        engine.step(target, step_options())
    found = [engine.state()["poses"]["adam"]["first"][2] * 10 for engine in (cpu, autograd)]

    def loss(step: Tensor) -> float:
        camera = target.photo.camera
        moved = _rigid(step) @ camera.world_to_camera.double()
        pose = torch.linalg.inv(moved)
        turned = make_camera(pose, model="pinhole")
        _, engine = make_engines(eps2d=0.1)
        photo = make_photo(turned, target.photo.image)
        return float(engine.step(Target(photo, 0, target.background), step_options())["loss"])

    h = 1e-5
    units = torch.eye(6, dtype=torch.float64)
    expected = torch.tensor([(loss(h * unit) - loss(-h * unit)) / (2 * h) for unit in units], dtype=torch.float64)
    assert_close(found[0], expected, 5e-3, "cpu")
    assert_close(found[1], expected, 5e-3, "autograd")


def test_tangent_gradient_by_hand() -> None:
    """L = sum of entries times known numbers, turned by a small rotation about z and shifted."""
    generator = torch.Generator().manual_seed(0)
    pose, weights = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    step = 1e-6 * torch.randn(6, generator=generator, dtype=torch.float64)
    bottom = torch.tensor([[0, 0, 0, 1.0]], dtype=torch.float64)
    moved = _rigid(step) @ torch.cat([pose, bottom])
    change = ((moved[:3] - pose) * weights).sum()
    assert float(tangent_gradient(pose, weights) @ step) == pytest.approx(float(change), rel=1e-4)


@pytest.mark.parametrize("name", ["budget", "adaptive", "mcmc"])
def test_edits_are_equal(name: str) -> None:
    cpu, autograd = make_engines(torch.float32)
    targets = make_targets("pinhole")
    for step in range(3):
        for engine in (cpu, autograd):
            engine.step(targets[step], step_options())
    assert_close(autograd.stats().grad_sum, cpu.stats().grad_sum, 1e-2, "statistics")
    strategy: Any = {
        "budget": BudgetStrategy(extent=3.0, target=80, initial=40, refine_every=1),
        "adaptive": AdaptiveStrategy(
            extent=3.0, total_steps=100, max_gaussians=70, grad_threshold=1e-4, dense_fraction=0.05, refine_every=1
        ),
        "mcmc": McmcStrategy(max_gaussians=60, refine_every=1, growth=1.3),
    }[name]
    edit = strategy.after_step(3, 0.3, cpu.parameters(), cpu.stats(), torch.Generator().manual_seed(0))
    assert edit is not None
    assert len(edit.source) > 40
    for engine in (cpu, autograd):
        engine.apply(edit)
        assert engine.count == len(edit.source)
        assert not bool(engine.stats().count.any())
    order = torch.from_numpy(morton_order(edit.params["means"].numpy()))
    for key, value in edit.params.items():
        assert torch.equal(cpu.parameters()[key], value[order]), key
        assert torch.equal(autograd.parameters()[key], value), key
    for key in ("first", "second"):
        assert_close(cpu.state()[key], autograd.state()[key][order], 1e-2, key)
        assert not bool(cpu.state()[key][edit.fresh[order]].any())
    expected = autograd.step(targets[0], step_options())
    assert float(cpu.step(targets[0], step_options())["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)


def test_an_opacity_reset_forgets_the_moments_of_opacities_only() -> None:
    target = make_targets("pinhole")[0]
    for engine in make_engines(torch.float32):
        engine.step(target, step_options())
        before = engine.state()["first"]
        strategy = AdaptiveStrategy(extent=3.0, total_steps=30_000, max_gaussians=70)
        edit = strategy.after_step(7, 0.1, engine.parameters(), engine.stats(), torch.Generator())
        assert edit is not None
        engine.apply(edit)
        assert float(engine.parameters()["opacities"].sigmoid().max()) == pytest.approx(0.01, rel=1e-5)
        after = engine.state()["first"]
        assert not bool(after[:, 10].any())
        assert torch.equal(after[:, :10], before[_order_of(engine, edit.params["means"])][:, :10])


def _order_of(engine: Engine, means: Tensor) -> Tensor:
    """Which row of `means` each of the engine's Gaussians is."""
    return torch.cdist(engine.parameters()["means"].double(), means.double()).argmin(dim=1)


@pytest.mark.parametrize("model", ["pinhole", "orthographic"])
@pytest.mark.parametrize("fields", [{}, {"antialiased": True, "eps2d": 0.3}], ids=["classic", "antialiased"])
def test_all_outputs_are_equal(model: str, fields: dict[str, Any]) -> None:
    cpu, autograd = make_engines(**fields)
    camera = make_camera(ring_poses(3)[1].float(), model=model)
    names = ("rgb", "depth", "median_depth", "opacity", "normals")
    background = torch.tensor([1.0, 0.5, 0.0])
    drawn, expected = (engine.render(camera, names, background) for engine in (cpu, autograd))
    assert list(drawn) == list(names)
    for name, tolerance in {"rgb": 2e-5, "opacity": 2e-5, "depth": 2e-5, "normals": 2e-3}.items():
        assert drawn[name].shape == expected[name].shape
        assert_close(drawn[name], expected[name], tolerance, name)
    # A transmittance of one half up to rounding may fall to either of two splats.
    differs = (drawn["median_depth"] - expected["median_depth"]).abs() > 1e-4
    assert float(differs.float().mean()) < 0.005
    assert 0.1 < float((expected["median_depth"] > 0).float().mean()) < 0.95
    lengths = drawn["normals"].norm(dim=-1)
    assert bool(((lengths - 1).abs() < 1e-5)[drawn["opacity"][..., 0] > 0.01].all())
    assert set(cpu.render(camera, ["opacity"], background)) == {"opacity"}


def test_the_state_goes_from_one_engine_to_the_other() -> None:
    """A run that was trained on the CPU goes on through autograd (and so on a GPU), and back."""
    cpu, autograd = make_engines(torch.float32, **CORRECTIONS)
    targets = make_targets("pinhole")
    for step in range(3):
        cpu.step(targets[step], step_options())
    autograd.load(cpu.parameters())
    autograd.load_state(cpu.state())
    for key in ("first", "second", "statistics"):
        assert torch.equal(cpu.state()[key], autograd.state()[key]), key
    losses = [[float(engine.step(targets[i], step_options())["loss"]) for i in range(3)] for engine in (cpu, autograd)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("fields", [{}, CORRECTIONS], ids=["plain", "corrected"])
def test_a_loss_that_is_not_finite_changes_nothing(fields: dict[str, Any]) -> None:
    target = make_targets("pinhole")[0]
    broken = Target(target.photo, 0, torch.tensor([float("nan"), 0.0, 0.0]))
    for engine in make_engines(**fields):
        before = engine.parameters()
        loss = engine.step(broken, step_options())["loss"]
        assert not torch.isfinite(torch.as_tensor(loss))
        for name, value in engine.parameters().items():
            assert torch.equal(value, before[name]), name
        assert not bool(engine.stats().grad_sum.any())
        state = engine.state()
        assert bool(state["first"].isfinite().all())
        for part in ("exposure", "poses"):
            assert state[part] is None or bool(state[part]["values"].isfinite().all())


def test_exploring_uses_the_generator_equally() -> None:
    """Both engines draw one number from the run's generator, so its stream is the same on every device."""
    states = []
    for engine in make_engines():
        generator = torch.Generator().manual_seed(4)
        engine.explore(1.0, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU")
@pytest.mark.parametrize("variant", VARIANTS)
def test_cuda_takes_the_same_steps(variant: str) -> None:
    status = backend_status("cuda")
    if not status.available:
        pytest.skip(status.reason)
    fields = VARIANTS[variant]
    cpu, cuda = CpuEngine(SplatConfig(**fields), 3), TorchEngine(SplatConfig(**fields), 3, "cuda")
    cpu.load(make_gaussians())
    cuda.load({name: value.cuda() for name, value in make_gaussians().items()})
    options = step_options(opacity_reg=fields.get("opacity_reg", 0.0), scale_reg=fields.get("scale_reg", 0.0))
    for target in make_targets("pinhole", masked=variant == "masked"):
        figures, expected = cuda.step(target, options), cpu.step(target, options)
        assert float(figures["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
    assert_close(cuda.stats().grad_sum.cpu(), cpu.stats().grad_sum, 1e-2, "statistics")
    camera, names = make_camera(ring_poses(3)[1].float()), ("rgb", "depth", "opacity", "normals")
    cuda.load({name: value.cuda() for name, value in cpu.parameters().items()})
    drawn = cuda.render(camera.to("cuda"), names, torch.zeros(3, device="cuda"))
    for name, picture in cpu.render(camera, names, torch.zeros(3)).items():
        assert_close(drawn[name].cpu(), picture, 1e-3, name)


def test_both_settle_at_the_mean_of_the_parameters_since_the_last_edit() -> None:
    engines, targets = make_engines(), make_targets("pinhole")
    for engine in engines:
        engine.step(targets[0], step_options())
        engine.average()
        # An edit changes what a row means, so the mean begins anew.
        engine.apply(keep_all(engine.parameters()))
        seen = []
        for step in range(5):
            engine.step(targets[step % 3], step_options())
            engine.average()
            seen.append(engine.parameters())
        # The mean outlives a checkpoint, in an engine of either kind, and is the one that was begun.
        fresh = make_engines()[0]
        fresh.load(engine.parameters())
        fresh.load_state(engine.state())
        for one in (engine, fresh):
            one.settle()
            for name, value in one.parameters().items():
                mean = torch.stack([params[name] for params in seen]).double().mean(dim=0)
                assert_close(value, mean, 1e-5, name)
            assert one.state()["mean"] is None
            before = one.parameters()
            one.settle()
            assert all(torch.equal(value, before[name]) for name, value in one.parameters().items())
        # Nothing but the Gaussians is drawn: what fills up the last block stays invisible.
        camera = targets[0].photo.camera
        behind = torch.zeros(3)
        drawn = [one.render(camera, ("rgb",), behind)["rgb"] for one in (engine, fresh)]
        assert_close(drawn[1], drawn[0].double(), 1e-4, "picture")
