"""The hash-grid field through the public contract, on a sphere whose picture, depth and normals are known."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.kernels import cache
from studio.plugin import RayBatch, SceneInfo, TrainingContext
from studio.readers import load_scene
from studio.training.loaded import open_run, photo_store
from studio.training.loop import Observer, Trainer
from studio.training.start import Prepared, TrainOptions, prepare, prepare_resume
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.corrections import centred, corrected_rays
from studio_nerf.ngp.field import NgpField
from studio_nerf.ngp.schedule import Schedule
from studio_nerf.ngp.settled import Settled

RADIUS = 0.6
SMALL: dict[str, Any] = {
    "levels": 4, "coarsest": 8, "finest": 64, "log2_rows": 13, "density_width": 32, "color_width": 32,
    "samples": 8192, "steps_across": 256, "grid_resolution": 32,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = cache.get_threads()
    cache.set_threads(1)
    yield
    cache.set_threads(before)


def sphere_camera(angle: float, height: float = 0.8, size: int = 40) -> Cameras:
    """A camera at distance 2.5 from the origin, looking at it."""
    center = torch.tensor([math.cos(angle), math.sin(angle), height])
    center = 2.5 * center / center.norm()
    forward = -center / center.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    pose = torch.eye(4)
    pose[:3] = torch.stack([right, torch.linalg.cross(forward, right), forward, center], dim=1)
    return Cameras.make(pose, width=size, height=size, fx=1.6 * size)


def psnr(image: Tensor, target: Tensor) -> float:
    return -10 * math.log10(float((image - target).square().mean()))


def sphere_seen(camera: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the sphere is hit, and there z-depth, normal and colour; the colour is a function of the normal."""
    rays = camera.rays()
    along = (rays.origins * rays.directions).sum(-1)
    square = along.square() - rays.origins.square().sum(-1) + RADIUS**2
    t = -along - square.clamp_min(0).sqrt()
    normal = rays.at(t) / RADIUS
    color = 0.5 + 0.4 * torch.sin(4 * normal + torch.tensor([0.0, 1.0, 2.0]))
    return square > 0, t * rays.depth_scale, normal, color


@pytest.fixture(scope="module")
def sphere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with alpha of the sphere from 24 sides, in Blender's format: 20 to train on, 4 to test."""
    folder = tmp_path_factory.mktemp("sphere")
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for i in range(24):
        camera = sphere_camera(2.4 * i, height=1.6 * math.sin(1.7 * i))
        hit, _, _, color = sphere_seen(camera)
        pixels = torch.cat([color, hit[..., None].float()], dim=-1).mul(255).round().to(torch.uint8)
        split = "test" if i % 6 == 0 else "train"
        Image.fromarray(pixels.numpy()).save(folder / f"photo_{i}.png")
        pose = camera.camera_to_world @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        frames[split].append({"file_path": f"photo_{i}.png", "transform_matrix": pose.tolist()})
    for split, listed in frames.items():
        document = {"camera_angle_x": 2 * math.atan(0.5 / 1.6), "frames": listed}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))
    return folder


def begin(folder: Path, output: Path, steps: int, *, observers: tuple[Observer, ...] = (), **fields: Any) -> Prepared:
    config = NgpConfig.from_dict({**SMALL, "steps": steps, **fields})
    options = TrainOptions(output=output, tensorboard=False, log_every=1, checkpoint_steps=10**9)
    return prepare("ngp", folder, config, options, observers=observers)


