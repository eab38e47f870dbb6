"""Checkers of the accelerated methods. They share the problem with the solver and nothing else.

Exact proofs are re-derived in ``verify_proofs``, runs are replayed in ``verify_runs``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.problem import Objective
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.descent.problem import AccelerationProblem, FixedStep
from surefoot.descent.verify_proofs import (
    LyapunovProof,
    UnprovedError,
    check_exact_cycle,
    check_obstruction,
    check_quadratic_floor,
)
from surefoot.descent.verify_runs import FOLLOWED, KNOWN_TO, Replay, oracle_of
from surefoot.numerics.rationals import fraction_from

__all__ = ["CHECKS"]


# ---- what a claim is about ----------------------------------------------------------------------------------
def _name(claim: Claim) -> str:
    return claim.name.partition("-")[2]


def _record(claim: Claim, dossier: Dossier) -> Mapping[str, Any]:
    return dossier.evidence["proofs.json"][_name(claim)]


def _system(claim: Claim, dossier: Dossier) -> FixedStep:
    """The method a claim is about, from the problem; for a bare objective from the proof, with its constants."""
    problem, name = dossier.problem, _name(claim)
    if isinstance(problem, FixedStep):
        return problem
    if isinstance(problem, AccelerationProblem):
        return problem.systems[name]
    record = dossier.evidence["proofs.json"][name]
    parts = (record["proof"], record["cycle"], record["obstruction"])
    system = FixedStep.from_json(next(part["method"] for part in parts if part is not None))
    for key, value in (("strong_convexity", system.m), ("smoothness", system.L)):
        constant = problem.constants.get(key)
        declared = any(p.known != "exact" for p in claim.premises)
        if constant is not None and Fraction(constant.value) != value and not declared:
            raise UnprovedError(f"the proof is for another {key} than the objective's")
    return system


def _objective(dossier: Dossier) -> Objective:
    problem = dossier.problem
    return problem.objective if isinstance(problem, AccelerationProblem) else problem


def _strong_convexity(claim: Claim, dossier: Dossier) -> float:
    """m: the objective's constant, or for a declared one the number in the premise's place of the system."""
    constant = _objective(dossier).constants.get("strong_convexity")
    if constant is None or any(p.known == "declared" for p in claim.premises):
        return float(_system(claim, dossier).m)
    return constant.value


# ---- checkers -----------------------------------------------------------------------------------------------
def _fail(check: Check) -> Check:
    def guarded(claim: Claim, dossier: Dossier) -> Verdict:
        try:
            return check(claim, dossier)
        except UnprovedError as failure:
            return refute(claim, str(failure))

    return guarded


def _exact(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def check_rate(claim: Claim, dossier: Dossier) -> Verdict:
    """Decrease and positivity of the Lyapunov function, in exact rationals."""
    proof = _record(claim, dossier)["proof"]
    rho = LyapunovProof(proof, _system(claim, dossier)).check_rate(proof)
    return compare(claim, _exact(rho), supports="proved", bound="1/1")


def check_transient(claim: Claim, dossier: Dossier) -> Verdict:
    """The bound of the Lyapunov function at the start, in exact rationals."""
    proof = _record(claim, dossier)["proof"]
    bound = LyapunovProof(proof, _system(claim, dossier)).check_transient(proof)
    return compare(claim, _exact(bound), supports="proved", bound="0/1")


def check_floor(claim: Claim, dossier: Dossier) -> Verdict:
    """No smaller rate: by a quadratic function or by moments, in exact rationals."""
    record, system = _record(claim, dossier), _system(claim, dossier)
    floor = _floor(record, system)
    rho = _exact(fraction_from(record["proof"]["rho"]))
    return compare(claim, _exact(floor), supports="proved", bound=rho)


def _floor(record: Mapping[str, Any], system: FixedStep) -> Fraction:
    floor = fraction_from(record["floor"])
    if record["obstruction"] is None:
        check_quadratic_floor(floor, system)
    elif check_obstruction(record["obstruction"], system) != floor:
        raise UnprovedError("the floor is not the rate that the moments rule out")
    return floor


def check_cycle(claim: Claim, dossier: Dossier) -> Verdict:
    """The cycle closes and a function of the class goes through it, in exact rationals."""
    slack, _ = check_exact_cycle(_record(claim, dossier)["cycle"], _system(claim, dossier))
    return compare(claim, _exact(slack), supports="proved", bound="0/1")


def check_undecided(claim: Claim, dossier: Dossier) -> Verdict:
    """The floor of a method about which nothing else is known."""
    record, system = _record(claim, dossier), _system(claim, dossier)
    if record["proof"] is not None or record["cycle"] is not None:
        return refute(claim, "called undecided, but the evidence holds a proof or a cycle")
    floor = _floor(record, system)
    return compare(claim, _exact(floor), supports="proved", bound="1/1", undecided=True)


def check_table(claim: Claim, dossier: Dossier) -> Verdict:
    """Each entry of rates.csv against its proof; a fresh random part of the proofs in full."""
    problem, rates = dossier.problem, dossier.answer["rates"]
    records = dossier.evidence["table.json"]
    keys = list(problem.table)
    if sorted(records) != sorted(f"{name}@{kappa!r}" for name, kappa in keys):
        return refute(claim, "the proofs are not those of the methods and condition numbers asked for")
    kappas = list(dict.fromkeys(kappa for _, kappa in keys))
    names = list(dict.fromkeys(name for name, _ in keys))
    columns = {"kappa", *names, *(f"{name}_floor" for name in names)}
    if set(rates) != columns or list(map(float, rates["kappa"])) != kappas:
        return refute(claim, "the answer's table has other columns or condition numbers")
    redo = set(dossier.rows(len(keys), 12).tolist())
    width = 0.0
    for place, (name, kappa) in enumerate(keys):
        record, row = records[f"{name}@{kappa!r}"], kappas.index(kappa)
        rho, floor = float(rates[name][row]), float(rates[f"{name}_floor"][row])
        said = math.nan if record["proof"] is None else float(fraction_from(record["proof"]["rho"]))
        if not (rho == said or (math.isnan(rho) and math.isnan(said))) or floor != float(
            fraction_from(record["floor"])
        ):
            return refute(claim, f"the answer's {name} at kappa = {kappa:g} is not what was proved")
        if record["proof"] is not None:
            width = max(width, rho - floor)
        if place in redo:
            _check_row(record, problem.table[name, kappa])
    return compare(claim, width, supports="proved", bound=1e-5, rtol=1e-6)


def _check_row(record: Mapping[str, Any], system: FixedStep) -> None:
    if record["proof"] is not None:
        LyapunovProof(record["proof"], system).check_rate(record["proof"])
    elif record["cycle"] is not None:
        check_exact_cycle(record["cycle"], system)
    wanted = "certified" if record["proof"] else "disproved" if record["cycle"] else "undecided"
    if record["outcome"] != wanted:
        raise UnprovedError(f"a row is called {record['outcome']} but is {wanted}")
    _floor(record, system)


def check_gap(claim: Claim, dossier: Dossier) -> Verdict:
    """|grad f|^2 / (2 m) at the answer."""
    answer = dossier.answer
    x = answer["coefficients"][_name(claim)] if isinstance(answer, Mapping) else answer.double().numpy()
    point = np.asarray(x, dtype=np.float64)
    if not np.isfinite(point).all():
        raise UnprovedError("the answer is not finite")
    gradient = oracle_of(dossier)(point)[1]
    gap = float(gradient @ gradient) / (2 * _strong_convexity(claim, dossier))
    return compare(claim, gap, supports=_strength(claim), rtol=1e-5)


def _strength(claim: Claim) -> Any:
    return "measured" if any(p.known == "estimated" for p in claim.premises) else "proved"


def _replay(claim: Claim, dossier: Dossier) -> Replay:
    return Replay(_name(claim), _system(claim, dossier), dossier)


def check_storage(claim: Claim, dossier: Dossier) -> Verdict:
    """Largest ratio of successive storages over what the factor allows, while well resolved."""
    factor, storage, error = _replay(claim, dossier).storage(_name(claim))
    rows = 0
    while rows < len(storage) and storage[rows] > FOLLOWED * storage[0] and error[rows] < KNOWN_TO * storage[rows]:
        rows += 1
    if rows < 2:
        return refute(claim, "no step of the storage function is resolved by the logged iterates")
    worst = max((storage[k + 1] + error[k + 1]) / (factor * (storage[k] - error[k])) for k in range(rows - 1))
    return compare(claim, float(worst), supports=_strength(claim), bound=1.0, rtol=1e-5)


def check_passivity(claim: Claim, dossier: Dossier) -> Verdict:
    """Smallest spare dissipation of the first block, times L."""
    replay = _replay(claim, dossier)
    square = np.sum(replay.g**2, axis=1)[:-1]
    spare = np.sum(replay.g * replay.push, axis=1)[:-1] - np.diff(replay.f_x)
    clear = square > FOLLOWED * square.max()
    index = float((spare[clear] / square[clear]).min()) * replay.L
    return compare(claim, index, supports="measured", rtol=1e-5)


CHECKS: dict[str, Check] = {
    "rate": _fail(check_rate),
    "transient": _fail(check_transient),
    "floor": _fail(check_floor),
    "cycle": _fail(check_cycle),
    "undecided": _fail(check_undecided),
    "table": _fail(check_table),
    "gap": _fail(check_gap),
    "storage": _fail(check_storage),
    "passivity": _fail(check_passivity),
}
