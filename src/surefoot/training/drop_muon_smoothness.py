"""How smooth the loss is along each layer, estimated while training.

On one batch, before and after a step: ``Lhat_i = |g_i(X+) - g_i(X)|* / |X_i+ - X_i|``. The estimate in use is the median of the last few
(one outlier moves nothing), and ``L_i = L0_i + L1_i |g_i|*`` is fitted to all of them by non-negative least squares. These are
secants along the steps taken, hence estimates from below, and never a premise of a proof.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

__all__ = ["KEPT", "current", "generalised", "sizes"]

KEPT = 64
RECENT = 5


def current(pairs: Sequence[Sequence[tuple[float, float]]]) -> list[float] | None:
    """L_i (b,) now, from (|g_i|*, Lhat_i) pairs by layer; None without any.

    A layer without estimates (AdamW trains it) shares the constant of the next layer that has some, or of the one before at the end.
    """
    own = [max(statistics.median(L for _, L in layer[-RECENT:]), 1e-30) if layer else None for layer in pairs]
    known = [i for i, L in enumerate(own) if L is not None]
    if not known:
        return None
    nearest = [next((j for j in known if j >= i), known[-1]) for i in range(len(own))]
    return [float(own[j] or 0.0) for j in nearest]


def sizes(pairs: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
    """|g_i|* (b,) now; 0 for layers without estimates."""
    return [statistics.median(g for g, _ in layer[-RECENT:]) if layer else 0.0 for layer in pairs]


def generalised(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(L0, L1) of ``L = L0 + L1 |g|*`` for one layer.

    Raises:
        ValueError: no estimates yet.
    """
    from scipy.optimize import nnls

    if not pairs:
        raise ValueError("there are no estimates of this layer's smoothness yet")
    size, L = np.asarray(pairs, dtype=float).T
    found, _ = nnls(np.stack([np.ones_like(size), size], axis=1), L)
    return float(found[0]), float(found[1])
