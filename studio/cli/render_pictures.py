"""What a field renders, as pictures to look at: colours as they are, depth in a colour map with a scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio.export.colormaps import value_range
from studio.export.output_pictures import is_scalar, paint_output, seen
from studio.training.loaded import LoadedRun

_SAMPLED_VIEWS, _SAMPLED_WIDTH = 12, 160


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
        self.limits = self._find_limits()
        """Output -> values of the first and last colour, in input units; may be changed before the first picture."""

    def __iter__(self) -> Iterator[list[Float[Tensor, "h w 3"]]]:
        for drawn in self._run.render(self._cameras, self._asked):
            yield [self._picture(name, drawn) for name in self._outputs]

    def _picture(self, name: str, drawn: dict[str, Tensor]) -> Float[Tensor, "h w 3"]:
        is_depth = "depth" in name
        return paint_output(
            name,
            drawn,
            color_map=self._color_map,
            limits=self.limits.get(name),
            scale=self._unit if is_depth else 1.0,
            label=f"{name.replace('_', ' ')}, input units" if is_depth else name,
        )

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
                if is_scalar(name, drawn):
                    flat, shown = drawn[name][..., 0], seen(drawn)
                    values[name].append(flat.flatten() if shown is None else flat[shown])
        limits = {}
        for name, parts in values.items():
            if parts:
                low, high = value_range(torch.cat(parts))
                scale = self._unit if "depth" in name else 1.0
                limits[name] = (scale * low, scale * high)
        return limits
