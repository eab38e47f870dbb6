"""Philox bit generators by their key, without numpy's detour.

``np.random.Philox(key=key)`` asks the operating system for entropy and hashes it before it throws the result away; that costs more
than all else in making a small stream. A seed sequence that answers with the key gives the same generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

__all__ = ["philox"]


class _Key(ISeedSequence):
    """Answers with a 128-bit key, low word first."""

    def __init__(self, key: int) -> None:
        self.words = np.array([key & (2**64 - 1), key >> 64], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        del n_words, dtype  # Philox asks for two words of 64 bits
        return self.words


def philox(key: int) -> np.random.Philox:
    """The Philox generator with this 128-bit key and counter 0: ``np.random.Philox(key=key)``."""
    seed: Any = _Key(key)
    return np.random.Philox(seed)
