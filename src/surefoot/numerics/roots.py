"""Roots of increasing functions, elementwise on tensors: what proximal maps and projections come down to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["increasing_root", "log_wright_omega"]


def increasing_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, steps: int = 200
) -> Tensor:
    """Roots of increasing functions, each in its bracket: Newton, with bisection where it would leave.

    Args:
        function: maps ``x`` to the values and the slopes at ``x``, of the same shape.
        low: lower ends, where no function is positive.
        high: upper ends, where no function is negative.
        steps: most evaluations; 200 halvings exhaust any float64 bracket.

    Returns:
        The roots, to a few units in the last place of the larger end of the bracket.
    """
    room = 4 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
    x = 0.5 * (low + high)
    for _ in range(steps):
        value, slope = function(x)
        low = torch.where(value < 0, x, low)
        high = torch.where(value > 0, x, high)
        newton = x - value / slope
        following = torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        following = torch.where(value == 0, x, following)
        moved = (following - x).abs()
        x = following
        if bool((moved <= room).all()):
            break
    return x


def log_wright_omega(x: Tensor) -> Tensor:
    """The ``s`` with ``s + exp(s) = x``, elementwise; ``exp(s)`` is the Wright omega function of ``x``.

    The left side is convex and increasing and the start lies right of the root, so Newton descends to it.

    References:
        R. M. Corless and D. J. Jeffrey, "The Wright omega function", 2002.
    """
    s = torch.where(x < 1, x, x.clamp(min=1).log())
    for _ in range(10):
        e = s.exp()
        s = s - (s + e - x) / (1 + e)
    return s
