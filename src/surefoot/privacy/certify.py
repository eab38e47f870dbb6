"""Claims about what a private run cost, made from its ledger alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.certificate import Claim, Kind, Premise, capped
from surefoot.privacy.ledger import Ledger, ledger_tree

CURVE = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
"""Where delta(epsilon) is written down; a point at the budget's own epsilon is added."""


def privacy_claims(
    ledger: Ledger, *, not_private: bool, record_bound: Premise, unit: str = "record"
) -> tuple[list[Claim], dict[str, Any]]:
    """The account of a run and its evidence (`ledger.json`, `privacy_curve.csv`).

    Args:
        not_private: the noise came from a fixed seed, so nothing is hidden; the account then fails.
        record_bound: how it is known that one record contributes no more than the ledger says (clipping: exact).
        unit: what is protected ("record", "person-year").
    """
    budget, account = ledger.budget, ledger.spent()
    epsilon = account.epsilon(budget.delta)
    epsilons = sorted({*CURVE, budget.epsilon})
    deltas = account.curve(epsilons)
    changed = "replaced by any other" if budget.neighbours == "replace" else "added or left out"
    premises = (
        record_bound,
        Premise("ratios of noise to one record's share were fixed before the data were seen"),
        Premise("rounding of the Gaussian noise to floating point gives nothing away", "declared"),
    )
    kind: Kind = capped("proved", premises)
    within = epsilon <= budget.epsilon * (1 + 1e-9)
    failed = "a fixed seed was used: whoever knows it subtracts the noise" if not_private else "the budget was exceeded"
    outcome = "holds" if within and not not_private else "fails"
    shared: dict[str, Any] = {"kind": kind, "scope": "probability", "premises": premises}
    claims = [
        Claim(
            name="privacy",
            statement=(
                f"All that was released is ({epsilon:.6g}, {budget.delta:g})-differentially private, one {unit} {changed}"
                + (", if the seed had been secret." if not_private else ".")
            ),
            value=float(not_private) if not_private else epsilon,
            bound=0.0 if not_private else budget.epsilon,
            tolerance=0.0 if not_private else 1e-9 * budget.epsilon,
            outcome=outcome, check="privacy", evidence=("ledger.json",), reason="" if outcome == "holds" else failed, **shared,
        ),
        Claim(
            name="privacy_curve",
            statement="delta at every epsilon of privacy_curve.csv; the value is that at the budget's epsilon.",
            value=float(deltas[epsilons.index(budget.epsilon)]), bound=budget.delta, tolerance=1e-9 * budget.delta,
            outcome="holds" if within else "fails", check="privacy_curve", evidence=("ledger.json", "privacy_curve.csv"),
            reason="" if within else "the budget was exceeded", **shared,
        ),
    ]  # fmt: skip
    if account.mu is not None:
        claims.append(
            Claim(
                name="gaussian_dp",
                statement="The whole run is mu-GDP with this mu, exactly.",
                value=account.mu,
                check="gaussian_dp",
                evidence=("ledger.json",),
                **shared,
            )
        )
    tree = ledger_tree(budget, ledger.entries(), epsilon=budget.epsilon, delta=budget.delta, not_private=not_private)
    return claims, {"ledger.json": tree, "privacy_curve.csv": {"epsilon": np.array(epsilons), "delta": deltas}}
