"""Power iteration with momentum, and the certificate of its answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from surefoot.core.certificate import Certificate, Claim
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot_eigenpair.problem import SHRINKS, UNIT, Array, Eigenpair, Symmetric, allowance


@dataclass(kw_only=True)
class PowerState(State):
    """The last two iterates (scaled alike, the newer of unit length), A times the newer, and all residuals so far."""

    x: Array
    image: Array
    previous: Array
    start: Array
    residuals: list[float] = field(default_factory=list)
    theta: float = 0.0
    residual: float = float("inf")
    done: bool = False


@dataclass(frozen=True)
class PowerIteration(Method[Symmetric, PowerState, Eigenpair]):
    """x <- A x - momentum * previous x, scaled to unit length.

    With momentum 0 it is the power method of von Mises and Pollaczek-Geiringer (1929). The momentum of De Sa and others
    (2018) is best at a quarter of the second eigenvalue squared; from a quarter of the first squared on, nothing converges.

    Args:
        momentum: >= 0, in units of the matrix squared.
        squarings: how often to square the deflated matrix to bound the other eigenvalues; each costs a matrix product and
            decides gaps half as wide.
        block: iterations a step; changes the pace of checkpoints, never the result.
    """

    momentum: float = 0.0
    squarings: int = 5
    block: int = 20
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < float("inf"):
            raise ValueError(
                f"momentum is {self.momentum}; expected a finite number >= 0 (0 for the plain power method)"
            )
        if not 0 <= self.squarings <= 8:
            raise ValueError(f"squarings is {self.squarings}; expected 0 to 8. The default is 5")

    def init(self, problem: Symmetric, start: Array | None, streams: Streams) -> PowerState:
        size = len(problem.matrix)
        norm = problem.norm
        if norm > 0 and 4 * self.momentum >= norm**2:
            raise ValueError(
                f"momentum is {self.momentum:g}, no less than a quarter of the Frobenius norm squared ({norm**2 / 4:g}), so the "
                "iteration cannot converge; expected about a quarter of the second-largest eigenvalue squared, or 0"
            )
        x = streams.numpy("start").standard_normal(size) if start is None else np.array(start, dtype=np.float64)
        if x.shape != (size,) or not np.isfinite(x).all() or not x.any():
            raise ValueError(f"the start has shape {x.shape}; expected {size} finite numbers, not all of them 0")
        x = x / np.linalg.norm(x)
        state = PowerState(streams=streams, x=x, image=np.zeros(size), previous=np.zeros(size), start=x.copy())
        self._measure(problem, state)
        return state

    def step(self, problem: Symmetric, state: PowerState) -> PowerState:
        for _ in range(state.room(self.block)):
            if state.done:
                break
            new = state.image - self.momentum * state.previous
            length = float(np.linalg.norm(new))
            state.previous, state.x = state.x / length, new / length
            state.k += 1
            self._measure(problem, state)
        return state

    def _measure(self, problem: Symmetric, state: PowerState) -> None:
        """Multiply, and note the Rayleigh quotient and the residual of the newer iterate."""
        state.image = problem.matrix @ state.x
        state.count(product=1)
        state.theta = float(state.x @ state.image)
        state.residual = float(np.linalg.norm(state.image - state.theta * state.x))
        state.residuals.append(state.residual)
        state.done = state.residual <= (problem.accuracy - 2 * allowance(len(state.x))) * problem.norm

    def look(self, state: PowerState) -> Look:
        return Look({"theta": state.theta, "residual": state.residual}, Status.CONVERGED if state.done else None)

    def answer(self, problem: Symmetric, state: PowerState) -> Eigenpair:
        vector = state.x if state.x[np.abs(state.x).argmax()] > 0 else -state.x
        return Eigenpair(float(vector @ (problem.matrix @ vector)), vector)

    def certify(self, problem: Symmetric, state: PowerState) -> Certificate:
        pair = self.answer(problem, state)
        rounding = allowance(len(pair.vector)) * problem.norm
        # The stored start leads to the answer, not to its negative.
        sign = 1.0 if np.array_equal(pair.vector, state.x) else -1.0
        gap = problem.matrix @ pair.vector - pair.value * pair.vector
        residual = float(np.linalg.norm(gap)) + rounding
        frobenius, gershgorin = bounds(problem, pair, self.squarings)
        claims = (
            _residual_claim(problem, residual),
            _largest_claim(pair, residual, min(*frobenius, gershgorin) + 4 * residual),
            _rate_claim(state.residuals),
        )
        evidence = {
            "bounds.npz": {"frobenius": np.array(frobenius), "gershgorin": np.array(gershgorin)},
            "iterations.npz": {
                "start": sign * state.start,
                "momentum": np.array(self.momentum),
                "residual": np.array(state.residuals),
            },
        }
        return Certificate("dominant-eigenpair", claims, problem.fingerprint(), evidence)


def bounds(problem: Symmetric, pair: Eigenpair, squarings: int) -> tuple[list[float], float]:
    """Upper bounds on the spectral norm of B = A - theta v v', rounding included.

    Returns:
        |B^(2^j)|_F^(1 / 2^j) for j = 0 ... squarings, and Gershgorin's largest absolute row sum.
    """
    size = len(pair.vector)
    rounding = allowance(size) * problem.norm
    deflated = problem.matrix - pair.value * np.outer(pair.vector, pair.vector)
    summing = 1 + 2 * (size**2 + 2) * UNIT  # a sum of n^2 squares, then its root
    gershgorin = float(np.abs(deflated).sum(axis=1).max()) * (1 + 2 * size * UNIT) + rounding * size**0.5
    scale = float(np.linalg.norm(deflated))
    if scale == 0:
        return [rounding] * (squarings + 1), gershgorin
    power, error = deflated / scale, rounding / scale + 2 * UNIT  # |power - the exact one|_F <= error
    found = []
    for j in range(squarings + 1):
        norm = float(np.linalg.norm(power)) * summing
        found.append(scale * (norm + error) ** (0.5**j) * (1 + 8 * UNIT))
        spectral = min(norm, float(np.abs(power).sum(axis=1).max()) * (1 + 2 * size * UNIT))
        error = 2 * spectral * error + error**2 + (size + 2) * UNIT * norm**2
        power = power @ power
    return found, gershgorin


def _residual_claim(problem: Symmetric, residual: float) -> Claim:
    bound = problem.accuracy * problem.norm
    return Claim(
        name="residual",
        statement="An eigenvalue of the matrix lies within this distance of theta: the residual |A v - theta v| / |v|, "
        "rounding included, bounds the distance of theta to the spectrum.",
        value=residual,
        relation="<=",
        bound=bound,
        outcome="holds" if residual <= bound else "fails",
        kind="proved",
        check="residual",
        evidence=("answer", "input:matrix"),
    )


def _largest_claim(pair: Eigenpair, residual: float, others: float) -> Claim:
    bound = max(abs(pair.value) - 2 * residual, 0.0)
    shown = others <= bound
    reason = (
        "these bounds reach beyond |theta|, as they do where another eigenvalue is nearly as large in absolute value or the "
        "residual is not small yet; more squarings or a better accuracy may decide it"
    )
    return Claim(
        name="largest",
        statement="Every eigenvalue but the one at theta is at most this in absolute value, by the Frobenius norm of powers "
        "of A - theta v v' or by its Gershgorin discs; at or below |theta| less two residuals, the one at theta is the "
        "largest.",
        value=others,
        relation="<=",
        bound=bound,
        outcome="holds" if shown else "undecided",
        kind="proved",
        reason="" if shown else reason,
        check="largest",
        evidence=("answer", "bounds.npz", "input:matrix"),
    )


def _rate_claim(residuals: list[float]) -> Claim:
    known = len(residuals) >= 3 and residuals[len(residuals) // 2] > 0
    middle, last = len(residuals) // 2, len(residuals) - 1
    rate = (residuals[last] / residuals[middle]) ** (1 / (last - middle)) if known else 1.0
    return Claim(
        name="rate",
        statement="The factor by which the residual shrank per iteration, over the second half of this run; one near 1 is a stall.",
        value=rate,
        relation="<=",
        bound=SHRINKS,
        outcome=("holds" if rate <= SHRINKS else "fails") if known else "undecided",
        kind="measured",
        reason="" if known else "fewer than three residuals, or they are zero",
        check="rate",
        evidence=("answer", "iterations.npz", "input:matrix"),
    )
