"""Synchronous methods held beside a run: what NIDS and EXTRA spend to the same proved distance, as measured claims."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate, Claim
from surefoot.core.problem import Consensus
from surefoot.core.solve import Budget, Result, solve
from surefoot.decentralized.problem import network
from surefoot.decentralized.rounds import Rounds

log = logging.getLogger(__name__)
PEERS = ("nids", "extra")
MOST_ROUNDS = 4000
EVERY = 10
"""Rounds between the rows that are kept."""


def with_peers(result: Result[Any], problem: Consensus, tolerance: float) -> Result[Any]:
    """The result with a claim and a curve for each peer; unchanged where its losses are no linear models, it has
    one node, or its graph changes."""
    net = network(problem)
    if result.certificate is None or net.rows is None or net.nodes < 2 or net.schedule is not None or not tolerance > 0:
        return result
    claims: list[Claim] = []
    curves: dict[str, Any] = {}
    for name in PEERS:
        method = Rounds(name, tolerance=tolerance, check_every=EVERY, block=EVERY)
        run = solve(problem, method, budget=Budget(steps=MOST_ROUNDS), certify=False)
        columns = {key: np.asarray(values, dtype=np.float64) for key, values in run.history.columns().items()}
        curves[name] = np.column_stack([columns["k"], columns["exchanges"], columns["distance"] + columns["gap"]])
        reached = bool(curves[name][-1, 2] <= tolerance)
        claims.append(
            Claim(
                name=f"beside-{name}", value=float(curves[name][-1, 1]), kind="measured", check=f"beside-{name}",
                outcome="holds" if reached else "undecided", reason="" if reached else f"not there after {run.steps} rounds",
                evidence=("peers.npz",),
                statement=f"Exchanges that {name.upper()}, a synchronous method with step 1/L, spends until it is proved to be within {tolerance:g}.",
            )
        )  # fmt: skip
    old = result.certificate
    evidence = {**old.evidence, "peers.npz": curves}
    return replace(result, certificate=Certificate(old.card, (*old.claims, *claims), old.fingerprint, evidence))
