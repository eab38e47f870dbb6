"""Graphs that change over time: the plan, the price of a change, the proved bound in many runs, files in and out."""

from __future__ import annotations

import copy
import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from gossip_networks import LOSSES, minimiser, rows, stationary

from surefoot import catalog, cli, solve, testing
from surefoot.core.method import Status
from surefoot.core.problem import Consensus
from surefoot.core.solve import Budget
from surefoot.core.verify import verify_run
from surefoot.decentralized import reference
from surefoot.decentralized.card import CARD, tiny_inputs
from surefoot.decentralized.certify import mean_square_factor, potential_at_start
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.graphs import edge_list, named_graph, rate_matrix
from surefoot.decentralized.problem import linear_consensus, network
from surefoot.decentralized.rounds import Rounds
from surefoot.decentralized.runtime import run_async
from surefoot.decentralized.schedule import changing_graph, schedule_of
from surefoot.decentralized.verify_graph import dominates
from surefoot.decentralized.windows import keep_price, paid, prices, time_from_which, window_rate, window_slowness

GRAPHS = ("star:5", "path:5", "cycle:5")


def changing(durations: tuple[float, ...] = (6.0, 9.0, 4.0), dim: int = 2, ridge: float = 0.2) -> Consensus:
    A, y = rows(25, dim)
    graph = changing_graph([named_graph(name) for name in GRAPHS], durations)
    return linear_consensus(A, y, LOSSES["squared"], ridge, graph)


@pytest.mark.parametrize(
    "change", [{}, {"rates": "uniform", "product": 0.1}, {"compat": "paper"}, {"constants": "paper"}]
)
def test_reaches_the_minimiser_and_verifies(change: dict[str, Any]) -> None:
    problem = changing((30.0, 45.0, 20.0))
    result = solve(problem, EventGossip(tolerance=1e-8, engine="numpy", **change))
    assert result.status is Status.CONVERGED
    assert np.abs(result.answer.points - minimiser(network(problem))).max() <= 1e-8
    assert {v.verdict for v in catalog.verify(result, problem)} == {"confirmed"}
    if change.get("compat") != "paper":  # the published constants gain less a window than keeping zt costs
        assert result.certificate.claim("rate").outcome == "holds" or change.get("constants") == "paper"


def test_short_windows_are_certified_too() -> None:
    """Restarting the twin bounds the price of any change, so that five gradients a window are enough."""
    problem = changing((5.0, 5.0, 5.0))
    result = solve(problem, EventGossip(tolerance=1e-6, engine="numpy"))
    claim = result.certificate.claim("rate")
    assert claim.outcome == "holds"
    assert claim.value > 0


def test_events_use_only_edges_that_are_there() -> None:
    problem = changing()
    net = network(problem)
    assert net.schedule is not None
    seen: dict[int, set[int]] = {}
    method = EventGossip(tolerance=0.0, engine="numpy", block=50)
    original = EventGossip._advance

    def spy(self: Any, net: Any, state: Any, events: Any) -> None:
        window = state.visit % 3
        seen.setdefault(window, set()).update((events.what[events.what >= net.nodes] - net.nodes).tolist())
        start = state.until - float(net.schedule.durations[window])
        assert ((events.times >= start) & (events.times < state.until)).all()
        original(self, net, state, events)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventGossip, "_advance", spy)
        solve(problem, method, budget=Budget(steps=1500), certify=False)
    assert set(seen) == {0, 1, 2}
    for window, edges in seen.items():
        assert edges == set(np.flatnonzero(net.schedule.present[window]))


def test_contract(tmp_path: Path) -> None:
    testing.check_method(changing(), EventGossip(tolerance=0.0, engine="numpy"), tmp_path, steps=600)


def test_the_price_of_keeping_the_twin_is_the_largest_generalised_eigenvalue() -> None:
    rng = np.random.default_rng(0)
    edges = edge_list(named_graph("complete:5"))
    before, after = rng.uniform(0.1, 2, len(edges)), rng.uniform(0.1, 2, len(edges))
    g = keep_price(5, edges, before, after, 0.7, 1.3)
    assert dominates(5, edges, after, g * 1.3 * (1 + 1e-9), before, 0.7)
    assert not dominates(5, edges, after, g * 1.3 * (1 - 1e-9), before, 0.7)
    # Phi's last term itself: ct Lambda^+ with ct proportional to 1 / beta_twin
    old, new = (np.linalg.pinv(rate_matrix(5, edges, r)) / twin for r, twin in ((before, 0.7), (after, 1.3)))
    for _ in range(200):
        v = rng.normal(size=5)
        v -= v.mean()
        assert v @ new @ v <= g * (v @ old @ v) * (1 + 1e-9)


def test_large_graphs_are_compared_by_a_factorisation() -> None:
    edges = edge_list(named_graph("cycle:40"))
    rates = np.linspace(0.5, 1.5, 40)
    assert dominates(40, edges, rates, 1.0 + 1e-6, rates, 1.0)
    assert not dominates(40, edges, rates, 1.0 - 1e-6, rates, 1.0)


