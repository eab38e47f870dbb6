"""Checkers of Nash equilibria of payoff tables, by other algorithms than the solver's.

Exact equilibria are checked in rationals. Equilibria that are roots of polynomials are proved by contraction (Kantorovich) in
rationals around the point given, where the solver used Krawczyk's operator in intervals. That there is no other one: for two players
by the double description of the best-response polytopes, for more by branch and bound with payoffs at the vertices of every box
(multilinear functions have their extremes there), where the solver bounded them player by player.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import FiniteGame
from surefoot.games.verify_finite import ONE, ZERO, utilities

Array = np.ndarray[Any, np.dtype[Any]]
Exact = tuple[tuple[Fraction, ...], ...]
BOXES = 100_000
WAYS = ("vertices", "dominance", "pure", "search")


def unique_nash(claim: Claim, dossier: Dossier) -> Verdict:
    """Every profile given is a Nash equilibrium, or has one beside it; and where only one is given, there is no other."""
    game: FiniteGame = dossier.problem
    content = dossier.evidence["nash.json"]
    exact = [_profile(game, p) for p in content["equilibria"]]
    if len(set(exact)) != len(exact) or exact != sorted(exact, reverse=True):
        raise ValueError("the equilibria are not distinct and in descending order")
    near = [_centre(game, p) for p in content["enclosed"]]
    if content["how"] not in WAYS or not exact + near:
        raise ValueError("the way of decision is not known, or no equilibrium is given")
    for number, x in enumerate(exact):
        if not _is_nash(game, x):
            return refute(claim, f"profile {number + 1} is no Nash equilibrium")
    radii = [ZERO] * len(exact)
    for number, x in enumerate(near):
        radius = proved_radius(game, x)
        if radius is None:
            return refute(claim, f"no Nash equilibrium is proved near point {number + 1}")
        radii.append(radius)
    points = exact + near
    for (a, r), (b, s) in itertools.combinations(zip(points, radii, strict=True), 2):
        if max(abs(p - q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)) <= r + s:
            return refute(claim, "two of the equilibria may be one and the same")
    if len(points) == 1:
        if content["how"] == "dominance":
            _check_dominance(game, content["eliminated"], points[0])
        elif content["how"] == "search":
            if wrong := _another(game, points[0]):
                return refute(claim, wrong)
        elif (others := _labelled_pairs(game)) != 1:
            return refute(claim, f"there are {others} extreme equilibria")
    return compare(claim, len(points), supports="proved", bound=1)


def _profile(game: FiniteGame, content: Any) -> Exact:
    x = tuple(tuple(Fraction(p) for p in player) for player in content)
    if tuple(len(p) for p in x) != game.sizes or any(min(p) < 0 or sum(p, ZERO) != 1 for p in x):
        raise ValueError("an equilibrium is not one exact distribution a player")
    return x


def _is_nash(game: FiniteGame, x: Exact) -> bool:
    for i in range(game.players):
        u = utilities(game, i, x)
        if any(p > 0 and v != max(u) for p, v in zip(x[i], u, strict=True)):
            return False
    return True


# ---- equilibria that are roots of polynomials -----------------------------------------------------------------------


def _centre(game: FiniteGame, content: Any) -> Exact:
    x = tuple(tuple(Fraction(p) for p in player) for player in content)
    if tuple(len(p) for p in x) != game.sizes or any(
        min(p) < 0 or abs(sum(p, ZERO) - 1) > Fraction(1, 10**9) for p in x
    ):
        raise ValueError("a point is not near one distribution a player")
    return x


def _support(x: Exact) -> list[list[int]]:
    return [[a for a, p in enumerate(player) if p > 0] for player in x]


def proved_radius(game: FiniteGame, x: Exact) -> Fraction | None:
    """A radius (largest coordinate) around x within which exactly one equilibrium of x's support is proved to lie, or None.

    With F the indifference equations of the support and A near the inverse of F'(x), y - A F(y) contracts a ball of radius r into
    itself if |A F(x)| + q r <= r, q = |I - A F'(x)| + |A| (change of F' within r) < 1, all in the largest-coordinate norm.
    """
    support = _support(x)
    F, J = _equations(game, support, x)
    try:
        inverse = np.linalg.inv(np.array([[float(v) for v in row] for row in J]))
    except np.linalg.LinAlgError:
        return None
    A = [[Fraction(float(v)) for v in row] for row in inverse]
    move = max(abs(_dot(row, F)) for row in A)
    columns = list(zip(*J, strict=True))
    defect = max(sum((abs(int(i == j) - _dot(row, column)) for j, column in enumerate(columns)), ZERO) for i, row in enumerate(A))  # fmt: skip
    size = max(sum((abs(v) for v in row), ZERO) for row in A)
    radius = max(2 * move, Fraction(1, 10**15))
    change = size * _change_of_slopes(game, support, radius)
    contraction = defect + change
    if contraction >= 1 or move + contraction * radius > radius:
        return None
    return radius if _strict(game, support, x, radius) else None


def _dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((p * q for p, q in zip(a, b, strict=True)), ZERO)


def _equations(game: FiniteGame, support: list[list[int]], x: Exact) -> tuple[list[Fraction], list[list[Fraction]]]:
    """F: u_i(a) - u_i(first) for the other actions of each support, and sums less 1; J its derivative, by unit vectors."""
    columns = [(j, b) for j, own in enumerate(support) for b in own]
    values: list[Fraction] = []
    rows: list[list[Fraction]] = []
    for i, own in enumerate(support):
        u = utilities(game, i, x)
        slopes = {}
        for j, b in columns:
            if j != i:
                unit = tuple(ONE if k == b else ZERO for k in range(game.sizes[j]))
                slopes[j, b] = utilities(game, i, (*x[:j], unit, *x[j + 1 :]))
        for a in own[1:]:
            values.append(u[a] - u[own[0]])
            rows.append([slopes[c][a] - slopes[c][own[0]] if c[0] != i else ZERO for c in columns])
        values.append(sum(x[i], ZERO) - 1)
        rows.append([ONE if c[0] == i else ZERO for c in columns])
    return values, rows


def _peak(game: FiniteGame) -> Fraction:
    return 2 * max(Fraction(float(np.abs(game.payoffs).max())), Fraction(1, 10**9))


def _change_of_slopes(game: FiniteGame, support: list[list[int]], radius: Fraction) -> Fraction:
    """How much a row of F' changes within the radius: third derivatives are payoff differences times the other probabilities."""
    sizes = [len(s) for s in support]
    worst = ZERO
    for i in range(game.players):
        total = ZERO
        for j, k in itertools.permutations([p for p in range(game.players) if p != i], 2):
            mass = ONE
            for other in range(game.players):
                if other not in (i, j, k):
                    mass *= 1 + Fraction(1, 10**6) + sizes[other] * radius
            total += sizes[j] * sizes[k] * mass
        worst = max(worst, total)
    return _peak(game) * worst * radius


