"""Graphs in and out, their numbers against closed forms, and every bad one refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.decentralized.graphs import (
    edge_list,
    given_rates,
    named_graph,
    plain_graph,
    rate_matrix,
    read_graph,
    resistances,
    scaled_to,
    slowness,
    uniform_rates,
    with_rates,
    write_graph,
)  # fmt: skip


def numbers(name: str) -> tuple[float, float]:
    """chi1, chi2 of the uniform edge distribution."""
    graph = named_graph(name)
    edges = edge_list(graph)
    return slowness(len(graph), edges, np.full(len(edges), 1 / len(edges)))


@pytest.mark.parametrize(
    ("name", "chi1", "chi2"),
    [
        ("complete:8", 7 / 2, 7 / 2),
        ("star:16", 15.0, 15 / 2),
        ("cycle:12", 12 / (2 - 2 * math.cos(2 * math.pi / 12)), 11 / 2),
        ("path:9", 8 / (2 - 2 * math.cos(math.pi / 9)), 8 / 2),
    ],
)
def test_closed_forms(name: str, chi1: float, chi2: float) -> None:
    assert numbers(name) == pytest.approx((chi1, chi2), rel=1e-12)


def test_official_star_of_300() -> None:
    """The official notebook prints 299 exchanges a unit of time."""
    graph = named_graph("star:300")
    assert math.floor(uniform_rates(300, edge_list(graph)).sum()) == 299


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(3, 10), st.integers(0, 10**6))
def test_foster_and_scaling(nodes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = nx.random_labeled_tree(nodes, seed=seed)
    graph.add_edges_from((int(a), int(b)) for a, b in rng.integers(0, nodes, (4, 2)) if a != b)
    edges = edge_list(plain_graph(graph))
    rates = rng.uniform(0.1, 2.0, len(edges))
    assert rates @ resistances(nodes, edges, rates) == pytest.approx(nodes - 1, rel=1e-9)
    chi1, chi2 = slowness(nodes, edges, rates)
    assert chi2 <= chi1 * (1 + 1e-9)
    assert np.prod(slowness(nodes, edges, 3 * rates)) == pytest.approx(chi1 * chi2 / 9, rel=1e-9)
    assert np.prod(slowness(nodes, edges, scaled_to(nodes, edges, rates, 0.5))) <= 0.5
    shuffled = rng.permutation(nodes)
    renamed = np.sort(shuffled[edges], axis=1)
    assert slowness(nodes, renamed, rates) == pytest.approx((chi1, chi2), rel=1e-9)


def test_idle_edges_do_not_count() -> None:
    edges = edge_list(named_graph("complete:4"))
    path = np.array([1.0, 0, 0, 1.0, 0, 1.0])
    assert slowness(4, edges, path) == pytest.approx(slowness(4, edge_list(named_graph("path:4")), np.ones(3)))


def test_files_come_back(tmp_path: Path) -> None:
    graph = named_graph("florentine")
    rates = np.random.default_rng(0).uniform(0, 1, graph.number_of_edges()) / 3
    write_graph(with_rates(graph, rates), tmp_path / "g.graphml")
    back = read_graph(tmp_path / "g.graphml")
    assert list(back) == list(graph)
    assert np.array_equal(given_rates(back), rates)
    (tmp_path / "g.csv").write_text("source,target,rate\na,b,0.5\nb,c,1.5\n")
    listed = read_graph(tmp_path / "g.csv")
    assert np.array_equal(given_rates(listed), [0.5, 1.5])
    assert rate_matrix(3, edge_list(listed), np.array([0.5, 1.5]))[1, 1] == 2.0
    (tmp_path / "g.txt").write_text("# a comment\na b\nb c\n")
    assert set(read_graph(tmp_path / "g.txt").edges) == {("a", "b"), ("b", "c")}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.disjoint_union(nx.path_graph(3), nx.path_graph(2)), "2 components; consensus is impossible"),
        (nx.DiGraph([(0, 1)]), "directed"),
        (nx.MultiGraph([(0, 1), (0, 1)]), "parallel edges"),
        (nx.Graph([(0, 1), (1, 1)]), "edge to itself"),
        (nx.Graph(), "no nodes"),
        (nx.Graph([(0, 1, {"rate": -1.0})]), "rate is -1"),
        (nx.Graph([(0, 1, {"rate": "often"})]), "no number"),
        (nx.Graph([("1", 1)]), "same name"),
    ],
)
def test_bad_graphs(graph: nx.Graph, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_graph(graph)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.json", "{}", "unknown ending"),
        ("g.graphml", "<graphml", "not a GraphML file"),
        ("g.csv", "a,b\nb,a\n", "there already"),
        ("g.csv", "a,b,c,d\n", "expected two node names"),
    ],
)
def test_bad_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_graph(tmp_path / name)


@pytest.mark.parametrize("name", ["moebius:8", "star", "star:x", "grid:4", "cycle:0"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="graph"):
        named_graph(name)


def test_bad_rates() -> None:
    edges = edge_list(named_graph("path:3"))
    for rates, message in (([1.0, 0.0], "leave 2 components"), ([1.0, -1.0], "rate -1"), ([1.0], "rates for 2 edges")):
        with pytest.raises(ValueError, match=message):
            slowness(3, edges, np.array(rates))
    half = nx.Graph([(0, 1, {"rate": 1.0}), (1, 2)])
    with pytest.raises(ValueError, match="give all or none"):
        given_rates(plain_graph(half))