@pytest.fixture(scope="module")
def trained(sphere: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    before = cache.get_threads()
    cache.set_threads(1)
    prepared = begin(sphere, tmp_path_factory.mktemp("trained"), 300, lr=2e-2)
    prepared.train()
    cache.set_threads(before)
    return prepared


# ---- what is learnt --------------------------------------------------------------------------------------------------
def test_learns_colour_depth_and_normals_of_a_sphere(trained: Prepared) -> None:
    camera = sphere_camera(0.3, height=0.2, size=64)
    hit, depth, normal, color = sphere_seen(camera)
    # Away from the outline, where a pixel shows sphere and background.
    inner = -torch.nn.functional.max_pool2d(-hit.float()[None], 7, 1, 3)[0] > 0
    field = trained.loaded().field
    shown = field.render(camera, ("rgb", "depth", "opacity", "normals"), background=torch.ones(3))
    assert psnr(shown["rgb"][inner], color[inner]) > 24
    assert float(shown["opacity"][inner].mean()) > 0.98
    assert float((shown["depth"][..., 0] - depth)[inner].abs().median()) < 0.03
    angles = torch.rad2deg(torch.arccos((shown["normals"] * normal).sum(-1)[inner].clamp(-1, 1)))
    assert float(angles.median()) < 20
    # Empty space is empty, and shows the background.
    corner = shown["rgb"][:4, :4]
    assert float((corner - 1).abs().max()) < 0.02
    assert float(shown["opacity"][:4, :4].max()) < 0.02
    assert torch.equal(shown["depth"][:4, :4] == 0, shown["opacity"][:4, :4] == 0)


def test_density_and_ray_samples_agree_with_rendering(trained: Prepared) -> None:
    field = trained.loaded().field
    assert isinstance(field, NgpField)
    camera = sphere_camera(1.0, height=0.0, size=33)
    rays = camera.rays()[16, 16]
    seen = field.ray_samples(rays.origins, rays.directions)
    shown = field.render(camera, ("rgb", "depth"), background=torch.zeros(3))
    blended = (seen["weights"][:, None] * seen["rgb"]).sum(0)
    assert torch.allclose(blended, shown["rgb"][16, 16], atol=2e-3)
    assert float((seen["weights"] * seen["t"]).sum() / seen["weights"].sum()) == pytest.approx(
        float(shown["depth"][16, 16]), rel=1e-3
    )
    assert torch.allclose(field.density(rays.at(seen["t"])), seen["density"], rtol=1e-3)
    assert bool((seen["t"].diff() > 0).all())
    outside = field.density(torch.tensor([[5.0, 0.0, 0.0], [0.75, 0.0, 0.0]]))
    assert torch.equal(outside, torch.zeros(2))
    away = field.ray_samples(rays.origins, -rays.directions)
    assert len(away["t"]) == 0


def test_a_saved_run_renders_the_same(trained: Prepared) -> None:
    camera = sphere_camera(0.5)
    again = open_run(trained.run.path, device="cpu").field
    assert torch.equal(again.render(camera)["rgb"], trained.loaded().field.render(camera)["rgb"])


def test_a_copy_renders_the_same_and_trains_on(trained: Prepared) -> None:
    camera = sphere_camera(0.5)
    field = trained.loaded().field
    twin = copy.deepcopy(field)
    before = twin.render(camera)["rgb"]
    assert torch.equal(before, field.render(camera)["rgb"])
    take_step(twin)
    assert not torch.equal(before, twin.render(camera)["rgb"])
    assert torch.equal(before, field.render(camera)["rgb"])


def test_a_batch_of_cameras_keeps_its_shape(trained: Prepared) -> None:
    cameras = Cameras.stack([sphere_camera(a, size=8) for a in range(6)]).reshape(2, 3)
    shown = trained.loaded().field.render(cameras, ("opacity", "rgb"))
    assert list(shown) == ["opacity", "rgb"]
    assert shown["rgb"].shape == (2, 3, 8, 8, 3)
    assert shown["opacity"].shape == (2, 3, 8, 8, 1)
    assert torch.equal(shown["rgb"][1, 2], trained.loaded().field.render(cameras[1, 2])["rgb"])


def test_networks_are_counted_without_padding(trained: Prepared) -> None:
    parts = trained.plugin.networks()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert counts["density_network"] == 16 * 32 + 32 * 16
    assert counts["color_network"] == 32 * 32 + 32 * 32 + 32 * 3
    vertices = [(n + 1) ** 3 for n in (8, 16, 32, 64)]
    rows = [min(-(-count // 16) * 16, 2**13) for count in vertices]
    assert counts["encoding"] == 4 * sum(rows)


# ---- training through the contract -----------------------------------------------------------------------------------
def take_step(field: NgpField, *, steps: int = 1, seed: int = 0, lift: float = 0.0) -> list[float]:
    """Train on random pixels of one camera of the sphere, raised by `lift`; the losses."""
    field.setup_training(TrainingContext(total_steps=100, generator=torch.Generator().manual_seed(1)))
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        index = torch.randint(0, field.scene_info.num_train, (), generator=generator)
        camera = sphere_camera(2.4 * float(index))
        pixels = 40 * torch.rand(field.batch_request(step).count, 2, generator=generator)
        rays = camera.rays(pixels)
        hit, _, _, color = sphere_seen(camera)
        column, row = pixels.long().unbind(-1)
        batch = RayBatch(
            origins=rays.origins + torch.tensor([0.0, 0.0, lift]),
            directions=rays.directions,
            rgb=color[row, column],
            alpha=hit[row, column, None].float(),
            indices=index.expand(len(pixels)),
            pixels=pixels,
        )
        losses.append(float(field.training_step(batch, step)["loss"]))
    return losses


OPTIONS: list[dict[str, Any]] = [
    {},
    {"appearance": True, "pose_refinement": True, "distortion": 0.01},
    {"space": "contract"},
    {"random_background": False, "levels": 8},
]


@pytest.mark.parametrize("fields", OPTIONS)
def test_kernels_and_torch_take_the_same_steps(fields: dict[str, Any]) -> None:
    states = []
    for backend in ("kernels", "torch"):
        torch.manual_seed(0)
        config = NgpConfig.from_dict({**SMALL, "backend": backend, **fields})
        field = NgpField(config, SceneInfo(num_train=3, has_alpha=True, camera_extent=2.6, background=(1.0, 1.0, 1.0)))
        with torch.no_grad():
            # Far from the start, where many gradients are rounding errors, of which Adam makes steps of either sign.
            for table in (field.encoding.table, *([] if field.appearance is None else [field.appearance])):
                table.normal_(0, 0.5)
        losses = take_step(field, steps=3)
        states.append((losses, {k: v for k, v in field.state_dict().items() if v.is_floating_point() and v.numel()}))
    (fast_losses, fast), (slow_losses, slow) = states
    assert fast_losses == pytest.approx(slow_losses, rel=1e-4)
    for name, value in fast.items():
        change = (value - slow[name]).abs()
        assert float((change <= 1e-4 + 1e-2 * slow[name].abs()).float().mean()) > 0.95, name


def test_corrections_are_learnt_and_have_no_common_part() -> None:
    config = NgpConfig.from_dict({**SMALL, "samples": 2048, "appearance": True, "pose_refinement": True})
    field = NgpField(config, SceneInfo(num_train=3, has_alpha=True, camera_extent=2.6))
    take_step(field, steps=8)
    assert field.poses is not None
    assert field.appearance is not None
    assert bool((field.poses.abs().sum(dim=1) > 0).all())
    assert bool((field.appearance.abs().sum(dim=1) > 0).all())
    assert float(field.poses.mean(dim=0).abs().max()) < 1e-7


def test_pose_refinement_brings_a_shifted_camera_back(trained: Prepared) -> None:
    source = trained.loaded().field
    config = replace(source.config, pose_refinement=True, lr=0.0, lr_networks=0.0, lr_poses=3e-3)
    field = NgpField(config, SceneInfo(num_train=1, has_alpha=True, camera_extent=2.6))
    field.load_state_dict(source.state_dict(), strict=False)
    moves = []

    def uncentred(values: Tensor) -> Tensor:
        moves.append(values.detach().clone())
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("studio_nerf.ngp.field.centred", uncentred)
        take_step(field, steps=60, lift=0.08)
    # A shift sideways can also be made up for by a turn: what counts is where the optical axis passes the sphere.
    camera = sphere_camera(0.0)
    origin, direction = corrected_rays(moves[-1], camera.origins[None], camera.forward[None])
    up = -camera.camera_to_world[:3, 1]
    there = origin + 2.5 * direction + torch.tensor([0.0, 0.0, 0.08])
    before = float(torch.tensor([0.0, 0.0, 0.08]) @ up)
    assert abs(float(there[0] @ up)) < 0.4 * before


def test_corrected_rays_turn_rigidly() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    poses[0] = 0
    photos = torch.tensor([0, 1, 2, 3, 3])
    origins = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator, dtype=torch.float64), dim=-1)
    moved, turned = corrected_rays(poses[photos], origins, directions)
    assert torch.equal(moved[0], origins[0])
    assert torch.equal(turned[0], directions[0])
    for i, photo in enumerate(photos.tolist()):
        x, y, z = poses[photo, :3].tolist()
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        assert torch.allclose(turned[i], torch.linalg.matrix_exp(cross) @ directions[i], atol=1e-12)
        assert torch.allclose(moved[i], origins[i] + poses[photo, 3:])
    assert torch.autograd.gradcheck(
        lambda p: corrected_rays(p[photos], origins, directions), (poses.clone().requires_grad_(),)
    )
    assert torch.allclose(centred(poses).mean(dim=0), torch.zeros(6, dtype=torch.float64), atol=1e-15)


class StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_resume_is_exact(sphere: Path, tmp_path: Path) -> None:
    fields = {"appearance": True, "pose_refinement": True, "samples": 2048, "grid_every": 4}
    whole = begin(sphere, tmp_path / "a", 24, **fields)
    whole.train()
    halted = begin(sphere, tmp_path / "b", 24, observers=(StopAt(13),), **fields)
    assert halted.train().step == 13
    resumed = prepare_resume(halted.run.path, TrainOptions(tensorboard=False, log_every=1, device="cpu"))
    resumed.train()
    for name, value in whole.plugin.state_dict().items():
        assert torch.equal(value, resumed.plugin.state_dict()[name]), name
    losses = [[row["loss"] for row in run.run.read_metrics()] for run in (whole, resumed)]
    assert len(losses[0]) == 24
    assert losses[0] == losses[1]


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    field = NgpField(NgpConfig.from_dict(SMALL), SceneInfo(num_train=1, has_alpha=True))
    take_step(field)
    before = copy.deepcopy(field.state_dict())
    field.setup_training(TrainingContext(total_steps=10, generator=torch.Generator().manual_seed(1)))
    rays = sphere_camera(0.0).rays().reshape(-1)
    bad = RayBatch(
        rays.origins, rays.directions, torch.full((len(rays), 3), torch.nan), torch.ones(len(rays), 1),
        torch.zeros(len(rays), dtype=torch.int64), torch.zeros(len(rays), 2),
    )  # fmt: skip
    assert not math.isfinite(float(field.training_step(bad, 1)["loss"]))
    for name in ("encoding.table", "shading.density_network.weights.0"):
        assert torch.equal(before[name], field.state_dict()[name])


# ---- forward-facing and unbounded ------------------------------------------------------------------------------------
@pytest.mark.real_data
def test_ndc_learns_a_forward_facing_scene(data_dir: Path, tmp_path: Path) -> None:
    config = NgpConfig.from_dict({**NgpConfig.preset("forward").to_dict(), **SMALL, "steps": 250, "finest": 128})
    options = TrainOptions(output=tmp_path, tensorboard=False, downscale=8)
    prepared = prepare("ngp", data_dir / "fern", config, options)
    prepared.train()
    run = prepared.loaded()
    field = run.field
    assert isinstance(field, NgpField)
    store = photo_store(load_scene(data_dir / "fern"), "train", field, 8, 1.0)
    camera = store.camera(3)
    shown = field.render(camera, ("rgb", "depth", "normals", "opacity"))
    assert psnr(shown["rgb"], store.get(3).rgb) > 17
    ranges = [frame.depth_range for frame in store.frames if frame.depth_range is not None]
    nearest = min(near for near, _ in ranges)
    assert float(shown["depth"][shown["opacity"] > 0.9].min()) > 0.5 * nearest
    # Even in NDC is even in 1 / z: there the depth is the mean, at distances of the world.
    rays = camera.rays()[20, 30]
    seen = field.ray_samples(rays.origins, rays.directions)
    z = seen["t"] * rays.depth_scale
    mean = seen["weights"].sum() / (seen["weights"] / z).sum()
    assert float(mean) == pytest.approx(float(shown["depth"][20, 30]), rel=0.1)
    with pytest.raises(StudioError, match="normalised device"):
        field.density(torch.zeros(1, 3))
    with pytest.raises(StudioError, match="forward"):
        field.render(camera.with_poses(camera.camera_to_world @ torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))))
    assert torch.equal(open_run(run.path, device="cpu").field.render(camera)["rgb"], shown["rgb"])


