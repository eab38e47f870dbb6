"""Two-class tables for the ridge-logistic runs: CSV, svmlight, and the packaged sample."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surefoot.data.linear_model import LinearModel
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
    kinds = np.unique(labels)
    if len(kinds) != 2:
        shown = ", ".join(map(str, kinds[:5].tolist()))
        raise ValueError(f"the class column of {path.name} has {len(kinds)} values ({shown}, ...); expected two")
    constant = np.flatnonzero(np.ptp(features, axis=0) == 0)
    if len(constant):
        raise ValueError(f"column {names[constant[0]]!r} of {path.name} is constant; remove it")
    return features, np.where(labels == kinds[1], 1.0, -1.0), names


def _read_csv(path: Path, target: str) -> tuple[Array, npt.NDArray[np.object_], tuple[str, ...]]:
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no readable CSV: {error}") from error
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        header = stream.readline().decode("utf-8", "replace").strip().split(",")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"column {repeated[0]!r} of {path.name} appears twice; rename one of them")
    if frame.shape[1] < 2 or len(frame) < 2:
        raise ValueError(
            f"{path.name} has {len(frame)} rows and {frame.shape[1]} columns; expected at least 2 rows, "
            "one feature and one class column"
        )
    chosen = target or str(frame.columns[-1])
    if chosen not in frame.columns:
        raise ValueError(f"{path.name} has no column {chosen!r}; it has {', '.join(map(str, frame.columns[:8]))}")
    if bool(np.any(frame[chosen].isna())):
        raise ValueError(f"class column {chosen!r} of {path.name} has empty cells; fill or drop those rows")
    features = frame.drop(columns=[chosen])
    for name in features.columns:
        column = features[name]
        if not pd.api.types.is_numeric_dtype(column):
            raise ValueError(
                f"column {name!r} of {path.name} holds text, e.g. {column.iloc[0]!r}; encode it as numbers"
            )
        if not np.isfinite(column.to_numpy(dtype=np.float64)).all():
            raise ValueError(f"column {name!r} of {path.name} has empty or infinite cells; fill or drop those rows")
    _check_size(len(features), features.shape[1], path)
    return (
        features.to_numpy(dtype=np.float64),
        frame[chosen].to_numpy(dtype=object),
        tuple(map(str, features.columns)),
    )


def _read_svmlight(path: Path) -> tuple[Array, Array, tuple[str, ...]]:
    from sklearn.datasets import load_svmlight_file

    try:
        loaded: Any = load_svmlight_file(str(path))
        sparse, labels = loaded[0], loaded[1]
    except ValueError as error:
        raise ValueError(f"{path.name} is neither CSV (by its name) nor svmlight: {error}") from error
    _check_size(sparse.shape[0], sparse.shape[1], path)
    features = sparse.toarray()
    used = np.flatnonzero(np.ptp(features, axis=0) > 0)
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
