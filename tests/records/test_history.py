"""Histories of bounded size."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.records.files import plain
from surefoot.records.history import History


def filled(rows: int, limit: int = 16) -> History:
    history = History(limit)
    for k in range(rows):
        history.add({"k": float(k), "x": math.sqrt(k)})
    return history


@given(st.integers(1, 3000), st.integers(2, 33))
def test_memory_is_bounded_and_the_ends_are_kept(rows: int, limit: int) -> None:
    history = filled(rows, limit)
    steps = history.column("k")
    assert len(history.rows) <= limit
    assert steps[0] == 0.0
    assert steps[-1] == rows - 1
    assert steps == sorted(set(steps))
    assert len(history) == len(steps)
    gaps = {b - a for a, b in itertools.pairwise(steps[:-1])}
    assert len(gaps) <= 1  # evenly spaced, but for the newest row
    assert len(steps) > min(rows, limit) / 2 - 1
    assert history.column("x") == [math.sqrt(k) for k in steps]


@given(st.integers(0, 9000), st.integers(0, 9000))
def test_a_history_read_back_continues_identically(before: int, after: int) -> None:
    whole, first = History(), History()
    for k in range(before):
        whole.add({"k": float(k)})
        first.add({"k": float(k)})
    resumed = History.from_json(json.loads(json.dumps(plain(first.to_json()))))
    for k in range(before, before + after):
        whole.add({"k": float(k)})
        resumed.add({"k": float(k)})
    assert resumed.columns() == whole.columns()
    assert (resumed.stride, resumed.seen) == (whole.stride, whole.seen)


def test_infinite_values_and_late_columns_survive() -> None:
    history = History()
    history.add({"k": 0.0, "gap": math.inf})
    history.add({"k": 1.0, "gap": 1.0, "late": -math.inf})
    back = History.from_json(json.loads(json.dumps(plain(history.to_json()), allow_nan=False)))
    assert back.column("gap") == [math.inf, 1.0]
    assert back.column("late")[1] == -math.inf
    assert math.isnan(back.column("late")[0])
    assert list(back) == list(history)


def test_an_empty_history_has_nothing() -> None:
    assert len(History()) == 0
    assert History().columns() == {}
    assert History.from_json(History().to_json()).columns() == {}
    assert History().column("x") == []
    assert filled(1).column("nothing") == pytest.approx([math.nan], nan_ok=True)
