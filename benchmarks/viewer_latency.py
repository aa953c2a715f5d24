"""How soon the viewer shows a moved camera.

    python benchmarks/viewer_latency.py
    python benchmarks/viewer_latency.py --what runs --gaussians 100000

Starts `studio view` on Gaussians in a process of its own, moves the camera in headless Chromium with the mouse, and
measures until the new picture is drawn on the page; the same with a plain websocket client, which leaves the browser's
own time out. Writes results/viewer_latency.json.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import viser
import websockets.sync.client as ws
import zstandard
from harness import RESULTS, Report
from websockets.typing import Subprotocol

from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_formats import write_gaussians
from studio.export.splat_selection import SplatSelection
from studio.viewer.subject import Subject, open_subject

PROTOCOL = (
    "`studio view` in a process of its own, on this machine. The camera is moved once, a little, when no picture has "
    "come for 0.4 s; time runs to the first picture that comes then, which is that of a moving camera: its size adapts "
    "to the machine, and the full one follows when the camera rests. chromium: headless with software WebGL (which "
    "takes the processor, too), from the event of the mouse to the frame after the one that first can show the decoded "
    "picture. websocket: from sending the camera to receiving the picture. pictures per second: while the camera moves "
    "all the time."
)
QUIET = 0.4
_HOOK = """
window.pictures = [];
window.moved = 0;
addEventListener('pointermove', () => { window.moved = performance.now(); }, true);
const source = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, 'src');
Object.defineProperty(HTMLImageElement.prototype, 'src', {
  get() { return source.get.call(this); },
  set(value) {
    this.addEventListener('load', () => {
      const decoded = performance.now(), width = this.naturalWidth;
      requestAnimationFrame(() => requestAnimationFrame(() => {
        window.pictures.push({decoded, shown: performance.now(), width});
      }));
    }, {once: true});
    source.set.call(this, value);
  },
});
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", type=Path, help="a run or splat file instead of made-up Gaussians")
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=512, help="side of the canvas, pixels")
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser; '' leaves it out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    report = Report(
        "viewer_latency",
        title="Time from a move of the camera to the new picture in the viewer",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        cloud = made_up_scene(arguments.gaussians) if arguments.what is None else _opened(arguments.what)
        cloud = SplatSelection(max_gaussians=arguments.gaussians).apply(cloud)
        file = Path(scratch) / "scene.ply"
        write_gaussians(file, cloud, "ply")
        for client in ("websocket", "chromium"):
            if client == "chromium" and not arguments.chromium:
                continue
            with served(file) as url:
                measured = (
                    in_browser(url, arguments.chromium, arguments.size, arguments.moves)
                    if client == "chromium"
                    else by_websocket(url, arguments.size, arguments.moves)
                )
            report.add(client=client, gaussians=len(cloud), canvas=f"{arguments.size}x{arguments.size}", **measured)
    report.print()


def made_up_scene(count: int, seed: int = 0) -> GaussianCloud:
    """Gaussians on surfaces, each about as large as its distance from the next, as trained ones are: a floor and balls,
    with colours of degree 3."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    ball = torch.arange(count) % 8
    angle = ball * (2 * math.pi / 7)
    radius = torch.where(ball == 7, 1.0, 0.28)
    centers = torch.stack([angle.cos(), torch.zeros(count), angle.sin()], dim=1) * (ball < 7)[:, None]
    points = points * radius[:, None] + centers
    points[ball == 7, 1] = 0.3 + 0.01 * torch.randn(int((ball == 7).sum()), generator=generator)
    spacing = math.sqrt(8 * 4 * math.pi * 0.28**2 / count)
    sh = torch.zeros(count, 16, 3)
    sh[:, 0] = (torch.rand(count, 3, generator=generator) - 0.5) / SH_C0
    sh[:, 1:] = 0.05 * torch.randn(count, 15, 3, generator=generator)
    return GaussianCloud(
        means=points,
        quats=torch.randn(count, 4, generator=generator),
        log_scales=math.log(spacing) + 0.4 * torch.randn(count, 3, generator=generator),
        logit_opacities=1.0 + 2.0 * torch.randn(count, generator=generator),
        sh=sh,
    )


def _opened(path: Path) -> GaussianCloud:
    found = open_subject(path, device="cpu")
    if not isinstance(found, Subject) or not found.has_gaussians:
        raise SystemExit(f"{path}: has no Gaussians")
    return found.gaussians()


@contextmanager
def served(file: Path) -> Iterator[str]:
    """`studio view` on a file, by its address; ended at last."""
    command = [sys.executable, "-m", "studio", "view", str(file), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "http" in line), "")
        found = re.search(r"http://\S+", line)
        if found is None:
            raise RuntimeError("studio view printed no address")
        yield found.group()
    finally:
        process.terminate()
        process.wait(30)


def figures(milliseconds: list[float], widths: list[int], rate: float, size: int) -> dict[str, Any]:
    """A row: the median and the spread of what was measured."""
    ordered = sorted(milliseconds)
    return {
        "median_ms": round(statistics.median(ordered), 1),
        "p90_ms": round(ordered[min(int(0.9 * len(ordered)), len(ordered) - 1)], 1),
        "moving_size": f"{statistics.median_low(widths)} of {size}",
        "pictures_per_second": round(rate, 1),
        "moves": len(ordered),
    }


# ---- a browser -----------------------------------------------------------------------------------------------------
def in_browser(url: str, chromium: str, size: int, moves: int) -> dict[str, Any]:
    """Move the camera with the mouse in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": size, "height": size})
        page.add_init_script(_HOOK)
        # On slow machines the page would draw with fewer pixels.
        page.goto(f"{url}?fixedDpr=1")
        page.wait_for_function("window.pictures.length > 0", timeout=120_000)
        _until_quiet(page)
        x, y = size // 4, size * 3 // 4
        page.mouse.move(x, y)
        page.mouse.down()
        milliseconds, widths = [], []
        for index in range(moves):
            _until_quiet(page)
            before = page.evaluate("window.pictures.length")
            x += 4 if index % 20 < 10 else -4
            page.mouse.move(x, y)
            page.wait_for_function(f"window.pictures.length > {before}", timeout=30_000)
            moved, first = page.evaluate(f"[window.moved, window.pictures[{before}]]")
            milliseconds.append(first["shown"] - moved)
            widths.append(first["width"])
        before, started = page.evaluate("window.pictures.length"), time.perf_counter()
        while time.perf_counter() - started < 5:
            x += 3 if int(2 * time.perf_counter()) % 2 else -3
            page.mouse.move(x, y)
            time.sleep(0.02)
        rate = (page.evaluate("window.pictures.length") - before) / (time.perf_counter() - started)
        page.mouse.up()
        browser.close()
    return figures(milliseconds, widths, rate, size)


def _until_quiet(page: Any) -> None:
    page.wait_for_function(
        f"window.pictures.length > 0 && performance.now() - window.pictures.at(-1).shown > {1000 * QUIET}",
        timeout=60_000,
    )


# ---- a websocket ---------------------------------------------------------------------------------------------------
def by_websocket(url: str, size: int, moves: int) -> dict[str, Any]:
    """Move the camera by messages of viser's page."""
    options: dict[str, Any] = {"subprotocols": [Subprotocol(f"viser-v{viser.__version__}")], "max_size": None}
    with ws.connect(url.replace("http", "ws"), **options) as connection:
        angle = 0.3
        connection.send(_camera(angle, size))
        _pictures_until_quiet(connection, least=1)
        milliseconds, widths = [], []
        for _ in range(moves):
            angle += 0.01
            started = time.perf_counter()
            connection.send(_camera(angle, size))
            width = None
            while width is None:
                width = _picture(connection.recv(timeout=30))
            milliseconds.append(1000 * (time.perf_counter() - started))
            widths.append(width)
            _pictures_until_quiet(connection)
        shown, started = 0, time.perf_counter()
        while time.perf_counter() - started < 5:
            angle += 0.01
            connection.send(_camera(angle, size))
            end = time.perf_counter() + 0.02
            while (left := end - time.perf_counter()) > 0:
                try:
                    shown += _picture(connection.recv(timeout=left)) is not None
                except TimeoutError:
                    break
        rate = shown / (time.perf_counter() - started)
    return figures(milliseconds, widths, rate, size)


def _camera(angle: float, size: int) -> bytes:
    """Viser's message of a camera that looks at the origin from a circle around it, y pointing down."""
    from studio.cameras.poses import look_at, matrix_to_quaternion

    eye = torch.tensor([2.6 * math.cos(angle), -1.0, 2.6 * math.sin(angle)], dtype=torch.float64)
    pose = look_at(eye, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
    message = {
        "type": "ViewerCameraMessage",
        "wxyz": matrix_to_quaternion(pose[:3, :3]).tolist(),
        "position": eye.tolist(),
        "fov": 0.9,
        "near": 0.01,
        "far": 1000.0,
        "image_height": size,
        "image_width": size,
        "look_at": [0.0, 0.0, 0.0],
        "up_direction": [0.0, -1.0, 0.0],
    }
    return msgspec.msgpack.encode(message)


def _picture(raw: str | bytes) -> int | None:
    """The width of the picture in a message of the server; None if it brings none."""
    assert isinstance(raw, bytes)
    length = int.from_bytes(raw[8:16], "little")
    decoded = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(raw[16 : 16 + length]))
    for message in decoded["messages"]:
        if message["type"] == "BackgroundImageMessage" and message["rgb_data"] is not None:
            data = message["rgb_data"]
            if isinstance(data, dict):
                # Bytes stand behind the message: this asks where.
                offset = 16 + length
                for index, size in enumerate(decoded["binaryBufferLengths"]):
                    offset += -offset % 8
                    if index == data["__binary_index"]:
                        data = raw[offset : offset + size]
                        break
                    offset += size
            return int(_decoded(data).shape[1])
    return None


def _decoded(jpeg: bytes) -> np.ndarray:
    import imageio.v3 as imageio

    return np.asarray(imageio.imread(jpeg, extension=".jpg"))


def _pictures_until_quiet(connection: ws.ClientConnection, least: int = 0) -> None:
    seen = 0
    while True:
        try:
            seen += _picture(connection.recv(timeout=QUIET if seen >= least else 60)) is not None
        except TimeoutError:
            return


if __name__ == "__main__":
    main()
