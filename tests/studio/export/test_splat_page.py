"""The web page of Gaussian splats: what a browser draws against our own render, its controls, and its safety."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_clouds import ball_cloud, same_turn
from headless_chromium import OpenPage, chromium, psnr_of

from studio.cameras import Cameras, look_at
from studio.errors import StudioError
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_page import PageView, view_of_cloud, write_splat_page
from studio.export.splat_page_data import CHUNK, TABLE_COLUMNS, pack_gaussians
from studio_splat import rasterization

UP = torch.tensor([0.0, 0.0, 1.0])
BACKGROUND = (0.9, 0.5, 0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., OpenPage]]:
    pages: list[OpenPage] = []

    def call(path: Path, size: tuple[int, int], **options: Any) -> OpenPage:
        pages.append(OpenPage(browser, path, *size, **options))
        wait(pages[-1])
        pages[-1].page.keyboard.press("h")
        return pages[-1]

    yield call
    for page in pages:
        page.close()


def wait(page: OpenPage) -> None:
    """Until the present view is drawn in the right order at full resolution."""
    page.page.wait_for_selector("html[data-state=ready]", state="attached", timeout=60_000)


def seen_from(eye: tuple[float, float, float], size: tuple[int, int], focal: float) -> Cameras:
    """A lens with unequal focal lengths and an off-centre principal point, looking at the origin."""
    position = torch.tensor(eye)
    pose = look_at(position, torch.zeros(3), UP)
    width, height = size
    return Cameras.make(
        pose, width=width, height=height, fx=focal, fy=1.1 * focal, cx=0.46 * width, cy=0.55 * height
    )  # fmt: skip


def rendered(cloud: GaussianCloud, view: PageView, antialiased: bool = False) -> np.ndarray:
    """By the studio's rasteriser."""
    camera = view.camera
    images, _, _ = rasterization(
        cloud.means,
        cloud.quats,
        cloud.log_scales.exp(),
        cloud.logit_opacities.sigmoid(),
        cloud.sh,
        camera.world_to_camera.float()[None],
        camera.intrinsics.float()[None],
        *camera.size,
        near_plane=view.near,
        eps2d=view.eps2d,
        sh_degree=cloud.sh_degree,
        rasterize_mode="antialiased" if antialiased else "classic",
        backgrounds=torch.tensor([view.background]),
    )
    return images[0].clamp(0, 1).double().numpy()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_browser_draws_what_we_render(opened: Any, tmp_path: Path, degree: int) -> None:
    size = (160, 120)
    cloud = ball_cloud(1500, degree)
    # From within the ball's rim: some Gaussians are behind the camera, some reach far beyond the picture.
    view = PageView(seen_from((1.1, 0.5, 0.4), size, 110.0), UP, BACKGROUND, eps2d=0.1)
    write_splat_page(tmp_path / "ball.html", cloud, view)
    page = opened(tmp_path / "ball.html", size, offline=True)
    truth = rendered(cloud, view)
    assert truth.std() > 0.1
    assert psnr_of(page.picture(), truth) > 40
    assert page.complaints == []
    # The worker that sorts comes out of the page itself.
    assert all(url.startswith("blob:") for url in page.requests)


def test_small_gaussians_are_antialiased_as_in_training(opened: Any, tmp_path: Path) -> None:
    size = (96, 96)
    cloud = dataclasses.replace(ball_cloud(3000, 0), log_scales=torch.full((3000, 3), math.log(0.006)))
    view = PageView(seen_from((3.0, 2.0, 1.0), size, 110.0), UP, BACKGROUND, antialiased=True)
    write_splat_page(tmp_path / "dust.html", cloud, view)
    got = opened(tmp_path / "dust.html", size).picture()
    assert psnr_of(got, rendered(cloud, view, antialiased=True)) > 40
    assert psnr_of(got, rendered(cloud, view)) < 30


