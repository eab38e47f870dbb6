"""Claims about a learned graph, with the evidence that lets `verify.py` derive them again.

Evidence: `covariance.npz` (S and n: the data enter only through them), `setting.json`, `path.npz` (weights and noise before
the threshold), `order_fit.npz` (the certified optimum for the order), `residuals.npz` (each residual column sorted: that is
all a test of spreads needs), `knowledge.npz` (masks) and `truth.npz` (a reference graph), where there are any.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.causal.metrics import structural_hamming_distance
from surefoot.causal.order_refit import OrderFit, refit_order
from surefoot.causal.order_test import (
    LEVEL,
    bartlett_statistic,
    brown_forsythe_statistic,
    conditional_variances,
    obstacle,
    order_residuals,
)
from surefoot.causal.problem import Dag, Refine, Table, Variance
from surefoot.causal.score import noise_levels, residual_variances, score, start_levels, stationarity
from surefoot.core.certificate import Certificate, Claim, Confidence, Premise

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

GAP_TOLERANCE = 1e-6

SIMULTANEOUS = Premise("all noise levels are equal", "declared")


def certify_dag(
    problem: Table,
    dag: Dag,
    *,
    variance: Variance,
    sparsity: float,
    self_edges: bool,
    refine: Refine,
    path_weights: Array,
    centre: float,
    acyclicity_scale: float,
    finished: bool,
) -> Certificate:
    """Certificate of a graph learned by the path.

    Args:
        problem, dag: what was asked and answered.
        variance, sparsity, refine: as in `ConcomitantPath`.
        self_edges: whether the path was free to put weight on the diagonal (the published path is).
        path_weights: (d, d) weights at the end of the path, before the threshold.
        centre, acyclicity_scale: mu and s of the stage that the path ended in.
        finished: whether all stages were done.
    """
    floor = start_levels(problem.covariance, variance)[1]
    path_noise = noise_levels(residual_variances(problem.covariance, path_weights), variance, floor)
    evidence: dict[str, Any] = {
        "covariance.npz": {"covariance": problem.covariance, "rows": np.array([problem.rows])},
        "setting.json": {
            "variance": variance,
            "sparsity": sparsity,
            "self_edges": self_edges,
            "refine": refine,
            "centre": centre,
            "acyclicity_scale": acyclicity_scale,
        },
        "path.npz": {"weights": path_weights, "noise_std": path_noise},
    }
    known = problem.knowledge
    if known.allowed is not None:
        nothing = np.zeros_like(known.allowed)
        evidence["knowledge.npz"] = {
            "allowed": known.allowed,
            "required": nothing if known.required is None else known.required,
            "before": nothing if known.before is None else known.before,
        }
    base = ("covariance.npz", *(name for name in ("knowledge.npz",) if name in evidence))
    claims = [
        _covariance_claim(problem, base),
        _acyclic_claim(dag, base),
        _edges_claim(dag, refine, base),
        _noise_claim(dag, refine, base),
        _stationarity_claim(
            problem, path_weights, path_noise, sparsity, centre, acyclicity_scale, finished, self_edges, base
        ),
    ]
    if sparsity > 0.0:
        penalised = None if known.required is None else ~known.required
        fit = refit_order(problem.covariance, dag.order, variance, sparsity, floor, known.allowed, penalised)
        evidence["order_fit.npz"] = {"weights": fit.weights, "noise_std": fit.noise_std}
        claims += _order_claims(problem, dag, fit, variance, sparsity, base)
    if problem.truth is not None:
        evidence["truth.npz"] = {"edges": problem.truth}
        claims.append(_distance_claim(problem.truth, dag, base))
    if variance == "equal":
        claims += _test_claims(problem, dag, evidence, base)
    return Certificate("colide", tuple(claims), problem.fingerprint(), evidence)


def _covariance_claim(problem: Table, base: tuple[str, ...]) -> Claim:
    return Claim(
        name="covariance",
        statement="All other claims are about one covariance matrix; it is that of the input, in working units. This is its "
        "total variance.",
        value=float(np.trace(problem.covariance)),
        kind="measured",
        check="covariance",
        evidence=(*base, "input:table"),
    )


def _acyclic_claim(dag: Dag, base: tuple[str, ...]) -> Claim:
    place = np.argsort(dag.order)
    sources, targets = np.nonzero(dag.adjacency)
    backwards = int(np.sum(place[sources] >= place[targets]))
    return Claim(
        name="acyclic",
        statement="The graph has no cycle: so many of its edges run backwards in the causal order given with it.",
        value=backwards,
        relation="==",
        bound=0,
        kind="proved",
        outcome="holds" if backwards == 0 else "fails",
        check="acyclic",
        evidence=("answer", *base),
    )


def _edges_claim(dag: Dag, refine: Refine, base: tuple[str, ...]) -> Claim:
    how = (
        "each with the weight that the path ended with"
        if refine == "none"
        else "each node's weights being least squares on its parents"
    )
    return Claim(
        name="edges",
        statement=f"The graph has so many edges, {how}.",
        value=int(np.count_nonzero(dag.adjacency)),
        relation="==",
        kind="measured",
        check="edges",
        evidence=("answer", *base, "path.npz", "setting.json"),
    )


def _noise_claim(dag: Dag, refine: Refine, base: tuple[str, ...]) -> Claim:
    where = "the path's weights" if refine == "none" else "the graph's weights"
    return Claim(
        name="noise",
        statement=f"The noise levels given are the score's own minimisers at {where}; this is their root mean square.",
        value=float(np.sqrt(np.mean(dag.noise_std**2))),
        kind="measured",
        check="noise",
        evidence=("answer", *base, "path.npz", "setting.json"),
    )


def _stationarity_claim(
    problem: Table,
    weights: Array,
    noise: Array,
    sparsity: float,
    centre: float,
    acyclicity_scale: float,
    finished: bool,
    self_edges: bool,
    base: tuple[str, ...],
) -> Claim:
    known = problem.knowledge
    allowed = known.allowed if known.allowed is not None or self_edges else ~np.eye(problem.order, dtype=bool)
    residual = stationarity(
        problem.covariance, weights, noise, sparsity, centre, acyclicity_scale, allowed, known.required
    )
    return Claim(
        name="stationarity",
        statement="Largest violation of the first-order conditions at the end of the path, in units of its l1 weight.",
        value=residual,
        kind="measured",
        outcome="holds" if finished else "undecided",
        reason="" if finished else "the path was stopped before its last stage was done",
        check="stationarity",
        evidence=(*base, "path.npz", "setting.json"),
    )


def _order_claims(
    problem: Table, dag: Dag, fit: OrderFit, variance: Variance, sparsity: float, base: tuple[str, ...]
) -> list[Claim]:
    tolerance = GAP_TOLERANCE * abs(fit.primal)
    closed = fit.gap <= tolerance
    floor = start_levels(problem.covariance, variance)[1]
    noise = noise_levels(residual_variances(problem.covariance, dag.adjacency), variance, floor)
    free = None if problem.knowledge.required is None else ~problem.knowledge.required
    reached = score(problem.covariance, dag.adjacency, noise, sparsity, free)
    evidence = ("answer", *base, "order_fit.npz", "setting.json")
    return [
        Claim(
            name="order_gap",
            statement="For this causal order the convex score was solved: the refitted weights score `value`, and no graph "
            "with this order scores below `bound`. It says nothing about other orders.",
            value=fit.primal,
            relation="<=",
            bound=fit.dual,
            tolerance=tolerance,
            kind="proved",
            outcome="holds" if closed else "fails",
            reason="" if closed else "the duality gap stayed above a millionth of the score",
            check="order_gap",
            evidence=evidence,
        ),
        Claim(
            name="order_suboptimality",
            statement="The score of the graph as returned exceeds that of the best graph with its order by at most this.",
            value=reached - fit.dual,
            kind="proved",
            check="order_suboptimality",
            evidence=evidence,
        ),
    ]


def _distance_claim(truth: Mask, dag: Dag, base: tuple[str, ...]) -> Claim:
    return Claim(
        name="distance",
        statement="Structural Hamming distance to the reference graph given: pairs of variables joined differently, a "
        "reversed edge counting once.",
        value=structural_hamming_distance(dag.adjacency, truth),
        kind="measured",
        check="distance",
        evidence=("answer", *base, "truth.npz"),
    )


def _test_claims(problem: Table, dag: Dag, evidence: dict[str, Any], base: tuple[str, ...]) -> list[Claim]:
    """Excess and both tests; undecided with the reason where they cannot be made."""
    reason = obstacle(problem.covariance, dag.order, problem.rows)
    base = ("answer", *base)
    if reason:
        return [
            Claim(
                name="order_excess",
                statement="Excess of the mean conditional variance over the bound that holds for all orders.",
                value=None,
                kind="proved",
                outcome="undecided",
                reason=reason,
                check="order_excess",
                evidence=base,
            )
        ]
    variances = conditional_variances(problem.covariance, dag.order)
    excess = float(np.mean(variances) / np.exp(np.mean(np.log(variances))) - 1.0)
    claims = [
        Claim(
            name="order_excess",
            statement="The mean conditional variance along this order exceeds det(S)^(1/d), a bound for every order, by this "
            "fraction; under equal noise levels a correct order has an excess near zero.",
            value=excess,
            relation=">=",
            bound=0.0,
            tolerance=1e-12,
            kind="proved",
            check="order_excess",
            evidence=base,
        ),
        _test_claim(
            "order_test_bartlett",
            "Bartlett's statistic for equal conditional variances along this order (Gaussian noise)",
            *bartlett_statistic(variances, problem.rows),
            samples=problem.rows,
            premises=(SIMULTANEOUS, Premise("the noise is Gaussian", "declared")),
            evidence=base,
        ),
    ]
    if problem.values is not None and len(problem.values) > problem.order + 1:
        residuals = order_residuals(problem.values, dag.order)
        evidence["residuals.npz"] = {"sorted": np.sort(residuals, axis=0)}
        claims.append(
            _test_claim(
                "order_test_brown_forsythe",
                "Brown and Forsythe's statistic for equal spread of the residual columns along this order",
                *brown_forsythe_statistic(residuals),
                samples=len(residuals),
                premises=(SIMULTANEOUS,),
                evidence=(*base, "residuals.npz"),
            )
        )
    return claims


def _test_claim(
    name: str,
    what: str,
    statistic: float,
    critical: float,
    *,
    samples: int,
    premises: tuple[Premise, ...],
    evidence: tuple[str, ...],
) -> Claim:
    kept = statistic <= critical
    return Claim(
        name=name,
        statement=f"{what}; up to the bound the order is not refuted at the 1 % level (which does not prove it).",
        value=statistic,
        relation="<=",
        bound=critical,
        kind="statistical",
        outcome="holds" if kept else "fails",
        reason="" if kept else "the order is refuted, or the noise levels are not equal",
        confidence=Confidence(1.0 - LEVEL, name.removeprefix("order_test_"), samples),
        premises=premises,
        check=name,
        evidence=evidence,
    )
