"""The checkers confirm what was certified and refute every spoiled part of it, for all kinds of plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.core.certificate import Certificate
from surefoot.core.rundir import RunDir
from surefoot.core.solve import Result, solve
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import Verdict, verify, verify_run
from surefoot.data.samples import SampleMissingError
from surefoot.records.files import read_json, read_npz, write_json, write_npz
from surefoot.robustness.logs import append_row, read_log, whole_rows, write_log
from surefoot.robustness.maps import HARDMAX
from surefoot.robustness.noise import Noise
from surefoot.robustness.problem import Certification, Radii
from surefoot.robustness.smoothing import CertifyRadii
from surefoot.robustness.smoothing_card import CARD
from surefoot.robustness.verify import CHECKS
from surefoot.robustness.verify_bounds import quantile_interval
from surefoot.testing import SPOILS, spoil_tree

KINDS = ["fixed", "per-input", "target", "paper"]


def first_case() -> tuple[Certification, CertifyRadii]:
    return next(iter(CARD.tiny()))


def certified(place: int) -> tuple[Certification, Result[Radii]]:
    problem, method = list(CARD.tiny())[place]
    return problem, solve(problem, method, seed=3)


def judged(problem: Certification, certificate: Certificate, answer: Any) -> dict[str, Verdict]:
    return {v.claim: v for v in verify(certificate, CHECKS, problem, answer, full=True)}


def refuted(verdicts: Mapping[str, Verdict]) -> bool:
    return any(v.verdict == "refuted" for v in verdicts.values())


@pytest.mark.parametrize("place", range(4), ids=KINDS)
def test_every_plan_is_confirmed_and_every_spoiled_part_refuted(place: int) -> None:
    problem, result = certified(place)
    certificate = result.certificate
    assert certificate is not None
    fresh = judged(problem, certificate, result.answer)
    assert {v.verdict for v in fresh.values()} == {"confirmed"}, fresh
    spoiled = 0
    for name, content in certificate.evidence.items():
        for part in content:
            for how in SPOILS:
                changed = spoil_tree(content[part], how)
                if changed is None:
                    continue
                evidence = {**certificate.evidence, name: {**content, part: changed}}
                bad = dataclasses.replace(certificate, evidence=evidence)
                assert refuted(judged(problem, bad, result.answer)), f"{name}:{part} ({how})"
                spoiled += 1
    for how in SPOILS:
        changed = spoil_tree(result.answer, how)
        assert changed is None or refuted(judged(problem, certificate, changed)), f"answer ({how})"
    assert spoiled > 20


def with_row(certificate: Certificate, **changes: Any) -> Certificate:
    table = {k: np.array(v) for k, v in certificate.evidence["radii.csv"].items()}
    for name, value in changes.items():
        table[name][0] = value
    return dataclasses.replace(certificate, evidence={**certificate.evidence, "radii.csv": table})


def test_a_strategy_that_the_first_draws_do_not_favour_is_refuted() -> None:
    """Bounds and radius of another form, all consistent with the fresh counts: chosen after looking at them."""
    problem, method = first_case()
    counts_only = dataclasses.replace(problem, plan=dataclasses.replace(problem.plan, maps=(HARDMAX,)))
    for forms in (("one-class",), ("two-class",)):
        forced = dataclasses.replace(counts_only, plan=dataclasses.replace(counts_only.plan, forms=forms))
        result = solve(forced, method, seed=3)
        certificate = result.certificate
        assert certificate is not None
        moved = dataclasses.replace(certificate, fingerprint=counts_only.fingerprint())
        free = solve(counts_only, method, seed=3)
        assert free.certificate is not None
        same = np.array_equal(free.certificate.evidence["radii.csv"]["form"], certificate.evidence["radii.csv"]["form"])
        verdict = judged(counts_only, moved, result.answer)["radii"]
        assert (verdict.verdict == "confirmed") == same
        if not same:
            assert "favour" in verdict.why
            return
    pytest.fail("both forms were favoured by every image; the test needs another example")


def test_a_fixed_map_that_the_calibration_does_not_favour_is_refuted() -> None:
    """All that follows from another map is honest; only that it was not chosen on the calibration's draws."""
    problem, method = first_case()
    chosen = solve(problem, method, seed=3).certificate
    assert chosen is not None
    fixed = chosen.evidence["settings.json"]["fixed_map"]
    refusals = 0
    for place, which in enumerate(problem.plan.maps):
        alone = dataclasses.replace(problem, plan=dataclasses.replace(problem.plan, maps=(which,)))
        result = solve(alone, method, seed=3)
        assert result.certificate is not None
        settings = {**result.certificate.evidence["settings.json"], "fixed_map": place}
        moved = dataclasses.replace(
            result.certificate,
            fingerprint=problem.fingerprint(),
            evidence={**result.certificate.evidence, "settings.json": settings},
        )
        verdict = judged(problem, moved, result.answer)["radii"]
        if place == fixed:
            assert verdict.verdict == "confirmed", verdict
        elif "on the calibration" in verdict.why:
            assert verdict.verdict == "refuted"
            refusals += 1
    assert refusals >= 3


