"""One scene on show: its panels, what they ask for, and the sessions that draw it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import viser

from studio.viewer.client_splats import ClientSplats
from studio.viewer.drawing import Drawer, Look
from studio.viewer.export_panel import ExportPanel
from studio.viewer.jobs import Jobs
from studio.viewer.look_panel import LookPanel
from studio.viewer.path_panel import PathPanel
from studio.viewer.photo_panel import PhotoPanel
from studio.viewer.session import Session, ShownPicture
from studio.viewer.subject import Subject
from studio.viewer.turns import Turns


class Stage:
    """Builds the page of a subject, and keeps what all its browsers share.

    Args:
        server: Empty.
        subject: What is shown.
        turns: When its field may be used.
        live: Whether it is being trained.
        header: Puts controls above the tabs.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        subject: Subject,
        turns: Turns,
        *,
        live: bool = False,
        header: Callable[[viser.GuiApi], None] = lambda gui: None,
    ) -> None:
        self.server = server
        self.subject = subject
        self.turns = turns
        self.drawer = Drawer(subject, turns, live=live) if subject.field is not None else None
        self.jobs = Jobs()
        self._sessions: dict[int, Session] = {}
        self._guard = threading.Lock()
        self.last_shown: ShownPicture | None = None
        self._set_first_view()
        gui = server.gui
        gui.set_panel_label(subject.title)
        header(gui)
        self.tabs = gui.add_tab_group()
        with self.tabs.add_tab("View"):
            self.look_panel = LookPanel(gui, server.scene, subject, self.drawer, self.look_changed)
            self.client_splats = ClientSplats(gui, server.scene, self) if subject.has_gaussians and not live else None
        self.photo_panel: PhotoPanel | None = None
        if subject.photos is not None:
            with self.tabs.add_tab("Photos"):
                self.photo_panel = PhotoPanel(self)
        with self.tabs.add_tab("Path"):
            self.path_panel = PathPanel(self)
        if subject.field is not None:
            with self.tabs.add_tab("Export"):
                self.export_panel = ExportPanel(self)
        self._add_points()

    # ---- sessions ------------------------------------------------------------------------------------------------
    def arrived(self, client: viser.ClientHandle) -> None:
        """Draw for a browser from now on."""
        with self._guard:
            if client.client_id in self._sessions:
                return
            session = Session(client, self.drawer, lambda: self.look, lambda: self.look_panel.largest_side, self._shown)
            session.hidden = self.client_splats is not None and self.client_splats.on
            self._sessions[client.client_id] = session
        session.start()

    def left(self, client_id: int) -> None:
        """A browser is gone."""
        with self._guard:
            session = self._sessions.pop(client_id, None)
        if session is not None:
            session.close()

    def sessions(self) -> list[Session]:
        with self._guard:
            return list(self._sessions.values())

    def session_of(self, client: viser.ClientHandle | None) -> Session | None:
        """That of a browser; of the only one, where an event does not say which."""
        with self._guard:
            if client is not None:
                return self._sessions.get(client.client_id)
            return next(iter(self._sessions.values())) if len(self._sessions) == 1 else None

    def refresh(self, *, moving: bool = False) -> None:
        """All browsers get a new picture."""
        for session in self.sessions():
            session.refresh(moving=moving)

    # ---- what is shown -------------------------------------------------------------------------------------------
    @property
    def look(self) -> Look:
        return self.look_panel.look

    def look_changed(self) -> None:
        """Something in the panel of looks was set."""
        if self.client_splats is not None:
            self.client_splats.look_changed()
        self.refresh()

    def set_client_side(self, on: bool) -> None:
        """Let the browsers draw by themselves, or draw for them."""
        for session in self.sessions():
            session.hidden = on
            session.refresh()

    def _shown(self, shown: ShownPicture) -> None:
        self.last_shown = shown
        self.look_panel.show_speed(shown)

    def _set_first_view(self) -> None:
        first = self.subject.first_view()
        self.server.scene.set_up_direction(self.subject.up)
        camera = self.server.initial_camera
        camera.position = _triple(first.position)
        camera.look_at = _triple(first.target)
        camera.up = self.subject.up
        camera.fov = first.fov
        camera.near = 1e-3 * self.subject.size
        camera.far = 1e3 * self.subject.size
        # Those who are here already.
        for client in self.server.get_clients().values():
            with client.atomic():
                client.camera.up_direction = self.subject.up
                client.camera.position = _triple(first.position)
                client.camera.look_at = _triple(first.target)
                client.camera.fov = first.fov

    def _add_points(self) -> None:
        points = self.subject.points
        if points is None or not len(points) or self.subject.field is not None:
            return
        self.server.scene.add_point_cloud(
            "/points",
            points.xyz.numpy(),
            (points.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            point_size=0.004 * self.subject.size,
            point_shape="rounded",
        )

    def close(self) -> None:
        """End what goes on in the background; what waits for a turn must have been told before."""
        with self._guard:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()
        self.jobs.close()
        for session in sessions:
            session.join()
        if self.photo_panel is not None:
            self.photo_panel.close()
        self.path_panel.close()


def _triple(vector: torch.Tensor) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return (x, y, z)
