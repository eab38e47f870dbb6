"""Public names load, and the facade brings the same classes."""

from __future__ import annotations

import importlib

import pytest

import surefoot.optim
from surefoot.descent import optimizers


@pytest.mark.parametrize(
    "package", ["surefoot", "surefoot.core", "surefoot.descent", "surefoot.causal", "surefoot.optim"]
)
def test_every_public_name_loads(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_the_facade_adds_nothing() -> None:
    assert surefoot.optim.NAG is optimizers.NAG
