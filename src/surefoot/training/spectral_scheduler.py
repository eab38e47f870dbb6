"""Learning rate and momentum from a few Lanczos steps now and then, as a torch scheduler.

    scheduler = CurvatureScheduler(optimizer, model, inputs, targets, batch=128)
    for epoch in range(epochs):
        train_one_epoch(...)
        scheduler.step()

References:
    D. Granziol, S. Zohren, S. Roberts, 2022, section on learning rates learnt on the fly; the released scripts' rules are `rule="..."` of `learned_rate`.
    B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964 (heavy ball).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from surefoot.core.random import Streams
from surefoot.numerics.lanczos import lanczos
from surefoot.training import spectral_law as law
from surefoot.training.curvature import CurvatureOperator, directional_variance
from surefoot.training.spectral_problem import Criterion, Curvature, Kind, Plan

__all__ = ["CurvatureScheduler", "Learned", "learned_rate", "line_search_rate", "typical_curvature"]

Rule = Literal["heavy-ball", "descent", "nesterov"]
Policy = Literal["steady", "spectrum"]
Typical = Literal["median", "minimum"]
MOST_GROWTH, CAP, LOOSE = (
    4.0,
    0.9,
    0.1,
)  # of the rate a refresh; of the stable rate; Ritz bound that is no good any more
CONDITION, MARGIN = (
    1600.0,
    0.3,
)  # "steady": L / mu, a momentum of 0.905; part of the stable rate, since batches and weights differ
DOMINANT = 0.5  # weight above which a Ritz value is the spike of flat directions


@dataclass(frozen=True)
class Learned:
    """What a refresh found: ``L``, ``mu``, the rate and momentum that follow, and whether the fallback ``1 / L`` was taken."""

    largest: float
    typical: float
    rate: float
    momentum: float
    fallback: bool = False


def typical_curvature(ritz: Tensor, weights: Tensor, how: Typical = "median") -> float:
    """``mu``: the median of the Ritz values' magnitudes, or the least of those that are not the spike of flat directions (weight <= 0.5).

    Args:
        ritz: Ritz values (m,).
        weights: of the same rows (m,), summing to 1.

    Raises:
        ValueError: an unknown rule, or nothing left by it.
    """
    if how not in get_args(Typical):
        raise ValueError(f"the rule is {how!r}; expected one of {', '.join(get_args(Typical))}")
    magnitudes = ritz.abs()
    if how == "median":
        ordered = magnitudes.sort().values
        middle = len(ordered) // 2
        return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)
    rest = magnitudes[weights <= DOMINANT]
    if not len(rest):
        raise ValueError("all weight sits on one Ritz value; take more Lanczos steps, or the median")
    return float(rest.min())


def learned_rate(largest: float, typical: float, rule: Rule = "heavy-ball") -> tuple[float, float]:
    """Rate and momentum for curvature between ``mu`` and ``L``.

    heavy ball ``(2 / (sqrt L + sqrt mu))^2`` and ``((sqrt L - sqrt mu) / (sqrt L + sqrt mu))^2``; descent ``2 / (L + mu)`` without momentum;
    nesterov ``1 / L`` and ``(sqrt L - sqrt mu) / (sqrt L + sqrt mu)``. (The released script forgets a root in the heavy ball's denominator, and its
    Nesterov rate ``sqrt(mu / L)`` has no unit of a rate.)
    """
    if not (largest > 0 and 0 <= typical <= largest):
        raise ValueError(f"L is {largest} and mu {typical}; expected 0 <= mu <= L, L > 0")
    big, small = math.sqrt(largest), math.sqrt(typical)
    if rule == "descent":
        return 2 / (largest + typical), 0.0
    if rule == "nesterov":
        return 1 / largest, (big - small) / (big + small)
    if rule != "heavy-ball":
        raise ValueError(f"the rule is {rule!r}; expected one of {', '.join(get_args(Rule))}")
    return (2 / (big + small)) ** 2, ((big - small) / (big + small)) ** 2


def line_search_rate(operator: CurvatureOperator, gradient: Tensor) -> float:
    """The exact minimiser along the gradient of the quadratic model, ``g'g / g'Hg``; infinite where the model falls for ever."""
    bend = float(torch.dot(gradient, operator(gradient)))
    return float(torch.dot(gradient, gradient)) / bend if bend > 0 else math.inf


class CurvatureScheduler:
    """Sets ``lr`` and ``momentum`` of an SGD optimiser from the curvature at the present weights.

    A refresh makes ``steps`` products with the curvature of a fixed part of the data. Where that part is larger than a training batch, the top eigenvalue is
    moved to the batch's size by its variance along the top direction: a large part alone would overestimate the rate. Then, by ``policy``:

    - ``steady`` takes the largest L of all refreshes (the loss's curvature vanishes with the loss, and a rate that follows it down leaves the basin), the
      momentum of a condition number of 1,600 and the rate ``0.3 * 2 (1 + m) / L``; constants found on digits, not derived;
    - ``spectrum`` takes rate and momentum from L and the typical curvature ``mu`` of the Ritz values (heavy ball; Nesterov for such groups), the rate at most
      ``0.9 * 2 (1 + m) / L``; it falls back to ``1 / L`` where ``mu`` is not positive or the residual exceeds 10 % of L.

    The rate grows by at most ``growth`` a refresh.

    Args:
        optimizer: a torch SGD (any with ``lr`` and ``momentum`` in its groups). Nesterov groups get the Nesterov rule.
        model: put into eval mode during a refresh, and back.
        inputs, targets: data rows; a random part of ``rows`` is kept for the curvature, the same at every refresh.
        criterion: see `row_losses`.
        batch: rows of a training batch.
        policy: see above.
        every: epochs (calls of `step`) between refreshes; 0 refreshes at doubling intervals, which costs a few refreshes for any length.
        warmup: epochs before the first one.
        rows: of the curvature batch.
        steps: Lanczos steps.
        typical: "spectrum" only: rule of `typical_curvature`.
        kind: "hessian" or "ggn".
        population: N of the training data; None takes the number of rows given.
        weight_decay: of plain descent, added to the curvature; None reads the first group's.
        growth: the rate is multiplied by at most this in a refresh.
        seed: of the part of the data and of the start vector.

    Example:
        >>> net = nn.Linear(3, 1); opt = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> s = CurvatureScheduler(opt, net, torch.randn(64, 3), torch.randn(64, 1), "squared", batch=16)
        >>> s.refresh().rate == opt.param_groups[0]["lr"]
        True
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, inputs: Tensor, targets: Tensor,
        criterion: str | nn.Module | Criterion = "cross-entropy", *, batch: int, policy: Policy = "steady", every: int = 0, warmup: int = 1,
        rows: int = 128, steps: int = 8, typical: Typical = "median", kind: Kind = "hessian", population: int | None = None,
        weight_decay: float | None = None, growth: float = MOST_GROWTH, seed: int = 5,
    ) -> None:  # fmt: skip
        if any("momentum" not in group for group in optimizer.param_groups):
            raise ValueError(f"{type(optimizer).__name__} has no momentum to set; give a torch.optim.SGD")
        for name, value, least in (
            ("batch", batch, 1),
            ("every", every, 0),
            ("warmup", warmup, 0),
            ("steps", steps, 2),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        total = len(inputs) if population is None else population
        law.effective_batch(batch, total)
        if policy not in get_args(Policy):
            raise ValueError(f"policy is {policy!r}; expected one of {', '.join(get_args(Policy))}")
        if growth <= 1:
            raise ValueError(f"growth is {growth}; expected more than 1")
        self.optimizer, self.model, self.criterion = optimizer, model, criterion
        self.batch, self.every, self.warmup, self.steps = batch, every, warmup, steps
        self.population, self.growth = total, growth
        self.typical: Typical = typical
        self.kind: Kind = kind
        self.weight_decay, self.streams, self.policy = weight_decay, Streams(seed), policy
        chosen = torch.from_numpy(self.streams.numpy("rows").permutation(len(inputs))[: max(2, rows)])
        self.inputs, self.targets = inputs[chosen], targets[chosen]
        self.epoch = 0
        self.history: list[Learned] = []
        self._case: Curvature | None = None

    def step(self) -> Learned | None:
        """End of an epoch; a refresh if it is due."""
        self.epoch += 1
        since = self.epoch - self.warmup
        due = since >= 0 and (since % self.every == 0 if self.every else (since + 1).bit_count() == 1)
        return self.refresh() if due else None

    def refresh(self) -> Learned:
        """Measure now and set the groups.

        Raises:
            ValueError: a model or data that `Curvature` refuses; weights that have diverged.
        """
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            found = self._learn()
        finally:
            for module, mode in modes.items():
                module.training = mode
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = found.rate, found.momentum
        self.history.append(found)
        return found

    def _learn(self) -> Learned:
        if self._case is None:  # the border's checks once; the model keeps its weights inside
            self._case = Curvature(self.model, self.inputs, self.targets, self.criterion, self.kind, Plan((1,)), None)
        case = self._case
        group = self.optimizer.param_groups[0]
        decay = group.get("weight_decay", 0.0) if self.weight_decay is None else self.weight_decay
        operator = CurvatureOperator.of(case)
        run = lanczos(operator, operator.start(self.streams.torch("start")), self.steps)
        ritz, vectors = run.eigen()
        place = int(ritz.abs().argmax())
        top, bound = float(ritz[place]), float(run.residual_bounds()[place])
        if not math.isfinite(top):
            raise ValueError("the curvature is not finite: the training has diverged; lower the rate and start again")
        largest = abs(top) + decay
        if top > 0 and self.batch < len(self.inputs):
            direction = run.basis[: run.steps].T @ vectors[:, place]
            variance = directional_variance(case, direction / torch.linalg.vector_norm(direction))
            share = max(0.0, 1 / self.batch - 1 / len(self.inputs))  # a part's batch is a batch of the whole, too
            largest = law.moved_eigenvalue(top, variance * share, 1.0) + decay
        mu = typical_curvature(ritz, vectors[0].square(), self.typical) + decay
        rule: Rule = "nesterov" if group.get("nesterov") else "heavy-ball"
        before = float(group["lr"])
        fallback = not (0 < mu <= largest) or bound > LOOSE * largest
        if largest <= 0:
            return Learned(0.0, mu, before, float(group["momentum"]), True)
        if self.policy == "steady":
            largest = max([largest, *(h.largest for h in self.history)])
            momentum = learned_rate(CONDITION, 1.0)[1]
            rate = MARGIN * law.largest_rate(largest, "nesterov" if rule == "nesterov" else "sgd", momentum)
            return Learned(largest, mu, min(rate, self.growth * before), momentum)
        if fallback:
            rate, momentum = 1 / largest, 0.0
        else:
            rate, momentum = learned_rate(largest, mu, rule)
            stable = law.largest_rate(largest, "nesterov" if rule == "nesterov" else "sgd", momentum)
            rate = min(rate, CAP * stable)
        return Learned(largest, mu, min(rate, self.growth * before), momentum, fallback)

    def get_last_lr(self) -> list[float]:
        """The groups' present rates."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and history; the curvature rows follow from the seed."""
        return {"epoch": self.epoch, "history": [asdict(h) for h in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.history = int(state["epoch"]), [Learned(**h) for h in state["history"]]
