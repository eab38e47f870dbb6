"""Public names load, and the facade brings the same classes."""

from __future__ import annotations

import importlib
import subprocess
import sys

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


def test_a_module_never_takes_the_place_of_a_public_name() -> None:
    script = (
        "import surefoot.descent.minimize, surefoot.descent.certify, surefoot.core.solve, surefoot.core.verify\n"
        "from surefoot.descent import minimize, certify\n"
        "from surefoot.core import solve, verify\n"
        "from surefoot.descent.minimize import minimize as same\n"
        "assert minimize is same and all(map(callable, (certify, solve, verify)))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_facade_adds_nothing() -> None:
    assert surefoot.optim.NAG is optimizers.NAG
