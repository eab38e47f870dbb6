"""Photos with known cameras: COLMAP captures, transforms.json and npz, in one form.

A camera is a matrix K (3, 3), in pixels with the *corner* of the first pixel at (0, 0), and a view (4, 4) that takes world to camera
coordinates (x right, y down, z forward). A photo at half the size has K divided by two, exactly; the centre of pixel (i, j) lies at
(j + 1/2, i + 1/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.colmap import colmap_folder, read_colmap
from surefoot.data.ply import read_ply
from surefoot.records.files import UnsafeFileError, inside, plain_files, read_json, read_npz, regular

__all__ = ["Photo", "PosedPhotos", "load_photo", "picture_files", "read_picture", "read_posed_photos"]

Array = np.ndarray[Any, np.dtype[Any]]
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 256 << 20
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera looks along -z, y up


@dataclass(frozen=True, eq=False)
class PosedPhotos:
    """A capture as it lies on disk; no pixel is read yet.

    Attributes:
        names: of the photos, in order.
        files: where each lies.
        matrices, sizes: K ``(n, 3, 3)`` at the size (width, height) ``(n, 2)`` for which it holds.
        views: world to camera, ``(n, 4, 4)``.
        points, colors: ``(m, 3)``, and 8-bit ``(m, 3)``; m may be 0.
        masks: where a mask of each lies (white is kept), or None.
        test: names of photos that the capture itself sets aside, if it does.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    matrices: Array
    sizes: Array
    views: Array
    points: Array
    colors: Array
    masks: tuple[Path | None, ...] = ()
    test: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Photo:
    """Pixels ``(height, width, 3)`` float32 in [0, 1], the mask ``(height, width)`` (1 is kept) or None, and K at this size."""

    pixels: Array
    mask: Array | None
    matrix: Array


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder and the folders in it, sorted by name."""
    return [p for p in plain_files(folder) if p.suffix.lower() in PICTURES]


def read_posed_photos(root: Path, images: str | None = None) -> PosedPhotos | None:
    """The photos of a capture with their cameras, or None where it holds no cameras (then structure from motion must find them).

    Args:
        root: a folder with a COLMAP model (`sparse/0` or itself) and `images/`; with `transforms.json` (or `transforms_train.json` and
            `transforms_test.json`); with `scene.npz` (`names`, `K`, `viewmats`, `width`, `height`, `points`, `colors`) beside the photos.
        images: another folder of the photos, relative to `root` (`images_4`); a size smaller by one factor is allowed for.

    Raises:
        UnsafeFileError: a file that the cameras name is missing, a camera is no pinhole, the sparse model is empty, a camera sees none
            of the points. The message names the file.
    """
    if not root.is_dir():
        raise UnsafeFileError(f"{root} is not a folder; expected one with photos")
    if (model := colmap_folder(root)) is not None:
        found = _from_colmap(root, model, images)
    elif any((root / f"transforms{part}.json").is_file() for part in ("", "_train")):
        found = _from_transforms(root)
    elif (root / "scene.npz").is_file():
        found = _from_npz(root, images)
    else:
        return None
    return _checked(_with_masks(root, found))


def load_photo(
    photos: PosedPhotos, index: int, reduce: int = 1, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Photo:
    """Read one photo, averaged over blocks of `reduce` by `reduce` pixels (rows and columns beyond the last whole block are cut off).

    Transparent pixels are laid over the background. The returned K is that of the reduced photo.

    Raises:
        UnsafeFileError: unreadable, cut short, too small, or of another shape than its camera; the message names the file.
    """
    path, (width, height) = photos.files[index], photos.sizes[index]
    pixels, opacity = _pixels(path)
    scale = pixels.shape[1] / width
    if abs(pixels.shape[0] - scale * height) > 1.0:
        raise UnsafeFileError(
            f"{path.name} is {pixels.shape[1]} x {pixels.shape[0]}, its camera {width} x {height}; expected this size, or a smaller one of "
            "the same shape"
        )
    if reduce < 1 or min(pixels.shape[:2]) < reduce:
        raise UnsafeFileError(f"{path.name} is {pixels.shape[1]} x {pixels.shape[0]}; it cannot be reduced by {reduce}")
    if opacity is not None:
        pixels = pixels * opacity[..., None] + np.asarray(background, dtype=np.float32) * (1 - opacity[..., None])
    mask = None
    if photos.masks and (where := photos.masks[index]) is not None:
        shades, _ = _pixels(where)
        if shades.shape[:2] != pixels.shape[:2]:
            raise UnsafeFileError(f"mask {where.name} is {shades.shape[1]} x {shades.shape[0]}, {path.name} is not")
        mask = _blocks((shades.max(axis=-1) > 0.5).astype(np.float32), reduce)
        mask = (mask > 0.999).astype(np.float32)
    matrix = photos.matrices[index].copy()
    matrix[:2] *= scale / reduce
    return Photo(_blocks(pixels, reduce), mask, matrix)


def read_picture(
    path: Path, reduce: int = 0, widest: int = 1600, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Array:
    """One picture ``(height, width, 3)`` float32 in [0, 1], averaged over blocks of `reduce` by `reduce` pixels.

    Args:
        reduce: 0 takes the smallest that brings the longer side to `widest`.
        background: what transparent pixels are laid over.

    Raises:
        UnsafeFileError: unreadable, cut short, or too small to be reduced so; the message names the file.
    """
    pixels, opacity = _pixels(path)
    size = reduce or max(1, math.ceil(max(pixels.shape[:2]) / widest))
    if size < 1 or min(pixels.shape[:2]) < size:
        raise UnsafeFileError(f"{path.name} is {pixels.shape[1]} x {pixels.shape[0]}; it cannot be reduced by {size}")
    if opacity is not None:
        pixels = pixels * opacity[..., None] + np.asarray(background, dtype=np.float32) * (1 - opacity[..., None])
    return np.clip(_blocks(pixels, size), 0.0, 1.0)


def _blocks(image: Array, size: int) -> Array:
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size, -1)
    return cut.mean(axis=(1, 3), dtype=np.float64).astype(np.float32).reshape(rows, columns, *image.shape[2:])


def _pixels(path: Path) -> tuple[Array, Array | None]:
    """(height, width, 3) float32 in [0, 1], and the opacity where the file has one."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(regular(path)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UnsafeFileError(f"{path.name} has {picture.width} x {picture.height} pixels")
            picture.load()
            turned = ImageOps.exif_transpose(picture)
            clear = "A" in turned.getbands() or "transparency" in turned.info
            pixels = np.asarray(turned.convert("RGBA" if clear else "RGB"), dtype=np.float32) / np.float32(255)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnsafeFileError(f"{path.name} is not a readable picture: {error}") from error
    return (pixels[..., :3], pixels[..., 3]) if clear else (pixels, None)


