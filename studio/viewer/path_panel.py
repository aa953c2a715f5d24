"""The editor of camera paths: keyframes from the present view, their times, preview, files, video."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import viser

from studio.cameras import CameraPath, Cameras, Keyframe, KeyframePath, read_camera_path, write_camera_path
from studio.cameras.keyframes import EASINGS
from studio.cameras.poses import matrix_to_quaternion
from studio.errors import StudioError
from studio.viewer.controls import put
from studio.viewer.jobs import Job
from studio.viewer.subject import camera_in_input, camera_in_scene
from studio.viewer.video import render_video

if TYPE_CHECKING:
    from studio.viewer.stage import Stage

_PREVIEW_FPS = 24.0
_LINE_POINTS = 200
_COLOR, _SELECTED = (250, 200, 60), (240, 90, 60)
_FRUSTUM_SIZE = 0.06
_SIZES = ("640 x 360", "854 x 480", "1280 x 720", "1920 x 1080", "512 x 512", "1024 x 1024")


class PathPanel:
    """Keyframes of one path, shared by all browsers of the page."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._guard = threading.RLock()
        self.path = KeyframePath()
        """In the scene's frame."""
        self.selected = 0
        self._playing: threading.Event | None = None
        self._job: Job | None = None
        self._nodes: list[Any] = []
        self._build()
        self._changed()

    # ---- controls ------------------------------------------------------------------------------------------------
    def _build(self) -> None:
        gui = self._stage.server.gui
        self._add = gui.add_button("Add keyframe here", icon=viser.Icon.CAMERA_PLUS, color="green")
        self._summary = gui.add_markdown("")
        with gui.add_folder("Keyframe") as self._folder:
            self._which = gui.add_dropdown("Number", ("-",))
            self._act = gui.add_button_group("", ("go to", "set here", "delete"))
            self._move = gui.add_button_group("Order", ("earlier", "later"))
            self._seconds = gui.add_number("Seconds before", 2.0, min=0.05, max=600.0, step=0.05)
            self._easing = gui.add_dropdown("Easing", EASINGS)
            self._fov = gui.add_slider("Field of view", 5.0, 120.0, 0.5, 60.0)
        self._closed = gui.add_checkbox("Closed", False, hint="Return to the first keyframe")
        self._scrub = gui.add_slider("Time", 0.0, 1.0, 0.001, 0.0, hint="Share of the whole path")
        self._play = gui.add_button("Preview", icon=viser.Icon.PLAYER_PLAY)
        self._save = gui.add_button("Save path", icon=viser.Icon.DEVICE_FLOPPY)
        self._load = gui.add_upload_button("Load path", icon=viser.Icon.UPLOAD, mime_type="application/json")
        with gui.add_folder("Video", visible=self._stage.drawer is not None) as self._video:
            self._fps = gui.add_number("Frames/s", 30.0, min=1.0, max=120.0, step=1.0)
            self._size = gui.add_dropdown("Size", _SIZES, initial_value=_SIZES[2])
            self._format = gui.add_dropdown("Format", ("mp4", "gif"))
            self._record = gui.add_button("Render video", icon=viser.Icon.MOVIE)
        self._stop = gui.add_button("Stop rendering", visible=False, color="red")
        self._progress = gui.add_progress_bar(0.0, visible=False)
        self._result = gui.add_markdown("")
        self._add.on_click(self._add_here)
        self._which.on_update(lambda event: self._select())
        self._act.on_click(self._acted)
        self._move.on_click(self._moved)
        self._seconds.on_update(lambda event: self._edit(seconds=float(self._seconds.value)))
        self._easing.on_update(lambda event: self._edit(easing=self._easing.value))
        self._fov.on_update(lambda event: self._edit(fov_y=math.radians(float(self._fov.value))))
        self._closed.on_update(lambda event: self._set(replace(self.path, closed=bool(self._closed.value))))
        self._scrub.on_update(self._scrubbed)
        self._play.on_click(self._preview)
        self._save.on_click(self._save_path)
        self._load.on_upload(self._load_path)
        self._record.on_click(self._render)
        self._size.on_update(lambda event: self._redraw())
        self._stop.on_click(lambda event: self._stop_rendering())

    @property
    def size(self) -> tuple[int, int]:
        """Of the video: width, height."""
        width, height = str(self._size.value).split(" x ")
        return int(width), int(height)

    @property
    def fps(self) -> float:
        return float(self._fps.value)

    # ---- editing -------------------------------------------------------------------------------------------------
    def _keyframe_here(self, client: viser.ClientHandle | None, **fields: Any) -> Keyframe | None:
        session = self._stage.session_of(client)
        if session is None or session.view is None:
            return None
        view = session.view
        return Keyframe(view.camera().camera_to_world, min(max(view.fov, 0.01), 3.1), **fields)

    def _add_here(self, event: viser.GuiEvent) -> None:
        key = self._keyframe_here(event.client)
        if key is None:
            return
        with self._guard:
            # Behind the selected one: where one looks is where one wants the next.
            at = min(self.selected + 1, len(self.path))
            self.selected = at
            self._set(self.path.inserted(at, key))

    def _acted(self, event: viser.GuiEvent) -> None:
        with self._guard:
            if not len(self.path):
                return
            index, key = self.selected, self.path.keyframes[self.selected]
            if event.target.value == "delete":
                self.selected = max(index - 1, 0)
                self._set(self.path.without(index))
            elif event.target.value == "set here":
                here = self._keyframe_here(event.client, seconds=key.seconds, easing=key.easing)
                if here is not None:
                    self._set(self.path.replaced(index, here))
            else:
                self._look_through(event.client, self.path.times[index])

    def _moved(self, event: viser.GuiEvent) -> None:
        with self._guard:
            to = self.selected + (1 if event.target.value == "later" else -1)
            if 0 <= to < len(self.path):
                index, self.selected = self.selected, to
                self._set(self.path.moved(index, to))

    def _edit(self, **fields: Any) -> None:
        with self._guard:
            if not len(self.path):
                return
            key = self.path.keyframes[self.selected]
            # Controls that are set from here tell so, too.
            if any(not _same(getattr(key, name), value) for name, value in fields.items()):
                self._set(self.path.replaced(self.selected, replace(key, **fields)))

    def _select(self) -> None:
        with self._guard:
            if str(self._which.value).isdigit() and int(self._which.value) - 1 != self.selected:
                self.selected = min(int(self._which.value) - 1, max(len(self.path) - 1, 0))
                self._changed()

    def _set(self, path: KeyframePath) -> None:
        with self._guard:
            if path != self.path:
                self.path = path
                self._changed()

    def _changed(self) -> None:
        """Show the path as it is now, in the panel and in the scene."""
        count = len(self.path)
        self.selected = min(self.selected, max(count - 1, 0))
        options = tuple(str(i + 1) for i in range(count)) or ("-",)
        if tuple(self._which.options) != options:
            self._which.options = options
        put(self._which, options[self.selected])
        self._folder.visible = count > 0
        if count:
            key = self.path.keyframes[self.selected]
            put(self._seconds, round(key.seconds, 3))
            put(self._easing, key.easing)
            put(self._fov, round(math.degrees(key.fov_y), 1))
        self._seconds.visible = self._easing.visible = self.selected > 0 or self.path.closed
        put(self._closed, self.path.closed)
        usable = count > 1
        self._scrub.visible = self._play.visible = usable
        self._video.visible = usable and self._stage.drawer is not None
        self._save.disabled = count == 0
        self._summary.content = (
            f"{count} keyframes, {self.path.seconds:.2f} s" if count else "Fly somewhere, and add a keyframe."
        )
        self._draw()

    def _redraw(self) -> None:
        with self._guard:
            self._draw()

    def _draw(self) -> None:
        scene = self._stage.server.scene
        for node in self._nodes:
            node.remove()
        self._nodes.clear()
        if not len(self.path) or self._playing is not None:
            # A preview shows what the video will.
            return
        width, height = self.size
        for index, key in enumerate(self.path.keyframes):
            pose = key.camera_to_world.double()
            node = scene.add_camera_frustum(
                f"/path/keyframe_{index:03d}",
                fov=key.fov_y,
                aspect=width / height,
                scale=_FRUSTUM_SIZE * self._stage.subject.size,
                thickness=2.0,
                thickness_units="screen",
                color=_SELECTED if index == self.selected else _COLOR,
                wxyz=matrix_to_quaternion(pose[:3, :3]).numpy(),
                position=pose[:3, 3].numpy(),
                cast_shadow=False,
                receive_shadow=False,
            )
            node.on_click(lambda event, index=index: self._clicked(index))  # type: ignore[misc]
            self._nodes.append(node)
        if len(self.path) > 1:
            times = torch.linspace(0, self.path.seconds, _LINE_POINTS, dtype=torch.float64)
            points = self.path.at(times, width=width, height=height).origins.numpy()
            self._nodes.append(
                scene.add_line_segments(
                    "/path/line",
                    np.stack([points[:-1], points[1:]], axis=1),
                    colors=_COLOR,
                    thickness=2.0,
                    thickness_units="screen",
                )
            )

    def _clicked(self, index: int) -> None:
        with self._guard:
            self.selected = index
            self._changed()

    # ---- preview -------------------------------------------------------------------------------------------------
    def _look_through(self, client: viser.ClientHandle | None, seconds: float) -> None:
        session = self._stage.session_of(client)
        if session is None or not len(self.path):
            return
        width, height = self.size
        camera = self.path.at([seconds], width=width, height=height)[0]
        pose = camera.camera_to_world.double()
        target = session.client.camera
        with session.client.atomic():
            target.position = tuple(pose[:3, 3].tolist())
            target.wxyz = tuple(matrix_to_quaternion(pose[:3, :3]).tolist())
            target.fov = 2 * math.atan(height / 2 / float(camera.fy))

    def _scrubbed(self, event: viser.GuiEvent) -> None:
        # Set by the preview, it moves no camera.
        if event.client is not None:
            self._look_through(event.client, float(self._scrub.value) * self.path.seconds)

    def _preview(self, event: viser.GuiEvent) -> None:
        with self._guard:
            if self._playing is not None:
                self._playing.set()
                return
            if len(self.path) < 2:
                return
            self._playing = threading.Event()
        self._play.label = "Stop"
        self._redraw()
        client, stopped = event.client, self._playing

        def play() -> None:
            started, length = time.perf_counter(), self.path.seconds
            try:
                while not stopped.is_set() and self._stage.session_of(client) is not None:
                    now = time.perf_counter() - started
                    if now > length:
                        if not self.path.closed:
                            self._look_through(client, length)
                            break
                        started, now = time.perf_counter(), 0.0
                    self._look_through(client, now)
                    stopped.wait(1 / _PREVIEW_FPS)
            finally:
                self._playing = None
                self._play.label = "Preview"
                self._redraw()

        threading.Thread(target=play, name="viewer-preview", daemon=True).start()

    # ---- files ---------------------------------------------------------------------------------------------------
    def camera_path(self) -> CameraPath:
        """The path in the frame of the input cameras, as `studio render --path` takes it.

        Raises:
            ValueError: There is no keyframe.
        """
        width, height = self.size
        subject = self._stage.subject
        frames = self.path.frames(self.fps, width=width, height=height)
        keys = self.path.at(torch.tensor(self.path.times), width=width, height=height)
        moved = camera_in_input(keys, subject)
        keyframes = tuple(
            replace(key, camera_to_world=pose)
            for key, pose in zip(self.path.keyframes, moved.camera_to_world, strict=True)
        )
        return CameraPath(camera_in_input(frames, subject), self.fps, self.path.closed, keyframes)

    def _save_path(self, event: viser.GuiEvent) -> None:
        with self._guard:
            if not len(self.path):
                return
            path = self.camera_path()
        folder = self._stage.subject.folder
        with tempfile.TemporaryDirectory() as scratch:
            file = _unused((folder / "paths" if folder is not None else Path(scratch)), "path", "json")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_camera_path(file, path)
                if event.client is not None:
                    event.client.send_file_download(file.name, file.read_bytes(), save_immediately=True)
            except (StudioError, OSError) as error:
                self._result.content = f"**Not saved:** {error}"
                return
            where = f"`{file}`" if folder is not None else f"`{file.name}`"
        self._result.content = f"Saved {where}, which `studio render RUN --path` takes."

    def _load_path(self, event: Any) -> None:
        upload = self._load.value
        with tempfile.TemporaryDirectory() as scratch:
            # The browser's name is not to be trusted with a place on this disk.
            file = Path(scratch) / "path.json"
            file.write_bytes(upload.content)
            try:
                loaded = self._keyframes_of(read_camera_path(file))
            except StudioError as error:
                self._result.content = f"**Not loaded:** {str(error).replace(str(file), upload.name)}"
                return
        with self._guard:
            self.selected = 0
            self._set(loaded)
        self._result.content = f"Loaded `{upload.name}`: {len(loaded)} keyframes"

    def _keyframes_of(self, path: CameraPath) -> KeyframePath:
        subject = self._stage.subject
        keys = path.keyframes
        if not keys:
            # Written by another program: its frames are all there is.
            step = max(math.ceil((len(path.cameras) - 1) / 15), 1)
            kept = path.cameras[::step]
            keys = tuple(
                Keyframe(c.camera_to_world, 2 * math.atan(float(c.height) / 2 / float(c.fy)), step / path.fps)
                for c in kept
            )
        lens = Cameras.from_fov(torch.stack([k.camera_to_world for k in keys]), width=2, height=2, fov_y=1.0)
        poses = camera_in_scene(lens, subject).camera_to_world
        return KeyframePath(
            tuple(replace(key, camera_to_world=pose) for key, pose in zip(keys, poses, strict=True)), path.closed
        )

    # ---- video ---------------------------------------------------------------------------------------------------
    def _render(self, event: viser.GuiEvent) -> None:
        drawer = self._stage.drawer
        with self._guard:
            if drawer is None or self._job is not None or len(self.path) < 2:
                return
            width, height = self.size
            try:
                cameras = self.path.frames(self.fps, width=width, height=height)
            except ValueError as error:
                self._result.content = f"**Not rendered:** {error}"
                return
            fps, look, ending, client = self.fps, self._stage.look, str(self._format.value), event.client
            put(self._progress, 0.0)
            self._progress.visible = self._stop.visible = True
            self._record.disabled = True
            self._result.content = f"rendering {len(cameras)} pictures..."

            def work(job: Job) -> None:
                folder = self._stage.subject.folder
                with tempfile.TemporaryDirectory() as scratch:
                    file = _unused((folder / "renders" if folder is not None else Path(scratch)), "path", ending)
                    render_video(drawer, cameras, look, file, fps=fps, job=job, advance=self._advance)
                    if client is not None:
                        client.send_file_download(file.name, file.read_bytes())
                    where = f"`{file}`" if folder is not None else f"`{file.name}`"
                    self._result.content = f"{where}: {len(cameras)} pictures, {len(cameras) / fps:.1f} s"

            self._job = self._stage.jobs.start(work, failed=self._failed, ended=self._render_ended)

    def _advance(self, share: float) -> None:
        put(self._progress, round(100 * share, 1))

    def _failed(self, text: str) -> None:
        self._result.content = f"**Not rendered:** {text}"

    def _render_ended(self) -> None:
        with self._guard:
            self._job = None
            if self._result.content.endswith("pictures..."):
                self._result.content = "stopped"
            self._progress.visible = self._stop.visible = False
            self._record.disabled = False

    def _stop_rendering(self) -> None:
        with self._guard:
            if self._job is not None:
                self._job.stop()

    def close(self) -> None:
        """End the preview."""
        if self._playing is not None:
            self._playing.set()


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        # Controls round.
        return abs(a - b) < 2e-3
    return a == b


def _unused(folder: Path, stem: str, ending: str) -> Path:
    """A file that is not there yet: stem.ending, stem_2.ending, ..."""
    number = 1
    while True:
        path = folder / (f"{stem}.{ending}" if number == 1 else f"{stem}_{number}.{ending}")
        if not path.exists():
            return path
        number += 1
