"""Checkers of the claims of `certify.py`, by other algorithms than the solver's.

The solver works on the covariance; here a square root of it (its eigenvectors) stands in for the data, residuals are formed
explicitly, conditional variances come from Gaussian elimination, acyclicity from the causal order and from powers of the
support, and the tests from their textbook sums. The covariance itself is compared with the input where that is at hand, and
with the residual columns otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from surefoot.causal.problem import Dag
from surefoot.causal.verify.algebra import dual_value, eliminated, forward_edges, levels, primal_value, square_root
from surefoot.causal.verify.evidence import Case, EvidenceError, read_answer, read_case, read_matrix, read_setting
from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, NotAtHandError, Verdict, compare, refute

Array = np.ndarray[Any, np.dtype[np.float64]]


def check_covariance(claim: Claim, dossier: Dossier) -> Verdict:
    """The covariance again from the input's rows; without the input there is nothing to compare with."""
    case = read_case(claim, dossier)
    if case.table is None:
        raise NotAtHandError(dossier.notes.pop() if dossier.notes else "the input is not at hand")
    return compare(claim, float(sum(np.diag(case.covariance))), supports="measured")


def check_acyclic(claim: Claim, dossier: Dossier) -> Verdict:
    """Edges against the order, and powers of the support that must die out; required and excluded edges too."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    support = dag.adjacency != 0.0
    forward = forward_edges(dag.order)
    power = support.astype(np.float64)
    for _ in range(int(np.ceil(np.log2(len(support)))) + 1):
        power = ((power @ power + power) > 0.0).astype(np.float64)  # reach of twice the length
    if np.trace(power) > 0.0:
        return refute(claim, "the graph has a cycle")
    if (support & ~case.allowed).any() or (case.required & ~support).any() or (case.before & ~forward).any():
        return refute(claim, "the graph does not keep to the background knowledge")
    return compare(claim, int((support & ~forward).sum()), supports="proved", bound=0)


def check_edges(claim: Claim, dossier: Dossier) -> Verdict:
    """The weights are the path's where an edge was kept, or least squares on the parents after an order repair."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    setting = read_setting(dossier)[2]
    support = dag.adjacency != 0.0
    if setting["refine"] == "none":
        weights = read_matrix(dossier.evidence["path.npz"], "weights", case.covariance.shape)
        kept = support & (abs(dag.adjacency) > np.finfo(np.float64).tiny)
        if (abs(dag.adjacency - weights)[kept] > 1e-12 * abs(weights)[kept]).any():
            return refute(claim, "the graph's weights are not those that the path ended with")
    else:
        data = square_root(case.covariance)
        for j in range(len(support)):
            parents = np.flatnonzero(support[:, j])
            if len(parents):
                fitted = np.linalg.lstsq(data[:, parents], data[:, j], rcond=None)[0]
                if (abs(fitted - dag.adjacency[parents, j]) > 1e-6 * (1.0 + abs(fitted))).any():
                    return refute(claim, f"the weights into {dag.names[j]} are not least squares on its parents")
    return compare(claim, int(support.sum()), supports="measured")


