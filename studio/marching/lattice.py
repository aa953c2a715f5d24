"""The sequence of sample edges along a ray: even steps, then steps that grow with the distance.

From e_0, at or before near, the edges go on by e_{k+1} = e_k + max(step, cone_angle · e_k), the rule of Müller et al.
2022 (appendix E.1) without its upper bound. Both parts have a closed form, so a ray can leap over empty space to
any k at no cost, and lands on the same samples as one that does not leap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lattice:
    """Edges of n rays; k counts from 0.

    Attributes:
        first: e_0 of each ray.
        step: Length of the even steps.
        cone_angle: Growth of the later steps: 0 for even steps only.
        even: Number of even steps before the growing ones (float; infinite for cone_angle 0).
    """

    first: Float[Tensor, " n"]
    step: float
    cone_angle: float
    even: Float[Tensor, " n"]

    @classmethod
    def build(
        cls, near: Float[Tensor, " n"], jitter: Float[Tensor, " n"] | None, step: float, cone_angle: float
    ) -> Lattice:
        """The lattice whose first interval contains near: it begins `jitter` (in [0, 1)) of a step before it."""
        first = near
        if jitter is not None:
            first = near - jitter.to(near) * (near * (cone_angle / (1.0 + cone_angle))).clamp_min(step)
        if cone_angle == 0.0:
            return cls(first, step, cone_angle, torch.full_like(first, float("inf")))
        return cls(first, step, cone_angle, ((step / cone_angle - first) / step).ceil().clamp_min(0.0))

    def edges(self, k: Int[Tensor, "#n s"]) -> Float[Tensor, "n s"]:
        """e_k of every ray."""
        k = k.to(self.first.dtype)
        even = torch.minimum(k, self.even[:, None])
        edge = self.first[:, None] + even * self.step
        if self.cone_angle == 0.0:
            return edge
        return edge * torch.exp((k - even) * torch.log1p(edge.new_tensor(self.cone_angle)))
