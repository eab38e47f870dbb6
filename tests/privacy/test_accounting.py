"""Closed forms against high precision and dp-accounting; ledgers against the budget; the published noise of DIFF2."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.privacy import accounting
from surefoot.privacy.accounting import account, calibrated, gaussian_mu, privacy_loss
from surefoot.privacy.gaussian_dp import delta_of, epsilon_of, log_delta, mu_for
from surefoot.privacy.ledger import Budget, BudgetSpentError, Entry, Ledger, Release
from surefoot.privacy.verify import _gaussian_delta  # pyright: ignore[reportPrivateUsage]

pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution", reason="needs dp-accounting (extra privacy)")


@pytest.mark.parametrize(("delta", "epsilon", "mu"), [
    (1e-5, 0.5, 0.142211), (1e-5, 1, 0.268051), (1e-5, 2, 0.501552), (1e-5, 3, 0.719117), (1e-5, 5, 1.121242), (1e-5, 8, 1.666031),
    (1e-6, 1, 0.236704), (1e-6, 3, 0.647727),
])  # fmt: skip
def test_mu_of_a_budget(delta: float, epsilon: float, mu: float) -> None:
    found = mu_for(epsilon, delta)
    assert found == pytest.approx(mu, abs=1e-6)
    assert delta_of(found, epsilon) <= delta
    assert epsilon_of(found, delta) == pytest.approx(epsilon, rel=1e-12)
    assert pld.from_gaussian_mechanism(1 / found).get_epsilon_for_delta(delta) == pytest.approx(epsilon, rel=1e-6)


@given(mu=st.floats(0.05, 5.0), epsilon=st.floats(0.0, 30.0))
def test_delta_against_fifty_digits(mu: float, epsilon: float) -> None:
    with mpmath.workdps(50):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        exact = mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2)
        found = log_delta(mu, epsilon)
        assert found == pytest.approx(float(mpmath.log(exact)), rel=1e-9, abs=1e-9)
    if found > -600:
        assert _gaussian_delta(mu, epsilon) == pytest.approx(math.exp(found), rel=1e-6)


def test_composition_adds_squares_and_delta_falls_with_epsilon() -> None:
    one, many = account([Entry("a", 10.0, 1.0, -1, 1)], "replace"), account([Entry("a", 10.0, 1.0, -1, 9)], "replace")
    assert one.mu == pytest.approx(0.2)
    assert many.mu == pytest.approx(0.6)
    assert (np.diff(many.curve([0.0, 0.1, 1.0, 3.0])) < 0).all()
    assert account([], "replace").delta(0.0) == 0.0
    assert account([Entry("a", 10.0, 1.0, -1, 1)], "add-remove").mu == pytest.approx(0.1)


def test_disjoint_parts_compose_in_parallel() -> None:
    common, first, second = Entry("all", 4.0, 1.0, -1, 1), Entry("root", 2.0, 1.0, 0, 1), Entry("root", 1.0, 1.0, 1, 1)
    assert account([common, first, second], "add-remove").mu == pytest.approx(math.hypot(1 / 4, 1 / 1))


def test_full_releases_agree_with_privacy_loss_distributions() -> None:
    entries = [Entry("anchor", 30.0, 1.0, -1, 20), Entry("difference", 80.0, 1.0, -1, 380)]
    exact = account(entries, "replace")
    loss = privacy_loss(entries, "replace")
    for epsilon in (0.05, 0.5, 1.0, 3.0, 10.0):
        if (delta := exact.delta(epsilon)) > 1e-12:
            assert loss.get_delta_for_epsilon(epsilon) == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize(("epsilon", "multiplier"), [(0.5, 2.562007), (1.0, 1.507924), (3.0, 0.868438)])
def test_sampled_schedule_of_spider_boost(epsilon: float, multiplier: float) -> None:
    """2,000 steps, an anchor of 2,000 records every 20, differences of 500, of 100,000; published with add-remove."""
    entries = [Entry("anchor", multiplier, 0.02, -1, 100), Entry("difference", multiplier, 0.005, -1, 1900)]
    assert account(entries, "add-remove").epsilon(1e-6) == pytest.approx(epsilon, rel=2e-4)


def test_calibration_meets_the_budget_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "INTERVAL", 1e-3)
    budget = Budget(3.0, 1e-6, "add-remove")
    for sampling, number in ((1.0, 7), (0.1, 3)):

        def plan(m: float, sampling: float = sampling, number: int = number) -> list[Entry]:
            return [Entry("anchor", m, sampling, -1, number)]

        found = calibrated(budget, plan)
        assert (
            account(plan(found), "add-remove").delta(3.0)
            <= 1e-6
            < account(plan(found * 0.999), "add-remove").delta(3.0)
        )
    assert calibrated(budget, lambda m: [Entry("a", m, 1.0, -1, 7)]) == pytest.approx(7**0.5 / budget.mu, rel=1e-6)
    with pytest.raises(ValueError, match="cannot be met"):
        calibrated(budget, lambda m: [Entry("a", 1.0, 1.0, -1, 10**9)])


@pytest.mark.parametrize(("restart", "anchor", "difference", "mu", "epsilon"), [
    (20, 0.00234584, 0.0209818, 0.574456, 2.32825), (1, 0.00938336, math.inf, 0.577350, 2.34143), (200, 0.00074182, 0.0209818, None, 2.34011),
])  # fmt: skip
def test_the_published_noise_of_diff2_spends_less_than_it_says(
    restart: int, anchor: float, difference: float, mu: float | None, epsilon: float
) -> None:
    """R = 2,000 rounds, N = 16,510, claimed epsilon 3 at delta 1e-5."""
    rounds, records = 2000, 16510
    anchors = -(-rounds // restart)
    entries = [Entry("anchor", anchor * records, 1.0, -1, anchors)]
    if restart > 1:
        entries.append(Entry("difference", difference * records, 1.0, -1, rounds - anchors))
    found = account(entries, "replace")
    assert mu is None or found.mu == pytest.approx(mu, rel=1e-5)
    assert found.epsilon(1e-5) == pytest.approx(epsilon, rel=2e-5)


def test_replaced_records_cost_at_least_what_added_ones_do() -> None:
    sampled = [Entry("a", 2.0, 0.1, -1, 50)]
    replace, add = account(sampled, "replace"), account(sampled, "add-remove")
    assert replace.epsilon(1e-5) > add.epsilon(1e-5)
    full = [Entry("a", 2.0, 1.0, -1, 3)]
    assert gaussian_mu(full, "replace") == 2 * gaussian_mu(full, "add-remove")


@pytest.mark.parametrize("wrong", [
    lambda: Budget(0.0, 1e-5), lambda: Budget(-1.0, 1e-5), lambda: Budget(math.inf, 1e-5), lambda: Budget(1.0, 0.0), lambda: Budget(1.0, 1.0),
    lambda: Budget(1.0, 1e-5, "swap"),  # pyright: ignore[reportArgumentType]
    lambda: Release("a", 0.0, 1.0), lambda: Release("a", math.nan, 1.0), lambda: Release("a", 1.0, -1.0), lambda: Release("a", 1.0, 1.0, 0.0),
    lambda: Release("a", 1.0, 1.0, number=0),
])  # fmt: skip
def test_wrong_numbers_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()  # type: ignore[operator]


def test_a_plan_beyond_the_budget_is_refused() -> None:
    with pytest.raises(BudgetSpentError, match="add noise or release less"):
        Ledger(Budget(1.0, 1e-5), [Entry("a", 1.0, 1.0, -1, 1)])
