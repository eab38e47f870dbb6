"""Captures: one scene in three forms gives the same cameras; photos, masks, sizes; what is wrong is named by its file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surefoot.data.ply import write_ply
from surefoot.data.posed_photos import FLIP, load_photo, read_posed_photos
from surefoot.records.files import UnsafeFileError

WIDTH, HEIGHT, FOCAL = 24, 17, 30.0
POINTS = np.random.default_rng(0).uniform(-0.3, 0.3, (40, 3))


def views(count: int) -> np.ndarray:
    found = []
    for angle in np.linspace(-0.4, 0.4, count):
        view = np.eye(4)
        view[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        view[2, 3] = 3.0
        found.append(view)
    return np.stack(found)


def pictures(folder: Path, count: int, scale: int = 1) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    names = [f"{i:02d}.png" for i in range(count)]
    for name in names:
        pixels = rng.integers(0, 256, (HEIGHT // scale, WIDTH // scale, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def colmap(root: Path, count: int = 4, shift: float = 0.0) -> Path:
    names = pictures(root / "images", count)
    sparse = root / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    rows = []
    for i, (name, view) in enumerate(zip(names, views(count), strict=True)):
        half = np.arctan2(view[0, 2], view[0, 0]) / 2
        rows.append(f"{i} {np.cos(half)} 0 {np.sin(half)} 0 0 0 3 1 {name}\n\n")
    (sparse / "images.txt").write_text("".join(rows))
    rows = [f"{i} {x} {y} {z + shift} 10 20 30 0.5\n" for i, (x, y, z) in enumerate(POINTS)]
    (sparse / "points3D.txt").write_text("".join(rows))
    return root


def transforms(root: Path, count: int = 4, **keys) -> Path:
    names = pictures(root, count)
    frames = [
        {"file_path": n, "transform_matrix": (np.linalg.inv(v) @ FLIP).tolist()}
        for n, v in zip(names, views(count), strict=True)
    ]
    tree = {"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, "frames": frames, "ply_file_path": "points.ply", **keys}
    colors = dict(
        zip(("red", "green", "blue"), np.full((3, len(POINTS)), [[10], [20], [30]], dtype=np.uint8), strict=True)
    )
    write_ply(root / "points.ply", {**dict(zip("xyz", POINTS.T, strict=True)), **colors})
    (root / "transforms.json").write_text(json.dumps(tree))
    return root


def npz(root: Path, count: int = 4) -> Path:
    names = pictures(root, count)
    matrix = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    colors = np.full((len(POINTS), 3), [10, 20, 30], dtype=np.uint8)
    np.savez(
        root / "scene.npz",
        names=names,
        K=matrix,
        viewmats=views(count),
        width=WIDTH,
        height=HEIGHT,
        points=POINTS,
        colors=colors,
    )
    return root


@pytest.mark.parametrize("make", [colmap, transforms, npz])
def test_one_scene_in_three_forms(tmp_path: Path, make) -> None:
    photos = read_posed_photos(make(tmp_path))
    assert photos is not None
    assert len(photos) == 4
    assert np.allclose(photos.views, views(4), atol=1e-12)
    assert np.allclose(photos.matrices, [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    assert np.allclose(photos.points, POINTS)
    assert np.array_equal(photos.colors, np.full((len(POINTS), 3), [10, 20, 30]))
    exact = np.asarray(Image.open(photos.files[2]), dtype=np.float32) / 255
    assert np.array_equal(load_photo(photos, 2).pixels, exact)


def test_a_reduced_photo_is_the_mean_of_blocks_and_its_camera_sees_the_same(tmp_path: Path) -> None:
    photos = read_posed_photos(colmap(tmp_path))
    whole, small = load_photo(photos, 0), load_photo(photos, 0, reduce=3)
    assert small.pixels.shape == (HEIGHT // 3, WIDTH // 3, 3)
    assert np.allclose(small.pixels[1, 2], whole.pixels[3:6, 6:9].mean(axis=(0, 1)), atol=1e-6)
    # the corner convention: a point at the middle of a block is at a third of its place
    place = np.array([4.5, 7.5, 1.0])
    ray = np.linalg.inv(whole.matrix) @ place
    assert np.allclose(small.matrix @ ray, [1.5, 2.5, 1.0])


def test_smaller_photos_than_the_cameras_say_are_allowed_for(tmp_path: Path) -> None:
    root = colmap(tmp_path)
    pictures(root / "images_2", 4, scale=2)
    photos = read_posed_photos(root, images="images_2")
    assert load_photo(photos, 0).matrix[0, 0] == FOCAL / 2
    with pytest.raises(UnsafeFileError, match="images_4"):
        read_posed_photos(root, images="images_4")


def test_masks_and_transparency(tmp_path: Path) -> None:
    root = transforms(tmp_path)
    clear = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    clear[..., 0], clear[:, :12, 3] = 255, 255
    Image.fromarray(clear).save(root / "01.png")
    (root / "masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(root / "masks" / "01.png")
    photos = read_posed_photos(root)
    photo = load_photo(photos, 1, background=(0.0, 1.0, 0.0))
    assert photo.pixels[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert photo.pixels[0, 20].tolist() == [0.0, 1.0, 0.0]
    assert photo.mask is not None
    assert photo.mask[:8].all()
    assert not photo.mask[8:].any()
    assert load_photo(photos, 0).mask is None


def test_generated_scenes_with_two_files_and_no_endings(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        names = pictures(tmp_path / part, count)
        frames = [
            {"file_path": f"./{part}/{n[:-4]}", "transform_matrix": (np.linalg.inv(v) @ FLIP).tolist()}
            for n, v in zip(names, views(count), strict=True)
        ]
        (tmp_path / f"transforms_{part}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    photos = read_posed_photos(tmp_path)
    assert photos.test == ("test/00.png", "test/01.png")
    assert np.isclose(photos.matrices[0, 0, 0], WIDTH / 2 / np.tan(0.35))
    assert photos.points.shape == (0, 3)


def test_a_folder_without_cameras_is_none_and_a_file_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    assert read_posed_photos(tmp_path) is None
    with pytest.raises(UnsafeFileError, match="not a folder"):
        read_posed_photos(tmp_path / "00.png")


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    root = colmap(tmp_path)
    (root / "images" / "02.png").unlink()
    with pytest.raises(UnsafeFileError, match=r"02\.png is missing"):
        read_posed_photos(root)


def test_a_picture_outside_the_capture_is_not_read(tmp_path: Path) -> None:
    root = transforms(tmp_path / "scene")
    (tmp_path / "secret.png").write_bytes((root / "00.png").read_bytes())
    tree = json.loads((root / "transforms.json").read_text())
    tree["frames"][0]["file_path"] = "../secret.png"
    (root / "transforms.json").write_text(json.dumps(tree))
    with pytest.raises(UnsafeFileError, match="secret"):
        read_posed_photos(root)


def test_a_corrupt_photo_and_another_size_are_named(tmp_path: Path) -> None:
    root = colmap(tmp_path)
    photos = read_posed_photos(root)
    path = root / "images" / "01.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnsafeFileError, match=r"01\.png is not a readable picture"):
        load_photo(photos, 1)
    Image.fromarray(np.zeros((HEIGHT, HEIGHT, 3), dtype=np.uint8)).save(path)
    with pytest.raises(UnsafeFileError, match=r"01\.png is 17 x 17, its camera 24 x 17"):
        load_photo(photos, 1)
    with pytest.raises(UnsafeFileError, match="reduced by 18"):
        load_photo(photos, 0, reduce=18)


def test_points_behind_a_camera_are_said_with_its_photo(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"behind the camera of 00\.png"):
        read_posed_photos(colmap(tmp_path, shift=-9.0))


def test_distorted_and_scaled_cameras_are_refused(tmp_path: Path) -> None:
    root = transforms(tmp_path / "bent", k1=0.1)
    with pytest.raises(UnsafeFileError, match=r"00\.png.*distortion k1"):
        read_posed_photos(root)
    root = transforms(tmp_path / "scaled")
    tree = json.loads((root / "transforms.json").read_text())
    tree["frames"][1]["transform_matrix"] = (2 * np.array(tree["frames"][1]["transform_matrix"])).tolist()
    (root / "transforms.json").write_text(json.dumps(tree))
    with pytest.raises(UnsafeFileError, match=r"01\.png scales or shears"):
        read_posed_photos(root)
    tree["frames"][1]["transform_matrix"] = [[1, 2], [3, "x"]]
    (root / "transforms.json").write_text(json.dumps(tree))
    with pytest.raises(UnsafeFileError, match=r"transform_matrix of 01\.png"):
        read_posed_photos(root)


@pytest.mark.parametrize(("name", "count"), [("sceaux", 11), ("buddha", 13)])
def test_real_captures(name: str, count: int) -> None:
    root = os.environ.get("SUREFOOT_DATA")
    if not root or not (Path(root) / "convex-splatting" / name).is_dir():
        pytest.skip(f"SUREFOOT_DATA has no convex-splatting/{name}")
    photos = read_posed_photos(Path(root) / "convex-splatting" / name)
    assert photos is not None
    assert len(photos) == count
    photo = load_photo(photos, 0, reduce=4)
    assert photo.pixels.shape == {"sceaux": (129, 176, 3), "buddha": (64, 114, 3)}[name]
