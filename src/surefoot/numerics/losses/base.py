"""What every loss offers: values, derivatives, conjugate, proximal map and constants."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

__all__ = ["Labels", "Loss", "LossConstants", "restrict"]

Labels = Literal["real", "binary", "classes"]


@dataclass(frozen=True)
class LossConstants:
    """Constants of a loss over all predictions and labels, in the Euclidean norm of the prediction.

    Args:
        lipschitz: smallest ``G`` with ``|l(z) - l(z')| <= G |z - z'|``; ``inf`` if there is none.
        curvature: smallest ``L`` with ``l'' <= L``; ``inf`` for a loss with kinks.
        curvature_floor: largest ``m`` with ``l'' >= m``; negative for a loss that is not convex.
        self_concordance: smallest ``Mq`` with ``|l'''| <= Mq l''`` (quasi-self-concordance); ``inf`` if there
            is none.
    """

    lipschitz: float
    curvature: float
    curvature_floor: float
    self_concordance: float

    @property
    def smooth(self) -> bool:
        """Whether the derivative is Lipschitz continuous."""
        return math.isfinite(self.curvature)

    @property
    def convex(self) -> bool:
        """Whether the loss is convex in the prediction."""
        return self.curvature_floor >= 0


class Loss(ABC):
    """A loss ``l(z, y)`` of prediction ``z`` and label ``y``; see the module's text for the conventions."""

    labels: ClassVar[Labels]
    """What ``y`` holds: reals, -1 and +1, or class indices."""

    @property
    @abstractmethod
    def constants(self) -> LossConstants:
        """Lipschitz, curvature and self-concordance constants over the whole line."""

    @abstractmethod
    def value(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss ``l(z, y)``, one number a prediction."""

    @abstractmethod
    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        """The derivative in ``z``; at a kink the subgradient of least size."""

    @abstractmethod
    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        """The second derivative in ``z`` where it exists; 0 at kinks."""

    @abstractmethod
    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        """The convex conjugate ``sup_z u z - l(z, y)``; ``inf`` outside its domain, without tolerance."""

    @abstractmethod
    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """The proximal map ``argmin_z step l(z, y) + |z - v|^2 / 2``, for ``step > 0``."""

    @abstractmethod
    def exp_concavity(self, radius: float) -> float:
        """Largest ``a >= 0`` for which ``exp(-a l)`` is concave in the prediction.

        Args:
            radius: bound on ``|z - y|`` for real labels, on ``|z|`` for binary ones, on ``max_k |z_k|`` for
                classes.

        Returns:
            ``inf l'' / (l')^2`` over that range; 0 if the loss is exp-concave for no positive ``a``.
        """

    def validate_labels(self, y: Tensor) -> None:
        """Refuse labels that this loss does not take.

        Raises:
            ValueError: naming the first offending label and what was expected.
        """
        if not bool(torch.isfinite(y).all()):
            raise ValueError("Labels hold NaN or infinity; drop or impute those rows first.")
        if self.labels == "binary":
            wrong = y[(y != 1) & (y != -1)]
            if wrong.numel():
                raise ValueError(
                    f"Label {wrong.flatten()[0].item():g} found where {type(self).__name__} expects "
                    "-1 and +1. "
                    "Map your two classes first, for instance 2 * (y == positive) - 1."
                )
        elif self.labels == "classes" and (y.is_floating_point() or bool((y < 0).any())):
            raise ValueError(
                f"{type(self).__name__} expects class indices 0, 1, ... in an integer tensor, got dtype "
                f"{y.dtype} and smallest label {y.min().item():g}."
            )


def restrict(value: Tensor, inside: Tensor) -> Tensor:
    """The value where ``inside``, infinity elsewhere: a convex function with its domain."""
    return value.masked_fill(~inside, math.inf)