def check_noise(claim: Claim, dossier: Dossier) -> Verdict:
    """The noise levels again from explicit residuals, entry by entry."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    equal, _, setting = read_setting(dossier)
    stored = dossier.evidence["path.npz"]
    weights = read_matrix(stored, "weights", case.covariance.shape)
    data = square_root(case.covariance)
    _, path_noise = levels(data, weights, equal, case.floor)
    given = read_matrix(stored, "noise_std", path_noise.shape)
    if (abs(given - path_noise) > 1e-7 * path_noise).any():
        return refute(claim, "the path's noise levels are not the minimisers at its weights")
    noise = path_noise
    if setting["refine"] == "order":
        _, noise = levels(data, dag.adjacency, equal, case.floor)
    if dag.noise_std.shape != noise.shape or not (abs(dag.noise_std - noise) <= 1e-7 * noise).all():
        return refute(claim, "the answer's noise levels are not the minimisers at its weights")
    return compare(claim, float(np.sqrt((noise**2).mean())), supports="measured", rtol=1e-7)


def check_stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """The gradient again, from explicit residuals and from linear solves instead of an inverse."""
    case = read_case(claim, dossier)
    equal, lam, setting = read_setting(dossier)
    centre, scale = float(setting["centre"]), float(setting["acyclicity_scale"])
    weights = read_matrix(dossier.evidence["path.npz"], "weights", case.covariance.shape)
    data = square_root(case.covariance)
    residual, noise = levels(data, weights, equal, case.floor)
    radius = float(np.abs(np.linalg.eigvals(weights * weights)).max())
    if radius >= scale:
        return refute(claim, f"the spectral radius {radius:.6g} of W o W is not below s = {scale:.6g}")
    identity = np.eye(len(weights))
    resolvent = np.linalg.solve((scale * identity - weights * weights).T, identity)
    gradient = -centre * (data.T @ residual) / noise + 2.0 * weights * resolvent
    penalty = np.where(case.required, 0.0, centre * lam)
    worst = 0.0
    free = case.allowed if setting["self_edges"] else case.allowed & ~np.eye(len(weights), dtype=bool)
    if (weights[~free] != 0.0).any():
        return refute(claim, "the path has weight on edges that are not allowed")
    for i, j in np.argwhere(free):
        slope = gradient[i, j]
        if weights[i, j] != 0.0:
            violation = abs(slope + penalty[i, j] * np.sign(weights[i, j]))
        else:
            violation = max(abs(slope) - penalty[i, j], 0.0)
        worst = max(worst, float(violation))
    value = worst / (centre * (lam if lam > 0.0 else 1.0))
    unfinished = claim.outcome == "undecided"
    noise_floor = 1e-9 * float(np.abs(data.T @ residual).max(initial=1.0)) / (lam or 1.0)
    return compare(claim, value, supports="measured", rtol=1e-6, atol=noise_floor, undecided=unfinished)


def check_order_gap(claim: Claim, dossier: Dossier) -> Verdict:
    """Primal and dual value of the refitted weights over explicit residuals."""
    case = read_case(claim, dossier)
    primal, dual = _certified_optimum(dossier, case)
    tolerance = 1e-6 * abs(primal)
    if not abs(claim.tolerance - tolerance) <= 1e-6 * tolerance:
        return refute(claim, f"the tolerance is {claim.tolerance:.6g}, not a millionth of the score")
    # the two values agree to rounding of the covariance, far inside the tolerance that the claim states
    return compare(claim, primal, supports="proved", bound=dual, rtol=1e-7)


def check_order_suboptimality(claim: Claim, dossier: Dossier) -> Verdict:
    """Score of the graph as returned, less the dual bound."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    equal, lam, _ = read_setting(dossier)
    primal, dual = _certified_optimum(dossier, case)
    data = square_root(case.covariance)
    residual, noise = levels(data, dag.adjacency, equal, case.floor)
    reached = primal_value(residual, noise, dag.adjacency, np.where(case.required, 0.0, lam))
    return compare(claim, reached - dual, supports="proved", rtol=1e-7, atol=1e-7 * abs(primal))


def check_order_excess(claim: Claim, dossier: Dossier) -> Verdict:
    """Conditional variances by elimination; their mean against their geometric mean."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    pivots = eliminated(case.covariance, dag.order)
    singular = len(pivots) < len(case.covariance) or (pivots <= 1e-11 * np.diag(case.covariance)[list(dag.order)]).any()
    if claim.outcome == "undecided" or singular or case.rows <= len(pivots) + 1:
        small = case.rows <= len(case.covariance) + 1
        if claim.outcome == "undecided" and claim.value is None and (small or singular):
            return Verdict(claim.name, "confirmed", None, "the order cannot be tested, as the claim says")
        return refute(claim, "the order can be tested" if not (small or singular) else "the order cannot be tested")
    value = float(pivots.mean() * np.exp(-np.log(pivots).sum() / len(pivots)) - 1.0)
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-6, atol=1e-9)


def check_bartlett(claim: Claim, dossier: Dossier) -> Verdict:
    """Bartlett's statistic from its definition, and its critical value from the incomplete gamma function."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    pivots = eliminated(case.covariance, dag.order)
    count = len(case.covariance)
    if len(pivots) < count or case.rows <= count + 1:
        return refute(claim, "the order cannot be tested: the covariance is singular or there are too few rows")
    freedom = [case.rows - 1.0 - place for place in range(count)]
    spread = [case.rows * v / f for v, f in zip(pivots, freedom, strict=True)]
    total = sum(freedom)
    pooled = sum(f * s for f, s in zip(freedom, spread, strict=True)) / total
    raw = sum(f * np.log(pooled / s) for f, s in zip(freedom, spread, strict=True))
    correction = 1.0 + (sum(1.0 / f for f in freedom) - 1.0 / total) / (3.0 * (count - 1.0))
    critical = 2.0 * float(special.gammainccinv((count - 1.0) / 2.0, 0.01))
    return _tested(claim, float(raw / correction), critical, case.rows)


