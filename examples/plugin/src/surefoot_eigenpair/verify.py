"""The checkers: every number again, with other arithmetic than the solver's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot_eigenpair.problem import SHRINKS, Array, Eigenpair, Symmetric, allowance


def residual(claim: Claim, dossier: Dossier) -> Verdict:
    """The residual with correctly rounded sums of exact products instead of the solver's dot products."""
    problem: Symmetric = dossier.problem
    pair: Eigenpair = dossier.answer
    if not _fits(problem, pair):
        return refute(claim, "the answer is not a finite vector of the matrix's size and of unit length")
    rounding = allowance(len(pair.vector)) * problem.norm
    exact = exact_residual(problem.matrix, pair)
    if claim.value < exact * (1 - 1e-12):
        return refute(
            claim, f"the residual is {exact:.6g}, more than the claimed {claim.value:.6g}: the bound proves nothing"
        )
    return compare(
        claim, exact + rounding, supports="proved", bound=problem.accuracy * problem.norm, rtol=1e-12, atol=2 * rounding
    )


def largest(claim: Claim, dossier: Dossier) -> Verdict:
    """The bounds from the eigenvalues of the deflated matrix (LAPACK) instead of from its powers."""
    problem: Symmetric = dossier.problem
    pair: Eigenpair = dossier.answer
    if not _fits(problem, pair):
        return refute(claim, "the answer is not a finite vector of the matrix's size and of unit length")
    size = len(pair.vector)
    rounding = allowance(size) * problem.norm
    deflated = problem.matrix - (pair.value * pair.vector)[:, None] * pair.vector[None, :]
    squares = np.sort(np.linalg.eigvalsh(deflated) ** 2)
    stored = dossier.evidence["bounds.npz"]
    frobenius = np.asarray(stored["frobenius"], dtype=np.float64)
    if frobenius.ndim != 1 or not 1 <= len(frobenius) <= 9:
        return refute(claim, "the evidence holds no list of one to nine Frobenius bounds")
    again = np.array([_power_mean(squares, 2**j) for j in range(len(frobenius))])
    discs = max(math.fsum(row) for row in np.abs(deflated).tolist())
    slack = 2 * size**0.5 * rounding
    # A bound may exceed the exact number by the solver's allowance for rounding, which each squaring enlarges.
    if not (np.all(frobenius >= again - slack) and np.allclose(frobenius, again, rtol=1e-6, atol=slack)):
        return refute(claim, "the Frobenius bounds in the evidence are not those of A - theta v v'")
    if not np.allclose(np.asarray(stored["gershgorin"]), discs, rtol=1e-12, atol=slack):
        return refute(claim, "the Gershgorin bound in the evidence is not that of A - theta v v'")
    spectrum = np.abs(np.linalg.eigvalsh(problem.matrix))
    if int((spectrum > claim.value + slack).sum()) > 1:
        return refute(claim, f"more than one eigenvalue exceeds the claimed {claim.value:.6g}")
    gap = exact_residual(problem.matrix, pair) + rounding
    value = min(float(again.min()), discs) + 4 * gap
    bound = max(abs(pair.value) - 2 * gap, 0.0)
    if claim.value < value - 10 * slack:
        return refute(
            claim, f"the bound on the other eigenvalues is {value:.6g}, more than the claimed {claim.value:.6g}"
        )
    undecided = not claim.value <= bound
    return compare(claim, value, supports="proved", bound=bound, undecided=undecided, rtol=1e-6, atol=10 * slack)


def rate(claim: Claim, dossier: Dossier) -> Verdict:
    """Run the recurrence again from the stored start, as two unscaled terms with a common factor."""
    problem: Symmetric = dossier.problem
    pair: Eigenpair = dossier.answer
    stored = dossier.evidence["iterations.npz"]
    start = np.asarray(stored["start"], dtype=np.float64)
    claimed = np.asarray(stored["residual"], dtype=np.float64)
    momentum = float(np.asarray(stored["momentum"]))
    if start.shape != (len(problem.matrix),) or claimed.ndim != 1 or abs(float(start @ start) - 1) > 1e-12:
        return refute(claim, "the start in the evidence is not a unit vector of the matrix's size")
    if not _fits(problem, pair):
        return refute(claim, "the answer is not a finite vector of the matrix's size and of unit length")
    again, end = replay(problem.matrix, start, momentum, len(claimed))
    close = 1e-10 * problem.norm
    if not np.allclose(claimed, again, rtol=1e-6, atol=close):
        return refute(claim, "the residuals in the evidence are not those of the iteration from the stored start")
    if np.abs(end - pair.vector).max() > 1e-6:
        return refute(claim, "the iteration from the stored start does not end at the answer")
    half = len(claimed) // 2
    if len(claimed) < 3 or not claimed[half] > 0:
        return compare(claim, 1.0, supports="measured", bound=SHRINKS, undecided=True, rtol=1e-12, atol=0.0)
    logs = (math.log(claimed[-1]) - math.log(claimed[half])) if claimed[-1] > 0 else -math.inf
    value = math.exp(logs / (len(claimed) - 1 - half))
    return compare(claim, value, supports="measured", bound=SHRINKS, rtol=1e-9, atol=1e-12)


def exact_residual(matrix: Array, pair: Eigenpair) -> float:
    """|A v - theta v| / |v|, each component rounded once: products split by Dekker, sums by math.fsum."""
    components = []
    for index, row in enumerate(matrix):
        high, low = _product(row, pair.vector)
        top, rest = _product(np.array([-pair.value]), pair.vector[index : index + 1])
        components.append(math.fsum([*high.tolist(), *low.tolist(), float(top[0]), float(rest[0])]))
    return math.hypot(*components) / math.hypot(*pair.vector.tolist())


def replay(matrix: Array, start: Array, momentum: float, count: int) -> tuple[Array, Array]:
    """The residuals of the first `count` iterates from `start`, and the last of these iterates."""
    older, newer = np.zeros_like(start), start.copy()
    found = np.zeros(count)
    for k in range(count):
        image = matrix @ newer
        square = float(newer @ newer)
        theta = float(newer @ image) / square
        found[k] = math.sqrt(float(((image - theta * newer) ** 2).sum()) / square)
        if k + 1 < count:
            older, newer = newer, image - momentum * older
            factor = 2.0 ** -math.frexp(float(np.abs(newer).max()))[1]
            older, newer = older * factor, newer * factor
    return found, newer / math.sqrt(float(newer @ newer))


def _fits(problem: Symmetric, pair: Eigenpair) -> bool:
    vector = np.asarray(pair.vector)
    if vector.shape != (len(problem.matrix),) or not np.isfinite(vector).all() or not math.isfinite(pair.value):
        return False
    return abs(math.hypot(*vector.tolist()) - 1) <= allowance(len(vector))


def _power_mean(squares: Array, power: int) -> float:
    """(sum of squares^power)^(1 / (2 power)), without overflow."""
    top = float(squares[-1])
    return math.sqrt(top) * math.fsum(((squares / top) ** power).tolist()) ** (0.5 / power) if top > 0 else 0.0


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b as an unevaluated sum of two doubles."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _split(a: Array) -> tuple[Array, Array]:
    scaled = 134217729.0 * a  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


CHECKS: Mapping[str, Callable[[Claim, Dossier], Verdict]] = {"residual": residual, "largest": largest, "rate": rate}
