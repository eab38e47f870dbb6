"""Perturbed inputs: worst-case losses, bounds of a network's scores over the box |delta| <= e, and attacks on it.

On row k a perturbation moves the score of a network whose neurons keep their patterns by delta'zeta_k, at most |e o zeta_k|_1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks.problem import PatternProgram


def soft(vector: Tensor, threshold: Tensor) -> Tensor:
    """Entries moved towards zero by the threshold."""
    return vector - vector.clamp(-threshold, threshold)


def loss_over(problem: PatternProgram, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Largest loss over scores in [low, high]: at an end, since losses are convex."""
    return torch.maximum(problem.loss.value(low, y), problem.loss.value(high, y))


def worst_loss(problem: PatternProgram, scores: Tensor, reach: Tensor, y: Tensor) -> Tensor:
    """Largest loss over scores within `reach`."""
    return loss_over(problem, scores - reach, scores + reach, y)


def dual_value(problem: PatternProgram, z: Tensor, spread: Tensor, y: Tensor) -> float:
    """Value of row multipliers: -phi*(h) summed over rows with gradients h = -z x + tilt, |tilt| <= e spread, spread >= |z|.

    Without radii spread = |z| and this is -loss*(-z).
    """
    if problem.loss_name in ("squared", "huber") and problem.robust:
        return float((z * y - 0.5 * spread.square()).sum())
    if problem.loss_name == "quantile" and problem.robust:
        return float((z * y).sum())
    return -float(problem.loss.conjugate(-z, y).sum())


def score_ranges(features: Tensor, radii: Tensor, hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (low, high), each (n, C), of a network's scores over every perturbation of the rows within the radii.

    A neuron whose sign no perturbation changes is linear; one whose sign may change lies between its chord and a line below (two are tried:
    0 and the identity, whichever is tighter for the neuron). Exact where all neurons keep their signs.
    """
    centre = features @ hidden.T
    room = (hidden.abs() @ radii)[None, :]
    low, high = centre - room, centre + room
    on, off = low >= 0, high <= 0
    slope = torch.where(on, 1.0, torch.where(off, 0.0, high / (high - low).clamp(min=torch.finfo(low.dtype).tiny)))
    shift = torch.where(on | off, 0.0, -slope * low)  # the chord: relu <= slope z + shift
    below = torch.where(on, 1.0, torch.where(off, 0.0, (high > -low).to(low)))
    found: list[Tensor] = []
    for sign in (-1.0, 1.0):
        columns = []
        for a in (sign * output).T:
            rate = torch.where(a > 0, a * slope, a * below)
            base = (rate * centre).sum(dim=1) + (a.clamp(min=0) * shift).sum(dim=1)
            linear = base + (rate @ hidden).abs() @ radii
            # neurons one by one, where that is tighter
            apart = (torch.where(a > 0, high, low).clamp(min=0) * a).sum(dim=1)
            columns.append(torch.minimum(linear, apart))
        found.append(sign * torch.stack(columns, dim=1))
    return found[0], found[1]


def worst_network_loss(problem: PatternProgram, hidden: Tensor, output: Tensor) -> Tensor:
    """A bound (n, C) on every row's loss over its perturbations, from the weights."""
    assert problem.radii is not None
    low, high = score_ranges(problem.features, problem.radii.to(hidden), hidden, output)
    return loss_over(problem, low, high, problem.targets)


def attack(
    problem: PatternProgram, features: Tensor, targets: Tensor, hidden: Tensor, output: Tensor, generator: np.random.Generator,
    *, steps: int = 30, starts: int = 3,
) -> Tensor:  # fmt: skip
    """Perturbations (n, d) within the radii that raise the summed loss of each row: projected sign-gradient ascent.

    The first start takes one full step (the fast gradient sign attack), the others begin at random; the best point of each row is kept.
    """
    assert problem.radii is not None
    radii = problem.radii.to(features)

    def loss_and_slope(delta: Tensor) -> tuple[Tensor, Tensor]:
        before = (features + delta) @ hidden.T
        scores = before.clamp(min=0) @ output
        back = (problem.loss.derivative(scores, targets) @ output.T) * (before > 0).to(before)
        return problem.loss.value(scores, targets).sum(dim=1), back @ hidden

    best = torch.zeros_like(features)
    worst, slope = loss_and_slope(best)
    for start in range(starts):
        noise = torch.from_numpy(generator.uniform(-1, 1, tuple(features.shape))).to(features)
        delta = radii * slope.sign() if start == 0 else radii * noise
        for step in range(steps):
            value, ascent = loss_and_slope(delta)
            better = value > worst
            best, worst = torch.where(better[:, None], delta, best), torch.where(better, value, worst)
            length = 2.0 / (1 + step) ** 0.5 if start else 0.5
            delta = (delta + length * radii * ascent.sign()).clamp(-radii, radii)
    return best


def certified_right(
    problem: PatternProgram, features: Tensor, targets: Tensor, hidden: Tensor, output: Tensor
) -> Tensor:
    """Which rows (n,) keep their right class under every perturbation, by `score_ranges` (of differences of columns where several)."""
    assert problem.radii is not None
    radii = problem.radii.to(features)
    hidden, output = hidden.to(features), output.to(features)
    if targets.shape[1] == 1:
        low, high = score_ranges(features, radii, hidden, output)
        return torch.where(targets[:, 0] > 0, low[:, 0] >= 0, high[:, 0] < 0)
    right = torch.ones(len(features), dtype=torch.bool, device=features.device)
    label = targets.argmax(dim=1)
    for own in range(targets.shape[1]):
        mine = label == own
        others = [c for c in range(targets.shape[1]) if c != own]
        low, _ = score_ranges(features[mine], radii, hidden, output[:, [own]] - output[:, others])
        right[mine] = (low > 0).all(dim=1)
    return right
