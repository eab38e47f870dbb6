"""Maps from logits to the simplex, sharpened by an inverse temperature b, with their Lipschitz constants.

    softmax_b(z)_k    = exp(b z_k) / sum_j exp(b z_j)          vector L: b / 2,   one coordinate: sqrt(2) b / 4
    sparsemax_b,r(z)  = projection of b z on {p >= 0, sum p = r}   vector L: b,   one coordinate: b sqrt(1 - 1 / c)
    hardmax(z)        = the first largest coordinate's unit vector  L: inf (the limit b -> inf)

The coordinates' constants: ``|grad softmax_k| = b p_k |e_k - p| <= sqrt(2) b p_k (1 - p_k)``; on a support of s coordinates the
projection's Jacobian row is ``e_k - 1 / s``.

References:
    Martins, Astudillo, From softmax to sparsemax, 2016.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surefoot.numerics.borders import require_positive

__all__ = ["HARDMAX", "Kind", "SimplexMap", "grid", "sparsemax", "votes"]

Kind = Literal["hardmax", "softmax", "sparsemax"]


@dataclass(frozen=True)
class SimplexMap:
    """A map and its inverse temperature b (meaningless for hardmax, 1 by convention).

    Args:
        kind: softmax, sparsemax or hardmax.
        sharpness: b > 0, in 1 / logit.
        mass: r of the generalised sparsemax; values are divided by it afterwards, so that they lie in [0, 1].
    """

    kind: Kind = "hardmax"
    sharpness: float = 1.0
    mass: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("hardmax", "softmax", "sparsemax"):
            raise ValueError(f"the map is {self.kind!r}; expected hardmax, softmax or sparsemax")
        require_positive("sharpness", self.sharpness)
        require_positive("mass", self.mass)

    def __call__(self, logits: Tensor) -> Tensor:
        """Rows of logits (n, c) to rows on the simplex of mass 1 (n, c)."""
        if self.kind == "hardmax":
            return torch.zeros_like(logits).scatter_(1, votes(logits)[:, None], 1.0)
        if self.kind == "softmax":
            return torch.softmax(self.sharpness * logits, dim=1)
        return sparsemax(self.sharpness * logits, self.mass) / self.mass

    def lipschitz(self, base: float) -> float:
        """Constant of the whole map after logits of constant `base`, L2 to L2; inf where `base` is."""
        factor = {"hardmax": math.inf, "softmax": self.sharpness / 2, "sparsemax": self.sharpness / self.mass}[
            self.kind
        ]
        return factor * base

    def coordinate_lipschitz(self, base: float, classes: int) -> float:
        """Constant of one coordinate."""
        factor = {
            "hardmax": math.inf,
            "softmax": self.sharpness * math.sqrt(2) / 4,
            "sparsemax": self.sharpness / self.mass * math.sqrt(1 - 1 / classes),
        }[self.kind]
        return factor * base * (1 + 1e-15)

    def describe(self) -> str:
        """For tables: `softmax(3.5)`."""
        return self.kind if self.kind == "hardmax" else f"{self.kind}({self.sharpness:g})"


HARDMAX = SimplexMap()


def votes(logits: Tensor) -> Tensor:
    """The class of the largest logit of each row; ties go to the lowest index, as torch promises on every device."""
    return logits.argmax(dim=1)


def sparsemax(scores: Tensor, mass: float = 1.0) -> Tensor:
    """Projection of rows (n, c) on ``{p >= 0, sum p = mass}``: ``max(z - tau, 0)``.

    With ``z_(1) >= ... >= z_(c)``, ``k* = max{k : mass + k z_(k) > sum_{j <= k} z_(j)}`` and ``tau = (sum_{j <= k*} z_(j) - mass) / k*``.
    """
    centred = scores - scores.max(dim=1, keepdim=True).values  # the projection does not see a common shift
    ordered = centred.sort(dim=1, descending=True).values
    total = ordered.cumsum(dim=1)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    support = (mass + place * ordered > total).sum(dim=1, keepdim=True)
    threshold = (total.gather(1, support - 1) - mass) / support
    return (centred - threshold).clamp_(min=0)


def grid(
    count: int = 12, low: float = 0.05, high: float = 50.0, kinds: tuple[Kind, ...] = ("softmax", "sparsemax")
) -> tuple[SimplexMap, ...]:
    """Hardmax, and the soft maps at geometrically spaced inverse temperatures."""
    sharpness = [low * (high / low) ** (i / max(count - 1, 1)) for i in range(count)]
    return (HARDMAX, *(SimplexMap(kind, b) for kind in kinds if kind != "hardmax" for b in sharpness))
