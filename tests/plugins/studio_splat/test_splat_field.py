"""The splat field through the public contract: training, exact resume, rendering, files, copies and bad input."""

from __future__ import annotations

import copy
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from splat_scenes import draw, make_camera, make_gaussians, make_photo, ring_poses, write_splat_scene

from studio.errors import StudioError
from studio.export.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from studio.export.gaussians import GaussianCloud
from studio.export.splat_formats import read_gaussians, write_gaussians
from studio.metrics import psnr
from studio.plugin import PhotoBatch, SceneInfo, TrainingContext
from studio.readers import load_scene
from studio.training.loaded import open_run
from studio.training.loop import Observer, Trainer
from studio.training.start import TrainOptions, prepare, prepare_resume
from studio_splat.config import SplatConfig
from studio_splat.engine import PARAMETERS
from studio_splat.field import SplatField
from studio_splat.functional import rasterization

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {
    "initial": "random", "initial_count": 200, "max_gaussians": 400, "sh_degree": 2, "refine_every": 10
}  # fmt: skip


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve 32x32 photos with alpha of 40 Gaussians, a long way from the origin of the files' frame."""
    return write_splat_scene(tmp_path_factory.mktemp("splat") / "scene", make_gaussians(sh_degree=1), offset=100.0)


def make_field(**fields: Any) -> SplatField:
    config = SplatConfig(**{"sh_degree": 3, **fields})
    field = SplatField(config, SceneInfo(num_train=3, camera_extent=3.0))
    field.set_gaussians(make_gaussians(sh_degree=config.sh_degree))
    return field


def make_batch(index: int = 0, *, mask: torch.Tensor | None = None, seed: int = 9) -> PhotoBatch:
    camera = make_camera(ring_poses(3)[index].float())
    image, opacity = draw(make_gaussians(seed=seed), camera)
    pixels = (torch.cat([image, opacity], dim=-1).clamp(0, 1) * 255).to(torch.uint8)
    return PhotoBatch((make_photo(camera, pixels, mask),), (index,))


def start(field: SplatField, steps: int = 100) -> TrainingContext:
    context = TrainingContext(total_steps=steps, generator=torch.Generator().manual_seed(1))
    field.setup_training(context)
    return context


class StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def options(tmp_path: Path) -> TrainOptions:
    return TrainOptions(output=tmp_path / "runs", tensorboard=False, log_every=1)


