"""Optimal gossip rates: published numbers, symmetry, and an independent conic solver."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surefoot.decentralized.graphs import edge_list, named_graph, slowness, uniform_rates
from surefoot.decentralized.rates import lower_bound, optimal_rates
from surefoot.numerics.conic import pack_symmetric, solve_conic


@pytest.mark.parametrize(
    ("name", "uniform", "best"),
    [
        ("star:16", 15.0, 15.0), ("cycle:16", 39.7045, 39.7045), ("path:16", 76.5172, 76.5172), ("complete:8", 4.9497, 4.9497),
        ("grid:4,4", 26.2523, 24.8897), ("wheel:16", 20.5953, 19.7875), ("florentine", 34.0048, 25.1233),
        ("lollipop:8,8", 149.597, 63.5858), ("barbell:8", 126.148, 32.9239), ("karate", 113.954, 64.697),
    ],
)  # fmt: skip
def test_totals(name: str, uniform: float, best: float) -> None:
    graph = named_graph(name)
    edges = edge_list(graph)
    assert uniform_rates(len(graph), edges).sum() == pytest.approx(uniform, rel=2e-5)
    design = optimal_rates(len(graph), edges)
    assert design.lower <= best * (1 + 2e-5)
    assert design.total >= best * (1 - 2e-5)
    assert design.gap <= 1e-4
    assert np.prod(slowness(len(graph), edges, design.rates)) <= 0.5
    value, load, balance = lower_bound(edges, design.modes, design.potentials, design.weights)
    assert value == pytest.approx(design.lower)
    assert load <= 1
    assert balance >= 0
    assert design.total >= (len(graph) - 1) / math.sqrt(2) * (1 - 1e-9)


def test_symmetric_graphs_get_equal_rates() -> None:
    for name in ("complete:6", "cycle:7", "star:5"):
        graph = named_graph(name)
        rates = optimal_rates(len(graph), edge_list(graph), tolerance=1e-6).rates
        assert np.ptp(rates) <= 1e-3 * rates.mean()


def test_the_knob_scales() -> None:
    edges = edge_list(named_graph("barbell:4"))
    half, eight = optimal_rates(8, edges, 0.5), optimal_rates(8, edges, 8.0)
    assert eight.rates == pytest.approx(half.rates / 4, rel=1e-9)
    assert eight.lower == pytest.approx(half.lower / 4, rel=1e-9)


@pytest.mark.parametrize("name", ["barbell:3", "lollipop:4,2", "grid:2,3"])
def test_a_conic_solver_finds_the_same_total(name: str) -> None:
    """The semidefinite program as it stands: Lambda >= u pi and [[Lambda, b_e], [b_e', u]] >= 0, by Clarabel."""
    graph = named_graph(name)
    n, edges = len(graph), edge_list(graph)
    vectors = np.zeros((len(edges), n))
    vectors[np.arange(len(edges)), edges[:, 0]], vectors[np.arange(len(edges)), edges[:, 1]] = 1.0, -1.0
    basis = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, :-1]]))[0][:, 1:]
    reduced = vectors @ basis
    count = len(edges)

    def bordered(top: np.ndarray, corner: np.ndarray, last: float) -> np.ndarray:
        return pack_symmetric(np.block([[top, corner[:, None]], [corner[None, :], np.array([[last]])]]))

    zero, nothing = np.zeros((n - 1, n - 1)), np.zeros(n - 1)
    blocks, right = [np.column_stack([-np.eye(count), np.zeros(count)])], [np.zeros(count)]
    outer = [np.outer(c, c) for c in reduced]
    blocks.append(np.column_stack([*(-pack_symmetric(o) for o in outer), pack_symmetric(np.eye(n - 1))]))
    right.append(pack_symmetric(zero))
    for c in reduced:
        blocks.append(np.column_stack([*(-bordered(o, nothing, 0.0) for o in outer), -bordered(zero, nothing, 1.0)]))
        right.append(bordered(zero, c, 0.0))
    cones = [("nonnegative", count), ("semidefinite", n - 1), *[("semidefinite", n)] * count]
    found = solve_conic(np.append(np.ones(count), 0.0), np.vstack(blocks), np.concatenate(right), cones)
    assert found.solved
    design = optimal_rates(n, edges, tolerance=1e-6)
    assert design.lower <= found.value * (1 + 1e-6)
    assert design.total >= found.value * (1 - 1e-6)


def test_one_node() -> None:
    with pytest.raises(ValueError, match="one node"):
        optimal_rates(1, np.zeros((0, 2), dtype=np.int64))
