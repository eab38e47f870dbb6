"""Reading what a checker may read, and holding it against each other: evidence, answer, input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.causal.problem import Dag, Table
from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, NotAtHandError

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the input."""


@dataclass(frozen=True, eq=False)
class Case:
    """Everything a checker reads, already held against each other."""

    covariance: Array
    rows: int
    table: Table | None
    allowed: Mask
    required: Mask
    before: Mask

    @property
    def floor(self) -> float:
        return 0.01 * float(np.sqrt(np.diag(self.covariance)).min())


def read_case(claim: Claim, dossier: Dossier) -> Case:
    stored = dossier.evidence["covariance.npz"]
    covariance, rows = np.asarray(stored["covariance"], dtype=np.float64), int(np.asarray(stored["rows"]).item())
    order = len(covariance)
    if covariance.shape != (order, order) or order < 2 or not np.isfinite(covariance).all() or rows < 2:
        raise EvidenceError("the covariance is not a square matrix of finite numbers from at least two rows")
    if np.abs(covariance - covariance.T).max() > 1e-12 * np.abs(covariance).max():
        raise EvidenceError("the covariance is not symmetric")
    values = np.linalg.eigvalsh(covariance)
    if values[0] < -1e-10 * values[-1] or np.diag(covariance).min() <= 0.0:
        raise EvidenceError("the covariance is not positive semidefinite")
    try:
        table: Table | None = dossier.problem
    except NotAtHandError as error:
        table = None
        dossier.notes.append(f"the covariance was not compared with the input: {error}")
    if table is not None:
        _compare_with_input(covariance, rows, table)
    return Case(covariance, rows, table, *_masks(claim, dossier, order, table))


def _compare_with_input(covariance: Array, rows: int, table: Table) -> None:
    if rows != table.rows:
        raise EvidenceError(f"the evidence counts {rows} rows, the input has {table.rows}")
    scale = np.sqrt(np.outer(np.diag(table.covariance), np.diag(table.covariance)))
    expected = table.covariance
    if table.values is not None and len(table.values) == table.rows:
        expected = np.cov(table.values, rowvar=False, bias=True)
    if covariance.shape != expected.shape or np.abs(covariance - expected).max(initial=0.0) > 1e-8 * scale.max():
        raise EvidenceError("the covariance is not that of the input")
    if (np.abs(covariance - expected) > 1e-7 * scale).any():
        raise EvidenceError("the covariance is not that of the input")


def _masks(claim: Claim, dossier: Dossier, order: int, table: Table | None) -> tuple[Mask, Mask, Mask]:
    nothing = np.zeros((order, order), dtype=bool)
    if "knowledge.npz" not in claim.evidence:
        if table is not None and table.knowledge.allowed is not None:
            raise EvidenceError("the background knowledge of the problem is missing from the evidence")
        return ~nothing, nothing, nothing
    if table is None:
        raise NotAtHandError("the background knowledge can only be compared with the problem, which is not at hand")
    stored, known = dossier.evidence["knowledge.npz"], table.knowledge
    expected = {"allowed": known.allowed, "required": known.required, "before": known.before}
    for name, mask in expected.items():
        if not np.array_equal(np.asarray(stored[name]), nothing if mask is None else mask):
            raise EvidenceError(f"the mask {name!r} is not the problem's")
    return tuple(np.asarray(stored[name], dtype=bool) for name in expected)  # type: ignore[return-value]


def read_matrix(stored: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    array = np.asarray(stored[name], dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise EvidenceError(f"{name!r} is not {' x '.join(map(str, shape))} finite numbers")
    return array


def read_setting(dossier: Dossier) -> tuple[bool, float, dict[str, Any]]:
    """Whether noise is equal, the sparsity, and the rest."""
    setting = dict(dossier.evidence["setting.json"])
    if setting["variance"] not in ("equal", "unequal") or setting["refine"] not in ("none", "order"):
        raise EvidenceError("the setting names an unknown variance model or refinement")
    if not isinstance(setting["self_edges"], bool):
        raise EvidenceError("the setting does not say whether the path allowed self-edges")
    for name in ("sparsity", "centre", "acyclicity_scale"):
        if isinstance(setting[name], bool) or not np.isfinite(float(setting[name])) or float(setting[name]) < 0.0:
            raise EvidenceError(f"the setting's {name} is not a number >= 0")
    return setting["variance"] == "equal", float(setting["sparsity"]), setting


def read_answer(dossier: Dossier, case: Case) -> Dag:
    dag = dossier.answer
    order = len(case.covariance)
    if dag.adjacency.shape != (order, order) or not np.isfinite(dag.adjacency).all():
        raise EvidenceError("the graph is not a square matrix of finite numbers of the covariance's order")
    if sorted(dag.order) != list(range(order)):
        raise EvidenceError("the causal order does not list every variable once")
    if case.table is not None and tuple(dag.names) != case.table.names:
        raise EvidenceError("the graph's variables are not the input's columns")
    return dag
