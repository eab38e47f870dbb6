"""Claims about runs: distance to the minimum, storage decrease and passivity along the logged iterates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from surefoot.core.certificate import Claim, Premise, capped
from surefoot.core.problem import Constant, Objective
from surefoot.descent.problem import FixedStep

if TYPE_CHECKING:
    from surefoot.descent.acceleration import Lane

Array = npt.NDArray[np.float64]

__all__ = ["gap_claim", "premises", "reference_minimiser", "trace_claims", "worst_ratio"]

# Storage is followed until it has fallen by this factor: below it, differences of f are rounding.
STORAGE_FLOOR = 1e-7
# Largest relative uncertainty of a storage that is still followed; each ratio carries its own.
STORAGE_ERROR = 1e-7
# Relative rounding of a value or gradient, generously.
ROUNDING = 1e-14
STORAGE_TOLERANCE = 1e-6
STORED = ("gd", "nag", "tmm")


def premises(m: Constant, L: Constant) -> list[Premise]:
    """That f lies in F_{m,L}, with how m and L are known."""
    return [
        Premise(f"f is {m.value:.6g}-strongly convex ({m.why or m.known})", m.known),
        Premise(f"the gradient of f is {L.value:.6g}-Lipschitz ({L.why or L.known})", L.known),
    ]


def gap_claim(name: str, objective: Objective, m: Constant, answer: torch.Tensor, inputs: Sequence[str]) -> Claim:
    """f(x) - f* <= |grad f(x)|^2 / (2 m) at the answer."""
    gradient = objective.value_and_grad(answer.double())[1]
    given = [Premise(f"f is {m.value:.6g}-strongly convex ({m.why or m.known})", m.known)]
    return Claim(
        name=f"gap-{name}",
        statement=f"The answer of {name} is within this of the minimum: f(x) - f* <= |grad f(x)|^2 / (2 m).",
        value=float(gradient @ gradient) / (2 * m.value),
        kind=capped("proved", given),
        premises=tuple(given),
        check="gap",
        evidence=("answer", *inputs),
    )


def trace_claims(
    name: str,
    objective: Objective,
    constants: tuple[Constant, Constant],
    system: FixedStep,
    lane: Lane,
    minimiser: Array,
    inputs: Sequence[str],
    *,
    stored: bool = True,
) -> list[Claim]:
    """Storage decrease (for methods with a storage function) and passivity index along the kept iterates."""
    m, L = constants
    given = premises(m, L)
    path = _Path(objective, system, lane.trace.numpy(), minimiser, m.value, L.value)
    index = path.passivity()
    claims: list[Claim] = []
    if name in STORED and stored:
        factor, storage, error = path.storage(name)
        worst, rows = worst_ratio(storage, error, factor)
        holds = worst <= 1.0 + STORAGE_TOLERANCE
        claims.append(
            Claim(
                name=f"storage-{name}",
                statement=(
                    f"The storage function of {name} falls at least by the factor {factor:.8g} in each of {rows} logged "
                    "steps; the value is the largest ratio of a step's storage to what the factor allows, with all "
                    "uncertainty of the minimiser and of rounding added."
                ),
                value=worst,
                relation="<=",
                bound=1.0,
                tolerance=STORAGE_TOLERANCE,
                kind=capped("proved", given),
                outcome="holds" if holds else "fails",
                reason="" if holds else "a logged step falls less than the theory says",
                premises=tuple(given),
                check="storage",
                evidence=("trace.npz", *inputs),
            )
        )
    claims.append(
        Claim(
            name=f"passivity-{name}",
            statement=(
                f"Passivity index of the first block of {name} along the logged steps, times L: the spare dissipation "
                "min_k [<g_k, push_k> - (f(x_{k+1}) - f(x_k))] L / |g_k|^2. Negative: the discretisation spends energy."
            ),
            value=index,
            relation=">=",
            kind="measured",
            check="passivity",
            evidence=("trace.npz", *inputs),
        )
    )
    return claims


class _Path:
    """Quantities along a run in the splitting coordinates, from the kept iterates."""

    def __init__(
        self, objective: Objective, system: FixedStep, trace: Array, minimiser: Array, m: float, L: float
    ) -> None:
        A, _, C = system.arrays()
        self.m, self.L = m, L
        self.x, self.before = trace, np.vstack([trace[:1], trace[:-1]])
        beta = 0.0 if system.order == 1 else float(-A[0, 1])
        gamma = 0.0 if system.order == 1 else float(-C[1])
        moved = self.x - self.before
        self.push = beta * moved
        self.points = self.x + gamma * moved
        self.minimiser = minimiser
        oracle = _numpy_oracle(objective)
        self.lowest, slope = oracle(minimiser)
        self.minimiser_error = float(np.linalg.norm(slope)) / m
        self.values, self.gradients = _stack(oracle, self.points)
        self.heights = _stack(oracle, self.x)[0]

    def storage(self, name: str) -> tuple[float, Array, Array]:
        """Guaranteed factor a step, storage at each step by the recursion of z, and its uncertainty.

        x* is known up to ``off`` = |grad f(x_ref)| / m and f* up to m off^2 / 2.
        """
        m, L, off = self.m, self.L, self.minimiser_error
        q = math.sqrt(m / L)
        if name == "gd":
            away = np.linalg.norm(self.x - self.minimiser, axis=1)
            return ((L - m) / (L + m)) ** 2, away**2, 2 * away * off + off**2 + ROUNDING * away**2
        z = [self.x[0]]
        for point, gradient in zip(self.points, self.gradients, strict=True):
            z.append((1 - q) * z[-1] + q * (point - gradient / m))
        away = np.linalg.norm(np.array(z) - self.minimiser, axis=1)
        noise = ROUNDING * (np.abs(self.heights) + abs(self.lowest)) + m * off**2
        if name == "nag":
            storage = self.heights - self.lowest + 0.5 * m * away[:-1] ** 2
            return 1 - q, storage, noise + m * off * away[:-1] + ROUNDING * storage
        apart = self.points - self.minimiser
        reach = np.linalg.norm(apart, axis=1)
        bend = np.linalg.norm(self.gradients - m * apart, axis=1)
        bracket = self.values - self.lowest - 0.5 * m * reach**2
        storage = m * L * away[1:] ** 2 + (L - m) * bracket - 0.5 * bend**2
        drift = 2 * m * L * away[1:] * off + (L - m) * m * reach * off + m * bend * off + 2 * m * L * off**2
        return (1 - q) ** 2, storage, L * noise + drift + ROUNDING * (m * L * away[1:] ** 2 + bend**2)

    def passivity(self) -> float:
        """Smallest spare dissipation a step, times L, while f is above its rounding."""
        rise = np.diff(self.heights)
        supply = np.sum(self.gradients[:-1] * self.push[:-1], axis=1)
        square = np.sum(self.gradients[:-1] ** 2, axis=1)
        clear = square > STORAGE_FLOOR * square.max()
        return float(np.min((supply - rise)[clear] / square[clear]) * self.L)


def worst_ratio(storage: Array, error: Array, factor: float) -> tuple[float, int]:
    """Largest possible ``storage_{k+1} / (factor storage_k)`` over the first steps, and how many were counted.

    Steps count while the storage is above its floor and well known.
    """
    clear = (storage > STORAGE_FLOOR * storage[0]) & (error < STORAGE_ERROR * storage)
    counted = len(clear) if clear.all() else int(np.argmin(clear))
    if counted < 2:
        raise ValueError("the start is so near the minimiser that no step of the storage function can be resolved")
    upper = storage[1:counted] + error[1:counted]
    lower = factor * (storage[: counted - 1] - error[: counted - 1])
    return float(np.max(upper / lower)), counted - 1


def _numpy_oracle(objective: Objective) -> Callable[[Array], tuple[float, Array]]:
    def oracle(x: Array) -> tuple[float, Array]:
        value, gradient = objective.value_and_grad(torch.from_numpy(np.ascontiguousarray(x)))
        return float(value), gradient.detach().numpy()

    return oracle


def _stack(oracle: Callable[[Array], tuple[float, Array]], points: Array) -> tuple[Array, Array]:
    pairs = [oracle(point) for point in points]
    return np.array([value for value, _ in pairs]), np.array([gradient for _, gradient in pairs])


def reference_minimiser(objective: Objective, start: Array, steps: int = 60) -> Array | None:
    """The minimiser to rounding: the objective's own, or damped Newton steps; None without Hessian products."""
    if objective.minimiser is not None:
        return objective.minimiser.detach().double().numpy()
    if objective.hvp is None:
        return None
    oracle = _numpy_oracle(objective)
    x = np.array(start, dtype=np.float64)
    value, gradient = oracle(x)
    for _ in range(steps):
        direction = _newton_direction(objective, x, gradient)
        length = 1.0
        while length > 1e-10:
            trial = x - length * direction
            trial_value, trial_gradient = oracle(trial)
            if trial_value <= value - 1e-4 * length * float(gradient @ direction) + ROUNDING * abs(value):
                break
            length /= 2
        if np.linalg.norm(trial_gradient) >= 0.5 * np.linalg.norm(gradient) and length == 1.0:
            break
        x, value, gradient = trial, trial_value, trial_gradient
    return x


def _newton_direction(objective: Objective, x: Array, gradient: Array) -> Array:
    from surefoot.numerics.krylov import conjugate_gradient

    assert objective.hvp is not None
    hvp, at, right = objective.hvp, torch.from_numpy(x), torch.from_numpy(gradient.copy())
    if len(x) <= 400:
        columns = [hvp(at, unit) for unit in torch.eye(len(x), dtype=torch.float64)]
        return torch.linalg.solve(torch.stack(columns, dim=1), right).numpy()
    return conjugate_gradient(lambda v: hvp(at, v), right, tolerance=1e-10).x.numpy()
