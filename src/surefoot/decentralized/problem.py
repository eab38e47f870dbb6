"""What the user brings: a loss at every node of a graph.

The shape is `surefoot.core.problem.Consensus`: minimise sum_i f_i(x) when f_i is known at node i only. `linear_consensus`
makes it from a table; a `Consensus` of any other strongly convex, smooth objectives works as well, more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch

from surefoot.core.problem import Consensus, Objective
from surefoot.data.linear_model import LinearModel
from surefoot.decentralized.graphs import edge_list, plain_graph
from surefoot.decentralized.schedule import Schedule, schedule_of
from surefoot.numerics.losses import Loss, Squared

Array = np.ndarray[Any, np.dtype[np.float64]]
KNOWN: tuple[Literal["exact", "declared", "estimated"], ...] = ("exact", "declared", "estimated")
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class LocalRows:
    """The rows of one node of a linear model: features (m, d), targets (m,)."""

    features: Array
    targets: Array
    loss: Loss
    ridge: float


@dataclass(frozen=True, eq=False)
class Network:
    """A `Consensus` as arrays: what simulators and certificates read.

    Attributes:
        names: of the nodes.
        edges: (E, 2) places i < j.
        mu, smoothness: the least strong convexity and the largest smoothness over the nodes.
        known: how the two are known.
        rows: the nodes' rows where all are linear models, else None.
        objectives: the nodes' objectives.
        schedule: the windows of a graph that changes over time, else None.
    """

    names: tuple[str, ...]
    edges: np.ndarray[Any, np.dtype[np.int64]]
    dim: int
    mu: float
    smoothness: float
    known: str
    rows: tuple[LocalRows, ...] | None
    objectives: tuple[Objective, ...]
    schedule: Schedule | None = None

    @cached_property
    def quadratics(self) -> tuple[tuple[Array, Array], ...] | None:
        """(H, c) of every node with grad f_i(x) = H x - c, where all losses are squared; else None."""
        if self.rows is None or not all(isinstance(local.loss, Squared) for local in self.rows):
            return None
        eye = np.eye(self.dim)
        return tuple(
            (r.features.T @ r.features / len(r.targets) + r.ridge * eye, r.features.T @ r.targets / len(r.targets))
            for r in self.rows
        )

    @property
    def nodes(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """Rows that every node has (n,), where they are known."""
        if self.rows is not None:
            return np.array([len(local.targets) for local in self.rows])
        counts = [getattr(objective, "rows", 0) for objective in self.objectives]
        return np.array(counts) if all(counts) else None

    def gradient(self, node: int, x: Array) -> Array:
        """grad f_node(x), (d,)."""
        if self.quadratics is not None:
            curvature, linear = self.quadratics[node]
            return curvature @ x - linear
        return np.asarray(self.objectives[node].value_and_grad(torch.from_numpy(x))[1].numpy(), dtype=np.float64)

    def rows_gradient(self, node: int, x: Array, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
        """The mean gradient of some of the node's rows, with its ridge term (d,)."""
        if self.rows is None:
            objective: Any = self.objectives[node]
            return np.asarray(objective.row_gradient(torch.from_numpy(x), torch.from_numpy(rows)).numpy())
        local = self.rows[node]
        features = local.features[rows]
        slopes = local.loss.derivative(torch.from_numpy(features @ x), torch.from_numpy(local.targets[rows])).numpy()
        return np.asarray(slopes @ features / len(rows) + local.ridge * x)

    def mean_gradient(self, x: Array) -> Array:
        """(1/n) sum_i grad f_i(x), (d,)."""
        return np.mean([self.gradient(i, x) for i in range(self.nodes)], axis=0)

    def rounding(self, x: Array) -> Array:
        """Bounds (n,) of what float64 can change in each node's gradient at x, from the sizes of its terms."""
        size: Any = float(np.linalg.norm(x))
        if self.rows is None:
            slopes: Any = np.array([np.linalg.norm(self.gradient(i, x)) for i in range(self.nodes)])
            return np.asarray(EPS * (64 + self.dim) * (slopes + self.smoothness * size))
        found = []
        for local in self.rows:
            lengths = np.linalg.norm(local.features, axis=1)
            bend = local.loss.constants.curvature
            # prediction, label and slope are at most this, whichever way the products are summed
            terms = lengths * (bend * (2 * lengths * size + np.abs(local.targets)) + 1.0)
            found.append((8 + self.dim + len(lengths)) * (terms.mean() + local.ridge * size))
        return EPS * np.array(found)


