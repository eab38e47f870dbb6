"""The loss for class indices: softmax cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from surefoot.numerics.losses.base import Labels, Loss, LossConstants, restrict
from surefoot.numerics.roots import increasing_root, log_wright_omega

__all__ = ["Softmax"]


@dataclass(frozen=True)
class Softmax(Loss):
    """Softmax cross-entropy ``log sum_k exp(z_k) - z_y`` for ``classes`` logits in the last axis of ``z``.

    ``z`` has shape ``(..., classes)`` and ``y`` integer class indices of shape ``(...)``. The derivative has
    the shape of ``z``; the second derivative is the matrix ``diag(p) - p p'``, ``(..., classes, classes)``.

    Args:
        classes: number of classes; the exp-concavity constant depends on it.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, got {self.classes}.")

    labels: ClassVar[Labels] = "classes"

    @property
    def constants(self) -> LossConstants:
        # |p - e_y| <= sqrt 2; diag(p) - pp' <= 1/2; its derivative along h <= sqrt 2 |h| times it
        return LossConstants(lipschitz=math.sqrt(2), curvature=0.5, curvature_floor=0.0, self_concordance=math.sqrt(2))

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return -torch.log_softmax(z, dim=-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.softmax(z, dim=-1) - self._one_hot(z, y)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        p = torch.softmax(z, dim=-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        """Negative entropy of ``u + e_y``; finite where that is a distribution, its sum up to rounding."""
        p = u + self._one_hot(u, y)
        # a sum of k rounded terms is never exactly 1, so this one condition needs room
        slack = 4 * self.classes * torch.finfo(p.dtype).eps
        inside = (p >= 0).all(dim=-1) & ((p.sum(dim=-1) - 1).abs() <= slack)
        return restrict(torch.xlogy(p, p).sum(dim=-1), inside)

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """The proximal map; ``step`` is a number or one step a prediction, of the shape of ``y``.

        Stationarity is ``z_k + step exp(z_k - c) = w_k`` with ``w = v + step e_y`` and ``c = log sum exp z``,
        so each ``z_k`` is a Wright omega function of the one unknown ``c``.
        """
        step = torch.as_tensor(step, dtype=v.dtype, device=v.device).expand(y.shape).unsqueeze(-1)
        w = v + step * self._one_hot(v, y)
        log_step = step.log()

        def excess(minus_c: Tensor) -> tuple[Tensor, Tensor]:
            log_omega = log_wright_omega(w + minus_c + log_step)
            share = torch.softmax(log_omega, dim=-1) / (1 + log_omega.exp())
            total = torch.logsumexp(log_omega, dim=-1, keepdim=True)
            return total - log_step, share.sum(dim=-1, keepdim=True)

        c_high = torch.logsumexp(w, dim=-1, keepdim=True)
        minus_c = increasing_root(excess, -c_high, step - c_high)
        z = w - log_wright_omega(w + minus_c + log_step).exp()
        # one more exact evaluation of the map v + step (e_y - p): removes what cancellation in w - omega left
        return torch.where(step < 1, w - step * torch.softmax(z, dim=-1), z)

    def exp_concavity(self, radius: float) -> float:
        # g' H^+ g = (1 - p_y) / p_y for gradient g and Hessian H; p_y is least at logits -R, +R, ..., +R
        return math.exp(-2 * radius) / (self.classes - 1)

    def validate_labels(self, y: Tensor) -> None:
        super().validate_labels(y)
        if bool((y >= self.classes).any()):
            raise ValueError(
                f"Class indices must lie below {self.classes}, got {int(y.max())}; "
                "number the classes from 0 or give Softmax more classes."
            )

    def _one_hot(self, like: Tensor, y: Tensor) -> Tensor:
        return functional.one_hot(y, self.classes).to(like.dtype)
