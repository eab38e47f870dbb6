"""Two-class tables for the ridge-logistic runs: CSV, svmlight, and the packaged sample."""

from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surefoot.data.linear_model import LinearModel
from surefoot.data.tables import check_names, from_frame, refuse_missing
from surefoot.numerics.losses import Logistic

Array = npt.NDArray[np.float64]

__all__ = ["logistic_model", "read_table", "sample_table"]

LARGEST = 50_000_000


def sample_table() -> tuple[Array, Array, tuple[str, ...]]:
    """Breast cancer Wisconsin from scikit-learn: features (569, 30), classes in {-1, 1}, names."""
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    return np.asarray(bunch.data), 2.0 * np.asarray(bunch.target) - 1.0, tuple(map(str, bunch.feature_names))


def read_table(path: Path, target: str = "") -> tuple[Array, Array, tuple[str, ...]]:
    """Features (n, d), classes (n,) in {-1, 1} and column names of a file.

    Args:
        path: CSV with a header, or svmlight (.svm, .svmlight, .txt, also .gz).
        target: class column of a CSV; default: the last one.

    Raises:
        ValueError: with the column at fault and what to do.
    """
    suffixes = [s for s in path.suffixes if s != ".gz"]
    if suffixes and suffixes[-1] == ".csv":
        features, labels, names = _read_csv(path, target)
    else:
        features, labels, names = _read_svmlight(path)
    try:
        kinds = np.unique(labels)
    except TypeError as error:
        raise ValueError(
            f"the class column of {path.name} mixes text and numbers; write both classes one way"
        ) from error
    if len(kinds) != 2:
        shown = ", ".join(map(str, kinds[:5].tolist()))
        more = ", ..." if len(kinds) > 5 else ""
        raise ValueError(f"the class column of {path.name} has {len(kinds)} values ({shown}{more}); expected two")
    constant = np.flatnonzero(np.ptp(features, axis=0) == 0)
    if len(constant):
        raise ValueError(f"column {names[constant[0]]!r} of {path.name} is constant; remove it")
    return features, np.where(labels == kinds[1], 1.0, -1.0), names


def _read_csv(path: Path, target: str) -> tuple[Array, npt.NDArray[np.object_], tuple[str, ...]]:
    import pandas as pd

    delimiter, header = _header(path)
    try:
        check_names(header, len(header))
        with warnings.catch_warnings():
            # pandas would drop the last cells of rows that are all too long, with a warning only
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=delimiter, header=None, names=header, skiprows=1, index_col=False, encoding="utf-8-sig"
            )
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(columns=header)
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, EOFError, OSError) as error:
        said = str(error).strip()
        raise ValueError(f"{path.name} is no readable CSV: {said}; every row needs {len(header)} cells") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if len(header) < 2 or len(frame) < 2:
        raise ValueError(
            f"{path.name} has {len(frame)} rows and {len(header)} columns; expected a header, at least 2 rows, "
            "one feature and one class column"
        )
    chosen = target or header[-1]
    if chosen not in header:
        raise ValueError(f"{path.name} has no column {chosen!r}; it has {', '.join(header[:8])}")
    if bool(np.any(frame[chosen].isna())):
        raise ValueError(f"class column {chosen!r} of {path.name} has empty cells; fill or drop those rows")
    _check_size(len(frame), len(header) - 1, path)
    try:
        numbers = from_frame(frame.drop(columns=[chosen]))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return numbers.values, frame[chosen].to_numpy(dtype=object), numbers.names


def _header(path: Path) -> tuple[str, list[str]]:
    """Delimiter and column names from the first line."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            line = stream.readline().decode("utf-8-sig").strip()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path.name} is no readable CSV: {error}; save it as UTF-8 text") from error
    if not line:
        raise ValueError(f"{path.name} is empty, or its first line is; expected column names and rows")
    delimiter = max(",;\t", key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    if all(_is_number(name) for name in names):
        raise ValueError(f"{path.name} begins with numbers; give its columns names in the first line")
    return delimiter, names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_svmlight(path: Path) -> tuple[Array, Array, tuple[str, ...]]:
    """Features that ever change; the others say nothing beside the intercept."""
    from sklearn.datasets import load_svmlight_file

    try:
        loaded: Any = load_svmlight_file(str(path))
        sparse, labels = loaded[0], loaded[1]
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is neither CSV (by its name) nor svmlight: {error}") from error
    if sparse.shape[0] < 2 or sparse.shape[1] < 1:
        raise ValueError(f"{path.name} has {sparse.shape[0]} rows; expected at least 2, with at least one feature")
    _check_size(sparse.shape[0], sparse.shape[1], path)
    features = sparse.toarray()
    try:
        refuse_missing(features, [f"feature {i + 1}" for i in range(features.shape[1])])
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    used = np.flatnonzero(np.ptp(features, axis=0) > 0)
    if not len(used):
        raise ValueError(f"no feature of {path.name} ever changes; there is nothing to fit")
    return features[:, used], labels, tuple(f"feature {i + 1}" for i in used)


def _check_size(rows: int, columns: int, path: Path) -> None:
    if rows * columns > LARGEST:
        raise ValueError(
            f"{path.name} has {rows} x {columns} entries, more than the {LARGEST} that fit comfortably; take fewer rows"
        )


def logistic_model(features: Array, classes: Array, ridge: float) -> LinearModel:
    """Ridge-logistic model on standardised columns with a column of ones in front.

    Args:
        features: (n, d), no constant column.
        classes: (n,) in {-1, 1}.
        ridge: m > 0.
    """
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    with_ones = np.hstack([np.ones((len(scaled), 1)), scaled])
    return LinearModel(torch.from_numpy(with_ones), torch.from_numpy(classes), Logistic(), ridge)
