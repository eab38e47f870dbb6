"""Claims of the accelerated methods: rates, floors, cycles and their table; those about runs are in ``run_claims``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from surefoot.core.certificate import Certificate, Claim, Premise, capped
from surefoot.core.problem import Objective
from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.problem import AccelerationProblem, FixedStep
from surefoot.descent.rate_proofs import with_transient
from surefoot.descent.rate_search import RateResult, certify_rate
from surefoot.descent.run_claims import gap_claim, premises, reference_minimiser, trace_claims
from surefoot.numerics.rationals import fraction_text

if TYPE_CHECKING:
    from surefoot.descent.acceleration import Lane, MomentumMethod, Race, RaceState

Array = npt.NDArray[np.float64]

__all__ = ["Analysis", "analyse", "certify_race", "certify_run", "rate_claims"]

CARD = "acceleration"
TABLE_WIDTH = 1e-5


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
                bound="0/1",
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
def certify_run(method: MomentumMethod, objective: Objective, lane: Lane, answer: torch.Tensor) -> Certificate:
    """Claims about one run of one method: gap, rate, and storage and passivity where a minimiser is known."""
    name = method.scheme
    m, L = method.constants(objective)
    claims = [gap_claim(name, objective, m, answer, ())]
    evidence: dict[str, Any] = {}
    if not method.backtracking:
        system = method.system(m.value, L.value)
        result = _with_transient(certify_rate(system))
        claims += rate_claims(name, result, premises(m, L))
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