# ---- training --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [
        {"strategy": "budget", "random_background": True, "exposure": "affine", "pose_refinement": True},
        {"strategy": "adaptive", "revised_opacity": True, "coarse_levels": 1, "max_gaussians": 5_000},
        {"strategy": "mcmc", "opacity_reg": 0.01, "scale_reg": 0.01, "refine_every": 5},
    ],
    ids=["budget", "adaptive", "mcmc"],
)
def test_resume_is_exact_across_densification(scene_folder: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    config = SplatConfig(steps=60, **{**SMALL, **fields})
    whole = prepare("splat", scene_folder, config, options(tmp_path))
    initial = whole.plugin.status()["Gaussians"]
    whole.train()
    # Step 23 lies between refinements: their statistics must survive as well.
    cut = prepare("splat", scene_folder, config, options(tmp_path), observers=[StopAt(23)])
    assert cut.train().reason == "interrupted"
    resumed = prepare_resume(cut.run.path, options(tmp_path))
    assert resumed.trainer.step == 23
    counts = [initial, resumed.plugin.status()["Gaussians"]]
    resumed.train()
    counts.append(resumed.plugin.status()["Gaussians"])
    assert len(set(counts)) == 3, "the test must cross densification before and after the interrupt"
    for name, tensor in whole.plugin.state_dict().items():
        assert torch.equal(tensor, resumed.plugin.state_dict()[name]), name
    losses = [[row["loss"] for row in run.read_metrics()] for run in (whole.run, resumed.run)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 60


@pytest.fixture(scope="module")
def trained(one_thread: None, scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = SplatConfig(steps=700, **{**SMALL, "refine_every": 25})
    prepared = prepare("splat", scene_folder, config, options(tmp_path_factory.mktemp("trained")))
    before = prepared.loaded().evaluate("test").psnr
    prepared.train()
    return prepared.loaded(), before


def test_training_recovers_the_scene(trained: Any) -> None:
    loaded, before = trained
    assert before < 15
    assert loaded.evaluate("train").psnr > 28
    assert loaded.evaluate("test").psnr > 22
    assert loaded.field.num_gaussians > 200


def test_the_run_opens_again_and_draws_the_same(trained: Any) -> None:
    loaded, _ = trained
    again = open_run(loaded.path)
    camera = loaded.scene.frames[0].camera[None]
    (a,), (b,) = list(loaded.render(camera)), list(again.render(camera))
    assert torch.equal(a["rgb"], b["rgb"])


@pytest.mark.parametrize("fields", [{}, {"antialiased": True}, {"backend": "reference"}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_training_and_evaluation_agree_on_psnr(fields: dict[str, Any], masked: bool) -> None:
    field = make_field(sh_start=0.0, **fields)
    # Colours outside [0, 1]: evaluation clamps them, as a picture file does.
    params = field.gaussians()
    field.set_gaussians({**params, "sh0": 3 * params["sh0"]})
    start(field)
    mask = None
    if masked:
        mask = torch.ones(29, 37, dtype=torch.bool)
        mask[5:20, :12] = False
    batch = make_batch(mask=mask)
    photo = batch.photos[0]
    drawn = field.render(photo.camera[None], ("rgb",))["rgb"][0]
    expected = float(psnr(drawn, photo.composited((0.0, 0.0, 0.0)), mask))
    assert float(field.training_step(batch, 0)["psnr"]) == pytest.approx(expected, abs=1e-4)
    drawn = field.render(photo.camera[None], ("rgb",))["rgb"][0]
    assert float(psnr(drawn, photo.composited((0.0, 0.0, 0.0)), mask)) > expected


def test_the_background_is_the_scene_s() -> None:
    field = SplatField(SplatConfig(), SceneInfo(num_train=3, camera_extent=3.0, background=(1.0, 1.0, 1.0)))
    field.set_gaussians(make_gaussians())
    start(field)
    batch = make_batch()
    white = torch.ones(3)
    drawn = field.render(batch.photos[0].camera[None], ("rgb",), background=white)["rgb"][0]
    expected = float(psnr(drawn, batch.photos[0].composited(white)))
    assert float(field.training_step(batch, 99)["psnr"]) == pytest.approx(expected, abs=1e-4)


def test_an_empty_mask_names_the_photo() -> None:
    field = make_field()
    start(field)
    with pytest.raises(StudioError, match=r"photo\.png: the mask leaves nothing"):
        field.training_step(make_batch(mask=torch.zeros(29, 37, dtype=torch.bool)), 0)


@pytest.mark.parametrize("strategy", ["budget", "adaptive", "mcmc"])
def test_the_cap_holds(strategy: str) -> None:
    field = make_field(strategy=strategy, max_gaussians=50, refine_every=1, refine_stop=0.9)
    start(field, steps=30)
    counts = []
    for step in range(30):
        field.training_step(make_batch(step % 3), step)
        counts.append(field.num_gaussians)
    assert max(counts) <= 50
    assert max(counts) > 40
    assert field.status() == {"Gaussians": counts[-1]}
    assert field.gaussians()["means"].shape == (counts[-1], 3)


# ---- state -----------------------------------------------------------------------------------------------------------
def run_steps(field: SplatField, first: int, last: int) -> list[float]:
    return [float(field.training_step(make_batch(step % 3), step)["loss"]) for step in range(first, last)]


def test_the_state_dict_is_that_of_the_last_step() -> None:
    field = make_field(sh_start=0.0)
    start(field)
    before = {name: value.clone() for name, value in field.state_dict().items()}
    run_steps(field, 0, 2)
    after = field.state_dict()
    assert set(after) == set(PARAMETERS)
    assert all(not torch.equal(before[name], after[name]) for name in PARAMETERS)
    engine = field.engine().parameters()
    assert all(torch.equal(engine[name], after[name]) for name in PARAMETERS)


def test_loading_a_state_dict_reaches_the_renderer() -> None:
    field, other = make_field(), make_field()
    camera = make_camera(ring_poses(3)[0].float())
    other.set_gaussians(make_gaussians(seed=5))
    assert not torch.equal(field.render(camera)["rgb"], other.render(camera)["rgb"])
    field.load_state_dict(other.state_dict())
    assert torch.equal(field.render(camera)["rgb"], other.render(camera)["rgb"])


def test_prepare_state_makes_room_for_another_count_only() -> None:
    field = make_field(sh_degree=1)
    saved = {name: value[:7].clone() for name, value in field.state_dict().items()}
    other = SplatField(SplatConfig(sh_degree=1), SceneInfo())
    other.prepare_state({name: tuple(value.shape) for name, value in saved.items()})
    other.load_state_dict(saved)
    assert other.num_gaussians == 7
    flat = SplatField(SplatConfig(sh_degree=0), SceneInfo())
    flat.prepare_state({name: tuple(value.shape) for name, value in saved.items()})
    with pytest.raises(RuntimeError, match="shN"):
        flat.load_state_dict(saved)


def test_a_copy_is_independent_and_trains_on_exactly() -> None:
    field = make_field()
    context = start(field)
    run_steps(field, 0, 3)
    twin = copy.deepcopy(field)
    state = copy.deepcopy(field.training_state())
    saved = {name: value.clone() for name, value in field.state_dict().items()}
    camera = make_camera(ring_poses(3)[1].float())
    assert torch.equal(twin.render(camera)["rgb"], field.render(camera)["rgb"])
    generator = context.generator.get_state()
    losses = run_steps(field, 3, 6)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, saved[name]), name
    start(twin).generator.set_state(generator)
    twin.load_training_state(state)
    assert run_steps(twin, 3, 6) == losses


def test_moving_devices_keeps_the_training() -> None:
    still, moved = make_field(), make_field()
    for field in (still, moved):
        start(field)
        run_steps(field, 0, 3)
    moved.to("cpu")
    assert run_steps(still, 3, 6) == run_steps(moved, 3, 6)


# ---- rendering and files ---------------------------------------------------------------------------------------------
def test_rendering_takes_any_batch_shape() -> None:
    field = make_field()
    cameras = make_camera(ring_poses(4).float())
    drawn = field.render(cameras.reshape(2, 2), ("rgb", "depth"), background=torch.tensor([1.0, 0.0, 0.0]))
    assert drawn["rgb"].shape == (2, 2, 29, 37, 3)
    assert drawn["depth"].shape == (2, 2, 29, 37, 1)
    single = field.render(cameras[3], ("rgb",), background=torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(drawn["rgb"][1, 1], single["rgb"])


def test_a_field_without_gaussians_shows_the_background() -> None:
    field = SplatField(SplatConfig(), SceneInfo())
    camera = make_camera(ring_poses(1)[0].float())
    for backend in ("auto", "reference"):
        field = SplatField(SplatConfig(backend=backend), SceneInfo())
        drawn = field.render(camera, field.output_names, background=torch.tensor([0.0, 1.0, 0.5]))
        assert torch.equal(drawn["rgb"], torch.tensor([0.0, 1.0, 0.5]).expand(29, 37, 3))
        assert not any(drawn[name].any() for name in ("depth", "median_depth", "opacity", "normals"))


def test_exports_lie_where_the_input_cameras_are(trained: Any, scene_folder: Path, tmp_path: Path) -> None:
    """The scene was normalised for training; its PLY is seen equally by the cameras as the files give them."""
    loaded, _ = trained
    scene = loaded.scene
    assert not torch.allclose(scene.scene_from_input, torch.eye(4, dtype=torch.float64))
    loaded.field.export("ply", tmp_path / "scene.ply", input_from_scene=scene.input_from_scene)
    # The camera-space clip and the camera distances are in other units in the input frame.
    again = SplatField.from_ply(tmp_path / "scene.ply", loaded.field.config)
    assert again.num_gaussians == loaded.field.num_gaussians
    raw = load_scene(scene_folder, normalize="none")
    assert float(again.gaussians()["means"][:, 0].mean()) == pytest.approx(100.0, abs=1.0)
    for ours, theirs in list(zip(scene.frames, raw.frames, strict=True))[::5]:
        assert ours.name == theirs.name
        a = loaded.field.render(ours.camera, ("rgb", "depth"))
        b = again.render(theirs.camera, ("rgb", "depth"))
        # Positions of float32 around 100 are exact to 4e-6 only, which is a thousandth of a pixel here.
        assert float((a["rgb"] - b["rgb"]).abs().mean()) < 2e-4
        assert float((a["rgb"] - b["rgb"]).abs().max()) < 2e-2
        scale = torch.linalg.det(scene.scene_from_input[:3, :3]) ** (1 / 3)
        assert float((a["depth"] - scale.float() * b["depth"]).abs().mean()) < 1e-2
    loaded.field.export("pointcloud", tmp_path / "points.ply", input_from_scene=scene.input_from_scene)
    assert (tmp_path / "points.ply").stat().st_size > 0
    with pytest.raises(StudioError, match="does not export 'obj'"):
        loaded.field.export("obj", tmp_path / "scene.obj", input_from_scene=scene.input_from_scene)


def test_a_ply_opens_as_it_was_written(tmp_path: Path) -> None:
    field = make_field(sh_degree=1)
    field.export("ply", tmp_path / "field.ply", input_from_scene=torch.eye(4))
    again = SplatField.from_ply(tmp_path / "field.ply", SplatConfig(eps2d=0.3))
    assert (again.config.sh_degree, again.config.eps2d) == (1, 0.3)
    for name, value in field.gaussians().items():
        assert torch.allclose(value, again.gaussians()[name], atol=1e-6), name
    start(again)
    assert run_steps(again, 0, 1)[0] > 0


@pytest.mark.parametrize("format", ["ply", "spz"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_other_viewers_draw_what_is_exported(tmp_path: Path, format: str, antialiased: bool) -> None:
    """The usual dilation of viewers, and the mark of the file, in the float64 reference: what a stranger sees."""
    field = make_field(sh_degree=3, antialiased=antialiased)
    # As small as pixels, where the dilation tells.
    field.set_gaussians({**field.gaussians(), "scales": field.gaussians()["scales"] - 2.0})
    write_gaussians(tmp_path / "x", field.cloud(), format)
    cloud = read_gaussians(tmp_path / "x")
    camera = make_camera(ring_poses(3)[1].float())
    drawn = rasterization(
        cloud.means.double(),
        cloud.quats.double(),
        cloud.log_scales.double().exp(),
        cloud.logit_opacities.double().sigmoid(),
        cloud.sh.double(),
        camera.world_to_camera.double()[None],
        camera.intrinsics.double()[None],
        *camera.size,
        sh_degree=3,
        eps2d=0.3,
        near_plane=0.01,
        rasterize_mode="antialiased" if cloud.antialiased else "classic",
        backend="reference",
    )[0][0]
    ours = field.render(camera, background=torch.zeros(3))["rgb"]
    assert float(psnr(drawn.float().clamp(0, 1), ours)) > (60 if format == "ply" else 40)
    # The bound tells something.
    other = SplatField.from_gaussians(cloud, SplatConfig(eps2d=0.1, antialiased=antialiased))
    assert float(psnr(other.render(camera, background=torch.zeros(3))["rgb"], ours)) < 40


def make_cloud(**changes: torch.Tensor) -> GaussianCloud:
    params = make_gaussians(4, sh_degree=0)
    values = {
        "means": params["means"],
        "quats": params["quats"],
        "log_scales": params["scales"],
        "logit_opacities": params["opacities"],
        "sh": params["sh0"],
    }
    return GaussianCloud(**{**values, **changes})


def test_a_ply_with_infinite_logits_opens(tmp_path: Path) -> None:
    """Programs write an opacity of exactly 1 or 0 as an infinite logit, and a scale of 0 as an infinite log."""
    logits = torch.tensor([float("inf"), float("-inf"), 0.0, 1.0])
    scales = make_gaussians(4)["scales"]
    scales[2, 1] = float("-inf")
    write_gaussian_ply(tmp_path / "exact.ply", make_cloud(logit_opacities=logits, log_scales=scales))
    field = SplatField.from_ply(tmp_path / "exact.ply")
    opacity = field.gaussians()["opacities"].sigmoid()
    assert opacity[0] == 1
    assert opacity[1] < 1e-10
    drawn = field.render(make_camera(ring_poses(1)[0].float()))["rgb"]
    assert bool(drawn.isfinite().all())


def test_a_ply_of_degree_4_is_refused(tmp_path: Path) -> None:
    write_gaussian_ply(tmp_path / "high.ply", make_cloud(sh=torch.zeros(4, 25, 3)))
    assert read_gaussian_ply(tmp_path / "high.ply").sh_degree == 4
    with pytest.raises(StudioError, match=r"high\.ply: .*degree 4"):
        SplatField.from_ply(tmp_path / "high.ply")


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sh_degree": 4}, "sh_degree: 4"),
        ({"sh_degree": -1}, "sh_degree: -1"),
        ({"max_gaussians": 0}, "max_gaussians: 0"),
        ({"initial_count": 0}, "initial_count: 0"),
        ({"initial_opacity": 1.0}, "initial_opacity: 1"),
        ({"ssim_weight": 1.5}, "ssim_weight: 1.5"),
        ({"smooth_l1": -0.1}, "smooth_l1: -0.1"),
        ({"smooth_l1": math.inf}, "smooth_l1: inf"),
        ({"near": 0.0}, "near: 0"),
        ({"eps2d": -0.1}, "eps2d: -0.1"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudioError, match=message):
        SplatField(SplatConfig(**fields), SceneInfo())


def test_unknown_outputs_and_cameras_are_refused() -> None:
    field = make_field()
    camera = make_camera(ring_poses(1)[0].float())
    with pytest.raises(StudioError, match="does not render 'albedo'"):
        field.render(camera, ("rgb", "albedo"))
    with pytest.raises(StudioError, match="model 'equirectangular'"):
        field.render(make_camera(ring_poses(1)[0].float(), model="equirectangular"))


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    params = make_gaussians()
    params[name].view(40, -1)[17, 0] = value
    field = make_field()
    before = field.gaussians()["means"].clone()
    with pytest.raises(StudioError, match=rf"{name}\[17\] is NaN or infinite \(1 of 40"):
        field.set_gaussians(params)
    assert torch.equal(field.gaussians()["means"], before)


def test_zero_quaternions_and_wrong_shapes_are_refused() -> None:
    params = make_gaussians()
    params["quats"][3] = 0
    with pytest.raises(StudioError, match=r"quats\[3\] is zero"):
        make_field().set_gaussians(params)
    with pytest.raises(ValueError, match=r"scales must have shape \(40, 3\), got \(39, 3\)"):
        make_field().set_gaussians({**make_gaussians(), "scales": torch.zeros(39, 3)})
    with pytest.raises(ValueError, match="'shN' is missing"):
        make_field().set_gaussians({name: value for name, value in make_gaussians().items() if name != "shN"})


def test_more_gaussians_than_memory_are_refused(scene_folder: Path, tmp_path: Path) -> None:
    config = SplatConfig(**{**SMALL, "max_gaussians": 2 * 10**9})
    with pytest.raises(StudioError, match=r"max_gaussians: training 2,000,000,000 .* needs about .* TiB .* free"):
        prepare("splat", scene_folder, config, options(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_an_engine_refuses_more_gaussians_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it allocates anything: the parameters here are views of single numbers."""
    count = 10**9
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    params = {name: torch.zeros(1, *(1 for _ in shape)).expand(count, *shape) for name, shape in shapes.items()}
    for backend in ("cpu", "reference"):
        field = SplatField(SplatConfig(backend=backend), SceneInfo())
        for name, value in params.items():
            setattr(field, name, torch.nn.Parameter(value, requires_grad=False))
        with pytest.raises(StudioError, match=r"Drawing 1,000,000,000 Gaussians needs about .* GiB"):
            field.engine()


def test_a_backend_that_does_not_fit_the_device_is_refused() -> None:
    field = make_field(backend="cuda")
    with pytest.raises(StudioError, match="cuda"):
        field.render(make_camera(ring_poses(1)[0].float()))
