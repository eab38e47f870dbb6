"""What structure learning starts from: a table of numbers, of which the covariance is all that the score uses.

`Table` is the problem of this domain, `Dag` its answer. Validation happens here and nowhere deeper.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from surefoot.causal.knowledge import Knowledge
from surefoot.data.tables import check_names, refuse_missing
from surefoot.records.fingerprint import fingerprint

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Scaling = Literal["none", "global", "unit"]
Variance = Literal["equal", "unequal"]
Refine = Literal["none", "order"]

UNEVEN_SCALES = 100.0
"""Ratio of largest to smallest standard deviation above which the l1 weight means different things for different columns."""


@dataclass(frozen=True, eq=False)
class Table:
    """n observations of d variables, reduced to what the score needs.

    Args:
        covariance: (d, d) biased covariance X'X/n of the centred columns, in the working units (after scaling).
        rows: n.
        names: the d column names.
        mean: (d,) column means in the data's units.
        scale: (d,) what each column was divided by; all ones without scaling.
        values: (m, d) rows in working units, not centred, or None: all of them, or an even sample when there are very many.
            Only the test of Brown and Forsythe and the bootstrap use them.
        knowledge: edges ruled out or required.
        truth: (d, d) reference graph to be compared with, where one is known; it does not influence the answer.
    """

    covariance: Array
    rows: int
    names: tuple[str, ...]
    mean: Array
    scale: Array
    values: Array | None = None
    knowledge: Knowledge = field(default_factory=Knowledge)
    truth: Mask | None = None

    @property
    def order(self) -> int:
        """Number d of variables."""
        return len(self.names)

    @property
    def deviations(self) -> Array:
        """Standard deviations (d,) in working units."""
        return np.sqrt(np.diag(self.covariance))

    def fingerprint(self) -> str:
        """Hash of all that a claim may depend on; the masks are part of it, the raw rows are not."""
        known = self.knowledge
        masks = (known.allowed, known.required, known.before, self.truth)
        return fingerprint(self.covariance, self.rows, self.names, self.scale, *masks)


@dataclass(frozen=True, eq=False)
class Dag:
    """A weighted graph without cycles and what was learned with it, in working units.

    Args:
        adjacency: (d, d); entry (i, j) is the direct effect of variable i on variable j, zero where there is no edge.
        noise_std: (1,) for equal noise, (d,) otherwise.
        order: a causal order, causes first.
        names: the d variables.
    """

    adjacency: Array
    noise_std: Array
    order: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def edges(self) -> list[tuple[str, str, float]]:
        """(source, target, weight) of every edge, by source and target in column order."""
        sources, targets = np.nonzero(self.adjacency)
        return [
            (self.names[i], self.names[j], float(self.adjacency[i, j])) for i, j in zip(sources, targets, strict=True)
        ]


@dataclass(frozen=True)
class Moments:
    """First and second moments of a table, however it was read: n, mean (d,), biased covariance (d, d)."""

    rows: int
    mean: Array
    covariance: Array


MAX_VALUES = 100_000
"""Most rows kept beside the covariance; an even sample of more serves the residual test and the bootstrap as well."""


def moments(values: Array) -> Moments:
    """Two-pass moments of rows held in memory; `values` is not changed."""
    mean = values.mean(axis=0)
    centred = values - mean
    return Moments(len(values), mean, centred.T @ centred / len(values))


def table(
    values: Array,
    names: Sequence[str] | None = None,
    *,
    scale: Scaling = "none",
    knowledge: Knowledge | None = None,
    max_values: int = MAX_VALUES,
) -> Table:
    """A checked `Table` of rows held in memory.

    Args:
        values: (n, d) numbers; never modified.
        names: d column names; "x0", "x1", ... by default.
        scale: "none"; "global" divides everything by the smallest standard deviation, which makes the result invariant to
            one common factor; "unit" divides each column by its own standard deviation.
        knowledge: edges ruled out or required.
        max_values: most rows kept for the residual test and the bootstrap; more are thinned evenly.

    Raises:
        ValueError: not two-dimensional, fewer than two rows or columns, repeated names, a NaN or infinity, a constant column.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"expected a table of shape (rows, variables), got an array of shape {rows.shape}")
    labels = tuple(f"x{j}" for j in range(rows.shape[1])) if names is None else tuple(str(name) for name in names)
    check_names(labels, rows.shape[1])
    if rows.shape[1] < 2:
        raise ValueError(
            f"the table has {rows.shape[1]} feature(s) (n_features = {rows.shape[1]}); a graph needs at least 2 variables"
        )
    if rows.shape[0] < 2:
        raise ValueError(
            f"the table has n_samples = {rows.shape[0]}; a covariance needs at least 2 rows, "
            "and a trustworthy one many times the number of variables"
        )
    refuse_missing(rows, labels)
    sums = moments(rows)
    kept = rows if len(rows) <= max_values else rows[np.linspace(0, len(rows) - 1, max_values).astype(int)]
    return table_from_moments(sums, labels, scale=scale, knowledge=knowledge, values=kept)


