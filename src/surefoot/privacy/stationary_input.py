"""Records for the card: tables of the user and the samples, bounded by public numbers only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.core.system import Inputs
from surefoot.data.tables import FORMATS, refuse_missing

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]


def scaled(values: Array, names: Sequence[str], ranges: dict[str, tuple[float, float]]) -> Array:
    """Columns mapped from their public range to [-1, 1] / sqrt(d), values beyond cut off; a row then has norm at most 1.

    Columns without a range are taken as they are.
    """
    columns = []
    for name, column in zip(names, values.T, strict=True):
        if name in ranges:
            low, high = ranges[name]
            column = np.clip(2.0 * (column - low) / (high - low) - 1.0, -1.0, 1.0) / np.sqrt(len(names))
        columns.append(column)
    return np.stack(columns, axis=1)


def parsed_ranges(texts: Sequence[str], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """NAME:LOW:HIGH as a dict.

    Raises:
        ValueError: another form, an unknown column, LOW not below HIGH.
    """
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, low, high = [*text.rsplit(":", 2), "", ""][:3]
        try:
            ends = float(low), float(high)
        except ValueError as error:
            raise ValueError(f"--ranges {text!r}: expected NAME:LOW:HIGH, for example age:0:100") from error
        if name not in names:
            raise ValueError(f"--ranges {text!r}: the table has no column {name!r}; it has {', '.join(names)}")
        if not ends[0] < ends[1]:
            raise ValueError(f"--ranges {text!r}: LOW must be below HIGH")
        found[name] = ends
    return found


def read_records(path: Path, target: str) -> tuple[tuple[str, ...], Array, Array]:
    """Feature names, features (n, d), targets (n,) of a table, an .npz (features, targets) or a LIBSVM file.

    Raises:
        ValueError: text, missing values, no such target.
    """
    if path.suffix == ".npz":
        from surefoot.records.files import read_npz

        arrays = read_npz(path)
        if {"features", "targets"} - set(arrays):
            raise ValueError(
                f"{path.name} holds {sorted(arrays)}; expected the arrays features (n, d) and targets (n,)"
            )
        values, wanted = (
            np.asarray(arrays["features"], dtype=np.float64),
            np.asarray(arrays["targets"], dtype=np.float64),
        )
        names = tuple(f"x{j}" for j in range(values.shape[1] if values.ndim == 2 else 0))
    elif path.suffix not in FORMATS:  # .svm, .libsvm, .t, .gz, none: the LIBSVM collection has no fixed ending
        from sklearn.datasets import load_svmlight_file

        loaded: Any = load_svmlight_file(str(path))
        values, wanted = loaded[0].toarray().astype(np.float64), np.asarray(loaded[1], dtype=np.float64)
        names = tuple(f"x{j}" for j in range(values.shape[1]))
    else:
        from surefoot.data.tables import read_table

        table = read_table(path)
        column = target or table.names[-1]
        if column not in table.names:
            raise ValueError(f"--target {column!r}: the table has no such column; it has {', '.join(table.names)}")
        place = table.names.index(column)
        names = tuple(name for name in table.names if name != column)
        values, wanted = np.delete(table.values, place, axis=1), table.values[:, place]
    if values.ndim != 2 or wanted.shape != (len(values),) or not values.size:
        raise ValueError(f"{path.name}: features {values.shape} and targets {wanted.shape}; expected (n, d) and (n,)")
    refuse_missing(np.column_stack([values, wanted]), (*names, target or "target"))
    return names, values, wanted


def one_row_each(values: Array, targets: Array, group: Array) -> tuple[Array, Array]:
    """The first row of every group: then the group (a person, say) is what is protected."""
    first = np.sort(np.unique(group, return_index=True)[1])
    return values[first], targets[first]


def signs(targets: Array) -> Array:
    """Two public labels as -1 and +1.

    Raises:
        ValueError: other values than 0 and 1, or -1 and 1, or 1 and 2.
    """
    found = set(np.unique(targets).tolist())
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (1.0, 2.0)):
        if found <= {low, high}:
            return np.where(targets == high, 1.0, -1.0)
    shown = sorted(found)[:4]
    raise ValueError(
        f"the target holds {shown}{'…' * (len(found) > 4)}; classification needs 0 and 1 (or -1 and 1); for numbers use --loss huber"
    )


def tumours(
    inputs: Inputs, sample: Any, note: str
) -> tuple[tuple[str, ...], Array, Array, dict[str, tuple[float, float]]]:
    """The breast cancer table of scikit-learn, and round public ranges from its description."""
    from sklearn.datasets import load_breast_cancer

    from surefoot.records.fingerprint import fingerprint

    data: Any = load_breast_cancer()
    inputs.sample(sample, sha256=fingerprint(data.data, data.target), note=note)
    tops = (
        30, 40, 200, 2500, 0.2, 0.4, 0.5, 0.25, 0.4, 0.1, 3, 5, 25, 600, 0.05, 0.2, 0.5, 0.06, 0.1, 0.03, 40, 50, 260, 4500,
        0.25, 1.2, 1.5, 0.3, 0.7, 0.25,
    )  # fmt: skip  # rounded up from the ranges printed in the data set's own description
    names = tuple(str(name) for name in data.feature_names)
    return (
        names,
        np.asarray(data.data),
        np.asarray(data.target, dtype=np.float64),
        {n: (0.0, t) for n, t in zip(names, tops, strict=True)},
    )
