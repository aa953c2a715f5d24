"""Export from the page: splat files, the plugin's own formats, meshes and point clouds."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import viser

from studio.errors import StudioError
from studio.export.geometry import GEOMETRY_FORMATS, GeometryOptions, export_geometry
from studio.export.splat_formats import SPLAT_ENDINGS, SPLAT_FORMATS, write_gaussians
from studio.viewer.controls import put
from studio.viewer.jobs import Job

if TYPE_CHECKING:
    from studio.viewer.stage import Stage

_ENDINGS = {"pointcloud": "ply", "mesh": "ply", **SPLAT_ENDINGS}
_LARGEST_DOWNLOAD = 512 << 20


class ExportPanel:
    """A format, and a button that writes it: to the run's folder, and to the browser."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        subject = stage.subject
        field = subject.field
        assert field is not None
        splats = SPLAT_FORMATS if subject.has_gaussians else {}
        own = field.export_formats if subject.run is not None else {}
        # A mesh takes many renders, all in one turn.
        still = stage.drawer is not None and not stage.drawer.live
        geometry = GEOMETRY_FORMATS if subject.run is not None and still else {}
        # As of `studio export`: files of Gaussians are written all alike.
        self._formats: dict[str, str] = {**splats, **{n: t for n, t in own.items() if n not in splats}}
        self._formats |= {n: t for n, t in geometry.items() if n not in self._formats}
        gui = stage.server.gui
        if not self._formats:
            gui.add_markdown("There is nothing to export.")
            return
        first = next(iter(self._formats))
        self._format = gui.add_dropdown("Format", tuple(self._formats), initial_value=first)
        self._about = gui.add_markdown(self._formats[first])
        limits = "The crop box and the number of Gaussians of *View* hold for splat files, too. " if splats else ""
        gui.add_markdown(f"{limits}Exports lie where the input cameras are.")
        self._button = gui.add_button("Export", icon=viser.Icon.DOWNLOAD)
        self._progress = gui.add_progress_bar(0.0, visible=False)
        self._result = gui.add_markdown("")
        self._format.on_update(lambda event: self._describe())
        self._button.on_click(self._start)

    def _describe(self) -> None:
        self._about.content = self._formats[self._format.value]

    def _start(self, event: viser.GuiEvent) -> None:
        self._button.disabled = True
        put(self._progress, 0.0)
        self._progress.visible = True
        self._result.content = "writing..."
        format = self._format.value
        self._stage.jobs.start(
            lambda job: self._export(job, format, event.client), failed=self._failed, ended=self._ended
        )

    def _failed(self, text: str) -> None:
        self._result.content = f"**Not written:** {text}"

    def _ended(self) -> None:
        self._button.disabled = False
        self._progress.visible = False

    def _export(self, job: Job, format: str, client: viser.ClientHandle | None) -> None:
        subject = self._stage.subject
        name = f"{_stem(subject.title)}_{format}" if format in GEOMETRY_FORMATS else _stem(subject.title)
        file = f"{name}.{_ENDINGS.get(format, format)}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = subject.folder / "exports" if subject.folder is not None else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file
            self._write(job, format, path)
            size = path.stat().st_size
            kept = f"`{path}`" if subject.folder is not None else f"`{file}`"
            if client is not None and size <= _LARGEST_DOWNLOAD:
                client.send_file_download(file, path.read_bytes())
            elif subject.folder is None:
                raise StudioError(f"{file}: {size / 2**20:,.0f} MiB is too much for the browser.", fix="studio export")
            self._result.content = f"{kept}: {size / 2**20:,.1f} MiB"

    def _write(self, job: Job, format: str, path: Path) -> None:
        subject, drawer, look = self._stage.subject, self._stage.drawer, self._stage.look
        assert subject.field is not None
        assert drawer is not None
        if format in SPLAT_FORMATS and subject.has_gaussians:
            cloud = drawer.turns.run(lambda: drawer.selection(look))
            write_gaussians(path, cloud.transformed(subject.input_from_scene), format)
            return
        field = subject.field
        if format in field.export_formats:
            drawer.turns.run(lambda: field.export(format, path, input_from_scene=subject.input_from_scene))
            return
        run = subject.run
        assert run is not None
        cameras = run.cameras("train")
        options = GeometryOptions(resolution=128)
        views = min(options.views, len(cameras))
        done = 0

        def advance() -> None:
            nonlocal done
            job.check()
            done += 1
            put(self._progress, 100 * done / views)

        drawer.turns.run(
            lambda: export_geometry(
                field, format, path, scene=run.scene, cameras=cameras, background=run.background, options=options,
                on_view=advance,
            )
        )  # fmt: skip


def _stem(title: str) -> str:
    """A file name out of a title: 'tabletop / splat' gives 'tabletop'."""
    first = title.split(" / ")[0]
    first = re.sub(r"(\.compressed)?\.(ply|spz|splat|sog)$", "", first, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "_", first).strip("._") or "scene"
