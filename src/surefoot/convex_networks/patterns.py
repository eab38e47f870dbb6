"""Activation patterns D = diag(1[X a >= 0]) of hyperplanes through the origin, each kept as the direction a that made it.

A direction stands for its pattern: it lies inside the pattern's cone {u : (2D - I) X u >= 0}, and it takes d numbers where the
pattern takes n bits. Directions are drawn from addressed streams in lots of a fixed size, so that the first hundred of a thousand
patterns are the hundred of a smaller run.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import torch
from torch import Tensor

from surefoot.core.random import Streams

LOT = 256
"""Directions drawn at a time."""

SURE = 1e-9
"""|x'a| below this multiple of |x| |a| leaves the sign of a row open; such directions are not used."""


def pattern_of(features: Tensor, directions: Tensor) -> Tensor:
    """1[X a >= 0] of every direction: (P, n) bool for directions (P, d); zero rows belong to every pattern."""
    return directions @ features.T >= 0


def sign_lots(features: Tensor, directions: Tensor, scratch: int = 256 << 20) -> Iterator[tuple[slice, Tensor]]:
    """Lots of patterns with their signs (b, n), +1 in the pattern and -1 outside, so that a dozen such arrays fit into `scratch` bytes."""
    each = max(1, scratch // (8 * 12 * len(features)))
    for start in range(0, len(directions), each):
        part = slice(start, min(len(directions), start + each))
        yield part, torch.where(pattern_of(features, directions[part]), 1.0, -1.0).to(features)


def margins(features: Tensor, directions: Tensor) -> Tensor:
    """Least |x'a| / (|x| |a|) over the rows that are not zero: (P,); infinity where all rows are zero."""
    sizes = torch.linalg.vector_norm(features, dim=1)
    live = sizes > 0
    if not bool(live.any()):
        return torch.full((len(directions),), torch.inf, dtype=features.dtype, device=features.device)
    reach = (directions @ features[live].T).abs() / sizes[live]
    return reach.amin(dim=1) / torch.linalg.vector_norm(directions, dim=1)


def unit(directions: Tensor) -> Tensor:
    """Directions at Euclidean length one."""
    return directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)


