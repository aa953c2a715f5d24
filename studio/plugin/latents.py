"""Ways through latent space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_SMALLEST_SINE = 1e-4


def path_between(
    start: Float[Tensor, " d"], end: Float[Tensor, " d"], steps: int, *, spherical: bool = False
) -> Float[Tensor, "steps d"]:
    """Vectors from `start` to `end`, both included.

    Straight: z_t = (1 − t) z_0 + t z_1. Spherical: along the great circle, z_t = (sin((1 − t)ω) z_0 + sin(tω) z_1) /
    sin ω with the angle ω between the two (Shoemake 1985), so that the length stays near that of a normal draw, whose
    mass lies on a shell; where the vectors span no circle, straight.
    """
    t = torch.linspace(0, 1, steps, device=start.device)[:, None]
    if spherical:
        angle = F.cosine_similarity(start, end, dim=0).clamp(-1, 1).acos()
        if float(angle.sin()) > _SMALLEST_SINE:
            return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()
    return (1 - t) * start + t * end
