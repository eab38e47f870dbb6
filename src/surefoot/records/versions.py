"""Versions that a result may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("surefoot", "torch", "numpy", "scipy", "scikit-learn", "clarabel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
