"""The drawing: causes left of effects, nothing on top of anything else."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.causal.dag import topological_order
from surefoot.causal.layout import layout
from surefoot.causal.problem import Dag
from surefoot.causal.simulate import random_dag


def dag(weights: np.ndarray) -> Dag:
    order = topological_order(weights)
    assert order is not None
    names = tuple(f"x{j}" for j in range(len(weights)))
    return Dag(weights, np.ones(1), tuple(order), names)


@pytest.mark.parametrize("seed", range(5))
def test_edges_run_to_the_right_past_the_nodes_between(seed: int) -> None:
    graph = dag(random_dag(np.random.default_rng(seed), 15, 2))
    plan = layout(graph)
    for (i, j), route in plan.routes.items():
        assert graph.adjacency[i, j] != 0
        along = [plan.places[i, 0], *route[:, 0], plan.places[j, 0]]
        assert np.diff(along).tolist() == [1.0] * (len(along) - 1)
    assert len(plan.routes) == np.count_nonzero(graph.adjacency)
    points = np.vstack([plan.places, *plan.routes.values()])
    for layer in np.unique(points[:, 0]):
        heights = np.sort(points[points[:, 0] == layer, 1])
        assert (np.diff(heights) > 0.5).all()


def test_parallel_edges_are_drawn_without_a_crossing() -> None:
    weights = np.zeros((6, 6))
    weights[0, 5] = weights[1, 4] = weights[2, 3] = 1
    plan = layout(dag(weights))
    left, right = plan.places[:3, 1], plan.places[[5, 4, 3], 1]
    assert (np.argsort(left) == np.argsort(right)).all()


def test_a_graph_without_edges_is_one_column() -> None:
    plan = layout(dag(np.zeros((4, 4))))
    assert np.unique(plan.places[:, 0]).size == 1
    assert np.unique(plan.places[:, 1]).size == 4
