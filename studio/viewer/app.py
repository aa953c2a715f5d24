"""The viewer as a whole: the server, a session for every browser, and the panels."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import viser

from studio.kernels import cache
from studio.training.loaded import LoadedRun
from studio.viewer.access import Access, Server
from studio.viewer.busy import Busy
from studio.viewer.sheet_canvas import SheetCanvas
from studio.viewer.stage import Stage
from studio.viewer.subject import Subject, open_subject
from studio.viewer.turns import LockedTurns, TrainingTurns

_log = logging.getLogger(__name__)
_NOTICE_SECONDS = 30.0
_GENERATOR_PANEL = "studio.viewer.generator_panel"
_RUNS_PANEL = "studio.viewer.runs_panel"


class Viewer:
    """Serves a subject to any number of browsers until `close`.

    Args:
        access: Where to listen, for whom.
        port: The first port to try.
        runs_root: Folder whose runs are listed in a panel; None: no such panel.
        device: Where runs and files that are opened from the page are drawn.
    """

    def __init__(self, access: Access, port: int, *, runs_root: Path | None = None, device: str = "auto") -> None:
        self.server = Server(access, port)
        self.device = device
        self._guard = threading.RLock()
        self._stage: Stage | None = None
        self._canvas: SheetCanvas | None = None
        self._turns: LockedTurns | TrainingTurns = LockedTurns()
        self._runs_root = runs_root
        self._closed = False
        self.on_compile: Callable[[str], None] = lambda text: None
        """Also told when kernels are compiled, which holds up the first picture."""
        self._compile_told = float("-inf")
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(cache.compile_listener(self._compiling))
        self.server.gui.configure_theme(
            control_width="medium", dark_mode=True, show_logo=False,
            show_share_button=False, brand_color=(56, 132, 214),
        )  # fmt: skip
        self.server.on_client_connect(self._arrived)
        self.server.on_client_disconnect(self._left)

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return self.server.url

    # ---- what is shown -------------------------------------------------------------------------------------------
    def show(
        self,
        subject: Subject,
        turns: TrainingTurns | None = None,
        header: Callable[[viser.GuiApi], None] = lambda gui: None,
    ) -> Stage:
        """Show a scene instead of what was shown before.

        Args:
            turns: Of the training that goes on, if one does.
            header: Puts controls above the tabs.
        """
        with self._guard:
            self._clear()
            self._turns = turns or LockedTurns()
            self._stage = Stage(self.server, subject, self._turns, live=turns is not None, header=header)
            panel = _optional(_GENERATOR_PANEL, "GeneratorPanel") if turns is None and subject.run is not None else None
            if panel is not None:
                with self.server.gui.add_folder("Describe", expand_by_default=False):
                    panel(self.server.gui, subject.run)
            self._mount_runs()
            for client in self.server.get_clients().values():
                self._stage.arrived(client)
            return self._stage

    def show_generator(self, run: LoadedRun) -> None:
        """Show the panel of a run that samples; there is no scene."""
        with self._guard:
            self._clear()
            self.server.gui.set_panel_label(f"{run.config.data.path} / {run.config.plugin}")
            panel = _optional(_GENERATOR_PANEL, "GeneratorPanel")
            if panel is None:
                self.server.gui.add_markdown("This run samples: `studio sample` draws from it.")
            else:
                self._canvas = SheetCanvas(self.server)
                panel(self.server.gui, run, self._canvas)
            self._mount_runs()

    def open(self, path: Path) -> None:
        """Open another run, file or folder of photos in the page.

        Raises:
            StudioError: There is none.
        """
        with Busy(self.server).saying("Loading", path.name):
            found = open_subject(path, device=self.device)
        if isinstance(found, Subject):
            self.show(found)
        else:
            self.show_generator(found)

    def _clear(self) -> None:
        self._turns.close()
        if self._stage is not None:
            self._stage.close()
            self._stage = None
        self._canvas = None
        for client in self.server.get_clients().values():
            client.scene.set_background_image(None)
        self.server.scene.reset()
        self.server.gui.reset()

    def _mount_runs(self) -> None:
        panel = _optional(_RUNS_PANEL, "RunsPanel") if self._runs_root is not None else None
        if panel is None:
            return
        with self.server.gui.add_folder("Runs", expand_by_default=False):
            panel(self.server.gui, self._runs_root, self.open)

    # ---- browsers ------------------------------------------------------------------------------------------------
    def _arrived(self, client: viser.ClientHandle) -> None:
        with self._guard:
            if self._stage is not None and not self._closed:
                self._stage.arrived(client)
            elif self._canvas is not None and not self._closed:
                self._canvas.arrived(client)

    def _left(self, client: viser.ClientHandle) -> None:
        with self._guard:
            if self._stage is not None:
                self._stage.left(client.client_id)

    def _compiling(self, now: cache.Compiling) -> None:
        """Say on every page, and where it is said without one, why nothing is to be seen yet; every few seconds."""
        if now.finished or time.monotonic() - self._compile_told < 2.0:
            return
        self._compile_told, text = time.monotonic(), str(now)
        _log.warning(text)
        self.on_compile(text)
        if not self._closed:
            for client in self.server.get_clients().values():
                client.add_notification("Just a moment", text, loading=True, auto_close_seconds=_NOTICE_SECONDS)

    def close(self) -> None:
        """Disconnect all browsers and end all threads."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self._listening.close()
            # Whoever waits for a turn must be told before he is waited for.
            self._turns.close()
            if self._stage is not None:
                self._stage.close()
        self.server.stop()


def _optional(module: str, name: str) -> Callable[..., Any] | None:
    """A panel, if this installation has it."""
    if importlib.util.find_spec(module) is None:
        return None
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
