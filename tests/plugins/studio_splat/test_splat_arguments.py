"""Bad arguments of `rasterization`: every message names the argument, what was wrong with it, and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.devices.host_memory import Memory, linux_memory
from studio.errors import StudioError
from studio_splat import memory, rasterization

MakeScene = Callable[..., dict[str, Any]]


def call(scene: dict[str, Any], **changes: Any) -> None:
    rasterization(**{"backend": "reference", **scene, **changes})


@pytest.mark.parametrize(
    ("argument", "shape", "expected"),
    [
        ("means", (40, 2), r"means must have shape \(\.\.\., N, 3\), got \(40, 2\)"),
        ("quats", (40, 3), r"quats must have shape \(40, 4\), got \(40, 3\)"),
        ("scales", (39, 3), r"scales must have shape \(40, 3\), got \(39, 3\)"),
        ("opacities", (40, 1), r"opacities must have shape \(40,\), got \(40, 1\)"),
        ("colors", (39, 3), r"colors without sh_degree must have shape \(40, D\) or.*\(2, 40, D\), got \(39, 3\)"),
        ("colors", (40, 0), "colors must have at least one channel"),
        ("viewmats", (4, 4), r"viewmats must have shape \(C, 4, 4\), got \(4, 4\)"),
        ("viewmats", (2, 3, 4), r"viewmats must have shape \(2, 4, 4\), got \(2, 3, 4\)"),
        ("viewmats", (0, 4, 4), "viewmats must hold at least one camera"),
        ("Ks", (1, 3, 3), r"Ks must have shape \(2, 3, 3\), got \(1, 3, 3\)"),
        ("backgrounds", (3,), r"backgrounds must have shape \(2, 3\), got \(3,\)"),
        ("backgrounds", (2, 4), r"backgrounds must have shape \(2, 3\), got \(2, 4\)"),
        ("covars", (40, 6), r"covars must have shape \(40, 3, 3\), got \(40, 6\)"),
    ],
)
def test_wrong_shapes(make_scene: MakeScene, argument: str, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call(make_scene(cameras=2), **{argument: torch.zeros(shape, dtype=torch.float64)})


def test_wrong_coefficients(make_scene: MakeScene) -> None:
    scene = make_scene(sh_degree=2)
    with pytest.raises(ValueError, match=r"colors with sh_degree=2 must have shape \(40, K, 3\)"):
        call(scene, colors=torch.zeros(40, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"colors must hold at least K=16 coefficients for sh_degree=3, got 9"):
        call(scene, sh_degree=3)
    with pytest.raises(ValueError, match="sh_degree must be None or 0 to 4, got 5"):
        call(scene, sh_degree=5)


def test_wrong_types_and_dtypes(make_scene: MakeScene) -> None:
    scene = make_scene()
    with pytest.raises(TypeError, match=r"quats must be a tensor of shape .* got ndarray"):
        call(scene, quats=scene["quats"].numpy())
    with pytest.raises(TypeError, match=r"scales must be a tensor of shape \(40, 3\), got NoneType"):
        call(scene, scales=None)
    with pytest.raises(TypeError, match=r"Ks must have the dtype of means, torch.float64, got torch.float32"):
        call(scene, Ks=scene["Ks"].float())
    with pytest.raises(TypeError, match=r"means must have a floating dtype, got torch\.int64"):
        call(scene, means=scene["means"].long())
    with pytest.raises(TypeError, match=r"backend 'cpu' takes float32, got means of torch.float64.*reference"):
        call(scene, backend="cpu")
    with pytest.raises(ValueError, match="backgrounds must be on the device of means, cpu, got meta"):
        call(scene, backgrounds=torch.zeros(1, 3, dtype=torch.float64, device="meta"))


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("width", 0, "width must be a whole number of pixels"),
        ("height", 2.5, "height must be a whole number of pixels, at least 1, got 2.5"),
        ("render_mode", "rgb", "render_mode must be one of RGB, D, ED, RGB\\+D, RGB\\+ED, got 'rgb'"),
        ("rasterize_mode", "aa", "rasterize_mode must be one of classic, antialiased"),
        ("camera_model", "fish", "camera_model must be one of pinhole"),
        ("near_plane", 0.0, "near_plane must be above 0"),
        ("near_plane", float("nan"), "near_plane must be above 0"),
        ("far_plane", 0.001, "near_plane must be below far_plane"),
        ("eps2d", -0.1, "eps2d must be finite and not negative"),
        ("radius_clip", float("nan"), "radius_clip must be finite"),
        ("tile_size", 0, "tile_size must be a whole number"),
        ("channel_chunk", 0, "channel_chunk must be a whole number"),
        ("backend", "gpu", "backend must be one of reference, cpu, cuda"),
    ],
)
def test_wrong_options(make_scene: MakeScene, argument: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call(make_scene(), **{argument: value})


@pytest.mark.parametrize(
    ("argument", "index", "value", "expected"),
    [
        ("means", (3, 1), float("nan"), r"means\[3, 1\] is NaN or infinite \(1 of 120 are\)"),
        ("scales", (5, 0), float("inf"), r"scales\[5, 0\] is NaN or infinite"),
        ("colors", (39, 2), float("-inf"), r"colors\[39, 2\] is NaN or infinite"),
        ("backgrounds", (0, 0), float("nan"), r"backgrounds\[0, 0\] is NaN"),
        ("quats", (7,), 0.0, r"quats\[7\] is a zero quaternion"),
        ("scales", (2, 2), -0.1, r"scales\[2, 2\] is negative.*log"),
        ("opacities", (4,), 1.5, r"opacities\[4\] is outside \[0, 1\].*sigmoid"),
        ("opacities", (4,), -0.1, r"opacities\[4\] is outside"),
        ("viewmats", (0, 2, slice(0, 3)), 0.0, r"viewmats\[0\] is singular"),
        ("viewmats", (0, 3, 0), 1.0, r"viewmats\[0\] does not end in the row \(0, 0, 0, 1\)"),
        ("Ks", (0, 0, 0), 0.0, r"Ks\[0\] has a focal length that is not positive"),
    ],
)
def test_bad_numbers(make_scene: MakeScene, argument: str, index: tuple[Any, ...], value: float, expected: str) -> None:
    scene = make_scene()
    scene[argument][index] = value
    with pytest.raises(StudioError, match=expected):
        call(scene)


def test_numbers_are_not_looked_at_when_told_so(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene["opacities"][0] = float("nan")
    rasterization(**scene, backend="reference", check=False)


def test_finite_numbers_whose_sum_overflows_are_fine(make_scene: MakeScene) -> None:
    scene = make_scene(dtype=torch.float32)
    scene["means"][:3] = torch.finfo(torch.float32).max
    call(scene)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("distributed", True),
        ("with_ut", True),
        ("with_eval3d", True),
        ("radial_coeffs", torch.zeros(1, 6)),
        ("tangential_coeffs", torch.zeros(1, 2)),
        ("thin_prism_coeffs", torch.zeros(1, 4)),
        ("ftheta_coeffs", object()),
        ("rolling_shutter", 2),
        ("viewmats_rs", torch.eye(4)[None]),
        ("camera_model", "ftheta"),
    ],
)
def test_what_only_gsplat_can_do_is_refused_by_name(make_scene: MakeScene, argument: str, value: Any) -> None:
    with pytest.raises(StudioError, match=f"the backend 'reference' has no {argument}.*backend='cuda'"):
        call(make_scene(), **{argument: value})


def test_sparse_gradients_of_batches_are_refused(make_scene: MakeScene) -> None:
    scene = {k: v[None] if isinstance(v, torch.Tensor) else v for k, v in make_scene().items()}
    with pytest.raises(ValueError, match="sparse_grad takes no batch dimensions"):
        call(scene, sparse_grad=True)


def test_more_gaussians_than_memory_are_refused_before_anything_is_allocated(make_scene: MakeScene) -> None:
    """The arrays are views of one row, so that the test itself needs no memory."""
    n = 10**12
    scene = make_scene(1)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name] = scene[name].expand(n, *scene[name].shape[1:])
    with pytest.raises(StudioError, match=r"Rendering 1,000,000,000,000 Gaussians needs about .* GiB"):
        call(scene)


def test_images_larger_than_memory_are_refused(make_scene: MakeScene) -> None:
    with pytest.raises(StudioError, match=r"1 images of 10000000 x 10000000 pixels with 3 channels needs about"):
        call(make_scene(), width=10**7, height=10**7)


@pytest.fixture
def one_gib_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: Memory(total=8 << 30, free=1 << 30))


def test_memory_check_compares_with_what_is_free(one_gib_free: None) -> None:
    memory.require_memory("Work", 1 << 30, torch.device("cpu"), fix="Work less.")
    with pytest.raises(StudioError, match=r"Work needs about 2\.0 GiB of memory on 'cpu', where 1\.0 GiB are free"):
        memory.require_memory("Work", 2 << 30, torch.device("cpu"), fix="Work less.")
    memory.require_memory("Work", 2 << 30, torch.device("meta"), fix="Work less.")


def test_memory_of_a_container_is_what_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A control group's limit binds before the machine's own memory runs out."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {64 << 20} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    group = tmp_path / "sys/fs/cgroup/box"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{2 << 30}\n")
    (group / "memory.current").write_text(f"{1 << 30}\n")
    monkeypatch.setattr(memory, "host_memory", lambda: linux_memory(tmp_path))
    memory.require_memory("Work", 1 << 29, torch.device("cpu"), fix="Work less.")
    with pytest.raises(StudioError, match="Work"):
        memory.require_memory("Work", 3 << 29, torch.device("cpu"), fix="Work less.")
