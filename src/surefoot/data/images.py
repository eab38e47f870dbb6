"""Images in: npz, npy, IDX files, folders of PNG pictures and of published data sets, as float32 in [0, 1] with labels where there are some."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.records.files import MAX_BYTES, UnsafeFileError, plain_files, read_csv, read_npz, regular

__all__ = ["ImageTable", "read_idx", "read_images"]

Array = np.ndarray[Any, np.dtype[Any]]
PICTURES = (".png", ".bmp", ".jpg", ".jpeg")
CIFAR = re.compile(r"data_batch_\d+\.bin")
MAX_PIXELS = 64 << 20  # of one picture
IDX_TYPES = {8: np.dtype(np.uint8), 9: np.dtype(np.int8), 13: np.dtype(">f4"), 14: np.dtype(">f8")}


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Images ``(n, channels, height, width)`` float32, labels ``(n,)`` int64 or None, and their names."""

    values: Array
    labels: Array | None
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()


def read_images(path: Path) -> ImageTable:
    """Read images.

    - ``.npz``: array `images` (or `x`), and `labels` (or `y`) if known.
    - ``.npy``: an array of images.
    - ``.gz``, ``.idx`` or a name with ``-ubyte``: an IDX file of images; the labels beside it, where ``images-idx3`` in its name
      becomes ``labels-idx1``.
    - a folder of PNG, BMP or JPEG pictures of one size: labels from the names of its sub-folders (sorted), or from a
      ``labels.csv`` with the columns ``file`` and ``label``.
    - a folder as the data sets come: IDX files of MNIST and its relatives (``train-images-idx3-ubyte``), or the binary version of CIFAR-10
      and CIFAR-100; the training images.

    Unsigned 8-bit pixels are divided by 255; floating-point ones are taken as they are. Without a channel axis one is added; a last
    axis of 3 (or 1) becomes the first.

    Raises:
        UnsafeFileError: not readable, or without images.
    """
    if path.is_dir():
        return _folder(path)
    name = path.name.lower()
    if name.endswith(".npz"):
        arrays = read_npz(path)
        found = next((k for k in ("images", "x") if k in arrays), None)
        if found is None:
            raise UnsafeFileError(f"{path.name} holds {sorted(arrays)}; expected an array 'images' (and 'labels')")
        labels = next((arrays[k] for k in ("labels", "y") if k in arrays), None)
        return _table(arrays[found], labels, path.name)
    if name.endswith(".npy"):
        try:
            return _table(np.load(regular(path), allow_pickle=False), None, path.name)
        except (ValueError, EOFError, OSError) as error:
            raise UnsafeFileError(f"{path.name} is not a readable array of numbers: {error}") from error
    if name.endswith((".gz", ".idx")) or "-ubyte" in name:
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        labels = read_idx(beside) if beside != path and beside.is_file() else None
        return _table(read_idx(path), labels, path.name)
    raise UnsafeFileError(f"{path.name}: expected images as .npz, .npy, an IDX file, or a folder of pictures")


def read_idx(path: Path) -> Array:
    """The array of an IDX file, gzipped or not.

    Raises:
        UnsafeFileError: it is none, or its header asks for more bytes than it has.
    """
    try:
        with gzip.open(regular(path)) if path.name.endswith(".gz") else regular(path).open("rb") as stream:
            head = stream.read(4)
            if len(head) != 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or not 1 <= head[3] <= 4:
                raise UnsafeFileError(f"{path.name} is not an IDX file")
            shape = np.frombuffer(stream.read(4 * head[3]), dtype=">u4").astype(int)
            dtype = IDX_TYPES[head[2]]
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            data = stream.read(size + 1) if size <= MAX_BYTES else b""
    except (EOFError, OSError, gzip.BadGzipFile) as error:
        raise UnsafeFileError(f"{path.name} is not a readable IDX file: {error}") from error
    if len(shape) != head[3] or len(data) != size:
        raise UnsafeFileError(
            f"{path.name}: its header asks for {size} bytes of numbers, it has another number of them"
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _table(images: Array, labels: Array | None, name: str) -> ImageTable:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, -1, 1)
    if images.ndim < 2 or len(images) == 0:
        raise UnsafeFileError(
            f"{name}: images of shape {images.shape}; expected (n, height, width) or (n, channels, height, width)"
        )
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    elif images.dtype.kind == "f":
        images = images.astype(np.float32)
    else:
        raise UnsafeFileError(f"{name}: images are {images.dtype}; expected 8-bit pixels, or floating point in [0, 1]")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(images),) or not (
            labels.dtype.kind in "iu" or np.array_equal(labels, np.round(labels))
        ):
            raise UnsafeFileError(f"{name}: labels {labels.dtype} {labels.shape}; expected {len(images)} integers")
        labels = labels.astype(np.int64)
    return ImageTable(np.ascontiguousarray(images), labels, tuple(str(i) for i in range(len(images))))


