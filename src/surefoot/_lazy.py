"""Lazy module exports (PEP 562): a public name imports its module when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package.

    Args:
        package: the package's `__name__`.
        names: for each module (relative to the package, or absolute with a leading dot stripped
            name such as "surefoot.core.solve") the public names it defines.
    """
    home = {name: module for module, exported in names.items() for name in exported}
    everything = sorted(home)

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name]
        target = module if module.startswith("surefoot.") else f"{package}.{module}"
        return getattr(importlib.import_module(target), name)

    return load, lambda: everything, everything
