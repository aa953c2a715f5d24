"""How figures were measured, so that they can be compared or not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studio.metrics.ssim import Padding


@dataclass(frozen=True)
class Protocol:
    """Everything besides the model that moves a figure: printed with it and stored beside it."""

    split: str
    """Which frames: train, val or test."""
    photos: int
    """How many photos the means run over."""
    background: str
    """What transparent photos and renders are composited on: white, black, "r,g,b", or "none"."""
    resize: str = "none"
    """How photos were brought to the measured size: "none", or filter and factor such as "area 1/2"."""
    render_8_bit: bool = True
    """The render was clamped to [0, 1] and rounded to 8 bits first, as a saved picture is."""
    masks: str = "none"
    """Which pixels count: "none" for all, or where the masks came from, such as "scene"."""
    ssim_padding: Padding = "same"
    """Zero padding ("same", as splatting papers) or full windows only ("valid", as Wang 2004)."""
    lpips: str = "unavailable"
    """The LPIPS network ("vgg", "alex"), or "unavailable", with the reason where known."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Figures by metrics of other packages: name to distribution and version."""

    def __str__(self) -> str:
        rounding = "render clamped and rounded to 8 bits" if self.render_8_bit else "render not rounded"
        ssim = f"SSIM 11x11 Gaussian, {'zero padding' if self.ssim_padding == 'same' else 'full windows only'}"
        return (
            f"{self.photos} photo{'' if self.photos == 1 else 's'} of split '{self.split}', "
            f"background {self.background}, resize {self.resize}, masks {self.masks}, {rounding}; "
            f"PSNR is the mean of the photos' PSNR; {ssim}; LPIPS {self.lpips}"
            + "".join(f"; {name} by {owner}" for name, owner in self.metrics.items())
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One JSON object; `from_dict(json.loads(text))` reads it back."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Protocol:
        """Read what `to_dict` gave; fields that a newer version added are ignored.

        Raises:
            TypeError: A required field is missing.
        """
        known = {known.name for known in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})
