"""The panel of what a picture shows: output, colours, limits, crop box, number of Gaussians, size."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

import torch
import viser

from studio.export.colormaps import colormap
from studio.viewer.drawing import Box, Drawer, Look
from studio.viewer.session import ShownPicture
from studio.viewer.subject import Subject

COLOR_MAPS = ("turbo", "viridis", "magma", "inferno", "plasma", "gray", "Spectral")
_SIDES = (256, 512, 768, 1024, 1536, 2048)
_SIDE = 1024
_SPEED_SECONDS = 0.25


class LookPanel:
    """Controls of a `Look`.

    Args:
        changed: Called when a new picture is due.
    """

    def __init__(
        self,
        gui: viser.GuiApi,
        scene: viser.SceneApi,
        subject: Subject,
        drawer: Drawer | None,
        changed: Callable[[], None],
    ) -> None:
        self._subject = subject
        self._drawer = drawer
        self._changed = changed
        self._scene = scene
        self._box_handle: viser.BoxHandle | None = None
        self._shown_limits: tuple[str, str, tuple[float, float]] | None = None
        self.largest_side = _SIDE
        red, green, blue = (round(255 * c) for c in subject.background)
        outputs = drawer.outputs if drawer is not None else ()
        size = float((subject.box[1] - subject.box[0]).norm())
        self._speed = gui.add_markdown("", visible=drawer is not None)
        self._output = gui.add_dropdown("Output", outputs or ("rgb",), initial_value="rgb", visible=len(outputs) > 1)
        self._color_map = gui.add_dropdown("Colours", COLOR_MAPS, initial_value="turbo", visible=False)
        self._scale = gui.add_html("", visible=False)
        self._background = gui.add_rgb("Background", (red, green, blue), visible=drawer is not None)
        fov = min(max(round(2 * math.degrees(subject.first_view().fov)) / 2, 5.0), 120.0)
        self._fov = gui.add_slider("Field of view", 5.0, 120.0, 0.5, fov, hint="Vertical, in degrees")
        self._side = gui.add_dropdown(
            "Resolution", tuple(str(s) for s in _SIDES), initial_value=str(_SIDE), visible=drawer is not None,
            hint="Most pixels of a side when the camera is still; while it moves, what keeps up with it",
        )  # fmt: skip
        with gui.add_folder("Limits", expand_by_default=False, visible=drawer is not None):
            self._near = gui.add_slider("Near", 0.0, round(2 * size, 3), max(round(size / 500, 4), 1e-4), 0.0)
            self._far = gui.add_slider(
                "Far", 0.0, round(2 * size, 3), max(round(size / 500, 4), 1e-4), round(2 * size, 3)
            )
            self._crop = gui.add_checkbox("Crop box", False)
            low, high = ((round(float(v), 4) for v in corner) for corner in subject.box)
            step = max(size / 500, 1e-4)
            self._low = gui.add_vector3("From", tuple(low), step=step, visible=False)  # type: ignore[arg-type]
            self._high = gui.add_vector3("To", tuple(high), step=step, visible=False)  # type: ignore[arg-type]
        count = len(subject.gaussians()) if subject.has_gaussians else 0
        self._budget: viser.GuiSliderHandle[int] | None = None
        if count > 100 and not (drawer is not None and drawer.live):
            self._budget = gui.add_slider("Gaussians", count // 100, count, max(count // 100, 1), count)
        self._connect()

    def _connect(self) -> None:
        for handle in (self._output, self._color_map, self._background, self._near, self._far, self._crop, self._low,
                       self._high, self._side):  # fmt: skip
            handle.on_update(self._updated)
        if self._budget is not None:
            self._budget.on_update(self._updated)
        self._fov.on_update(self._set_fov)

    @property
    def look(self) -> Look:
        """What the controls say."""
        red, green, blue = (c / 255 for c in self._background.value)
        far = self._far.value
        return Look(
            output=self._output.value,
            color_map=self._color_map.value,
            background=(red, green, blue),
            near=self._near.value if self._near.value > 0 else None,
            far=far if far < self._far.max else None,
            crop=self.crop,
            max_gaussians=None
            if self._budget is None or self._budget.value >= self._budget.max
            else int(self._budget.value),
        )

    @property
    def crop(self) -> Box | None:
        if not self._crop.value:
            return None
        corners = [sorted(pair) for pair in zip(self._low.value, self._high.value, strict=True)]
        (x0, x1), (y0, y1), (z0, z1) = corners
        least = 1e-6
        return (x0, y0, z0, max(x1, x0 + least), max(y1, y0 + least), max(z1, z0 + least))

    @property
    def fov(self) -> float:
        """Degrees, vertical."""
        return float(self._fov.value)

    def _updated(self, event: viser.GuiEvent) -> None:
        self.largest_side = int(self._side.value)
        scalar = self._output.value not in ("rgb", "opacity", "normals")
        self._color_map.visible = self._scale.visible = scalar
        self._low.visible = self._high.visible = self._crop.value
        self._show_box()
        self._changed()

    def _set_fov(self, event: viser.GuiEvent) -> None:
        # Of the browser whose user moved the slider; others keep theirs.
        if event.client is not None:
            event.client.camera.fov = float(torch.deg2rad(torch.tensor(self._fov.value)))

    def _show_box(self) -> None:
        box = self.crop
        if box is None:
            if self._box_handle is not None:
                self._box_handle.remove()
                self._box_handle = None
            return
        corners = torch.tensor(box).reshape(2, 3)
        self._box_handle = self._scene.add_box(
            "/crop",
            color=(255, 180, 60),
            dimensions=tuple((corners[1] - corners[0]).tolist()),
            position=tuple(corners.mean(0).tolist()),
            wireframe=True,
        )

    def show_speed(self, shown: ShownPicture) -> None:
        """Tell about the picture that was sent last."""
        if not shown.is_full:
            return
        width, height = shown.size
        self._speed.content = f"{width} x {height} in {1000 * shown.seconds:.0f} ms"
        self._show_scale()

    def _show_scale(self) -> None:
        name = self._output.value
        limits = self._drawer.limits.get(name) if self._drawer is not None else None
        state = (name, self._color_map.value, limits) if limits is not None else None
        if state is not None and state != self._shown_limits:
            self._shown_limits = state
            self._scale.content = scale_html(name, self._color_map.value, limits or (0.0, 1.0))


def scale_html(name: str, color_map: str, limits: tuple[float, float]) -> str:
    """A horizontal colour bar with numbers below it."""
    steps = torch.linspace(0, 1, 17)[None]
    colors = (colormap(steps, color_map, (0.0, 1.0))[0] * 255).round().int().tolist()
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in colors)
    low, high = limits
    numbers = "".join(f"<span>{low + share * (high - low):.3g}</span>" for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    label = f"{name.replace('_', ' ')}, input units" if "depth" in name else name
    return (
        f'<div style="padding:0.2em 0.8em;font-size:0.8em">'
        f'<div style="height:0.9em;border-radius:2px;background:linear-gradient(to right,{stops})"></div>'
        f'<div style="display:flex;justify-content:space-between">{numbers}</div>'
        f'<div style="text-align:center;opacity:0.7">{html.escape(label)}</div></div>'
    )
