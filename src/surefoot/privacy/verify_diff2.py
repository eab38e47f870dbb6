"""Checking a DIFF2 run from its ledger and the vectors it released, without the data.

The run is played again from the released vectors in numpy; noise scales come from the ledger's multipliers and the replayed steps;
the noncentral chi-square distribution is summed as its Poisson mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.privacy.verify import checks as shared_checks
from surefoot.privacy.verify import is_bound

Array = np.ndarray[Any, np.dtype[np.float64]]
AGREE = 1e-7


def checks() -> Mapping[str, Check]:
    """All checkers of the card."""
    return {
        **shared_checks(),
        "diff2-single_message": check_single_message,
        "diff2-replay": check_replay,
        "diff2-running_gradient": check_running,
        "diff2-gradient": check_gradient,
        "diff2-drift": check_drift,
        "diff2-expected_gradient": check_expected,
        "diff2-held_out_loss": check_held_out,
    }


def multiplier(ledger: Mapping[str, Any], name: str) -> float:
    """The noise multiplier of the releases of that name; 0 where there are none.

    Raises:
        ValueError: several.
    """
    found = {float(e["noise_multiplier"]) for e in ledger["entries"] if e["name"] == name}
    if len(found) > 1:
        raise ValueError(f"the ledger has releases {name!r} of different noise")
    value = found.pop() if found else 0.0
    if not 0.0 <= value < math.inf:
        raise ValueError(f"the noise multiplier of {name!r} is {value}")
    return value


def released(ledger: Mapping[str, Any], name: str) -> int:
    """How many releases of that name the busiest part met."""
    numbers: dict[int, int] = {}
    for e in ledger["entries"]:
        if e["name"] == name:
            numbers[int(e["part"])] = numbers.get(int(e["part"]), 0) + int(e["number"])
    return max(numbers.values(), default=0)


@dataclass(frozen=True)
class Replay:
    """Iterates (R + 1, d), estimates (R, d), variances (R,) and bounds (R,) of a run, and the iterates' mean distance from the start."""

    points: Array
    estimates: Array
    variances: Array
    bounds: Array
    radii: Array
    mean_distance: float


