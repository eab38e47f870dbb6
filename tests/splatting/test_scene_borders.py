"""From the card: bad scenes are named by their file, an interrupted training loses only its last steps, photos alone are posed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.cli import main
from surefoot.core.rundir import RunReader
from surefoot.records.files import read_json
from surefoot.splatting.card import CARD, tiny_inputs
from surefoot.splatting.export import read_scene

SIZE = (24, 18)


def scene(root: Path, photos: int = 3, model: str = "PINHOLE", params: str = "30 30 12 9", depth: float = 3.0) -> Path:
    """A COLMAP capture in text; points around the origin, cameras side by side at z = -depth."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "sparse" / "0").mkdir(parents=True)
    rows = []
    for i in range(photos):
        Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(root / "images" / f"{i}.jpg")
        rows.append(f"{i} 1 0 0 0 {0.1 * i} 0 {depth} 1 {i}.jpg\n\n")
    sparse = root / "sparse" / "0"
    (sparse / "cameras.txt").write_text(f"1 {model} {SIZE[0]} {SIZE[1]} {params}\n")
    (sparse / "images.txt").write_text("".join(rows))
    points = rng.uniform(-0.3, 0.3, (40, 3))
    (sparse / "points3D.txt").write_text(
        "".join(f"{i} {x} {y} {z} 9 99 200 0.5\n" for i, (x, y, z) in enumerate(points))
    )
    return root


def empty(root: Path) -> None:
    root.mkdir()


def one_photo_alone(root: Path) -> None:
    root.mkdir()
    Image.new("RGB", SIZE).save(root / "only.jpg")


def one_view(root: Path) -> None:
    scene(root, photos=1)


def distorted(root: Path) -> None:
    scene(root, model="OPENCV", params="30 30 12 9 0.1 0 0 0")


def behind(root: Path) -> None:
    scene(root, depth=-3.0)


def corrupt(root: Path) -> None:
    scene(root)
    path = root / "images" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300])


def other_size(root: Path) -> None:
    scene(root)
    Image.new("RGB", (20, 20)).save(root / "images" / "2.jpg")


def not_there(root: Path) -> None:
    scene(root)
    (root / "images" / "2.jpg").unlink()


def no_images(root: Path) -> None:
    scene(root)
    (root / "sparse" / "0" / "images.txt").write_text("# none was registered\n")


def no_points(root: Path) -> None:
    scene(root)
    (root / "sparse" / "0" / "points3D.txt").write_text("")


def cut_short(root: Path) -> None:
    scene(root)
    (root / "sparse" / "0" / "points3D.txt").unlink()
    (root / "sparse" / "0" / "points3D.bin").write_bytes(b"\x07" + bytes(20))


BAD = [
    (empty, ["bad holds 0 photos and no cameras"]),
    (one_photo_alone, ["bad holds 1 photos and no cameras", "at least two"]),
    (one_view, ["bad holds one photo", "--hold-out 0"]),
    (distorted, ["camera 1 is OPENCV", "colmap image_undistorter --image_path images"]),
    (behind, ["40 points are behind the camera of 0.jpg"]),
    (corrupt, ["1.jpg is not a readable picture"]),
    (other_size, ["2.jpg is 20 x 20, its camera 24 x 18"]),
    (not_there, ["images/2.jpg is missing"]),
    (no_images, ["is an empty sparse model", "0 images"]),
    (no_points, ["no points"]),
    (cut_short, ["points3D.bin is not a whole COLMAP file"]),
]


@pytest.mark.parametrize(("make", "parts"), [pytest.param(*b, id=b[0].__name__) for b in BAD])
def test_a_bad_scene_is_named(make: Callable[[Path], None], parts: list[str], tmp_path: Path, capsys) -> None:
    make(tmp_path / "bad")
    assert main(["run", "convex-splatting", str(tmp_path / "bad"), "-o", str(tmp_path / "out"), "--quiet"]) == 1
    said = capsys.readouterr().err
    for part in parts:
        assert part in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "answer").exists()


