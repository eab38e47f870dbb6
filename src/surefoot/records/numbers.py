"""Numbers of claims: floats, or exact rationals written "a/b"."""

from __future__ import annotations

import math
from fractions import Fraction

Number = float | int | str | None  # a rational is the string "a/b"


def as_number(value: Number) -> Fraction | float:
    """A claim's number: exact for "a/b" and whole-number strings, nan for None or text that is no number."""
    if isinstance(value, str):
        try:
            exact = "/" in value or value.strip("+-").isdigit()
            return Fraction(value) if exact else float(value)
        except (ValueError, ZeroDivisionError):
            return math.nan
    return math.nan if value is None else to_float(value)


def to_float(value: Fraction | float) -> float:
    """The nearest float; an infinite one where the number is beyond all floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def agree(said: Number, found: Number, rtol: float, atol: float) -> bool:
    """Whether two numbers are the same: rationals exactly, floats within tolerances, None only with None."""
    if said is None or found is None:
        return said is found
    a, b = as_number(said), as_number(found)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = to_float(a), to_float(b)
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= atol + rtol * max(abs(a), abs(b))


def show(value: Number) -> str:
    """A number in a sentence."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
