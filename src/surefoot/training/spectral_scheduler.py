"""Learning rate and momentum from a few Lanczos steps now and then, as a torch scheduler.

    scheduler = CurvatureScheduler(optimizer, model, inputs, targets, batch=128, epochs=epochs)
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
from surefoot.numerics.lanczos import Lanczos, lanczos
from surefoot.training import spectral_law as law
from surefoot.training.curvature import CurvatureOperator, directional_variance
from surefoot.training.spectral_problem import Criterion, Curvature, Kind, Plan
from surefoot.training.spectral_rows import count, take

__all__ = ["CurvatureScheduler", "Learned", "learned_rate", "line_search_rate", "typical_curvature"]

Rule = Literal["heavy-ball", "descent", "nesterov"]
Policy = Literal["steady", "spectrum"]
Statistics = Literal["running", "batch"]
Typical = Literal["median", "minimum"]
MOST_GROWTH = 3.0  # of the rate, a refresh
CAP, LOOSE = 0.9, 0.1  # part of the stable rate; Ritz bound, against L, that is no good any more
CONDITION = 1600.0  # "steady": L / mu; Nesterov's momentum is then 0.951
DECAYING, HELD = 0.9, 0.6  # "steady": the rate times L where the rate decays in the end, and where it never does
MARGIN = 0.3  # "steady" without Nesterov's switch: part of the stable rate
HALF, LEAST = 0.5, 0.05  # part of the epochs from which on the rate falls linearly; of the rate, at least
SURE = 0.15  # residual of the top Ritz pair, against its value, that ends a refresh of "steady"
ROWS = 32  # curvature rows at least
APART = 16  # training steps from the first refresh to the second, at least: a refresh costs about six
DOMINANT = 0.5  # weight above which a Ritz value is the spike of flat directions


@dataclass(frozen=True)
class Learned:
    """What a refresh found: ``L``, ``mu``, the rate (before decay) and momentum that follow, whether the fallback ``1 / L`` was taken, and Nesterov's switch."""

    largest: float
    typical: float
    rate: float
    momentum: float
    fallback: bool = False
    nesterov: bool = False


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


def _top(run: Lanczos) -> tuple[Tensor, Tensor, int, float]:
    """Ritz values and eigenvectors of the tridiagonal matrix, the place of the value largest in magnitude, and its residual."""
    ritz, vectors = run.eigen()
    place = int(ritz.abs().argmax())
    return ritz, vectors, place, abs(float(run.offdiagonal[-1] * vectors[-1, place]))


