"""Tables of numbers from files and data frames, with their column names.

CSV, TSV, Parquet (extra `tables`), npy, data frames and arrays. Files are read in chunks, so that a table need not fit into
memory twice; errors name the column and the row and say what to do.
"""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]

CHUNK_ROWS = 100_000
FORMATS = (".csv", ".tsv", ".txt", ".parquet", ".npy")


@dataclass(frozen=True, eq=False)
class NumericTable:
    """Numbers with column names: values (n, d) float64."""

    names: tuple[str, ...]
    values: Array


@dataclass(frozen=True)
class TableStream:
    """A table read piece by piece: the d column names and chunks (rows, d) of float64."""

    names: tuple[str, ...]
    chunks: Iterator[Array]


def read_table(path: str | Path) -> NumericTable:
    """A whole file as numbers.

    Raises:
        ValueError: see `stream_table`.
    """
    stream = stream_table(path)
    parts = list(stream.chunks)
    values = np.concatenate(parts) if parts else np.empty((0, len(stream.names)))
    return NumericTable(stream.names, values)


def stream_table(path: str | Path, *, chunk_rows: int = CHUNK_ROWS) -> TableStream:
    """A file as column names and chunks of numbers; rows are read when a chunk is asked for.

    Args:
        path: .csv, .tsv or .txt (comma, semicolon, tab; a first line of numbers only is data), .parquet, or .npy.
        chunk_rows: rows a chunk.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown ending, an empty file, repeated or missing column names, text, a missing or infinite value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv", ".txt"):
        return _stream_text(path, chunk_rows)
    if ending == ".parquet":
        return _stream_parquet(path, chunk_rows)
    if ending == ".npy":
        return _stream_npy(path, chunk_rows)
    raise ValueError(f"{path.name}: unknown ending {ending!r}; expected one of {', '.join(FORMATS)}")


def from_frame(frame: Any) -> NumericTable:
    """A pandas DataFrame as numbers, checked as a file is."""
    names = tuple(str(name) for name in frame.columns)
    check_names(names, len(names))
    return NumericTable(names, _numbers(frame, names, 0))


# ---- checks that other readers share -------------------------------------------------------------------------


def check_names(names: Sequence[str], count: int) -> None:
    """Refuse a wrong number of names, empty ones and repeated ones.

    Raises:
        ValueError: with the names.
    """
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} columns; give one name a column")
    for place, name in enumerate(names):
        if not name.strip():
            raise ValueError(
                f"column {place + 1} has no name; name it, or drop it (a row index? write the file without one)"
            )
    repeated = list(dict.fromkeys(name for name in names if list(names).count(name) > 1))
    if repeated:
        raise ValueError(
            f"the column name {', '.join(map(repr, repeated))} occurs more than once; rename or drop the repeats, "
            "so that a name says which column it means"
        )


def refuse_missing(values: Array, names: Sequence[str], first_row: int = 0) -> None:
    """Refuse NaN and infinity, naming the first bad column and row (counted from 1, without the header).

    Raises:
        ValueError: with what to do.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[0]
    what = "a missing value (NaN)" if np.isnan(values[row, column]) else "an infinite value (inf)"
    raise ValueError(
        f"column {names[column]!r} has {what} in row {first_row + row + 1}; "
        "drop the rows or columns with such values, or fill them in"
    )


# ---- formats -------------------------------------------------------------------------------------------------


def _stream_text(path: Path, chunk_rows: int) -> TableStream:
    delimiter, first = _first_line(path)
    headless = all(_is_number(cell) for cell in first)
    names = tuple(f"x{j}" for j in range(len(first))) if headless else tuple(cell.strip() for cell in first)
    if headless:
        log.info(
            "%s: the first line holds numbers only and is taken as data; columns are x0 to %s", path.name, names[-1]
        )
    check_names(names, len(first))
    return TableStream(names, _text_chunks(path, delimiter, names, 0 if headless else 1, chunk_rows))


def _first_line(path: Path) -> tuple[str, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            line = stream.readline()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path.name} is not UTF-8 text: {error}; save it as UTF-8") from error
    if not line.strip():
        raise ValueError(f"{path.name} is empty, or its first line is; expected column names and rows of numbers")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=line.count)
    return delimiter, next(csv.reader([line], delimiter=delimiter))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _text_chunks(path: Path, delimiter: str, names: tuple[str, ...], skip: int, chunk_rows: int) -> Iterator[Array]:
    import pandas as pd

    options: dict[str, Any] = {
        "sep": delimiter,
        "header": None,
        "names": list(names),
        "skiprows": skip,
        "index_col": False,
        "encoding": "utf-8-sig",
        "chunksize": chunk_rows,
        "low_memory": True,
    }
    row = 0
    try:
        with pd.read_csv(path, **options) as reader:
            while (frame := _next_frame(reader)) is not None:
                yield _numbers(frame, names, row)
                row += len(frame)
    except pd.errors.EmptyDataError:
        return
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{path.name}: {error}; every row needs {len(names)} cells, as the first line has") from error


def _next_frame(reader: Any) -> Any:
    """The next rows, or None; rows longer than the header, which pandas would cut with a warning, are an error."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return next(reader, None)


def _stream_parquet(path: Path, chunk_rows: int) -> TableStream:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'surefoot[tables]'") from error
    try:
        file = ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path.name} is not a Parquet file: {error}") from error
    names = tuple(str(name) for name in file.schema_arrow.names)
    check_names(names, len(names))

    def chunks() -> Iterator[Array]:
        row = 0
        for batch in file.iter_batches(batch_size=chunk_rows):
            frame = batch.to_pandas()
            yield _numbers(frame, names, row)
            row += len(frame)

    return TableStream(names, chunks())


def _stream_npy(path: Path, chunk_rows: int) -> TableStream:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name} is not an array of numbers: {error}") from error
    if array.dtype.names is not None:
        names = tuple(array.dtype.names)
        flat = np.column_stack([np.asarray(array[name], dtype=np.float64) for name in names])
    elif array.ndim != 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{path.name} holds {array.dtype} of shape {array.shape}; expected numbers of shape (rows, columns)"
        )
    else:
        names, flat = tuple(f"x{j}" for j in range(array.shape[1])), array
    check_names(names, len(names))

    def chunks() -> Iterator[Array]:
        for start in range(0, len(flat), chunk_rows):
            values = np.asarray(flat[start : start + chunk_rows], dtype=np.float64)
            refuse_missing(values, names, start)
            yield values

    return TableStream(names, chunks())


def _numbers(frame: Any, names: Sequence[str], first_row: int) -> Array:
    """A frame's cells as float64; text is refused with the first cell that is no number."""
    import pandas as pd

    values = np.empty((len(frame), len(names)))
    for place, name in enumerate(names):
        column = frame.iloc[:, place]
        if pd.api.types.is_complex_dtype(column.dtype):
            raise ValueError(f"column {name!r} holds complex numbers; give real ones")
        if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
            values[:, place] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            continue
        parsed: Any = pd.to_numeric(column, errors="coerce")
        text = parsed.isna() & column.notna()
        if text.any():
            row = int(np.flatnonzero(text.to_numpy())[0])
            raise ValueError(
                f"column {name!r} holds text, for example {str(column.iloc[row])!r} in row {first_row + row + 1}; "
                "drop the column, or turn it into numbers"
            )
        values[:, place] = parsed.to_numpy(dtype=np.float64, na_value=np.nan)
    refuse_missing(values, names, first_row)
    return values
