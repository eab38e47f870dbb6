"""The checkers refute what is wrong, also where it is consistent with itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from surefoot.causal.knowledge import knowledge
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Dag, Table, table
from surefoot.causal.simulate import equal_variance_model
from surefoot.causal.verify import CHECKS
from surefoot.core.certificate import Certificate
from surefoot.core.solve import Budget, Result, solve
from surefoot.core.verify import verify

SHORT = {"acyclicity_scales": (1.0, 0.9), "warm_steps": 600, "last_steps": 600}


def judged(result: Result[Dag], problem: Table | None, certificate: Certificate | None = None, answer=None) -> dict:
    certificate = certificate or result.certificate
    assert certificate is not None
    return {v.claim: v for v in verify(certificate, CHECKS, problem, answer or result.answer)}


@pytest.fixture(scope="module")
def problem() -> Table:
    return table(equal_variance_model(0, 6, 2, rows=300).values)


@pytest.fixture(scope="module")
def result(problem: Table) -> Result[Dag]:
    return solve(problem, ConcomitantPath(variance="equal", **SHORT))


CONFIGURATIONS = [
    {},
    {"variance": "equal"},
    {"solver": "proximal"},
    {"variance": "equal", "refine": "order"},
    {"sparsity": 0.0},
    {"repair": "ascending", "threshold": 0.0},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_every_configuration_is_confirmed(problem: Table, options) -> None:
    found = solve(problem, ConcomitantPath(**SHORT, **options))
    assert {v.verdict for v in judged(found, problem).values()} == {"confirmed"}
    names = {claim.name for claim in found.certificate.claims}
    assert ("order_gap" in names) == (options.get("sparsity") != 0.0)
    assert ("order_excess" in names) == (options.get("variance") == "equal")


def test_without_the_input_the_covariance_still_binds_everything(result: Result[Dag]) -> None:
    verdicts = judged(result, None)
    assert verdicts.pop("covariance").verdict == "unchecked"
    assert {v.verdict for v in verdicts.values()} == {"confirmed"}
    assert all("not compared with the input" in v.why for v in verdicts.values())


def test_another_input_leaves_the_covariance_unchecked(result: Result[Dag]) -> None:
    other = table(equal_variance_model(1, 6, 2, rows=300).values)
    verdict = judged(result, other)["covariance"]
    assert verdict.verdict == "unchecked"
    assert "not the one that was certified" in verdict.why


def test_another_covariance_with_a_matching_story_is_refuted(result: Result[Dag], problem: Table) -> None:
    """Everything scaled by one factor is consistent in itself; only the input shows that it is wrong."""
    certificate = result.certificate
    assert certificate is not None
    stored = certificate.evidence["covariance.npz"]
    evidence = {**certificate.evidence, "covariance.npz": {**stored, "covariance": 1.0001 * stored["covariance"]}}
    forged = dataclasses.replace(certificate, evidence=evidence)
    assert {v.verdict for v in judged(result, problem, forged).values()} == {"refuted"}


def test_an_answer_with_an_edge_turned_is_refuted(result: Result[Dag], problem: Table) -> None:
    adjacency = result.answer.adjacency.copy()
    source, target = np.argwhere(adjacency)[0]
    adjacency[target, source], adjacency[source, target] = adjacency[source, target], 0.0
    verdicts = judged(result, problem, answer=dataclasses.replace(result.answer, adjacency=adjacency))
    assert verdicts["acyclic"].verdict == "refuted"
    assert verdicts["edges"].verdict == "refuted"


def test_an_answer_with_a_cycle_is_refuted_whatever_order_it_states(result: Result[Dag], problem: Table) -> None:
    adjacency = np.abs(result.answer.adjacency) + 0.5
    np.fill_diagonal(adjacency, 0.0)
    verdict = judged(result, problem, answer=dataclasses.replace(result.answer, adjacency=adjacency))["acyclic"]
    assert verdict.verdict == "refuted"
    assert "cycle" in verdict.why


def test_a_worse_refit_presented_as_the_optimum_is_refuted(result: Result[Dag], problem: Table) -> None:
    """Zero weights have a consistent noise level, but their gap does not close."""
    certificate = result.certificate
    assert certificate is not None
    noise = np.array([np.sqrt(np.mean(np.diag(problem.covariance)))])
    evidence = {**certificate.evidence, "order_fit.npz": {"weights": np.zeros((6, 6)), "noise_std": noise}}
    forged = dataclasses.replace(certificate, evidence=evidence)
    assert judged(result, problem, forged)["order_gap"].verdict == "refuted"


def test_residuals_of_another_sample_are_refuted(result: Result[Dag], problem: Table) -> None:
    """Columns of the right variances, sorted and centred, but not these data's."""
    certificate = result.certificate
    assert certificate is not None
    columns = certificate.evidence["residuals.npz"]["sorted"]
    rng = np.random.default_rng(0)
    fake = rng.laplace(size=columns.shape)
    fake -= fake.mean(axis=0)
    fake = np.sort(fake / fake.std(axis=0) * columns.std(axis=0), axis=0)
    forged = dataclasses.replace(certificate, evidence={**certificate.evidence, "residuals.npz": {"sorted": fake}})
    verdict = judged(result, problem, forged)["order_test_brown_forsythe"]
    assert verdict.verdict == "refuted"