def test_contracted_space_learns_photos_without_alpha(tiny_scene: Path, tmp_path: Path) -> None:
    prepared = begin(tiny_scene, tmp_path, 200, space="contract", lr=2e-2)
    prepared.train()
    rows = list(prepared.run.read_metrics())
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 5
    field = prepared.loaded().field
    assert isinstance(field, NgpField)
    assert field.grid.levels >= 2
    far = field.density(torch.tensor([[1e6, 0.0, 0.0]]))
    assert torch.equal(far, torch.zeros(1))


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": 6}, "levels: 6 is no multiple of 4"),
        ({"density_width": 20}, "density_width: 20 is no multiple of 16"),
        ({"finest": 8, "coarsest": 16}, "finest: 8 is coarser"),
        ({"log2_rows": 40}, "log2_rows: 40 is out of range"),
        ({"lr_decay": 0.0}, "lr_decay: 0 is out of range"),
        ({"loss_limit": math.nan}, "loss_limit: nan is out of range"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudioError, match=message):
        NgpField(NgpConfig.from_dict(fields), SceneInfo())


def test_cameras_inside_the_box_are_refused(sphere: Path) -> None:
    scene = load_scene(sphere)
    info = SceneInfo(num_train=20, bounds=((-3.0, -3.0, -3.0), (3.0, 3.0, 3.0)), has_alpha=True)
    field = NgpField(NgpConfig.from_dict(SMALL), info)
    with pytest.raises(StudioError, match="20 of 20 cameras are inside the box"):
        field.initialize(scene, photo_store(scene, "train", field, 1, 1.0), torch.Generator())


