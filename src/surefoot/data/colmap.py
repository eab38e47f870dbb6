"""COLMAP's sparse models: cameras, posed images and coloured points, from the binary and the text files.

    cameras     id, model, width, height, parameters (pixels; the centre of the first pixel is (0.5, 0.5))
    images      id, quaternion (w, x, y, z) and translation of world to camera, camera id, name
    points3D    id, position, colour, mean reprojection error

The camera looks along +z, x to the right, y down. Observations (2D points and tracks) are passed over.

References:
    COLMAP documentation, "Output Format" (https://colmap.github.io/format.html).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.records.files import UnsafeFileError, regular

__all__ = ["ColmapCamera", "ColmapImage", "ColmapModel", "colmap_folder", "read_colmap"]

Array = np.ndarray[Any, np.dtype[Any]]
KINDS = ("cameras", "images", "points3D")
# the models' names in the order of their numbers, with how many parameters each has
MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8, "FULL_OPENCV": 12, "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12, "RAD_TAN_THIN_PRISM_FISHEYE": 16,
    "SIMPLE_DIVISION": 4, "DIVISION": 5, "SIMPLE_FISHEYE": 3, "FISHEYE": 4, "EUCM": 6, "EQUIRECTANGULAR": 2,
}  # fmt: skip


@dataclass(frozen=True)
class ColmapCamera:
    """One camera: the name of its model and the parameters in COLMAP's order."""

    id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def pinhole(self) -> Array:
        """The matrix K (3, 3) of a camera without distortion, the corner of the first pixel at (0, 0).

        Raises:
            UnsafeFileError: the model has distortion; the message names camera, model and the command that removes it.
        """
        if self.model == "PINHOLE":
            fx, fy, cx, cy = self.params
        elif self.model == "SIMPLE_PINHOLE":
            fx, cx, cy = self.params
            fy = fx
        else:
            raise UnsafeFileError(
                f"camera {self.id} is {self.model}, a model with distortion; expected PINHOLE or SIMPLE_PINHOLE. Undistort first: "
                "colmap image_undistorter --image_path images --input_path sparse/0 --output_path undistorted"
            )
        if not (fx > 0 and fy > 0 and np.isfinite([fx, fy, cx, cy]).all()):
            raise UnsafeFileError(f"camera {self.id} has focal lengths {fx}, {fy}; expected positive numbers")
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One posed image: `view` (4, 4) takes world to camera coordinates."""

    id: int
    name: str
    camera: int
    view: Array


@dataclass(frozen=True, eq=False)
class ColmapModel:
    """A sparse model: cameras by id, images by name, points ``(n, 3)``, colours ``(n, 3)`` 8-bit and errors ``(n,)`` in pixels."""

    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    points: Array
    colors: Array
    errors: Array


def colmap_folder(root: Path) -> Path | None:
    """Where the sparse model of a capture lies: the folder itself, `sparse/0`, `sparse` or another number below it, or nowhere."""
    tried = [root, root / "sparse" / "0", root / "sparse", *sorted((root / "sparse").glob("[0-9]*")), root / "0"]
    return next((t for t in tried if any((t / f"cameras{end}").is_file() for end in (".bin", ".txt"))), None)


def read_colmap(folder: Path) -> ColmapModel:
    """Read the cameras, images and points of a folder, binary where there is both.

    Raises:
        UnsafeFileError: a file is missing, cut short or not COLMAP's; an image names no camera; nothing was reconstructed.
    """
    paths = {kind: _find(folder, kind) for kind in KINDS}
    cameras = _read(paths["cameras"], _binary_cameras, _text_cameras)
    images = _read(paths["images"], _binary_images, _text_images)
    points, colors, errors = _read(paths["points3D"], _binary_points, _text_points)
    if not cameras or not images:
        raise UnsafeFileError(
            f"{folder.name} is an empty sparse model: {len(cameras)} cameras, {len(images)} images; "
            "the structure from motion did not register any photo"
        )
    for image in images:
        if image.camera not in cameras:
            raise UnsafeFileError(
                f"{paths['images'].name}: {image.name} names camera {image.camera}, which is not there"
            )
    if not (np.isfinite(points).all() and all(np.isfinite(i.view).all() for i in images)):
        raise UnsafeFileError(f"{folder.name} holds poses or points that are not finite")
    return ColmapModel(cameras, tuple(sorted(images, key=lambda i: i.name)), points, colors, errors)


def _find(folder: Path, kind: str) -> Path:
    for end in (".bin", ".txt"):
        if (folder / f"{kind}{end}").is_file():
            return folder / f"{kind}{end}"
    raise UnsafeFileError(
        f"{folder} holds no {kind}.bin or {kind}.txt; expected the three files of a COLMAP sparse model"
    )


def _read(path: Path, binary: Any, text: Any) -> Any:
    try:
        if path.suffix == ".bin":
            return binary(_Reader(regular(path).read_bytes()))
        return text(_lines(regular(path)))
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        if isinstance(error, UnsafeFileError) and path.name in str(error):
            raise
        raise UnsafeFileError(f"{path.name} is not a whole COLMAP file: {error}") from error


class _Reader:
    """Little-endian records one after the other; a record beyond the end is an error."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + form)
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return values

    def count(self, least: int) -> int:
        """How many records of at least `least` bytes follow."""
        (count,) = self.take("Q")
        if count * least > len(self.data) - self.at:
            raise ValueError(f"it ends before its {count} records")
        return count

    def name(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError("it ends within a record")
        self.at += size


def _camera(number: int, model: str, width: int, height: int, params: tuple[float, ...]) -> ColmapCamera:
    if len(params) != MODELS[model]:
        raise ValueError(f"camera {number} of model {model} has {len(params)} parameters, not {MODELS[model]}")
    if width < 1 or height < 1:
        raise ValueError(f"camera {number} has {width} x {height} pixels")
    return ColmapCamera(number, model, width, height, params)


def _image(
    number: int, quaternion: tuple[float, ...], translation: tuple[float, ...], camera: int, name: str
) -> ColmapImage:
    w, x, y, z = np.asarray(quaternion, dtype=float) / (np.linalg.norm(quaternion) or np.nan)
    view = np.eye(4)
    view[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    view[:3, 3] = translation
    return ColmapImage(number, name, camera, view)


def _binary_cameras(reader: _Reader) -> dict[int, ColmapCamera]:
    names = tuple(MODELS)
    cameras = {}
    for _ in range(reader.count(24)):
        number, model, width, height = reader.take("iiQQ")
        if not 0 <= model < len(names):
            raise ValueError(
                f"camera {number} has model number {model}; known are 0 to {len(names) - 1} ({', '.join(names)})"
            )
        params = reader.take(f"{MODELS[names[model]]}d")
        cameras[number] = _camera(number, names[model], width, height, params)
    return cameras


def _binary_images(reader: _Reader) -> list[ColmapImage]:
    images = []
    for _ in range(reader.count(73)):
        number, *pose, camera = reader.take("i7di")
        name = reader.name()
        reader.skip(24 * reader.count(24))
        images.append(_image(number, tuple(pose[:4]), tuple(pose[4:]), camera, name))
    return images


def _binary_points(reader: _Reader) -> tuple[Array, Array, Array]:
    rows = []
    for _ in range(reader.count(51)):
        _, x, y, z, red, green, blue, error = reader.take("Q3d3Bd")
        reader.skip(8 * reader.count(8))
        rows.append((x, y, z, red, green, blue, error))
    return _points(rows)


def _points(rows: list[tuple[float, ...]]) -> tuple[Array, Array, Array]:
    table = np.array(rows, dtype=float).reshape(-1, 7)
    return table[:, :3].copy(), table[:, 3:6].astype(np.uint8), table[:, 6].copy()


def _lines(path: Path) -> Iterator[list[str]]:
    """The rows of a text file, comments left out. Empty rows stay: an image without observations has one."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith("#"):
                yield line.split()


def _text_cameras(lines: Iterator[list[str]]) -> dict[int, ColmapCamera]:
    cameras = {}
    for row in filter(None, lines):
        if row[1] not in MODELS:
            raise ValueError(f"camera {row[0]} is of the unknown model {row[1]}; known are {', '.join(MODELS)}")
        cameras[int(row[0])] = _camera(int(row[0]), row[1], int(row[2]), int(row[3]), tuple(map(float, row[4:])))
    return cameras


def _text_images(lines: Iterator[list[str]]) -> list[ColmapImage]:
    images = []
    for row in lines:
        if not row:
            continue
        pose = [float(v) for v in row[1:8]]
        images.append(_image(int(row[0]), tuple(pose[:4]), tuple(pose[4:]), int(row[8]), " ".join(row[9:])))
        next(lines, None)  # its observations
    return images


def _text_points(lines: Iterator[list[str]]) -> tuple[Array, Array, Array]:
    return _points([tuple(map(float, row[1:8])) for row in filter(None, lines)])
