"""Small problems that the tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.problem import Consensus
from surefoot.decentralized.graphs import named_graph
from surefoot.decentralized.problem import Network, linear_consensus, network
from surefoot.numerics.losses import Huber, Logistic, Loss, Squared

LOSSES: dict[str, Loss] = {"squared": Squared(), "logistic": Logistic(), "huber": Huber(0.7)}


def rows(count: int, dim: int, loss: str = "squared", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal features and targets of a linear model with noise (signs of them for the logistic loss)."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(count, dim))
    y = A @ rng.normal(size=dim) + 0.5 * rng.normal(size=count)
    return A, np.where(y > 0, 1.0, -1.0) if loss == "logistic" else y


def consensus(graph: str, dim: int = 3, loss: str = "squared", ridge: float = 0.2, seed: int = 0) -> Consensus:
    """Five rows a node."""
    made = named_graph(graph)
    A, y = rows(5 * len(made), dim, loss, seed)
    return linear_consensus(A, y, LOSSES[loss], ridge, made)


def minimiser(net: Network) -> np.ndarray:
    """x* by Newton's method on the mean loss, to machine precision."""
    assert net.rows is not None
    import torch

    x = np.zeros(net.dim)
    for _ in range(100):
        H: Any = 0.0
        for local in net.rows:
            z, y = torch.from_numpy(local.features @ x), torch.from_numpy(local.targets)
            bend = local.loss.second_derivative(z, y).numpy()
            H = H + local.features.T @ (bend[:, None] * local.features) / len(y) + local.ridge * np.eye(net.dim)
        step = np.linalg.solve(H / net.nodes, net.mean_gradient(x))
        x = x - step
        if np.linalg.norm(step) < 1e-15:
            break
    return x


def stationary(net: Network, nu: float) -> np.ndarray:
    """The state (n, 6, d) of the saddle point: x = xt = x*, y = yt = grad f_i(x*) - nu x*, z = zt = -grad f_i(x*)."""
    x = minimiser(net)
    slopes = np.array([net.gradient(i, x) for i in range(net.nodes)])
    slopes = slopes - slopes.mean(axis=0)
    values = np.empty((net.nodes, 6, net.dim))
    values[:, 0] = values[:, 1] = x
    values[:, 2] = values[:, 3] = slopes - nu * x
    values[:, 4] = values[:, 5] = -slopes
    return values


def net_of(graph: str, **more: Any) -> Network:
    return network(consensus(graph, **more))
