"""Checkers of the claims of `certify.py`, by other algorithms than the solver's.

The solver works on the covariance; here a square root of it (its eigenvectors) stands in for the data, residuals are formed
explicitly, conditional variances come from Gaussian elimination, acyclicity from the causal order and from powers of the
support, and the tests from their textbook sums. The covariance itself is compared with the input where that is at hand, and
with the residual columns otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from surefoot.causal.problem import Dag, Table
from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, NotAtHandError, Verdict, compare, refute

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the input."""


@dataclass(frozen=True, eq=False)
class _Case:
    """Everything a checker reads, already held against each other."""

    covariance: Array
    rows: int
    table: Table | None
    allowed: Mask
    required: Mask
    before: Mask

    @property
    def floor(self) -> float:
        return 0.01 * float(np.sqrt(np.diag(self.covariance)).min())


# ---- reading -------------------------------------------------------------------------------------------------


def _case(claim: Claim, dossier: Dossier) -> _Case:
    stored = dossier.evidence["covariance.npz"]
    covariance, rows = np.asarray(stored["covariance"], dtype=np.float64), int(np.asarray(stored["rows"]).item())
    order = len(covariance)
    if covariance.shape != (order, order) or order < 2 or not np.isfinite(covariance).all() or rows < 2:
        raise EvidenceError("the covariance is not a square matrix of finite numbers from at least two rows")
    if np.abs(covariance - covariance.T).max() > 1e-12 * np.abs(covariance).max():
        raise EvidenceError("the covariance is not symmetric")
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -1e-10 * values[-1] or np.diag(covariance).min() <= 0.0:
        raise EvidenceError("the covariance is not positive semidefinite")
    try:
        table: Table | None = dossier.problem
    except NotAtHandError as error:
        table = None
        dossier.notes.append(f"the covariance was not compared with the input: {error}")
    if table is not None:
        _compare_with_input(covariance, rows, table)
    return _Case(covariance, rows, table, *_masks(claim, dossier, order, table))


def _compare_with_input(covariance: Array, rows: int, table: Table) -> None:
    if rows != table.rows:
        raise EvidenceError(f"the evidence counts {rows} rows, the input has {table.rows}")
    scale = np.sqrt(np.outer(np.diag(table.covariance), np.diag(table.covariance)))
    expected = table.covariance
    if table.values is not None and len(table.values) == table.rows:
        expected = np.cov(table.values, rowvar=False, bias=True)
    if covariance.shape != expected.shape or np.abs(covariance - expected).max(initial=0.0) > 1e-8 * scale.max():
        raise EvidenceError("the covariance is not that of the input")
    if (np.abs(covariance - expected) > 1e-7 * scale).any():
        raise EvidenceError("the covariance is not that of the input")


def _masks(claim: Claim, dossier: Dossier, order: int, table: Table | None) -> tuple[Mask, Mask, Mask]:
    nothing = np.zeros((order, order), dtype=bool)
    if "knowledge.npz" not in claim.evidence:
        if table is not None and table.knowledge.allowed is not None:
            raise EvidenceError("the background knowledge of the problem is missing from the evidence")
        return ~nothing, nothing, nothing
    if table is None:
        raise NotAtHandError("the background knowledge can only be compared with the problem, which is not at hand")
    stored, known = dossier.evidence["knowledge.npz"], table.knowledge
    expected = {"allowed": known.allowed, "required": known.required, "before": known.before}
    for name, mask in expected.items():
        if not np.array_equal(np.asarray(stored[name]), nothing if mask is None else mask):
            raise EvidenceError(f"the mask {name!r} is not the problem's")
    return tuple(np.asarray(stored[name], dtype=bool) for name in expected)  # type: ignore[return-value]


