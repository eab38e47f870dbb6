"""What DIFF2 claims holds as often as it says, plans bound what is measured, and checkers notice what was changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from federations import full_gradient, linear, rounds, table
from surefoot.core.certificate import Certificate
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.numerics.bounds import clopper_pearson_upper
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.diff2_certify import known_numbers
from surefoot.privacy.diff2_plan import Known, Plan, expected_square, planned
from surefoot.privacy.federation import Federation, HeldOut
from surefoot.privacy.ledger import Budget
from surefoot.privacy.verify import below
from surefoot.privacy.verify_diff2 import checks

REPEATS = 2000
SMALL: dict[str, Any] = {
    "budget": Budget(4.0, 1e-3), "rounds": 5, "restart": 3, "step_length": 0.8, "clip_gradient": 1.0, "clip_difference": 1.0,
    "allow_large_delta": True,
}  # fmt: skip


def not_more_often(misses: int, level: float) -> bool:
    """A one-sided binomial test at 0.1 % does not reject."""
    return bool(stats.binom.sf(misses - 1, REPEATS, level) > 1e-3)


def test_bounds_cover_the_true_gradient_as_often_as_they_say() -> None:
    """2,000 runs: the exact query at 5 %, the running bound at 5 % for all rounds at once, drift at 10 %."""
    A, y = table(60, 6)
    problem, method = linear(A, y, (20, 40)), Diff2(**SMALL)
    missed = {"gradient": 0, "running": 0, "drift": 0}
    widths = []
    for seed in range(REPEATS):
        wrong = False

        def look(state: Any) -> None:
            nonlocal wrong
            true = float(full_gradient(A, y, state.previous).norm())
            wrong |= state.bound < true

        state = rounds(problem, method, 5, seed=seed, watch=look)
        made = certificate_of(method, problem, state)
        true = float(full_gradient(A, y, state.x).norm())
        missed["gradient"] += made["gradient"] < true
        missed["running"] += wrong
        missed["drift"] += made["drift"] > made["drift bound"]
        widths.append(made["gradient"] - true)
    assert not_more_often(missed["gradient"], 0.05), missed
    assert not_more_often(missed["running"], 0.05), missed
    assert not_more_often(missed["drift"], 0.10), missed
    assert missed["gradient"] > 40  # exact, so not far below 100 either
    std = method.noise(problem).query / 60
    assert np.median(widths) < 2.5 * std * 6**0.25


def certificate_of(method: Diff2, problem: Federation, state: Any) -> dict[str, float]:
    """The values of the statistical claims, without the account (which is the same every time)."""
    from surefoot.privacy import diff2_certify as made

    x = method.answer(problem, state)
    drift = made._drift(method, problem, state, x)  # pyright: ignore[reportPrivateUsage]
    gradient = made._gradient(method, problem, state, x)  # pyright: ignore[reportPrivateUsage]
    return {"gradient": float(gradient.value), "drift": float(drift.value), "drift bound": float(drift.bound)}  # type: ignore[arg-type]


def test_the_noisy_look_at_held_out_losses_covers() -> None:
    A, y = table(60, 2)
    held = HeldOut(30, 0.5, lambda w: (A[:30] @ w - y[:30]).abs())
    problem = linear(A[30:], y[30:], (30,), held_out=held)
    method = Diff2(**{**SMALL, "rounds": 1, "restart": 1, "query_share": 0.0})
    missed = 0
    for seed in range(REPEATS):
        state = rounds(problem, method, 1, seed=seed)
        assert state.held_out is not None
        std = 2.0 / method.budget.mu * 0.5 / 60
        bound = state.held_out + 1.6448536269514722 * std
        missed += bound < float(held.losses(state.x).clamp(0, 0.5).mean())
    assert not_more_often(missed, 0.05), missed
    assert missed > 40
    entries = {e.name: e for e in state.entries}
    assert entries["held-out loss"].part != entries["anchor"].part


def test_clipping_that_drifts_is_seen_by_the_drift_claim() -> None:
    """Differences cut to a fifth leave the first gradient in the estimate; the fresh query finds out."""
    A, y = table(20_000, 3)
    method = Diff2(
        budget=Budget(8.0, 1e-6), rounds=30, restart=30, step_length=1.0, clip_gradient=1.0, clip_difference=0.02, share=0.5,
    )  # fmt: skip
    result = solve(linear(A, y, (20_000,)), method)
    assert result.certificate is not None
    claim = result.certificate.claim("drift")
    assert claim.outcome == "fails"
    assert "raise clip_difference" in claim.reason
    assert "clipped" in result.certificate.claim("running_gradient").statement
    assert {v.verdict for v in verify(result.certificate, checks(), answer=result.answer)} == {"confirmed"}


@pytest.mark.parametrize(
    ("x", "dim", "noncentrality"),
    [(3.0, 4, 2.0), (200.0, 20, 150.0), (5e3, 111, 5e3), (0.5, 1, 0.0), (1e5, 10, 1.01e5)],
)
def test_the_poisson_mixture_is_the_noncentral_chi_square(x: float, dim: int, noncentrality: float) -> None:
    expected = stats.ncx2.cdf(x, dim, noncentrality) if noncentrality else stats.chi2.cdf(x, dim)
    assert below(x, dim, noncentrality) == pytest.approx(float(expected), rel=1e-8, abs=1e-12)


# ---- plans ---------------------------------------------------------------------------------------------------
def test_a_plan_is_stable_and_no_worse_than_plain_noisy_gradients() -> None:
    for records, dim, gap in ((1e3, 5, 1.0), (1e5, 20, 3.0), (1e6, 200, 0.1)):
        known = Known(records, dim, 1.0, 1.0, 1.0, gap)
        found = planned(known, 0.7, 2000)
        assert found.bound <= found.plain
        assert expected_square(known, 0.7, found) == pytest.approx(found.bound, rel=1e-9)
        assert expected_square(known, 0.7, Plan(found.rounds, found.restart, 1.5, found.share, 0, 0)) == math.inf
    fixed = planned(Known(1e4, 5, 1.0, 1.0, 1.0, 1.0), 0.7, 2000, rounds=50, restart=5)
    assert (fixed.rounds, fixed.restart) == (50, 5)
    with pytest.raises(ValueError, match="shorten it"):
        planned(Known(1e4, 5, 1.0, 1.0, 1.0, 1.0), 0.7, 2000, step_length=2.0)


def test_few_records_fall_back_to_plain_noisy_gradients() -> None:
    assert planned(Known(200, 50, 1.0, 1.0, 1.0, 1.0), 0.2, 500).restart == 1


def test_bounds_fall_faster_with_the_records_than_those_of_plain_noisy_gradients() -> None:
    """Squared norm: the paper's N^(-4/3) against N^(-1); slopes over three decades of records."""
    sizes = np.geomspace(1e4, 1e7, 7)
    plans = [planned(Known(n, 20, 1.0, 1.0, 1.0, 1.0), 0.7, 10**9) for n in sizes]
    logs = np.log(sizes)
    ours = np.polyfit(logs, np.log([p.bound for p in plans]), 1)[0]
    plain = np.polyfit(logs, np.log([p.plain for p in plans]), 1)[0]
    assert plain == pytest.approx(-1.0, abs=0.05)
    assert ours == pytest.approx(-4 / 3, abs=0.08)


