"""Checkers of recovered triggers, by other ways than the maker's.

The model is run in float64 where it is a torch module. Norms are summed exactly, Clopper-Pearson bounds come from the root of the
binomial tail, the projection from a multiplier found by bisection, the gradient of the log of a mean from the draws' own gradients
and their weights. Noise is drawn again at its address, and once more at a fresh one to see that the first draw was not a lucky one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.robustness.verify_inversion_case import (
    Case,
    case_of,
    check_confidence,
    check_table,
    decided,
    exact_logits,
    lower_bound,
    require,
)
from surefoot.robustness.verify_inversion_measured import MEASURED_CHECKS

Array = np.ndarray[Any, np.dtype[Any]]
FIRST_DRAWS = 100


# ---- proved --------------------------------------------------------------------------------------------------------


def norm(claim: Claim, dossier: Dossier) -> Verdict:
    """Squares of float32 numbers are exact in float64; their exact sum bounds the norm."""
    case = case_of(dossier)
    norms = np.array(
        [math.sqrt(math.fsum((d.astype(np.float64).ravel() ** 2).tolist())) for d in case.answer.perturbations]
    )
    require(case.answer.perturbations.dtype == np.float32, "the perturbations are not float32")
    require(np.allclose(case.table["norm"], norms, rtol=1e-12, atol=0), "the table's norms are not the answer's")
    radius = float(case.terms["radius"])
    if claim.tolerance > 1e-6 * radius:
        return refute(claim, "the tolerance is wider than one millionth of the budget")
    return compare(claim, float(norms.max()), supports="proved", bound=radius, rtol=1e-12)


def box(claim: Claim, dossier: Dossier) -> Verdict:
    """The entries' own limits, in float64."""
    case = case_of(dossier)
    stored = dossier.evidence["image.npz"]["start"]
    if not np.array_equal(stored, case.problem.images[case.row].cpu().numpy()):
        return refute(claim, "the start image in the evidence is not the problem's")
    worst = 0.0
    for place, row in enumerate(case.answer.starts):
        image = case.problem.images[int(row)].double().cpu().numpy()
        delta = case.answer.perturbations[place].astype(np.float64)
        worst = max(worst, float((-image - delta).max()), float((delta - (1.0 - image)).max()))
    if claim.tolerance > 1e-15:
        return refute(claim, "the tolerance is wider than rounding")
    return compare(claim, worst, supports="proved", bound=0.0, atol=1e-15)


# ---- statistical ---------------------------------------------------------------------------------------------------


def success(claim: Claim, dossier: Dossier) -> Verdict:
    """Recount, then the bound from the binomial tail."""
    case = case_of(dossier)
    check_table(case)
    k, n, before = (int(case.table[name][case.place]) for name in ("successes", "trials", "before"))
    if (
        f"decides class {case.target} " not in claim.statement
        or f"{k} of {n} images, {before} without" not in claim.statement
    ):
        return refute(claim, "the statement's counts are not the table's")
    if claim.kind == "statistical":
        if not case.problem.disjoint:
            return refute(claim, "images that chose something are among the held-out ones")
        check_confidence(claim, case, n)
    value = lower_bound(
        k, n, case.terms["failure_probability"] / (len(case.table["target"]) * int(case.terms["radii"]))
    )
    return compare(claim, value, supports="statistical", rtol=1e-6, atol=1e-9)


def no_trigger_within(claim: Claim, dossier: Dossier) -> Verdict:
    """Votes counted again on the same noise, in float64."""
    case = case_of(dossier)
    found = dossier.evidence["negative.csv"]
    terms, logits = case.terms, exact_logits(case.problem.classifier)
    levels = found["noise_std"]
    require(
        len(levels) and (levels > 0) & np.isfinite(levels) & (np.diff(levels, prepend=0) > 0),
        "the noise levels do not increase",
    )
    check_confidence(claim, case, int(terms["draws"]))
    radii = []
    for place, sigma in enumerate(levels):
        first = _votes(case, logits, case.draw("negative-top", FIRST_DRAWS, place), float(sigma))
        votes = _votes(case, logits, case.draw("negative-votes", int(terms["draws"]), place), float(sigma))
        top = int(found["decision"][place])
        require(first[1][top] >= first[0].max(), f"the first draws at noise {sigma:g} do not favour class {top}")
        require(
            votes[0][top] <= found["votes"][place] <= votes[1][top],
            f"class {top} has {votes[0][top]} votes at noise {sigma:g}",
        )
        p = lower_bound(int(found["votes"][place]), int(terms["draws"]), terms["failure_probability"] / len(levels))
        radius = float(sigma) * stats.norm.ppf(p) if p > 0.5 else 0.0
        require(
            np.allclose(
                [float(found["lower"][place]), float(found["radius"][place])], [p, float(radius)], rtol=1e-6, atol=1e-9
            ),
            "another radius",
        )
        radii.append(radius)
    best = int(np.argmax(radii))
    if f"start image {case.row}, class {int(found['decision'][best])}." not in claim.statement:
        return refute(claim, "the statement names another image or class")
    enough = radii[best] >= float(terms["radius"])
    return compare(
        claim,
        radii[best],
        supports="statistical",
        bound=float(terms["radius"]),
        rtol=1e-6,
        atol=1e-9,
        undecided=not enough,
    )


def _votes(case: Case, logits: Any, z: Tensor, sigma: float) -> tuple[Array, Array]:
    """Sure and possible votes of every class."""
    classes = case.problem.classifier.classes
    sure, maybe = np.zeros(classes, dtype=int), np.zeros(classes, dtype=int)
    with torch.no_grad():
        for part in case.noisy(case.image, z, sigma):
            output = logits(part)
            for c in range(classes):
                certain, possible = decided(output, c)
                sure[c] += certain.sum()
                maybe[c] += possible.sum()
    return sure, maybe


CHECKS: dict[str, Check] = {
    "norm": norm, "box": box, "success": success, "no-trigger-within": no_trigger_within, **MEASURED_CHECKS,
}  # fmt: skip
