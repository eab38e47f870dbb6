"""Claims of the accelerated methods: rates, floors, cycles, gaps, storage decrease, passivity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from surefoot.core.certificate import Certificate, Claim, Premise, capped
from surefoot.core.problem import Constant, Objective
from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.problem import AccelerationProblem, FixedStep
from surefoot.descent.rate_proofs import with_transient
from surefoot.descent.rate_search import RateResult, certify_rate
from surefoot.numerics.rationals import fraction_text

if TYPE_CHECKING:
    from surefoot.descent.acceleration import Lane, MomentumMethod, Race, RaceState

Array = npt.NDArray[np.float64]

__all__ = ["Analysis", "analyse", "certify_race", "certify_run", "rate_claims"]

CARD = "acceleration"
# Storage is followed until it has fallen by this factor: below it, differences of f are rounding.
STORAGE_FLOOR = 1e-7
# Largest relative uncertainty of a storage that is still followed; each ratio carries its own.
STORAGE_ERROR = 1e-7
# Relative rounding of a value or gradient, generously.
ROUNDING = 1e-14
STORAGE_TOLERANCE = 1e-6
TABLE_WIDTH = 1e-5
STORED = ("gd", "nag", "tmm")


@dataclass(frozen=True)
class Analysis:
    """Rate results of the methods at the problem's constants and over condition numbers."""

    systems: Mapping[str, RateResult]
    table: Mapping[tuple[str, float], RateResult]

    def columns(self) -> dict[str, Array]:
        """Columns of rates.csv: kappa, and for each method its certified rate and its floor (NaN: no rate)."""
        methods = list(dict.fromkeys(name for name, _ in self.table))
        kappas = list(dict.fromkeys(kappa for _, kappa in self.table))
        columns = {"kappa": np.array(kappas, dtype=np.float64)}
        for name in methods:
            columns[name] = np.array([self.table[name, kappa].rho for kappa in kappas])
            columns[f"{name}_floor"] = np.array([self.table[name, kappa].lower for kappa in kappas])
        return columns


def analyse(problem: AccelerationProblem, memory: int) -> Analysis:
    """Certify the rates of all methods of a problem."""
    return Analysis(
        systems={
            name: _with_transient(certify_rate(system, memory=memory)) for name, system in problem.systems.items()
        },
        table={key: certify_rate(system, memory=memory) for key, system in problem.table.items()},
    )


def _with_transient(result: RateResult) -> RateResult:
    if result.proof is None:
        return result
    program = LyapunovProgram(result.method, result.proof.memory)
    return replace(result, proof=with_transient(program, result.proof))


def record(result: RateResult) -> dict[str, Any]:
    """One analysed method as evidence."""
    return {
        "outcome": result.outcome,
        "memory": result.memory,
        "proof": None if result.proof is None else result.proof.to_json(),
        "floor": fraction_text(result.floor),
        "obstruction": None if result.obstruction is None else result.obstruction.to_json(),
        "cycle": None if result.cycle is None else result.cycle.to_json(),
    }


# ---- rates --------------------------------------------------------------------------------------------------
def rate_claims(
    name: str, result: RateResult, premises: Sequence[Premise] = (), inputs: Sequence[str] = ()
) -> list[Claim]:
    """The claims about one method at one pair of constants; their evidence is proofs.json under its name."""
    kind = capped("proved", premises)
    common: dict[str, Any] = {"kind": kind, "premises": tuple(premises), "evidence": ("proofs.json", *inputs)}
    floor = fraction_text(result.floor)
    if result.cycle is not None:
        cycle = result.cycle
        return [
            Claim(
                name=f"cycle-{name}",
                statement=(
                    f"{name} runs in a cycle of {cycle.period} points, away from the minimiser, on a function that is "
                    f"m-strongly convex and L-smooth, kappa = {result.method.condition:.6g}: it has no rate. The value "
                    "is the smallest slack of the interpolation inequalities, in units where L = 1."
                ),
                value=fraction_text(cycle.slack()) if cycle.slack().denominator > 1 else f"{cycle.slack()}/1",
                relation=">=",
                bound="0/1",
                check="cycle",
                **common,
            )
        ]
    if result.proof is None:
        return [
            Claim(
                name=f"rate-{name}",
                statement=(
                    f"{name} at kappa = {result.method.condition:.6g}: no rate is certified and no cycle was found. The "
                    "value is a rate it cannot beat, shown by a quadratic function."
                ),
                value=_ratio_text(floor),
                relation="<=",
                bound="1/1",
                outcome="undecided",
                reason="neither a Lyapunov function nor a cycle was found; failing to find one proves nothing",
                check="undecided",
                **common,
            )
        ]
    proof = result.proof
    kappa = f"{result.method.condition:.6g}"
    by = "a quadratic function on which it is no faster"
    if result.floor_by == "lyapunov":
        by = f"moments that rule out every Lyapunov function with {proof.memory} past points"
    claims = [
        Claim(
            name=f"rate-{name}",
            statement=(
                f"{name} contracts its distance to the minimiser by this factor a step (up to a constant) on every "
                f"m-strongly convex, L-smooth function, kappa = {kappa}."
            ),
            value=_ratio_text(fraction_text(proof.rho)),
            relation="<=",
            bound="1/1",
            check="rate",
            **common,
        ),
        Claim(
            name=f"floor-{name}",
            statement=f"No smaller rate than this can be certified for {name}, by {by}.",
            value=_ratio_text(floor),
            relation="<=",
            bound=_ratio_text(fraction_text(proof.rho)),
            check="floor",
            **common,
        ),
    ]
    if proof.transient is not None:
        claims.append(
            Claim(
                name=f"transient-{name}",
                statement=(
                    f"|state_k - rest|^2 <= value * rate^(2 k) |state_0 - rest|^2 for {name}, k steps after the first "
                    f"{proof.memory}: the square of the constant of its rate."
                ),
                value=_ratio_text(fraction_text(proof.transient)),
                relation=">=",
                bound="1/1",
                check="transient",
                **common,
            )
        )
    return claims


