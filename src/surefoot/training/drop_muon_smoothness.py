"""How smooth the loss is along each layer, estimated while training.

On one batch, before and after a step: ``Lhat_i = |g_i(X+) - g_i(X)|* / |X_i+ - X_i|``. The estimate in use is the median of the last few
(one outlier moves nothing), and ``L_i = L0_i + L1_i |g_i|*`` is fitted to all of them by non-negative least squares. These are
secants along the steps taken, hence estimates from below, and never a premise of a proof.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.numerics.spectral_matrix import (
    NORMS,
    as_matrix,
    dual_norm,
    nearly_dual_norm,
    nearly_primal_norm,
    primal_norm,
)
from surefoot.training.drop_muon_distributed import full
from surefoot.training.drop_muon_update import norm_of, shape_scale

__all__ = ["KEPT", "Point", "current", "generalised", "secants", "sizes", "snapshot"]

KEPT = 64
RECENT = 5


@dataclass(frozen=True)
class Point:
    """A parameter, the norm in which a step of it has length lr, the scale of that length by shape, and its weights and gradient at a moment."""

    parameter: Tensor
    norm: Any
    scale: float
    weights: Tensor
    gradient: Tensor


def snapshot(groups: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Parameters by which smoothness is judged. AdamW and SGD take no steps of a norm: a layer that only they train has no constant of its own."""
    found = []
    for group in groups:
        for p in group["params"]:
            norm = norm_of(group, p)
            if norm in NORMS and p.grad is not None:
                scale = shape_scale(as_matrix(p).shape, group["scale"]) if norm == "spectral" else 1.0
                found.append(Point(p, norm, scale, full(p.detach()).clone(), full(p.grad).clone()))
    return found


def secants(
    before: Sequence[Point], layer: Mapping[Tensor, int], layers: int, *, exact: bool
) -> list[tuple[float, float] | None]:
    """``(|g_i|*, Lhat_i)`` a layer, from the gradients that parameters had and have on the same batch; None for layers that did not move.

    A layer's norm is the largest of its parameters' (in units of one lr), so its dual is their sum.
    """
    dual, length = (dual_norm, primal_norm) if exact else (nearly_dual_norm, nearly_primal_norm)
    size, change, moved = ([0.0] * layers for _ in range(3))
    for point in before:
        p, i, scale = point.parameter, layer[point.parameter], point.scale
        if p.grad is None:
            continue
        size[i] += scale * float(dual(point.gradient, point.norm))
        change[i] += scale * float(dual(full(p.grad) - point.gradient, point.norm))
        moved[i] = max(moved[i], float(length(full(p.detach()) - point.weights, point.norm)) / scale)
    return [
        (size[i], change[i] / moved[i]) if moved[i] > 0 and math.isfinite(change[i]) else None for i in range(layers)
    ]


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
