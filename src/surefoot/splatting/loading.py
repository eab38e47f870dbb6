"""Captures from folders, and the samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.posed_photos import PosedPhotos, load_photo, read_posed_photos
from surefoot.data.stereo import StereoPair, motorcycle
from surefoot.records.files import UnsafeFileError
from surefoot.splatting.problem import Capture

__all__ = ["capture_of", "read_capture", "read_npz_capture", "stereo_capture", "turntable_capture", "write_npz_capture"]

Array = np.ndarray[Any, np.dtype[Any]]
WIDEST = 1600  # pixels; wider photos are reduced, as published


def read_capture(
    folder: Path, reduce: int, every: int, background: tuple[float, float, float], images: str = "", sequence: bool = False,
    work: Path | None = None, test: tuple[str, ...] = (),
) -> Capture:  # fmt: skip
    """Read a capture; a folder of photos alone is posed first (into `work`, or the cache, so that a resumed run and a verification
    see the same cameras).

    Args:
        reduce: average over blocks of so many pixels; 0 takes the smallest that brings the width to 1,600.
        every: each so-manieth photo (sorted by name) is held out; 0 holds out none.
        test: names to hold out instead.

    Raises:
        UnsafeFileError: with the file and what is wrong.
    """
    if folder.suffix == ".npz":
        return read_npz_capture(folder)
    posed = read_posed_photos(folder, images or None)
    if posed is None:
        from surefoot.data.posed_photos import picture_files
        from surefoot.data.structure import structure_from_motion

        if len(picture_files(folder)) < 2:
            raise UnsafeFileError(
                f"{folder.name} holds {len(picture_files(folder))} photos and no cameras; expected at least two photos, or a capture"
            )
        place = work or _posed_before(folder, sequence)
        if not (place / "sparse").is_dir():
            structure_from_motion(folder, place, order="sequence" if sequence else "any")
        posed = read_posed_photos(place)
        assert posed is not None
    if len(posed) < 2 and every > 0:
        raise UnsafeFileError(f"{folder.name} holds one photo; expected several, or --hold-out 0")
    return capture_of(posed, reduce, every, background, test)


def _posed_before(folder: Path, sequence: bool) -> Path:
    """Where the cache keeps the cameras of these photos, by their content."""
    from importlib.metadata import PackageNotFoundError, version

    import pooch

    from surefoot.records.files import sha256
    from surefoot.records.fingerprint import fingerprint

    try:
        by = version("pycolmap")
    except PackageNotFoundError:
        by = "none"
    return Path(pooch.os_cache("surefoot")) / "structure" / fingerprint(sha256(folder), by, sequence)[:32]


def capture_of(
    posed: PosedPhotos, reduce: int, every: int, background: tuple[float, float, float], test: tuple[str, ...] = ()
) -> Capture:
    """Photos of a capture in memory, sorted by name."""
    order = sorted(range(len(posed)), key=lambda i: posed.names[i])
    size = reduce or max(1, math.ceil(int(posed.sizes[:, 0].max()) / WIDEST))
    photos = [load_photo(posed, i, size, background) for i in order]
    names = tuple(posed.names[i] for i in order)
    wanted = test or posed.test or ()
    if unknown := set(wanted) - set(names):
        raise ValueError(f"there is no photo {sorted(unknown)[0]} to hold out; there are {', '.join(names[:5])}, ...")
    held = (
        tuple(i for i, n in enumerate(names) if n in wanted)
        if wanted
        else tuple(range(0, len(names), every)) if every else ()
    )  # fmt: skip
    matrices = np.stack([p.matrix for p in photos])
    focal = float(np.sqrt(matrices[:, 0, 0] * matrices[:, 1, 1]).mean()) * size
    if len(posed.points) == 0:
        raise UnsafeFileError(
            "the capture holds cameras but no points; expected the sparse points that the cameras came from"
        )
    return Capture(
        names, tuple(p.pixels for p in photos), matrices, np.stack([posed.views[i] for i in order]), held, posed.points,
        posed.colors, tuple(p.mask for p in photos), background, focal,
    )  # fmt: skip


def _cells(image: Array, size: int) -> Array:
    """Blocks of `size` pixels, ``(rows, columns, size^2, ...)``; what is left over at the right and below is cut."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size, *image.shape[2:])
    return np.moveaxis(cut, 2, 1).reshape(rows, columns, size * size, *image.shape[2:])


