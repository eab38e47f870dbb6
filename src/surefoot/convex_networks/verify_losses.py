"""The problem in numpy for the checkers: losses and their duals from formulas, a network's loss from its weights, neuron by neuron."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.convex_networks.problem import Network, PatternProgram, ordered
from surefoot.core.verify import Dossier

Array = np.ndarray[Any, np.dtype[np.float64]]


def data_of(problem: PatternProgram) -> tuple[Array, Array]:
    return problem.features.double().cpu().numpy(), problem.targets.double().cpu().numpy()


def loss_sum(problem: PatternProgram, scores: Array, y: Array) -> float:
    """Summed loss of scores (n, C)."""
    name, options = problem.loss_name, problem.loss_options
    if name == "squared":
        each = 0.5 * (scores - y) ** 2
    elif name == "logistic":
        each = np.logaddexp(0.0, -2.0 * y * scores)
    elif name == "hinge":
        each = np.maximum(0.0, 1.0 - y * scores)
    elif name == "huber":
        knee, r = options.get("knee", 1.0), np.abs(scores - y)
        each = np.where(r <= knee, 0.5 * r * r, knee * (r - 0.5 * knee))
    else:
        level, r = options.get("quantile", 0.5), y - scores
        each = np.where(r >= 0, level * r, (level - 1.0) * r)
    return float(np.sum(each))


def dual_sum(problem: PatternProgram, z: Array, y: Array) -> float:
    """-loss*(-z) summed over rows and columns; -inf outside the conjugate's domain (up to rounding of the border)."""
    name, options = problem.loss_name, problem.loss_options
    room = 1e-12
    if name == "squared":
        return float(np.sum(z * y - 0.5 * z * z))
    if name in ("logistic", "hinge"):
        s = z * y * (0.5 if name == "logistic" else 1.0)
        if s.min(initial=0.0) < -room or s.max(initial=0.0) > 1 + room:
            return -np.inf
        s = np.clip(s, 0.0, 1.0)
        if name == "hinge":
            return float(s.sum())
        inner = s[(s > 0) & (s < 1)]
        return -float(np.sum(inner * np.log(inner) + (1 - inner) * np.log1p(-inner)))
    if name == "huber":
        if np.abs(z).max(initial=0.0) > options.get("knee", 1.0) * (1 + room):
            return -np.inf
        return float(np.sum(z * y - 0.5 * z * z))
    level = options.get("quantile", 0.5)
    if z.min(initial=0.0) < level - 1 - room or z.max(initial=0.0) > level + room:
        return -np.inf
    return float(np.sum(z * y))


def radii_of(problem: PatternProgram) -> Array:
    """Radii (d,), zeros where the problem is not robust."""
    width = problem.features.shape[1]
    return np.zeros(width) if problem.radii is None else problem.radii.double().cpu().numpy()


def worst_sum(problem: PatternProgram, low: Array, high: Array, y: Array) -> float:
    """Summed largest loss over scores in [low, high] (losses are convex: at an end)."""
    total = 0.0
    for a, b, k in zip(low.ravel(), high.ravel(), y.ravel(), strict=True):
        total += max(loss_sum(problem, np.array([end]), np.array([k])) for end in (a, b))
    return total


def row_range(x: Array, radii: Array, hidden: Array, a: Array) -> tuple[float, float]:
    """Bounds of sum_j a_j (u_j'(x + delta))_+ over |delta| <= radii: neurons that keep their sign are linear, others lie between chord
    and a line below; or each neuron on its own, whichever is tighter."""
    ends = []
    for sign in (-1.0, 1.0):
        slope, base, apart = np.zeros(len(x)), 0.0, 0.0
        for u, weight in zip(hidden, sign * a, strict=True):
            if weight == 0:
                continue
            centre, room = float(x @ u), float(np.abs(u) @ radii)
            low, high = centre - room, centre + room
            apart += weight * max(0.0, high if weight > 0 else low)
            if low >= 0:
                rate, shift = 1.0, 0.0
            elif high <= 0:
                rate, shift = 0.0, 0.0
            elif weight > 0:
                rate = high / (high - low)
                shift = -rate * low
            else:
                rate, shift = float(high > -low), 0.0
            slope += weight * rate * u
            base += weight * shift
        ends.append(sign * min(base + float(slope @ x) + float(np.abs(slope) @ radii), apart))
    return ends[0], ends[1]


def ranges(X: Array, radii: Array, hidden: Array, output: Array) -> tuple[Array, Array]:
    both = np.array([[row_range(x, radii, hidden, a) for a in output.T] for x in X]).reshape(len(X), output.shape[1], 2)
    return both[:, :, 0], both[:, :, 1]


def network_loss(problem: PatternProgram, network: Network) -> float:
    """Regularised loss of a network from its weights, neuron by neuron; a bound on the worst case where the problem is robust."""
    X, y = data_of(problem)
    if problem.robust:
        decay = 0.5 * problem.weight * float(np.sum(network.hidden**2) + np.sum(network.output**2))
        return worst_sum(problem, *ranges(X, radii_of(problem), network.hidden, network.output), y) + decay
    scores = np.zeros_like(y)
    for u, a in zip(network.hidden, network.output, strict=True):
        scores += np.maximum(X @ u, 0.0)[:, None] * a[None, :]
    decay = 0.5 * problem.weight * float(np.sum(network.hidden**2) + np.sum(network.output**2))
    return loss_sum(problem, scores, y) + decay


def answer_of(dossier: Dossier) -> tuple[Network, str]:
    """The answer, and what is wrong with its form."""
    network: Network = dossier.answer
    problem: PatternProgram = dossier.problem
    hidden, output = network.hidden, network.output
    if hidden.ndim != 2 or output.shape != (len(hidden), problem.targets.shape[1]):
        return network, f"weights of shapes {hidden.shape} and {output.shape} do not belong together"
    if not (np.isfinite(hidden).all() and np.isfinite(output).all()):
        return network, "the weights are not finite"
    same = ordered(hidden, output)
    if not (np.array_equal(same[0], hidden) and np.array_equal(same[1], output)):
        return network, "the neurons are not in their order"
    if problem.scaling is not None and (
        network.scaling is None
        or not np.array_equal(network.scaling.centre, problem.scaling.centre)
        or not np.array_equal(network.scaling.spread, problem.scaling.spread)
    ):
        return network, "the network's scaling is not the table's"
    return network, ""