def _matrix(stored: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    array = np.asarray(stored[name], dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise EvidenceError(f"{name!r} is not {' x '.join(map(str, shape))} finite numbers")
    return array


def _setting(dossier: Dossier) -> tuple[bool, float, dict[str, Any]]:
    """Whether noise is equal, the sparsity, and the rest."""
    setting = dict(dossier.evidence["setting.json"])
    if setting["variance"] not in ("equal", "unequal") or setting["refine"] not in ("none", "order"):
        raise EvidenceError("the setting names an unknown variance model or refinement")
    if not isinstance(setting["self_edges"], bool):
        raise EvidenceError("the setting does not say whether the path allowed self-edges")
    for name in ("sparsity", "centre", "acyclicity_scale"):
        if isinstance(setting[name], bool) or not np.isfinite(float(setting[name])) or float(setting[name]) < 0.0:
            raise EvidenceError(f"the setting's {name} is not a number >= 0")
    return setting["variance"] == "equal", float(setting["sparsity"]), setting


def _answer(dossier: Dossier, case: _Case) -> Dag:
    dag = dossier.answer
    order = len(case.covariance)
    if dag.adjacency.shape != (order, order) or not np.isfinite(dag.adjacency).all():
        raise EvidenceError("the graph is not a square matrix of finite numbers of the covariance's order")
    if sorted(dag.order) != list(range(order)):
        raise EvidenceError("the causal order does not list every variable once")
    if case.table is not None and tuple(dag.names) != case.table.names:
        raise EvidenceError("the graph's variables are not the input's columns")
    return dag


# ---- the arithmetic, over a square root of the covariance ----------------------------------------------------


def _square_root(covariance: Array) -> Array:
    """Y with Y'Y = S, standing in for the data divided by sqrt(n)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def _levels(data: Array, weights: Array, equal: bool, floor: float) -> tuple[Array, Array]:
    """Residual vectors and the noise levels that minimise the score at `weights`."""
    residual = np.column_stack([data[:, j] - data @ weights[:, j] for j in range(data.shape[1])])
    squares = (residual**2).sum(axis=0)
    level = np.array([squares.mean()]) if equal else squares
    return residual, np.maximum(np.sqrt(level), floor)


def _primal(residual: Array, noise: Array, weights: Array, penalty: Array) -> float:
    squares = (residual**2).sum(axis=0)
    levels = np.broadcast_to(noise, squares.shape)
    return float(sum(s / (2 * v) + v / 2 for s, v in zip(squares, levels, strict=True)) + (penalty * abs(weights)).sum())


def _dual(data: Array, residual: Array, noise: Array, weights: Array, case: _Case, lam: float, forward: Mask) -> float:
    """Dual value of the scaled residuals: with theta in units of 1/(n lam), the sheet's formula in these units.

    A dual point is V with |x_i'V_j| <= lam on allowed penalised edges, and ||V_j|| <= 1 (unequal) or ||V||_F <= sqrt(d);
    its value is <X, V> + floor/2 (d - ||V||^2). Where an edge bears no penalty, x_i'V_j must vanish, so V_j is projected.
    """
    equal, floor = len(noise) == 1, case.floor
    columns: list[Array] = []
    ratios: list[float] = []
    for j in range(data.shape[1]):
        allowed = np.flatnonzero(forward[:, j] & case.allowed[:, j])
        vector = residual[:, j] / (noise[0] if equal else noise[j])
        free = [i for i in allowed if case.required[i, j]]
        if free:
            basis = np.linalg.qr(data[:, free])[0]
            vector = vector - basis @ (basis.T @ vector)
        bound = [i for i in allowed if not case.required[i, j]]
        pull = np.abs(data[:, bound].T @ vector).max(initial=0.0)
        columns.append(vector)
        ratios.append(max(float(pull) / lam, 0.0 if equal else float(np.linalg.norm(vector)), 1.0))
    dual = np.column_stack(columns)
    if equal:
        shrink = max(*ratios, float(np.linalg.norm(dual)) / np.sqrt(dual.shape[1]))
        dual = dual / shrink
    else:
        dual = dual / np.array(ratios)
    return float((data * dual).sum() + floor / 2 * (dual.shape[1] - (dual**2).sum()))


def _eliminated(covariance: Array, order: tuple[int, ...]) -> Array:
    """Conditional variances along the order by Gaussian elimination, pivot by pivot."""
    work = covariance[np.ix_(order, order)].copy()
    pivots = np.empty(len(work))
    for k in range(len(work)):
        pivots[k] = work[k, k]
        if pivots[k] <= 0.0:
            return pivots[: k + 1]
        work[k + 1 :, k + 1 :] -= work[k + 1 :, k : k + 1] * work[k : k + 1, k + 1 :] / pivots[k]
    return pivots


# ---- the checkers --------------------------------------------------------------------------------------------


def check_acyclic(claim: Claim, dossier: Dossier) -> Verdict:
    """Edges against the order, and powers of the support that must die out; required and excluded edges too."""
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    support = dag.adjacency != 0.0
    forward = _forward(dag.order)
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
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    setting = _setting(dossier)[2]
    support = dag.adjacency != 0.0
    if setting["refine"] == "none":
        weights = _matrix(dossier.evidence["path.npz"], "weights", case.covariance.shape)
        kept = support & (abs(dag.adjacency) > np.finfo(np.float64).tiny)
        if (abs(dag.adjacency - weights)[kept] > 1e-12 * abs(weights)[kept]).any():
            return refute(claim, "the graph's weights are not those that the path ended with")
    else:
        data = _square_root(case.covariance)
        for j in range(len(support)):
            parents = np.flatnonzero(support[:, j])
            if len(parents):
                fitted = np.linalg.lstsq(data[:, parents], data[:, j], rcond=None)[0]
                if (abs(fitted - dag.adjacency[parents, j]) > 1e-6 * (1.0 + abs(fitted))).any():
                    return refute(claim, f"the weights into {dag.names[j]} are not least squares on its parents")
    return compare(claim, int(support.sum()), supports="measured")


def check_noise(claim: Claim, dossier: Dossier) -> Verdict:
    """The noise levels again from explicit residuals, entry by entry."""
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    equal, _, setting = _setting(dossier)
    stored = dossier.evidence["path.npz"]
    weights = _matrix(stored, "weights", case.covariance.shape)
    data = _square_root(case.covariance)
    _, path_noise = _levels(data, weights, equal, case.floor)
    given = _matrix(stored, "noise_std", path_noise.shape)
    if (abs(given - path_noise) > 1e-7 * path_noise).any():
        return refute(claim, "the path's noise levels are not the minimisers at its weights")
    noise = path_noise
    if setting["refine"] == "order":
        _, noise = _levels(data, dag.adjacency, equal, case.floor)
    if dag.noise_std.shape != noise.shape or not (abs(dag.noise_std - noise) <= 1e-7 * noise).all():
        return refute(claim, "the answer's noise levels are not the minimisers at its weights")
    return compare(claim, float(np.sqrt((noise**2).mean())), supports="measured", rtol=1e-7)


def check_stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """The gradient again, from explicit residuals and from linear solves instead of an inverse."""
    case = _case(claim, dossier)
    equal, lam, setting = _setting(dossier)
    centre, scale = float(setting["centre"]), float(setting["acyclicity_scale"])
    weights = _matrix(dossier.evidence["path.npz"], "weights", case.covariance.shape)
    data = _square_root(case.covariance)
    residual, noise = _levels(data, weights, equal, case.floor)
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
    case = _case(claim, dossier)
    primal, dual = _certified_optimum(dossier, case)
    tolerance = 1e-6 * abs(primal)
    if not abs(claim.tolerance - tolerance) <= 1e-6 * tolerance:
        return refute(claim, f"the tolerance is {claim.tolerance:.6g}, not a millionth of the score")
    # the two values agree to rounding of the covariance, far inside the tolerance that the claim states
    return compare(claim, primal, supports="proved", bound=dual, rtol=1e-7)


def check_order_suboptimality(claim: Claim, dossier: Dossier) -> Verdict:
    """Score of the graph as returned, less the dual bound."""
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    equal, lam, _ = _setting(dossier)
    primal, dual = _certified_optimum(dossier, case)
    data = _square_root(case.covariance)
    residual, noise = _levels(data, dag.adjacency, equal, case.floor)
    reached = _primal(residual, noise, dag.adjacency, np.where(case.required, 0.0, lam))
    return compare(claim, reached - dual, supports="proved", rtol=1e-7, atol=1e-7 * abs(primal))


def check_order_excess(claim: Claim, dossier: Dossier) -> Verdict:
    """Conditional variances by elimination; their mean against their geometric mean."""
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    pivots = _eliminated(case.covariance, dag.order)
    singular = len(pivots) < len(case.covariance) or (
        pivots <= 1e-11 * np.diag(case.covariance)[list(dag.order)]
    ).any()
    if claim.outcome == "undecided" or singular or case.rows <= len(pivots) + 1:
        small = case.rows <= len(case.covariance) + 1
        if claim.outcome == "undecided" and claim.value is None and (small or singular):
            return Verdict(claim.name, "confirmed", None, "the order cannot be tested, as the claim says")
        return refute(claim, "the order can be tested" if not (small or singular) else "the order cannot be tested")
    value = float(pivots.mean() * np.exp(-np.log(pivots).sum() / len(pivots)) - 1.0)
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-6, atol=1e-9)


def check_bartlett(claim: Claim, dossier: Dossier) -> Verdict:
    """Bartlett's statistic from its definition, and its critical value from the incomplete gamma function."""
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
    pivots = _eliminated(case.covariance, dag.order)
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
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
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
    case = _case(claim, dossier)
    dag = _answer(dossier, case)
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


def _residual_fault(columns: Array, case: _Case, dag: Dag) -> str:
    """What is wrong with the sorted residual columns, or ''."""
    count = len(case.covariance)
    if columns.ndim != 2 or columns.shape[1] != count or len(columns) <= count + 1 or not np.isfinite(columns).all():
        return "the residual columns are not enough finite numbers"
    if (np.diff(columns, axis=0) < 0.0).any():
        return "a residual column is not sorted"
    pivots = _eliminated(case.covariance, dag.order)
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


def _certified_optimum(dossier: Dossier, case: _Case) -> tuple[float, float]:
    dag = _answer(dossier, case)
    equal, lam, _ = _setting(dossier)
    if lam <= 0.0:
        raise EvidenceError("a dual bound needs a positive sparsity")
    stored = dossier.evidence["order_fit.npz"]
    weights = _matrix(stored, "weights", case.covariance.shape)
    forward = _forward(dag.order)
    if ((weights != 0.0) & ~(forward & case.allowed)).any():
        raise EvidenceError("the refitted weights have edges that the order or the knowledge rules out")
    data = _square_root(case.covariance)
    residual, noise = _levels(data, weights, equal, case.floor)
    given = _matrix(stored, "noise_std", noise.shape)
    if (abs(given - noise) > 1e-6 * noise).any():
        raise EvidenceError("the refit's noise levels are not the minimisers at its weights")
    penalty = np.where(case.required, 0.0, lam)
    return _primal(residual, noise, weights, penalty), _dual(data, residual, noise, weights, case, lam, forward)


def _forward(order: tuple[int, ...]) -> Mask:
    place = {node: k for k, node in enumerate(order)}
    return np.array([[place[i] < place[j] for j in range(len(order))] for i in range(len(order))])


CHECKS: dict[str, Check] = {
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
