"""Threshold, repair of cycles, orders."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.causal.dag import to_dag, topological_order
from surefoot.causal.knowledge import knowledge


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from(["cycles", "ascending"]))
def test_repair_gives_a_dag_made_of_strong_edges(seed: int, order: int, repair) -> None:
    weights = np.random.default_rng(seed).normal(size=(order, order))
    dag = to_dag(weights, 0.3, repair)
    assert nx.is_directed_acyclic_graph(nx.DiGraph(dag != 0))
    kept = dag != 0
    np.testing.assert_array_equal(dag[kept], weights[kept])
    assert (np.abs(weights[kept]) > 0.3).all()
    if repair == "cycles":  # no edge was deleted in vain: putting any strong one back closes a cycle
        for i, j in np.argwhere((np.abs(weights) > 0.3) & ~kept):
            back = kept.copy()
            back[i, j] = True
            closes = not nx.is_directed_acyclic_graph(nx.DiGraph(back))
            weaker = np.abs(weights[i, j]) <= np.abs(weights[kept]).max(initial=0.0)
            assert closes or weaker


def test_the_published_rule_sacrifices_innocent_edges_to_a_strong_self_loop() -> None:
    weights = np.array([[0.0, 0.4, 0.0], [0.0, 0.9, 0.5], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(to_dag(weights, 0.3, "ascending"), np.zeros((3, 3)))
    np.testing.assert_array_equal(to_dag(weights, 0.3, "cycles"), [[0.0, 0.4, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])


def test_required_edges_survive_threshold_and_repair() -> None:
    required = np.zeros((3, 3), dtype=bool)
    required[0, 1] = required[2, 0] = True
    weights = np.array([[0.0, 0.01, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    dag = to_dag(weights, 0.3, required=required)
    assert (dag[required] != 0).all()
    assert dag[0, 1] == 0.01
    assert dag[1, 0] == 0.0


def test_order_puts_parents_first_and_small_priorities_early() -> None:
    edges = np.zeros((4, 4))
    edges[3, 0] = 1
    assert topological_order(edges, np.array([0.0, 5.0, 1.0, 2.0])) == [2, 3, 0, 1]
    edges[0, 3] = 1
    assert topological_order(edges) is None


class TestKnowledge:
    names = ("a", "b", "c")

    def test_nothing_known_needs_no_masks(self) -> None:
        known = knowledge(self.names)
        assert known.allowed is None
        assert known.before is None

    def test_tiers_rule_out_backward_edges_only(self) -> None:
        known = knowledge(self.names, tiers=[["a"], ["b", "c"]])
        assert known.allowed is not None
        expected = np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=bool)
        np.testing.assert_array_equal(known.allowed, expected)

    def test_names_and_numbers_mean_the_same(self) -> None:
        named, numbered = knowledge(self.names, [("a", "c")]), knowledge(self.names, [(0, 2)])
        assert named.allowed is not None
        assert numbered.allowed is not None
        np.testing.assert_array_equal(named.allowed, numbered.allowed)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"exclude": [("a", "z")]}, "unknown variable 'z'"),
            ({"exclude": [(0, 7)]}, "column number 7"),
            ({"require": [("a", "a")]}, "self-edge a -> a"),
            ({"require": [("a", "b")], "exclude": [("a", "b")]}, "a -> b is required"),
            ({"require": [("a", "b"), ("b", "c"), ("c", "a")]}, "cycle"),
            ({"tiers": [["a"], ["a", "b"]]}, "twice"),
            ({"require": [("b", "a")], "tiers": [["a"], ["b"]]}, "b -> a is required"),
            ({"exclude": ["ab"]}, "pairs"),
        ],
    )
    def test_contradictions_are_refused(self, options, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            knowledge(self.names, **options)
