"""What a field renders, as pictures to look at: colours as they are, depth in a colour map with a scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio.export.colormaps import colormap, value_range
from studio.training.loaded import LoadedRun

_SAMPLED_VIEWS, _SAMPLED_WIDTH = 12, 160
_SEEN = 0.5
"""Opacity from which on a pixel has a depth."""


class Pictures:
    """Iterates over the cameras: a list of RGB pictures each, in the order of `outputs`.

    The range of depth colours is found first, from small renders of some of the cameras, so that it stays the same
    throughout a video. Depths are shown in units of the input cameras.

    Args:
        run: A trained field.
        cameras: Shape (n,), of one size.
        outputs: Out of the field's `output_names`.
        color_map: For outputs of one channel other than opacity; see `studio.export.colormaps.colormap`.
    """

    def __init__(self, run: LoadedRun, cameras: Cameras, outputs: Sequence[str], *, color_map: str = "turbo") -> None:
        self._run = run
        self._cameras = cameras
        self._outputs = tuple(outputs)
        self._color_map = color_map
        self._unit = float(torch.linalg.det(run.scene.input_from_scene[:3, :3]).abs()) ** (1 / 3)
        needs_opacity = any(name not in ("rgb", "opacity") for name in outputs)
        extra = ("opacity",) if needs_opacity and "opacity" in run.field.output_names else ()
        self._asked = tuple(dict.fromkeys([*self._outputs, *extra]))
        self._limits = self._find_limits()

    def __iter__(self) -> Iterator[list[Float[Tensor, "h w 3"]]]:
        for drawn in self._run.render(self._cameras, self._asked):
            yield [self._picture(name, drawn) for name in self._outputs]

    def _picture(self, name: str, drawn: dict[str, Tensor]) -> Float[Tensor, "h w 3"]:
        image = drawn[name]
        if name == "normals":
            shown = (image + 1) / 2
            # Unit vectors fade into white where there is no surface.
            return torch.lerp(torch.ones_like(shown), shown, drawn["opacity"]) if "opacity" in drawn else shown
        if image.shape[-1] == 3:
            return image
        if name == "opacity":
            return image.expand(-1, -1, 3)
        valid = _seen(drawn)
        if name in self._limits:
            label = f"{name.replace('_', ' ')}, input units" if "depth" in name else name
            scale = self._unit if "depth" in name else 1.0
            values = image[..., 0] * scale
            return colormap(values, self._color_map, self._limits[name], valid=valid, invalid_color=1.0, label=label)
        raise ValueError(f"output '{name}' has {image.shape[-1]} channels; pictures have 1 or 3")

    def _find_limits(self) -> dict[str, tuple[float, float]]:
        names = [name for name in self._outputs if name not in ("rgb", "opacity", "normals")]
        if not names:
            return {}
        chosen = torch.linspace(0, len(self._cameras) - 1, min(_SAMPLED_VIEWS, len(self._cameras))).round().long()
        cameras = self._cameras[chosen]
        factor = min(_SAMPLED_WIDTH / cameras.size[0], 1.0)
        values: dict[str, list[Tensor]] = {name: [] for name in names}
        for drawn in self._run.render(cameras.rescale(factor), self._asked):
            for name in names:
                if drawn[name].shape[-1] == 1:
                    flat = drawn[name][..., 0]
                    seen = _seen(drawn)
                    values[name].append(flat.flatten() if seen is None else flat[seen])
        limits = {}
        for name, parts in values.items():
            if parts:
                low, high = value_range(torch.cat(parts))
                scale = self._unit if "depth" in name else 1.0
                limits[name] = (scale * low, scale * high)
        return limits


def _seen(drawn: dict[str, Tensor]) -> Tensor | None:
    return drawn["opacity"][..., 0] > _SEEN if "opacity" in drawn else None
