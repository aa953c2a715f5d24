"""The panels of generators and of runs: on a real server, by their controls and in a real browser."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import viser
from headless_chromium import chromium
from run_folders import write_run

from studio.errors import StudioError
from studio.registry import find_plugin, load_plugin_class
from studio.training.loaded import LoadedRun, open_run
from studio.viewer.generator_panel import GeneratorPanel, LatestWork, OptionControl, caption_runs
from studio.viewer.runs_panel import RunsPanel

TOYS = Path(__file__).parents[2] / "toy_plugins"
PLUGINS = "toy-rays=toy_specs:RAYS,toy-gauss=toy_specs:GAUSS,toy-pixels=toy_specs:PIXELS,toy-bytes=toy_specs:BYTES"


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TOYS))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("STUDIO_PLUGINS", f"{PLUGINS},toy-nearest=toy_specs:NEAREST")
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("panel_runs")


def trained(root: Path, plugin: str, data: object, **reader: Any) -> LoadedRun:
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=root, tensorboard=False, reader=reader)
    return open_run(train(plugin, str(data), options=options).path, device="cpu")


@pytest.fixture(scope="module")
def pixels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """Pictures of 16x16 in colour: class 0 dark, class 1 bright."""
    labels = np.arange(40, dtype=np.uint8) % 2
    file = tmp_path_factory.mktemp("data") / "levels.npz"
    np.savez(file, x=200 * labels[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8), y=labels)
    return trained(root, "toy-pixels", file)


@pytest.fixture(scope="module")
def captioner(root: Path) -> LoadedRun:
    return trained(root, "toy-nearest", "shapes:16", samples=60)


@pytest.fixture
def server() -> Iterator[viser.ViserServer]:
    running = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    yield running
    running.stop()


def control(server: viser.ViserServer, label: str) -> Any:
    """A control by its label."""
    handles = list(server.gui._gui_input_handle_from_uuid.values())
    return next(handle for handle in handles if getattr(handle, "label", None) == label)


def click(handle: Any) -> None:
    """As a browser without a camera does."""
    for callback in handle._impl.update_cb:
        callback(SimpleNamespace(client=None, client_id=None, target=handle))


def image_of(panel: GeneratorPanel) -> np.ndarray:
    assert panel.wait()
    assert panel._image is not None
    return np.asarray(panel._image.image)


def status_of(panel: Any) -> str:
    return str(panel._status.content)


# ---- generators ----------------------------------------------------------------------------------------------------
def test_the_sheet_follows_the_controls(server: viser.ViserServer, pixels: LoadedRun) -> None:
    panel = GeneratorPanel(server.gui, pixels)
    first = image_of(panel)
    assert first.std() > 1
    click(control(server, "Another seed"))
    second = image_of(panel)
    assert control(server, "Seed").value == 1
    assert (first != second).any()
    control(server, "Seed").value = 0
    np.testing.assert_array_equal(image_of(panel), first)
    control(server, "Number").value = 4
    few = image_of(panel)
    assert few.shape[0] < first.shape[0]
    # Classes: bright ones are brighter than dark ones; the plugin's own option takes their noise away.
    control(server, "Noise").value = 0.0
    levels = {}
    for name in ("0", "1"):
        control(server, "Class").value = name
        sheet = image_of(panel)
        levels[name] = float(sheet[-32:, 20:40].mean())
    assert levels["1"] > levels["0"] + 100
    control(server, "Class").value = "all classes"
    assert image_of(panel).shape != few.shape
    assert status_of(panel) == ""


def test_errors_are_one_line_and_the_next_request_works(
    server: viser.ViserServer, pixels: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = GeneratorPanel(server.gui, pixels)
    before = image_of(panel)
    real = type(pixels.generator).sample

    def fail(self: Any, *args: Any, **options: Any) -> torch.Tensor:
        raise StudioError("the model <b>refuses</b>\nthis.", fix="Ask for less.")

    monkeypatch.setattr(type(pixels.generator), "sample", fail)
    control(server, "Seed").value = 7
    assert panel.wait()
    assert r"the model &lt;b&gt;refuses&lt;/b&gt;\nthis. Ask for less." in status_of(panel)
    np.testing.assert_array_equal(image_of(panel), before)
    monkeypatch.setattr(type(pixels.generator), "sample", lambda self, *a, **o: 1 / 0)
    control(server, "Seed").value = 8
    assert panel.wait()
    assert "ZeroDivisionError" in status_of(panel)
    monkeypatch.setattr(type(pixels.generator), "sample", real)
    control(server, "Seed").value = 9
    assert (image_of(panel) != before).any()
    assert status_of(panel) == ""


def test_a_walk_through_latents(server: viser.ViserServer, pixels: LoadedRun) -> None:
    panel = GeneratorPanel(server.gui, pixels)
    control(server, "Class").value = "1"
    shown = []
    for position in (12 / 23, 0.0, 1.0):
        control(server, "Position").value = position
        assert panel.wait()
        assert panel._walk_image is not None
        assert panel._walk_image.visible
        shown.append(np.asarray(panel._walk_image.image, dtype=np.float64))
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        walk = pixels.generator.interpolate(24, None, None, [1] * 24, noise)  # type: ignore[operator]
    factor = shown[0].shape[0] // 16
    for picture, sample in zip(shown, (walk[12], walk[0], walk[23]), strict=True):
        truth = 255 * sample.clamp(0, 1).movedim(0, -1).numpy()
        np.testing.assert_allclose(picture[::factor, ::factor], truth, atol=0.51)


def test_a_removed_panel_is_left_alone(server: viser.ViserServer, pixels: LoadedRun) -> None:
    panel = GeneratorPanel(server.gui, pixels)
    server.gui.reset()
    panel._refresh()
    assert panel.wait()
    panel.close()
    panel._refresh()
    assert panel.wait()


def test_points_and_text(server: viser.ViserServer, root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    points = GeneratorPanel(server.gui, trained(root, "toy-gauss", "toy:moons"))
    assert (image_of(points).min(axis=-1) < 128).mean() > 0.005
    server.gui.reset()
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("to <b> or not to be\n\n" * 200)
    texts = GeneratorPanel(server.gui, trained(root, "toy-bytes", file))
    control(server, "Prompt").value = "<i>hello"
    assert texts.wait()
    assert texts._text is not None
    assert "&lt;i&gt;hello" in texts._text.content
    assert "<i>" not in texts._text.content


def test_captions_of_samples(
    server: viser.ViserServer, root: Path, pixels: LoadedRun, captioner: LoadedRun
) -> None:  # fmt: skip
    assert captioner.path in caption_runs(root).values()
    panel = GeneratorPanel(server.gui, pixels)
    control(server, "Number").value = 3
    image_of(panel)
    plain = image_of(panel)
    click(control(server, "Describe what is shown"))
    assert panel.wait()
    assert "Choose a captioning run" in status_of(panel)
    name = next(name for name, path in caption_runs(root).items() if path == captioner.path)
    control(server, "Run").value = name
    click(control(server, "Describe what is shown"))
    assert panel.wait()
    assert status_of(panel) == ""
    said = panel._said.content.partition(">")[2].partition("<")[0].splitlines()
    assert len(said) == 3
    assert all("a " in line for line in said)
    assert image_of(panel).shape != plain.shape


def test_views_of_a_scene_are_described(
    server: viser.ViserServer, root: Path, captioner: LoadedRun, tmp_path: Path
) -> None:
    from tiny_scenes import write_ring_scene

    scene = trained(root, "toy-rays", write_ring_scene(tmp_path / "ring"))
    panel = GeneratorPanel(server.gui, scene)
    assert panel._image is None
    control(server, "Run").value = control(server, "Run").options[1]
    camera = SimpleNamespace(
        wxyz=np.array([1.0, 0, 0, 0]), position=np.array([0.0, 0, -2]), fov=0.8, image_width=200, image_height=100
    )  # fmt: skip
    panel._describe(SimpleNamespace(client=SimpleNamespace(camera=camera)))  # type: ignore[arg-type]
    assert panel.wait()
    assert status_of(panel) == ""
    assert "a " in panel._said.content
    panel._describe(SimpleNamespace(client=None))  # type: ignore[arg-type]
    assert panel.wait()
    assert "there is no view to describe" in status_of(panel)


@pytest.mark.parametrize("name", ["vae", "gan", "diffusion", "gpt", "caption"])
def test_every_option_of_the_built_in_plugins_has_a_control(server: viser.ViserServer, name: str) -> None:
    options: Any = load_plugin_class(find_plugin(name)).sample_options  # type: ignore[attr-defined]
    for field in dataclasses.fields(options):
        control = OptionControl.add(server.gui, options, field)
        assert control is not None, field.name
        assert control.value == getattr(options(), field.name), field.name


def test_options_that_may_be_left_to_the_plugin(server: viser.ViserServer) -> None:
    options: Any = load_plugin_class(find_plugin("diffusion")).sample_options  # type: ignore[attr-defined]
    (steps,) = [field for field in dataclasses.fields(options) if field.name == "steps"]
    steps_control = OptionControl.add(server.gui, options, steps)
    assert steps_control is not None
    assert steps_control.value is None
    steps_control.handle.value = " 12 "
    assert steps_control.value == 12
    steps_control.handle.value = "many"
    with pytest.raises(StudioError, match="Steps: 'many' is not a number"):
        _ = steps_control.value


def test_the_latest_request_wins() -> None:
    started, release = threading.Event(), threading.Event()
    done: list[int] = []

    def first() -> None:
        started.set()
        release.wait(10)
        done.append(0)

    latest = LatestWork(lambda text: None)
    latest.submit("x", first)
    assert started.wait(10)
    for i in range(1, 6):
        latest.submit("x", lambda i=i: done.append(i))  # type: ignore[misc]
    latest.submit("y", lambda: done.append(100))
    assert not latest.wait(0.01)
    release.set()
    assert latest.wait(10)
    assert done == [0, 5, 100]


# ---- runs ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def listed(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder, evaluation={"mean": {"psnr": 31.5}}, sh_degree=3)
    write_run(folder, stamp="2026-11-02_080000", done=40, sh_degree=1, preset="<b>x")
    return folder


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_list_of_runs(server: viser.ViserServer, listed: Path) -> None:
    opened: list[Path] = []
    panel = RunsPanel(server.gui, listed, opened.append)
    content = panel._table.content
    assert content.index("2026-11-02") < content.index("2026-11-01")
    assert "PSNR 31.50" in content
    assert "&lt;b&gt;x" in content
    control(server, "Sort by").value = "psnr"
    content = panel._table.content
    assert content.index("2026-11-01") < content.index("2026-11-02")
    control(server, "Filter").value = "psnr>30"
    assert "2026-11-02" not in panel._table.content
    control(server, "Filter").value = "psnr>"
    assert "is no comparison" in status_of(panel)
    control(server, "Filter").value = ""
    assert status_of(panel) == ""
    names = control(server, "Run").options
    assert len(names) == 3
    click(control(server, "Open"))
    assert "Choose a run" in status_of(panel)
    control(server, "Run").value, control(server, "Compare with").value = names[1], names[2]
    assert "sh_degree" in panel._comparison.content
    assert "<b>31.5</b>" in panel._comparison.content
    click(control(server, "Open"))
    wait_until(lambda: bool(opened))
    assert opened == [listed / names[1]]
    write_run(listed, "nerf")
    click(control(server, "Look again"))
    assert "nerf" in panel._table.content


def test_a_run_that_does_not_open_is_told(server: viser.ViserServer, listed: Path) -> None:
    def refuse(path: Path) -> None:
        raise StudioError(f"{path.name}: the plugin is gone.")

    panel = RunsPanel(server.gui, listed, refuse)
    control(server, "Run").value = control(server, "Run").options[1]
    click(control(server, "Open"))
    wait_until(lambda: "the plugin is gone" in status_of(panel))
    server.gui.reset()
    empty = RunsPanel(server.gui, listed / "nowhere", refuse)
    assert "there is no such folder" in status_of(empty)


# ---- in a browser --------------------------------------------------------------------------------------------------
def test_in_a_browser(server: viser.ViserServer, pixels: LoadedRun, listed: Path) -> None:
    opened: list[Path] = []
    panel = GeneratorPanel(server.gui, pixels)
    with server.gui.add_folder("Runs"):
        RunsPanel(server.gui, listed, opened.append)
    first = image_of(panel)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.get_port()}")
        page.get_by_text("PSNR 31.50").wait_for(timeout=60_000)

        def sources() -> list[str]:
            return [str(source) for source in page.locator("img").evaluate_all("all => all.map(e => e.src)")]

        before = sources()
        page.screenshot(path=str(listed / "page.png"))
        page.get_by_role("button", name="Another seed").click()
        wait_until(lambda: sources() != before, 30)
        assert (image_of(panel) != first).any()
        assert page.get_by_text("PSNR 31.50").is_visible()
        assert complaints == []