def test_counts_of_other_draws_are_refuted() -> None:
    """Honest arithmetic on the counts of another seed."""
    problem, result = certified(0)
    certificate = result.certificate
    assert certificate is not None
    settings = {**certificate.evidence["settings.json"], "seed": 4}
    bad = dataclasses.replace(certificate, evidence={**certificate.evidence, "settings.json": settings})
    verdict = judged(problem, bad, result.answer)["radii"]
    assert verdict.verdict == "refuted"


def test_a_claim_of_more_confidence_or_of_a_proof_is_refuted() -> None:
    problem, result = certified(0)
    certificate = result.certificate
    assert certificate is not None
    claim = certificate.claim("radii")
    assert claim.confidence is not None
    surer = dataclasses.replace(claim, confidence=dataclasses.replace(claim.confidence, level=0.9999))
    proved = dataclasses.replace(claim, kind="proved")
    for changed in (surer, proved):
        bad = dataclasses.replace(certificate, claims=(changed, *certificate.claims[1:]))
        assert judged(problem, bad, result.answer)["radii"].verdict == "refuted"


def test_draws_of_system_entropy_cannot_be_repeated_and_are_not_confirmed() -> None:
    problem, method = first_case()
    result = solve(problem, method, seed=None)
    assert result.certificate is not None
    assert judged(problem, result.certificate, result.answer)["radii"].verdict == "unchecked"


def test_the_claim_says_which_classifier_it_is_about() -> None:
    problem, method = first_case()
    own = dataclasses.replace(problem, plan=dataclasses.replace(problem.plan, scope="per-input"))
    for case, says in ((problem, "for one smoothed classifier"), (own, "smoothed classifier of its own map")):
        result = solve(case, method)
        assert result.certificate is not None
        assert says in result.certificate.claim("radii").statement
    lattice = dataclasses.replace(problem, noise=Noise(rows=4, lattice_bits=10))
    result = solve(lattice, method)
    assert result.certificate is not None
    assert any("lattice" in p.text for p in result.certificate.claim("radii").premises)
    assert {v.verdict for v in judged(lattice, result.certificate, result.answer).values()} == {"confirmed"}


