"""Training the network itself: full-batch Adam, then L-BFGS. A start for the convex polish, and what others do."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from surefoot.convex_networks.problem import PatternProgram
from surefoot.core.random import Streams


def objective_and_gradient(program: PatternProgram, hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Regularised loss of a network with weights (m, d), (m, C), and its gradients; with radii at rows attacked by one sign step."""
    X, y, beta = program.features, program.targets, program.weight
    if program.robust and program.radii is not None:  # at the rows moved by the fast gradient sign attack
        before = X @ hidden.T
        slope = program.loss.derivative(before.clamp(min=0) @ output, y)
        X = X + program.radii.to(X) * (((slope @ output.T) * (before > 0).to(before)) @ hidden).sign()
    before = X @ hidden.T
    active = before.clamp(min=0)
    scores = active @ output
    slope = program.loss.derivative(scores, y)
    back = (slope @ output.T) * (before > 0).to(before)
    value = program.loss.value(scores, y).sum() + 0.5 * beta * (hidden.square().sum() + output.square().sum())
    return value, back.T @ X + beta * hidden, active.T @ slope + beta * output


def train_locally(
    program: PatternProgram, hidden: Tensor, output: Tensor, *, steps: int = 1500, rate: float = 0.02, polish: int = 300
) -> tuple[Tensor, Tensor, float]:
    """Adam with a cosine schedule, then L-BFGS; the best point met is returned with its objective.

    Args:
        hidden, output: (m, d), (m, C) start.
        steps: Adam steps on the whole table.
        rate: its first step length.
        polish: most L-BFGS iterations.
    """
    point = [hidden.clone(), output.clone()]
    first = [torch.zeros_like(w) for w in point]
    second = [torch.zeros_like(w) for w in point]
    best, value = (point[0].clone(), point[1].clone()), math.inf
    for k in range(1, steps + 1):
        loss, *gradient = objective_and_gradient(program, point[0], point[1])
        if float(loss) < value:
            best, value = (point[0].clone(), point[1].clone()), float(loss)
        length = 0.5 * rate * (1 + math.cos(math.pi * (k - 1) / steps))
        for w, g, a, b in zip(point, gradient, first, second, strict=True):
            a.mul_(0.9).add_(g, alpha=0.1)
            b.mul_(0.999).addcmul_(g, g, value=0.001)
            w.addcdiv_(a / (1 - 0.9**k), (b / (1 - 0.999**k)).sqrt().add_(1e-8), value=-length)
    if polish and not program.robust and bool(torch.isfinite(best[0]).all()):
        shapes = (best[0].shape, best[1].shape)
        cut = best[0].numel()

        def split(flat: np.ndarray) -> tuple[Tensor, Tensor]:
            w = torch.from_numpy(flat).to(program.features)
            return w[:cut].reshape(shapes[0]), w[cut:].reshape(shapes[1])

        def fun(flat: np.ndarray) -> tuple[float, np.ndarray]:
            loss, gu, ga = objective_and_gradient(program, *split(flat))
            return float(loss), torch.cat([gu.flatten(), ga.flatten()]).cpu().numpy()

        start = torch.cat([best[0].flatten(), best[1].flatten()]).cpu().numpy()
        done = minimize(fun, start, jac=True, method="L-BFGS-B", options={"maxiter": polish, "maxcor": 20})
        if done.fun < value:
            best, value = split(np.asarray(done.x, dtype=np.float64)), float(done.fun)
    return best[0], best[1], value


def random_start(program: PatternProgram, width: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Gaussian weights of the usual size: hidden (m, d), output (m, C)."""
    d, C = program.features.shape[1], program.targets.shape[1]
    hidden = generator.standard_normal((width, d)) * math.sqrt(2.0 / d)
    output = generator.standard_normal((width, C)) / math.sqrt(width)
    return torch.from_numpy(hidden).to(program.features), torch.from_numpy(output).to(program.features)


def train_beside(
    program: PatternProgram, streams: Streams, runs: int, width: int, steps: int
) -> tuple[Tensor | None, Tensor | None]:
    """Weights (R, m, d), (R, m, C) of `runs` networks trained from their own starts; None where there are none."""
    if not runs:
        return None, None
    starts = [random_start(program, width, streams.numpy("local", run)) for run in range(runs)]
    trained = [train_locally(program, *first, steps=steps) for first in starts]
    return torch.stack([hidden for hidden, _, _ in trained]), torch.stack([output for _, output, _ in trained])
