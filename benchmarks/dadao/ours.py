"""Our side: the simulator's speed, and what every method spends until the mean of the nodes' squared distances is small."""

from __future__ import annotations

import gzip
import math
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.core.solve import Budget, solve
from surefoot.decentralized import kernel, levels, reference
from surefoot.decentralized.constants import certified_constants, certified_rate, paper_constants
from surefoot.decentralized.events import Clocks
from surefoot.decentralized.graphs import named_graph, rate_matrix, scaled_to, slowness, uniform_rates
from surefoot.decentralized.loading import standardised
from surefoot.decentralized.mixing import mixing_rate
from surefoot.decentralized.problem import Network, linear_consensus, network
from surefoot.decentralized.rates import optimal_rates
from surefoot.decentralized.rounds import Rounds
from surefoot.numerics.losses import Logistic, Squared


@cache
def problem(data: str, graph: str) -> Consensus:
    """Diabetes (rows dealt by `numpy.array_split`) with ridge 0.1, a9a with ridge 0.01, or two to sixteen random columns."""
    made = named_graph(graph)
    nodes = len(made)
    if data == "diabetes":
        from sklearn.datasets import load_diabetes

        found: Any = load_diabetes()
        A, y, loss, ridge = standardised(found.data), standardised(found.target), Squared(), 0.1
    elif data.startswith("random"):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(100 * nodes, int(data.removeprefix("random"))))
        y, loss, ridge = A.sum(axis=1) + rng.normal(size=len(A)), Squared(), 0.1
    else:
        from sklearn.datasets import load_svmlight_file

        with gzip.open(data) as stream:
            rows, y = load_svmlight_file(stream, n_features=123)
        A, loss, ridge = np.asarray(rows.todense()), Logistic(), 0.01
    owner = np.repeat(np.arange(nodes), [len(part) for part in np.array_split(np.arange(len(A)), nodes)])
    return linear_consensus(A, y, loss, ridge, made, owner)


@cache
def minimiser(data: str, graph: str) -> np.ndarray:
    """x* to machine precision, by Newton's method on the mean loss."""
    import torch

    net = network(problem(data, graph))
    assert net.rows is not None
    x = np.zeros(net.dim)
    for _ in range(60):
        H: Any = 0.0
        for local in net.rows:
            bend = local.loss.second_derivative(
                torch.from_numpy(local.features @ x), torch.from_numpy(local.targets)
            ).numpy()
            H = H + local.features.T @ (bend[:, None] * local.features) / len(bend) + local.ridge * np.eye(net.dim)
        move = np.linalg.solve(H / net.nodes, net.mean_gradient(x))
        x = x - move
        if np.linalg.norm(move) <= 1e-14:
            break
    return x


def rates_of(net: Network, which: str, product: float) -> np.ndarray:
    if which == "kinds":
        return _barbell_rates(net, product)
    return (
        uniform_rates(net.nodes, net.edges, product)
        if which == "uniform"
        else optimal_rates(net.nodes, net.edges, product).rates
    )


def _barbell_rates(net: Network, product: float) -> np.ndarray:
    """The least total with one rate each for the bridge of a barbell, the edges beside it, and all others, by search."""
    from scipy.optimize import minimize

    half = net.nodes // 2
    ends = np.isin(net.edges, [half - 1, half]).sum(axis=1)  # 2 is the bridge

    def rates(logs: np.ndarray) -> np.ndarray:
        return scaled_to(net.nodes, net.edges, np.exp(np.array([0.0, *logs]))[ends], product)

    found = minimize(
        lambda logs: math.log(rates(logs).sum()),
        np.array([0.0, math.log(half)]),
        method="Nelder-Mead",
        options={"maxfev": 150},
    )
    return rates(found.x)


