"""Every card of the catalogue is held to the contracts; a new card cannot forget them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from surefoot import catalog
from surefoot.core.system import System
from surefoot.testing import check_certificate, check_method, check_optimizer, check_system

CARDS = [pytest.param(card, id=name) for name, card in catalog.cards().items()]


def named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def methods() -> Iterator[Any]:
    for name, card in catalog.cards().items():
        for place, (problem, method) in enumerate(card.tiny() if card.tiny else ()):
            yield pytest.param(problem, method, id=f"{name}-{place}-{type(method).__name__}")


@pytest.mark.parametrize(("problem", "method"), list(methods()))
def test_method(problem: Any, method: Any, tmp_path: Path) -> None:
    check_method(problem, method, tmp_path)


@pytest.mark.parametrize("card", CARDS)
def test_certificate(card: System, tmp_path: Path) -> None:
    assert check_certificate(card, tmp_path) > 0


@pytest.mark.parametrize("card", CARDS)
def test_system(card: System, tmp_path: Path) -> None:
    check_system(card, tmp_path)


@pytest.mark.parametrize("target", [t for card in catalog.cards().values() for t in card.optimizers])
def test_optimizer(target: str) -> None:
    check_optimizer(named(target))


@parametrize_with_checks([named(t)() for card in catalog.cards().values() for t in card.estimators])
def test_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("card", CARDS)
def test_presets(card: System) -> None:
    for name in ("default", "tour"):
        assert isinstance(card.preset(name), card.options)
    for alias in card.aliases:
        assert catalog.find(alias) is card