def test_controls(opened: Any, tmp_path: Path) -> None:
    size = (160, 120)
    view = PageView(seen_from((2.5, 1.0, 0.8), size, 110.0), UP, BACKGROUND)
    write_splat_page(tmp_path / "ball.html", ball_cloud(600, 1), view)
    opened_page = opened(tmp_path / "ball.html", size, has_touch=True)
    page = opened_page.page
    first = opened_page.picture()

    def covered(picture: np.ndarray) -> float:
        return float((np.abs(picture - np.array(BACKGROUND)).max(axis=-1) > 0.02).mean())

    def after(act: Callable[[], None]) -> np.ndarray:
        act()
        page.wait_for_timeout(50)
        wait(opened_page)
        return opened_page.picture()

    def drag() -> None:
        page.mouse.move(80, 60)
        page.mouse.down()
        page.mouse.move(110, 70, steps=3)
        page.mouse.up()

    def pinch() -> None:
        touch = opened_page.context.new_cdp_session(page)
        for kind, gap in (("touchStart", 10), ("touchMove", 20), ("touchMove", 30)):
            points = [{"x": 80 - gap, "y": 60, "id": 0}, {"x": 80 + gap, "y": 60, "id": 1}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    turned = after(drag)
    assert psnr_of(turned, first) < 30
    assert psnr_of(after(lambda: page.keyboard.press("r")), first) > 60
    assert covered(after(lambda: page.mouse.wheel(0, 600))) < 0.6 * covered(first)
    page.keyboard.press("r")
    assert covered(after(pinch)) > 1.3 * covered(first)
    page.keyboard.press("r")
    moved = after(lambda: page.keyboard.press("d"))
    assert psnr_of(moved, first) < 40
    page.keyboard.press("r")
    page.keyboard.press("h")
    page.locator("#background").fill("#0000ff")
    page.keyboard.press("h")
    blue = after(lambda: page.locator("#view").focus())
    assert psnr_of(blue, first) < 15
    np.testing.assert_allclose(blue[2, 2], [0, 0, 1], atol=0.01)
    # A window of another shape shows the whole picture, as large as it can be.
    page.set_viewport_size({"width": 320, "height": 120})
    page.keyboard.press("r")
    wide = after(lambda: None)
    assert psnr_of(wide[:, 80:240], blue) > 35
    assert opened_page.complaints == []


@pytest.mark.parametrize(
    "worker",
    [
        "window.Worker = class { constructor() { throw new Error('no workers for files'); } };",
        "window.Worker = class { postMessage() { setTimeout(() => this.onerror(new Event('error'))); } };",
    ],
    ids=["refused at once", "refused later"],
)
def test_browsers_that_give_files_no_workers(browser: Any, tmp_path: Path, worker: str) -> None:
    size = (96, 72)
    cloud = ball_cloud(300, 0)
    view = PageView(seen_from((2.5, 1.0, 0.8), size, 80.0), UP, BACKGROUND)
    write_splat_page(tmp_path / "x.html", cloud, view)
    page = OpenPage(browser, tmp_path / "x.html", *size, before=worker)
    wait(page)
    page.page.keyboard.press("h")
    assert psnr_of(page.picture(), rendered(cloud, view)) > 40
    assert page.complaints == []
    page.close()


def test_a_graphics_processor_that_is_reset(opened: Any, tmp_path: Path) -> None:
    size = (96, 72)
    cloud = ball_cloud(300, 1)
    view = PageView(seen_from((2.5, 1.0, 0.8), size, 80.0), UP, BACKGROUND)
    write_splat_page(tmp_path / "x.html", cloud, view)
    page = opened(tmp_path / "x.html", size)
    page.page.locator("#view").evaluate(
        """canvas => new Promise(done => {
            const loss = canvas.getContext("webgl2").getExtension("WEBGL_lose_context");
            canvas.addEventListener("webglcontextrestored", () => setTimeout(done));
            canvas.addEventListener("webglcontextlost", () => setTimeout(() => loss.restoreContext(), 50));
            loss.loseContext();
        })"""
    )
    wait(page)
    assert psnr_of(page.picture(), rendered(cloud, view)) > 40


def test_names_are_text(opened: Any, tmp_path: Path) -> None:
    title = '</title></script><script>document.body.innerHTML="taken"</script><img src=x onerror=alert(1)>"&amp;'
    cloud = ball_cloud(50, 0)
    write_splat_page(tmp_path / "x.html", cloud, dataclasses.replace(view_of_cloud(cloud), title=title))
    page = opened(tmp_path / "x.html", (200, 150))
    assert page.page.title() == title
    assert page.page.locator("h1").text_content() == title
    assert page.page.locator("img").count() == 0
    assert page.complaints == []
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)


def test_a_file_is_seen_whole(opened: Any, tmp_path: Path, data_dir: Path) -> None:
    """Somebody else's splats, from the first view that is chosen for them."""
    from studio.export.splat_formats import read_gaussians

    cloud = read_gaussians(data_dir / "splats" / "playbot_3_0")
    cloud = cloud.select(torch.arange(0, len(cloud), 3))
    view = view_of_cloud(cloud)
    write_splat_page(tmp_path / "bot.html", cloud)
    got = opened(tmp_path / "bot.html", (320, 200)).picture()
    small = dataclasses.replace(view, camera=view.camera.rescale((320, 200)))
    assert psnr_of(got, rendered(cloud, small)) > 35
    shown = np.abs(got - np.array(view.background)).max(axis=-1) > 0.05
    assert 0.05 < shown.mean() < 0.8
    rows, columns = shown.any(axis=1).nonzero()[0], shown.any(axis=0).nonzero()[0]
    assert rows[0] > 0
    assert rows[-1] < 199
    assert columns[0] > 0
    assert columns[-1] < 319


