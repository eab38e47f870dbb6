"""Is the Nash equilibrium of a payoff table unique? Exact answers where they can be had, in rationals.

Two players: every Nash equilibrium is a mixture of completely labelled pairs of vertices of the two best-response polytopes
P = {x >= 0, B'x <= 1} and Q = {y >= 0, A y <= 1} (payoffs shifted to be positive), so it is unique exactly if there is one such pair.
Any number of players: two pure equilibria refute uniqueness; if iterated strict dominance leaves one profile, that is the only one;
otherwise equilibria are sought support by support and proved, and branch and bound excludes others (`nash_search.py`).

References:
    O. L. Mangasarian, "Equilibrium points of bimatrix games", 1964.
    B. von Stengel, "Computing equilibria for two-person games", 2002.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from surefoot.games.nash_search import SUPPORTS, candidates, exact_vertices, is_only, proves, supports
from surefoot.games.problem import FiniteGame

Array = np.ndarray[Any, np.dtype[Any]]
Profile = tuple[tuple[Fraction, ...], ...]
EXACT_BASES = 500
"""Up to so many candidate bases of a polytope are all solved in rationals, which makes the list of vertices complete."""
FLOAT_BASES = 30_000
"""Up to so many are looked through in floats; the equilibria found are exact, but the list may not be complete."""


@dataclass(frozen=True)
class NashFinding:
    """What is known about the Nash equilibria.

    Args:
        outcome: "holds" (exactly one), "fails" (at least two), or "undecided".
        equilibria: exact ones, in descending order; all extreme ones where `complete`.
        enclosed: points (d,) beside each of which exactly one irrational equilibrium is proved to lie.
        how: "vertices", "dominance", "pure", or "search".
        eliminated: (player, action, the action that dominates it), in order, for "dominance".
        complete: whether no extreme equilibrium is missing.
        reason: why undecided.
    """

    outcome: Literal["holds", "fails", "undecided"]
    equilibria: tuple[Profile, ...]
    how: str = ""
    eliminated: tuple[tuple[int, int, int], ...] = ()
    complete: bool = False
    reason: str = ""
    enclosed: tuple[Array, ...] = ()


def decide_nash(game: FiniteGame) -> NashFinding:
    """Whether the Nash equilibrium is unique, with exact evidence."""
    pure = pure_equilibria(game)
    active = [i for i, m in enumerate(game.sizes) if m > 1]
    bases = math.comb(game.sizes[active[0]] + game.sizes[active[1]], game.sizes[active[0]]) if len(active) == 2 else 0
    if len(active) == 2 and bases <= EXACT_BASES:
        found = _two_players(game, active, exact=True)
        return NashFinding("holds" if len(found) == 1 else "fails", tuple(found), "vertices", complete=True)
    if len(pure) >= 2:
        return NashFinding("fails", tuple(pure), "pure")
    profile, eliminated = iterated_dominance(game)
    if profile is not None:
        return NashFinding("holds", (profile,), "dominance", eliminated, complete=True)
    if len(active) == 2 and bases <= FLOAT_BASES:
        found = _two_players(game, active, exact=False)
        if len(found) >= 2:
            return NashFinding("fails", tuple(found), "vertices")
    return _searched(game, pure)


def _searched(game: FiniteGame, pure: list[Profile]) -> NashFinding:
    """Two equilibria on some supports, or one and the proof that there is no other."""
    exact, enclosed = set(pure), list[Array]()
    tried = 0
    for support in supports(game):
        if tried >= SUPPORTS:
            break
        tried += 1
        for point, regular in candidates(game, support):
            if max(map(len, support)) == 1:
                continue  # pure equilibria are known
            if regular and proves(game, support, point):
                enclosed.append(point)
            elif not regular:
                exact |= set(exact_vertices(game, support, point))
        if len(exact) + len(enclosed) >= 2:
            return NashFinding("fails", tuple(sorted(exact, reverse=True)), "search", enclosed=tuple(enclosed))
    known = (tuple(sorted(exact, reverse=True)), "search")
    if len(exact) + len(enclosed) == 0:
        return NashFinding(
            "undecided", *known, reason=f"no equilibrium was proved on the {tried} supports tried, the smallest ones"
        )
    if not enclosed and not pure:
        return NashFinding("undecided", *known, reason="the one equilibrium found is not isolated on its support")
    point = enclosed[0] if enclosed else np.array([float(p) for player in pure[0] for p in player])
    alone, why = is_only(game, point)
    if alone:
        return NashFinding("holds", *known, complete=True, enclosed=tuple(enclosed))
    return NashFinding("undecided", *known, reason=f"one equilibrium is proved; {why}", enclosed=tuple(enclosed))


def pure_equilibria(game: FiniteGame) -> list[Profile]:
    """All pure Nash equilibria, in descending order."""
    best = np.ones(game.sizes, dtype=bool)
    for i in range(game.players):
        u = game.payoffs[i]
        best &= u == u.max(axis=i, keepdims=True)
    profiles = [
        tuple(tuple(Fraction(int(a == k)) for k in range(m)) for a, m in zip(place, game.sizes, strict=True))
        for place in np.argwhere(best)
    ]
    return sorted(profiles, reverse=True)


def iterated_dominance(game: FiniteGame) -> tuple[Profile | None, tuple[tuple[int, int, int], ...]]:
    """Strike actions that another pure action beats whatever the others do; the profile left if only one is."""
    left = [list(range(m)) for m in game.sizes]
    struck: list[tuple[int, int, int]] = []
    going = True
    while going:
        going = False
        for i in range(game.players):
            u = np.moveaxis(game.payoffs[i][np.ix_(*left)], i, 0).reshape(len(left[i]), -1)
            for a, b in itertools.permutations(range(len(left[i])), 2):
                if (u[b] > u[a]).all():
                    struck.append((i, left[i][a], left[i][b]))
                    del left[i][a]
                    going = True
                    break
    if any(len(actions) > 1 for actions in left):
        return None, tuple(struck)
    profile = tuple(
        tuple(Fraction(int(k == actions[0])) for k in range(m)) for actions, m in zip(left, game.sizes, strict=True)
    )
    return profile, tuple(struck)


# ---- two players ----------------------------------------------------------------------------------------------------


def _two_players(game: FiniteGame, active: Sequence[int], exact: bool) -> list[Profile]:
    """All completely labelled vertex pairs, as equilibria in descending order."""
    first, second = active
    A, B = (np.squeeze(game.payoffs[i], axis=tuple(k for k in range(game.players) if k not in active)) for i in active)
    rows, columns = A.shape
    mine = _vertices(_shifted(B.T), exact)
    theirs = _vertices(_shifted(A), exact)
    # labels: 0 ... rows-1 are the row player's actions, the rest the column player's
    equilibria: set[Profile] = set()
    everything = frozenset(range(rows + columns))
    answers = [(frozenset((k + rows) % (rows + columns) for k in tight), y) for tight, y in theirs]
    for tight, x in mine:
        for labels, y in answers:
            if tight | labels == everything:
                profile: list[tuple[Fraction, ...]] = [(Fraction(1),)] * game.players
                profile[first], profile[second] = _distribution(x), _distribution(y)
                equilibria.add(tuple(profile))
    return sorted(equilibria, reverse=True)


def _shifted(M: Array) -> list[list[Fraction]]:
    least = min(Fraction(float(v)) for v in M.flat)
    return [[Fraction(float(v)) - least + 1 for v in row] for row in M]


def _distribution(x: Sequence[Fraction]) -> tuple[Fraction, ...]:
    total = sum(x, Fraction(0))
    return tuple(v / total for v in x)


def _vertices(M: list[list[Fraction]], exact: bool) -> list[tuple[frozenset[int], tuple[Fraction, ...]]]:
    """Vertices of {x >= 0, M x <= 1} other than 0, each with its tight constraints: k < n for x_k = 0, n + j for row j."""
    n = len(M[0])
    found: dict[tuple[Fraction, ...], frozenset[int]] = {}
    for basis in _candidates(M, exact):
        x = _solve(M, basis, n)
        if x is None or min(x) < 0 or not any(x):
            continue
        slack = [1 - sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in M]
        if min(slack) < 0:
            continue
        found[tuple(x)] = frozenset([k for k in range(n) if x[k] == 0] + [n + j for j, s in enumerate(slack) if s == 0])
    return [(tight, x) for x, tight in found.items()]


def _candidates(M: list[list[Fraction]], exact: bool) -> list[tuple[int, ...]]:
    n, rows = len(M[0]), len(M)
    bases = list(itertools.combinations(range(n + rows), n))
    if exact:
        return bases
    floats = np.array([[float(v) for v in row] for row in M])
    G, h = np.vstack([np.eye(n), floats]), np.concatenate([np.zeros(n), np.ones(rows)])
    picks = np.array(bases)
    systems = G[picks]
    regular = np.abs(np.linalg.det(systems)) > 1e-12 * np.abs(systems).max(axis=(1, 2)) ** n
    x = np.linalg.solve(systems[regular], h[picks[regular]][..., None])[..., 0]
    near = (x.min(axis=1) >= -1e-9 * np.abs(x).max(axis=1)) & ((x @ floats.T).max(axis=1) <= 1 + 1e-9)
    return [bases[k] for k in np.flatnonzero(regular)[near]]


def _solve(M: list[list[Fraction]], basis: tuple[int, ...], n: int) -> list[Fraction] | None:
    """The point where the basis' constraints are tight, by Gauss-Jordan elimination in rationals; None if not unique."""
    zero = {k for k in basis if k < n}
    free = [k for k in range(n) if k not in zero]
    rows = [[*(M[k - n][f] for f in free), Fraction(1)] for k in basis if k >= n]
    for column in range(len(free)):
        pivot = next((r for r in range(column, len(rows)) if rows[r][column] != 0), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column]
        rows[column] = [v / lead for v in rows[column]]
        for r in range(len(rows)):
            if r != column and rows[r][column] != 0:
                factor = rows[r][column]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[column], strict=True)]
    x = [Fraction(0)] * n
    for k, f in enumerate(free):
        x[f] = rows[k][-1]
    return x