def test_a_box_without_volume_is_refused() -> None:
    info = SceneInfo(bounds=((0.0, 0.0, 0.0), (1.0, 0.0, 1.0)), has_alpha=True)
    with pytest.raises(StudioError, match="volume"):
        NgpField(NgpConfig.from_dict(SMALL), info)


def test_ndc_refuses_cameras_that_look_at_each_other(sphere: Path) -> None:
    scene = load_scene(sphere)
    field = NgpField(NgpConfig.from_dict({**SMALL, "space": "ndc"}), SceneInfo(num_train=20, has_alpha=True))
    with pytest.raises(StudioError, match="forward-facing"):
        field.initialize(scene, photo_store(scene, "train", field, 1, 1.0), torch.Generator())


def test_unknown_outputs_and_cameras_are_refused(trained: Prepared) -> None:
    field = trained.loaded().field
    with pytest.raises(StudioError, match="does not render 'heat'"):
        field.render(sphere_camera(0.0), ("heat",))
    with pytest.raises(StudioError, match="equirectangular"):
        field.render(replace(sphere_camera(0.0), model="equirectangular"))


def test_training_needs_setup() -> None:
    rays = sphere_camera(0.0, size=2).rays().reshape(-1)
    batch = RayBatch(
        rays.origins, rays.directions, torch.zeros(4, 3), torch.ones(4, 1), torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, 2),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="setup_training"):
        NgpField(NgpConfig.from_dict(SMALL), SceneInfo()).training_step(batch, 0)