def _strict(game: FiniteGame, support: list[list[int]], x: Exact, radius: Fraction) -> bool:
    """All of the support is played, and every other action pays less, wherever in the radius the equilibrium lies."""
    for i, own in enumerate(support):
        if min(x[i][a] for a in own) <= radius:
            return False
        u = utilities(game, i, x)
        change = ZERO
        for j in range(game.players):
            mass = ONE
            for other in range(game.players):
                if other not in (i, j):
                    mass *= 1 + Fraction(1, 10**6) + len(support[other]) * radius
            change += len(support[j]) * radius * mass if j != i else 0
        best = min(u[a] for a in own) - _peak(game) * change
        if any(u[a] >= best for a in range(game.sizes[i]) if a not in own):
            return False
    return True


# ---- no other equilibrium, any number of players ----------------------------------------------------------------------


def _vertices(low: Array, high: Array) -> Array:
    """Vertices of {low <= w <= high, sum w = 1}: all coordinates but one at an end."""
    m, found = len(low), []
    for free in range(m):
        rest = [k for k in range(m) if k != free]
        for ends in itertools.product((0, 1), repeat=m - 1):
            w = np.empty(m)
            w[rest] = [high[k] if end else low[k] for k, end in zip(rest, ends, strict=True)]
            w[free] = 1 - w[rest].sum()
            if low[free] - 1e-12 <= w[free] <= high[free] + 1e-12:
                found.append(w)
    return np.unique(np.array(found), axis=0) if found else np.empty((0, m))


def _at_vertices(table: Array, corners: Mapping[int, Array]) -> Array:
    """A table (..., m_j for the players of `corners` in order) at all their vertices, these flattened into the last axis."""
    for _, points in sorted(corners.items()):
        place = table.ndim - len(corners)
        table = np.tensordot(table, points, axes=([place], [1]))
    return table.reshape(*table.shape[: table.ndim - len(corners)], -1)


