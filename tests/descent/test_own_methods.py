"""Own methods through the card, and exact proofs spoiled part by part."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot import Budget, catalog, solve
from surefoot.core.certificate import Certificate
from surefoot.core.verify import verify
from surefoot.descent import RateSearch, certify, fixed_step
from surefoot.descent.certify import certify_rate_result
from surefoot.descent.verify import CHECKS
from surefoot.records.files import read_csv

NAG = {"name": "My Method", "A": [["7/5", "-2/5"], [1, 0]], "B": [-1, 0], "C": ["7/5", "-2/5"], "m": "1/10", "L": 1}
# A frictionless oscillator: marginally stable on every quadratic, and without a cycle of a short period.
OSCILLATOR = {"A": [[2, -1], [1, 0]], "B": ["-1/97", 0], "C": [1, 0], "m": "999/1000", "L": 1}
TOO_LONG = {"A": [[1]], "B": ["-5/2"], "C": [1], "m": "1/10", "L": 1}


@pytest.mark.parametrize(
    ("method", "claims"),
    [
        (NAG, {"rate-my-method": "holds", "floor-my-method": "holds", "transient-my-method": "holds"}),
        (OSCILLATOR, {"rate-fixed-step-method": "undecided"}),
        (TOO_LONG, {"cycle-fixed-step-method": "holds"}),
    ],
)
def test_a_method_of_ones_own(tmp_path: Path, method: dict, claims: dict[str, str]) -> None:
    path = tmp_path / "method.json"
    path.write_text(json.dumps(method))
    result = catalog.run("acceleration", path, out=tmp_path / "out", kappas=(4.0, 1000.0 / 999.0))
    assert {c.name: c.outcome for c in result.certificate.claims if c.name != "table"} == claims
    verdicts = catalog.verify(tmp_path / "out", full=True)
    assert {v.claim: v.verdict for v in verdicts} == dict.fromkeys([*claims, "table"], "confirmed")
    rates = read_csv(tmp_path / "out" / "answer" / "rates.csv")
    known = np.isfinite(next(v for k, v in rates.items() if k not in ("kappa",) and not k.endswith("_floor")))
    assert known.any() == (method is NAG)


def verdicts(certificate: Certificate, problem: Any) -> dict[str, str]:
    return {v.claim: v.verdict for v in verify(certificate, CHECKS, problem, None)}


def spoiled(certificate: Certificate, change: Callable[[dict], None]) -> Certificate:
    evidence = copy.deepcopy(dict(certificate.evidence))
    change(evidence["proofs.json"]["method"])
    return dataclasses.replace(certificate, evidence=evidence)


def set_in(*path: Any) -> Callable[[dict], None]:
    """Set the entry at a path (all but the last item) to the last item."""

    def change(record: dict) -> None:
        *way, last, value = path
        for key in way:
            record = record[key]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (set_in("proof", "rho", "3/4"), "rate-method"),
        (set_in("proof", "rho", "3/2"), "rate-method"),
        (set_in("proof", "memory", 1), "rate-method"),
        (set_in("proof", "memory", 9), "rate-method"),
        (set_in("proof", "p", []), "rate-method"),
        (set_in("proof", "P", 0, 1, "1/3"), "rate-method"),
        (set_in("proof", "P", 0, 0, "1/1000000"), "rate-method"),
        (set_in("proof", "lam", "0,1", "-1/5"), "rate-method"),
        (set_in("proof", "lam", "0,7", "1/5"), "rate-method"),
        (set_in("proof", "mu", "0,1", "1/5"), "rate-method"),
        (set_in("proof", "method", "m", "1/11"), "rate-method"),
        (set_in("proof", "nu", "0,1", "1/5"), "transient-method"),
        (set_in("proof", "transient", "1/2"), "transient-method"),
        (set_in("floor", "3/4"), "floor-method"),
        (set_in("obstruction", None), "floor-method"),
        (set_in("obstruction", "rho", "8/10"), "floor-method"),
        (set_in("obstruction", "f", ["1/2"]), "floor-method"),
        (set_in("obstruction", "f", 0, "1000"), "floor-method"),
        (set_in("obstruction", "Z", 0, 1, "5"), "floor-method"),
        (set_in("obstruction", "Z", 0, 0, "-5"), "floor-method"),
    ],
)
def test_a_proof_with_one_part_changed_is_refuted(change: Callable[[dict], None], claim: str) -> None:
    problem = fixed_step("nag", 0.1, 1.0)
    certificate = solve(problem, RateSearch(), budget=Budget(steps=40)).certificate
    assert certificate is not None
    assert set(verdicts(certificate, problem).values()) == {"confirmed"}
    assert verdicts(spoiled(certificate, change), problem)[claim] == "refuted"


def test_a_function_scaled_down_still_falls_but_no_longer_bounds_the_state() -> None:
    """All of P, p, lam, mu times a thousandth: only V >= |xi|^2 is lost; times a thousand, only V <= c |xi|^2 is."""
    problem = fixed_step("nag", 0.1, 1.0)
    certificate = solve(problem, RateSearch(), budget=Budget(steps=40)).certificate
    assert certificate is not None

    def scaled(factor: Fraction) -> Callable[[dict], None]:
        def change(record: dict) -> None:
            proof = record["proof"]
            proof["P"] = [[str(factor * Fraction(x)) for x in row] for row in proof["P"]]
            proof["p"] = [str(factor * Fraction(x)) for x in proof["p"]]
            for name in ("lam", "mu", "nu"):
                proof[name] = {pair: str(factor * Fraction(x)) for pair, x in proof[name].items()}

        return change

    smaller = verdicts(spoiled(certificate, scaled(Fraction(1, 1000))), problem)
    assert smaller["rate-method"] == "refuted"
    larger = verdicts(spoiled(certificate, scaled(Fraction(1000))), problem)
    assert larger["transient-method"] == "refuted"


@pytest.mark.parametrize(
    "change",
    [
        set_in("cycle", "values", 0, "9"),
        set_in("cycle", "gradients", 0, 0, "7/3"),
        set_in("cycle", "states", 0, 0, 0, "1/7"),
        set_in("cycle", "values", ["1", "1"]),
    ],
)
def test_a_cycle_with_one_part_changed_is_refuted(change: Callable[[dict], None]) -> None:
    found = certify([["13/9", "-4/9"], [1, 0]], ["-1/9", 0], [1, 0], 1, 25)
    certificate = certify_rate_result(found.method, found)
    assert verdicts(certificate, found.method) == {"cycle-method": "confirmed"}
    assert verdicts(spoiled(certificate, change), found.method) == {"cycle-method": "refuted"}


def test_undecided_is_not_said_where_a_proof_is_at_hand() -> None:
    open_case = certify(OSCILLATOR["A"], OSCILLATOR["B"], OSCILLATOR["C"], "999/1000", 1)
    assert open_case.outcome == "undecided"
    certificate = certify_rate_result(open_case.method, open_case)
    assert verdicts(certificate, open_case.method) == {"rate-method": "confirmed"}
    lower = spoiled(certificate, set_in("floor", "1/2"))
    assert verdicts(lower, open_case.method) == {"rate-method": "refuted"}
    proved = solve(fixed_step("nag", 0.1, 1.0), RateSearch(), budget=Budget(steps=40)).certificate
    assert proved is not None
    stolen = spoiled(certificate, set_in("proof", proved.evidence["proofs.json"]["method"]["proof"]))
    assert verdicts(stolen, open_case.method) == {"rate-method": "refuted"}


def test_the_proof_does_not_fit_another_problem() -> None:
    certificate = solve(fixed_step("nag", 0.1, 1.0), RateSearch(), budget=Budget(steps=40)).certificate
    assert certificate is not None
    moved = dataclasses.replace(certificate, fingerprint="")
    assert set(verdicts(moved, fixed_step("nag", 0.2, 1.0)).values()) == {"refuted"}
    assert set(verdicts(certificate, fixed_step("nag", 0.2, 1.0)).values()) == {"unchecked"}
