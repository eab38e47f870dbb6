"""Problems beyond strong convexity: averages, a non-convex logistic loss, torch modules; all are a `Consensus`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.problem import Consensus, Constant, Objective
from surefoot.decentralized.graphs import plain_graph

Array = np.ndarray[Any, np.dtype[np.float64]]
BEND = 3 * math.sqrt(3) / 8
"""The largest slope of t^2 / (1 + t^2)."""


@dataclass(frozen=True)
class SampledObjective(Objective):
    """An objective that is a mean over rows, whose gradient can be taken from some of them.

    Args:
        rows: how many.
        row_gradient: (x (d,), indices (b,)) -> mean gradient over these rows (d,).
    """

    rows: int = 0
    row_gradient: Callable[[Tensor, Tensor], Tensor] | None = None


def averaging(values: Any, graph: Any) -> Consensus:
    """Nodes that must agree on the mean of their values: f_i(x) = |x - v_i|^2 / 2.

    Args:
        values: (n, d), a row a node in the graph's order.

    Raises:
        ValueError: another number of rows, or values that are not finite.
    """
    plain = plain_graph(graph)
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != len(plain):
        raise ValueError(f"the values have shape {array.shape}; expected a row for each of the {len(plain)} nodes")
    if not np.isfinite(array).all():
        raise ValueError("the values hold NaN or infinite numbers; clean or impute them first")
    one = {name: Constant(1.0, "exact", "half a squared distance") for name in ("strong_convexity", "smoothness")}

    def objective(value: Tensor) -> Objective:
        return Objective(
            lambda x: (0.5 * ((x - value) @ (x - value)), x - value),
            len(value),
            constants=one,
            identity={"mean of": value},
        )

    return Consensus(tuple(objective(torch.from_numpy(row.copy())) for row in array), plain)


def node_means(features: Any, nodes: int, owner: Any = None) -> Array:
    """Every node's mean row (n, d); rows are dealt in consecutive blocks where no owner is given.

    Raises:
        ValueError: a node without rows.
    """
    array = np.asarray(features, dtype=np.float64)
    places = np.arange(len(array)) * nodes // max(len(array), 1) if owner is None else np.asarray(owner)
    counts = np.bincount(places, minlength=nodes)
    if (counts == 0).any():
        raise ValueError(f"node {int(np.argmin(counts))} has no rows ({len(array)} rows for {nodes} nodes)")
    return np.array([array[places == i].mean(axis=0) for i in range(nodes)])


def nonconvex_logistic(features: Any, labels: Any, weight: float, graph: Any, owner: Any = None) -> Consensus:
    """f_i(x) = mean over node i's rows of log(1 + exp(-y a'x)) + weight sum_j x_j^2 / (1 + x_j^2).

    Its smoothness, the bound of its gradients and its least value are known: |A_i|^2 / (4 m_i) + 2 weight, the rows' mean length +
    weight sqrt(d) 3 sqrt(3) / 8, and 0.

    Args:
        features: (rows, d).
        labels: (rows,), -1 or +1.
        weight: >= 0 of the penalty.
        graph, owner: as for `problem.linear_consensus`.

    Raises:
        ValueError: values that are not finite, other labels, a node without rows, a negative weight.
    """
    plain = plain_graph(graph)
    A, y = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not (np.isfinite(A).all() and np.isfinite(y).all()):
        raise ValueError("features or labels hold NaN or infinite values; clean or impute them first")
    if not set(np.unique(y)) <= {-1.0, 1.0}:
        raise ValueError("labels must be -1 or +1")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight is {weight}; expected a finite number >= 0")
    places = np.arange(len(A)) * len(plain) // max(len(A), 1) if owner is None else np.asarray(owner, dtype=np.int64)
    counts = np.bincount(places, minlength=len(plain))
    if (counts == 0).any():
        raise ValueError(f"node {list(plain)[int(np.argmin(counts))]} has no rows; give every node at least one")
    parts = [
        _logistic(torch.from_numpy(A[places == i]), torch.from_numpy(y[places == i]), weight) for i in range(len(plain))
    ]
    return Consensus(tuple(parts), plain)


def _logistic(A: Tensor, y: Tensor, weight: float) -> SampledObjective:
    rows, dim = A.shape
    lengths = A.norm(dim=1)
    top = float(torch.linalg.matrix_norm(A, 2)) ** 2 / rows * (1 + 1e-12 * max(A.shape))
    penalty = weight * math.sqrt(dim) * BEND
    constants = {
        "smoothness": Constant(
            top / 4 + 2 * weight, "exact", "a quarter of |A|^2 / m, and the penalty's largest curvature"
        ),
        "gradient_bound": Constant(
            float(lengths.mean()) + penalty, "exact", "slopes of the logistic loss are at most 1"
        ),
        "row_gradient_bound": Constant(float(lengths.max()) + penalty, "exact", "the same for any rows"),
        "minimum": Constant(0.0, "exact", "a lower bound: no term is negative"),
    }

    def slope(x: Tensor, A: Tensor, y: Tensor) -> Tensor:
        return A.T @ (-y * torch.sigmoid(-y * (A @ x))) / len(y) + weight * 2 * x / (1 + x * x) ** 2

    def value_and_grad(x: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.nn.functional.softplus(-y * (A @ x)).mean() + weight * (x * x / (1 + x * x)).sum()
        return value, slope(x, A, y)

    return SampledObjective(
        value_and_grad, dim, constants=constants, identity={"features": A, "labels": y, "penalty": weight}, rows=rows,
        row_gradient=lambda x, picked: slope(x, A[picked], y[picked]),
    )  # fmt: skip


def module_consensus(
    recipe: Callable[[], torch.nn.Module], loss: Callable[[Tensor, Tensor], Tensor], shards: Sequence[tuple[Tensor, Tensor]], graph: Any
) -> Consensus:  # fmt: skip
    """A torch module trained by nodes that each hold some of the data; x is the flat vector of its parameters, in float64.

    Args:
        recipe: makes the module; no buffers (batch normalisation) and no dropout.
        loss: (outputs, targets) -> per-sample losses (b,).
        shards: (inputs, targets) of every node, in the graph's order.

    Raises:
        ValueError: another number of shards, empty ones, or a module whose output depends on more than its parameters.
    """
    plain = plain_graph(graph)
    if len(shards) != len(plain) or any(len(inputs) == 0 or len(inputs) != len(targets) for inputs, targets in shards):
        raise ValueError(
            f"{len(shards)} shards for {len(plain)} nodes; give each node inputs and as many targets, at least one"
        )
    module = recipe().double()
    if any(True for _ in module.buffers()) or any(
        isinstance(m, torch.nn.modules.dropout._DropoutNd) for m in module.modules()
    ):
        raise ValueError(
            "the module has buffers or dropout; its nodes would not have the same loss: take normalisation without statistics"
        )
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    dim = sum(shape.numel() for shape in shapes.values())

    def objective(inputs: Tensor, targets: Tensor) -> SampledObjective:
        wide = inputs.double() if inputs.is_floating_point() else inputs

        def mean(x: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            parts = x.split([shape.numel() for shape in shapes.values()])
            named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
            return loss(torch.func.functional_call(module, named, (inputs,)), targets).mean()

        def both(x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            at = x.detach().clone().requires_grad_()
            value = mean(at, inputs, targets)
            return value.detach(), torch.autograd.grad(value, at)[0]

        identity = {"module": repr(module), "inputs": inputs, "targets": targets}
        return SampledObjective(
            lambda x: both(x, wide, targets), dim, identity=identity, rows=len(targets),
            row_gradient=lambda x, picked: both(x, wide[picked], targets[picked])[1],
        )  # fmt: skip

    return Consensus(tuple(objective(*shard) for shard in shards), plain)


def flat_parameters(module: torch.nn.Module) -> Array:
    """The module's parameters as one vector (d,), a start for `module_consensus`."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in module.parameters()])


def load_parameters(module: torch.nn.Module, x: Array) -> torch.nn.Module:
    """Put a vector (d,) into the module's parameters."""
    offset = 0
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.from_numpy(np.asarray(x[offset : offset + p.numel()])).view(p.shape))
            offset += p.numel()
    return module
