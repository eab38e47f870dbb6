"""White-box audits: many runs of a small job in two worlds that differ in one record, and the mu that they prove."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import stats

from surefoot.core.method import State
from surefoot.core.random import Streams
from surefoot.data.linear_model import LinearModel
from surefoot.numerics.bounds import clopper_pearson_upper
from surefoot.numerics.losses import Huber
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.federation import Federation
from surefoot.privacy.ledger import Budget
from surefoot.privacy.records import LinearRecords

BUDGET = Budget(3.0, 1e-3)


class Turned:
    """A record whose loss is another's, turned round."""

    def __init__(self, records: Any) -> None:
        self.records, self.size, self.dim = records, records.size, records.dim

    def gradient_sum(self, w: torch.Tensor, bound: float, rows: Any = None) -> torch.Tensor:
        return -self.records.gradient_sum(w, bound, rows)

    def difference_sum(self, w: torch.Tensor, previous: torch.Tensor, bound: float, rows: Any = None) -> torch.Tensor:
        return -self.records.difference_sum(w, previous, bound, rows)


def world(sign: float) -> Federation:
    """A canary beside three records that do nothing; its gradient is 1 and falls by the whole step, or the opposite."""
    canary: Any = LinearRecords(
        LinearModel(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), Huber(1.0))
    )
    still = LinearRecords(
        LinearModel(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), Huber(1.0))
    )
    return Federation(clients={0: canary if sign > 0 else Turned(canary), 1: still}, sizes=(1, 3))


def method(kind: str) -> Diff2:
    """Two rounds; both anchors ("gradient"), or an anchor and a difference."""
    return Diff2(
        budget=BUDGET, rounds=2, restart=1 if kind == "gradient" else 2, step_length=0.05, clip_gradient=1.0, clip_difference=1.0, share=0.5,
        query_share=0.0, allow_large_delta=True,
    )  # fmt: skip


def scores(kind: str, sign: float, repeats: int) -> np.ndarray:
    """The likelihood statistic of each run, of unit variance: released values over noise, weighted by their share of mu."""
    made, problem = method(kind), world(sign)
    noise, unit = made.noise_of(problem), made.noise_unit(problem)
    found = np.empty(repeats)
    for run in range(repeats):
        state: Any = made.init(problem, torch.tensor([20.0]), Streams(None))
        total, shares, before, moved = 0.0, 0.0, 0.0, 0.0
        for k in range(2):
            state.limit = k + 1
            state = stepped(made, problem, state)
            anchor = k % made.restart == 0
            multiplier = noise.anchor if anchor else noise.difference
            bound = 1.0 if anchor else abs(moved)
            released = float(state.estimate) - (0.0 if anchor else before)
            before = float(state.estimate)
            if kind != "difference" or not anchor:
                # beyond the knee a gradient is 1 and a difference 0: the canary of differences lives near 0
                towards = 1.0 if anchor else math.copysign(1.0, moved)
                total += towards * released / (multiplier * bound * unit) / multiplier
                shares += 1.0 / multiplier**2
            moved = float(state.x - state.previous)
        found[run] = total / math.sqrt(shares)
    return found


def stepped(made: Diff2, problem: Federation, state: State) -> Any:
    """One round; where differences are audited, about the point where the canary's loss bends."""
    current: Any = state
    if made.restart > 1 and current.k == 0:
        current.x = torch.tensor([0.5], dtype=torch.float64)
    return made.step(problem, current)


def audited(kind: str, repeats: int) -> dict[str, Any]:
    """The row of a kind: claimed mu, the audit's lower bound and estimate, and epsilons."""
    from surefoot.privacy.gaussian_dp import epsilon_of

    made, problem = method(kind), world(1.0)
    noise = made.noise_of(problem)
    claimed = 2.0 / noise.difference if kind == "difference" else BUDGET.mu
    one, other = scores(kind, 1.0, repeats), scores(kind, -1.0, repeats)
    middle = 0.0
    false_positive, false_negative = int((other > middle).sum()), int((one <= middle).sum())
    bounds = [float(clopper_pearson_upper(k, repeats, 5e-4)) for k in (false_positive, false_negative)]
    lower = float(stats.norm.isf(bounds[0]) + stats.norm.isf(bounds[1]))
    return {
        "canary": kind, "claimed_mu": claimed, "audited_mu_lower": lower, "share_of_claim": lower / claimed,
        "difference_of_means": float(one.mean() - other.mean()), "claimed_epsilon": epsilon_of(claimed, BUDGET.delta),
        "audited_epsilon_lower": epsilon_of(max(lower, 0.0), BUDGET.delta), "exceeds": lower > claimed,
    }  # fmt: skip