def test_measured_gradients_are_below_the_bound_of_the_plan() -> None:
    """Mean over the rounds and 60 runs of the true squared norm, L and G known."""
    A, y = table(3000, 5)
    problem = linear(A, y, (1000, 2000))
    budget = Budget(3.0, 1e-5)
    known = known_numbers(Diff2(**{**SMALL, "budget": budget}), problem)
    assert known is not None
    plan = planned(known, budget.mu * math.sqrt(0.8), 60)
    method = Diff2(
        budget=budget, rounds=plan.rounds, restart=plan.restart, step_length=plan.step_length, clip_gradient=1.0, share=plan.share if plan.restart > 1 else 0.0
    )  # fmt: skip
    squares = []
    for seed in range(60):
        rounds(
            problem,
            method,
            plan.rounds,
            seed=seed,
            watch=lambda s: squares.append(float(full_gradient(A, y, s.previous).square().sum())),
        )
    assert np.mean(squares) <= plan.bound
    result = solve(problem, method, seed=0)
    assert result.certificate is not None
    assert result.certificate.claim("expected_gradient").value == pytest.approx(plan.bound, rel=1e-6)


# ---- checking ------------------------------------------------------------------------------------------------
def finished(**more: Any) -> tuple[Certificate, torch.Tensor]:
    A, y = table(400, 3)
    result = solve(linear(A, y, (100, 300), ridge=0.01), Diff2(**{**SMALL, **more}))
    assert result.certificate is not None
    return result.certificate, result.answer


@pytest.mark.parametrize("output", ["last", "average", "random", "best"])
def test_every_output_is_confirmed_and_another_iterate_is_not(output: Any) -> None:
    made, answer = finished(output=output)
    assert {v.verdict for v in verify(made, checks(), answer=answer)} == {"confirmed"}
    found = {v.claim: v.verdict for v in verify(made, checks(), answer=answer + 1e-6)}
    assert found["replay"] == "refuted"


def test_rounds_that_the_ledger_lacks_are_refuted() -> None:
    made, answer = finished()
    tree = made.evidence["ledger.json"]
    fewer = [{**e, "number": 1} if e["name"] == "difference" else e for e in tree["entries"]]
    spoiled = Certificate(made.card, made.claims, "", {**made.evidence, "ledger.json": {**tree, "entries": fewer}})
    found = {v.claim: v for v in verify(spoiled, checks(), answer=answer)}
    assert found["replay"].verdict == "refuted"
    assert "fewer releases" in found["replay"].why
    without = [e for e in tree["entries"] if e["name"] != "final query"]
    spoiled = Certificate(made.card, made.claims, "", {**made.evidence, "ledger.json": {**tree, "entries": without}})
    assert {v.claim: v.verdict for v in verify(spoiled, checks(), answer=answer)}["gradient"] == "refuted"