def _another(game: FiniteGame, x: Exact) -> str:
    """Why it is not proved that the equilibrium at x is the only one, or "" if it is."""
    point = [np.array([float(p) for p in player]) for player in x]
    room = 1e-9 * max(1.0, float(np.abs(game.payoffs).max()))
    size = _alone_within(game, point, room)
    if size == 0:
        return "no neighbourhood of the equilibrium is proved free of others"
    waiting = [([np.zeros(m) for m in game.sizes], [np.ones(m) for m in game.sizes])]
    for _ in range(BOXES):
        if not waiting:
            return ""
        box = _left(game, *waiting.pop(), room)
        if box is None:
            continue
        low, high = box
        if all((a >= p - size).all() and (b <= p + size).all() for p, a, b in zip(point, low, high, strict=True)):
            continue
        i = max(range(game.players), key=lambda k: float((high[k] - low[k]).max()))
        k = int((high[i] - low[i]).argmax())
        for side in (low, high):
            other = [part.copy() for part in side]
            other[i][k] = 0.5 * (low[i][k] + high[i][k])
            waiting.append((other, high) if side is low else (low, other))
    return f"another equilibrium was not excluded within {BOXES} boxes"


def _left(
    game: FiniteGame, low: Sequence[Array], high: Sequence[Array], room: float
) -> tuple[list[Array], list[Array]] | None:
    """The box without actions that some other one beats at all its vertices; None if no profile is left in it."""
    low, high = [a.copy() for a in low], [b.copy() for b in high]
    while True:
        corners = {j: _vertices(a, b) for j, (a, b) in enumerate(zip(low, high, strict=True))}
        if any(not len(points) for points in corners.values()):
            return None
        for j, points in corners.items():
            low[j], high[j] = np.maximum(low[j], points.min(axis=0)), np.minimum(high[j], points.max(axis=0))
        gone = False
        for i in range(game.players):
            u = _at_vertices(np.moveaxis(game.payoffs[i], i, 0), {j: p for j, p in corners.items() if j != i})
            beaten = ((u[None] - u[:, None]).min(axis=2) > room).any(axis=1)
            if (beaten & (low[i] > 0)).any():
                return None
            gone = gone or bool(high[i][beaten].any())
            high[i][beaten] = 0.0
        if not gone:
            return low, high


def _alone_within(game: FiniteGame, point: Sequence[Array], room: float) -> float:
    """Half width of a cube in which every equilibrium has this support and solves regular equations: then it is the only one."""
    support = [np.flatnonzero(p) for p in point]
    size = 0.2
    while size > 1e-6:
        low, high = [np.maximum(p - size, 0.0) for p in point], [np.minimum(p + size, 1.0) for p in point]
        if all((a[s] > 0).all() for a, s in zip(low, support, strict=True)) and _regular(
            game, support, low, high, room
        ):
            return size
        size *= 0.6
    return 0.0


def _regular(
    game: FiniteGame, support: Sequence[Array], low: Sequence[Array], high: Sequence[Array], room: float
) -> bool:
    ends = np.cumsum([0, *(len(s) for s in support)])
    least, most = np.zeros((ends[-1], ends[-1])), np.zeros((ends[-1], ends[-1]))
    corners = {j: _vertices(a, b) for j, (a, b) in enumerate(zip(low, high, strict=True))}
    box = {j: np.array(list(itertools.product(*zip(a[s], b[s], strict=True)))) for j, (a, b, s) in enumerate(zip(low, high, support, strict=True))}  # fmt: skip
    for i, own in enumerate(support):
        others = [j for j in range(game.players) if j != i]
        u = _at_vertices(np.moveaxis(game.payoffs[i], i, 0), {j: corners[j] for j in others})
        if not all(((u[own] - u[a]).min(axis=1) > room).any() for a in np.setdiff1d(np.arange(game.sizes[i]), own)):
            return False
        inside = np.moveaxis(game.payoffs[i][np.ix_(*support)], i, 0)
        last = ends[i + 1] - 1
        least[last, ends[i] : ends[i + 1]] = most[last, ends[i] : ends[i + 1]] = 1.0
        for j in others:
            table = np.moveaxis(inside, 1 + others.index(j), 1)
            slopes = _at_vertices(table, {k: box[k] for k in others if k != j})
            change = slopes[1:] - slopes[:1]
            place = (slice(ends[i], last), slice(ends[j], ends[j + 1]))
            least[place], most[place] = change.min(axis=2), change.max(axis=2)
    A = np.linalg.pinv(0.5 * (least + most))
    defect = np.abs(np.eye(len(A)) - A @ (0.5 * (least + most))) + np.abs(A) @ (0.5 * (most - least))
    return bool(defect.sum(axis=1).max() < 1 - 1e-6)


