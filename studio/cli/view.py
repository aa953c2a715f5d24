"""`studio view`: look at a run, a splat file or posed photos in the browser."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from studio.cli.arguments import NonNegativeInt, parse
from studio.cli.console import err, out
from studio.cli.train_arguments import ReaderOptions
from studio.reading.files import is_file, is_folder


@dataclass
class ViewOptions:
    """Where the viewer listens."""

    port: NonNegativeInt = 7007
    """Port of the page; if it is taken, the next free one."""
    host: str = "127.0.0.1"
    """Address to listen on: this machine only, unless another is given (0.0.0.0 for all), which a token protects."""
    token: str | None = None
    """What the page's address must hold; made for addresses beyond this machine if none is given."""


@dataclass
class View:
    """Look at a run, a splat file or posed photos in the browser.

    Runs of scenes are rendered here, at a size that keeps up with the camera, with their photos to compare, an editor
    of camera paths, videos and exports. Runs of generators sample. Ctrl-C ends it.
    """

    what: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE|DATA")]
    """Run folder, or one above it, whose newest run is taken; a splat file (.ply, .spz, .splat, .sog); or a folder of
    posed photos."""
    page: tyro.conf.OmitArgPrefixes[ViewOptions] = field(default_factory=ViewOptions)
    device: str = "auto"
    """Where to render: auto, cpu, cuda, cuda:N or mps."""
    reader: tyro.conf.OmitArgPrefixes[ReaderOptions] = field(default_factory=ReaderOptions)


def main(argv: Sequence[str], started: float) -> int:
    """Serve until Ctrl-C."""
    request = parse(View, argv, prog="studio view", positionals=1)
    from studio.devices import apply_threads
    from studio.viewer.access import Access
    from studio.viewer.app import Viewer
    from studio.viewer.subject import Subject, open_subject

    apply_threads()
    # A service manager ends it as orderly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    access = Access.make(request.page.host, request.page.token)
    found = open_subject(request.what, device=request.device, reader=request.reader.to_dict())
    viewer = Viewer(access, request.page.port, runs_root=_runs_root(request.what), device=request.device)
    try:
        if isinstance(found, Subject):
            viewer.show(found)
        else:
            viewer.show_generator(found)
        announce(viewer.url, viewer.server.get_port(), request.page.port)
        err().print("Ctrl-C ends it.", style="dim")
        threading.Event().wait()
    except KeyboardInterrupt:
        err().print("closed", style="dim")
    finally:
        viewer.close()
    return 0


def announce(url: str, port: int, wanted: int) -> None:
    """Print the address, and say if it is not on the port that was asked for."""
    if wanted not in (0, port):
        err().print(f"note: port {wanted} is taken, this is {port}", markup=False)
    out().print("viewer: ", end="")
    out().print(url, style=f"bold link {url}", markup=False)


def _runs_root(path: Path) -> Path | None:
    """The folder whose runs are offered beside the one that is shown: OUTPUT of OUTPUT/<data>/<plugin>/<time>/."""
    path = path.expanduser()
    if is_file(path / "config.yaml"):
        parents = path.absolute().parents
        return parents[2] if len(parents) > 2 else None
    return path if is_folder(path) and any(path.glob("**/config.yaml")) else None
