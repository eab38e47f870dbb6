"""The sampled convex program: directions are drawn, and only the output weights are learnt (a lasso on random ReLU features).

    min_a  loss(A a, y) + beta |a|_1,   A = (X U')_+,  U (N, d) unit rows,

by accelerated proximal gradient steps with restarts. Since |u| = 1, the network with weights u sqrt|a|, sign(a) sqrt|a| has exactly
this objective.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from surefoot.convex_networks.patterns import LOT, direction_lots, unit
from surefoot.convex_networks.problem import Network, PatternProgram
from surefoot.convex_networks.recovery import make_network
from surefoot.core.random import Streams
from surefoot.numerics.losses import Loss
from surefoot.numerics.prox import soft_threshold


@dataclass
class Lasso:
    """The iteration for all target columns at once.

    Args:
        columns: A (n, N).
        targets: (C, n).
        loss: convex; smooth for proximal gradients.
        weight: beta.
    """

    columns: Tensor
    targets: Tensor
    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        curvature = self.loss.constants.curvature
        if not curvature < float("inf"):
            raise ValueError(
                f"the sampled program needs a smooth loss, not {type(self.loss).__name__}; use program='exact'"
            )
        A = self.columns
        gram = A @ A.T if len(A) <= A.shape[1] else A.T @ A
        self.step_length = 1.0 / (
            curvature * max(float(torch.linalg.eigvalsh(gram)[-1]), 1e-300) * (1 + 1e-12 * len(gram))
        )

    def objective(self, a: Tensor) -> float:
        return float(self.loss.value(a @ self.columns.T, self.targets).sum() + self.weight * a.abs().sum())

    def dual(self, a: Tensor) -> tuple[float, Tensor]:
        """(dual value, z (C, n)): each column's slope scaled until |A'z| <= beta."""
        z = -self.loss.derivative(a @ self.columns.T, self.targets)
        largest = (z @ self.columns).abs().amax(dim=1, keepdim=True)
        z = z * (self.weight / largest.clamp(min=self.weight))
        return -float(self.loss.conjugate(-z, self.targets).sum()), z

    def step(self, a: Tensor, look: Tensor, momentum: float) -> tuple[Tensor, Tensor, float]:
        """One step: (a, extrapolated point, momentum) to the next; momentum starts anew where it points uphill."""
        slope = self.loss.derivative(look @ self.columns.T, self.targets) @ self.columns
        fresh = soft_threshold(look - self.step_length * slope, self.step_length * self.weight)
        if float(((look - fresh) * (fresh - a)).sum()) > 0:
            return fresh, fresh, 1.0
        following = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        return fresh, fresh + ((momentum - 1) / following) * (fresh - a), following


@dataclass(frozen=True)
class Sampled:
    """A network with drawn hidden directions, and the bounds of its lasso.

    Attributes:
        network: it has `upper` as its regularised loss.
        upper, lower: lasso objective, and a dual bound below every network with *these* directions (or fewer).
        iterations: proximal steps taken.
    """

    network: Network
    upper: float
    lower: float
    iterations: int


def train_sampled(
    problem: PatternProgram, neurons: int, *, seed: int = 0, tolerance: float = 1e-5, iterations: int = 20_000
) -> Sampled:
    """Draw unit directions and solve the lasso over their neurons.

    Args:
        problem: with a smooth loss.
        neurons: N, directions drawn.
        tolerance: relative primal-dual gap to stop at.
        iterations: most proximal steps.

    Raises:
        ValueError: neurons < 1, or a loss with kinks.
    """
    if neurons < 1:
        raise ValueError(f"neurons is {neurons}; expected an integer >= 1")
    X = problem.features
    lots = direction_lots(X.shape[1], Streams(seed), "neuron", like=X)
    drawn = torch.cat([next(lots) for _ in range(-(-neurons // LOT))])[:neurons]
    directions = unit(drawn)
    lasso = Lasso((X @ directions.T).clamp(min=0), problem.targets.T.contiguous(), problem.loss, problem.weight)
    a = look = X.new_zeros(problem.targets.shape[1], neurons)
    momentum, upper, lower, done = 1.0, float("inf"), -float("inf"), 0
    for done in range(1, iterations + 1):
        a, look, momentum = lasso.step(a, look, momentum)
        if done % 50 == 0 or done == iterations:
            upper, lower = lasso.objective(a), max(lower, lasso.dual(a)[0])
            if upper - lower <= tolerance * abs(upper):
                break
    if upper - lower > tolerance * abs(upper):
        warnings.warn(
            f"the lasso's gap is {(upper - lower) / abs(upper):.2g} after {done} iterations, above the tolerance {tolerance:g}",
            ConvergenceWarning,
            stacklevel=2,
        )
    column, place = torch.nonzero(a, as_tuple=True)
    root = a[column, place].abs().sqrt()
    output = X.new_zeros(len(root), len(a))
    output[torch.arange(len(root)), column] = a[column, place].sign() * root
    return Sampled(make_network(problem, directions[place] * root[:, None], output), upper, lower, done)
