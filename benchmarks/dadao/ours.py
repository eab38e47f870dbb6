"""Our side: the simulator's speed, and what every method spends until the mean of the nodes' squared distances is small."""

from __future__ import annotations

import gzip
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.core.solve import Budget, solve
from surefoot.decentralized import kernel, levels, reference
from surefoot.decentralized.constants import certified_constants, paper_constants
from surefoot.decentralized.events import Clocks
from surefoot.decentralized.graphs import named_graph, slowness, uniform_rates
from surefoot.decentralized.loading import standardised
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
    return (
        uniform_rates(net.nodes, net.edges, product)
        if which == "uniform"
        else optimal_rates(net.nodes, net.edges, product).rates
    )


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
        limit = 40_000 if found is None else found["exchanges"] // max(1, len(net.edges)) + 1
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


KINDS = {"events": events, "gossip": gossip, "rounds": rounds}

if __name__ == "__main__":
    serve(lambda request: KINDS[request["kind"]](request))