class PatternSet:
    """Distinct patterns in the order in which they came.

    Attributes:
        features: X (n, d).
        directions: (P, d) unit directions, one a pattern.
    """

    def __init__(self, features: Tensor, directions: Tensor | None = None) -> None:
        self.features = features
        self.directions = features.new_zeros(0, features.shape[1])
        self._seen: set[bytes] = {bytes((features.shape[0] + 7) // 8)}  # the empty pattern contributes nothing
        if directions is not None:
            self.add(directions)

    def __len__(self) -> int:
        return len(self.directions)

    def add(self, directions: Tensor, room: int | None = None) -> int:
        """Add the patterns that are new, at most `room` of them; says how many were added."""
        if len(directions) == 0 or room == 0:
            return 0
        directions = unit(directions)
        sure = margins(self.features, directions) > SURE
        bits = _packed(pattern_of(self.features, directions))
        fresh = []
        for place in torch.nonzero(sure).flatten().tolist():
            if room is not None and len(fresh) >= room:
                break
            key = bits[place].tobytes()
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(place)
        if fresh:
            self.directions = torch.cat([self.directions, directions[fresh]])
        return len(fresh)

    def keep(self, places: Tensor) -> None:
        """Forget all patterns but those at `places` (bool or indices)."""
        kept = self.directions[places]
        self.__init__(self.features, kept)


def _packed(patterns: Tensor) -> list[memoryview]:
    import numpy as np

    rows = np.packbits(patterns.cpu().numpy(), axis=1)
    return [memoryview(row) for row in rows]


def direction_lots(
    columns: int, streams: Streams, name: str = "arrangement", like: Tensor | None = None
) -> Iterator[Tensor]:
    """Endless lots (LOT, d) of Gaussian directions, lot i from the stream (name, i)."""
    lot = 0
    while True:
        drawn = torch.from_numpy(streams.numpy(name, lot).standard_normal((LOT, columns)))
        yield drawn if like is None else drawn.to(like)
        lot += 1


def sample_patterns(features: Tensor, count: int, streams: Streams, *, lots: int = 64) -> PatternSet:
    """`count` distinct patterns of Gaussian hyperplanes; fewer where `lots` empty draws say that there are no more.

    Args:
        features: X (n, d).
        count: patterns wanted, >= 1.
        streams: where the directions come from.
        lots: lots without a new pattern after which the search ends.
    """
    found = PatternSet(features)
    empty = 0
    for drawn in direction_lots(features.shape[1], streams, like=features):
        added = found.add(drawn, count - len(found))
        empty = 0 if added else empty + 1
        if len(found) >= count or empty >= lots:
            return found
    raise AssertionError("the lots are endless")


def centres(features: Tensor, directions: Tensor, steps: int = 40) -> Tensor:
    """The analytic centre of each pattern's cone on the unit ball, as unit directions with the patterns of `directions`.

    Minimises -sum_k log(s_k x_k'u) + (live / 2) |u|^2 by damped Newton steps, all cones at once; zero rows are left out.

    Args:
        features: X (n, d).
        directions: (P, d) strictly inside their cones.
        steps: most Newton steps; any of them is a valid direction, later ones keep more distance from the walls.
    """
    X = features[(features != 0).any(dim=1)]
    live, d = X.shape
    if live == 0 or len(directions) == 0:
        return directions
    outer = (X[:, :, None] * X[:, None, :]).reshape(live, d * d)
    eye = live * torch.eye(d, dtype=X.dtype, device=X.device)
    u = unit(directions)
    signs = torch.where(u @ X.T >= 0, 1.0, -1.0).to(X)
    for _ in range(steps):
        slack = (u @ X.T) * signs
        gradient = live * u - (signs / slack) @ X
        hessian = (slack.square().reciprocal() @ outer).reshape(-1, d, d) + eye
        hessian.diagonal(dim1=1, dim2=2).mul_(1 + 1e-12)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        step = -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        step = torch.where(
            (failed == 0)[:, None] & torch.isfinite(step), step, 0.0
        )  # a cone too thin to be centred stays
        decrement = -(gradient * step).sum(dim=1)
        if float(decrement.max()) < 1e-2:
            break
        change = (step @ X.T) * signs
        reach = torch.where(change < 0, -slack / change, torch.inf).amin(dim=1)
        u = u + torch.clamp(0.9 * reach, max=1.0)[:, None] * step
    return unit(u)


def robust_margins(features: Tensor, radii: Tensor, directions: Tensor) -> Tensor:
    """Least |x'a| - sum(radii |a|) over the rows, for unit directions a: positive where no perturbation crosses the hyperplane."""
    room = directions.abs() @ radii
    return (directions @ features.T).abs().amin(dim=1) - room


def robust_centres(features: Tensor, radii: Tensor, directions: Tensor, rounds: int = 40) -> Tensor:
    """Directions inside the robust cones {u : (2D - I) X u >= |radii o u|_1} of the patterns of `directions`, where those have an interior.

    Follows the analytic centre while the radii grow from zero, with |u| smoothed from above; cones that close on the way are left out.

    Args:
        features: X (n, d).
        radii: (d,) >= 0.
        directions: (P, d) strictly inside their plain cones.
        rounds: most growths of the radii.
    """
    X = features
    n, d = X.shape
    u = centres(X, directions)
    if len(u) == 0:
        return u
    signs = torch.where(u @ X.T >= 0, 1.0, -1.0).to(X)
    smooth = 1e-6 / d
    outer = (X[:, :, None] * X[:, None, :]).reshape(n, d * d)
    eye = n * torch.eye(d, dtype=X.dtype, device=X.device)
    share = torch.zeros(len(u), dtype=X.dtype, device=X.device)  # of the radii reached

    def width(w: Tensor) -> Tensor:
        return (w.square() + smooth).sqrt() @ radii

    for _ in range(rounds):
        room = ((u @ X.T) * signs).amin(dim=1) / width(u)
        following = torch.minimum(torch.ones_like(share), share + 0.7 * (room - share))
        grown, share = float((following - share).max()), following
        for _ in range(2):
            root = (u.square() + smooth).sqrt()
            first, second = share[:, None] * radii * u / root, share[:, None] * radii * smooth / root**3
            slack = (u @ X.T) * signs - (share * width(u))[:, None]
            w = slack.reciprocal()
            q = w.square()
            gradient = n * u - (w * signs) @ X + w.sum(dim=1, keepdim=True) * first
            mixed = ((q * signs) @ X)[:, :, None] * first[:, None, :]
            hessian = (q @ outer).reshape(-1, d, d) + eye - mixed - mixed.transpose(1, 2)
            hessian += q.sum(dim=1)[:, None, None] * first[:, :, None] * first[:, None, :]
            hessian.diagonal(dim1=1, dim2=2).add_(w.sum(dim=1, keepdim=True) * second).mul_(1 + 1e-12)
            factor, failed = torch.linalg.cholesky_ex(hessian)
            step = -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
            step = torch.where((failed == 0)[:, None] & torch.isfinite(step), step, 0.0)
            length = torch.ones_like(share)
            inside = torch.zeros_like(share, dtype=torch.bool)
            for _ in range(12):
                trial = u + length[:, None] * step
                inside = ((trial @ X.T) * signs - (share * width(trial))[:, None] > 0.05 * slack).all(dim=1)
                if bool(inside.all()):
                    break
                length = torch.where(inside, length, 0.5 * length)
            u = torch.where(inside[:, None], u + length[:, None] * step, u)
        if bool((share >= 1).all()) or grown < 1e-4:
            break
    u = unit(u)
    same = ((u @ X.T) * signs > 0).all(dim=1)
    return u[same & (robust_margins(X, radii, u) > SURE)]


def sample_robust_patterns(
    features: Tensor, radii: Tensor, count: int, streams: Streams, *, lots: int = 12
) -> tuple[PatternSet, int]:
    """`count` distinct patterns that no perturbation of a row changes, and how many patterns were looked at.

    Patterns of hyperplanes through the rows' gaps are what robust training can use: every other one has an empty cone.
    """
    found = PatternSet(features)
    ahead = features.new_zeros(1, features.shape[1])
    ahead[0, -1] = 1.0
    axes = torch.cat([ahead, -ahead, torch.eye(features.shape[1]).to(features)])
    found.add(axes[robust_margins(features, radii, axes) > SURE], count)
    if len(found) >= count:
        return found, len(axes)
    seen, looked = PatternSet(features), 0
    for number, drawn in enumerate(direction_lots(features.shape[1], streams, like=features)):
        before = len(seen)
        looked += seen.add(drawn)
        if len(seen) > before:
            found.add(robust_centres(features, radii, seen.directions[before:]), count - len(found))
        if len(found) >= count or number + 1 >= lots:
            return found, looked
    raise AssertionError("the lots are endless")


def cell_count(rows: int, rank: int) -> int:
    """Patterns of `rows` hyperplanes in general position in `rank` dimensions: 2 sum_{k < rank} C(rows - 1, k)."""
    return 2 * sum(comb(rows - 1, k) for k in range(rank)) if rows else 1
