"""PLY: what is written is read back bit for bit; every form of the header; broken files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from surefoot.data.ply import read_ply, write_ply
from surefoot.records.files import UnsafeFileError

KINDS = st.sampled_from(["f4", "f8", "u1", "i1", "u2", "i2", "u4", "i4"])


@given(st.integers(0, 5), st.lists(KINDS, min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, count: int, kinds: list[str], data) -> None:
    columns = {f"c{i}": data.draw(arrays.arrays(kind, count)) for i, kind in enumerate(kinds)}
    path = tmp_path_factory.mktemp("ply") / "it.ply"
    write_ply(path, columns, {"sh_degree": 3, "said": "two words"})
    back = read_ply(path)
    assert list(back.columns) == list(columns)
    assert back.comments == {"sh_degree": "3", "said": "two words"}
    for name, column in columns.items():
        assert back.columns[name].dtype == column.dtype
        assert back.columns[name].tobytes() == column.tobytes()


def test_ascii_big_endian_and_faces_behind_the_vertices(tmp_path: Path) -> None:
    head = "ply\nformat {}\ncomment made by hand\nelement vertex 2\nproperty float x\nproperty uchar red\n"
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(head.format("ascii 1.0") + faces + "0.5 7\n-1e3 255\n3 0 1 0\n")
    table = np.array([(0.5, 7), (-1e3, 255)], dtype=[("x", ">f4"), ("red", "u1")])
    (tmp_path / "b.ply").write_bytes(
        (head.format("binary_big_endian 1.0") + faces).encode() + table.tobytes() + b"\3\0\0\0"
    )
    for name in ("a.ply", "b.ply"):
        ply = read_ply(tmp_path / name)
        assert ply.columns["x"].tolist() == [0.5, -1000.0]
        assert ply.columns["red"].tolist() == [7, 255]
    with pytest.raises(UnsafeFileError, match="no property green"):
        ply.stack("red", "green")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plx", "begin"),
        ("ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n", "1 whole rows where 2"),
        (
            "ply\nformat binary_little_endian 1.0\nelement vertex 9999999999\nproperty float x\nend_header\n1234",
            "asks for",
        ),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n1 1\n", "lists"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty quux x\nend_header\n1\n", "quux"),
        ("ply\nformat zip 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "zip"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\nend_header\n1 1\n", "one name"),
        ("ply\nformat ascii 1.0\nelement face 1\nproperty float x\nend_header\n1\n", "first element"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "broken.ply").write_text(text)
    with pytest.raises(UnsafeFileError, match=rf"broken\.ply.*{said}"):
        read_ply(tmp_path / "broken.ply")


def test_columns_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for columns, comments, said in (
        ({"x": np.zeros(2), "y": np.zeros(3)}, {}, "one length"),
        ({"x": np.zeros((2, 2))}, {}, "one length"),
        ({"x": np.zeros(2, dtype=complex)}, {}, "complex"),
        ({"x y": np.zeros(2)}, {}, "spaces"),
        ({"x": np.zeros(2)}, {"end_header": "a\nend_header"}, "one line"),
    ):
        with pytest.raises(ValueError, match=said):
            write_ply(tmp_path / "x.ply", columns, comments)
    assert not list(tmp_path.iterdir())
