"""Expected payoffs, logit responses and couplings of one payoff table, for many rounds on small tables.

Tables of the literature are tiny, so the cost is in the number of array operations: what depends on the shape alone (which
entries make a double difference, in which order to sum over the other players) is worked out once a shape and kept.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.linalg import lapack

from surefoot.games.problem import FiniteGame

LAPACK: Any = lapack  # its routines carry no types

Array = np.ndarray[Any, np.dtype[Any]]
EPS = float(np.finfo(np.float64).eps)
LISTED = 200_000
"""Up to so many double differences are listed once a shape; beyond, they are formed pair by pair."""
SAFE_EXPONENT = 300.0
"""Logits below it need no shift before the exponential."""


@dataclass(frozen=True, eq=False)
class _Contraction:
    """Sum the table `source` over the strategies of `player`: shape (before, size, after)."""

    source: int
    player: int
    shape: tuple[int, int, int]
    result: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Shape:
    """What depends only on how many actions the players have.

    Args:
        spans: where each player's actions are in a row of all of them.
        starts, owner: the same as first places (N,), and as one player an action (d,).
        members: (N, d) indicators.
        contractions: sums over single players that lead to a table (N, m_i, m_j) for every pair.
        pairs: (i, j, number of its table).
        quadruples: (4, Q) places in the flat payoffs that make double differences; pair_starts: where each pair's begin.
    """

    spans: tuple[slice, ...]
    starts: Array
    owner: Array
    members: Array
    uniform: Array
    rounding: tuple[Array, Array]
    contractions: tuple[_Contraction, ...]
    pairs: tuple[tuple[int, int, int], ...]
    quadruples: Array | None
    pair_starts: Array


@lru_cache(maxsize=256)
def _shape(sizes: tuple[int, ...]) -> _Shape:
    n, d = len(sizes), sum(sizes)
    ends = np.cumsum((0, *sizes))
    owner = np.repeat(np.arange(n), sizes)
    members = (owner == np.arange(n)[:, None]).astype(np.float64)
    contractions, pairs = _contractions(sizes)
    quadruples, pair_starts = _quadruples(sizes)
    others = math.prod(sizes) / np.array(sizes)
    return _Shape(
        tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(ends)), ends[:-1], owner, members, 1 / np.repeat(sizes, sizes),
        (EPS * (others + n + 10 + 2 * d), EPS * (3.0 * np.array(sizes) + 12)), contractions, pairs, quadruples, pair_starts,
    )  # fmt: skip


def _contractions(sizes: tuple[int, ...]) -> tuple[tuple[_Contraction, ...], tuple[tuple[int, int, int], ...]]:
    """Every set of N - 2 players is summed out once, the last player first."""
    n = len(sizes)
    steps: list[_Contraction] = []
    pairs: list[tuple[int, int, int]] = []

    def go(source: int, left: tuple[int, ...], below: int) -> None:
        if len(left) == 2:
            pairs.append((left[0], left[1], source))
            return
        for place, player in enumerate(left):
            if player < below and place >= len(left) - 3:
                widths = [sizes[k] for k in left]
                before, after = n * math.prod(widths[:place]), math.prod(widths[place + 1 :])
                rest = left[:place] + left[place + 1 :]
                steps.append(
                    _Contraction(source, player, (before, sizes[player], after), (n, *(sizes[k] for k in rest)))
                )
                go(len(steps), rest, player)

    go(0, tuple(range(n)), n)
    return tuple(steps), tuple(pairs)


def _quadruples(sizes: tuple[int, ...]) -> tuple[Array | None, Array]:
    """Places of u_i(a, b), u_i(a, b'), u_i(a', b), u_i(a', b') for every pair of players, in the order of `permutations`."""
    n = len(sizes)
    counts = [
        math.comb(sizes[i], 2) * math.comb(sizes[j], 2) * (math.prod(sizes) // (sizes[i] * sizes[j]))
        for i, j in itertools.permutations(range(n), 2)
    ]
    if sum(counts) > LISTED:
        return None, np.empty(0, dtype=np.int64)
    places = np.arange(n * math.prod(sizes)).reshape(n, *sizes)
    # a pair without double differences has the one of an entry with itself, 0
    parts = [_of_pair(places[i], i, j) if count else np.zeros((4, 1), dtype=np.int64) for (i, j), count in zip(itertools.permutations(range(n), 2), counts, strict=True)]  # fmt: skip
    return np.concatenate(parts, axis=1), np.cumsum([0, *(p.shape[1] for p in parts)])[:-1]


def _of_pair(places: Array, i: int, j: int) -> Array:
    table = np.moveaxis(places, (i, j), (0, 1)).reshape(places.shape[i], places.shape[j], -1)
    a, c = np.triu_indices(len(table), 1)
    b, e = np.triu_indices(table.shape[1], 1)
    a, c, b, e = a[:, None], c[:, None], b[None], e[None]
    return np.stack([table[a, b].ravel(), table[a, e].ravel(), table[c, b].ravel(), table[c, e].ravel()])


def entropic_coupling(game: FiniteGame) -> Array:
    """L (N, N), rounded upwards; exactly 0 where a double difference of whole numbers is."""
    n, shape = game.players, _shape(game.sizes)
    L = np.zeros((n, n))
    if shape.quadruples is not None:
        u = game.payoffs.take(shape.quadruples)
        largest = np.maximum.reduceat(np.abs(u[0] - u[1] - u[2] + u[3]), shape.pair_starts)
    else:
        largest = np.array([_largest_difference(game, i, j) for i, j in itertools.permutations(range(n), 2)])
    L[~np.eye(n, dtype=bool)] = 0.25 * largest
    if not (game.payoffs == np.rint(game.payoffs)).all() or np.abs(game.payoffs).max() > 2.0**50:
        # three roundings, each at most half a unit of four payoffs
        L[~np.eye(n, dtype=bool)] += 2 * EPS * float(np.abs(game.payoffs).max())
    return L


def _largest_difference(game: FiniteGame, i: int, j: int) -> float:
    u = np.moveaxis(game.payoffs[i], (i, j), (0, -1))
    largest = 0.0
    for a in range(len(u) - 1):
        difference = u[a + 1 :] - u[a]
        largest = max(largest, float((difference.max(axis=-1) - difference.min(axis=-1)).max()))
    return largest


class Responses:
    """Logit responses of all players at once, with the Newton step for x = BR(x).

    Args:
        game: the payoff table.
        tau: the temperature.
    """

    def __init__(self, game: FiniteGame, tau: float) -> None:
        shape = self._shape = _shape(game.sizes)
        self._tables = [game.payoffs / tau]
        self._share = 1.0 / (game.players - 1)
        heat = float(np.abs(self._tables[0]).max())
        self._shift = heat > SAFE_EXPONENT
        self._slopes = np.zeros((len(shape.owner),) * 2)
        self._identity = np.eye(len(shape.owner))
        self._fresh = False
        self.uniform = shape.uniform
        self.rounding: Array = shape.rounding[0] * heat + shape.rounding[1]
        """Upper bounds (N,) of what rounding adds to |x_i - BR_i(x)|_1.

        A sum of m products of payoffs and probabilities errs by (m + N) units of the largest payoff; the logits' error passes
        through softmax at most unchanged in the 1-norm; exp, sum and quotient err by a few units; probabilities sum to 1 up to
        a unit an entry.
        """

    def _pair_slopes(self, x: Array) -> Array:
        """d u_i / d x_j over the temperature, for all pairs in one matrix (d, d)."""
        shape, G = self._shape, self._slopes
        if self._fresh and not shape.contractions:
            return G
        tables = self._tables[:1]
        for step in shape.contractions:
            flat = tables[step.source].reshape(step.shape)
            tables.append(np.matmul(x[shape.spans[step.player]], flat).reshape(step.result))
        for i, j, number in shape.pairs:
            table, rows, columns = tables[number], shape.spans[i], shape.spans[j]
            G[rows, columns] = table[i]
            G[columns, rows] = table[j].T
        self._fresh = True
        return G

    def response(self, x: Array) -> Array:
        """softmax(u_i(., x_-i) / tau) of all players in one row (d,)."""
        shape = self._shape
        z = self._pair_slopes(x) @ x
        if self._share != 1.0:
            z *= self._share
        if self._shift:
            z -= np.maximum.reduceat(z, shape.starts)[shape.owner]
        powers = np.exp(z)
        return powers / np.add.reduceat(powers, shape.starts)[shape.owner]

    def newton_factors(self, p: Array) -> tuple[Array, Array]:
        """Factors of I - d BR / dx where the last `response` p was taken; for `LAPACK.dgetrs`."""
        shape, G = self._shape, self._slopes
        weighted = p[:, None] * G
        mean = shape.members @ weighted
        return LAPACK.dgetrf(self._identity - weighted + p[:, None] * mean[shape.owner])[:2]

    def distance(self, x: Array, y: Array) -> Array:
        """|x_i - y_i|_1 of each player (N,)."""
        return np.add.reduceat(np.abs(x - y), self._shape.starts)
