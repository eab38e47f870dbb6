"""Random graphs and linear structural equation models to learn them from.

References:
    Zheng et al., DAGs with NO TEARS, 2018 (the benchmark models). Reisach et al., Beware of the simulated DAG, 2021
    (varsortability).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Noise = Literal["normal", "exponential", "laplace", "gumbel"]
Graph = Literal["er", "sf"]


@dataclass(frozen=True, eq=False)
class Simulated:
    """A sample with its truth: values (n, d), weights (d, d) row -> column, noise variances (d,), a causal order."""

    values: Array
    weights: Array
    noise_variances: Array
    order: tuple[int, ...]


def random_dag(rng: np.random.Generator, variables: int, mean_degree: int, graph: Graph = "er") -> Array:
    """Support (d, d) of 0 and 1 of a random DAG with about `mean_degree * d` edges.

    "er": each undirected edge with probability `2 k d / (d^2 - d)`, oriented along a random order (ERk). "sf": each new node
    of a Barabasi-Albert graph gets k neighbours, oriented from old to new (SFk). Node numbers are shuffled.
    """
    if variables < 2 or mean_degree < 1:
        raise ValueError(f"got {variables} variables and degree {mean_degree}; expected at least 2 and 1")
    if graph == "er":
        chance = min(1.0, 2.0 * mean_degree / (variables - 1))
        support = np.triu((rng.random((variables, variables)) < chance).astype(np.float64), 1)
    elif graph == "sf":
        import networkx as nx

        if mean_degree >= variables:
            raise ValueError(f"a scale-free graph of degree {mean_degree} needs more than {variables} variables")
        tree = nx.barabasi_albert_graph(variables, mean_degree, seed=int(rng.integers(2**31)))
        support = np.triu(np.asarray(nx.to_numpy_array(tree), dtype=np.float64), 1)
    else:
        raise ValueError(f"graph is {graph!r}; expected 'er' or 'sf'")
    shuffle = rng.permutation(variables)
    return support[np.ix_(shuffle, shuffle)]


def random_weights(rng: np.random.Generator, support: Array, low: float = 0.5, high: float = 2.0) -> Array:
    """Weights on a support, uniform on [-high, -low] and [low, high]."""
    size = rng.uniform(low, high, support.shape)
    return support * size * rng.choice([-1.0, 1.0], support.shape)


def simulate(
    rng: np.random.Generator, weights: Array, rows: int, noise_variances: Array | float = 1.0, noise: Noise = "normal"
) -> Simulated:
    """Rows of `X = X W + Z` with independent noise of the given variances; Z has mean zero up to its law's own mean."""
    from surefoot.causal.dag import topological_order

    order = topological_order(weights)
    if order is None:
        raise ValueError("the weights have a cycle; simulate from a DAG")
    variables = len(weights)
    spread = np.sqrt(np.broadcast_to(np.asarray(noise_variances, dtype=np.float64), variables))
    shape = (rows, variables)
    if noise == "normal":
        values = rng.normal(size=shape) * spread
    elif noise == "exponential":
        values = rng.exponential(size=shape) * spread
    elif noise == "laplace":
        values = rng.laplace(size=shape) * (spread / np.sqrt(2.0))
    elif noise == "gumbel":
        values = rng.gumbel(size=shape) * (spread * np.sqrt(6.0) / np.pi)
    else:
        raise ValueError(f"noise is {noise!r}; expected normal, exponential, laplace or gumbel")
    for node in order:
        values[:, node] += values @ weights[:, node]
    return Simulated(values, weights, spread**2, tuple(order))


def equal_variance_model(
    seed: int,
    variables: int,
    mean_degree: int = 4,
    rows: int = 1000,
    variance: float = 1.0,
    graph: Graph = "er",
    noise: Noise = "normal",
) -> Simulated:
    """The benchmark's equal-variance setting: weights in [0.5, 2] with random signs."""
    rng = np.random.default_rng(seed)
    return simulate(rng, random_weights(rng, random_dag(rng, variables, mean_degree, graph)), rows, variance, noise)


def unequal_variance_model(
    seed: int, variables: int, mean_degree: int = 4, rows: int = 1000, graph: Graph = "er", noise: Noise = "normal"
) -> Simulated:
    """The benchmark's setting with noise variances uniform on [0.5, 10] and weights in [0.25, 1]."""
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, random_dag(rng, variables, mean_degree, graph), 0.25, 1.0)
    return simulate(rng, weights, rows, rng.uniform(0.5, 10.0, variables), noise)


def varsortability(values: Array, weights: Array) -> float:
    """Fraction of directed paths (one for each length and pair) along which the marginal variance rises.

    1 means that sorting the columns by variance already gives a causal order; 0.5 is chance. Ties count half.
    """
    variance = values.var(axis=0)
    step = weights != 0
    reach, rising, total = step.copy(), 0.0, 0
    for _ in range(len(weights) - 1):
        if not reach.any():
            break
        sources, targets = np.nonzero(reach)
        total += len(sources)
        gain = variance[targets] / variance[sources]
        rising += float(np.sum(gain > 1.0 + 1e-9)) + 0.5 * float(np.sum(np.abs(gain - 1.0) <= 1e-9))
        reach = (reach.astype(np.int64) @ step.astype(np.int64)) > 0
    return rising / total if total else float("nan")
