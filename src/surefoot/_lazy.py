"""Names that import their module when first used: module exports (PEP 562), and the functions that a card names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """A package whose public names win over modules of the same name.

    Importing `surefoot.core.solve` would else put that module in the place of the function `surefoot.core.solve`. The module is
    still found under its full path.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in self.__dict__.get("__all__", ()):
            return
        super().__setattr__(name, value)


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
    sys.modules[package].__class__ = _Package

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name]
        target = module if module.startswith("surefoot.") else f"{package}.{module}"
        return getattr(importlib.import_module(target), name)

    return load, lambda: everything, everything


def later(target: str) -> Callable[..., Any]:
    """A function that imports `module:name` when it is called and calls it; a name that is no function is returned as it is.

    Cards use it to name their checkers and figures, since listing cards must import nothing heavy.
    """
    module, _, name = target.partition(":")

    def call(*arguments: Any) -> Any:
        found = getattr(importlib.import_module(module), name)
        return found(*arguments) if callable(found) else found

    return call
