"""Claims about the gradient at a private answer, made from what was released; they cost no further privacy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate, Claim, Confidence, Premise, capped
from surefoot.privacy.certify import privacy_claims
from surefoot.privacy.ledger import Ledger
from surefoot.privacy.private_method import PrivateMethod
from surefoot.privacy.private_spider import PrivateSpiderBoost, expected_gradient, radii, scale
from surefoot.privacy.recursive_regularization import RecursiveRegularization
from surefoot.privacy.risk import PrivateRisk
from surefoot.privacy.tree_spider import TreeSpider, population_radii

CARD = "private-stationary"
PRIVATE = Premise("each record's gradient, and its change, is clipped by a rule that looks at that record alone")


def certificate(method: PrivateMethod[Any], problem: PrivateRisk, state: Any, ledger: Ledger) -> Certificate:
    """Everything that can be said of the run."""
    not_private = state.streams.seed is not None
    claims, evidence = privacy_claims(ledger, not_private=not_private, record_bound=PRIVATE, unit=problem.unit)
    evidence["release.json"] = facts(method, problem, state)
    evidence["release.npz"] = _arrays(method, problem, state)
    claims.append(_answer_claim(method, problem, state))
    if any(math.isfinite(a) for a in state.answers):
        claims.append(_query_claim(method, problem, state))
    exact = problem.known == "exact" and problem.projection is None
    if isinstance(method, PrivateSpiderBoost):
        done = int(np.isfinite(state.norms.numpy()).sum())
        if exact and not method.sampled and done:
            claims.append(_path_claim(method, problem, state, evidence))
        if exact and done == method.iterations and expected_gradient(method, problem) is not None:
            claims.append(_expected_claim(method, problem))
    if isinstance(method, TreeSpider) and exact and state.points and not state.ended:
        claims.append(_population_claim(method, problem, state, evidence))
    claims.append(_floor_claim(method, problem))
    return Certificate(CARD, tuple(claims), problem.fingerprint() if problem.identity is not None else "", evidence)


def facts(method: PrivateMethod[Any], problem: PrivateRisk, state: Any) -> dict[str, Any]:
    """What was fixed before the run, as far as a checker needs it."""
    searched, penalty = problem.searched, problem.penalty
    tree: dict[str, Any] = {
        "size": problem.size, "dim": problem.dim, "record_gradient": problem.record_gradient, "known": problem.known,
        "failure_probability": method.failure_probability, "queries": method.queries(), "target": method.target, "rule": "none",
        "penalty": {"kind": penalty.kind, "weight": penalty.weight, "free": penalty.free},
    }  # fmt: skip
    if isinstance(method, PrivateSpiderBoost):
        exact = problem.known == "exact" and problem.projection is None and not method.sampled
        tree |= {"rule": "descent", "step_size": method.step_length(problem), "compat": method.compat}
        if method.compat != "paper" and state.points and not bool((state.points[0] == problem.lift(state.w)).all()):
            tree["averaged_from"] = method.iterations // 2  # else the candidate is the last point
        if exact and method.differences:
            tree |= {"phase": method.phase, "record_smoothness": searched.record_smoothness}
        if exact and expected_gradient(method, problem) is not None:
            tree |= {"start_gap": problem.start_gap, "smoothness": searched.smoothness, "iterations": method.iterations}
    elif isinstance(method, TreeSpider):
        layout = method.layout(problem)
        tree |= {"rule": "tree", "step_size": layout.step_length, "depth": layout.depth}
        if problem.known == "exact" and problem.projection is None and not state.ended:
            tree |= {
                "rounds": layout.rounds,
                "root_batch": layout.root_batch,
                "record_smoothness": searched.record_smoothness,
            }
    if state.vectors is None or tree["rule"] == "none":  # nothing to replay
        tree["rule"] = "none"
        unused = {"penalty", "averaged_from"} | (
            {"step_size"} if "phase" not in tree and "start_gap" not in tree else set()
        )
        unused |= {"iterations"} if "start_gap" not in tree else set()
        tree = {name: value for name, value in tree.items() if name not in unused}
    return tree


def _arrays(method: PrivateMethod[Any], problem: PrivateRisk, state: Any) -> dict[str, Any]:
    points = state.points or [method.answer(problem, state)]
    arrays: dict[str, Any] = {"points": np.stack([p.numpy() for p in points])}
    if state.answers:
        arrays["query_norms"] = np.array(state.answers)
        arrays["query_bounds"] = np.array(method.bounds(problem, state))
        arrays["query_std"] = np.array(method.query_release(problem).noise_std)
    if state.vectors is not None and not isinstance(method, RecursiveRegularization):
        done = int(np.isfinite(state.norms.numpy()).sum())
        arrays["start"] = problem.searched.origin().numpy()
        arrays["estimates"] = state.vectors[:done].numpy()
        if problem.projection is not None:
            arrays["projection"] = problem.projection.numpy()
    return arrays


def _answer_claim(method: PrivateMethod[Any], problem: PrivateRisk, state: Any) -> Claim:
    replayed = state.vectors is not None and not isinstance(method, RecursiveRegularization)
    how = "follows step by step from the released vectors" if replayed else "is one of the points that were released"
    return Claim(
        name="answer",
        statement=f"The answer {how}, so it is covered by the ledger; the value is its norm.",
        value=float(np.linalg.norm(method.answer(problem, state).numpy())),
        kind="measured",
        check="answer",
        evidence=("answer", "release.npz", "release.json"),
    )


def _objective(problem: PrivateRisk) -> tuple[str, tuple[Premise, ...]]:
    if problem.known == "exact":
        return "the objective", (
            Premise("no record's gradient is longer than L0 anywhere (rows bounded, loss Lipschitz)"),
        )
    return "the objective with every record's gradient clipped to L0", ()


def _query_claim(method: PrivateMethod[Any], problem: PrivateRisk, state: Any) -> Claim:
    what, premises = _objective(problem)
    asked = Premise("the final queries were made at the points of release.npz, on the records of the run")
    value, bound = min(method.bounds(problem, state)), method.target or None
    return Claim(
        name="gradient_bound",
        statement=f"The gradient norm of {what}, on the records of the run, at the answer.",
        value=value, bound=bound, outcome="holds" if bound is None or value <= bound else "fails", kind="statistical",
        reason="" if bound is None or value <= bound else "the noise of the budget is too large for this target, or the search ended early",
        scope="probability", premises=(*premises, asked), check="gradient_bound",
        confidence=Confidence(1.0 - method.failure_probability, "noncentral chi-square, exact", method.queries(), "joint"),
        evidence=("answer", "release.npz", "release.json", "ledger.json"),
    )  # fmt: skip


def path_bounds(method: PrivateSpiderBoost, problem: PrivateRisk, state: Any) -> dict[str, Any]:
    """Released norm, noise scale and bound of the gradient norm at every step done."""
    done = int(np.isfinite(state.norms.numpy()).sum())
    norms, stds = state.norms[:done].numpy(), state.stds[:done].numpy()
    first = (method.multipliers(problem)[0] * problem.searched.record_gradient / problem.size) ** 2
    phases = -(-method.iterations // method.phase)
    padded = np.concatenate([stds, np.zeros(phases * method.phase - done)])  # p is dealt to the planned phases
    widths = radii(padded, method.phase, problem.searched.dim, first, method.failure_probability)[:done]
    return {"k": np.arange(done, dtype=np.float64), "released_norm": norms, "noise_std": stds, "bound": norms + widths}


def _path_claim(method: PrivateSpiderBoost, problem: PrivateRisk, state: Any, evidence: dict[str, Any]) -> Claim:
    table = evidence["path.csv"] = path_bounds(method, problem, state)
    evidence["release.json"]["anchors"] = method.anchors
    best = int(np.argmin(table["bound"]))
    return Claim(
        name="path_bound",
        statement=f"Along the whole search at once: the gradient norm is below the bound of every step in path.csv; the value is the least, at step {best}.",
        value=float(table["bound"][best]), kind="statistical", scope="probability", premises=_objective(problem)[1],
        confidence=Confidence(1.0 - method.failure_probability, "method of mixtures, time-uniform", len(table["k"]), "joint"),
        check="path_bound", evidence=("path.csv", "release.json", "release.npz", "ledger.json"),
    )  # fmt: skip


def _expected_claim(method: PrivateSpiderBoost, problem: PrivateRisk) -> Claim:
    premises = (*_objective(problem)[1], Premise("F(start) - inf F is at most the public F0", "declared"))
    return Claim(
        name="expected_gradient",
        statement="Known before the run (eq. 5): the root of the mean squared gradient norm at a uniformly drawn iterate.",
        value=expected_gradient(method, problem), kind=capped("proved", premises), scope="expectation", premises=premises,
        check="expected_gradient", evidence=("release.json", "ledger.json"),
    )  # fmt: skip


def _population_claim(method: TreeSpider, problem: PrivateRisk, state: Any, evidence: dict[str, Any]) -> Claim:
    layout, norms = method.layout(problem), state.norms.numpy()
    widths = population_radii(layout, method.multiplier(), problem.dim, method.failure_probability)
    bounds = norms + np.tile(widths, layout.rounds)[: len(norms)]
    evidence["path.csv"] = {"k": np.arange(len(norms), dtype=np.float64), "released_norm": norms, "noise_std": state.stds.numpy(), "bound": bounds}  # fmt: skip
    premises = (*_objective(problem)[1], Premise("the records are independent draws from the population", "declared"))
    return Claim(
        name="population_bound",
        statement="At every leaf at once: the gradient norm of the population's objective is below the bound in path.csv; the value is the least, at the first candidate.",
        value=float(bounds.min()), kind="statistical", scope="probability", premises=premises,
        confidence=Confidence(1.0 - method.failure_probability, "Pinelis and Gaussian concentration", problem.size, "joint"),
        check="population_bound", evidence=("path.csv", "release.json", "release.npz", "ledger.json"),
    )  # fmt: skip


def _floor_claim(method: PrivateMethod[Any], problem: PrivateRisk) -> Claim:
    return Claim(
        name="floor",
        statement="Shape of the lower bound for any private method: L0 sqrt(d log(1/delta)) / (n epsilon), up to an unspecified constant.",
        value=problem.record_gradient * scale(problem, method.budget),
        kind="measured",
        check="floor",
        evidence=("release.json", "ledger.json"),
    )
