"""Refusals at the border that several constructors share."""

from __future__ import annotations

import math

__all__ = ["require_positive", "require_probability"]


def require_positive(what: str, value: float) -> None:
    """Refuse an option that is not a positive finite number.

    Raises:
        ValueError: naming the option and the value.
    """
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{what} must be a positive finite number, got {value}.")


def require_probability(what: str, value: float) -> None:
    """Refuse a probability that is not strictly between 0 and 1.

    Raises:
        ValueError: naming the option and the value.
    """
    if not 0 < value < 1:
        raise ValueError(f"{what} must lie strictly between 0 and 1, got {value}.")
