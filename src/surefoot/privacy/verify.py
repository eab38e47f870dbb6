"""Checking a private run's account again from its ledger, without the data and without the closed forms.

Ledgers of full releases are checked by integrating the hockey-stick divergence of two Gaussians; ledgers with sampled
records by dp-accounting's accountant at another discretisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import special

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, NotAtHandError, Verdict, compare, refute

AGREE = 1e-6
"""Relative agreement asked of epsilon and delta."""


@dataclass(frozen=True)
class _Row:
    multiplier: float
    sampling: float
    part: int
    number: int


def checks() -> Mapping[str, Check]:
    """The checkers that every private card shares."""
    return {"privacy": check_privacy, "privacy_curve": check_curve, "gaussian_dp": check_mu}


def _rows(tree: Mapping[str, Any]) -> list[_Row]:
    rows = [
        _Row(float(e["noise_multiplier"]), float(e["sampling"]), int(e["part"]), int(e["number"]))
        for e in tree["entries"]
    ]
    for row in rows:
        if not (0.0 < row.multiplier < math.inf and 0.0 < row.sampling <= 1.0 and row.number >= 1 and row.part >= -1):
            raise ValueError(f"the ledger has the entry {row}")
    return rows


def _reach(tree: Mapping[str, Any]) -> int:
    return {"replace": 2, "add-remove": 1}[tree["neighbours"]]


def _by_part(rows: list[_Row]) -> list[list[_Row]]:
    parts = {row.part for row in rows} - {-1}
    return [[row for row in rows if row.part in (-1, part)] for part in sorted(parts)] or [rows]


def _mu(tree: Mapping[str, Any]) -> float:
    """mu of the worst part, its square summed in rationals."""
    squares = [
        sum((row.number * (_reach(tree) / Fraction(row.multiplier)) ** 2 for row in part), Fraction(0))
        for part in _by_part(_rows(tree))
    ]
    return math.sqrt(max(squares))


def _gaussian_delta(mu: float, epsilon: float) -> float:
    """`int max(0, phi(x - mu) - e^eps phi(x)) dx`: Gauss-Legendre panels from where the integrand becomes positive."""
    if mu == 0.0:
        return 0.0
    start = epsilon / mu + mu / 2.0
    nodes, weights = np.polynomial.legendre.leggauss(40)
    # past the start the integrand has the scale of the Gaussian's tail there
    scale = 1.0 / max(1.0, start - mu)
    edges = start + scale * np.concatenate(([0.0], np.geomspace(0.05, 60.0, 40)))
    half = np.diff(edges)[:, None] / 2.0
    x = edges[:-1, None] + half * (nodes[None, :] + 1.0)
    log_first = -0.5 * (x - mu) ** 2
    value = np.exp(log_first) * -np.expm1(epsilon - 0.5 * x**2 - log_first)
    return float((half * weights[None, :] * value).sum() / math.sqrt(2.0 * math.pi))


def _sampled(tree: Mapping[str, Any]) -> Any:
    """(delta, epsilon) functions of the worst part by dp-accounting, twice as coarse as the certificate's."""
    try:
        import dp_accounting
        from dp_accounting.pld import pld_privacy_accountant
    except ImportError as error:
        raise NotAtHandError(
            "a ledger with sampled records is checked with dp-accounting: pip install 'surefoot[privacy]'"
        ) from error
    library: Any = dp_accounting
    relations = library.NeighboringRelation
    relation = relations.REPLACE_ONE if _reach(tree) == 2 else relations.ADD_OR_REMOVE_ONE
    accountants = []
    for part in _by_part(_rows(tree)):
        accountant: Any = pld_privacy_accountant.PLDAccountant(relation, 2e-4)
        for row in part:
            event = library.GaussianDpEvent(row.multiplier)
            event = event if row.sampling == 1.0 else library.PoissonSampledDpEvent(row.sampling, event)
            accountant.compose(library.SelfComposedDpEvent(event, row.number))
        accountants.append(accountant)
    return accountants


