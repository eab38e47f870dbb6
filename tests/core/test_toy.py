"""The contracts on a toy card."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.testing import check_certificate, check_method
from toy import CARD


def test_certificate(tmp_path: Path) -> None:
    assert check_certificate(CARD, tmp_path) > 10


def test_method(tmp_path: Path) -> None:
    assert CARD.tiny is not None
    for problem, method in CARD.tiny():
        check_method(problem, method, tmp_path)


@pytest.mark.parametrize("damping", [3.0])
def test_divergence_is_not_an_answer(damping: float) -> None:
    from surefoot.core.system import Inputs
    from toy import Options, load, run

    result = run(Options(damping=damping, steps=5000), load(Options(), Inputs()), None)
    assert result.status.name == "DIVERGED"
    assert "step" in result.reason
    assert result.certificate is None
