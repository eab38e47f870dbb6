"""Sine and cosine of intervals, rounded outwards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from surefoot.numerics.intervals import ELEMENTARY_ULPS, Interval

__all__ = ["cosine", "sine"]

Array = NDArray[np.float64]

LARGEST = 1e6
"""Beyond it, places of the peaks are no longer resolved and the whole range [-1, 1] is returned."""


def sine(x: Interval) -> Interval:
    """Sine: the ends' values, or 1 and -1 where a peak or a trough may lie inside."""
    return _wave(x, np.sin, 0.5 * np.pi)


def cosine(x: Interval) -> Interval:
    """Cosine: the ends' values, or 1 and -1 where a peak or a trough may lie inside."""
    return _wave(x, np.cos, 0.0)


def _wave(x: Interval, function: np.ufunc, peak: float) -> Interval:
    wide = np.maximum(np.abs(x.low), np.abs(x.high)) > LARGEST
    low, high = np.where(wide, 0.0, x.low), np.where(wide, 0.0, x.high)
    at_low, at_high = function(low), function(high)
    # values are at most 1, so a unit in the last place of 1 bounds the error near the zeros, too
    room = ELEMENTARY_ULPS * np.finfo(np.float64).eps
    least, most = np.minimum(at_low, at_high) - room, np.maximum(at_low, at_high) + room
    least = np.where(wide | _reaches(low, high, peak + np.pi), -1.0, least)
    most = np.where(wide | _reaches(low, high, peak), 1.0, most)
    return Interval(np.clip(least, -1.0, 1.0), np.clip(most, -1.0, 1.0))


def _reaches(low: Array, high: Array, place: float) -> NDArray[np.bool_]:
    """Whether ``place`` plus a multiple of 2 pi may lie in [low, high]; in doubt yes."""
    turn, doubt = 2 * np.pi, 1e-8
    return np.asarray(np.floor((high - place) / turn + doubt) >= np.ceil((low - place) / turn - doubt))
