"""The compiled kernels, and gsplat where there is a GPU, against the float64 reference: images, every gradient.

Alpha is cut off at 1/255, clamped at 0.999, and a ray ends at a transmittance of 1e-4: at a pixel where the float64
value lies within float32 rounding of one of these, both answers are right and they differ by up to 1/255. Such pixels
are found with the reference alone and left out of image and loss; a test fails if they are more than a few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.devices.host_memory import Memory
from studio.errors import StudioError
from studio.kernels import cache
from studio_splat import memory, rasterization, reference
from studio_splat.backends import backend_status

Scene = dict[str, Any]
MakeScene = Callable[..., Scene]
LEAVES = ("means", "quats", "scales", "opacities", "colors", "backgrounds", "viewmats")

# Of the largest entry. gsplat computes with fast approximations of exp and log.
# On a CPU, u = sqrt(-A) column + s of an exponent L - u² is rounded as s is: for a needle of 0.55 pixels' standard
# deviation (eps2d 0.3) |s| reaches 16, so u is off by 1e-6 and, where alpha is still large (u < 2), alpha by 6e-6.
IMAGE_TOLERANCE = {"cpu": 8e-6, "cuda": 1e-4}
GRADIENT_TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}


def to64(scene: Scene) -> Scene:
    return {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in scene.items()}


@torch.no_grad()
def clear_pixels(scene: Scene, margin: float = 2e-5, **options: Any) -> torch.Tensor:
    """(C, H, W, 1) mask of the pixels whose float64 rays stay away from every threshold."""
    scene = to64(scene)
    width, height = scene["width"], scene["height"]
    _, _, meta = rasterization(**scene, **options, backend="reference")
    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    pixels = torch.stack([xs, ys], -1).reshape(-1, 2)
    masks = []
    for camera in range(len(scene["viewmats"])):
        rows = meta["camera_ids"] == camera
        order = meta["depths"][rows].argsort(stable=True)
        means2d, conics, opacities = (meta[name][rows][order] for name in ("means2d", "conics", "opacities"))
        offset = means2d - pixels[:, None]
        dx, dy = offset.unbind(-1)
        a, b, c = conics.unbind(-1)
        raw = opacities * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        alphas = reference.splat_alphas(pixels, means2d, conics, opacities)
        light = torch.cumprod(1 - alphas, dim=1)
        on_an_edge = (
            ((raw * 255 - 1).abs() < margin)
            | ((raw / 0.999 - 1).abs() < margin)
            | ((light / 1e-4 - 1).abs() < 100 * margin)
        )
        masks.append(~on_an_edge.any(1).reshape(height, width, 1))
    return torch.stack(masks)


def render_and_differentiate(scene: Scene, mask: torch.Tensor, backend: str, **options: Any) -> dict[str, torch.Tensor]:
    """Image, alpha, and gradients of a fixed random function of both."""
    device = "cuda" if backend == "cuda" else "cpu"
    scene = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in scene.items()}
    mask = mask.to(device)
    leaves = {name: scene[name].clone().requires_grad_() for name in LEAVES if scene.get(name) is not None}
    image, alpha, meta = rasterization(**{**scene, **leaves}, **options, backend=backend, absgrad=True)
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in (image, alpha)]
    keep = mask.to(image.dtype)
    ((image * weights[0] * keep).sum() + (alpha * weights[1] * keep).sum()).backward()
    found = {"image": image.detach() * keep, "alpha": alpha.detach() * keep}
    for name, leaf in leaves.items():
        found[f"d/d {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    found["absgrad"] = meta["means2d"].absgrad
    for name in ("means2d", "radii", "depths", "conics", "opacities", "gaussian_ids", "camera_ids"):
        found[name] = meta[name].detach()
    return {name: value.cpu() for name, value in found.items()}


def assert_parity(scene: Scene, backend: str = "cpu", clear: float = 0.97, **options: Any) -> None:
    mask = clear_pixels(scene, 2e-5 if backend == "cpu" else 2e-4, **options)
    assert mask.double().mean() > (clear if backend == "cpu" else 0.8)
    expected = render_and_differentiate(to64(scene), mask, "reference", **options)
    got = render_and_differentiate(scene, mask, backend, **options)
    if backend == "cpu":
        assert torch.equal(got["gaussian_ids"], expected["gaussian_ids"])
        assert torch.equal(got["camera_ids"], expected["camera_ids"])
    for name in ("image", "alpha"):
        limit = IMAGE_TOLERANCE[backend] * max(1.0, expected[name].abs().max().item())
        error = (got[name] - expected[name]).abs()
        if name == "image" and options.get("render_mode", "").endswith("ED"):
            # The last channel was divided by alpha, and with it the rounding of what is divided.
            error[..., -1:] *= expected["alpha"]
        assert error.max().item() <= limit, f"{name}: {error.max().item():.2e} > {limit:.2e}"
    for name, value in expected.items():
        if not (name.startswith("d/d") or name == "absgrad") or value.numel() == 0:
            continue
        limit = GRADIENT_TOLERANCE[backend] * value.abs().max().item()
        error = (got[name] - value).abs()
        if name == "d/d viewmats":
            # gsplat also differentiates the last row, which is constant.
            error = error[:, :3]
        assert error.max().item() <= limit, f"{name}: {error.max().item():.2e} > {limit:.2e}"


def _saturated(make_scene: MakeScene) -> Scene:
    """Large opaque splats: clamped alphas and rays that end early, everywhere."""
    scene = make_scene(80, seed=3, dtype=torch.float32)
    scene["scales"] = scene["scales"] * 3
    scene["opacities"] = torch.where(torch.arange(80) % 3 == 0, 1.0, 0.97 + 0.03 * scene["opacities"])
    return scene


def _around_the_near_plane(make_scene: MakeScene) -> Scene:
    """Before, behind, on, and a rounding error off the near and far planes, in the camera plane, far to the side."""
    scene = make_scene(64, seed=4, dtype=torch.float32)
    scene["viewmats"] = torch.eye(4)[None]
    near, far = torch.tensor(0.25), torch.tensor(8.0)
    depths = torch.stack([
        near, torch.nextafter(near, torch.tensor(0.0)), torch.nextafter(near, torch.tensor(1.0)), torch.tensor(0.0),
        torch.tensor(-0.25), torch.tensor(-3.0), far, torch.nextafter(far, torch.tensor(9.0)),
    ])  # fmt: skip
    scene["means"][:16, 2] = depths.repeat(2)
    scene["means"][:16, :2] *= 0.05
    scene["means"][16:, 2] = 1 + scene["means"][16:, 2].abs()
    # Centres at 0.9 to 6 half fields of view from the axis: inside, in the clamped margin, and far outside.
    scene["means"][32:, 0] = torch.linspace(0.9, 6, 32) * 0.4625 * scene["means"][32:, 2]
    scene["means"][48:, 0] *= -1
    scene["scales"][32:] = torch.linspace(0.2, 1.5, 32)[:, None] * torch.tensor([1.0, 0.7, 0.5])
    return scene


def _needles(make_scene: MakeScene) -> Scene:
    scene = make_scene(60, seed=5, dtype=torch.float32)
    scene["scales"] = torch.tensor([0.8, 2e-3, 1e-3]).repeat(60, 1)
    return scene


def _equal_depths(make_scene: MakeScene) -> Scene:
    """All in one plane that faces the camera: only the index decides the order."""
    scene = make_scene(60, seed=6, dtype=torch.float32)
    scene["viewmats"] = torch.eye(4)[None]
    scene["means"][:, 2] = 3.0
    return scene


def _with(**arguments: Any) -> Callable[[MakeScene], Scene]:
    return lambda make_scene: make_scene(**{"dtype": torch.float32, **arguments})


SCENES: dict[str, tuple[Callable[[MakeScene], Scene], dict[str, Any]]] = {
    "plain": (_with(n=60), {}),
    "harmonics of degree 3": (_with(n=60, sh_degree=3, seed=1), {}),
    "two cameras": (_with(n=60, sh_degree=1, cameras=2, seed=2), {}),
    "many": (_with(n=500, seed=7), {}),
    "saturated": (_saturated, {}),
    "near plane": (_around_the_near_plane, {"near_plane": 0.25, "far_plane": 8.0}),
    "needles": (_needles, {}),
    "equal depths": (_equal_depths, {}),
    "none": (_with(n=0), {}),
    "none, with harmonics": (_with(n=0, sh_degree=2), {}),
    "one": (_with(n=1, seed=8), {}),
    "one pixel": (_with(n=40, width=1, height=1), {}),
    "one row": (_with(n=40, width=50, height=1), {}),
    "whole tiles": (_with(n=40, width=32, height=16), {}),
    "no dilation": (_with(n=60), {"eps2d": 0.0}),
    "radius clip": (_with(n=60), {"radius_clip": 3.0}),
    "one channel": (_with(n=60, channels=1), {}),
    "two channels": (_with(n=60, channels=2), {}),
    "four channels": (_with(n=60, channels=4), {}),
    "many channels": (_with(n=60, channels=37), {}),
}


@pytest.mark.parametrize("name", SCENES)
def test_scenes(make_scene: MakeScene, name: str) -> None:
    build, options = SCENES[name]
    assert_parity(build(make_scene), **options)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
def test_cameras(make_scene: MakeScene, camera_model: str, rasterize_mode: str) -> None:
    scene = make_scene(80, seed=9, sh_degree=2, dtype=torch.float32)
    if camera_model == "ortho":
        scene["Ks"][:, 0, 0], scene["Ks"][:, 1, 1] = 9.0, 10.0
    assert_parity(scene, camera_model=camera_model, rasterize_mode=rasterize_mode)


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("channels", [3, 5])
def test_render_modes(make_scene: MakeScene, render_mode: str, channels: int) -> None:
    assert_parity(make_scene(60, seed=10, channels=channels, dtype=torch.float32), render_mode=render_mode)


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3, 4])
def test_degrees(make_scene: MakeScene, sh_degree: int) -> None:
    """With two coefficients more than are in use."""
    scene = make_scene(50, seed=11, sh_degree=sh_degree, dtype=torch.float32)
    scene["colors"] = torch.cat([scene["colors"], torch.ones(50, 2, 3)], 1)
    assert_parity(scene)


def test_covars(make_scene: MakeScene) -> None:
    scene = make_scene(60, seed=12, dtype=torch.float32)
    covars = reference.covariance(scene["quats"].double(), scene["scales"].double())
    results = []
    for dtype, backend in ((torch.float64, "reference"), (torch.float32, "cpu")):
        leaf = covars.detach().clone().to(dtype).requires_grad_()
        cast = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in scene.items()}
        image, _, _ = rasterization(**{**cast, "quats": None, "scales": None}, covars=leaf, backend=backend)
        image.sum().backward()
        assert leaf.grad is not None
        results.append((image.detach().double(), leaf.grad.double()))
    (expected, v_expected), (got, v_got) = results
    torch.testing.assert_close(got, expected, atol=IMAGE_TOLERANCE["cpu"], rtol=0)
    assert (v_got - v_expected).abs().max() <= GRADIENT_TOLERANCE["cpu"] * v_expected.abs().max()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 70),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    log_size=st.floats(-3, 2),
    opacity=st.sampled_from([0.0, 0.003, 0.1, 0.9, 1.0]),
    camera_model=st.sampled_from(["pinhole", "ortho", "fisheye"]),
    antialiased=st.booleans(),
    render_mode=st.sampled_from(["RGB", "D", "RGB+D"]),
)
def test_any_scene(
    make_scene: MakeScene,
    seed: int,
    n: int,
    width: int,
    height: int,
    log_size: float,
    opacity: float,
    camera_model: str,
    antialiased: bool,
    render_mode: str,
) -> None:
    scene = make_scene(n, seed=seed, width=width, height=height, dtype=torch.float32)
    scene["scales"] = scene["scales"] * 2.0**log_size
    scene["opacities"] = (opacity + 0.1 * (scene["opacities"] - 0.5)).clamp(0, 1)
    assert_parity(
        scene,
        camera_model=camera_model,
        rasterize_mode="antialiased" if antialiased else "classic",
        render_mode=render_mode,
    )


def test_splats_in_meta_agree(make_scene: MakeScene) -> None:
    scene = make_scene(200, seed=13, cameras=2, dtype=torch.float32)
    mask = torch.ones(2, 27, 37, 1, dtype=torch.bool)
    expected = render_and_differentiate(to64(scene), mask, "reference")
    got = render_and_differentiate(scene, mask, "cpu")
    assert torch.equal(got["radii"], expected["radii"])
    for name in ("means2d", "depths", "conics", "opacities"):
        torch.testing.assert_close(got[name].double(), expected[name], rtol=2e-5, atol=2e-5)


def test_repeats_bit_for_bit(make_scene: MakeScene) -> None:
    scene = make_scene(300, seed=14, sh_degree=3, dtype=torch.float32)
    mask = torch.ones(1, 27, 37, 1, dtype=torch.bool)
    first, second = (render_and_differentiate(scene, mask, "cpu") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_thread_counts_agree_to_rounding(make_scene: MakeScene) -> None:
    scene = make_scene(300, seed=15, sh_degree=1, dtype=torch.float32)
    mask = torch.ones(1, 27, 37, 1, dtype=torch.bool)
    before = cache.get_threads()
    try:
        results = []
        for threads in (1, 2):
            cache.set_threads(threads)
            results.append(render_and_differentiate(scene, mask, "cpu"))
    finally:
        cache.set_threads(before)
    for name, value in results[0].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5 * value.abs().max().item())


def test_several_graphs_at_once(make_scene: MakeScene) -> None:
    """Buffers are shared between calls, but never while an image still waits for its backward pass."""
    scenes = [make_scene(50, seed=s, dtype=torch.float32) for s in (16, 17)]
    alone, together = [], []
    for scene in scenes:
        means = scene["means"].clone().requires_grad_()
        rasterization(**{**scene, "means": means})[0].square().sum().backward()
        alone.append(means.grad)
    leaves = [scene["means"].clone().requires_grad_() for scene in scenes]
    images = [rasterization(**{**s, "means": m})[0] for s, m in zip(scenes, leaves, strict=True)]
    for image in images:
        image.square().sum().backward(retain_graph=True)
    together = [leaf.grad for leaf in leaves]
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_images_survive_the_next_call(make_scene: MakeScene) -> None:
    a, b = (make_scene(50, seed=s, dtype=torch.float32) for s in (18, 19))
    with torch.no_grad():
        first = rasterization(**a)[0]
        copy = first.clone()
        rasterization(**b)
    assert torch.equal(first, copy)


def test_cpu_is_the_default_for_cpu_tensors(make_scene: MakeScene) -> None:
    scene = make_scene(20, dtype=torch.float32)
    assert torch.equal(rasterization(**scene)[0], rasterization(**scene, backend="cpu")[0])
    with pytest.raises(TypeError, match="backend 'cpu' takes float32"):
        rasterization(**to64(scene))


def test_too_many_pairs_are_refused(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(20000, width=1600, height=1200, dtype=torch.float32)
    scene["scales"] = torch.full_like(scene["scales"], 50.0)
    scene["Ks"][:, 0, 0] = scene["Ks"][:, 1, 1] = 1000.0
    monkeypatch.setattr(memory, "host_memory", lambda: Memory(total=1 << 30, free=1 << 30))
    with pytest.raises(StudioError, match=r"pairs of a tile and a Gaussian needs about .* GiB"), torch.no_grad():
        rasterization(**scene)


@pytest.fixture(scope="session")
def garden(data_dir: Path) -> Scene:
    """The coloured points of a garden with its three cameras, as small random Gaussians of random opacity."""
    path = data_dir / "garden_npz" / "test_garden.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    with np.load(path) as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    n = len(arrays["means3d"])
    generator = torch.Generator().manual_seed(0)
    return {
        "means": arrays["means3d"].float(),
        "quats": torch.randn(n, 4, generator=generator),
        "scales": 0.02 * torch.rand(n, 3, generator=generator),
        "opacities": torch.rand(n, generator=generator),
        "colors": arrays["colors"].float() / 255,
        "viewmats": arrays["viewmats"].float(),
        "Ks": arrays["Ks"].float(),
        "width": int(arrays["width"]),
        "height": int(arrays["height"]),
    }


def _cut_out(garden: Scene, left: int, top: int, width: int, height: int, shrink: float) -> Scene:
    """The scene seen through a window of the pictures, at a fraction of their resolution."""
    Ks = garden["Ks"].clone()
    Ks[:, :2] *= shrink
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    return {**garden, "Ks": Ks, "width": width, "height": height}


@pytest.mark.real_data
def test_garden_agrees_with_the_reference(garden: Scene) -> None:
    """A quarter of the resolution, a window on the table; of the many splats on a ray one is often at the threshold."""
    assert_parity(_cut_out(garden, 64, 34, 21, 13, 0.25), clear=0.95)


@pytest.mark.real_data
def test_a_window_shows_what_the_whole_picture_shows_there(garden: Scene) -> None:
    """Nothing depends on how pixels fall into tiles. The window is so wide that no visible Jacobian is clamped."""
    with torch.no_grad():
        whole, _, meta = rasterization(**garden)
        part, _, _ = rasterization(**_cut_out(garden, 83, 61, 437, 301, 1.0))
    assert len(meta["gaussian_ids"].unique()) > 95_000
    # Float rounding of the shifted pixel positions; a splat at the alpha threshold may flip at a few pixels.
    difference = (whole[:, 61:362, 83:520] - part).abs().flatten()
    assert difference.sort().values[int(0.999 * len(difference))] < 1e-4
    assert difference.max() < 2 / 255


@pytest.fixture(scope="session")
def _cuda() -> None:
    status = backend_status("cuda")
    if not status.available:
        pytest.skip(f"backend 'cuda' is not available: {status.reason}")


@pytest.mark.cuda
@pytest.mark.usefixtures("_cuda")
@pytest.mark.parametrize("name", [name for name in SCENES if not name.startswith("none")])
def test_gsplat_scenes(make_scene: MakeScene, name: str) -> None:
    build, options = SCENES[name]
    assert_parity(build(make_scene), backend="cuda", **options)


@pytest.mark.cuda
@pytest.mark.usefixtures("_cuda")
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
@pytest.mark.parametrize("render_mode", ["RGB", "D", "RGB+ED"])
def test_gsplat_cameras_and_modes(
    make_scene: MakeScene, camera_model: str, rasterize_mode: str, render_mode: str
) -> None:
    scene = make_scene(80, seed=9, sh_degree=2, dtype=torch.float32)
    if camera_model == "ortho":
        scene["Ks"][:, 0, 0], scene["Ks"][:, 1, 1] = 9.0, 10.0
    if render_mode == "D":
        scene["backgrounds"] = None
    assert_parity(
        scene, backend="cuda", camera_model=camera_model, rasterize_mode=rasterize_mode, render_mode=render_mode
    )


@pytest.mark.cuda
@pytest.mark.usefixtures("_cuda")
def test_gsplat_meta_has_the_same_entries(make_scene: MakeScene) -> None:
    scene = make_scene(200, seed=13, cameras=2, dtype=torch.float32)
    _, _, ours = rasterization(**scene, backend="cpu")
    on_gpu = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in scene.items()}
    _, _, theirs = rasterization(**on_gpu)
    assert set(theirs) - set(ours) == {"isect_ids", "flatten_ids", "isect_offsets"}
    assert set(ours) <= set(theirs)
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert theirs[name].shape == value.shape, name
            torch.testing.assert_close(theirs[name].cpu().double(), value.double(), rtol=1e-3, atol=1e-3)
        else:
            assert theirs[name] == value, name