def _blocks(image: Array, size: int) -> Array:
    return _cells(image, size).mean(axis=2).astype(np.float32)


def stereo_capture(reduce: int, stride: int) -> tuple[Capture, StereoPair]:
    """The left photo to train on, the right one held out; one point for each block of `stride` pixels of the left photo, at its depth.

    The left photo comes as several: averaged over blocks that start at its first pixel, half a block further right, down, and both, so that
    training sees what lies between the pixels of one reduced photo. What counts of the left photo is what has a depth, of the right one
    what the left one sees (where a pixel of the left photo falls on it).
    """
    pair = motorcycle()
    matrix, known = pair.matrices[0], np.isfinite(pair.depth)
    share = _blocks(known.astype(float), stride)
    rows, columns = np.nonzero(share >= 0.5)
    depth = np.nanmedian(_cells(pair.depth, stride)[rows, columns], axis=1)
    across, down = (columns + 0.5) * stride - matrix[0, 2], (rows + 0.5) * stride - matrix[1, 2]
    points = np.stack([across / matrix[0, 0] * depth, down / matrix[1, 1] * depth, depth], axis=1)
    colors = np.round(255 * _blocks(pair.photos[0], stride)[rows, columns]).astype(np.uint8)

    photos, matrices, masks, names = [], [], [], []
    half = reduce // 2
    for name, low, along in (("", 0, 0), (", right", 0, half), (", down", half, 0), (", both", half, half))[
        : 4 if half else 1
    ]:
        moved = matrix.copy()
        moved[:2, 2] -= [along, low]
        moved[:2] /= reduce
        photos.append(_blocks(pair.photos[0][low:, along:], reduce))
        masks.append((_blocks(known[low:, along:].astype(float), reduce) > 0.5).astype(np.float32))
        matrices.append(moved)
        names.append(f"left{name}")
    right = pair.matrices[1].copy()
    right[:2] /= reduce
    covered = (_blocks(pair.covered, reduce) > 0.5).astype(np.float32)
    views = np.concatenate([np.repeat(pair.views[:1], len(names), axis=0), pair.views[1:]])
    return Capture(
        (*names, "right"), (*photos, _blocks(pair.photos[1], reduce)), np.stack([*matrices, right]), views, (len(names),), points, colors,
        (*masks, covered), focal=float(matrix[0, 0]), spacing=stride * depth / float(matrix[0, 0]),
    ), pair  # fmt: skip