class CurvatureScheduler:
    """Sets ``lr`` and ``momentum`` of an SGD optimiser from the curvature at the present weights.

    A refresh makes at most ``steps`` products with the curvature of a fresh random batch of ``rows`` rows. With as many rows as a training batch has, its top
    eigenvalue is one of the training batches' own; with more, it is moved to the batch's size by its variance along the top direction (a large part
    alone would overestimate the rate). Then, by ``policy``:

    - ``steady``: Nesterov's rule ``rate = 0.9 / L`` at the largest L met so far (the loss's curvature vanishes with the loss, and a rate that follows it
      down leaves the basin), the momentum of a condition number of 1,600, and, where ``epochs`` is given, a linear fall to 5 % over their second half.
      Without ``epochs`` the rate is ``0.6 / L`` for good. The groups' Nesterov switch is set; where they have none, or dampening, it is the heavy ball of
      that condition number at 0.3 of its stable rate;
    - ``spectrum``: rate and momentum from L and the typical curvature ``mu`` of the Ritz values (heavy ball; Nesterov for such groups), the rate at most
      ``0.9 * 2 (1 + m) / L``; it falls back to ``1 / L`` where ``mu`` is not positive or the residual exceeds 10 % of L.

    The rate grows by at most ``growth`` a refresh.

    Args:
        optimizer: a torch SGD (any with ``lr`` and ``momentum`` in its groups). For "spectrum", Nesterov groups get the Nesterov rule.
        model: put into eval mode during a refresh, and back; see ``statistics`` for batch normalisation.
        inputs, targets: the training data's rows, or a part of them: tensors, or tuples (the model's arguments) or dicts (its named arguments) of tensors.
        criterion: see `row_losses`.
        batch: rows of a training batch.
        epochs: calls of `step` in the whole training, for the final decay; None knows no end.
        policy: see above.
        every: epochs (calls of `step`) between refreshes; 0 refreshes at doubling intervals, the first of one epoch or, where epochs are short, of 16 training
            steps, which costs a few refreshes for any length. Once the rate falls there are none.
        warmup: epochs before the first one.
        rows: of the curvature batch; None takes those of a training batch, at least 32.
        steps: Lanczos steps; for "steady" at most, since it starts from the gradient and stops as soon as the top is no longer in doubt.
        typical: "spectrum" only: rule of `typical_curvature`.
        kind: "hessian" or "ggn".
        population: N of the training data; None takes the number of rows given.
        weight_decay: of plain descent, added to the curvature; None reads the first group's.
        growth: the rate is multiplied by at most this in a refresh.
        statistics: batch normalisation inside the products: "running" uses its running statistics; "batch" normalises by the curvature batch itself, as
            training does, in ghost batches of ``batch`` rows; the running statistics stay as they are.
        seed: of the curvature batches and of the start vector.

    Example:
        >>> net = nn.Linear(3, 1); opt = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> s = CurvatureScheduler(opt, net, torch.randn(64, 3), torch.randn(64, 1), "squared", batch=16)
        >>> s.refresh().rate == opt.param_groups[0]["lr"]
        True
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, inputs: Any, targets: Any,
        criterion: str | nn.Module | Criterion = "cross-entropy", *, batch: int, epochs: int | None = None, policy: Policy = "steady",
        every: int = 0, warmup: int = 1, rows: int | None = None, steps: int = 6, typical: Typical = "median", kind: Kind = "hessian",
        population: int | None = None, weight_decay: float | None = None, growth: float = MOST_GROWTH, statistics: Statistics = "running",
        seed: int = 5,
    ) -> None:  # fmt: skip
        if any("momentum" not in group for group in optimizer.param_groups):
            raise ValueError(f"{type(optimizer).__name__} has no momentum to set; give a torch.optim.SGD")
        for name, value, least in (
            ("batch", batch, 1),
            ("every", every, 0),
            ("warmup", warmup, 0),
            ("steps", steps, 2),
            ("epochs", 1 if epochs is None else epochs, 1),
            ("rows", ROWS if rows is None else rows, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        if count(inputs) < 2 or count(inputs) != count(targets):
            raise ValueError(
                f"there are {count(inputs)} inputs and {count(targets)} targets; expected as many, at least two"
            )
        total = count(inputs) if population is None else population
        law.effective_batch(batch, total)
        for name, chosen, known in (("policy", policy, Policy), ("statistics", statistics, Statistics)):
            if chosen not in get_args(known):
                raise ValueError(f"{name} is {chosen!r}; expected one of {', '.join(get_args(known))}")
        if growth <= 1:
            raise ValueError(f"growth is {growth}; expected more than 1")
        self.optimizer, self.model, self.criterion = optimizer, model, criterion
        self.batch, self.epochs, self.every, self.warmup, self.steps = batch, epochs, every, warmup, steps
        self.population, self.growth = total, growth
        self.typical: Typical = typical
        self.kind: Kind = kind
        self.weight_decay, self.streams, self.policy, self.statistics = weight_decay, Streams(seed), policy, statistics
        self.inputs, self.targets = inputs, targets
        self.total = count(inputs)
        self.rows = min(max(ROWS, batch) if rows is None else rows, self.total)
        if statistics == "batch":  # whole ghost batches
            self.rows = max(1, self.rows // batch) * batch
        self.epoch = 0
        self.history: list[Learned] = []

    def step(self) -> Learned | None:
        """End of an epoch; a refresh if it is due, and the decay."""
        self.epoch += 1
        since = self.epoch - self.warmup
        if self.every:
            due = since >= 0 and since % self.every == 0
        else:
            span = math.ceil(APART * self.batch / self.population)  # epochs of so many training steps
            due = since >= 0 and since % span == 0 and (since // span + 1).bit_count() == 1
        falling = self.policy == "steady" and self.epochs is not None and self.epoch >= HALF * self.epochs
        over = (self.history and falling) or self.epoch == self.epochs  # what is met then no longer matters
        found = self.refresh() if due and not over else None
        if found is None and self.history:
            self._set(self.history[-1])
        return found

    def refresh(self) -> Learned:
        """Measure now and set the groups.

        Raises:
            ValueError: a model or data whose curvature cannot be had; weights that have diverged.
        """
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            found = self._learn()
        finally:
            for module, mode in modes.items():
                module.training = mode
        self.history.append(found)
        self._set(found)
        return found

    def _set(self, found: Learned) -> None:
        rate = found.rate * self._decay()
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = rate, found.momentum
            if found.nesterov:
                group["nesterov"] = True

    def _decay(self) -> float:
        if self.policy != "steady" or self.epochs is None:
            return 1.0
        return max(LEAST, min(1.0, (1 - self.epoch / self.epochs) / (1 - HALF)))

    def _learn(self) -> Learned:
        group = self.optimizer.param_groups[0]
        decay = group.get("weight_decay", 0.0) if self.weight_decay is None else self.weight_decay
        turn = len(self.history)
        chosen = torch.from_numpy(self.streams.numpy("rows", turn).choice(self.total, self.rows, replace=False))
        x, y = take(self.inputs, chosen), take(self.targets, chosen)
        ghost = self.batch if self.statistics == "batch" else 0
        operator = CurvatureOperator(self.model, x, y, self.criterion, kind=self.kind, ghost=ghost)
        try:
            run = self._krylov(operator, turn)
        except RuntimeError as error:  # a module without second derivatives
            raise ValueError(
                f"the curvature of this model and batch cannot be had: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        if not bool(torch.isfinite(run.diagonal).all()):
            raise ValueError("the curvature is not finite: the training has diverged; lower the rate and start again")
        ritz, vectors, place, bound = _top(run)
        top = float(ritz[place])
        largest = abs(top) + decay
        if top > 0 and self.batch < self.rows and not ghost:
            direction = run.basis[: run.steps].T @ vectors[:, place]
            direction = direction / torch.linalg.vector_norm(direction)
            case = Curvature(self.model, x, y, self.criterion, self.kind, Plan((1,)), None)
            share = 1 / self.batch - 1 / self.rows  # a part's batch is a batch of the whole, too
            largest = law.moved_eigenvalue(top, directional_variance(case, direction) * share, 1.0) + decay
        mu = typical_curvature(ritz, vectors[0].square(), self.typical) + decay
        before = self.history[-1].rate if self.history else float(group["lr"])
        if largest <= 0:
            return Learned(0.0, mu, before, float(group["momentum"]), True)
        if self.policy == "steady":
            return self._steady(max([largest, *(h.largest for h in self.history)]), mu, before)
        rule: Rule = "nesterov" if group.get("nesterov") else "heavy-ball"
        if not 0 < mu <= largest or bound > LOOSE * largest:
            return Learned(largest, mu, min(1 / largest, self.growth * before), 0.0, True)
        rate, momentum = learned_rate(largest, mu, rule)
        stable = law.largest_rate(largest, "nesterov" if rule == "nesterov" else "sgd", momentum)
        return Learned(largest, mu, min(rate, CAP * stable, self.growth * before), momentum)

    def _krylov(self, operator: CurvatureOperator, turn: int) -> Lanczos:
        """Lanczos from a random start; for "steady" from the gradient, which leans to the steep directions, and only as far as the top is in doubt."""

        def fresh() -> Tensor:
            return operator.start(self.streams.torch("start", turn))

        if self.policy != "steady":
            return lanczos(operator, fresh(), self.steps)
        start, met = operator.gradient(), max((h.largest for h in self.history), default=0.0)

        def enough(run: Lanczos) -> bool:
            if run.steps < 2 or not math.isfinite(float(run.diagonal[-1])):
                return run.steps > 1
            ritz, _, place, bound = _top(run)
            top = abs(float(ritz[place]))
            return bound <= SURE * top or top + 2 * bound <= met

        return lanczos(operator, start if bool(start.any()) else fresh(), self.steps, fresh, enough)

    def _steady(self, largest: float, mu: float, before: float) -> Learned:
        switch = all("nesterov" in g and not g.get("dampening") for g in self.optimizer.param_groups)
        if switch:
            momentum = learned_rate(CONDITION, 1.0, "nesterov")[1]
            rate = (HELD if self.epochs is None else DECAYING) / largest
        else:
            momentum = learned_rate(CONDITION, 1.0)[1]
            rate = MARGIN * law.largest_rate(largest, "sgd", momentum)
        return Learned(largest, mu, min(rate, self.growth * before), momentum, nesterov=switch)

    def get_last_lr(self) -> list[float]:
        """The groups' present rates."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Epoch and history; the curvature rows follow from the seed."""
        return {"epoch": self.epoch, "history": [asdict(h) for h in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.history = int(state["epoch"]), [Learned(**h) for h in state["history"]]
