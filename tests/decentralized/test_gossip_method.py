"""The method from the outside: answers, certificates, resumes, other objectives, bad input."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from gossip_networks import LOSSES, consensus, minimiser, net_of, rows

from surefoot import catalog, solve
from surefoot.core.method import Status
from surefoot.core.problem import Consensus, Constant, Objective
from surefoot.core.solve import Budget
from surefoot.decentralized import kernel
from surefoot.decentralized.constants import paper_constants
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.graphs import named_graph, with_rates
from surefoot.decentralized.problem import linear_consensus, network

needs_warp = pytest.mark.skipif(not kernel.installed(), reason="the extra kernels (warp-lang) is not installed")


def test_agrees_with_scikit_learn() -> None:
    """Logistic regression without intercept, C = 1 / (mu N)."""
    from sklearn.linear_model import LogisticRegression

    A, y = rows(60, 4, "logistic", seed=2)
    problem = linear_consensus(A, y, LOSSES["logistic"], 0.05, named_graph("cycle:6"))
    result = solve(problem, EventGossip(tolerance=1e-9, engine="numpy"))
    assert result.status is Status.CONVERGED
    model = LogisticRegression(C=1 / (0.05 * 60), fit_intercept=False, tol=1e-12, max_iter=10_000).fit(A, y)
    assert np.abs(result.answer.points - model.coef_[0]).max() < 1e-7
    verdicts = catalog.verify(result, problem)
    assert {v.verdict for v in verdicts} == {"confirmed"}, verdicts


@pytest.mark.parametrize("graph", ["path:1", "star:5", "barbell:3"])
@pytest.mark.parametrize("compat", ["", "paper"])
def test_quadratics_to_the_proved_distance(graph: str, compat: str) -> None:
    problem = consensus(graph)
    result = solve(problem, EventGossip(tolerance=1e-10, compat=compat, engine="numpy"), start=np.ones(3))  # type: ignore[arg-type]
    assert result.status is Status.CONVERGED
    error = np.linalg.norm(result.answer.points - minimiser(network(problem)), axis=1).max()
    assert error <= result.certificate.claim("node-distance").value <= 1e-10
    assert {v.verdict for v in catalog.verify(result, problem)} == {"confirmed"}


def test_a_single_node_reaches_machine_precision() -> None:
    net = net_of("path:1")
    result = solve(consensus("path:1"), EventGossip(tolerance=0.0, engine="numpy"), budget=Budget(steps=3000))
    assert np.abs(result.answer.points[0] - minimiser(net)).max() < 1e-14


def test_renaming_the_nodes_renames_the_answer() -> None:
    """The same events on a permuted network move permuted states."""
    from surefoot.core.random import Streams
    from surefoot.decentralized import reference
    from surefoot.decentralized.constants import certified_constants
    from surefoot.decentralized.events import Clocks, Events

    net = net_of("barbell:3")
    order = np.random.default_rng(0).permutation(net.nodes)  # node i becomes order[i]
    back = np.argsort(order)
    assert net.rows is not None
    other = dataclasses.replace(
        net, edges=order[net.edges], rows=tuple(net.rows[k] for k in back), objectives=tuple(net.objectives[k] for k in back)
    )  # fmt: skip
    constants = certified_constants(net.mu, net.smoothness, 1.0, 0.5)
    events = Clocks(Streams(0), net.nodes, np.ones(len(net.edges))).draw(0, 300, 0.0)
    renamed = np.where(events.what < net.nodes, order[np.minimum(events.what, net.nodes - 1)], events.what)
    first, second = (reference.start_values(np.zeros((net.nodes, 3))) for _ in range(2))
    reference.advance(net, constants, first, np.zeros(net.nodes), events)
    reference.advance(other, constants, second, np.zeros(net.nodes), Events(renamed, events.times))
    assert np.array_equal(second[order], first)


@needs_warp
def test_engines_agree() -> None:
    problem = consensus("wheel:6", loss="logistic")
    budget = Budget(steps=2000)
    results = [
        solve(problem, EventGossip(tolerance=0.0, engine=e), budget=budget, certify=False) for e in ("warp", "numpy")
    ]  # type: ignore[arg-type]
    assert results[0].counts == results[1].counts
    assert np.abs(results[0].answer.points - results[1].answer.points).max() < 1e-11


@needs_warp
def test_a_compiled_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    from surefoot.testing import check_method

    check_method(consensus("star:5"), EventGossip(tolerance=0.0, engine="warp", check_every=1.0), tmp_path, steps=500)


def any_objective(scale: float, known: Any = "declared") -> Objective:
    """f(x) = scale (|x|^2 / 2 + log cosh of the first entry), not a linear model."""

    def value_and_grad(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slope = torch.zeros_like(x)
        slope[0] = torch.tanh(x[0] - scale)
        return scale * (x @ x / 2 + torch.log(torch.cosh(x[0] - scale))), scale * (x + slope)

    constants = {"strong_convexity": Constant(scale, known), "smoothness": Constant(2 * scale, known)}
    return Objective(value_and_grad, 2, constants=constants, identity={"scale": scale})


def test_other_objectives() -> None:
    problem = Consensus(tuple(any_objective(s) for s in (0.5, 1.0, 2.0)), named_graph("path:3"))
    result = solve(problem, EventGossip(tolerance=1e-8))
    assert result.status is Status.CONVERGED
    x = torch.from_numpy(result.answer.mean)
    assert sum(o.value_and_grad(x)[1] for o in problem.objectives).norm() < 1e-7
    assert {v.verdict for v in catalog.verify(result, problem)} == {"confirmed"}
    guessed = Consensus(tuple(any_objective(s, "estimated") for s in (0.5, 1.0, 2.0)), named_graph("path:3"))
    claims = solve(guessed, EventGossip(tolerance=1e-6)).certificate.claims
    assert {c.kind for c in claims if c.name in ("distance", "rate", "mean-square")} == {"measured"}


def test_own_constants_without_a_rate_are_undecided() -> None:
    problem = consensus("star:5")
    net = network(problem)
    letters = paper_constants(net.mu, net.smoothness, 1.0)  # made for another chi1
    result = solve(
        problem,
        EventGossip(tolerance=1e-3, constants=dataclasses.replace(letters, delta=1.9), engine="numpy"),
        budget=Budget(steps=500),
    )
    claim = result.certificate.claim("rate")
    assert claim.outcome == "undecided"
    assert {v.verdict for v in catalog.verify(result, problem)} == {"confirmed"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchange_cost": -1.0}, "exchange_cost is -1"), ({"exchange_cost": 1.0, "rates": "graph"}, "fix already"),
        ({"product": 0.0}, "product is 0"), ({"tolerance": -1.0}, "tolerance is -1"), ({"block": 0}, "block is 0"),
        ({"engine": "fortran"}, "engine is 'fortran'"), ({"rates": "best"}, "rates is 'best'"), ({"check_every": math.nan}, "check_every"),
    ],
)  # fmt: skip
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventGossip(**change)


def test_bad_problems() -> None:
    A, y = rows(12, 2)
    graph = named_graph("path:3")
    squared = LOSSES["squared"]
    cases: list[tuple[Any, str]] = [
        (lambda: linear_consensus(A, y, squared, 0.0, graph), "ridge is 0"),
        (lambda: linear_consensus(A, y, squared, math.nan, graph), "ridge is nan"),
        (lambda: linear_consensus(A[:2], y[:2], squared, 0.1, graph), "has no rows"),
        (lambda: linear_consensus(A, y, squared, 0.1, graph, [0] * 6 + [2] * 6), "node 1 has no rows"),
        (lambda: linear_consensus(A, y, squared, 0.1, graph, [0] * 6 + [3] * 6), "an owner is 3"),
        (lambda: linear_consensus(A * np.nan, y, squared, 0.1, graph), "NaN"),
        (lambda: linear_consensus(A, y, LOSSES["logistic"], 0.1, graph), "expects"),
        (lambda: linear_consensus(A, y, squared, 0.1, nx.Graph([(0, 1), (2, 3)])), "2 components"),
        (lambda: Consensus((any_objective(1.0),), graph), "1 objectives for a graph of 3"),
        (lambda: network(Consensus((any_objective(0.0),) * 3, graph)), "not strongly convex"),
        (lambda: network(Consensus((any_objective(math.inf),) * 3, graph)), "finite"),
        (lambda: solve(consensus("path:3"), EventGossip(), start=np.full(3, np.nan)), "start holds NaN"),
        (lambda: solve(consensus("path:3"), EventGossip(), start=np.zeros(2)), "start has shape"),
        (lambda: solve(consensus("path:3"), EventGossip(rates="graph")), "carry no rate"),
        (lambda: solve(Consensus((any_objective(1.0),) * 3, graph), EventGossip(engine="warp")), "engine='numpy'|pip install"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises((ValueError, ImportError), match=message):
            make()


def test_slow_gossip_is_named_for_the_published_constants() -> None:
    problem = consensus("path:3")
    slow = Consensus(problem.objectives, with_rates(problem.graph, np.array([0.1, 0.1])))
    with pytest.raises(ValueError, match=r"gossip is too slow.*total rate >= "):
        solve(slow, EventGossip(rates="graph", constants="paper"))
    result = solve(slow, EventGossip(rates="graph", tolerance=1e-4, engine="numpy"))
    assert result.status is Status.CONVERGED


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    bad = dataclasses.replace(any_objective(1.0), value_and_grad=lambda x: (x.sum(), x * math.nan))
    problem = Consensus((any_objective(1.0), bad, any_objective(1.0)), named_graph("path:3"))
    result = solve(problem, EventGossip(tolerance=1e-6))
    assert result.status is Status.DIVERGED
    assert "NaN" in result.reason


def test_dear_exchanges_give_a_larger_product() -> None:
    problem = consensus("cycle:6")
    results = [solve(problem, EventGossip(tolerance=1e-6, engine="numpy", exchange_cost=c)) for c in (0.1, 20.0)]
    cheap, dear = (result.certificate.claim("gossip").value for result in results)
    assert cheap < 0.5 < dear
    assert results[1].counts["exchange"] < results[0].counts["exchange"]
    assert {v.verdict for v in catalog.verify(results[1], problem)} == {"confirmed"}
