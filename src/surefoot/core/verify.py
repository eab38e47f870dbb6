"""Checking claims again, with code that shares nothing with the solver.

A verdict is `confirmed`, `refuted` or `unchecked` (an input is not at hand); never confirmed by default.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surefoot.core.certificate import STRENGTH, Certificate, Claim, Kind, read_claims
from surefoot.core.rundir import RunReader
from surefoot.records.files import UnsafeFileError, as_read
from surefoot.records.numbers import Number, agree, show

if TYPE_CHECKING:
    from surefoot.core.system import System

# What spoiled evidence makes correct checkers raise; anything else is a fault of the checker and is shown.
UNUSABLE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, EOFError, OSError, RuntimeError,
    np.linalg.LinAlgError, UnsafeFileError,
)  # fmt: skip


class NotAtHandError(Exception):
    """Something the check needs is not here; the verdict is `unchecked`."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check, the value it found, and why."""

    claim: str
    verdict: Literal["confirmed", "refuted", "unchecked"]
    value: Number = None
    why: str = ""


class _Evidence(dict[str, Any]):
    """Evidence by name, read when first asked for."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    def __missing__(self, name: str) -> Any:
        self[name] = self._read(name)
        return self[name]


@dataclass
class Dossier:
    """All a checker may read. `problem` and `answer` raise where they are not at hand."""

    evidence: Mapping[str, Any]
    read_problem: Callable[[], Any]
    read_answer: Callable[[], Any]
    full: bool = False
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    notes: list[str] = field(default_factory=list)
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> Any:
        if "problem" not in self._kept:
            self._kept["problem"] = self.read_problem()
        return self._kept["problem"]

    @property
    def answer(self) -> Any:
        if "answer" not in self._kept:
            self._kept["answer"] = self.read_answer()
        return self._kept["answer"]

    def rows(self, total: int, sample: int = 64) -> np.ndarray:
        """Which of `total` costly rows to redo: all of them with `full`, else a fresh random subset.

        Size and seed go into the verdict.
        """
        if self.full or total <= sample:
            return np.arange(total)
        self.notes.append(f"{sample} of {total} rows redone (seed {self.seed}); --full redoes all")
        return np.sort(np.random.default_rng(self.seed).choice(total, sample, replace=False))


Check = Callable[[Claim, Dossier], Verdict]


def refute(claim: Claim, why: str, value: Number = None) -> Verdict:
    """The claim is wrong, or its evidence does not support it."""
    return Verdict(claim.name, "refuted", value, why)


def unchecked(claim: Claim, why: str) -> Verdict:
    """Something needed is not at hand."""
    return Verdict(claim.name, "unchecked", None, why)


def compare(
    claim: Claim, value: Number, *, supports: Kind, bound: Number = None, rtol: float = 1e-9, atol: float = 0.0,
    undecided: bool = False, why: str = "",
) -> Verdict:  # fmt: skip
    """Confirm `claim` if the recomputed `value` (and `bound`) agree with it; refute it otherwise.

    Args:
        value: what the checker found. Rationals ("a/b") must agree exactly.
        supports: the strongest kind this check can carry; a claim that says more is refuted.
        bound: the recomputed bound, where the checker knows it.
        rtol, atol: allowed difference of floats.
        undecided: the checker, too, could not decide (then the claim must say so).
    """
    if STRENGTH[claim.kind] > STRENGTH[supports]:
        return refute(claim, f"called {claim.kind}, but this check supports only {supports}", value)
    if not agree(claim.value, value, rtol, atol):
        return refute(claim, f"the value is {show(value)}, not {show(claim.value)}", value)
    if bound is not None and not agree(claim.bound, bound, rtol, atol):
        return refute(claim, f"the bound is {show(bound)}, not {show(claim.bound)}", value)
    found = "undecided" if undecided else "holds" if claim.satisfied(value) else "fails"
    if found != claim.outcome:
        return refute(claim, f"the outcome is {found!r}, not {claim.outcome!r}: the value is {show(value)}", value)
    return Verdict(claim.name, "confirmed", value, why)


def _judge(
    claims: list[Claim], checks: Mapping[str, Check], dossier: Dossier, stale: Mapping[str, str]
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for claim in claims:
        dossier.notes.clear()
        check = checks.get(claim.check)
        leans_on = {*(f"evidence/{name}" for name in claim.evidence), "answer" if "answer" in claim.evidence else ""}
        wrong = [f"{name} {what}" for name, what in stale.items() if leans_on & {name, name.split("/")[0]}]
        try:
            found = check(claim, dossier) if check else unchecked(claim, f"this version has no checker {claim.check!r}")
            found = refute(claim, "; ".join(wrong)) if wrong and found.verdict == "confirmed" else found
        except NotAtHandError as error:
            found = unchecked(claim, str(error))
        except UNUSABLE as error:
            found = refute(claim, f"its evidence cannot be used: {type(error).__name__}: {error}")
        why = "; ".join(part for part in [found.why, *dossier.notes] if part)
        verdicts.append(dataclasses.replace(found, claim=claim.name, why=why))
    return verdicts


def verify(
    certificate: Certificate, checks: Mapping[str, Check], problem: Any = None, answer: Any = None, *,
    full: bool = False, seed: int | None = None,
) -> list[Verdict]:  # fmt: skip
    """Check a certificate in process, with the same checkers that `verify_run` uses."""

    def read_problem() -> Any:
        if problem is None:
            raise NotAtHandError("the problem was not given")
        if certificate.fingerprint and problem.fingerprint() != certificate.fingerprint:
            raise NotAtHandError("the problem at hand is not the one that was certified")
        return problem

    def read_answer() -> Any:
        if answer is None:
            raise NotAtHandError("the answer was not given")
        return answer

    evidence = _Evidence(lambda name: as_read(name, certificate.evidence[name]))
    dossier = Dossier(evidence, read_problem, read_answer, full)
    dossier.seed = dossier.seed if seed is None else seed
    return _judge(list(certificate.claims), checks, dossier, {})


def verify_run(
    path: str | Path, system: System, *, data: str | Path | None = None, trust: bool = False, full: bool = False,
    seed: int | None = None, write: bool = True,
) -> list[Verdict]:  # fmt: skip
    """Check a run directory: hashes first, then the inputs, then every claim; writes verdict.json.

    The directory is data. Code that it names (recipes) is loaded only with `trust`.

    Args:
        data: where to look for inputs that are not where they were.
        full: redo every costly row.
        seed: of the random subset of costly rows; default: fresh.
    """
    reader = RunReader(path)
    claims = read_claims(reader)
    stale = reader.changed_files()
    private = system.traits.private

    def read_problem() -> Any:
        if private:
            raise NotAtHandError("a private run is checked from its ledger, without the data")
        problem = system.reload(reader, data=data, trust=trust)
        recorded = reader.certificate_tree["fingerprint"]
        if recorded and problem.fingerprint() != recorded:
            raise NotAtHandError("the inputs at hand give another problem than the one that was certified")
        return problem

    dossier = Dossier(_Evidence(reader.evidence), read_problem, lambda: system.read_answer(reader.answer_dir), full)
    dossier.seed = dossier.seed if seed is None else seed
    verdicts = _judge(claims, system.checks(), dossier, stale)
    if write:
        reader.write_verdicts([dataclasses.asdict(v) for v in verdicts], seed=dossier.seed, full=full)
    return verdicts
