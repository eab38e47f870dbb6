"""Claims and the certificate that carries them with their evidence. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from surefoot.records.files import UnsafeFileError, check_evidence_name
from surefoot.records.numbers import Number, as_number, to_float
from surefoot.records.rundir import RunReader
from surefoot.records.trees import require_distinct, typed

Kind = Literal["proved", "statistical", "measured"]
Outcome = Literal["holds", "fails", "undecided"]
Scope = Literal["answer", "expectation", "probability"]
STRENGTH: Mapping[str, int] = {"measured": 0, "statistical": 1, "proved": 2}


@dataclass(frozen=True)
class Premise:
    """Something a claim takes for granted, and how it is known."""

    text: str
    known: Literal["exact", "declared", "estimated"] = "exact"


FLOAT64 = Premise("arithmetic in float64 is taken for exact", "declared")


@dataclass(frozen=True)
class Confidence:
    """The level of a statistical claim, the test or bound behind it, the sample size, and its reach."""

    level: float
    test: str
    samples: int
    reach: Literal["each", "joint"] = "each"


def capped(kind: Kind, premises: Sequence[Premise]) -> Kind:
    """A guess among the premises makes a proof a measurement."""
    return "measured" if any(p.known == "estimated" for p in premises) else kind


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence about the answer that a checker can confirm or refute.

    The number `value` stands in `relation` to `bound` up to `tolerance`; a claim without a bound reports a value. `check` is the
    key of the checker in the card's CHECKS; `evidence` names what it reads: files ("trace.npz"), "answer", inputs ("input:table").
    """

    name: str
    statement: str
    value: Number
    relation: Literal["<=", ">=", "=="] = "<="
    bound: Number = None
    tolerance: float = 0.0
    kind: Kind
    outcome: Outcome = "holds"
    scope: Scope = "answer"
    confidence: Confidence | None = None
    premises: tuple[Premise, ...] = ()
    check: str
    evidence: tuple[str, ...] = ()
    reason: str = ""  # why undecided, or why it fails

    def __post_init__(self) -> None:
        if self.kind != capped(self.kind, self.premises):
            raise ValueError(
                f"claim {self.name!r} is called {self.kind} but rests on an estimate; use capped(kind, premises)"
            )
        if self.kind == "statistical" and self.confidence is None:
            raise ValueError(f"claim {self.name!r} is statistical; give its confidence")
        if self.outcome == "undecided" and not self.reason:
            raise ValueError(f"claim {self.name!r} is undecided; give the reason")

    def satisfied(self, value: Number = None) -> bool:
        """Whether `value` (default: the claim's own) satisfies the relation; False for nan."""
        left = as_number(self.value if value is None else value)
        if self.bound is None:
            return isinstance(left, Fraction) or math.isfinite(left)
        right = as_number(self.bound)
        if self.tolerance:
            left, right = to_float(left), to_float(right)
        if self.relation == "<=":
            return bool(left <= right + self.tolerance) if self.tolerance else bool(left <= right)
        if self.relation == ">=":
            return bool(left >= right - self.tolerance) if self.tolerance else bool(left >= right)
        return bool(abs(left - right) <= self.tolerance) if self.tolerance else bool(left == right)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Claim:
        """A claim from a certificate file, every field checked against its type."""
        claim = typed(tree, cls)
        if not 0 <= claim.tolerance < math.inf:
            raise TypeError(f"the tolerance of claim {claim.name!r} is {claim.tolerance}")
        if claim.bound is not None and math.isnan(to_float(as_number(claim.bound))):
            raise TypeError(f"the bound of claim {claim.name!r} is no number")
        for name in claim.evidence:
            if name != "answer" and not name.startswith("input:"):
                check_evidence_name(name)
        return claim


@dataclass(frozen=True)
class Certificate:
    """Claims, the problem's fingerprint, and the evidence saved beside them.

    Evidence is NAME.npz (dict of arrays), NAME.json (a JSON tree) or NAME.csv (dict of columns).
    """

    card: str  # whose CHECKS know how to check the claims
    claims: tuple[Claim, ...]
    fingerprint: str  # of the problem; "" where it has none (then only in-process checks are possible)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_distinct("claim", (claim.name for claim in self.claims))
        for name in self.evidence:
            check_evidence_name(name)
        for claim in self.claims:
            missing = [
                e for e in claim.evidence if e != "answer" and not e.startswith("input:") and e not in self.evidence
            ]
            if missing:
                raise ValueError(f"claim {claim.name!r} needs evidence {missing} that the certificate does not hold")

    def claim(self, name: str) -> Claim:
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise KeyError(f"no claim {name!r}; there are {[c.name for c in self.claims]}")


def read_claims(reader: RunReader) -> list[Claim]:
    """The claims of a run directory.

    Raises:
        UnsafeFileError: a field of the wrong type, or a claim that contradicts itself.
    """
    trees = reader.certificate_tree["claims"]
    try:
        claims = [Claim.from_json(tree) for tree in trees]
        require_distinct("claim", (claim.name for claim in claims))
    except (TypeError, ValueError) as error:
        raise UnsafeFileError(f"certificate.json: {error}") from error
    return claims