def turntable_capture(photos: int = 16, size: int = 64, boxes: int = 6, seed: int = 0) -> Capture:
    """Coloured boxes and tetrahedra on a turntable, rendered by the reference; each fourth photo is held out."""
    import torch

    from surefoot.numerics.threads import torch_threads
    from surefoot.splatting.reference import render_reference
    from surefoot.splatting.turntable import orbit

    rng = np.random.default_rng(seed)
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    middles = rng.uniform(-0.9, 0.9, (boxes, 3)) * [1.0, 0.5, 1.0]
    shapes = []
    for middle in middles:
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        shapes.append(middle + (cube * rng.uniform(0.2, 0.5, 3)) @ turn.T)
    corners = torch.from_numpy(np.stack(shapes))
    colors = rng.uniform(0.15, 1.0, (boxes, 3))
    first = np.eye(4)
    first[:3, 3] = [0.0, 0.0, 4.0]
    ring = np.stack([first, np.diag([-1.0, 1.0, -1.0, 1.0]) @ np.eye(4)])
    ring[1, :3, 3] = [0.0, 0.0, 4.0]
    quarter = np.eye(4)
    quarter[:3, :3] = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    quarter[:3, 3] = [0.0, 0.0, 4.0]
    back = quarter.copy()
    back[:3, :3] = quarter[:3, :3].T
    views = orbit(np.stack([ring[0], quarter, ring[1], back]), photos)
    focal = 1.2 * size
    matrix = np.array([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    one = torch.ones(boxes, dtype=torch.float64)
    with torch_threads(1):  # so small that more would only wait for one another
        pictures = [
            render_reference(
                corners, 0.05 * one, 0.5 * one, 0.98 * one, torch.from_numpy(colors), torch.from_numpy(v), torch.from_numpy(matrix), size, size,
            )[0].numpy().astype(np.float32)
            for v in views
        ]  # fmt: skip
    points, shades = [], []
    for shape, color in zip(shapes, colors, strict=True):
        weights = rng.dirichlet(np.full(len(cube), 0.4), 40)
        points.append(weights @ shape)
        shades.append(np.repeat(np.round(255 * color).astype(np.uint8)[None], 40, axis=0))
    return Capture(
        tuple(f"view-{i:02d}" for i in range(photos)), tuple(pictures), np.repeat(matrix[None], photos, axis=0), views,
        tuple(range(0, photos, 4)), np.concatenate(points), np.concatenate(shades), (None,) * photos, focal=focal, solid=True,
    )  # fmt: skip


def write_npz_capture(path: Path, capture: Capture) -> None:
    """A capture whose photos have one size, in one file: names, photos (8-bit), K, viewmats, test, points, colors, background, focal."""
    from surefoot.records.files import write_npz

    write_npz(path, {
        "names": np.array(capture.names), "photos": np.round(255 * np.stack(capture.photos)).astype(np.uint8), "K": capture.matrices,
        "viewmats": capture.views, "test": np.array(capture.test, dtype=np.int64), "points": capture.points, "colors": capture.colors,
        "background": np.array(capture.background), "focal": np.array(capture.focal),
    })  # fmt: skip


def read_npz_capture(path: Path) -> Capture:
    """Read what `write_npz_capture` wrote.

    Raises:
        UnsafeFileError: a field is missing or does not fit; the message names it.
    """
    from surefoot.records.files import read_npz

    arrays = read_npz(path)
    wanted = ("names", "photos", "K", "viewmats", "test", "points", "colors", "background", "focal")
    if missing := [w for w in wanted if w not in arrays]:
        raise UnsafeFileError(f"{path.name} has no array {missing[0]}; expected {', '.join(wanted)}")
    photos = arrays["photos"]
    if photos.dtype != np.uint8 or photos.ndim != 4 or photos.shape[3] != 3:
        raise UnsafeFileError(
            f"{path.name}: photos {photos.dtype} {photos.shape}; expected 8-bit (n, height, width, 3)"
        )
    count = len(photos)
    views, matrices = np.asarray(arrays["viewmats"], dtype=float), np.asarray(arrays["K"], dtype=float)
    points, colors = np.asarray(arrays["points"], dtype=float), arrays["colors"]
    if views.shape != (count, 4, 4) or matrices.shape != (count, 3, 3) or len(arrays["names"]) != count:
        raise UnsafeFileError(
            f"{path.name}: {count} photos, K {matrices.shape}, viewmats {views.shape}, {len(arrays['names'])} names"
        )
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape or colors.dtype != np.uint8:
        raise UnsafeFileError(
            f"{path.name}: points {points.shape} and colors {colors.dtype} {colors.shape}; expected (m, 3), 8-bit (m, 3)"
        )
    if not all(np.isfinite(a).all() for a in (views, matrices, points)):
        raise UnsafeFileError(f"{path.name}: a camera or a point is not finite")
    background = np.asarray(arrays["background"], dtype=float).ravel()
    test = tuple(int(i) for i in arrays["test"].ravel())
    if background.shape != (3,) or any(not 0 <= i < count for i in test):
        raise UnsafeFileError(
            f"{path.name}: background {background.shape}, test {test}; expected (3,) and places of photos"
        )
    shades = (float(background[0]), float(background[1]), float(background[2]))
    return Capture(
        tuple(str(n) for n in arrays["names"]), tuple((photos / np.float32(255)).astype(np.float32)), matrices, views, test, points, colors,
        (None,) * count, shades, float(arrays["focal"]),
    )  # fmt: skip
