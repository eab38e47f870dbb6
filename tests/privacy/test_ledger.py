"""The ledger is written before a value leaves; what a killed run wrote stays spent; the noise is what the ledger says."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.core.certificate import Certificate, Premise
from surefoot.core.random import Streams
from surefoot.core.verify import verify
from surefoot.privacy.certify import privacy_claims
from surefoot.privacy.gaussian_dp import mu_for
from surefoot.privacy.ledger import Budget, BudgetSpentError, Entry, Ledger, Release, read_journal, tally
from surefoot.privacy.mechanism import Gaussian, gradient_bound, system_normal
from surefoot.privacy.verify import checks
from surefoot.records.files import UnsafeFileError

BUDGET = Budget(1.0, 1e-5)
CLIPPED = Premise("each record's gradient is clipped")


def planned(number: int) -> list[Entry]:
    """Equal releases that use the budget up exactly."""
    return [Entry("anchor", 2.0 / BUDGET.mu * number**0.5, 1.0, -1, number)]


def release(plan: list[Entry]) -> Release:
    return Release("anchor", plan[0].noise_multiplier, 0.5)


def test_the_budget_is_spent_exactly_and_not_beyond(tmp_path: Path) -> None:
    plan = planned(5)
    ledger = Ledger(BUDGET, plan, tmp_path / "ledger.jsonl")
    for _ in range(5):
        ledger.enter(release(plan))
    assert ledger.spent().epsilon(1e-5) == pytest.approx(1.0, rel=1e-12)
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(BudgetSpentError, match="is spent: 5 releases cost epsilon 1"):
        ledger.enter(release(plan))
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    small = Ledger(BUDGET, plan)
    small.enter(Release("anchor", 1e9, 1.0))  # beyond the plan but within the budget
    assert small.released("anchor") == 1


def test_a_kill_between_ledger_and_checkpoint_keeps_what_was_spent(tmp_path: Path) -> None:
    plan, journal = planned(3), tmp_path / "private" / "ledger.jsonl"
    known: list[Entry] = []
    child = os.fork()
    if child == 0:
        mechanism = Gaussian(Ledger(BUDGET, plan, journal, known), Streams(None))
        mechanism.release(torch.zeros(2), "anchor", 0, noise_multiplier=plan[0].noise_multiplier, record_bound=0.5)
        os.kill(os.getpid(), signal.SIGKILL)  # the value has left; no checkpoint knows
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    ledger = Ledger(BUDGET, plan, journal, known)
    assert ledger.released("anchor") == 1
    ledger.enter(release(plan))
    ledger.enter(release(plan))
    with pytest.raises(BudgetSpentError):  # the third of its own would be the fourth
        ledger.enter(release(plan))


def test_a_torn_line_never_left_and_a_lost_one_is_named(tmp_path: Path) -> None:
    plan, journal = planned(3), tmp_path / "ledger.jsonl"
    ledger = Ledger(BUDGET, plan, journal)
    ledger.enter(release(plan))
    with journal.open("ab") as stream:
        stream.write(b'{"name": "anchor", "noise_mul')
    assert [r.number for r in read_journal(journal)] == [1]
    assert journal.read_bytes().endswith(b"}\n")
    with pytest.raises(UnsafeFileError, match="lacks 1 releases that the checkpoint knows"):
        Ledger(BUDGET, plan, journal, [Entry(*key, 2) for key in tally([release(plan)])])
    journal.write_text('{"name": 3}\n')
    with pytest.raises(UnsafeFileError, match="not a ledger"):
        Ledger(BUDGET, plan, journal)


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    """Both would have room for two releases each; together they would overspend."""
    plan, journal = planned(2), tmp_path / "ledger.jsonl"
    first, second = Ledger(BUDGET, plan, journal), Ledger(BUDGET, plan, journal)
    first.enter(release(plan))
    with pytest.raises(UnsafeFileError, match="another process goes on with the same run"):
        second.enter(release(plan))
    first.enter(release(plan))
    assert sum(r.number for r in read_journal(journal)) == 2


def test_nothing_leaves_when_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    mechanism = Gaussian(Ledger(BUDGET, planned(2), tmp_path / "ledger.jsonl"), Streams(None))
    with pytest.raises(OSError, match="no space"):
        mechanism.release(
            torch.zeros(2), "anchor", 0, noise_multiplier=planned(2)[0].noise_multiplier, record_bound=1.0
        )


def test_the_noise_is_what_the_ledger_says() -> None:
    ledger = Ledger(Budget(8.0, 1e-5))
    value = torch.full((100_000,), 3.0, dtype=torch.float64)
    for streams in (Streams(None), Streams(4)):
        found = Gaussian(ledger, streams).release(value, "anchor", 0, noise_multiplier=20.0, record_bound=0.1) - value
        error = float(found.var()) / 4.0 - 1.0
        assert abs(error) < 5 * (2 / 100_000) ** 0.5
        assert abs(float(found.mean())) < 5 * 2.0 / 100_000**0.5
    again = Gaussian(Ledger(Budget(8.0, 1e-5)), Streams(4)).release(
        value, "anchor", 0, noise_multiplier=20.0, record_bound=0.1
    )
    assert torch.equal(again, found + value)
    assert not np.array_equal(system_normal(50), system_normal(50))
    silent = Gaussian(ledger, Streams(None)).release(value, "still", 1, noise_multiplier=20.0, record_bound=0.0)
    assert torch.equal(silent, value)
    assert ledger.released("still") == 1


def test_a_value_that_is_not_finite_does_not_leave() -> None:
    ledger = Ledger(BUDGET)
    with pytest.raises(ValueError, match="not finite"):
        Gaussian(ledger, Streams(None)).release(
            torch.tensor([1.0, float("nan")]), "a", 0, noise_multiplier=99.0, record_bound=1.0
        )
    assert ledger.released("a") == 0


def test_the_final_query_covers_the_true_norm() -> None:
    """2,000 draws at 5 %: not more misses than a one-sided binomial test at 0.1 % allows."""
    from scipy.stats import binom

    rng = np.random.default_rng(0)
    gradient = torch.from_numpy(rng.normal(size=50)) * 0.03
    norm = float(gradient.norm())
    draws = [gradient_bound(gradient + 0.02 * torch.from_numpy(rng.normal(size=50)), 0.02, 0.05) for _ in range(2000)]
    misses = sum(bound < norm for bound in draws)
    assert binom.sf(misses - 1, 2000, 0.05) > 1e-3
    assert np.median(draws) < norm + 3 * 0.02 * 50**0.25


def certificate(ledger: Ledger, **more: bool) -> Certificate:
    claims, evidence = privacy_claims(ledger, not_private=more.get("not_private", False), record_bound=CLIPPED)
    return Certificate("private", tuple(claims), "", evidence)


def test_accounts_verify_and_spoiled_ledgers_do_not() -> None:
    plan = planned(4)
    ledger = Ledger(BUDGET, plan)
    for _ in range(4):
        ledger.enter(release(plan))
    made = certificate(ledger)
    assert made.claim("privacy").value == pytest.approx(1.0)
    assert made.claim("gaussian_dp").value == pytest.approx(mu_for(1.0, 1e-5))
    assert {v.verdict for v in verify(made, checks())} == {"confirmed"}
    for name, value in {
        "noise_multiplier": plan[0].noise_multiplier * 2,
        "number": 3,
        "sampling": 0.5,
        "part": -3,
    }.items():
        tree = made.evidence["ledger.json"]
        spoiled = {**tree, "entries": [{**tree["entries"][0], name: value}]}
        found = verify(Certificate("private", made.claims, "", {**made.evidence, "ledger.json": spoiled}), checks())
        assert {v.verdict for v in found} == {"refuted"}, name
    curve = dict(made.evidence["privacy_curve.csv"])
    curve["delta"] = curve["delta"][::-1]
    found = verify(Certificate("private", made.claims, "", {**made.evidence, "privacy_curve.csv": curve}), checks())
    assert [v.verdict for v in found] == ["confirmed", "refuted", "confirmed"]


def test_a_fixed_seed_is_not_private_and_the_claim_says_so() -> None:
    ledger = Ledger(BUDGET, planned(1))
    ledger.enter(release(planned(1)))
    made = certificate(ledger, not_private=True)
    assert (made.claim("privacy").outcome, made.claim("privacy").bound) == ("fails", 0.0)
    assert "subtracts the noise" in made.claim("privacy").reason
    assert {v.verdict for v in verify(made, checks())} == {"confirmed"}
    honest = {**made.evidence["ledger.json"], "not_private": False}
    found = verify(Certificate("private", made.claims, "", {**made.evidence, "ledger.json": honest}), checks())
    assert found[0].verdict == "refuted"


def test_sampled_ledgers_verify() -> None:
    pytest.importorskip("dp_accounting", reason="needs dp-accounting (extra privacy)")
    ledger = Ledger(Budget(2.0, 1e-5))
    ledger.enter(Release("anchor", 3.0, 1.0, 0.05, number=40))
    made = certificate(ledger)
    assert len(made.claims) == 2
    assert {v.verdict for v in verify(made, checks())} == {"confirmed"}
    tree = made.evidence["ledger.json"]
    spoiled = {**tree, "entries": [{**tree["entries"][0], "number": 20}]}
    found = verify(Certificate("private", made.claims, "", {**made.evidence, "ledger.json": spoiled}), checks())
    assert {v.verdict for v in found} == {"refuted"}
