"""The functional API: shapes, layouts, render modes, gradients and `meta`, as gsplat 1.5.3 documents them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from studio_splat import rasterization

Scene = dict[str, Any]
MakeScene = Callable[..., Scene]


def test_package_import_loads_no_torch() -> None:
    code = "import sys, studio_splat; assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_function_stays_importable_from_the_package() -> None:
    """No submodule of the same name may shadow it after the first import."""
    import studio_splat
    from studio_splat import rasterization as again

    assert callable(again)
    assert again is studio_splat.rasterization
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = studio_splat.no_such_thing


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 5), ("D", 1), ("ED", 1), ("RGB+D", 6), ("RGB+ED", 6)])
def test_shapes_of_render_modes(make_scene: MakeScene, mode: str, channels: int) -> None:
    scene = make_scene(cameras=2, channels=5)
    colors, alphas, meta = rasterization(**scene, render_mode=mode, backend="reference")
    assert colors.shape == (2, 27, 37, channels)
    assert alphas.shape == (2, 27, 37, 1)
    assert (meta["width"], meta["height"], meta["n_cameras"], meta["n_batches"]) == (37, 27, 2, 1)


def test_modes_agree_with_each_other(make_scene: MakeScene) -> None:
    scene = make_scene(cameras=2)
    images = {
        mode: rasterization(**scene, render_mode=mode, backend="reference")
        for mode in ("RGB", "D", "ED", "RGB+D", "RGB+ED")
    }
    rgb, depth, alpha = images["RGB"][0], images["D"][0], images["RGB"][1]
    torch.testing.assert_close(images["RGB+D"][0], torch.cat([rgb, depth], -1))
    torch.testing.assert_close(images["ED"][0], depth / alpha.clamp_min(1e-10))
    torch.testing.assert_close(images["RGB+ED"][0], torch.cat([rgb, images["ED"][0]], -1))
    # All splats lie at depths 1 to 8, and so does their average; where there are none, both depths are 0.
    seen = alpha > 0
    assert images["ED"][0][seen].min() > 1
    assert images["ED"][0][seen].max() < 8
    assert (images["ED"][0][~seen] == 0).all()


def test_background_shows_through(make_scene: MakeScene) -> None:
    scene = make_scene()
    black, alphas, _ = rasterization(**{**scene, "backgrounds": None}, backend="reference")
    colored, _, _ = rasterization(**scene, backend="reference")
    torch.testing.assert_close(colored, black + (1 - alphas) * scene["backgrounds"][:, None, None])


def test_cameras_and_batches_are_independent(make_scene: MakeScene) -> None:
    a, b = make_scene(seed=1, cameras=3), make_scene(seed=2, cameras=3)
    stacked = {k: torch.stack([a[k], b[k]]) if isinstance(a[k], torch.Tensor) else a[k] for k in a}
    colors, alphas, meta = rasterization(**stacked, backend="reference")
    assert colors.shape == (2, 3, 27, 37, 3)
    assert alphas.shape == (2, 3, 27, 37, 1)
    assert meta["batch_ids"].unique().tolist() == [0, 1]
    assert meta["camera_ids"].unique().tolist() == [0, 1, 2]
    for i, scene in enumerate((a, b)):
        for c in range(3):
            one = {**scene, **{k: scene[k][c : c + 1] for k in ("viewmats", "Ks", "backgrounds")}}
            torch.testing.assert_close(rasterization(**one, backend="reference")[0][0], colors[i, c])


def test_colors_per_camera(make_scene: MakeScene) -> None:
    for sh_degree in (None, 1):
        scene = make_scene(cameras=2, sh_degree=sh_degree)
        other = scene["colors"].flip(0)
        colors, _, _ = rasterization(**{**scene, "colors": torch.stack([scene["colors"], other])}, backend="reference")
        torch.testing.assert_close(colors[0], rasterization(**scene, backend="reference")[0][0])
        torch.testing.assert_close(colors[1], rasterization(**{**scene, "colors": other}, backend="reference")[0][1])


def test_covars_replace_quats_and_scales(make_scene: MakeScene) -> None:
    from studio_splat.reference import covariance

    scene = make_scene()
    expected, _, _ = rasterization(**scene, backend="reference")
    covars = covariance(scene["quats"], scene["scales"])
    # Only the upper triangle counts.
    covars[:, 1, 0] = 7.0
    covars.requires_grad_()
    got, _, _ = rasterization(**{**scene, "quats": None, "scales": None}, covars=covars, backend="reference")
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    assert covars.grad is not None
    assert (covars.grad.tril(-1) == 0).all()
    assert (covars.grad.triu(1) != 0).any()


def test_sh_degree_uses_the_leading_coefficients(make_scene: MakeScene) -> None:
    scene = make_scene(sh_degree=3)
    low = rasterization(**{**scene, "sh_degree": 1}, backend="reference")[0]
    cut = rasterization(**{**scene, "sh_degree": 1, "colors": scene["colors"][:, :4]}, backend="reference")[0]
    torch.testing.assert_close(low, cut)


def test_degree_zero_is_half_plus_a_constant(make_scene: MakeScene) -> None:
    scene = make_scene(sh_degree=0)
    plain = (0.28209479177387814 * scene["colors"][:, 0] + 0.5).clamp_min(0)
    torch.testing.assert_close(
        rasterization(**scene, backend="reference")[0],
        rasterization(**{**scene, "colors": plain, "sh_degree": None}, backend="reference")[0],
    )


def test_antialiasing_lowers_opacities_by_the_compensation(make_scene: MakeScene) -> None:
    scene = make_scene()
    _, _, classic = rasterization(**scene, packed=False, backend="reference")
    _, _, sharp = rasterization(**scene, packed=False, rasterize_mode="antialiased", backend="reference")
    seen = sharp["opacities"] > 0
    ratio = sharp["opacities"][seen] / classic["opacities"][seen]
    conics = classic["conics"][seen]
    det_conic = conics[:, 0] * conics[:, 2] - conics[:, 1] ** 2
    covar = torch.stack([conics[:, 2], conics[:, 0]], -1) / det_conic[:, None] - 0.3
    off_diagonal = -conics[:, 1] / det_conic
    torch.testing.assert_close(ratio, ((covar.prod(-1) - off_diagonal**2) * det_conic).sqrt())


def test_packed_and_dense_meta_hold_the_same_splats(make_scene: MakeScene) -> None:
    scene = make_scene(cameras=2)
    scene["means"][:5, 2] = -10
    colors, _, packed = rasterization(**scene, packed=True, backend="reference")
    dense_colors, _, dense = rasterization(**scene, packed=False, backend="reference")
    torch.testing.assert_close(colors, dense_colors)
    assert dense["gaussian_ids"] is None
    where = (packed["camera_ids"], packed["gaussian_ids"])
    for name in ("means2d", "depths", "conics", "opacities", "radii", "tiles_per_gauss"):
        torch.testing.assert_close(dense[name][where], packed[name])
    seen = torch.zeros(2, 40, dtype=torch.bool)
    seen[where] = True
    assert not seen[:, :5].any()
    assert torch.equal((dense["radii"] > 0).all(-1), seen)
    assert (packed["radii"] > 0).all()


def test_tiles_per_gauss_counts_the_tiles_of_the_bounding_box(make_scene: MakeScene) -> None:
    _, _, meta = rasterization(**make_scene(), tile_size=8, backend="reference")
    assert (meta["tile_width"], meta["tile_height"]) == (5, 4)
    for mean, radii, count in zip(meta["means2d"], meta["radii"], meta["tiles_per_gauss"], strict=True):
        columns = [i for i in range(5) if i * 8 < mean[0] + radii[0] and (i + 1) * 8 > mean[0] - radii[0]]
        rows = [j for j in range(4) if j * 8 < mean[1] + radii[1] and (j + 1) * 8 > mean[1] - radii[1]]
        assert count == len(columns) * len(rows)


@pytest.mark.parametrize("packed", [True, False])
def test_gradients_reach_means2d_in_meta(make_scene: MakeScene, packed: bool) -> None:
    """Density control reads the gradient and the absolute gradient of the projected centres from `meta`."""
    scene = make_scene(cameras=2)
    scene["means"].requires_grad_()
    colors, _, meta = rasterization(**scene, packed=packed, absgrad=True, backend="reference")
    meta["means2d"].retain_grad()
    (colors**2).sum().backward(retain_graph=True)
    grad, absolute = meta["means2d"].grad, meta["means2d"].absgrad
    assert absolute.shape == grad.shape == meta["means2d"].shape
    assert (absolute >= grad.abs() - 1e-12).all()
    assert (absolute > 1.01 * grad.abs()).any()
    # A second pass replaces what the first one left, and does not add to it.
    (colors**2).sum().backward()
    torch.testing.assert_close(meta["means2d"].absgrad, absolute)


def test_sparse_gradients_hold_the_visible_rows(make_scene: MakeScene) -> None:
    scene = make_scene(cameras=2)
    scene["means"][:7, 2] = -10
    names = ("means", "quats", "scales")
    grads = {}
    for sparse in (False, True):
        leaves = {name: scene[name].clone().requires_grad_() for name in names}
        rasterization(**{**scene, **leaves}, sparse_grad=sparse, backend="reference")[0].sum().backward()
        grads[sparse] = [leaf.grad for leaf in leaves.values()]
    for dense, sparse in zip(grads[False], grads[True], strict=True):
        assert sparse.is_sparse
        assert sparse.coalesce().indices().min() >= 7
        torch.testing.assert_close(sparse.to_dense(), dense)


def test_culled_gaussians_get_zero_gradients_not_nan(make_scene: MakeScene) -> None:
    """On the camera plane the projection divides by zero; nothing of that may leak into a gradient."""
    scene = make_scene(8)
    eye = torch.eye(4, dtype=torch.float64)[None]
    scene["means"][:4] = torch.tensor([[0.0, 0, 0], [1, 1, 0], [0, 0, -1], [0, 0, 1e-30]])
    scene["means"][4:] = torch.tensor([0.0, 0, 3])
    leaves = {
        name: scene[name].clone().requires_grad_() for name in ("means", "quats", "scales", "opacities", "colors")
    }
    colors, _, meta = rasterization(
        **{**scene, **leaves, "viewmats": eye}, rasterize_mode="antialiased", backend="reference"
    )
    assert meta["gaussian_ids"].tolist() == [4, 5, 6, 7]
    colors.sum().backward()
    for name, leaf in leaves.items():
        assert torch.isfinite(leaf.grad).all(), name
        assert (leaf.grad[:4] == 0).all(), name


@pytest.mark.parametrize("n", [0, 1])
def test_zero_and_one_gaussian(make_scene: MakeScene, n: int) -> None:
    scene = make_scene(n)
    scene["means"] = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
    colors, alphas, meta = rasterization(**scene, render_mode="RGB+ED", absgrad=True, backend="reference")
    assert len(meta["means2d"]) == n
    assert (alphas.max() > 0) == (n == 1)
    if n == 0:
        expected = torch.cat([scene["backgrounds"], torch.zeros(1, 1, dtype=torch.float64)], -1)
        assert (colors == expected[:, None, None]).all()
    colors.sum().backward()
    assert scene["means"].grad.shape == (n, 3)
