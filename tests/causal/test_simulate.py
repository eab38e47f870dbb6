"""The generators against the moments that they must have."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from surefoot.causal.simulate import (
    equal_variance_model,
    random_dag,
    random_weights,
    simulate,
    unequal_variance_model,
    varsortability,
)


def test_erdos_renyi_graphs_have_about_kd_edges() -> None:
    rng = np.random.default_rng(0)
    counts = [random_dag(rng, 30, 4).sum() for _ in range(200)]
    assert np.mean(counts) == pytest.approx(120, abs=3 * np.std(counts) / np.sqrt(200))


@pytest.mark.parametrize("kind", ["er", "sf"])
def test_graphs_are_acyclic_and_shuffled(kind) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        support = random_dag(rng, 20, 3, kind)
        assert nx.is_directed_acyclic_graph(nx.DiGraph(support))
    assert np.tril(support).any()
    assert np.triu(support).any()


def test_scale_free_graphs_have_hubs() -> None:
    support = random_dag(np.random.default_rng(2), 200, 2, "sf")
    assert support.sum() == 2 * (200 - 2)
    assert (support + support.T).sum(axis=0).max() > 20


@pytest.mark.parametrize("noise", ["normal", "exponential", "laplace", "gumbel"])
def test_samples_have_the_models_covariance(noise) -> None:
    rng = np.random.default_rng(3)
    weights = random_weights(rng, random_dag(rng, 4, 1))
    variances = np.array([0.5, 1.0, 2.0, 4.0])
    sample = simulate(rng, weights, 200_000, variances, noise)
    mixing = np.linalg.inv(np.eye(4) - weights)
    expected = mixing.T @ np.diag(variances) @ mixing
    np.testing.assert_allclose(np.cov(sample.values, rowvar=False), expected, rtol=0.05, atol=0.05 * expected.max())


def test_weights_stay_in_their_ranges() -> None:
    equal, unequal = equal_variance_model(0, 30).weights, unequal_variance_model(0, 30).weights
    for weights, low, high in ((equal, 0.5, 2.0), (unequal, 0.25, 1.0)):
        size = np.abs(weights[weights != 0])
        assert low <= size.min()
        assert size.max() <= high
        assert (weights > 0).any()
        assert (weights < 0).any()


def test_seeds_repeat() -> None:
    np.testing.assert_array_equal(equal_variance_model(5, 6).values, equal_variance_model(5, 6).values)


def test_varsortability_of_rising_and_falling_chains() -> None:
    chain = np.array([[0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])
    rng = np.random.default_rng(4)
    rising = rng.normal(size=(100, 3)) * [1, 2, 3]
    rising = (rising - rising.mean(axis=0)) / rising.std(axis=0) * [1, 2, 3]
    assert varsortability(rising, chain) == 1.0
    assert varsortability(rising[:, ::-1], chain) == 0.0
    assert varsortability(rising / [1, 2, 3], chain) == 0.5


def test_cycles_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        simulate(np.random.default_rng(0), np.array([[0, 1.0], [1.0, 0]]), 10)