def replayed(dossier: Dossier) -> Replay:
    """The run once more.

    Raises:
        ValueError: vectors that do not fit the plan, or more rounds than the ledger has releases.
    """
    plan, ledger, vectors = (dossier.evidence[n] for n in ("plan.json", "ledger.json", "releases.npz"))
    rounds, inner, restart = (int(plan[n]) for n in ("rounds", "inner", "restart"))
    directions, start = np.asarray(vectors["directions"], np.float64), np.asarray(vectors["start"], np.float64)
    if rounds < 1 or inner < 1 or restart < 1 or directions.shape != (rounds * inner, start.size):
        raise ValueError(f"directions {directions.shape} for {rounds} rounds of {inner} steps")
    anchors = -(-rounds // restart)
    if anchors > released(ledger, "anchor") or rounds - anchors > released(ledger, "difference"):
        raise ValueError("the ledger has fewer releases than the run has rounds")
    step, ridge = float(plan["step_length"]), float(plan["ridge"])
    x, points, distances = start.copy(), [start], []
    for row, direction in enumerate(directions):
        x = (1.0 - step * ridge) * x - step * direction
        distances.append(math.sqrt(math.fsum((x - start) ** 2)))
        if (row + 1) % inner == 0:
            points.append(x)
    path, estimates = np.stack(points), directions[::inner]
    unit = float(plan["noise_unit"])
    first = (multiplier(ledger, "anchor") * float(plan["clip_gradient"]) * unit) ** 2
    reach = np.linalg.norm(np.diff(path, axis=0), axis=1)
    scale = multiplier(ledger, "difference") * float(plan.get("clip_difference", 0.0)) * unit
    variances = np.empty(rounds)
    for r in range(rounds):
        variances[r] = first if r % restart == 0 else variances[r - 1] + (scale * reach[r - 1]) ** 2
    log_term = 2.0 * math.log(int(plan["anchors"]) / float(plan["failure_probability"]))
    radii = np.sqrt((variances + first) * (start.size * np.log1p(variances / first) + log_term))
    bounds = np.linalg.norm(estimates + ridge * path[:-1], axis=1) + radii
    return Replay(path, estimates, variances, bounds, radii, math.fsum(distances) / len(distances))


def _place(plan: Mapping[str, Any], run: Replay) -> int:
    """Index of the round whose estimate belongs to the answer."""
    last = len(run.estimates) - 1
    return {
        "last": lambda: last,
        "average": lambda: last,
        "best": lambda: int(np.argmin(run.bounds)),
        "random": lambda: int(plan["chosen"]),
    }[plan["output"]]()


def _answer(dossier: Dossier) -> Array:
    return np.asarray(dossier.answer, dtype=np.float64).reshape(-1)


def _level(claim: Claim, plan: Mapping[str, Any], factor: float = 1.0) -> str:
    stated = claim.confidence.level if claim.confidence else math.nan
    wanted = 1.0 - factor * float(plan["failure_probability"])
    return "" if abs(stated - wanted) < 1e-12 else f"its level is {stated}, the bound's is {wanted}"


def check_replay(claim: Claim, dossier: Dossier) -> Verdict:
    """The released vectors lead to the answer."""
    plan, run, x = dossier.evidence["plan.json"], replayed(dossier), _answer(dossier)
    if plan["output"] == "average":
        expected = run.points[int(plan["averaged_from"]) :].mean(axis=0)
    else:
        expected = run.points[-1] if plan["output"] == "last" else run.points[_place(plan, run)]
    if x.shape != expected.shape or not np.allclose(
        x, expected, rtol=0, atol=1e-9 * max(1.0, float(np.abs(expected).max()))
    ):
        return refute(claim, "the released vectors do not lead to the answer")
    return compare(claim, run.mean_distance, supports="proved", rtol=AGREE)


def check_running(claim: Claim, dossier: Dossier) -> Verdict:
    """The least bound over the rounds."""
    if wrong := _level(claim, dossier.evidence["plan.json"]):
        return refute(claim, wrong)
    return compare(claim, float(replayed(dossier).bounds.min()), supports="statistical", rtol=AGREE)


def _query_std(dossier: Dossier) -> float:
    plan, ledger = dossier.evidence["plan.json"], dossier.evidence["ledger.json"]
    if released(ledger, "final query") < 1:
        raise ValueError("the ledger has no final query")
    return multiplier(ledger, "final query") * float(plan["clip_gradient"]) * float(plan["noise_unit"])


def check_gradient(claim: Claim, dossier: Dossier) -> Verdict:
    """At the claimed norm the observed one is just as improbable as allowed."""
    plan = dossier.evidence["plan.json"]
    if wrong := _level(claim, plan):
        return refute(claim, wrong)
    query, x, std = (
        np.asarray(dossier.evidence["releases.npz"]["query"], np.float64),
        _answer(dossier),
        _query_std(dossier),
    )
    norm = float(np.linalg.norm(query + float(plan["ridge"]) * x))
    p, value = float(plan["failure_probability"]), float(claim.value)  # pyright: ignore[reportArgumentType]
    if not is_bound(value, norm, std, query.size, p):
        return refute(claim, f"{value:.6g} is not the bound that the released norm {norm:.6g} gives")
    return compare(claim, value, supports="statistical")


def check_drift(claim: Claim, dossier: Dossier) -> Verdict:
    """Distance of the fresh gradient from the running estimate, against what noise and the last step explain."""
    plan, run, x = dossier.evidence["plan.json"], replayed(dossier), _answer(dossier)
    if wrong := _level(claim, plan, 2.0):
        return refute(claim, wrong)
    place = _place(plan, run)
    query = np.asarray(dossier.evidence["releases.npz"]["query"], np.float64)
    tail = float(special.chdtri(query.size, float(plan["failure_probability"])))
    bound = float(run.radii[place]) + _query_std(dossier) * math.sqrt(tail)
    bound += float(plan["clip_difference"]) * float(np.linalg.norm(x - run.points[place]))
    return compare(
        claim, float(np.linalg.norm(query - run.estimates[place])), supports="statistical", bound=bound, rtol=AGREE
    )


def check_single_message(claim: Claim, dossier: Dossier) -> Verdict:
    """mu of the sum times the root of the number of clients that add noise."""
    plan, ledger = dossier.evidence["plan.json"], dossier.evidence["ledger.json"]
    if plan["trust"] != "secagg" or int(plan["honest"]) < 1:
        return refute(claim, "only clients that add their own noise send such messages")
    total = math.fsum(
        int(e["number"]) * (2.0 / float(e["noise_multiplier"])) ** 2 for e in ledger["entries"] if int(e["part"]) == 0
    )
    return compare(claim, math.sqrt(total * int(plan["honest"])), supports="proved")


def check_expected(claim: Claim, dossier: Dossier) -> Verdict:
    """`2 gap / (eta R) + tau1^2`, where `eta L + (T - 1) tau2^2 eta^2 <= 1`; L is at most C2 + ridge where no difference is clipped."""
    plan, ledger = dossier.evidence["plan.json"], dossier.evidence["ledger.json"]
    dim, unit = np.asarray(dossier.evidence["releases.npz"]["start"]).size, float(plan["noise_unit"])
    step, rounds, restart = float(plan["step_length"]), int(plan["rounds"]), int(plan["restart"])
    first = dim * (multiplier(ledger, "anchor") * float(plan["clip_gradient"]) * unit) ** 2
    second = dim * (multiplier(ledger, "difference") * float(plan["clip_difference"]) * unit) ** 2
    if (
        not step * (float(plan["clip_difference"]) + float(plan["ridge"])) + (restart - 1) * second * step**2
        <= 1.0 + 1e-9
    ):
        return refute(claim, "the step is too long for the bound")
    if int(plan["inner"]) != 1:
        return refute(claim, "the bound is for one step a round")
    return compare(claim, 2.0 * float(plan["gap"]) / (step * rounds) + first, supports="proved")


def check_held_out(claim: Claim, dossier: Dossier) -> Verdict:
    """The noisy mean plus the normal quantile of its noise."""
    ledger, held = dossier.evidence["ledger.json"], dossier.evidence["held_out.json"]
    if released(ledger, "held-out loss") != 1:
        return refute(claim, "the ledger has not one look at the held-out loss")
    p = float(held["failure_probability"])
    if claim.confidence is None or abs(claim.confidence.level - (1.0 - p)) > 1e-12:
        return refute(claim, "its level is not the evidence's")
    std = multiplier(ledger, "held-out loss") * float(held["most"]) / (2.0 * int(held["size"]))
    return compare(claim, float(held["released"]) - float(special.ndtri(p)) * std, supports="statistical")