def begin(method: EventGossip, problem: Consensus, runs: int) -> list[Any]:
    """The method's own first states, one a seed."""
    from surefoot.core.random import Streams

    first = method.init(problem, None, Streams(0))
    return [dataclasses.replace(copy.deepcopy(first), streams=Streams(seed), net=first.net) for seed in range(runs)]


def test_the_bound_on_the_mean_is_not_exceeded_across_changes() -> None:
    """Phi_k over many runs at four times: at most the prices paid times exp(-rho t) Phi_0(0), within three standard errors."""
    problem = changing((4.0, 6.0, 3.0), ridge=0.1)
    net = network(problem)
    method = EventGossip(tolerance=0.0, engine="numpy", block=10_000, check_every=1e9)
    runs = 120
    states = begin(method, problem, runs)
    switching, c = states[0].switching, states[0].letters
    chi = window_slowness(net.nodes, net.edges, switching.rates) * (1 + 1e-10)
    rate = window_rate(c, switching, net.mu, net.smoothness, chi)
    assert rate is not None
    logs = np.log(prices(c, switching, rate, net.nodes, net.edges, chi))
    assert rate.rho > logs.sum() / switching.durations.sum()
    best, start = stationary(net, c.nu), switching.constants(c, 0)
    first = _phi(net, start, rate.y_weight, switching.rates[0], best, reference.start_values(np.zeros((5, 2))))
    assert first <= potential_at_start(net, start, rate, float(chi[0, 0]), np.zeros((5, 2)))
    ratios: list[float] = []
    for count in (60, 200, 600):
        ratios = []
        for state in states:
            state.limit = count
            method.step(problem, state)
            window = state.visit % 3
            now = reference.at_time(c, state.values, state.clocks, state.time)
            size = _phi(net, switching.constants(c, window), rate.y_weight, switching.rates[window], best, now)
            ratios.append(size / first * math.exp(rate.rho * state.time - paid(logs, switching.durations, state.time)))
            assert ((now[:, 0] - best[:, 0]) ** 2).sum() <= mean_square_factor(net, c) * size
        assert np.mean(ratios) <= 1 + 3 * np.std(ratios) / math.sqrt(runs)
    assert states[0].visit >= 5
    assert np.mean(ratios) > 1e-9  # not vacuous


def _phi(net: Any, c: Any, y_weight: float, rates: np.ndarray, best: np.ndarray, state: np.ndarray) -> float:
    from test_gossip_constants import potential

    return potential(net, c, y_weight, np.linalg.pinv(rate_matrix(net.nodes, net.edges, rates)), best, state)


def test_a_restart_of_the_twin_never_costs_more_than_its_price() -> None:
    """Random states: Phi_l with zt = z against the price times Phi_k, and the price is nearly reached by the worst of them."""
    problem = changing()
    net = network(problem)
    (state,) = begin(EventGossip(engine="numpy"), problem, 1)
    switching, c = state.switching, state.letters
    chi = window_slowness(net.nodes, net.edges, switching.rates) * (1 + 1e-10)
    rate = window_rate(c, switching, net.mu, net.smoothness, chi)
    assert rate is not None
    restarting = dataclasses.replace(switching, restarts=np.ones(3, dtype=bool))
    found = prices(c, restarting, rate, net.nodes, net.edges, chi)
    rng, best = np.random.default_rng(0), stationary(net, c.nu)
    slow = np.linalg.eigh(rate_matrix(net.nodes, net.edges, switching.rates[1]))[1][:, 1]
    worst = 0.0
    for trial in range(300):
        state_ = best + rng.normal(size=best.shape) * 10.0 ** rng.uniform(-2, 2, size=(1, 6, 1))
        if trial % 2:  # z along the slow mode of the next window, y + z and y balanced, all else at rest
            state_ = best.copy()
            share = c.gamma_twin / (c.alpha * c.nu) / rate.y_weight
            state_[:, 4, 0] += slow
            state_[:, 2, 0] -= slow / (1 + share) * 1.0
        for k in (4, 5):
            state_[:, k] -= (state_ - best)[:, k].mean(axis=0)
        fresh = state_.copy()
        fresh[:, 5] = fresh[:, 4]
        before = _phi(net, switching.constants(c, 0), rate.y_weight, switching.rates[0], best, state_)
        after = _phi(net, switching.constants(c, 1), rate.y_weight, switching.rates[1], best, fresh)
        worst = max(worst, after / before)
        assert after <= found[1] * before
    assert worst > 1.0


def test_the_time_from_which_the_bound_holds() -> None:
    durations, logs, rho = np.array([3.0, 5.0, 2.0]), np.array([0.2, 0.4, 0.1]), 0.3
    need = 4.0
    t = time_from_which(need, rho, logs, durations)
    later = np.linspace(t, t + 50, 20_001)
    gains = np.array([rho * s - paid(logs, durations, s) for s in later])
    assert gains.min() >= need - 1e-9
    assert time_from_which(need, 0.05, logs, durations) == math.inf


