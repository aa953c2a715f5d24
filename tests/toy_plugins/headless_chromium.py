"""A real browser without a window, for tests of pages: what it shows, and what it complains about or asks for."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--force-color-profile=srgb",
)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A running Chromium; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this computer")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class OpenPage:
    """One page of a file, and all that it logged, failed at, or requested besides itself.

    Args:
        before: JavaScript that runs before the page's own.
        options: Of the browser's context, such as offline or color_scheme.
    """

    def __init__(
        self, browser: Any, path: Path, width: int, height: int, *, before: str = "", **options: Any
    ) -> None:  # fmt: skip
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        if before:
            self.page.add_init_script(before)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.requests = [url for url in self.requests if not url.startswith("file:")]

    def picture(self) -> np.ndarray:
        """What the window shows, float64 (h, w, 3) in [0, 1]."""
        from PIL import Image

        with Image.open(io.BytesIO(self.page.screenshot())) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64) / 255

    def close(self) -> None:
        self.context.close()


def psnr_of(a: np.ndarray, b: np.ndarray) -> float:
    """dB; 200 for equal pictures."""
    return float(-10 * np.log10(max(np.square(a - b).mean(), 1e-20)))