# ---- data ----------------------------------------------------------------------------------------------------------
def unpacked(path: Path) -> tuple[dict[str, Any], GaussianCloud]:
    """What the page holds, read back with numpy from the format's description."""
    text = path.read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])  # type: ignore[index]
    raw = zlib.decompress(b64decode(re.search(r'id="data">(.*?)</script>', text)[1]))  # type: ignore[index]
    count, degree = facts["count"], facts["degree"]
    chunks = -(-count // CHUNK)
    table = np.frombuffer(raw, "<f4", chunks * TABLE_COLUMNS).reshape(chunks, TABLE_COLUMNS).astype(np.float64)
    table = table.repeat(CHUNK, axis=0)[:count]
    planes = np.frombuffer(raw, np.uint8, offset=chunks * TABLE_COLUMNS * 4).reshape(-1, count).astype(np.float64)
    coefficients = 3 * ((degree + 1) ** 2 - 1)
    assert len(planes) == 17 + coefficients
    means = np.stack(
        [table[:, k] + table[:, 4 + k] * (planes[2 * k] + 256 * planes[2 * k + 1]) / 65535 for k in range(3)]
    )
    scales = table[:, 3] + table[:, 7] * planes[6:9] / 255
    bits = (planes[9:13].T @ [1, 2**8, 2**16, 2**24]).astype(np.uint64)
    rest = np.stack([(bits >> np.uint64(2 + 10 * k)) & np.uint64(1023) for k in range(3)], 1) / 1023 * 2 - 1
    rest /= math.sqrt(2)
    quats = np.stack(
        [np.insert(r, int(b) & 3, math.sqrt(max(1 - r @ r, 0))) for r, b in zip(rest, bits, strict=True)]
    )  # fmt: skip
    colors = np.stack([table[:, 8 + k] + table[:, 12 + k] * planes[13 + k] / 255 for k in range(3)], 1)
    spans = {1: (11, 15), 2: (16, 17), 3: (18, 19)}
    bands = [band for band in range(1, degree + 1) for _ in range(3 * (2 * band + 1))]
    higher = [
        table[:, spans[band][0]] + table[:, spans[band][1]] * plane / 255
        for band, plane in zip(bands, planes[17:], strict=True)
    ]
    sh = np.concatenate([(colors - 0.5) / SH_C0, *([np.stack(higher, 1)] if higher else [])], axis=1)
    cloud = GaussianCloud(
        torch.tensor(means.T),
        torch.tensor(quats),
        torch.tensor(scales.T),
        torch.tensor(planes[16] / 255).logit(),
        torch.tensor(sh).reshape(count, -1, 3),
    )
    return facts, cloud


def test_the_data_hold_the_gaussians(tmp_path: Path) -> None:
    cloud = ball_cloud(700, 2)
    far = torch.tensor([1000.0, -2000.0, 300.0])
    cloud = dataclasses.replace(cloud, means=cloud.means + far)
    write_splat_page(tmp_path / "x.html", cloud)
    facts, back = unpacked(tmp_path / "x.html")
    drawn = cloud.logit_opacities.sigmoid() * 255 >= 1
    assert facts["count"] == int(drawn.sum())
    origin = cloud.means.double().median(dim=0).values
    from scipy.spatial import cKDTree

    distance, index = cKDTree((cloud.means.double() - origin).numpy()).query(back.means.numpy())
    # Half a 65,535th of a range that no chunk's is wider than.
    assert distance.max() < 1e-4
    assert len(set(index)) == len(index)
    truth = cloud.select(torch.from_numpy(index))
    assert float((back.log_scales - truth.log_scales).abs().max()) < 0.02
    assert float(same_turn(back.quats, truth.quats).max()) < 4e-3
    assert float((back.logit_opacities.sigmoid() - truth.logit_opacities.sigmoid()).abs().max()) < 0.51 / 255
    assert float((back.sh[:, 0] - truth.sh[:, 0]).abs().max()) * SH_C0 < 0.51 / 255
    assert float((back.sh[:, 1:] - truth.sh[:, 1:]).abs().max()) < 0.52 * 2 / 255


def test_extremes_do_not_coarsen_their_neighbours() -> None:
    cloud = ball_cloud(300, 0)
    scales, logits = cloud.log_scales.clone(), cloud.logit_opacities.clone()
    scales[5, 1], logits[7], logits[9] = -math.inf, math.inf, -math.inf
    packed = pack_gaussians(dataclasses.replace(cloud, log_scales=scales, logit_opacities=logits), np.zeros(3))
    table = np.frombuffer(zlib.decompress(packed.data), "<f4", 2 * TABLE_COLUMNS).reshape(2, -1)
    assert np.isfinite(table).all()
    assert (table[:, 7] <= 12.1).all()
    drawn = int((cloud.logit_opacities.sigmoid() * 255 >= 1).sum())
    assert packed.count == drawn - int(cloud.logit_opacities[9].sigmoid() * 255 >= 1)


def test_what_cannot_be_a_page(tmp_path: Path) -> None:
    cloud = ball_cloud(10, 0)
    with pytest.raises(StudioError, match=r"x\.html: no Gaussian is left to show"):
        write_splat_page(tmp_path / "x.html", cloud.select(torch.arange(0)))
    view = view_of_cloud(cloud)
    with pytest.raises(ValueError, match="camera must be one pinhole"):
        dataclasses.replace(view, camera=view.camera.reshape(1))
    with pytest.raises(ValueError, match="up must be a direction"):
        dataclasses.replace(view, up=torch.zeros(3))
