"""Density control: where Gaussians are added, split, moved and removed during training."""

from studio_splat.strategy.adaptive import AdaptiveStrategy
from studio_splat.strategy.base import Edit, RefineStats, Strategy
from studio_splat.strategy.budget import BudgetStrategy
from studio_splat.strategy.mcmc import McmcStrategy

__all__ = ["AdaptiveStrategy", "BudgetStrategy", "Edit", "McmcStrategy", "RefineStats", "Strategy"]