def test_graphml_of_a_changing_graph_comes_back(tmp_path: Path) -> None:
    tiny_inputs(tmp_path)
    folder = tmp_path / "graphs"
    folder.mkdir()
    first = nx.Graph([("a", "b"), ("b", "c"), ("c", "d")], duration=12.5)
    nx.write_graphml(first, folder / "0.graphml")
    (folder / "1.csv").write_text("a,b\na,c\na,d\n", encoding="utf-8")
    more = ["--tolerance", "1e-4", "--engine", "numpy", "--window", "20", "--quiet"]
    data = str(tmp_path / "data.csv")
    assert cli.main(["run", "dadao", str(folder), data, "-o", str(tmp_path / "out"), *more]) == 0
    graph = nx.read_graphml(tmp_path / "out" / "answer" / "graph.graphml")
    assert graph.graph["durations"] == "12.5 20.0"
    assert {frozenset(e[:2]) for e in graph.edges(data=True) if "rate_1" in e[2]} == {
        frozenset("ab"),
        frozenset("ac"),
        frozenset("ad"),
    }
    (tmp_path / "again.graphml").write_bytes((tmp_path / "out" / "answer" / "graph.graphml").read_bytes())
    again = [
        "run",
        "dadao",
        str(tmp_path / "again.graphml"),
        data,
        "--rates",
        "graph",
        "-o",
        str(tmp_path / "two"),
        *more,
    ]
    assert cli.main(again) == 0
    for name in ("out", "two"):
        assert {v.verdict for v in verify_run(tmp_path / name, CARD, write=False)} == {"confirmed"}
    points = [np.load(tmp_path / name / "answer" / "points.npz")["points"] for name in ("out", "two")]
    assert np.allclose(points[0], points[1], rtol=0, atol=1e-12)


def test_spoiled_evidence_and_answers_are_refuted(tmp_path: Path) -> None:
    def inputs(folder: Path) -> dict[str, str]:
        found = dict(tiny_inputs(folder))
        graphs = [
            nx.Graph([("a", "b"), ("b", "c"), ("c", "d")]),
            nx.Graph([("a", "c"), ("c", "d"), ("d", "b"), ("b", "c")]),
        ]
        nx.write_graphml(changing_graph(graphs, [15.0, 10.0]), folder / "graph.graphml")
        Path(found["graph"]).unlink()
        return {**found, "graph": str(folder / "graph.graphml")}

    assert testing.check_certificate(dataclasses.replace(CARD, tiny_inputs=inputs), tmp_path) > 60


def test_a_price_or_a_decay_that_is_too_good_is_refuted() -> None:
    problem = changing((30.0, 30.0, 30.0))
    result = solve(problem, EventGossip(tolerance=1e-4, engine="numpy"))
    certificate = result.certificate
    assert certificate is not None
    for change in (
        {"prices": [1.0] * 3},
        {"rho": certificate.evidence["dynamics.json"]["rho"] * 1.01},
        {"restarts": [False] * 3},
    ):
        evidence = {**certificate.evidence, "dynamics.json": {**certificate.evidence["dynamics.json"], **change}}
        spoiled = dataclasses.replace(result, certificate=dataclasses.replace(certificate, evidence=evidence))
        assert {v.claim: v.verdict for v in catalog.verify(spoiled, problem)}["rate"] == "refuted", change


def test_bad_input() -> None:
    star, path = named_graph("star:5"), named_graph("path:5")
    apart = nx.Graph([("0", "1"), ("2", "3"), ("3", "4")])
    cases: list[tuple[Any, str]] = [
        (lambda: changing_graph([star], [1.0]), "two graphs or more"),
        (lambda: changing_graph([star, path], [1.0]), "a duration each"),
        (lambda: changing_graph([star, path], [1.0, -1.0]), "two or more numbers > 0"),
        (lambda: changing_graph([star, named_graph("path:6")], [1.0, 1.0]), "other nodes"),
        (lambda: changing_graph([star, apart], [1.0, 1.0]), "components"),
        (lambda: solve(changing(), Rounds("nids")), "one graph"),
        (lambda: run_async(changing()), "one graph"),
        (lambda: solve(changing(), EventGossip(rates="graph")), "carry no rates"),
    ]  # fmt: skip
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    union = changing_graph([star, path], [1.0, 2.0])
    union.edges["0", "1"].pop("rate_0"), union.edges["0", "1"].pop("rate_1")
    with pytest.raises(ValueError, match=r"components|in no window"):
        schedule_of(union)
    assert Fraction(schedule_of(changing_graph([star, path], [0.1, 2.0])).durations[0]) == Fraction(0.1)  # type: ignore[union-attr]