def test_published_noise_keeps_within_the_budget_and_the_query_takes_the_rest() -> None:
    A, y = table(2000, 3)
    method = Diff2(
        **{**SMALL, "budget": Budget(3.0, 1e-5), "rounds": 200, "restart": 20, "compat": "paper", "step_length": 0.1}
    )
    result = solve(linear(A, y, (1000, 1000)), method)
    assert result.certificate is not None
    assert result.certificate.claim("privacy").value == pytest.approx(3.0, rel=1e-6)
    bare = solve(linear(A, y, (1000, 1000)), Diff2(**{**SMALL, "budget": Budget(3.0, 1e-5), "rounds": 2000, "restart": 20, "compat": "paper", "step_length": 0.01, "query_share": 0.0}))  # fmt: skip
    assert bare.certificate is not None
    assert bare.certificate.claim("privacy").value == pytest.approx(2.32825, rel=1e-4)


# ---- audit ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["gradient", "difference"])
def test_two_worlds_that_differ_in_one_record_are_mu_apart_and_no_more(kind: str) -> None:
    """Two rounds, d = 1, a canary at +-C: the likelihood statistic is N(+-mu/2, 1); 800 runs of each world."""
    repeats = 800
    score = {
        sign: np.array([canary_score(kind, sign, seed + (0 if sign > 0 else repeats)) for seed in range(repeats)])
        for sign in (1.0, -1.0)
    }
    mu = Budget(2.0, 1e-2).mu
    apart = score[1.0].mean() - score[-1.0].mean()
    error = 4.0 * math.sqrt(2.0 / repeats)
    assert score[1.0].std() == pytest.approx(1.0, abs=0.1)
    assert apart <= mu + error
    A, y = table(4, 1)
    share = audited(kind).noise(linear(A, y, (1, 3)))
    assert apart >= (mu if kind == "gradient" else 2.0 / share.difference) - error  # the canary sees all of its share
    wrong = int((score[1.0] <= 0).sum() + (score[-1.0] > 0).sum())
    least = 2.0 * float(stats.norm.isf(float(clopper_pearson_upper(wrong, 2 * repeats, 1e-3))))
    assert least <= mu


def audited(kind: str) -> Diff2:
    """The two-round job."""
    return Diff2(
        budget=Budget(2.0, 1e-2), rounds=2, restart=2 if kind == "difference" else 1, step_length=0.3, clip_gradient=1.0, clip_difference=1.0,
        share=0.2, query_share=0.0, allow_large_delta=True,
    )  # fmt: skip


def canary_score(kind: str, sign: float, seed: int) -> float:
    """`sum_r (release_r - its mean without the canary) / noise_r`, weighted to unit variance, of one run."""
    from surefoot.data.linear_model import LinearModel
    from surefoot.numerics.losses import Huber
    from surefoot.privacy.records import LinearRecords

    target = torch.tensor([-9.0 * sign if kind == "gradient" else 0.0], dtype=torch.float64)
    canary = LinearRecords(LinearModel(torch.ones(1, 1, dtype=torch.float64), target, Huber(1.0)))
    still = LinearRecords(
        LinearModel(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), Huber(1.0))
    )
    problem = Federation(clients={0: canary, 1: still}, sizes=(1, 3))
    if kind == "difference" and sign < 0:
        problem = Federation(clients={0: Turned(canary), 1: still}, sizes=(1, 3))
    method = audited(kind)
    noise, unit = method.noise_of(problem), method.noise_unit(problem)
    total, before = 0.0, 0.0
    state = method.init(problem, torch.tensor([0.0 if kind == "gradient" else 0.5]), Streams(seed))
    shares = []
    for k in range(2):
        state.limit, moved = k + 1, state.moved
        state = method.step(problem, state)
        anchor = k % method.restart == 0
        release = float(state.estimate) - (0.0 if anchor else before)
        before = float(state.estimate)
        multiplier = noise.anchor if anchor else noise.difference
        clip = 1.0 if anchor else moved
        direction = 1.0 if anchor else math.copysign(1.0, shift(state))
        if kind == "difference" and anchor:
            continue  # the canary's gradient is at the anchor, too, but this test is about differences
        total += direction * release / (multiplier * clip * unit) / multiplier
        shares.append(1.0 / multiplier**2)
    return total / math.sqrt(sum(shares))


def shift(state: Any) -> float:
    """Sign of the last step but one, which the difference was taken along."""
    return float(state.previous) - 0.5


class Turned:
    """A record with the loss of another, turned round."""

    def __init__(self, records: Any) -> None:
        self.records, self.size, self.dim = records, records.size, records.dim

    def gradient_sum(self, w: torch.Tensor, bound: float, rows: Any = None) -> torch.Tensor:
        return -self.records.gradient_sum(w, bound, rows)

    def difference_sum(self, w: torch.Tensor, previous: torch.Tensor, bound: float, rows: Any = None) -> torch.Tensor:
        return -self.records.difference_sum(w, previous, bound, rows)
