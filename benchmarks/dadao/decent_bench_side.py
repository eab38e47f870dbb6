"""The peer's side: decent-bench's own methods on the same quadratics, the graph and the start as given."""

import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np
from decent_array import interoperability as iop
from decent_bench.agents import Agent
from decent_bench.algorithms.p2p import EXTRA, NIDS, AugDGM, ProxSkip
from decent_bench.costs import QuadraticCost
from decent_bench.networks import P2PNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve

iop.set_backend("numpy")
METHODS = {"extra": EXTRA, "nids": NIDS, "aug-dgm": AugDGM, "proxskip": ProxSkip}
EXCHANGES = {"extra": 1, "nids": 1, "aug-dgm": 2, "proxskip": 1}


def rounds(request: dict) -> dict:
    """Uses of edges until the mean squared distance to the minimiser is <= target, the step chosen in hindsight among those given."""
    curvatures, linears = np.array(request["curvatures"]), np.array(request["linears"])
    best = np.linalg.solve(curvatures.sum(axis=0), linears.sum(axis=0))
    began, found = time.perf_counter(), None
    for size in request["steps"]:
        graph = nx.Graph()
        graph.add_nodes_from(range(len(linears)))
        graph.add_edges_from(request["edges"])
        agents = [
            Agent(QuadraticCost(iop.from_numpy(H), iop.from_numpy(-c)))
            for H, c in zip(curvatures, linears, strict=True)
        ]
        network = P2PNetwork(graph, agents)
        method = METHODS[request["algorithm"]](step_size=size / request["smoothness"])
        method.initialize(network)
        limit = request["limit"] if found is None else found["rounds"]
        for k in range(limit):
            method.step(network, k)
            points = np.array([iop.to_numpy(agent.x) for agent in network.agents()])
            distance = float(((points - best) ** 2).sum(axis=1).mean())
            if not distance < 1e12:
                break
            if distance <= request["target"]:
                found = {"rounds": k + 1, "step": size}
                break
    value = None
    if found:
        uses = EXCHANGES[request["algorithm"]] * len(request["edges"])
        value = {
            "exchanges": found["rounds"] * uses,
            "gradients": found["rounds"] * len(linears),
            "step": found["step"],
        }
    return {"seconds": time.perf_counter() - began, "value": value}


if __name__ == "__main__":
    serve(rounds)
