"""The scene in the browser: cameras turned rightly, and a headless browser that shows what the card's renderer drew."""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surefoot.data.scene3d import Mesh, Scene3D, SceneCamera
from surefoot.report.view3d import Viewer, camera_of

pytest.importorskip("viser", reason="viser is not installed (extra splatting)")
pytestmark = pytest.mark.xdist_group("pages")
BROWSER = next((b for name in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(name))), None)
LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def scene(drawn: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]) -> Scene3D:
    def render(view: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        drawn.append((view, matrix, size))
        image = np.empty((size[1], size[0], 3), dtype=np.uint8)
        image[:, : size[0] // 2], image[:, size[0] // 2 :] = LEFT, RIGHT
        return image

    view = np.eye(4)
    view[:3, :3] = [[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]
    view[:3, 3] = [0.1, -0.2, 4.0]
    camera = SceneCamera("a.jpg", view, np.array([[90.0, 0, 60], [0, 90.0, 40], [0, 0, 1]]), (120, 80), group="train")
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (30, 3))
    mesh = Mesh(points[:4], np.array([[0, 1, 2], [1, 2, 3]]), np.full((4, 4), 200, dtype=np.uint8))
    return Scene3D("two halves", points, np.full((30, 3), 128, dtype=np.uint8), mesh, (camera,), render)


def test_a_camera_goes_to_the_browser_and_back() -> None:
    from scipy.spatial.transform import Rotation

    known = scene([]).cameras[0]
    x, y, z, w = Rotation.from_matrix(known.view[:3, :3].T).as_quat()
    place = -known.view[:3, :3].T @ known.view[:3, 3]
    angle = 2 * math.atan(40 / 90)
    view, matrix, size = camera_of(np.array([w, x, y, z]), place, angle, 1.5, 120)
    assert size == (120, 80)
    assert np.allclose(view, known.view)
    assert np.allclose(matrix, known.matrix)
    assert camera_of(np.array([w, x, y, z]), place, angle, 0.5, 120)[2] == (60, 120)


def until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_what_was_rendered_from_the_first_camera(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    assert BROWSER is not None
    drawn: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
    shown = scene(drawn)
    viewer = Viewer(shown, port=0, largest=320)
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--window-size=900,600",
    ]
    browser = subprocess.Popen(
        [BROWSER, *flags, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        told = tmp_path / "profile" / "DevToolsActivePort"
        until(lambda: told.is_file() and told.read_text(), 60, "the browser's port")
        with urllib.request.urlopen(f"http://127.0.0.1:{told.read_text().split()[0]}/json") as answer:
            page = next(p for p in json.loads(answer.read()) if p["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None) as line:

            def call(number: int, method: str, **settings: Any) -> dict[str, Any]:
                line.send(json.dumps({"id": number, "method": method, "params": settings}))
                while (reply := json.loads(line.recv())).get("id") != number:
                    pass
                return reply

            call(1, "Page.navigate", url=viewer.url)
            first = shown.cameras[0].view
            until(
                lambda: [d for d in drawn if np.allclose(d[0], first, atol=1e-5) and max(d[2]) == 320],
                90,
                "the view at rest",
            )

            def middle() -> bool:
                picture = base64.b64decode(call(2, "Page.captureScreenshot")["result"]["data"])
                pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), dtype=int)
                row = pixels[int(0.75 * len(pixels))]
                left, right = row[len(row) // 4], row[5 * len(row) // 8]
                return left[0] - left[2] > 100 and right[2] - right[0] > 100

            until(middle, 60, "the rendered halves on the page")
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        viewer.close()