def test_presets_are_those_of_the_declaration() -> None:
    from studio_nerf import NGP

    assert NGP.problems() == []
    assert set(NGP.presets) == set(NgpConfig.PRESETS)
    for name in NGP.presets:
        NgpField(replace(NgpConfig.preset(name), log2_rows=8), SceneInfo(has_alpha=True))


def test_kernel_backend_needs_a_cpu() -> None:
    field = NgpField(NgpConfig.from_dict({**SMALL, "backend": "kernels"}), SceneInfo(has_alpha=True)).to("meta")
    with pytest.raises(StudioError, match="do not run on the device 'meta'"):
        field.engine()


def test_image_values_are_used_as_stored(trained: Prepared) -> None:
    """Renders and photos agree in brightness: no hidden gamma on either side."""
    store = trained.loaded().photos("test")
    scores = trained.loaded().evaluate("test").scores
    assert len(scores) == 4
    assert np.mean([score.psnr for score in scores]) > 24
    shown = trained.loaded().field.render(store.camera(0), background=torch.ones(3))["rgb"]
    assert abs(float(shown.mean() - store.get(0).composited((1.0, 1.0, 1.0)).mean())) < 0.02


def test_what_is_not_chosen_follows_the_space() -> None:
    among, bounded = (Settled.of(NgpConfig(), contracted=contracted) for contracted in (True, False))
    assert [among.lr, among.loss_limit, among.finest, among.distortion] == [0.02, 0.3, 2048, 0.006]
    assert [bounded.lr, bounded.loss_limit, bounded.finest, bounded.distortion] == [0.01, 0.1, 1024, 0.0]
    # A choice holds in either, zero as well.
    chosen_both = NgpConfig(distortion=0.0, lr=0.5)
    for contracted in (True, False):
        settled = Settled.of(chosen_both, contracted=contracted)
        assert (settled.distortion, settled.lr) == (0.0, 0.5)
    foggy, clear = Schedule(NgpConfig(), foggy=True), Schedule(NgpConfig())
    assert (foggy.samples, clear.samples) == (40_960, 49_152)
    assert (foggy.rate_factor(10_000, 1.0), clear.rate_factor(10_000, 1.0)) == pytest.approx((0.1, 0.03))
    chosen = NgpConfig(samples=1024, lr_decay=0.5)
    assert {Schedule(chosen, foggy=fog).samples for fog in (True, False)} == {1024}
    assert Schedule(chosen, foggy=True).rate_factor(10_000, 1.0) == pytest.approx(0.5)
    # Samples are thinned among cameras only, and once there are surfaces.
    assert [foggy.sure_weight(step) for step in (0, 799, 800)] == [0.0, 0.0, 0.02]
    assert clear.sure_weight(5000) == 0.0


