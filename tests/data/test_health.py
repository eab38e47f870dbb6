"""The health table as installed: the facts that cards rest on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("statsmodels", reason="needs statsmodels (extra samples)")

from surefoot.data.health import COLUMNS, MOST_VISITS, SITES, health_visits


def test_the_table_is_the_known_one() -> None:
    table = health_visits()
    assert table.features.shape == (20_190, 19)
    assert np.bincount(table.site)[1:].tolist() == [4462, 4036, 2436, 3090, 2595, 3571]
    assert len(SITES) == 6
    assert len(np.unique(table.person)) == 5_912
    assert table.visits.mean() == pytest.approx(2.86, abs=0.005)
    assert table.visits.max() == MOST_VISITS


def test_public_ends_hold_every_record() -> None:
    """Clipping at the ends changes nothing, and no column is flat."""
    table = health_visits()
    assert (np.abs(table.features) <= 1.0).all()
    inside = (np.abs(table.features) < 1.0).any(axis=0)
    yes_or_no = [ends == (0, 1) for ends in COLUMNS.values()]
    assert (inside | np.array(yes_or_no)).all()
    assert (table.features.std(axis=0) > 0.05).all()
    columns = dict(zip(table.names, table.features.T, strict=True))
    assert set(np.unique(columns["female"])) == {-1.0, 1.0}


def test_one_year_each_makes_the_record_a_person() -> None:
    table = health_visits(one_year_each=True)
    assert len(table.person) == len(np.unique(table.person)) == 5_912
