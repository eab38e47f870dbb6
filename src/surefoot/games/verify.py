"""Checkers of games, by subject: `verify_region` (derivatives, cells, bounds), `verify_steps` (norms, weights, steps), `verify_metrics` (further norms),
`verify_point` (strategies found), `verify_finite` and `verify_nash` (payoff tables), `verify_markov` (Markov games)."""

from __future__ import annotations

from collections.abc import Mapping

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, unchecked
from surefoot.games.verify_finite import FINITE_CHECKS
from surefoot.games.verify_markov import MARKOV_CHECKS
from surefoot.games.verify_metrics import METRIC_CHECKS
from surefoot.games.verify_nash import NASH_CHECKS
from surefoot.games.verify_point import POINT_CHECKS
from surefoot.games.verify_region import REGION_CHECKS
from surefoot.games.verify_steps import STEP_CHECKS


def nothing(claim: Claim, dossier: Dossier) -> Verdict:
    """A claim that could not be made, said as such; there is nothing to derive again, but it may not claim anything."""
    if claim.outcome == "undecided" and claim.value is None and claim.reason:
        return Verdict(claim.name, "confirmed", None, f"nothing is claimed: {claim.reason}")
    return unchecked(claim, "a claim without evidence")


CHECKS: Mapping[str, Check] = {
    "nothing": nothing, **REGION_CHECKS, **STEP_CHECKS, **METRIC_CHECKS, **POINT_CHECKS, **FINITE_CHECKS, **NASH_CHECKS, **MARKOV_CHECKS,
}  # fmt: skip
