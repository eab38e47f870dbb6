"""Which patterns are missing: directions u on the unit sphere with |z'(X u)_+| above beta.

z is the multiplier of the predictions, - d loss / d prediction, of one target column. A pattern whose best direction stays below beta
would not be used; one above it lowers the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks.arrangement import MOST_ROWS, merged, peak, reduced
from surefoot.convex_networks.patterns import unit

ROUNDS = 60
"""Ascent steps from every start."""


@dataclass(frozen=True)
class Priced:
    """What a search found.

    Attributes:
        value: largest |z'(X u)_+| over unit u that was met.
        upper: bound on it that holds for all unit u; infinity where only some were looked at.
        best: (d,) where it was met.
        directions: (k, d) directions above the threshold, best first.
    """

    value: float
    upper: float
    best: Tensor
    directions: Tensor


def all_arrangements(features: Tensor) -> bool:
    """Whether every arrangement can be visited: rank at most 3 and not too many distinct rows."""
    A, _, _ = reduced(features.cpu().numpy())
    return A.shape[1] <= 3 and (A.shape[1] < 3 or len(merged(A)[0]) <= MOST_ROWS)


def price_exactly(features: Tensor, z: Tensor) -> Priced:
    """The maximum over the whole ball for one column z (n,), by visiting all arrangements."""
    X, r = features.cpu().numpy(), z.cpu().numpy()
    peaks = [peak(X, r), peak(X, -r)]
    best = sorted(peaks, key=lambda p: -p.value)
    found = (
        torch.from_numpy(np.stack([p.direction for p in best if p.value > 0])) if best[0].value > 0 else features[:0]
    )
    first = torch.from_numpy(best[0].direction).to(features)
    return Priced(best[0].value, max(p.upper for p in peaks), first, found.to(features))


def ascend(features: Tensor, z: Tensor, starts: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Local maxima of z'(X u)_+ on the sphere from many starts: (values (k,), directions (k, d)).

    Each step tries the direction of the gradient X'D(u) z and shorter ones towards it, and keeps what is better.
    """
    u = unit(starts)

    def value(w: Tensor) -> Tensor:
        return (w @ features.T).clamp(min=0) @ z

    now = value(u)
    length = torch.ones_like(now)
    for _ in range(rounds):
        active = (u @ features.T >= 0).to(z)
        gradient = (active * z) @ features
        size = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        target = torch.where(size > 0, gradient / size.clamp(min=torch.finfo(z.dtype).tiny), u)
        trial = (1 - length)[:, None] * u + length[:, None] * target
        norm = torch.linalg.vector_norm(trial, dim=1, keepdim=True)
        trial = torch.where(norm > 1e-12, trial / norm.clamp(min=1e-12), u)
        fresh = value(trial)
        better = fresh > now
        u = torch.where(better[:, None], trial, u)
        now = torch.where(better, fresh, now)
        length = torch.where(better, (2 * length).clamp(max=1.0), 0.35 * length)
        if float(length.max()) < 1e-7:
            break
    return now, u


def price(features: Tensor, z: Tensor, starts: Tensor, threshold: float, room: int) -> Priced:
    """Search from `starts`, for both signs; directions above `threshold` are kept, at most `room`."""
    values, directions = zip(*(ascend(features, sign * z, starts) for sign in (1.0, -1.0)), strict=True)
    value, found = torch.cat(values), torch.cat(directions)
    order = torch.argsort(value, descending=True)
    best, where = float(value[order[0]]), found[order[0]]
    order = order[value[order] > threshold]
    # near copies of one another are told apart by their patterns later; a coarse sieve keeps the list short
    kept: list[int] = []
    for place in order.tolist():
        if len(kept) >= room:
            break
        if not kept or float((found[kept] @ found[place]).max()) < 1 - 1e-10:
            kept.append(place)
    return Priced(best, float("inf"), where, found[kept])


def price_column(features: Tensor, z: Tensor, starts: Tensor, threshold: float, room: int, exact: bool) -> Priced:
    """The search from `starts`, and with `exact` all arrangements beside it, as one.

    `upper` is then the bound that holds for all directions; otherwise the best value found.
    """
    searched = price(features, z, starts, threshold, room)
    if not exact:
        return Priced(searched.value, searched.value, searched.best, searched.directions)
    proved = price_exactly(features, z)
    best = proved.best if proved.value >= searched.value else searched.best
    directions = torch.cat([proved.directions, searched.directions])
    return Priced(max(proved.value, searched.value), proved.upper, best, directions)
