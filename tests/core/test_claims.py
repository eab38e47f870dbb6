"""Claims, comparing, and verdicts in process."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from surefoot.core.certificate import Certificate, Claim, Confidence, Premise, capped
from surefoot.core.verify import Dossier, NotAtHandError, Verdict, compare, verify


def claim(**more: Any) -> Claim:
    given = {
        "name": "gap",
        "statement": "A gap.",
        "value": 0.5,
        "bound": 1.0,
        "kind": "measured",
        "check": "gap",
        **more,
    }
    return Claim(**given)


def test_an_estimate_caps_the_kind() -> None:
    guess, fact = Premise("L was fitted", "estimated"), Premise("A is given")
    assert capped("proved", [fact]) == "proved"
    assert capped("proved", [fact, guess]) == "measured"
    assert capped("statistical", [guess]) == "measured"
    with pytest.raises(ValueError, match="rests on an estimate"):
        claim(kind="proved", premises=(guess,))


def test_statistical_and_undecided_claims_say_more() -> None:
    with pytest.raises(ValueError, match="confidence"):
        claim(kind="statistical")
    assert claim(kind="statistical", confidence=Confidence(0.99, "Hoeffding", 10)).confidence
    with pytest.raises(ValueError, match="reason"):
        claim(outcome="undecided")


@pytest.mark.parametrize(("value", "relation", "bound", "tolerance", "holds"), [
    (1.0, "<=", 1.0, 0.0, True), (1.0 + 1e-12, "<=", 1.0, 0.0, False), (1.0 + 1e-12, "<=", 1.0, 1e-9, True),
    (1.0, ">=", 1.1, 0.2, True), (1.0, ">=", 1.1, 0.0, False), ("1/3", "==", "2/6", 0.0, True), ("1/3", "==", 1 / 3, 0.0, False),
    ("1/3", "<=", "333333333333333333/1000000000000000000", 0.0, False), (math.nan, "<=", 1.0, 0.0, False),
    (math.nan, ">=", 1.0, 1e9, False), (1.0, "<=", math.nan, 0.0, False), (math.inf, "<=", math.inf, 0.0, True),
    (math.inf, "==", math.inf, 1.0, False), ("1/0", "<=", 1.0, 0.0, False), ("word", "<=", 1.0, 0.0, False),
    ("1" + "0" * 400 + "/1", "<=", 1.0, 1.0, False), (10**400, ">=", 1.0, 0.0, True), (None, "<=", 1.0, 0.0, False),
    (5.0, "<=", None, 0.0, True), (math.inf, "<=", None, 0.0, False), ("7/3", "<=", None, 0.0, True),
])  # fmt: skip
def test_relations(value: Any, relation: Any, bound: Any, tolerance: float, holds: bool) -> None:
    assert claim(value=value, relation=relation, bound=bound, tolerance=tolerance).satisfied() is holds


def said(made: Claim, value: Any, **more: Any) -> tuple[str, str]:
    verdict = compare(made, value, **{"supports": "proved", **more})
    return verdict.verdict, verdict.why


def test_compare_confirms_what_agrees() -> None:
    assert said(claim(), 0.5) == ("confirmed", "")
    assert said(claim(), 0.5 * (1 + 1e-10))[0] == "confirmed"
    assert said(claim(value="1/2"), "2/4")[0] == "confirmed"
    assert said(claim(value="1/2"), 0.5)[0] == "confirmed"
    assert said(claim(outcome="fails", value=2.0), 2.0)[0] == "confirmed"
    assert said(claim(outcome="undecided", value=None, reason="no room"), None, undecided=True)[0] == "confirmed"


@pytest.mark.parametrize(("made", "value", "more", "why"), [
    ({}, 0.5001, {}, "the value is 0.5001, not 0.5"), ({}, math.nan, {}, "value"), ({"value": math.nan}, math.nan, {}, "value"),
    ({"value": math.inf}, math.inf, {}, "value"), ({}, None, {}, "value"), ({"value": None}, 0.5, {}, "value"),
    ({"value": "1/2"}, "500000000000000001/1000000000000000000", {}, "value"),
    ({"value": "12345678901234567890123"}, "12345678901234567890124", {}, "value"),
    ({"value": 2.0}, 2.0, {}, "outcome"), ({"outcome": "fails"}, 0.5, {}, "outcome"), ({}, 0.5, {"undecided": True}, "undecided"),
    ({"outcome": "undecided", "reason": "tired"}, 0.5, {}, "outcome"), ({}, 0.5, {"bound": 2.0}, "the bound is 2, not 1"),
    ({}, 0.5, {"bound": math.nan}, "bound"), ({"kind": "proved"}, 0.5, {"supports": "measured"}, "supports only measured"),
    ({"kind": "proved"}, 0.5, {"supports": "statistical"}, "supports only"), ({"value": -0.5}, 0.5, {}, "value"),
])  # fmt: skip
def test_compare_refutes_what_does_not(made: Any, value: Any, more: Any, why: str) -> None:
    verdict, reason = said(claim(**made), value, **more)
    assert verdict == "refuted"
    assert why in reason


def test_certificates_refuse_what_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="repeat"):
        Certificate("toy", (claim(), claim()), "")
    with pytest.raises(ValueError, match=r"needs evidence \['x.npz'\]"):
        Certificate("toy", (claim(evidence=("x.npz",)),), "")
    for name in ("../x.npz", "a/x.npz", "x.pkl", "x", ".npz", "/x.npz"):
        with pytest.raises(ValueError, match="evidence name"):
            Certificate("toy", (), "", {name: {}})
    assert Certificate("toy", (claim(evidence=("answer", "input:table")),), "").claim("gap").value == 0.5
    with pytest.raises(KeyError, match="there are"):
        Certificate("toy", (), "").claim("gap")


def test_claims_round_trip_and_bad_ones_are_refused_by_name() -> None:
    made = claim(
        premises=(Premise("p", "declared"),), confidence=Confidence(0.9, "t", 5), value="1/3", evidence=("answer",)
    )
    assert Claim.from_json(made.to_json()) == made
    for field, bad in [("value", [1]), ("value", True), ("kind", "certain"), ("relation", "<"), ("tolerance", "x"), ("evidence", "a"),
                       ("premises", [{"text": 1}]), ("name", None), ("bound", {"a": 1}), ("tolerance", "nan"), ("tolerance", -1.0),
                       ("bound", "nan"), ("bound", "word")]:  # fmt: skip
        with pytest.raises(TypeError, match=field):
            Claim.from_json({**made.to_json(), field: bad})


# ---- the judge -----------------------------------------------------------------------------------------------
class Problem:
    def __init__(self, mark: str = "p") -> None:
        self.mark = mark

    def fingerprint(self) -> str:
        return self.mark


def verdicts(check: Any, *, certificate: Certificate | None = None, **more: Any) -> list[Verdict]:
    made = certificate or Certificate(
        "toy", (claim(evidence=("x.csv", "y.json")),), "p", {"x.csv": {"a": [1, 2]}, "y.json": {1: (2,)}}
    )
    return verify(made, {"gap": check}, **more)


def test_verdicts_are_never_confirmed_by_default() -> None:
    assert [v.verdict for v in verify(Certificate("toy", (claim(),), "p"), {})] == ["unchecked"]

    def needs_problem(made: Claim, dossier: Dossier) -> Verdict:
        return compare(made, 0.5 if dossier.problem.mark == "p" else 0.7, supports="measured")

    assert [v.verdict for v in verdicts(needs_problem)] == ["unchecked"]
    assert [v.verdict for v in verdicts(needs_problem, problem=Problem("other"))] == ["unchecked"]
    assert [v.verdict for v in verdicts(needs_problem, problem=Problem())] == ["confirmed"]
    missing = verdicts(lambda made, dossier: compare(made, dossier.answer, supports="measured"))[0]
    assert (missing.verdict, missing.why) == ("unchecked", "the answer was not given")


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, ZeroDivisionError, IndexError, np.linalg.LinAlgError, RuntimeError]
)
def test_evidence_that_breaks_the_checker_is_refuted(error: type[Exception]) -> None:
    def breaks(made: Claim, dossier: Dossier) -> Verdict:
        raise error("broken")

    found = verdicts(breaks)[0]
    assert found.verdict == "refuted"
    assert error.__name__ in found.why


def test_faults_of_a_checker_are_shown() -> None:
    def faulty(made: Claim, dossier: Dossier) -> Verdict:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        verdicts(faulty)


def test_evidence_in_process_reads_as_from_its_file() -> None:
    seen: dict[str, Any] = {}

    def look(made: Claim, dossier: Dossier) -> Verdict:
        seen.update({name: dossier.evidence[name] for name in ("x.csv", "y.json")})
        return compare(made, 0.5, supports="measured")

    assert verdicts(look)[0].verdict == "confirmed"
    assert isinstance(seen["x.csv"]["a"], np.ndarray)
    assert seen["y.json"] == {"1": [2]}


def test_costly_rows_are_a_random_subset_named_in_the_verdict() -> None:
    picked: list[np.ndarray] = []

    def costly(made: Claim, dossier: Dossier) -> Verdict:
        picked.append(dossier.rows(1000, sample=40))
        return compare(made, 0.5, supports="measured")

    some, again, other, full = (
        verdicts(costly, **more)[0] for more in ({"seed": 7}, {"seed": 7}, {"seed": 8}, {"full": True})
    )
    assert "40 of 1000" in some.why
    assert "seed 7" in some.why
    assert "seed" not in full.why
    assert len(set(picked[0])) == 40
    assert np.array_equal(picked[0], picked[1])
    assert not np.array_equal(picked[0], picked[2])
    assert np.array_equal(picked[3], np.arange(1000))
    assert some == again
    assert other.why != some.why


def test_what_is_not_at_hand_gives_its_reason() -> None:
    def missing(made: Claim, dossier: Dossier) -> Verdict:
        raise NotAtHandError("the moon is not here")

    assert dataclasses.astuple(verdicts(missing)[0]) == ("gap", "unchecked", None, "the moon is not here")