def events(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of drawing and processing so many events."""
    net = network(problem(request["data"], request["graph"]))
    rates = uniform_rates(net.nodes, net.edges)
    c = certified_constants(net.mu, net.smoothness, *slowness(net.nodes, net.edges, rates))
    clocks = Clocks(Streams(0), net.nodes, rates)
    values, times = reference.start_values(np.zeros((net.nodes, net.dim))), np.zeros(net.nodes)
    engine = kernel.EventKernel(net, c) if request["engine"] == "warp" else None
    began = time.perf_counter()
    drawn = clocks.draw(0, request["count"], 0.0)
    middle = time.perf_counter()
    if engine is not None:
        engine.advance(values, times, drawn)
    else:
        levels.advance(net, c, values, times, drawn)
    end = time.perf_counter()
    count = request["count"]
    return {
        "seconds": end - began,
        "value": {"events_per_s": count / (end - began), "without_drawing": count / (end - middle)},
    }


def gossip(request: dict[str, Any]) -> dict[str, Any]:
    """Exchanges and gradients of each seed until the mean squared distance of the nodes is <= target."""
    net, best = network(problem(request["data"], request["graph"])), minimiser(request["data"], request["graph"])
    rates = rates_of(net, request["rates"], request["product"])
    chi = slowness(net.nodes, net.edges, rates)
    c = (
        paper_constants(net.mu, net.smoothness, chi[0])
        if request["constants"] == "paper"
        else certified_constants(net.mu, net.smoothness, *chi)
    )
    engine, per = kernel.EventKernel(net, c), max(1, int(net.nodes + rates.sum()))
    spent, began = [], time.perf_counter()
    for seed in range(request["seeds"]):
        clocks = Clocks(Streams(seed), net.nodes, rates)
        values, times = reference.start_values(np.zeros((net.nodes, net.dim))), np.zeros(net.nodes)
        k, now, local = 0, 0.0, 0
        while True:
            drawn = clocks.draw(k, per, now)
            engine.advance(values, times, drawn)
            k, now, local = k + per, float(drawn.times[-1]), local + int((drawn.what < net.nodes).sum())
            points = reference.at_time(c, values, times, now)[:, 0]
            if ((points - best) ** 2).sum(axis=1).mean() <= request["target"]:
                break
            if k > 200_000_000:
                raise RuntimeError("the target is not reached")
        spent.append((k - local, local))
    return {
        "seconds": time.perf_counter() - began,
        "value": {"exchanges": [e for e, _ in spent], "gradients": [g for _, g in spent]},
    }


def rounds(request: dict[str, Any]) -> dict[str, Any]:
    """The same of a synchronous method (our port of its paper), its step chosen in hindsight among those given."""
    net, best = network(problem(request["data"], request["graph"])), minimiser(request["data"], request["graph"])
    began, found = time.perf_counter(), None
    for size in request["steps"]:
        limit = request.get("limit", 40_000) if found is None else found["exchanges"] // max(1, len(net.edges)) + 1
        counts: dict[str, int] = {}

        def there(moment: Any, counts: dict[str, int] = counts) -> str | None:
            distance = float(((moment.state.x - best) ** 2).sum(axis=1).mean())
            if distance <= request["target"]:
                counts.update(moment.counts)
                return "there"
            return "diverged" if not distance < 1e12 else None

        method = Rounds(request["algorithm"], step_size=size, tolerance=0.0, block=1, check_every=10**9)
        solve(problem(request["data"], request["graph"]), method, budget=Budget(steps=limit), stop=there, certify=False)
        if counts and (found is None or counts["exchange"] < found["exchanges"]):
            found = {"exchanges": counts["exchange"], "gradients": counts["gradient"], "step": size}
    return {"seconds": time.perf_counter() - began, "value": found}


def bound(request: dict[str, Any]) -> dict[str, Any]:
    """exp(rho t) Phi(t) / Phi(0) at some times of many runs: by the proof its mean is at most 1, and it passes 20 with chance 0.05 at most."""
    net, best = network(problem(request["data"], request["graph"])), minimiser(request["data"], request["graph"])
    assert net.quadratics is not None
    rates = rates_of(net, request["rates"], request["product"])
    chi = slowness(net.nodes, net.edges, rates)
    published = request["constants"] == "paper"
    c = (
        paper_constants(net.mu, net.smoothness, chi[0])
        if published
        else certified_constants(net.mu, net.smoothness, *chi)
    )
    rate = certified_rate(c, net.mu, net.smoothness, *chi)
    assert rate is not None
    runs = request["runs"]
    marks = [0, *(max(k + 1, int(t * (net.nodes + rates.sum()))) for k, t in enumerate(request["units"]))]
    looks = len(marks) - 1
    engine, began = kernel.EventKernel(net, c), time.perf_counter()
    values = np.repeat(reference.start_values(np.zeros((net.nodes, net.dim)))[None], runs, axis=0)
    clocks, now = np.zeros((runs, net.nodes)), np.zeros(runs)
    phi = _potential(net, c, rate.y_weight, rates, best)
    first, ratios, sizes = phi(values[0]), np.ones((looks + 1, runs)), np.zeros((looks + 1, runs))
    sizes[0] = first
    for step in range(looks):
        count = marks[step + 1] - marks[step]
        drawn = [
            Clocks(Streams(3), net.nodes, rates, (k,)).draw(marks[step], count, float(now[k])) for k in range(runs)
        ]
        engine.advance(values, clocks, drawn)
        now = np.array([events.times[-1] for events in drawn])
        sizes[step + 1] = [phi(reference.at_time(c, values[k], clocks[k], float(now[k]))) for k in range(runs)]
        ratios[step + 1] = sizes[step + 1] * np.exp(rate.rho * now) / first
    error = ratios[1:].std(axis=1, ddof=1) / math.sqrt(runs)
    value = {
        "rho": rate.rho, "seen_decay": float(np.log(first / sizes[-1].mean()) / now.mean()),
        "largest_mean": float(ratios[1:].mean(axis=1).max()), "worst_errors_above": float(((ratios[1:].mean(axis=1) - 1.0) / error).max()),
        "passed_20": int((ratios.max(axis=0) > 20).sum()),
    }  # fmt: skip
    return {"seconds": time.perf_counter() - began, "value": value}


def _potential(net: Network, c: Any, y_weight: float, rates: np.ndarray, best: np.ndarray) -> Any:
    """The Lyapunov function of a state (n, 6, d); Bregman distances of quadratics in closed form."""
    curvature = np.stack([H for H, _ in net.quadratics or ()]) - c.nu * np.eye(net.dim)
    slopes = np.array([net.gradient(i, best) for i in range(net.nodes)])
    slopes = slopes - slopes.mean(axis=0)
    pseudo = np.linalg.pinv(rate_matrix(net.nodes, net.edges, rates))
    b, at = 2 * c.gamma_twin / c.eta, c.gamma_twin / (c.theta * c.nu)
    ay, az = c.gamma_twin / (c.alpha * c.nu), c.gamma_twin / (c.nu * c.beta_twin)

    def phi(state: np.ndarray) -> float:
        x, xt = state[:, 0] - best, state[:, 1] - best
        y, yt = (state[:, k] - (slopes - c.nu * best) for k in (2, 3))
        z, zt = (state[:, k] + slopes for k in (4, 5))
        total = (xt**2).sum() + at * (yt**2).sum() + y_weight * (y**2).sum() + ay * ((y + z) ** 2).sum()
        total += az * np.einsum("id,ij,jd->", zt, pseudo, zt) + 0.5 * b * np.einsum("id,ide,ie->", x, curvature, x)
        return float(total)

    return phi


def changing(request: dict[str, Any]) -> dict[str, Any]:
    """Random geometric graphs of 16 nodes that take turns: Phi_k times exp(rho t) over the prices paid and Phi_0(0), at some times of many runs."""
    from dataclasses import replace

    from surefoot.decentralized.event_gossip import EventGossip
    from surefoot.decentralized.schedule import changing_graph
    from surefoot.decentralized.windows import paid, prices, window_rate, window_slowness

    graphs, seed = [], 0
    while len(graphs) < request["graphs"]:
        seed += 1
        made: Any = nx.random_geometric_graph(16, 0.4, seed=seed)
        if nx.is_connected(made):
            graphs.append(nx.Graph(made.edges))
    base, best = problem("diabetes", "complete:16"), minimiser("diabetes", "complete:16")
    asked = Consensus(base.objectives, changing_graph([_plain(g) for g in graphs], [request["window"]] * len(graphs)))
    net = network(asked)
    method = EventGossip(tolerance=0.0, product=request["product"], check_every=1e9, block=10**7)
    began, runs = time.perf_counter(), request["runs"]
    first = method.init(asked, None, Streams(0))
    c, plan = first.letters, first.switching
    assert plan is not None
    chi = window_slowness(net.nodes, net.edges, plan.rates) * (1 + 1e-10)
    rate = window_rate(c, plan, net.mu, net.smoothness, chi)
    assert rate is not None
    logs = np.log(prices(c, plan, rate, net.nodes, net.edges, chi))
    phis = [_potential(net, plan.constants(c, k), rate.y_weight, row, best) for k, row in enumerate(plan.rates)]
    start = phis[0](first.values)
    states = [
        replace(first, streams=Streams(k), values=first.values.copy(), clocks=first.clocks.copy(), counts={})
        for k in range(runs)
    ]
    means, errors, sizes, now = [], [], np.zeros(runs), 0.0
    top = np.zeros(runs)
    for units in request["units"]:
        ratios = np.zeros(runs)
        for k, state in enumerate(states):
            state.limit = int(units * (net.nodes + state.rates.sum()))
            method.step(asked, state)
            moved = reference.at_time(c, state.values, state.clocks, state.time)
            sizes[k] = phis[state.visit % len(phis)](moved)
            ratios[k] = sizes[k] / start * math.exp(rate.rho * state.time - paid(logs, plan.durations, state.time))
        means.append(ratios.mean())
        errors.append(ratios.std(ddof=1) / math.sqrt(runs))
        top = np.maximum(top, ratios)
        now = float(np.mean([state.time for state in states]))
    decay = rate.rho - float(logs.sum() / plan.durations.sum())
    value = {
        "rho": rate.rho, "price": float(np.exp(logs.mean())), "certified_decay": decay,
        "seen_decay": float(np.log(start / sizes.mean()) / now), "largest_mean": max(means),
        "worst_errors_above": max((m - 1) / e for m, e in zip(means, errors, strict=True)), "passed_20": int((top > 20).sum()),
    }  # fmt: skip
    return {"seconds": time.perf_counter() - began, "value": value}


def _plain(graph: Any) -> Any:
    made: Any = nx.Graph()
    made.add_nodes_from(range(16))
    made.add_edges_from(graph.edges)
    return made


def averages(request: dict[str, Any]) -> dict[str, Any]:
    """Exchanges until the mean squared distance to the average is `target`, with and without momentum; values are the nodes' mean rows."""
    from surefoot.decentralized.momentum import ContinuizedGossip
    from surefoot.decentralized.nonconvex import averaging

    made = named_graph(request["graph"])
    values = np.random.default_rng(0).normal(size=(len(made), 4))
    asked, best = averaging(values, made), values.mean(axis=0)
    method = ContinuizedGossip(momentum=request["momentum"], tolerance=0.0, check_every=1e9, block=max(1, len(made)))
    began, spent = time.perf_counter(), []
    first = method.init(asked, None, Streams(0))
    for seed in range(request["seeds"]):
        state = method.init(asked, None, Streams(seed)) if seed else first
        while ((state.points() - best) ** 2).sum(axis=1).mean() > request["target"]:
            method.step(asked, state)
        spent.append(state.k)
    chi = slowness(len(made), network(asked).edges, first.rates)
    rate = mixing_rate(first.letters, *chi)
    return {"seconds": time.perf_counter() - began, "value": {"exchanges": spent, "rate": rate}}


KINDS = {
    "changing": changing,
    "averages": averages,
    "events": events,
    "gossip": gossip,
    "rounds": rounds,
    "bound": bound,
}

if __name__ == "__main__":
    serve(lambda request: KINDS[request["kind"]](request))
