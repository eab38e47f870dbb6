"""What the order repair promises under equal noise, and background knowledge in a whole fit."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from surefoot.causal.knowledge import knowledge
from surefoot.causal.metrics import structural_hamming_distance
from surefoot.causal.order_test import test_order
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import table, table_from_chunks
from surefoot.causal.simulate import equal_variance_model, simulate
from surefoot.core.solve import solve

SHORT = {"acyclicity_scales": (1.0, 0.9), "warm_steps": 1500, "last_steps": 1500}


@pytest.mark.parametrize("variance", [1.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_order_repair_finds_the_graph_under_equal_noise(seed: int, variance: float) -> None:
    """ER4 with d = 20, where the path alone is ten edges off (sheet: 10.4 +- 7.1)."""
    model = equal_variance_model(seed, 20, variance=variance)
    problem = table(model.values)
    found = solve(problem, ConcomitantPath(variance="equal", refine="order", **SHORT), certify=False).answer
    assert structural_hamming_distance(found.adjacency, model.weights) <= 1
    assert found.noise_std[0] == pytest.approx(np.sqrt(variance), rel=0.03)
    tested = test_order(problem.covariance, found.order, problem.rows, problem.values)
    assert tested.bartlett_p_value is not None
    assert tested.bartlett_p_value > 0.01


def test_the_path_alone_recovers_a_sparse_graph() -> None:
    """A chain with clear weights and unequal noise along it."""
    weights = np.zeros((5, 5))
    for j in range(4):
        weights[j, j + 1] = 1.5
    sample = simulate(np.random.default_rng(0), weights, 2000, np.array([1.0, 1.2, 0.9, 1.1, 1.0]))
    found = solve(table(sample.values), ConcomitantPath(warm_steps=6000, last_steps=10_000), certify=False).answer
    assert structural_hamming_distance(found.adjacency, weights) == 0
    np.testing.assert_allclose(found.adjacency[weights != 0], 1.5, atol=0.15)


@pytest.mark.parametrize(("variance", "refine"), [("unequal", "none"), ("equal", "order")])
@pytest.mark.parametrize("solver", ["adam", "proximal"])
def test_background_knowledge_holds_in_every_answer(variance, refine, solver) -> None:
    model = equal_variance_model(3, 6, 2, rows=300)
    names = ("a", "b", "c", "d", "e", "f")
    known = knowledge(names, exclude=[("a", "b")], require=[("f", "e")], tiers=[["c"], ["d", "e"]])
    problem = table(model.values, names, knowledge=known)
    method = ConcomitantPath(variance=variance, refine=refine, solver=solver, **SHORT)
    found = solve(problem, method, certify=False).answer
    edges = {(source, target) for source, target, _ in found.edges}
    assert ("f", "e") in edges
    assert not edges & {("a", "b"), ("e", "f"), ("d", "c"), ("e", "c")}
    assert nx.is_directed_acyclic_graph(nx.DiGraph(list(edges)))
    place = {names[node]: k for k, node in enumerate(found.order)}
    assert place["c"] < min(place["d"], place["e"])


class TestTables:
    rng = np.random.default_rng(0)

    def test_chunks_give_the_same_moments_as_one_piece(self) -> None:
        values = self.rng.normal(size=(5000, 3)) * [1, 10, 0.1] + [1e6, 0, -3]
        chunks = np.split(values, [10, 11, 3000, 4999])
        whole, streamed = table(values), table_from_chunks(("a", "b", "c"), chunks, max_values=1000)
        np.testing.assert_allclose(streamed.covariance, whole.covariance, rtol=1e-9)
        assert streamed.rows == 5000
        assert streamed.values is not None
        assert 500 <= len(streamed.values) <= 1000
        np.testing.assert_array_equal(streamed.values, values[:: 5000 // len(streamed.values)][: len(streamed.values)])

    def test_the_callers_array_is_left_alone(self) -> None:
        values = self.rng.normal(size=(50, 3)) + 5
        before = values.copy()
        solve(table(values, scale="unit"), ConcomitantPath(acyclicity_scales=(1.0,), last_steps=5), certify=False)
        np.testing.assert_array_equal(values, before)

    @pytest.mark.parametrize(
        ("values", "names", "words"),
        [
            (np.ones(5), None, "shape"),
            (rng.normal(size=(1, 3)), None, "n_samples = 1"),
            (rng.normal(size=(9, 1)), None, "n_features = 1"),
            (np.array([[1.0, 2], [np.nan, 3], [2, 2]]), ("u", "v"), "column 'u' has a missing value .* row 2"),
            (np.array([[1.0, 2], [0, np.inf], [2, 2]]), ("u", "v"), "column 'v' has an infinite value .* row 2"),
            (np.array([[1.0, 0.1], [2, 0.1], [4, 0.1]]), ("u", "v"), "column 'v' is constant"),
            (rng.normal(size=(9, 2)), ("u", "u"), "'u' occurs more than once"),
            (rng.normal(size=(9, 2)), ("u",), "1 names for 2 columns"),
        ],
    )
    def test_bad_tables_are_refused_by_name(self, values, names, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            table(values, names)

    def test_uneven_spreads_and_dependent_columns_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        values = self.rng.normal(size=(50, 3)) * [1, 1, 1000]
        table(values, ("a", "b", "c"))
        assert "'c' and" in caplog.text
        caplog.clear()
        table(values[:, [0, 1, 0]], ("a", "b", "c"))
        assert "'c' is a combination" in caplog.text