# ---- dominance ---------------------------------------------------------------------------------------------------------


def _check_dominance(game: FiniteGame, eliminated: Any, left: Exact) -> None:
    alive = [set(range(m)) for m in game.sizes]
    for player, action, better in eliminated:
        if action not in alive[player] or better not in alive[player] or action == better:
            raise ValueError("an elimination names an action that is not there")
        for profile in itertools.product(*(sorted(a) if j != player else [0] for j, a in enumerate(alive))):
            places = [(*profile[:player], a, *profile[player + 1 :]) for a in (better, action)]
            if not game.payoffs[(player, *places[0])] > game.payoffs[(player, *places[1])]:
                raise ValueError(f"action {action + 1} of player {player + 1} is not strictly dominated")
        alive[player].discard(action)
    if any(len(a) != 1 for a in alive) or any(p[next(iter(a))] != 1 for a, p in zip(alive, left, strict=True)):
        raise ValueError("the eliminations do not leave the equilibrium alone")


# ---- two players ---------------------------------------------------------------------------------------------------------


def _labelled_pairs(game: FiniteGame) -> int:
    """How many extreme equilibria a two-player game has: completely labelled pairs of vertices of P and Q."""
    active = [i for i, m in enumerate(game.sizes) if m > 1]
    if len(active) != 2:
        raise ValueError("uniqueness from polytopes is for two players")
    A, B = (np.squeeze(game.payoffs[i], axis=tuple(k for k in range(game.players) if k not in active)) for i in active)
    rows, columns = A.shape
    P, Q = _extreme_points(B.T), _extreme_points(A)
    pairs = 0
    for x, mine in P:
        for y, theirs in Q:
            # row action r is labelled where x_r = 0 or r is a best response to y; likewise for columns
            rows_done = all(x[r] == 0 or r in theirs for r in range(rows))
            columns_done = all(y[c] == 0 or c in mine for c in range(columns))
            pairs += int(rows_done and columns_done)
    return pairs


def _extreme_points(M: Array) -> list[tuple[list[Fraction], frozenset[int]]]:
    """Vertices x != 0 of {x >= 0, (M - min + 1) x <= 1} with their tight rows, by double description.

    Rays (t, x) of the cone {t, x >= 0} are cut by t - m.x >= 0, one row at a time; two rays are joined where no third one is
    tight in all that both are tight in.
    """
    least = min(Fraction(float(v)) for v in M.flat)
    rows = [[Fraction(float(v)) - least + 1 for v in row] for row in M]
    n = len(rows[0])
    rays = [[ONE if k == p else ZERO for k in range(n + 1)] for p in range(n + 1)]
    used: list[list[Fraction]] = []

    def tight(ray: Sequence[Fraction]) -> frozenset[int]:
        walls = [k for k in range(n + 1) if ray[k] == 0]
        cut = [
            n + 1 + j
            for j, row in enumerate(used)
            if ray[0] == sum((a * b for a, b in zip(row, ray[1:], strict=True)), ZERO)
        ]
        return frozenset(walls + cut)

    for row in rows:
        values = [ray[0] - sum((a * b for a, b in zip(row, ray[1:], strict=True)), ZERO) for ray in rays]
        sets = [tight(ray) for ray in rays]
        fresh = [ray for ray, value in zip(rays, values, strict=True) if value >= 0]
        for p, q in itertools.product(range(len(rays)), repeat=2):
            if values[p] <= 0 or values[q] >= 0:
                continue
            both = sets[p] & sets[q]
            if any(both <= sets[k] for k in range(len(rays)) if k not in (p, q)):
                continue
            joined = [values[p] * b - values[q] * a for a, b in zip(rays[p], rays[q], strict=True)]
            scale = sum(joined, ZERO)
            fresh.append([v / scale for v in joined])
        rays = fresh
        used.append(row)
    points = []
    for ray in rays:
        if ray[0] > 0 and any(ray[1:]):
            x = [v / ray[0] for v in ray[1:]]
            points.append(
                (
                    x,
                    frozenset(
                        j for j, row in enumerate(rows) if sum((a * b for a, b in zip(row, x, strict=True)), ZERO) == 1
                    ),
                )
            )
    return points


NASH_CHECKS: Mapping[str, Check] = {"unique-nash": unique_nash}
