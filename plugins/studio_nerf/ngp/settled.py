"""Options whose default depends on where the scene lies: their values, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from studio_nerf.ngp.config import NgpConfig


@dataclass(frozen=True)
class Settled:
    """Values of the options that may be left open; see `NgpConfig` for what they mean."""

    finest: int
    log2_rows: int
    loss_limit: float
    """Before a background edges err by more than an object on a plain one, and few pixels make up most of the error."""
    distortion: float
    """Once surfaces have formed."""
    samples: int
    """Among cameras a few that stand for many (`Schedule.sure_weight`)."""
    lr: float
    lr_decay: float

    @classmethod
    def of(cls, config: NgpConfig, *, contracted: bool) -> Settled:
        """What is chosen, and defaults for the rest.

        Args:
            config: Of the field.
            contracted: Whether all of space around the cameras lies in the field (`Space.contracted`).
        """
        chosen = {field.name: getattr(config, field.name) for field in fields(cls)}
        default = _AMONG_CAMERAS if contracted else _BOUNDED
        return replace(default, **{name: value for name, value in chosen.items() if value is not None})


_BOUNDED = Settled(
    finest=1024,
    log2_rows=17,
    loss_limit=0.1,
    distortion=0.0,
    samples=49_152,
    lr=0.01,
    lr_decay=0.03,
)
_AMONG_CAMERAS = Settled(
    finest=2048,
    log2_rows=19,
    loss_limit=0.3,
    distortion=0.006,
    samples=40_960,
    lr=0.02,
    lr_decay=0.1,
)
