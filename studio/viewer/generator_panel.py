"""The panel of a run that samples: what to draw, a sheet that follows, walks through latents, captions."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import types
import typing
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import viser
from torch import Tensor

from studio.catalog import find_runs
from studio.errors import StudioError
from studio.export.pictures import grid, to_uint8
from studio.files import atomic_write
from studio.plugin.base import Generator, SampleOptions
from studio.registry import find_plugin, list_plugins
from studio.training.captions import caption_views
from studio.training.loaded import LoadedRun, open_run
from studio.training.previews import as_pictures, labelled_grid, scatter, sheet_of
from studio.training.sampling import Condition, draw_samples
from studio.viewer.session import View
from studio.viewer.sheet_canvas import SheetCanvas

ANY, ALL = "any", "all classes"
_DEFAULT, _MOST, _POINTS = 16, 64, 2000
_CELL, _CAPTIONED_CELL = 64, 160
_WALK = 24
"""Samples from one end of a walk to the other; the slider picks one."""
_VIEW_SIDE = 384
_NO_RUN = "none"
_BLANK = np.full((64, 64, 3), 128, dtype=np.uint8)


class GeneratorPanel:
    """Controls of a trained run, on any viser page. All work is done in a thread of its own; newer requests win.

    Of a generator: seed, number, condition or prompt, the plugin's own sampling options, the sheet of samples, a walk
    between two samples where the plugin interpolates, and captions of the sheet by a chosen captioning run. Of a
    scene: captions of what the browser that asks looks at.

    Args:
        gui: Where to put it, such as `server.gui`; the folder or tab that is open now.
        loaded_run: What samples, or the scene that views are described of.
        canvas: Shows the sheet, too, where the page has no scene.
    """

    def __init__(self, gui: viser.GuiApi, loaded_run: LoadedRun, canvas: SheetCanvas | None = None) -> None:
        self._run = loaded_run
        self._canvas = canvas
        self._latest = LatestWork(self._tell)
        self._sheet: list[Tensor] = []
        spec = find_plugin(loaded_run.config.plugin).spec
        self._capabilities = () if spec is None else spec.all_capabilities()
        self._captioner: tuple[str, LoadedRun] | None = None
        # Pictures are the same for all browsers; the status line, too.
        if isinstance(loaded_run.plugin, Generator) and "caption" not in self._capabilities:
            self._add_sampling(gui, loaded_run.plugin)
            if "interpolate" in self._capabilities and loaded_run.plugin.data_info.sample_shape:
                self._add_walk(gui)
        self._add_captions(gui)
        self._status = gui.add_html("")
        if self._image is not None or self._text is not None:
            self._refresh()

    def close(self) -> None:
        """End the work; what is still computed is shown nowhere."""
        self._latest.close()

    def wait(self, timeout: float = 60.0) -> bool:
        """Whether all that was asked for is done, after at most so many seconds."""
        return self._latest.wait(timeout)

    # ---- controls ------------------------------------------------------------------------------------------------
    _image: viser.GuiImageHandle | None = None
    _text: viser.GuiHtmlHandle | None = None
    _condition: Any = None
    _walk_image: viser.GuiImageHandle | None = None

    def _add_sampling(self, gui: viser.GuiApi, generator: Generator) -> None:
        info, shape = generator.data_info, generator.data_info.sample_shape
        self._seed = gui.add_number("Seed", 0, min=0, step=1, hint="Equal seeds give equal samples")
        another = gui.add_button("Another seed")
        self._number: Any = None
        if shape != ():
            most, first = (_MOST, _DEFAULT) if len(shape) == 3 else (4 * _POINTS, _POINTS)
            step = 1 if len(shape) == 3 else 100
            self._number = gui.add_slider("Number", step, most, step, first)
        if shape == ():
            self._condition = gui.add_text("Prompt", "", multiline=True, hint="How the text begins")
        elif info.has_captions:
            self._condition = gui.add_text("Prompt", "", hint="What the pictures show; empty: no condition")
        elif info.num_classes:
            names = info.class_names or tuple(map(str, range(info.num_classes)))
            self._condition = gui.add_dropdown("Class", (ANY, ALL, *names), initial_value=ANY)
        self._options = {
            field.name: control
            for field in dataclasses.fields(generator.sample_options)
            if (control := OptionControl.add(gui, generator.sample_options, field)) is not None
        }
        if shape == ():
            self._text = gui.add_html("")
        else:
            self._image = gui.add_image(_BLANK, format="png", visible=self._canvas is None)
            if self._canvas is not None:
                self._add_canvas(gui, self._canvas)
        another.on_click(lambda event: self._another_seed())
        controls = [self._seed, self._number, self._condition, *(option.handle for option in self._options.values())]
        for handle in controls:
            if handle is not None:
                handle.on_update(lambda event: self._refresh())

    def _add_canvas(self, gui: viser.GuiApi, canvas: SheetCanvas) -> None:
        zoom = gui.add_slider("Zoom", 1.0, 8.0, 0.25, 1.0, hint="Into the middle of the sheet")
        buttons = gui.add_button_group("Sheet", ("download", "keep"), hint="keep: in the run's folder samples/")

        def zoomed(event: viser.GuiEvent[Any]) -> None:
            canvas.zoom = float(zoom.value)
            canvas.show()

        def take(event: viser.GuiEvent[Any]) -> None:
            picture = canvas.png()
            name = f"seed-{int(self._seed.value)}.png"
            if picture is None:
                return
            if event.target.value == "download" and event.client is not None:
                event.client.send_file_download(name, picture)
            elif event.target.value == "keep":
                self._latest.submit("keep", lambda: self._keep(name, picture, event.client))

        zoom.on_update(zoomed)
        buttons.on_click(take)

    def _keep(self, name: str, picture: bytes, client: viser.ClientHandle | None) -> None:
        path = self._run.path / "samples" / name
        with atomic_write(path) as file:
            file.write(picture)
        if client is not None:
            client.add_notification("Kept", str(path), auto_close_seconds=6.0)

    def _add_walk(self, gui: viser.GuiApi) -> None:
        with gui.add_folder("Interpolation", expand_by_default=False):
            self._position = gui.add_slider(
                "Position", 0.0, 1.0, 1 / (_WALK - 1), 0.0, hint="From one sample to another through the latents"
            )
            self._walk_image = gui.add_image(_BLANK, format="png", visible=False)
        self._walk: tuple[Any, Tensor] | None = None
        self._position.on_update(lambda event: self._latest.submit("walk", self._show_walk))

    def _add_captions(self, gui: viser.GuiApi) -> None:
        shape = self._run.plugin.data_info.sample_shape if isinstance(self._run.plugin, Generator) else None
        if shape is not None and (len(shape) != 3 or self._image is None):
            return
        self._caption_runs = caption_runs(_runs_root(self._run))
        if not self._caption_runs:
            return
        with gui.add_folder("Captions", expand_by_default=False):
            self._caption_choice = gui.add_dropdown("Run", (_NO_RUN, *self._caption_runs), initial_value=_NO_RUN)
            button = gui.add_button("Describe what is shown" if shape is not None else "Describe this view")
            self._said = gui.add_html("")
        button.on_click(self._describe)

    # ---- samples -------------------------------------------------------------------------------------------------
    def _another_seed(self) -> None:
        # Setting the value calls `_refresh` by itself.
        _set(self._seed, "value", int(self._seed.value) + 1)

    def _refresh(self) -> None:
        self._latest.submit("samples", self._sample)
        if self._walk_image is not None and self._walk_image.visible:
            self._latest.submit("walk", self._show_walk)

    def _request(self, count: int) -> tuple[Condition, list[str] | None, dict[str, Any]]:
        """The condition of each sample, the text above each, and the options that differ from the defaults."""
        options = {name: control.value for name, control in self._options.items()}
        defaults = self._run.generator.sample_options()
        options = {name: value for name, value in options.items() if value != getattr(defaults, name)}
        info = self._run.generator.data_info
        if self._condition is None:
            return None, None, options
        said = str(self._condition.value)
        if not isinstance(self._condition, viser.GuiDropdownHandle):
            return ([said] * count, None, options) if said else (None, None, options)
        if said == ANY:
            return None, None, options
        classes = info.num_classes or 1
        names = info.class_names or tuple(map(str, range(classes)))
        labels = [i * classes // count for i in range(count)] if said == ALL else [names.index(said)] * count
        return labels, [names[label] for label in labels], options

    def _sample(self) -> None:
        generator = self._run.generator
        count = 1 if self._number is None else int(self._number.value)
        condition, labels, options = self._request(count)
        drawn = draw_samples(generator, count, condition, seed=int(self._seed.value), options=options)
        self._tell("")
        if isinstance(drawn, list):
            _set(self._text, "content", _pre("\n".join(drawn)))
            return
        if drawn.ndim == 4:
            self._sheet = as_pictures(drawn)
            sheet = labelled_grid(drawn, labels) if labels else grid(sheet_of(drawn, _CELL))
        elif drawn.ndim == 2 and drawn.shape[1] >= 2:
            sheet = scatter(drawn[:, :2], drawn[:0, :2], frame=drawn[:, :2])
        else:
            raise StudioError(f"Samples of shape {tuple(drawn.shape[1:])} have no picture.")
        _set(self._image, "image", to_uint8(sheet))
        if self._canvas is not None:
            self._canvas.show(to_uint8(sheet))

    # ---- walks ---------------------------------------------------------------------------------------------------
    def _show_walk(self) -> None:
        generator = self._run.generator
        condition, _, _ = self._request(_WALK)
        key = (int(self._seed.value), None if condition is None else tuple(condition))
        if self._walk is None or self._walk[0] != key:
            noise = torch.Generator().manual_seed(key[0])
            with torch.no_grad():
                walk = generator.interpolate(_WALK, None, None, condition, noise)  # type: ignore[operator]
            self._walk = (key, walk.detach().float().cpu())
        walk = self._walk[1]
        index = round(float(self._position.value) * (_WALK - 1))
        if walk.ndim == 4:
            picture = sheet_of(walk[index : index + 1], 4 * _CELL)[0]
        else:
            picture = scatter(walk[index : index + 1, :2], walk[:, :2])
        self._tell("")
        _set(self._walk_image, "image", to_uint8(picture))
        _set(self._walk_image, "visible", True)

    # ---- captions ------------------------------------------------------------------------------------------------
    def _describe(self, event: viser.GuiEvent[Any]) -> None:
        chosen = str(self._caption_choice.value)
        if chosen == _NO_RUN:
            self._tell("Choose a captioning run.")
            return
        view = _view_of(event.client) if event.client is not None else None
        self._latest.submit("captions", lambda: self._caption(chosen, view))

    def _caption(self, name: str, view: View | None) -> None:
        if self._captioner is None or self._captioner[0] != name:
            self._captioner = (name, open_run(self._caption_runs[name], device=str(self._run.plugin.device)))
        captioner = self._captioner[1].generator
        if isinstance(self._run.plugin, Generator):
            pictures = list(self._sheet)
            captions = caption_views(captioner, pictures) if pictures else []
            sheet = grid(sheet_of(torch.stack(pictures).movedim(-1, 1), _CAPTIONED_CELL), captions=captions)
            _set(self._image, "image", to_uint8(sheet))
        else:
            if view is None:
                raise StudioError("No browser asked, so there is no view to describe.")
            width, height = view.size
            scale = _VIEW_SIDE / max(width, height)
            camera = view.camera((max(round(scale * width), 1), max(round(scale * height), 1)))
            drawn = next(iter(self._run.render(camera.reshape(1))))["rgb"]
            captions = caption_views(captioner, [drawn])
        self._tell("")
        _set(self._said, "content", _pre("\n".join(captions)))

    def _tell(self, text: str) -> None:
        """A line below all controls, in place of the last one; nothing for an empty text."""
        line = f'<p style="color:#d9534f;margin:0.5em">{escape(" ".join(text.split()))}</p>' if text else ""
        _set(self._status, "content", line)


class LatestWork:
    """Does what is submitted in one thread. Of one kind only the newest that waits is done.

    Args:
        tell: Told in one line what went wrong.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._busy = False
        self._closed = False

    def submit(self, kind: str, work: Callable[[], None]) -> None:
        """Do `work` soon, instead of what of this kind waits; returns at once."""
        with self._changed:
            if self._closed:
                return
            self._waiting[kind] = work
            if not self._busy:
                self._busy = True
                # A thread as long as there is work: a panel that is forgotten leaves none behind.
                threading.Thread(target=self._do_all, name="generator-panel", daemon=True).start()

    def wait(self, timeout: float) -> bool:
        """Whether nothing is left to do, after at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def close(self) -> None:
        """Forget what waits, and take no more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()

    def _do_all(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                work = self._waiting.pop(next(iter(self._waiting)))
            try:
                work()
            except StudioError as error:
                self._tell(str(error))
            except Exception as error:
                # A plugin's mistake must not take the page with it.
                self._tell(f"{type(error).__name__}: {error}")


@dataclasses.dataclass(frozen=True)
class OptionControl:
    """One field of a plugin's sampling options as a control."""

    handle: Any
    read: Callable[[Any], Any]

    @property
    def value(self) -> Any:
        """Of the field; raises StudioError for a text that is none."""
        return self.read(self.handle.value)

    @classmethod
    def add(
        cls, gui: viser.GuiApi, options: type[SampleOptions], field: dataclasses.Field[Any]
    ) -> OptionControl | None:
        """A checkbox, number, text or list, as the field's type wants it; None for types without a control."""
        hint = typing.get_type_hints(options)[field.name]
        default = getattr(options(), field.name)
        label = field.name.replace("_", " ").capitalize()
        if typing.get_origin(hint) is Literal:
            choices = {str(choice): choice for choice in typing.get_args(hint)}
            return cls(gui.add_dropdown(label, tuple(choices), initial_value=str(default)), choices.__getitem__)
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        optional = typing.get_origin(hint) in (typing.Union, types.UnionType) and len(parts) == 1
        kind = parts[0] if optional else hint
        if kind is bool and not optional:
            return cls(gui.add_checkbox(label, bool(default)), bool)
        if kind in (int, float) and not optional:
            step = 1 if kind is int else 0.05
            return cls(gui.add_number(label, default, step=step), kind)
        if kind in (int, float, str):
            text = "" if default is None else str(default)
            handle = gui.add_text(label, text, hint="Empty: chosen by the plugin" if optional else None)
            return cls(handle, lambda said: _parsed(kind, said, label, optional))
        return None


def _parsed(kind: type[Any], said: str, label: str, optional: bool) -> Any:
    said = said.strip()
    if optional and not said:
        return None
    try:
        return kind(said)
    except ValueError:
        raise StudioError(f"{label}: '{said}' is not a number.", fix="Write one, or nothing.") from None


def caption_runs(root: Path) -> dict[str, Path]:
    """Runs in a folder whose plugin captions, newest first: name and path."""
    able = {
        entry.name
        for entry in list_plugins()
        if entry.status == "ok" and entry.spec is not None and "caption" in entry.spec.all_capabilities()
    }
    return {run.name: run.path for run in find_runs(root) if run.plugin in able and not run.problem}


def _runs_root(run: LoadedRun) -> Path:
    """Where `studio train` wrote the run: ROOT/<data>/<plugin>/<time>; of a run elsewhere the folder it lies in."""
    path = run.path.absolute()
    return path.parents[2] if path.parent.name == run.config.plugin and len(path.parents) > 3 else path.parent


def _view_of(client: viser.ClientHandle) -> View:
    camera = client.camera
    size = (max(camera.image_width, 1), max(camera.image_height, 1))
    return View(np.array(camera.wxyz), np.array(camera.position), float(camera.fov), size)


def _pre(text: str) -> str:
    style = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.5em;font-size:0.85em"
    return f'<pre style="{style}">{escape(text)}</pre>'


def _set(handle: Any, name: str, value: Any) -> None:
    """Change a control; one that is gone, as the page shows something else by now, is left alone."""
    if handle is not None:
        with contextlib.suppress(RuntimeError):
            setattr(handle, name, value)