def test_training_begins_gently_where_it_begins_in_fog() -> None:
    config = NgpConfig(samples=65_536, grid_every=16)
    foggy, clear = Schedule(config, foggy=True, levels=3), Schedule(config)
    assert [foggy.rays(step) for step in (0, 400, 800, 5000)] == [256, 256, 256, 256]
    foggy.samples_a_ray = clear.samples_a_ray = 16.0
    assert [foggy.rays(step) for step in (0, 400, 800, 5000)] == [1024, 2048, 4096, 4096]
    assert [clear.rays(step) for step in (0, 5000)] == [4096, 4096]
    assert [foggy.distortion(step, 8.0) for step in (0, 250, 1050, 1850, 5000)] == [2.0, 2.0, 5.0, 8.0, 8.0]
    assert clear.distortion(0, 8.0) == 8.0
    assert [step for step in range(40) if foggy.updates_grid(step)] == [16, 32]
    # Once settled, every so many times more seldom as there are levels to look at.
    assert [step for step in range(960, 1060) if foggy.updates_grid(step)] == [960, 1008, 1056]
    assert [step for step in range(960, 1000) if clear.updates_grid(step)] == [960, 976, 992]


def test_fog_is_rendered_few_rays_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that has not formed yet has samples all along each ray: so many at once would take gigabytes."""
    field = NgpField(NgpConfig(**SMALL), SceneInfo(num_train=3, camera_extent=2.5)).eval()
    camera = sphere_camera(0.3, size=64)
    monkeypatch.setattr("studio_nerf.ngp.field._RENDERED_SAMPLES", 1 << 19)
    chunk = field._rays_at_once(camera)
    assert 256 <= chunk < 64 * 64
    marched: list[int] = []
    march = field.grid.march

    def counted(*args: Any, **options: Any) -> Any:
        samples = march(*args, **options)
        marched.append(len(samples))
        return samples

    monkeypatch.setattr(field.grid, "march", counted)
    drawn = field.render(camera)["rgb"]
    # The first one is of the rays that are tried.
    assert max(marched[1:]) <= 1 << 19
    monkeypatch.setattr(NgpField, "_rays_at_once", lambda self, camera: 1 << 14)
    assert torch.allclose(field.render(camera)["rgb"], drawn, atol=1e-5)
    field.grid.set_cells(torch.zeros_like(field.grid.cells))
    monkeypatch.undo()
    assert field._rays_at_once(camera) == 1 << 14, "nothing is there"
