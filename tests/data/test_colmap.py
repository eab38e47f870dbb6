"""COLMAP's files: both forms read alike, written by hand from the format's description; broken ones are named."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from surefoot.data.colmap import colmap_folder, read_colmap
from surefoot.records.files import UnsafeFileError

CAMERAS = [(1, 1, 40, 30, (50.0, 51.0, 20.0, 15.0)), (4, 0, 40, 30, (48.0, 19.5, 15.5))]
HALF = np.sqrt(0.5)
IMAGES = [
    (7, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 2.0), 1, "b.jpg", 2),
    (9, (HALF, 0.0, HALF, 0.0), (1.0, 2.0, 3.0), 4, "a b.jpg", 0),
]
POINTS = [(3, (0.5, -0.25, 1.0), (255, 0, 7), 0.5, 2), (8, (1.0, 2.0, 3.0), (1, 2, 3), 0.25, 0)]


def binary(folder: Path) -> None:
    cameras = struct.pack("<Q", len(CAMERAS))
    for number, model, width, height, params in CAMERAS:
        cameras += struct.pack(f"<iiQQ{len(params)}d", number, model, width, height, *params)
    images = struct.pack("<Q", len(IMAGES))
    for number, turn, shift, camera, name, seen in IMAGES:
        images += struct.pack("<i7di", number, *turn, *shift, camera) + name.encode() + b"\0" + struct.pack("<Q", seen)
        images += b"".join(struct.pack("<ddq", 1.0, 2.0, -1) for _ in range(seen))
    points = struct.pack("<Q", len(POINTS))
    for number, place, color, error, track in POINTS:
        points += struct.pack("<Q3d3Bd", number, *place, *color, error) + struct.pack("<Q", track) + b"\0" * (8 * track)
    for name, data in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.bin").write_bytes(data)


def text(folder: Path) -> None:
    names = {0: "SIMPLE_PINHOLE", 1: "PINHOLE"}
    rows = [" ".join(map(str, (n, names[m], w, h, *p))) for n, m, w, h, p in CAMERAS]
    (folder / "cameras.txt").write_text("# cameras\n" + "\n".join(rows) + "\n")
    rows = []
    for number, turn, shift, camera, name, seen in IMAGES:
        rows += [" ".join(map(str, (number, *turn, *shift, camera, name))), " ".join(["1.0 2.0 -1"] * seen)]
    (folder / "images.txt").write_text("# images\n" + "\n".join(rows) + "\n")
    rows = [" ".join(map(str, (n, *p, *c, e, *([0] * 2 * t)))) for n, p, c, e, t in POINTS]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("write", [binary, text])
def test_both_forms_read_alike(tmp_path: Path, write) -> None:
    write(tmp_path)
    model = read_colmap(tmp_path)
    assert [i.name for i in model.images] == ["a b.jpg", "b.jpg"]
    assert np.array_equal(model.cameras[1].pinhole(), [[50, 0, 20], [0, 51, 15], [0, 0, 1]])
    assert np.array_equal(model.cameras[4].pinhole(), [[48, 0, 19.5], [0, 48, 15.5], [0, 0, 1]])
    # a quarter turn about y takes z to x
    assert np.allclose(model.images[0].view[:3, :3] @ [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], atol=1e-12)
    assert np.array_equal(model.images[1].view[:3, 3], [0, 0, 2])
    assert np.array_equal(model.points, [p for _, p, *_ in POINTS])
    assert np.array_equal(model.colors, [c for _, _, c, *_ in POINTS])
    assert np.array_equal(model.errors, [0.5, 0.25])


@pytest.mark.parametrize("kind", ["cameras", "images", "points3D"])
def test_a_file_cut_short_is_named_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    binary(tmp_path)
    whole = (tmp_path / f"{kind}.bin").read_bytes()
    for end in range(len(whole)):
        (tmp_path / f"{kind}.bin").write_bytes(whole[:end])
        with pytest.raises(UnsafeFileError, match=rf"{kind}\.bin"):
            read_colmap(tmp_path)


def test_a_count_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    binary(tmp_path)
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(UnsafeFileError, match=r"points3D\.bin.*ends before"):
        read_colmap(tmp_path)


def test_distortion_is_refused_by_camera_model_and_remedy(tmp_path: Path) -> None:
    binary(tmp_path)
    (tmp_path / "cameras.bin").unlink()
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_RADIAL 40 30 50 20 15 0.1\n4 OPENCV_FISHEYE 4 3 1 1 1 1 0 0 0 0\n")
    with pytest.raises(UnsafeFileError, match=r"camera 1 is SIMPLE_RADIAL.*image_undistorter"):
        read_colmap(tmp_path).cameras[1].pinhole()


def test_an_empty_model_and_a_missing_file_are_said(tmp_path: Path) -> None:
    binary(tmp_path)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(UnsafeFileError, match="empty sparse model"):
        read_colmap(tmp_path)
    (tmp_path / "points3D.bin").unlink()
    with pytest.raises(UnsafeFileError, match=r"points3D\.bin"):
        read_colmap(tmp_path)


def test_unknown_models_and_strange_cameras_are_named(tmp_path: Path) -> None:
    text(tmp_path)
    for row, said in (
        ("1 HOLGA 40 30 50", "HOLGA"),
        ("1 PINHOLE 40 30 50 20", "4"),
        ("1 PINHOLE 0 30 1 1 1 1", "0 x 30"),
    ):
        (tmp_path / "cameras.txt").write_text(row + "\n")
        with pytest.raises(UnsafeFileError, match=said):
            read_colmap(tmp_path)
    (tmp_path / "cameras.txt").write_text("2 PINHOLE 40 30 50 50 20 15\n")
    with pytest.raises(UnsafeFileError, match="names camera"):
        read_colmap(tmp_path)


def test_the_model_is_found_below_a_capture(tmp_path: Path) -> None:
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    assert colmap_folder(tmp_path) is None
    binary(tmp_path / "sparse" / "0")
    assert colmap_folder(tmp_path) == tmp_path / "sparse" / "0"


def test_a_real_model() -> None:
    root = os.environ.get("SUREFOOT_DATA")
    if not root or not (Path(root) / "convex-splatting" / "sceaux").is_dir():
        pytest.skip("SUREFOOT_DATA has no convex-splatting/sceaux")
    folder = colmap_folder(Path(root) / "convex-splatting" / "sceaux")
    assert folder is not None
    model = read_colmap(folder)
    assert len(model.images) == 11
    assert model.points.shape == (7677, 3)
    assert round(float(model.errors.mean()), 2) == 0.37
    assert model.cameras[1].model == "PINHOLE"