def linear_consensus(
    features: Any, targets: Any, loss: Loss, ridge: float, graph: nx.Graph, owner: Any = None
) -> Consensus:
    """Rows of a table over the nodes of a graph: f_i(x) = mean loss over node i's rows + ridge / 2 |x|^2.

    Args:
        features: (rows, d).
        targets: (rows,).
        ridge: > 0; it is every node's strong convexity.
        graph: see `graphs.plain_graph`.
        owner: the node (0, 1, ... in the graph's order) of every row; None deals consecutive blocks of nearly equal size.

    Raises:
        ValueError: a node without rows, an owner that is no node, ridge <= 0, a loss that is not convex and smooth, values
            that are not finite, or a graph that is not connected.
    """
    A = torch.as_tensor(np.asarray(features, dtype=np.float64))
    y = torch.as_tensor(np.asarray(targets, dtype=np.float64))
    plain = plain_graph(graph)
    if not (math.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge is {ridge}; it makes every node's loss strongly convex and must be a number > 0")
    constants = loss.constants
    if not (constants.convex and constants.smooth):
        raise ValueError(f"the loss {type(loss).__name__} is not convex and smooth; take squared, logistic or huber")
    loss.validate_labels(y)
    nodes = len(plain)
    places = np.arange(len(A)) * nodes // max(len(A), 1) if owner is None else np.asarray(owner, dtype=np.int64)
    if places.shape != (len(A),):
        raise ValueError(f"{places.shape} owners for {len(A)} rows; give one node a row")
    if len(places) and not (places.min() >= 0 and places.max() < nodes):
        raise ValueError(
            f"an owner is {places.min() if places.min() < 0 else places.max()}; nodes are 0 to {nodes - 1}"
        )
    counts = np.bincount(places, minlength=nodes)
    if (counts == 0).any():
        empty = list(plain)[int(np.argmin(counts))]
        raise ValueError(f"node {empty} has no rows ({len(A)} rows for {nodes} nodes); give every node at least one")
    model = LinearModel(A, y, loss, ridge)
    return model.consensus(plain, [torch.from_numpy(np.flatnonzero(places == i)) for i in range(nodes)])


def network(problem: Consensus, convex: bool = True) -> Network:
    """The problem as arrays, checked.

    Args:
        convex: whether the nodes must be strongly convex and smooth; otherwise mu is 0 and an unknown smoothness infinite.

    Raises:
        ValueError: a graph that is not connected, objectives of different dimension, a node that is not strongly convex or
            not smooth, or constants that are not finite.
    """
    plain = plain_graph(problem.graph)
    names = tuple(plain)
    dims = sorted({objective.dim for objective in problem.objectives})
    if len(dims) > 1:
        raise ValueError(f"the nodes' objectives have dimensions {dims}; consensus needs one")
    lowest, highest, known = math.inf, 0.0, "exact"
    if not convex:
        tops = [objective.constants.get("smoothness") for objective in problem.objectives]
        highest = max(math.inf if top is None else top.value for top in tops)
        known = max((top.known for top in tops if top is not None), key=KNOWN.index, default="estimated")
        rows = _linear_rows(problem.objectives)
        return Network(
            names, edge_list(plain), dims[0], 0.0, highest, known, rows, problem.objectives, schedule_of(plain)
        )
    for name, objective in zip(names, problem.objectives, strict=True):
        mu, top = objective.constant("strong_convexity"), objective.constant("smoothness")
        if not (math.isfinite(mu.value) and math.isfinite(top.value)):
            raise ValueError(f"node {name}: strong convexity {mu.value} and smoothness {top.value} must be finite")
        if mu.value <= 0:
            raise ValueError(f"node {name} is not strongly convex (constant {mu.value}); add a ridge term")
        if mu.value > top.value:
            raise ValueError(f"node {name}: strong convexity {mu.value} exceeds smoothness {top.value}")
        lowest, highest = min(lowest, mu.value), max(highest, top.value)
        known = max(known, mu.known, top.known, key=KNOWN.index)
    return Network(
        names, edge_list(plain), dims[0], lowest, highest, known, _linear_rows(problem.objectives), problem.objectives,
        schedule_of(plain),
    )  # fmt: skip


def _linear_rows(objectives: Sequence[Objective]) -> tuple[LocalRows, ...] | None:
    """The rows of linear models, which say what they are in their `identity`."""
    found = []
    for objective in objectives:
        parts = objective.identity or {}
        if set(parts) != {"features", "targets", "loss", "ridge"}:
            return None
        features: Any = parts["features"]
        targets: Any = parts["targets"]
        loss: Any = parts["loss"]
        ridge: Any = parts["ridge"]
        dense = features.to_dense().double().numpy()
        found.append(LocalRows(np.ascontiguousarray(dense), targets.double().numpy(), loss, float(ridge)))
    return tuple(found)


def require_finite_start(values: Array, nodes: int, dim: int) -> Array:
    """A start (d,) or (n, d) as (n, d).

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape == (dim,):
        array = np.broadcast_to(array, (nodes, dim))
    if array.shape != (nodes, dim):
        raise ValueError(f"the start has shape {array.shape}; expected ({dim},) or ({nodes}, {dim})")
    if not np.isfinite(array).all():
        raise ValueError("the start holds NaN or infinite values")
    return np.array(array)