def test_the_good_scene_runs(tmp_path: Path) -> None:
    """What the bad ones are made from."""
    root = scene(tmp_path / "good")
    more = ["--steps", "4", "--hold-out", "2", "--corners", "4", "--quiet"]
    assert main(["run", "convex-splatting", str(root), "-o", str(tmp_path / "out"), *more]) == 0
    alone = scene(tmp_path / "single", photos=1)
    assert (
        main(
            [
                "run",
                "convex-splatting",
                str(alone),
                "-o",
                str(tmp_path / "one"),
                "--hold-out",
                "0",
                *more[:2],
                "--quiet",
            ]
        )
        == 0
    )


OPTIONS = ["--steps", "120", "--split-from", "20", "--split-every", "40", "--most", "300", "--corners", "4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, Path]:
    """The input, and a run of it without a break."""
    folder = tmp_path_factory.mktemp("whole")
    given = tiny_inputs(folder)["photos"]
    assert main(["run", "convex-splatting", given, "-o", str(folder / "out"), "--quiet", *OPTIONS]) == 0
    return given, folder / "out"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_training_goes_on(how: signal.Signals, whole: tuple[str, Path], tmp_path: Path) -> None:
    """Killed or interrupted in the middle and resumed, it ends with the numbers of the uninterrupted run."""
    given, out = whole
    cut = tmp_path / "cut"
    slowly = (  # saves every ten steps, and rests after each block
        "import sys, time; from importlib import import_module; from surefoot.cli import main;"
        "loop, T = import_module('surefoot.core.solve'), import_module('surefoot.splatting.train').TrainConvexes;"
        "plain, look = loop.Every, T.look; loop.Every = lambda: plain(steps=10);"
        "T.look = lambda self, state: (time.sleep(0.2), look(self, state))[1]; sys.exit(main(sys.argv[1:]))"
    )
    base = ["run", "convex-splatting", given, "-o", str(cut), "--quiet"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", slowly, *base, *OPTIONS], env=env)
    until = time.monotonic() + 120
    while not list(cut.glob("checkpoints/0*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(how)
    code = process.wait()
    if how is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert read_json(cut / "config.json")["status"] == "interrupted"
    assert not (cut / "answer").exists()
    last = max(int(p.name) for p in (cut / "checkpoints").glob("0*"))
    assert 0 < last < 120
    assert main([*base, "--resume"]) == 0
    found, known = (read_scene(folder / "answer") for folder in (cut, out))
    for name in ("points", "log_delta", "log_sigma", "opacity_logit", "sh0"):
        assert np.array_equal(getattr(found, name), getattr(known, name))
    assert RunReader(cut).history["k"][-1] == 120


def test_photos_alone_are_posed_and_trained(tmp_path: Path, monkeypatch, capsys) -> None:
    """pycolmap in a process of its own, then training; verification finds the cameras again."""
    pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra colmap)")
    root = os.environ.get("SUREFOOT_DATA")
    if not root or not (Path(root) / "convex-splatting" / "sceaux").is_dir():
        pytest.skip("SUREFOOT_DATA has no convex-splatting/sceaux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for path in sorted((Path(root) / "convex-splatting" / "sceaux" / "images").iterdir())[3:8]:
        shutil.copy(path, tmp_path / "photos")
    out = tmp_path / "out"
    more = ["--steps", "10", "--reduce", "8", "--hold-out", "4", "--quiet"]
    assert main(["run", "convex-splatting", str(tmp_path / "photos"), "-o", str(out), *more]) == 0
    problem = CARD.reload(RunReader(out))
    assert len(problem.photos) == 5
    assert len(problem.points) > 300
    assert main(["verify", str(out)]) == 0
    said = capsys.readouterr().out
    assert "confirmed" in said
    assert "unchecked" not in said
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("surefoot-")] == []