def _deltas(tree: Mapping[str, Any], epsilons: np.ndarray) -> np.ndarray:
    if all(row.sampling == 1.0 for row in _rows(tree)):
        mu = _mu(tree)
        return np.array([_gaussian_delta(mu, float(e)) for e in epsilons])
    accountants = _sampled(tree)
    return np.array([max(float(a.get_delta(float(e))) for a in accountants) for e in epsilons])


def _tolerances(tree: Mapping[str, Any]) -> tuple[float, float]:
    """Relative and absolute; dp-accounting cuts tails off at 1e-15 and rounds losses to its grid."""
    return (AGREE, 1e-14) if all(row.sampling == 1.0 for row in _rows(tree)) else (1e-3, 1e-12)


def check_privacy(claim: Claim, dossier: Dossier) -> Verdict:
    """delta at the claimed epsilon is the budget's delta, and just below it is more."""
    tree = dossier.evidence["ledger.json"]
    if tree["not_private"]:
        return compare(claim, 1.0, supports="proved", bound=0.0)
    epsilon, delta, slack = float(claim.value), float(tree["delta"]), _tolerances(tree)[0]  # pyright: ignore[reportArgumentType]
    at, above, below = _deltas(tree, np.array([epsilon, epsilon * (1 + slack), epsilon * (1 - slack)]))
    if not (at <= delta if epsilon == 0.0 else above <= delta <= below):
        return refute(claim, f"delta({epsilon:.6g}) is {at:.6g}, not {delta:g}")
    return compare(claim, epsilon, supports="proved", bound=float(tree["epsilon"]))


def check_curve(claim: Claim, dossier: Dossier) -> Verdict:
    """Every row of the curve, and the row at the budget's epsilon is the claim's value."""
    tree, curve = dossier.evidence["ledger.json"], dossier.evidence["privacy_curve.csv"]
    epsilons, stated = np.asarray(curve["epsilon"], dtype=np.float64), np.asarray(curve["delta"], dtype=np.float64)
    if not (epsilons.size and (np.diff(epsilons) > 0).all() and (epsilons >= 0).all()):
        return refute(claim, "the epsilons of the curve do not increase")
    found, (slack, floor) = _deltas(tree, epsilons), _tolerances(tree)
    wrong = ~(np.abs(stated - found) <= slack * np.maximum(stated, found) + floor)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        return refute(claim, f"delta({epsilons[row]:g}) is {found[row]:.6g}, not {stated[row]:.6g}")
    at = np.flatnonzero(epsilons == float(tree["epsilon"]))
    if at.size != 1:
        return refute(claim, "the curve has no point at the budget's epsilon")
    # accounts of sampled ledgers agree up to their grids; within that the stated number decides
    return compare(claim, float(stated[at[0]]), supports="proved", bound=float(tree["delta"]), rtol=slack, atol=floor)


def check_mu(claim: Claim, dossier: Dossier) -> Verdict:
    """The root of the summed squared ratios, in rationals."""
    tree = dossier.evidence["ledger.json"]
    if any(row.sampling != 1.0 for row in _rows(tree)):
        return refute(claim, "records were sampled, so the run is not Gaussian DP")
    return compare(claim, _mu(tree), supports="proved")


# ---- final queries ------------------------------------------------------------------------------------------
def below(square: float, dim: int, noncentrality: float) -> float:
    """`P(|z + sqrt(noncentrality) e|^2 <= square)`: Poisson weights of central chi-square probabilities, summed."""
    half = noncentrality / 2.0
    spread = 12.0 * math.sqrt(half + 1.0) + 30.0
    j = np.arange(max(0.0, math.floor(half - spread)), half + spread + 1.0)
    weights = np.exp(special.xlogy(j, half) - half - special.gammaln(j + 1.0))
    return float(weights @ special.gammainc(dim / 2.0 + j, square / 2.0))


def is_bound(bound: float, norm: float, std: float, dim: int, level: float) -> bool:
    """Whether `bound` is the norm at which the released one, `norm`, has probability `level` of being so small."""
    square = (norm / std) ** 2
    if not (bound >= 0.0 and math.isfinite(square)):
        return False
    if bound == 0.0:
        return below(square, dim, 0.0) <= level
    lam = (bound / std) ** 2
    return below(square, dim, lam * (1 + 1e-7)) <= level <= below(square, dim, lam * (1 - 1e-7)) + 1e-12
