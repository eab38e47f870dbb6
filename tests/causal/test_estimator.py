"""The scikit-learn estimator, bootstrap and batches."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from surefoot.causal.batch import fit_batch
from surefoot.causal.bootstrap import edge_stability
from surefoot.causal.estimator import CoLiDE
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import table
from surefoot.causal.simulate import equal_variance_model
from surefoot.causal.verify import CHECKS
from surefoot.core.solve import solve
from surefoot.core.verify import verify

SHORT = {"acyclicity_scales": (1.0, 0.9), "warm_steps": 800, "last_steps": 800}


def frame(seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(equal_variance_model(seed, 5, 1, rows=300).values, columns=list("abcde"))


@pytest.mark.filterwarnings("ignore:Skipping check")
def test_it_is_a_scikit_learn_estimator() -> None:
    check_estimator(CoLiDE(warm_steps=30, last_steps=30))


def test_attributes_and_graphs_carry_the_names() -> None:
    data = frame()
    fitted = CoLiDE(variance="equal", refine="order", **SHORT).fit(data)
    assert fitted.feature_names_in_.tolist() == list("abcde")
    graph = fitted.to_networkx()
    assert set(graph) == set("abcde")
    assert nx.is_directed_acyclic_graph(graph)
    for source, target, weight in graph.edges(data="weight"):
        assert weight == fitted.adjacency_["abcde".index(source), "abcde".index(target)]
    assert sorted(fitted.order_.tolist()) == [0, 1, 2, 3, 4]
    assert fitted.noise_std_.shape == (1,)
    assert fitted.order_test_.excess is not None
    assert fitted.order_test_.excess >= 0
    verdicts = verify(fitted.certificate_, CHECKS, table(data.to_numpy(), list("abcde")), fitted.dag_)
    assert {v.verdict for v in verdicts} == {"confirmed"}


def test_pgmpy_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fitted = CoLiDE(**SHORT, certify=False).fit(frame())
    monkeypatch.setitem(sys.modules, "pgmpy", None)
    monkeypatch.setitem(sys.modules, "pgmpy.base", None)
    with pytest.raises(ImportError, match="pip install pgmpy"):
        fitted.to_pgmpy()


def test_data_frames_fail_by_column_name() -> None:
    data = frame()
    with pytest.raises(ValueError, match="column 'site' holds text, for example 'north' in row 1"):
        CoLiDE(**SHORT).fit(data.assign(site="north"))
    with pytest.raises(ValueError, match="column 'b' has a missing value"):
        CoLiDE(**SHORT).fit(data.assign(b=[np.nan, *data["b"][1:]]))
    with pytest.raises(ValueError, match="occurs more than once"):
        CoLiDE(**SHORT).fit(data.set_axis(list("abcda"), axis=1))


def test_parameters_are_left_alone_by_fit() -> None:
    scales = [1.0, 0.9]
    estimator = CoLiDE(acyclicity_scales=scales, warm_steps=50, last_steps=50, learning_rate=1.0)
    clone(estimator.fit(frame()))
    assert scales == [1.0, 0.9]  # stages that start again raise s in their own copy


@pytest.mark.parametrize("options", [{"variance": "equal"}, {}, {"solver": "proximal"}], ids=["ev", "nv", "prox"])
def test_a_batch_gives_each_graph_what_it_gets_alone(options) -> None:
    problems = [table(equal_variance_model(seed, 6, 2, rows=200).values) for seed in range(5)]
    method = ConcomitantPath(acyclicity_scales=(1.0, 0.9), warm_steps=400, last_steps=900, checkpoint=100, **options)
    together = fit_batch(problems, method, max_lanes=3)
    for problem, found in zip(problems, together, strict=True):
        alone = solve(problem, method, certify=False).answer
        np.testing.assert_allclose(found.adjacency, alone.adjacency, atol=1e-6)
        np.testing.assert_allclose(found.noise_std, alone.noise_std, rtol=1e-6)
        assert found.order == alone.order


def test_a_batch_halves_steps_and_restarts_stages_like_a_single_path() -> None:
    problems = [table(equal_variance_model(seed, 6, 2, rows=200).values) for seed in range(4)]
    for scales in ((0.95,), (0.9, 0.8)):
        method = ConcomitantPath(
            acyclicity_scales=scales, warm_steps=60, last_steps=60, learning_rate=1.0, checkpoint=20
        )
        for problem, found in zip(problems, fit_batch(problems, method), strict=True):
            alone = solve(problem, method, certify=False).answer
            np.testing.assert_allclose(found.adjacency, alone.adjacency, atol=1e-6)


def test_a_batch_of_different_sizes_is_refused() -> None:
    problems = [table(equal_variance_model(0, order, 1, rows=50).values) for order in (4, 5)]
    with pytest.raises(ValueError, match="4, 5 variables"):
        fit_batch(problems, ConcomitantPath())


class TestBootstrap:
    method = ConcomitantPath(variance="equal", refine="order", acyclicity_scales=(1.0,), last_steps=200)

    def test_strong_edges_are_stable_and_absent_ones_are_not(self) -> None:
        weights = np.array([[0, 2.0, 0], [0, 0, 0], [0, 0, 0]])
        rng = np.random.default_rng(0)
        values = rng.normal(size=(400, 3))
        values[:, 1] += 2.0 * values[:, 0]
        found = edge_stability(table(values), self.method, resamples=20)
        assert found.frequency[0, 1] == 1.0
        assert found.mean_weight[0, 1] == pytest.approx(2.0, abs=0.15)
        assert found.std_weight[0, 1] == pytest.approx(1 / np.sqrt(400), rel=0.6)  # OLS: sd = 1 / (sd_x sqrt(n))
        assert found.frequency[weights == 0].max() <= 0.2
        assert [edge[:2] for edge in found.stable_edges()] == [("x0", "x1")]

    def test_workers_do_not_change_the_numbers(self) -> None:
        problem = table(equal_variance_model(1, 4, 1, rows=100).values)
        one = edge_stability(problem, self.method, resamples=6, fraction=0.5)
        two = edge_stability(problem, self.method, resamples=6, fraction=0.5, jobs=2, backend="threading")
        np.testing.assert_array_equal(one.frequency, two.frequency)
        np.testing.assert_array_equal(one.mean_weight, two.mean_weight)

    def test_bad_requests_are_refused(self) -> None:
        problem = table(equal_variance_model(1, 4, 1, rows=100).values)
        with pytest.raises(ValueError, match="resamples is 0"):
            edge_stability(problem, self.method, resamples=0)
        with pytest.raises(ValueError, match="fraction is 2"):
            edge_stability(problem, self.method, fraction=2)
