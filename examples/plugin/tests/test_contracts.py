"""The promises every card keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from surefoot_eigenpair.card import CARD

from surefoot.testing import check_certificate, check_method, check_system


@pytest.mark.parametrize("index", [0, 1], ids=["plain", "momentum"])
def test_method(index: int, tmp_path: Path) -> None:
    problem, method = CARD.tiny()[index]
    check_method(problem, method, tmp_path)


def test_certificate(tmp_path: Path) -> None:
    assert check_certificate(CARD, tmp_path) > 0


def test_system(tmp_path: Path) -> None:
    check_system(CARD, tmp_path)
