"""Distances between graphs against enumeration and hand-made cases."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

from surefoot.causal.metrics import (
    count_edges,
    cpdag_distance,
    essential_graph,
    structural_hamming_distance,
    structural_intervention_distance,
)


def graph(order: int, *edges: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((order, order))
    for source, target in edges:
        matrix[source, target] = 1.0
    return matrix


def test_a_reversed_edge_counts_once() -> None:
    truth, learned = graph(3, (0, 1), (1, 2)), graph(3, (1, 0), (0, 2))
    assert structural_hamming_distance(learned, truth) == 3
    assert structural_hamming_distance(graph(3, (1, 0), (1, 2)), truth) == 1


def test_counts_and_rates() -> None:
    truth = graph(4, (0, 1), (1, 2), (2, 3))
    found = count_edges(graph(4, (0, 1), (2, 1), (0, 3)), truth)
    assert (found.correct, found.reversed, found.extra, found.missing) == (1, 1, 1, 1)
    assert found.false_discovery_rate == pytest.approx(2 / 3)
    assert found.true_positive_rate == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx(2 * 1 / (3 + 3))  # 2 TP / (learned + true)
    nothing = count_edges(graph(4), truth)
    assert (nothing.false_discovery_rate, nothing.true_positive_rate, nothing.f1) == (0.0, 0.0, 0.0)


def all_dags(order: int):
    pairs = list(itertools.combinations(range(order), 2))
    for states in itertools.product((0, 1, 2), repeat=len(pairs)):
        matrix = np.zeros((order, order))
        for (i, j), state in zip(pairs, states, strict=True):
            if state == 1:
                matrix[i, j] = 1
            elif state == 2:
                matrix[j, i] = 1
        if nx.is_directed_acyclic_graph(nx.DiGraph(matrix)):
            yield matrix


def independence_class(dag: np.ndarray) -> frozenset:
    """All d-separations, by networkx: two DAGs are Markov equivalent exactly if these agree."""
    network = nx.DiGraph(dag)
    nodes = range(len(dag))
    said = set()
    for i, j in itertools.combinations(nodes, 2):
        rest = [k for k in nodes if k not in (i, j)]
        for size in range(len(rest) + 1):
            for given in itertools.combinations(rest, size):
                if nx.is_d_separator(network, {i}, {j}, set(given)):
                    said.add((i, j, given))
    return frozenset(said)


def test_essential_graphs_are_the_unions_of_markov_equivalence_classes() -> None:
    """Over all 543 DAGs of four nodes: the class by d-separation, an edge undirected where its members disagree."""
    classes: dict[frozenset, list[np.ndarray]] = {}
    for dag in all_dags(4):
        classes.setdefault(independence_class(dag), []).append(dag)
    assert sum(map(len, classes.values())) == 543
    assert len(classes) == 185  # Gillispie and Perlman 2001
    for members in classes.values():
        union = (np.sum(members, axis=0) > 0).astype(float)
        for member in members:
            np.testing.assert_array_equal(essential_graph(member), union)


def test_equivalent_graphs_are_at_distance_zero() -> None:
    chain, fork, collider = graph(3, (0, 1), (1, 2)), graph(3, (1, 0), (1, 2)), graph(3, (0, 1), (2, 1))
    assert cpdag_distance(chain, fork) == 0
    assert cpdag_distance(chain, collider) == 2


def test_intervention_distance_of_known_pairs() -> None:
    pytest.importorskip("gadjid", reason="needs the extra 'causal'")
    truth = graph(2, (0, 1))
    assert structural_intervention_distance(truth, truth) == 0
    assert structural_intervention_distance(graph(2, (1, 0)), truth) == 2  # both interventions are wrong
    assert structural_intervention_distance(graph(2), truth) == 1  # only the effect of 0 on 1


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="square"):
        structural_hamming_distance(np.zeros((2, 3)), np.zeros((2, 3)))