def table_from_chunks(
    names: Sequence[str],
    chunks: Iterable[Array],
    *,
    scale: Scaling = "none",
    knowledge: Knowledge | None = None,
    max_values: int = MAX_VALUES,
) -> Table:
    """A checked `Table` from one pass over chunks of rows, whatever their number.

    Up to `max_values` rows are simply held and treated by `table`. Beyond that moments are merged chunk by chunk (Chan's
    update, as stable as two passes) and an even sample of the rows is kept.

    Raises:
        ValueError: as `table`.
    """
    held: list[Array] = []
    merged, stride, seen = None, 1, 0
    for chunk in chunks:
        if not len(chunk):
            continue
        merged = moments(chunk) if merged is None else _merge(merged, moments(chunk))
        held.append(chunk[(-seen) % stride :: stride].copy() if stride > 1 else chunk)
        seen += len(chunk)
        while sum(map(len, held)) > max_values:
            held, stride = [np.concatenate(held)[::2]], stride * 2
    rows = np.concatenate(held) if held else np.empty((0, len(names)))
    if stride == 1 or merged is None:
        return table(rows, names, scale=scale, knowledge=knowledge, max_values=max_values)
    log.info("%d rows: every %d-th is kept for the residual test and the bootstrap", seen, stride)
    check_names(names, rows.shape[1])
    return table_from_moments(merged, names, scale=scale, knowledge=knowledge, values=rows)


def _merge(left: Moments, right: Moments) -> Moments:
    rows = left.rows + right.rows
    shift = right.mean - left.mean
    share = right.rows / rows
    between = np.outer(shift, shift) * share * (1.0 - share)
    covariance = (1.0 - share) * left.covariance + share * right.covariance + between
    return Moments(rows, left.mean + share * shift, covariance)


def table_from_moments(
    sums: Moments,
    names: Sequence[str],
    *,
    scale: Scaling = "none",
    knowledge: Knowledge | None = None,
    values: Array | None = None,
) -> Table:
    """A checked `Table` from moments that were gathered in one pass over a file.

    Raises:
        ValueError: a constant column, or an unknown scaling.
    """
    deviation = np.sqrt(np.diag(sums.covariance))
    refuse_constant(deviation, sums.mean, names)
    ratio = float(deviation.max() / deviation.min())
    if scale == "none" and ratio > UNEVEN_SCALES:
        log.warning(
            "the standard deviations of %r and %r differ %.0f-fold: the l1 weight acts very unequally; "
            "consider scale='unit', or other units",
            names[int(np.argmax(deviation))],
            names[int(np.argmin(deviation))],
            ratio,
        )
    _warn_of_dependence(sums, deviation, names)
    if scale == "none":
        divisor = np.ones_like(deviation)
    elif scale == "global":
        divisor = np.full_like(deviation, deviation.min())
    elif scale == "unit":
        divisor = deviation
    else:
        raise ValueError(f"scale is {scale!r}; expected 'none', 'global' or 'unit'")
    covariance = sums.covariance / np.outer(divisor, divisor)
    covariance = (covariance + covariance.T) / 2
    kept = None if values is None else values / divisor
    return Table(covariance, sums.rows, tuple(names), sums.mean, divisor, kept, knowledge or Knowledge())


def _warn_of_dependence(sums: Moments, deviation: Array, names: Sequence[str]) -> None:
    """Say which column is a combination of the ones before it; the order tests are impossible then."""
    if sums.rows <= len(names):
        log.warning(
            "%d rows for %d variables: the covariance is singular and no order can be tested", sums.rows, len(names)
        )
        return
    work = sums.covariance / np.outer(deviation, deviation)
    for j in range(len(names)):
        if work[j, j] <= 1e-12:
            log.warning("column %r is a combination of the columns before it; no order can be tested", names[j])
            return
        work[j + 1 :, j + 1 :] -= np.outer(work[j + 1 :, j], work[j, j + 1 :]) / work[j, j]


def refuse_constant(deviation: Array, mean: Array, names: Sequence[str]) -> None:
    """Refuse columns whose spread is nothing but rounding."""
    constant = np.flatnonzero(deviation <= 1e-14 * np.maximum(np.abs(mean), 1e-300))
    if len(constant):
        listed = ", ".join(repr(names[j]) for j in constant)
        raise ValueError(
            f"column {listed} is constant (standard deviation 0): nothing can be learned about it; drop it and run again"
        )