@pytest.mark.parametrize("option", ["sparsity", "centre", "acyclicity_scale"])
def test_another_setting_is_refuted(result: Result[Dag], problem: Table, option: str) -> None:
    certificate = result.certificate
    assert certificate is not None
    setting = {**certificate.evidence["setting.json"], option: 1.01 * certificate.evidence["setting.json"][option]}
    forged = dataclasses.replace(certificate, evidence={**certificate.evidence, "setting.json": setting})
    assert "refuted" in {v.verdict for v in judged(result, problem, forged).values()}


def test_a_singular_covariance_leaves_the_order_undecided_and_says_so() -> None:
    values = np.random.default_rng(0).normal(size=(60, 3))
    problem = table(values[:, [0, 1, 2, 0]])
    found = solve(problem, ConcomitantPath(variance="equal", **SHORT))
    claim = found.certificate.claim("order_excess")
    assert claim.outcome == "undecided"
    assert "singular" in claim.reason
    assert {v.verdict for v in judged(found, problem).values()} == {"confirmed"}
    sound = table(values)
    other = solve(sound, ConcomitantPath(variance="equal", **SHORT))
    claims = tuple(
        dataclasses.replace(c, value=None, outcome="undecided", reason="no") if c.name == "order_excess" else c
        for c in other.certificate.claims
    )
    forged = dataclasses.replace(other.certificate, claims=claims)
    assert judged(other, sound, forged)["order_excess"].verdict == "refuted"  # it can be decided


def test_a_path_stopped_early_is_undecided_about_stationarity(problem: Table) -> None:
    found = solve(problem, ConcomitantPath(**SHORT), budget=Budget(steps=100))
    assert found.certificate.claim("stationarity").outcome == "undecided"
    assert {v.verdict for v in judged(found, problem).values()} == {"confirmed"}


def test_knowledge_is_checked_against_the_problem(problem: Table) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    known = knowledge(names, exclude=[("a", "b")], require=[("f", "e")])
    values = equal_variance_model(0, 6, 2, rows=300).values
    informed = table(values, names, knowledge=known)
    found = solve(informed, ConcomitantPath(**SHORT))
    assert {v.verdict for v in judged(found, informed).values()} == {"confirmed"}
    assert {v.verdict for v in judged(found, None).values()} == {"unchecked"}
    masks = found.certificate.evidence["knowledge.npz"]
    evidence = {**found.certificate.evidence, "knowledge.npz": {**masks, "required": np.zeros((6, 6), dtype=bool)}}
    forged = dataclasses.replace(found.certificate, evidence=evidence)
    assert {v.verdict for v in judged(found, informed, forged).values()} == {"refuted"}


def test_order_tests_keep_their_level_in_the_certificate() -> None:
    """The true order of a Laplace model is not refuted by Brown and Forsythe's test; a wrong one is."""
    model = equal_variance_model(2, 5, 2, rows=400, noise="laplace")
    problem = table(model.values)
    method = ConcomitantPath(variance="equal", refine="order", **SHORT)
    claim = solve(problem, method).certificate.claim("order_test_brown_forsythe")
    assert claim.outcome == "holds"
    assert claim.kind == "statistical"