def test_a_network_trained_by_the_run_is_kept_and_checked_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surefoot.data import digits
    from surefoot.robustness import networks

    def missing(seed: int = 0) -> Any:
        raise SampleMissingError("not here")

    monkeypatch.setattr(digits, "mnist_5000", missing)
    options = dataclasses.replace(
        CARD.preset("tour"), sigma=0.25, draws=200, selection_draws=50, images=4, epochs=1, calibration=1
    )
    run = RunDir.create(tmp_path / "run")
    execute(CARD, options, Inputs(trust=True), run)

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a verification trained a network")

    monkeypatch.setattr(networks, "train_small_cnn", never)
    assert {v.verdict for v in verify_run(run.root, CARD, write=False)} == {"confirmed"}
    weights = read_npz(run.root / "evidence" / "network.npz")
    for how in SPOILS:
        for name in ("conv1.weight", "out.bias"):
            changed = spoil_tree(weights[name], how)
            write_npz(run.root / "evidence" / "network.npz", {**weights, name: changed})
            verdicts = {v.claim: v.verdict for v in verify_run(run.root, CARD, write=False)}
            assert verdicts["radii"] == "refuted", (name, how)
    write_npz(run.root / "evidence" / "network.npz", weights)
    tree = read_json(run.root / "inputs.json")
    tree["inputs"][0]["sha256"] = "0" * 64
    write_json(run.root / "inputs.json", tree)
    assert {v.claim: v.verdict for v in verify_run(run.root, CARD, write=False)}["radii"] == "unchecked"


def test_a_killed_run_resumes_to_the_same_certificates(tmp_path: Path) -> None:
    problem, method = first_case()
    whole = solve(problem, method)
    from surefoot.core.solve import Budget

    solve(problem, method, budget=Budget(steps=23), run=RunDir.create(tmp_path / "run"), certify=False)
    resumed = solve(problem, method, run=RunDir.create(tmp_path / "run", resume=True))
    np.testing.assert_array_equal(resumed.answer.radius, whole.answer.radius)
    assert resumed.certificate is not None
    assert whole.certificate is not None
    assert resumed.certificate.claims == whole.certificate.claims


@pytest.mark.parametrize("slope", [0.3, 2.0, 50.0, float("inf")])
def test_the_checkers_quantile_agrees_with_the_solvers(slope: float) -> None:
    from surefoot.robustness.radius import inverse_ramp

    for p in (1e-9, 1e-3, 0.3, 0.5, 0.8, 0.9999, 1 - 1e-9):
        low, high = quantile_interval(p, 0.5, slope)
        assert low - 1e-9 <= float(inverse_ramp(p, 0.5, slope)) <= high + 1e-9
    assert quantile_interval(1.0, 0.5, slope)[0] == float("inf")


# ---- logs -----------------------------------------------------------------------------------------------------------
COHEN = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t0.854\t1\t0:00:06.714
20\t7\t-1\t0.0\t0\t0:00:06.7
40\t8\t5\t0.26\t0\t0:00:07
"""


def test_cohens_log_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "cohen.tsv").write_text(COHEN)
    found = read_log(tmp_path / "cohen.tsv")
    assert found.index.tolist() == [0, 20, 40]
    assert found.predicted.tolist() == [3, -1, 5]
    assert found.correct.tolist() == [True, False, False]
    assert found.average == pytest.approx(0.854 / 3)
    write_log(tmp_path / "mine.tsv", found, [6.714, 6.7, 7])
    again = read_log(tmp_path / "mine.tsv")
    np.testing.assert_array_equal(again.radius, found.radius)
    assert (tmp_path / "mine.tsv").read_text().splitlines()[0] == COHEN.splitlines()[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0\t3\t-1\t0.5\t0\t0", "class -1 with radius"), ("0\t3\t3\tnan\t1\t0", "radius nan"), ("0\t3\t3\t0.5\t0\t0", "correct is 0"),
        ("0\t3\tx\t0.5\t0\t0", "expected idx"), ("0\t3", "expected idx"), ("0\t3\t3\t-0.5\t1\t0", "radius -0.5"),
    ],
)  # fmt: skip
def test_rows_that_contradict_themselves_are_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "bad.tsv").write_text(COHEN + line + "\n")
    with pytest.raises(ValueError, match=says):
        read_log(tmp_path / "bad.tsv")


def test_a_half_written_row_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text(COHEN + "60\t1\t1\t0.")
    assert whole_rows(tmp_path / "log.tsv") == 3
    assert (tmp_path / "log.tsv").read_text() == COHEN
    append_row(tmp_path / "log.tsv", read_log(tmp_path / "log.tsv"), 1.5)
    assert whole_rows(tmp_path / "log.tsv") == 4
