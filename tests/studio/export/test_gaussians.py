"""Moving a cloud of Gaussians by a similarity changes nothing that a camera moved along would see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from studio.cameras.poses import quaternion_to_matrix
from studio.export.gaussians import SH_C0, GaussianCloud


def make_cloud(count: int = 7, degree: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> GaussianCloud:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=dtype)

    return GaussianCloud(
        normal(count, 3), normal(count, 4), normal(count, 3), normal(count), normal(count, (degree + 1) ** 2, 3)
    )


def _similarity(scale: float = 2.5, seed: int = 3) -> Tensor:
    q = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * quaternion_to_matrix(q)
    matrix[:3, 3] = torch.tensor([10.0, -3.0, 0.5], dtype=torch.float64)
    return matrix


def _covariance(cloud: GaussianCloud) -> Tensor:
    axes = quaternion_to_matrix(cloud.quats) * cloud.log_scales.exp()[:, None, :]
    return axes @ axes.transpose(1, 2)


def test_means_and_covariances_map_as_points_do() -> None:
    cloud, matrix = make_cloud(), _similarity()
    moved = cloud.transformed(matrix)
    linear = matrix[:3, :3]
    torch.testing.assert_close(moved.means, cloud.means @ linear.T + matrix[:3, 3])
    torch.testing.assert_close(_covariance(moved), linear @ _covariance(cloud) @ linear.T)
    torch.testing.assert_close(moved.log_scales, cloud.log_scales + math.log(2.5))
    torch.testing.assert_close(moved.quats.norm(dim=1), cloud.quats.norm(dim=1))
    assert torch.equal(moved.logit_opacities, cloud.logit_opacities)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_there_and_back_is_the_identity(degree: int) -> None:
    cloud, matrix = make_cloud(degree=degree), _similarity(0.2, seed=11)
    back = cloud.transformed(matrix).transformed(torch.linalg.inv(matrix))
    for name in ("means", "log_scales", "logit_opacities", "sh"):
        torch.testing.assert_close(getattr(back, name), getattr(cloud, name), atol=1e-12, rtol=1e-12)
    sign = (back.quats * cloud.quats).sum(dim=1, keepdim=True).sign()
    torch.testing.assert_close(back.quats * sign, cloud.quats, atol=1e-12, rtol=1e-12)


def test_keeps_dtypes_and_degree() -> None:
    moved = make_cloud(degree=2, dtype=torch.float32).transformed(_similarity())
    assert {t.dtype for t in (moved.means, moved.quats, moved.log_scales, moved.sh)} == {torch.float32}
    assert moved.sh_degree == 2
    assert len(make_cloud(0).transformed(_similarity())) == 0


def test_float32_matrices_of_scene_normalisation_are_accepted() -> None:
    cloud, matrix = make_cloud(), _similarity()
    torch.testing.assert_close(
        cloud.transformed(matrix.float()).means, cloud.transformed(matrix).means, atol=1e-5, rtol=0
    )


def test_what_is_not_a_similarity_is_refused() -> None:
    cloud = make_cloud()
    shear = torch.eye(4)
    shear[0, 1] = 0.3
    with pytest.raises(ValueError, match="shears"):
        cloud.transformed(shear)
    with pytest.raises(ValueError, match="mirror"):
        cloud.transformed(torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])))
    with pytest.raises(ValueError, match="mirror nor flatten"):
        cloud.transformed(torch.zeros(4, 4))
    projective = torch.eye(4)
    projective[3, 0] = 1.0
    with pytest.raises(ValueError, match="similarity must be"):
        cloud.transformed(projective)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        cloud.transformed(torch.eye(3))


def test_shapes_are_checked_and_selection_keeps_rows_together() -> None:
    cloud = make_cloud(5)
    picked = cloud.select(torch.tensor([3, 1]))
    assert torch.equal(picked.sh[0], cloud.sh[3])
    assert torch.equal(picked.quats[1], cloud.quats[1])
    assert len(cloud.select(torch.tensor([True, False, True, False, False]))) == 2
    with pytest.raises(ValueError, match=r"quats must be \(5, 4\)"):
        GaussianCloud(cloud.means, cloud.quats[:4], cloud.log_scales, cloud.logit_opacities, cloud.sh)
    with pytest.raises(ValueError, match="sh must be"):
        GaussianCloud(cloud.means, cloud.quats, cloud.log_scales, cloud.logit_opacities, cloud.sh[:, :5])


def test_base_colors() -> None:
    cloud = make_cloud(2, degree=1)
    expected = (0.5 + SH_C0 * cloud.sh[:, 0]).clamp(0, 1)
    torch.testing.assert_close(cloud.base_colors, expected)
