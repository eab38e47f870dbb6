"""Refusals at the border that several constructors share."""

from __future__ import annotations

import math

__all__ = ["require_positive"]


def require_positive(what: str, value: float) -> None:
    """Refuse an option that is not a positive finite number.

    Raises:
        ValueError: naming the option and the value.
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{what} must be a positive finite number, got {value}.")
