"""Where the training by convex programs stands between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.core.method import State, transient


def gap_of(upper: float, lower: float) -> float:
    """(upper - lower) / |upper|, 0 where both are 0."""
    return 0.0 if upper == lower else (upper - lower) / max(abs(upper), np.finfo(float).tiny)


@dataclass(kw_only=True)
class ConvexState(State):
    """Where the rounds stand; `arrays` belongs to the inner solver."""

    phase: str = "begin"
    round: int = 0
    inner: int = 0
    directions: Tensor
    arrays: dict[str, Tensor] = field(default_factory=dict)
    rho: float = 1.0
    v: Tensor | None = None  # feasible blocks of the last finished round (C, 2, P, d)
    z: Tensor | None = None  # (C, n)
    p: Tensor | None = None  # (C, 2, P, n), to be multiplied by scale (C,)
    scale: Tensor | None = None
    spread: Tensor | None = (
        None  # (C, n) and tilt (C, n, d): how perturbations enter the multipliers of robust training
    )
    tilt: Tensor | None = None
    hidden: Tensor | None = None  # best network so far
    output: Tensor | None = None
    local_hidden: Tensor | None = None  # (R, m, d) networks trained locally
    local_output: Tensor | None = None
    objective: float = float("inf")
    upper: float = float("inf")
    lower: float = -float("inf")
    estimate: float = float("inf")
    before: float = float("inf")  # robust: value of the round before
    global_lower: float = -float("inf")
    largest: Tensor | None = None  # (C,) bound or best value of |z'(Xu)_+|, and where (C, d)
    where: Tensor | None = None
    bound_z: Tensor | None = None  # the multipliers of the best bound over all patterns
    exact: bool = False
    why: str = ""
    solver: Any = transient()  # noqa: RUF009 - a dataclass field
