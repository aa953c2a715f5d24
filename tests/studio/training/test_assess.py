"""Measuring generators whose likelihood exists in some configurations only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from studio.datasets.arrays import ArrayDataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, PluginConfig
from studio.training.assess import AssessOptions, assess


class UnitNormal(Generator):
    """Points around zero; its likelihood can be refused."""

    refuses = False

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        return torch.randn(n, 2, generator=generator)

    def log_likelihood(self, x: Tensor, condition: Any = None, generator: Any = None) -> Tensor:
        if self.refuses:
            raise StudioError("An autoencoder has no likelihood.")
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(dim=1)


@pytest.fixture
def points() -> ArrayDataset:
    return ArrayDataset("normal", torch.randn(400, 2, generator=torch.Generator().manual_seed(0)))


def test_likelihood_is_the_mean_over_held_out_points(points: ArrayDataset) -> None:
    report, _ = assess(
        UnitNormal(PluginConfig(), DataInfo((2,))),
        points,
        points,
        AssessOptions(samples=200),
        capabilities=["likelihood"],
    )
    # −½ E|x|² − ln 2π, and |x|² has mean 2.
    assert report.figures["nats_per_sample"] == pytest.approx(-1 - 1.8379, abs=0.1)
    assert report.protocol["likelihood"] == "exact"


def test_a_refused_likelihood_is_said_and_the_rest_measured(points: ArrayDataset) -> None:
    model = UnitNormal(PluginConfig(), DataInfo((2,)))
    model.refuses = True
    report, _ = assess(model, points, points, AssessOptions(samples=200), capabilities=["likelihood"])
    assert "nats_per_sample" not in report.figures
    assert report.figures["sliced_wasserstein"] < 0.3
    assert report.protocol["likelihood"] == "none: An autoencoder has no likelihood."
