"""Reading tables: every format, and messages that name the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from surefoot.data.tables import from_frame, read_table, stream_table

VALUES = np.array([[1.5, -2.0, 3.0], [4.0, 5.25, 6.0], [7.0, 8.0, 9.125]])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def text_of(delimiter: str, header: bool = True) -> str:
    rows = [delimiter.join(map(repr, map(float, row))) for row in VALUES]
    return "\n".join(([delimiter.join("abc")] if header else []) + rows) + "\n"


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.txt", "\t")])
def test_delimiters(tmp_path: Path, name: str, delimiter: str) -> None:
    found = read_table(write(tmp_path / name, text_of(delimiter)))
    assert found.names == ("a", "b", "c")
    np.testing.assert_array_equal(found.values, VALUES)


def test_a_first_line_of_numbers_is_data(tmp_path: Path) -> None:
    found = read_table(write(tmp_path / "t.csv", text_of(",", header=False)))
    assert found.names == ("x0", "x1", "x2")
    np.testing.assert_array_equal(found.values, VALUES)


def test_quoted_names_byte_order_mark_and_booleans(tmp_path: Path) -> None:
    found = read_table(write(tmp_path / "t.csv", '\ufeff"flow, in",b\n1,True\n2,False\n'))
    assert found.names == ("flow, in", "b")
    np.testing.assert_array_equal(found.values, [[1, 1], [2, 0]])


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_are_the_table_in_pieces(tmp_path: Path, chunk: int) -> None:
    np.save(tmp_path / "t.npy", VALUES)
    for path in (write(tmp_path / "t.csv", text_of(",")), tmp_path / "t.npy"):
        parts = list(stream_table(path, chunk_rows=chunk).chunks)
        assert max(map(len, parts)) <= chunk
        np.testing.assert_array_equal(np.concatenate(parts), VALUES)


def test_parquet_and_structured_arrays_keep_their_names(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'tables'")
    pd.DataFrame(VALUES, columns=list("abc")).to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found.names == ("a", "b", "c")
    np.testing.assert_array_equal(found.values, VALUES)
    np.save(tmp_path / "t.npy", np.array([(1, 2.5), (3, 4.5)], dtype=[("u", int), ("v", float)]))
    found = read_table(tmp_path / "t.npy")
    assert found.names == ("u", "v")
    np.testing.assert_array_equal(found.values, [[1, 2.5], [3, 4.5]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,north\n", "column 'b' holds text, for example 'north' in row 2"),
        ("a,b\n1,2\n,4\n", "column 'a' has a missing value .* row 2"),
        ("a,b\n1,2\n3,inf\n", "column 'b' has an infinite value .* row 2"),
        ("a,b,a\n1,2,3\n", "'a' occurs more than once"),
        ("a,,b\n1,2,3\n", "column 2 has no name"),
        ("a,b\n1,2\n1,2,3\n", "every row needs 2 cells"),
        ("", "empty"),
    ],
)
def test_bad_text_is_refused_by_column_and_row(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=words):
        read_table(path)


def test_rows_are_counted_across_chunks(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n" + "1,2\n" * 10 + "1,\n")
    with pytest.raises(ValueError, match="row 11"):
        list(stream_table(path, chunk_rows=4).chunks)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown ending '.xlsx'"):
        read_table(write(tmp_path / "t.xlsx", ""))
    with pytest.raises(FileNotFoundError, match="no file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "t.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_table(tmp_path / "t.csv")
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array of numbers"):
        read_table(tmp_path / "o.npy")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="expected numbers of shape"):
        read_table(tmp_path / "one.npy")


def test_frames_are_held_to_the_same_rules() -> None:
    found = from_frame(pd.DataFrame({"a": [1, 2], "b": [True, False]}))
    np.testing.assert_array_equal(found.values, [[1, 1], [2, 0]])
    with pytest.raises(ValueError, match="column 'c' holds text"):
        from_frame(pd.DataFrame({"a": [1, 2], "c": ["x", "y"]}))


def test_a_million_rows_are_read_without_holding_them(tmp_path: Path) -> None:
    """Chunks come and go: the sum is right and the peak stays far below the table's 16 MB of numbers."""
    import tracemalloc

    path = tmp_path / "big.csv"
    path.write_text("a,b\n" + "1,2\n" * 1_000_000)
    tracemalloc.start()
    total = np.zeros(2)
    for chunk in stream_table(path, chunk_rows=20_000).chunks:
        total += chunk.sum(axis=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total.tolist() == [1e6, 2e6]
    assert peak < 12e6


@pytest.mark.parametrize("text", ["a,b\n1,2,3\n4,5,6\n", "a,b\n1,2\n4,5,6\n", "1,2\n1,2,3\n"])
def test_rows_longer_than_the_first_line_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        list(stream_table(path).chunks)
