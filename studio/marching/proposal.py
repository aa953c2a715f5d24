"""Proposal sampling: cheap density functions say where along a ray the expensive one should look.

Barron et al. 2022 (mip-NeRF 360), sec. 3: each round samples the histogram of the round before; the proposals learn,
through `interlevel_loss`, to bound the final weights from above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from studio.marching.arguments import check_interval, check_same_shape
from studio.marching.compositing import weights_from_density
from studio.marching.sampling import Spacing, midpoints, sample_pdf, stratified, unit_to_distance

DensityFunction = Callable[[Float[Tensor, "*b s 3"]], Float[Tensor, "*b s"]]


@dataclass(frozen=True, eq=False)
class Proposal:
    """The outcome of all rounds.

    Attributes:
        edges: Distances of the final intervals; without gradient.
        unit_edges: The same, normalised to [0, 1] in the sampler's spacing.
        rounds: Normalised edges and weights of each proposal round; the weights carry gradients to its function.
    """

    edges: Float[Tensor, "*b s+1"]
    unit_edges: Float[Tensor, "*b s+1"]
    rounds: tuple[tuple[Tensor, Tensor], ...]

    def loss(self, weights: Float[Tensor, "*b s"]) -> Float[Tensor, ""]:
        """Mean over rays of the interlevel losses of all rounds against the final weights, which get no gradient."""
        losses = [interlevel_loss(self.unit_edges, weights, edges, bound).mean() for edges, bound in self.rounds]
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class ProposalSampler:
    """Rounds of sampling.

    Attributes:
        counts: Intervals of each proposal round.
        final: Intervals at the end.
        spacing: Measure in which the first round is even.
        padding: Weight spread over all intervals of a round, so that no place is given up for good.
    """

    counts: tuple[int, ...] = (256, 96)
    final: int = 48
    spacing: Spacing = "piecewise"
    padding: float = 0.01

    def __call__(
        self,
        origins: Float[Tensor, "*b 3"],
        directions: Float[Tensor, "*b 3"],
        near: Float[Tensor, "*b"],
        far: Float[Tensor, "*b"],
        functions: Sequence[DensityFunction],
        *,
        generator: torch.Generator | None = None,
        anneal: float = 1.0,
    ) -> Proposal:
        """Sample rays.

        Args:
            origins: Where rays start.
            directions: Of unit length.
            near: Where each ray begins to count.
            far: Where it ends.
            functions: One a round: densities at points. One function may serve all rounds.
            generator: Jitters all edges; None for even quantiles.
            anneal: Power of the weights that are sampled (see `annealing`).

        Raises:
            ValueError: The number of functions is not that of the rounds.
            StudioError: near > far, or a bound does not suit the spacing.
        """
        if len(functions) != len(self.counts):
            raise ValueError(f"functions: expected one a round ({len(self.counts)}), got {len(functions)}")
        check_interval(near, far, positive=self.spacing if self.spacing in ("disparity", "log") else None)
        zero, one = torch.zeros_like(near), torch.ones_like(near)
        first = self.counts[0] if self.counts else self.final
        unit = stratified(zero, one, first, generator=generator)
        rounds = []
        for function, following in zip(functions, (*self.counts[1:], self.final), strict=True):
            edges = unit_to_distance(unit, near, far, self.spacing)
            points = origins[..., None, :] + directions[..., None, :] * midpoints(edges)[..., None]
            density = function(points)
            check_same_shape("density", density, tuple(points.shape[:-1]), "one a point")
            weights = weights_from_density(density, edges)
            rounds.append((unit, weights))
            histogram = weights.detach().pow(anneal)
            unit = sample_pdf(
                unit,
                histogram,
                following + 1,
                generator=generator,
                padding=self.padding / histogram.shape[-1],
                ends=True,
            ).detach()
        return Proposal(unit_to_distance(unit, near, far, self.spacing), unit, tuple(rounds))


def annealing(progress: float, slope: float = 10.0) -> float:
    """Power of the proposal weights after a share of the training: from 0 (all even) to 1 (Barron et al. 2022, D)."""
    progress = min(max(progress, 0.0), 1.0)
    return slope * progress / ((slope - 1.0) * progress + 1.0)


def interlevel_loss(
    edges: Float[Tensor, "*b s+1"],
    weights: Float[Tensor, "*b s"],
    proposal_edges: Float[Tensor, "*b k+1"],
    proposal_weights: Float[Tensor, "*b k"],
) -> Float[Tensor, "*b"]:
    """How far the weights exceed what the proposal allows, Σ_i max(0, w_i − bound_i)² / w_i.

    bound_i is the sum of the proposal weights whose intervals overlap interval i (Barron et al. 2022, eq. 13). Only
    `proposal_weights` get gradients.
    """
    edges, weights = edges.detach(), weights.detach()
    proposal_edges = proposal_edges.detach().contiguous()
    total = torch.cat([torch.zeros_like(proposal_weights[..., :1]), proposal_weights.cumsum(-1)], dim=-1)
    last = proposal_weights.shape[-1]
    first = torch.searchsorted(proposal_edges, edges[..., :-1].contiguous(), right=True).sub(1).clamp(0, last)
    beyond = torch.searchsorted(proposal_edges, edges[..., 1:].contiguous()).clamp(0, last)
    bound = total.gather(-1, torch.maximum(beyond, first)) - total.gather(-1, first)
    excess = (weights - bound).clamp_min(0.0)
    return (excess.square() / weights.clamp_min(torch.finfo(weights.dtype).eps)).sum(-1)
