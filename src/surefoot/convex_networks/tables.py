"""From a table with a target column to the problem: labels to signs, rows kept apart, and what is odd about the data said by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.convex_networks.problem import PatternProgram, constant_columns, make_program
from surefoot.data.tables import from_frame, read_table

if TYPE_CHECKING:
    from surefoot.convex_networks.card import Options

log = logging.getLogger(__name__)
MOST_CLASSES = 20


def read_target_table(path: Path, target: str) -> tuple[Any, Any, tuple[str, ...], int | None]:
    """(values (n, p), target (n,), names, None) of a file; the target may be text in CSV and TSV.

    Raises:
        ValueError: there is no such column, or a cell of the others is no number.
    """
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        import pandas as pd

        read_names = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else None, engine="python", nrows=0)
        names = [str(name).strip() for name in read_names.columns]
        column = _place(names, target)
        if not all(_number(name) for name in names):
            frame = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else None, engine="python")
            labels = frame.iloc[:, column]
            if not pd.api.types.is_numeric_dtype(labels.dtype):
                if bool(labels.isna().any()):
                    row = int(np.flatnonzero(labels.isna().to_numpy())[0]) + 1
                    raise ValueError(
                        f"the target {names[column]!r} is missing in row {row}; drop that row or fill it in"
                    )
                rest = from_frame(frame.drop(columns=frame.columns[column]))
                return rest.values, labels.astype(str).to_numpy(), rest.names, None
    table = read_table(path)
    column = _place(list(table.names), target)
    names = tuple(name for place, name in enumerate(table.names) if place != column)
    return np.delete(table.values, column, axis=1), table.values[:, column], names, None


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _place(names: Sequence[str], target: str) -> int:
    if not target:
        if len(names) < 2:
            raise ValueError("the table has one column; expected features and a target column")
        return len(names) - 1
    if target not in names:
        raise ValueError(f"there is no column {target!r} to take as target; there are {', '.join(names)}")
    return list(names).index(target)


def signs_of(labels: Any, what: str = "target") -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Labels as -1 and +1 columns (n, C), one against the rest beyond two classes, and the labels' names.

    Raises:
        ValueError: a single class.
    """
    kinds, of = np.unique(labels, return_inverse=True)
    names = tuple(f"{k:g}" if isinstance(k, int | float | np.number) else str(k) for k in kinds)
    if len(kinds) < 2:
        raise ValueError(
            f"the {what} holds a single class ({', '.join(names)}); a classifier needs rows of at least two"
        )
    if len(kinds) == 2:
        return np.where(of == 1, 1.0, -1.0)[:, None], names
    return np.where(of[:, None] == np.arange(len(kinds)), 1.0, -1.0), names


def program_from_table(
    options: Options, values: Any, target: Any, names: tuple[str, ...], train: int | None
) -> PatternProgram:
    """The problem; the first `train` rows (or all but the share `holdout`) are trained on."""
    n, p = values.shape
    if not 0 <= options.holdout < 1:
        raise ValueError(f"--holdout is {options.holdout}; expected a share in [0, 1)")
    whole = np.asarray(target)
    numeric = whole.dtype.kind in "fiub"
    few = len(np.unique(whole)) <= MOST_CLASSES and (not numeric or bool(np.all(whole == np.round(whole))))
    classify = options.task == "classification" or (options.task == "auto" and few)
    if not classify and not numeric:
        raise ValueError("the target holds text; --task regression needs numbers")
    if options.loss in ("logistic", "hinge") and not classify:
        raise ValueError(
            f"--loss {options.loss} needs classes, and the target is taken as numbers; set --task classification"
        )
    y, classes = signs_of(whole) if classify else (whole.astype(np.float64)[:, None], ())
    loss = "squared" if options.loss == "auto" else options.loss
    extra: Any = {"huber": {"knee": options.knee}, "quantile": {"quantile": options.quantile}}.get(loss, {})
    order, own = np.arange(n), train is None
    if train is None and options.holdout:
        order = np.random.default_rng(0).permutation(n)
        train = n - max(1, round(options.holdout * n))
    first, rest = order[:train], order[train:] if train is not None else order[:0]
    if len(first) < 1:
        raise ValueError(f"--holdout {options.holdout} of {n} rows leaves none to train on")
    for column in constant_columns(values[first]) if own else ():
        log.warning("column %r is constant; it says nothing and gets no weight", names[column])
    if len(first) < p + 1:
        log.warning(
            "fewer rows (%d) than columns with the bias (%d): the network can fit any target", len(first), p + 1
        )
    if classify and np.ptp(y[first], axis=0).min() == 0:
        raise ValueError("the rows to train on hold a single class of some target; lower --holdout or give more rows")
    program = make_program(
        values[first],
        y[first],
        loss=loss,
        penalty=options.penalty,
        scale=options.scale,
        bias=options.bias,
        radius=options.radius,
        names=names,
        classes=classes,
        **extra,
    )
    if len(rest) == 0:
        return program
    assert program.scaling is not None
    held = torch.from_numpy(program.scaling(values[rest]))
    return replace(program, held_features=held, held_targets=torch.from_numpy(y[rest].copy()))