def certify_rate_result(method: FixedStep, result: RateResult) -> Certificate:
    """Claims about one analysed method; the problem is the method itself."""
    settled = _with_transient(result)
    evidence = {"proofs.json": {"method": record(settled)}}
    return Certificate(CARD, tuple(rate_claims("method", settled)), method.fingerprint(), evidence)


def _ratio_text(text: str) -> str:
    return text if "/" in text else f"{text}/1"


# ---- runs ---------------------------------------------------------------------------------------------------
def _premises(m: Constant, L: Constant) -> list[Premise]:
    return [
        Premise(f"f is {m.value:.6g}-strongly convex ({m.why or m.known})", m.known),
        Premise(f"the gradient of f is {L.value:.6g}-Lipschitz ({L.why or L.known})", L.known),
    ]


def gap_claim(name: str, objective: Objective, m: Constant, answer: torch.Tensor, inputs: Sequence[str]) -> Claim:
    """f(x) - f* <= |grad f(x)|^2 / (2 m) at the answer."""
    gradient = objective.value_and_grad(answer.double())[1]
    premises = [Premise(f"f is {m.value:.6g}-strongly convex ({m.why or m.known})", m.known)]
    return Claim(
        name=f"gap-{name}",
        statement=f"The answer of {name} is within this of the minimum: f(x) - f* <= |grad f(x)|^2 / (2 m).",
        value=float(gradient @ gradient) / (2 * m.value),
        kind=capped("proved", premises),
        premises=tuple(premises),
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
    premises = _premises(m, L)
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
                kind=capped("proved", premises),
                outcome="holds" if holds else "fails",
                reason="" if holds else "a logged step falls less than the theory says",
                premises=tuple(premises),
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


def certify_run(method: MomentumMethod, objective: Objective, lane: Lane, answer: torch.Tensor) -> Certificate:
    """Claims about one run of one method: gap, rate, and storage and passivity where a minimiser is known."""
    name = method.scheme
    m, L = method.constants(objective)
    claims = [gap_claim(name, objective, m, answer, ())]
    evidence: dict[str, Any] = {}
    if not method.backtracking:
        system = method.system(m.value, L.value)
        result = _with_transient(certify_rate(system))
        claims += rate_claims(name, result, _premises(m, L))
        evidence["proofs.json"] = {name: record(result)}
        minimiser = reference_minimiser(objective, lane.x.numpy()) if len(lane.trace) > 2 else None
        if minimiser is not None:
            # A step size of the user's has another contraction than the one in the storage's theorem.
            tuned = method.parameters(m.value, L.value) == type(method)().parameters(m.value, L.value)
            claims += trace_claims(name, objective, (m, L), system, lane, minimiser, (), stored=tuned)
            evidence["trace.npz"] = {name: lane.trace.numpy(), "minimiser": minimiser}
    fingerprint = objective.fingerprint() if objective.identity is not None else ""
    return Certificate(CARD, tuple(claims), fingerprint, evidence)


def certify_race(race: Race, problem: AccelerationProblem, state: RaceState, answer: Mapping[str, Any]) -> Certificate:
    """Claims about all methods of the card: rates or cycles, the table, and each lane's run."""
    analysis: Analysis = state.analysis
    claims: list[Claim] = []
    evidence: dict[str, Any] = {"proofs.json": {name: record(result) for name, result in analysis.systems.items()}}
    for name, result in analysis.systems.items():
        claims += rate_claims(name, result, inputs=("input:problem",))
    if analysis.table:
        claims.append(_table_claim(analysis))
        evidence["table.json"] = {
            f"{name}@{kappa!r}": record(result) for (name, kappa), result in analysis.table.items()
        }
    if state.lanes:
        objective = problem.objective
        inputs = ("input:problem",)
        minimiser = reference_minimiser(objective, next(iter(state.lanes.values())).x.numpy())
        trace: dict[str, Array] = {}
        for name, lane in state.lanes.items():
            constants = race.method(name).constants(objective)
            final = torch.from_numpy(answer["coefficients"][name])
            claims.append(gap_claim(name, objective, constants[0], final, inputs))
            if minimiser is not None and len(lane.trace) > 2:
                system = problem.systems[name]
                claims += trace_claims(name, objective, constants, system, lane, minimiser, inputs)
                trace[name] = lane.trace.numpy()
        if trace and minimiser is not None:
            evidence["trace.npz"] = {**trace, "minimiser": minimiser}
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _table_claim(analysis: Analysis) -> Claim:
    """Every row of rates.csv is proved, or disproved by a cycle; the value is the widest distance to a floor."""
    proved = [result for result in analysis.table.values() if result.proof is not None]
    cycles = sum(result.cycle is not None for result in analysis.table.values())
    undecided = len(analysis.table) - len(proved) - cycles
    width = max((result.rho - result.lower for result in proved), default=0.0)
    return Claim(
        name="table",
        statement=(
            f"Of the {len(analysis.table)} rates asked for, {len(proved)} are proved in exact arithmetic, {cycles} are "
            f"disproved by a cycle and {undecided} are undecided; no proved rate is farther than the value above a proved "
            "floor."
        ),
        value=width,
        relation="<=",
        bound=TABLE_WIDTH,
        kind="proved",
        outcome="holds" if width <= TABLE_WIDTH else "fails",
        reason="" if width <= TABLE_WIDTH else "some rate's floor could be proved only farther below it",
        check="table",
        evidence=("table.json", "answer", "input:problem"),
    )