def _from_colmap(root: Path, model: Path, images: str | None) -> PosedPhotos:
    sparse = read_colmap(model)
    folder = root / (images or "images")
    if not folder.is_dir():
        if images is not None:
            raise UnsafeFileError(f"{root.name} has no folder {images} of photos")
        folder = root
    cameras = [sparse.cameras[i.camera] for i in sparse.images]
    return PosedPhotos(
        names=tuple(i.name for i in sparse.images),
        files=tuple(_there(folder, i.name) for i in sparse.images),
        matrices=np.stack([c.pinhole() for c in cameras]),
        sizes=np.array([(c.width, c.height) for c in cameras]),
        views=np.stack([i.view for i in sparse.images]),
        points=sparse.points,
        colors=sparse.colors,
    )


def _there(folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if not path.is_file():
        raise UnsafeFileError(f"{folder.name}/{name} is missing; the cameras name it")
    return path


def _from_npz(root: Path, images: str | None) -> PosedPhotos:
    arrays = read_npz(root / "scene.npz")
    wanted = ("names", "K", "viewmats", "width", "height")
    if missing := [w for w in wanted if w not in arrays]:
        raise UnsafeFileError(f"scene.npz has no array {missing[0]}; expected {', '.join(wanted)}, points and colors")
    names = tuple(str(n) for n in arrays["names"])
    count = len(names)
    folder = root / images if images else root
    try:
        return PosedPhotos(
            names=names,
            files=tuple(_there(folder, n) for n in names),
            matrices=np.broadcast_to(np.asarray(arrays["K"], dtype=float), (count, 3, 3)).copy(),
            sizes=np.broadcast_to(np.array([int(arrays["width"]), int(arrays["height"])]), (count, 2)).copy(),
            views=np.asarray(arrays["viewmats"], dtype=float).reshape(count, 4, 4),
            points=np.asarray(arrays.get("points", np.zeros((0, 3))), dtype=float).reshape(-1, 3),
            colors=np.asarray(arrays.get("colors", np.zeros((0, 3))), dtype=np.uint8).reshape(-1, 3),
        )
    except (ValueError, TypeError) as error:
        raise UnsafeFileError(f"scene.npz: {error}") from error


def _from_transforms(root: Path) -> PosedPhotos:
    if (root / "transforms.json").is_file():
        return _frames(root, "transforms.json")
    train = _frames(root, "transforms_train.json")
    if not (root / "transforms_test.json").is_file():
        return train
    test = _frames(root, "transforms_test.json")
    both = {
        key: np.concatenate([getattr(train, key), getattr(test, key)]) for key in ("matrices", "sizes", "views")
    }  # fmt: skip
    return replace(train, names=train.names + test.names, files=train.files + test.files, test=test.names, **both)


def _frames(root: Path, name: str) -> PosedPhotos:
    tree = read_json(root / name)
    if not isinstance(tree, dict) or not isinstance(tree.get("frames"), list) or not tree["frames"]:
        raise UnsafeFileError(f"{name} has no list of frames")
    names, files, matrices, sizes, views = [], [], [], [], []
    for number, frame in enumerate(tree["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise UnsafeFileError(f"{name}: frame {number} has no file_path")
        path = _frame_file(root, frame["file_path"])
        pose = np.array(frame.get("transform_matrix", []), dtype=object)
        try:
            pose = pose.astype(float).reshape(-1, 4)
            pose = np.vstack([pose[:3], [0.0, 0.0, 0.0, 1.0]]).reshape(4, 4)
            views.append(np.linalg.inv(pose @ FLIP))
        except (ValueError, TypeError, np.linalg.LinAlgError) as error:
            raise UnsafeFileError(
                f"{name}: transform_matrix of {frame['file_path']} is no invertible 4 x 4 matrix"
            ) from error
        matrix, size = _intrinsics({**tree, **frame}, path, name)
        names.append(path.relative_to(root.resolve()).as_posix())
        files.append(path)
        matrices.append(matrix)
        sizes.append(size)
    points, colors = _cloud(root, tree.get("ply_file_path"))
    return PosedPhotos(tuple(names), tuple(files), np.stack(matrices), np.array(sizes), np.stack(views), points, colors)


def _frame_file(root: Path, name: str) -> Path:
    """The file of a frame; generated scenes leave its ending out."""
    for end in ("", ".png", ".jpg"):
        if (path := inside(root, name + end)).is_file():
            return path
    raise UnsafeFileError(f"{name} is missing; the cameras name it")


def _intrinsics(keys: dict[str, Any], path: Path, name: str) -> tuple[Array, tuple[int, int]]:
    from PIL import Image, UnidentifiedImageError

    bent = [k for k in DISTORTION if isinstance(keys.get(k), int | float) and abs(keys[k]) > 1e-9]
    if bent or keys.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise UnsafeFileError(
            f"{name}: the camera of {path.name} ({keys.get('camera_model', 'OPENCV')}) has distortion {', '.join(bent)}; "
            "expected undistorted photos (colmap image_undistorter makes them)"
        )
    try:
        if "w" in keys and "h" in keys:
            width, height = int(keys["w"]), int(keys["h"])
        else:
            with Image.open(regular(path)) as picture:
                width, height = picture.size
        across = float(keys["fl_x"]) if "fl_x" in keys else 0.5 * width / math.tan(0.5 * float(keys["camera_angle_x"]))
        if "fl_y" in keys:
            down = float(keys["fl_y"])
        else:
            down = 0.5 * height / math.tan(0.5 * float(keys["camera_angle_y"])) if "camera_angle_y" in keys else across
        middle = float(keys.get("cx", width / 2)), float(keys.get("cy", height / 2))
    except KeyError as error:
        raise UnsafeFileError(f"{name}: no focal length of {path.name}; expected fl_x or camera_angle_x") from error
    except (UnidentifiedImageError, OSError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UnsafeFileError(f"{name}: the camera of {path.name}: {error}") from error
    if not (across > 0 and down > 0 and width > 0 and height > 0 and np.isfinite([across, down, *middle]).all()):
        raise UnsafeFileError(f"{name}: {path.name} has focal lengths {across:g}, {down:g} at {width} x {height}")
    return np.array([[across, 0.0, middle[0]], [0.0, down, middle[1]], [0.0, 0.0, 1.0]]), (width, height)


def _cloud(root: Path, name: Any) -> tuple[Array, Array]:
    if not isinstance(name, str):
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    ply = read_ply(_there(root, name))
    points = ply.stack("x", "y", "z").astype(float)
    has_color = all(c in ply.columns for c in ("red", "green", "blue"))
    return points, ply.stack("red", "green", "blue").astype(np.uint8) if has_color else np.full(
        (len(points), 3), 128, np.uint8
    )


def _with_masks(root: Path, photos: PosedPhotos) -> PosedPhotos:
    if not (root / "masks").is_dir():
        return photos
    stems = (lambda n: n, lambda n: f"{n}.png", lambda n: f"{n.rsplit('.', 1)[0]}.png")
    masks = tuple(
        next((m for stem in stems if (m := root / "masks" / stem(Path(n).name)).is_file()), None) for n in photos.names
    )
    return replace(photos, masks=masks)


def _checked(photos: PosedPhotos) -> PosedPhotos:
    if len(set(photos.names)) != len(photos.names):
        raise UnsafeFileError("two cameras name one photo; every photo must have one camera")
    if not (np.isfinite(photos.views).all() and np.isfinite(photos.matrices).all()):
        raise UnsafeFileError("a camera is not finite")
    turn = photos.views[:, :3, :3]
    off = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    if (off > 1e-3).any():
        worst = int(off.argmax())
        raise UnsafeFileError(
            f"the camera of {photos.names[worst]} scales or shears (by {off[worst]:.2g}); expected a rotation and a shift"
        )
    if len(photos.points):
        for name, view, matrix, (width, height) in zip(
            photos.names, photos.views, photos.matrices, photos.sizes, strict=True
        ):
            local = photos.points @ view[:3, :3].T + view[:3, 3]
            front = local[local[:, 2] > 0]
            if len(front) == 0:
                raise UnsafeFileError(
                    f"all {len(photos.points)} points are behind the camera of {name}; its pose or the points are wrong"
                )
            seen = front @ matrix.T
            seen = seen[:, :2] / seen[:, 2:]
            if not ((seen >= 0) & (seen <= [width, height])).all(axis=1).any():
                raise UnsafeFileError(
                    f"the camera of {name} sees none of the {len(photos.points)} points; its pose or the points are wrong"
                )
    return photos