def _published(path: Path, files: list[Path]) -> ImageTable | None:
    """The training images of a data set's own files; None where the folder has none."""
    by_name = {p.name: p for p in files}
    idx = next((p for name, p in by_name.items() if name.startswith("train-images-idx3-ubyte")), None)
    if idx is not None:
        return read_images(idx)
    coarse = 1 if "train.bin" in by_name else 0  # CIFAR-100 puts the class of twenty before that of a hundred
    parts = [by_name["train.bin"]] if coarse else [p for n, p in sorted(by_name.items()) if CIFAR.fullmatch(n)]
    if parts:
        rows = [_cifar(p, coarse) for p in parts]
        return _table(np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows]), path.name)
    if {"data_batch_1", "batches.meta"} <= by_name.keys() or {"train", "meta"} <= by_name.keys():
        raise UnsafeFileError(
            f"{path.name} holds pickled batches, which may run code when they are read; take the binary version of CIFAR"
        )
    return None


def _cifar(path: Path, coarse: int) -> tuple[Array, Array]:
    """Rows of one or two labels and 3 x 32 x 32 bytes."""
    row = coarse + 1 + 3 * 32 * 32
    size = path.stat().st_size
    if not size or size % row or size > MAX_BYTES:
        raise UnsafeFileError(f"{path.name} has {size} bytes; expected whole rows of {row}")
    rows = np.fromfile(regular(path), dtype=np.uint8).reshape(-1, row)
    return rows[:, coarse + 1 :].reshape(-1, 3, 32, 32), rows[:, coarse].astype(np.int64)


def _folder(path: Path) -> ImageTable:
    every = list(plain_files(path))
    if (found := _published(path, every)) is not None:
        return found
    files = [p for p in every if p.suffix.lower() in PICTURES]
    if not files:
        raise UnsafeFileError(f"{path.name} holds no {', '.join(PICTURES)} pictures")
    names = [p.relative_to(path).as_posix() for p in files]
    pictures = [_picture(p) for p in files]
    sizes = {p.shape for p in pictures}
    if len(sizes) > 1:
        raise UnsafeFileError(
            f"{path.name} holds pictures of {len(sizes)} sizes: {sorted(sizes)[:3]}; expected one size"
        )
    labels, classes = _labels(path, names)
    table = _table(np.stack(pictures), labels, path.name)
    return ImageTable(table.values, table.labels, tuple(names), classes)


def _picture(path: Path) -> Array:
    """(channels, height, width) uint8: one channel where it is grey, else three."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(regular(path)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UnsafeFileError(f"{path.name} has {picture.width} x {picture.height} pixels")
            grey = picture.mode in ("1", "L", "LA")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnsafeFileError(f"{path.name} is not a readable picture: {error}") from error
    return pixels[None] if grey else np.moveaxis(pixels, -1, 0)


def _labels(path: Path, names: list[str]) -> tuple[Array | None, tuple[str, ...]]:
    if (path / "labels.csv").is_file():
        columns = read_csv(path / "labels.csv")
        if not {"file", "label"} <= columns.keys():
            raise UnsafeFileError(f"{path.name}/labels.csv has the columns {sorted(columns)}; expected file, label")
        known = dict(zip(columns["file"].astype(str), columns["label"], strict=True))
        missing = [n for n in names if n not in known]
        if missing:
            raise UnsafeFileError(f"{path.name}/labels.csv has no row for {missing[0]}")
        return np.array([known[n] for n in names]), ()
    folders = [n.split("/")[0] if "/" in n else "" for n in names]
    if not all(folders):
        return None, ()
    classes = sorted(set(folders))
    return np.array([classes.index(f) for f in folders]), tuple(classes)