def check_brown_forsythe(claim: Claim, dossier: Dossier) -> Verdict:
    """The residual columns against covariance or input, then the statistic as an analysis of variance."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    columns = np.asarray(dossier.evidence["residuals.npz"]["sorted"], dtype=np.float64)
    problem = _residual_fault(columns, case, dag)
    if problem:
        return refute(claim, problem)
    rows, count = columns.shape
    scaled = columns * np.sqrt(rows / (rows - 1.0 - np.arange(count)))
    middle = [(column[(rows - 1) // 2] + column[rows // 2]) / 2 for column in scaled.T]
    distance = [np.abs(column - centre) for column, centre in zip(scaled.T, middle, strict=True)]
    means = [float(d.mean()) for d in distance]
    grand = sum(means) / count
    between = rows * sum((m - grand) ** 2 for m in means) / (count - 1.0)
    within = sum(float(((d - m) ** 2).sum()) for d, m in zip(distance, means, strict=True)) / (count * (rows - 1.0))
    critical = float(special.fdtri(count - 1.0, count * (rows - 1.0), 0.99))
    return _tested(claim, between / within, critical, rows)


def check_distance(claim: Claim, dossier: Dossier) -> Verdict:
    """The reference graph against the problem's, then the pairs joined differently, one by one."""
    case = read_case(claim, dossier)
    dag = read_answer(dossier, case)
    truth = np.asarray(dossier.evidence["truth.npz"]["edges"])
    if case.table is None:
        raise NotAtHandError("the reference graph can only be compared with the problem, which is not at hand")
    if case.table.truth is None or not np.array_equal(truth, case.table.truth):
        return refute(claim, "the reference graph is not the problem's")
    different = 0
    for i in range(len(truth)):
        for j in range(i):
            found = (dag.adjacency[i, j] != 0.0, dag.adjacency[j, i] != 0.0)
            different += found != (bool(truth[i, j]), bool(truth[j, i]))
    return compare(claim, different, supports="measured")


def _tested(claim: Claim, statistic: float, critical: float, samples: int) -> Verdict:
    said = claim.confidence
    if said is None or not abs(said.level - 0.99) <= 1e-12 or said.samples != samples:
        return refute(claim, f"the confidence should be 0.99 from {samples} rows")
    return compare(claim, statistic, supports="statistical", bound=critical, rtol=1e-6, atol=1e-9)


def _residual_fault(columns: Array, case: Case, dag: Dag) -> str:
    """What is wrong with the sorted residual columns, or ''."""
    count = len(case.covariance)
    if columns.ndim != 2 or columns.shape[1] != count or len(columns) <= count + 1 or not np.isfinite(columns).all():
        return "the residual columns are not enough finite numbers"
    if (np.diff(columns, axis=0) < 0.0).any():
        return "a residual column is not sorted"
    pivots = eliminated(case.covariance, dag.order)
    spread = (columns**2).mean(axis=0)
    whole = len(columns) == case.rows
    if len(pivots) < count or (abs(spread - pivots) > (1e-6 if whole else 0.3) * pivots).any():
        return "the residual columns do not have the conditional variances of the covariance"
    if (abs(columns.mean(axis=0)) > 1e-9 * np.sqrt(spread) * np.sqrt(len(columns)) + 1e-9).any():
        return "a residual column is not centred"
    if case.table is None or case.table.values is None:
        return ""
    values = case.table.values
    if len(values) != len(columns):
        return f"there are {len(columns)} residual rows, the input gives {len(values)}"
    centred = values - values.mean(axis=0)
    for place in range(count):
        target = centred[:, dag.order[place]]
        if place:
            earlier = centred[:, list(dag.order[:place])]
            target = target - earlier @ np.linalg.lstsq(earlier, target, rcond=None)[0]
        if abs(columns[:, place] - np.sort(target)).max() > 1e-6 * np.sqrt(spread[place]):
            return f"the residuals of {dag.names[dag.order[place]]} are not those of the input"
    return ""


def _certified_optimum(dossier: Dossier, case: Case) -> tuple[float, float]:
    dag = read_answer(dossier, case)
    equal, lam, _ = read_setting(dossier)
    if lam <= 0.0:
        raise EvidenceError("a dual bound needs a positive sparsity")
    stored = dossier.evidence["order_fit.npz"]
    weights = read_matrix(stored, "weights", case.covariance.shape)
    forward = forward_edges(dag.order)
    if ((weights != 0.0) & ~(forward & case.allowed)).any():
        raise EvidenceError("the refitted weights have edges that the order or the knowledge rules out")
    data = square_root(case.covariance)
    residual, noise = levels(data, weights, equal, case.floor)
    given = read_matrix(stored, "noise_std", noise.shape)
    if (abs(given - noise) > 1e-6 * noise).any():
        raise EvidenceError("the refit's noise levels are not the minimisers at its weights")
    penalty = np.where(case.required, 0.0, lam)
    return primal_value(residual, noise, weights, penalty), dual_value(
        data, residual, noise, weights, case, lam, forward
    )


CHECKS: dict[str, Check] = {
    "covariance": check_covariance,
    "acyclic": check_acyclic,
    "edges": check_edges,
    "noise": check_noise,
    "stationarity": check_stationarity,
    "order_gap": check_order_gap,
    "order_suboptimality": check_order_suboptimality,
    "order_excess": check_order_excess,
    "distance": check_distance,
    "order_test_bartlett": check_bartlett,
    "order_test_brown_forsythe": check_brown_forsythe,
}
