"""Nash equilibria of payoff tables whatever the number of players: found support by support, proved, and proved to be the only one.

On a support (the actions played) an equilibrium solves polynomial equations: all actions of a player pay the same, probabilities sum
to 1. Newton's method finds candidates; Krawczyk's operator in outward-rounded intervals proves that exactly one root lies within
`RADIUS` of a candidate and that no other action pays as much. Where the equations are singular (equilibria that are not isolated),
vertices of the set are rounded to rationals and checked exactly.

That there is no further equilibrium is proved by branch and bound over all mixed strategies: in a box, an action that another one beats
everywhere is not played; boxes left without a profile are dropped, and so are those in which only the known equilibrium can lie.

References:
    R. Krawczyk, "Newton-Algorithmen zur Bestimmung von Nullstellen mit Fehlerschranken", 1969.
    R. Porter, E. Nudelman and Y. Shoham, "Simple search methods for finding a Nash equilibrium", 2008.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import linprog

from surefoot.games.problem import FiniteGame
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]
Support = tuple[tuple[int, ...], ...]
Profile = tuple[tuple[Fraction, ...], ...]
RADIUS = 1e-9
SUPPORTS = 400
"""At most so many supports are tried."""
EXAMINED = 20_000
"""At most so many are looked at for actions that are beaten."""
ACTIONS = 6
"""Up to so many actions a player, others are excluded by branch and bound."""
BOXES = 20_000
"""At most so many boxes of mixed strategies are looked at to prove that there is no other equilibrium."""
DENOMINATOR = 10_000


def expected(table: Any, x: Sequence[Any], kept: Sequence[int]) -> Any:
    """A table (m_1 ... m_N), floats or intervals, summed over the strategies of all players but those kept."""
    for j in range(len(x) - 1, -1, -1):
        if j not in kept:
            shape = [1] * len(table.shape)
            shape[j] = -1
            table = (table * x[j].reshape(*shape)).sum(axis=j)
            table = table.reshape(*table.shape[:j], 1, *table.shape[j:])
    return table.reshape(*(table.shape[j] for j in kept))


def supports(game: FiniteGame) -> Iterator[Support]:
    """Supports without an action that another one beats whenever the others keep to theirs, small ones first; EXAMINED are looked at."""
    left = EXAMINED
    for total in range(game.players, sum(game.sizes) + 1):
        for widths in sorted(_compositions(total, game.sizes), key=max):
            for support in itertools.product(
                *(itertools.combinations(range(m), k) for m, k in zip(game.sizes, widths, strict=True))
            ):
                if all(_undominated(game, i, support) for i in range(game.players)):
                    yield support
                left -= 1
                if not left:
                    return


def _compositions(total: int, limits: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All ways to write a total as one number a player, between 1 and its number of actions."""
    if len(limits) == 1:
        if 1 <= total <= limits[0]:
            yield (total,)
        return
    for first in range(1, min(limits[0], total - len(limits) + 1) + 1):
        for rest in _compositions(total - first, limits[1:]):
            yield (first, *rest)


def _undominated(game: FiniteGame, i: int, support: Support) -> bool:
    rows = tuple(range(game.sizes[i]))
    u = np.moveaxis(game.payoffs[i][np.ix_(*(rows if j == i else s for j, s in enumerate(support)))], i, 0)
    u = u.reshape(len(rows), -1)
    return not (u[:, None] > u[None, list(support[i])]).all(axis=2).any()


# ---- candidates ---------------------------------------------------------------------------------------------------


def _system(game: FiniteGame, support: Support, x: Sequence[Any]) -> tuple[list[Any], list[list[Any]]]:
    """Indifference and sum of every player, with the blocks of the Jacobian (None where zero)."""
    values, rows = [], []
    for i, own in enumerate(support):
        table = game.payoffs[i][np.ix_(*support)]
        utilities = expected(table, x, [i])
        values.append((utilities[1:] - utilities[:1], x[i].sum() - 1.0))
        row: list[Any] = []
        for j in range(game.players):
            if j == i or len(own) == 1:
                row.append(None)
                continue
            pair = expected(table, x, sorted((i, j)))
            pair = pair if i < j else pair.T
            row.append(pair[1:] - pair[:1])
        rows.append(row)
    return values, rows


def _assembled(support: Support, values: list[Any], rows: list[list[Any]]) -> tuple[Array, Array, Array, Array]:
    """Lower and upper ends of F (k,) and J (k, k); equal for floats."""
    ends = np.cumsum([0, *(len(s) for s in support)])
    low, high = np.zeros((ends[-1], ends[-1])), np.zeros((ends[-1], ends[-1]))
    below, above = np.zeros(ends[-1]), np.zeros(ends[-1])
    for i, (differences, excess) in enumerate(values):
        last = ends[i + 1] - 1
        below[ends[i] : last], above[ends[i] : last] = _ends(differences)
        below[last], above[last] = _ends(excess)
        low[last, ends[i] : ends[i + 1]] = high[last, ends[i] : ends[i + 1]] = 1.0
        for j, block in enumerate(rows[i]):
            if block is not None:
                place = (slice(ends[i], last), slice(ends[j], ends[j + 1]))
                low[place], high[place] = _ends(block)
    return below, above, low, high


def _ends(value: Any) -> tuple[Any, Any]:
    return (value.low, value.high) if isinstance(value, Interval) else (value, value)


def candidates(game: FiniteGame, support: Support, starts: int = 3) -> list[tuple[Array, bool]]:
    """Roots on the support found by Newton's method: all probabilities (d,), and whether the equations are regular there."""
    ends = np.cumsum([0, *(len(s) for s in support)])
    found: list[tuple[Array, bool]] = []
    generator = np.random.default_rng(sum(ends.tolist()))
    linear = game.players == 2 or all(len(s) == 1 for s in support)
    for start in range(1 if linear else starts):
        x = np.concatenate([np.full(len(s), 1 / len(s)) if start == 0 else generator.dirichlet(np.ones(len(s))) for s in support])  # fmt: skip
        root = _newton(game, support, x, ends)
        if root is None:
            continue
        x, regular = root
        full = np.concatenate([_spread(p, s, m) for p, s, m in zip(np.split(x, ends[1:-1]), support, game.sizes, strict=True)])  # fmt: skip
        if x.min() > 1e-10 and all(np.abs(full - other).max() > 1e-7 for other, _ in found):
            found.append((full, regular))
    return found


def _newton(game: FiniteGame, support: Support, x: Array, ends: Array) -> tuple[Array, bool] | None:
    for _ in range(30):
        F, _, J, _ = _assembled(support, *_system(game, support, np.split(x, ends[1:-1])))
        move, _, rank, _ = np.linalg.lstsq(J, -F, rcond=1e-10)
        x = x + move
        if np.abs(x).max() > 1e3:
            return None
        if np.abs(move).max() < 1e-13:
            scale = max(1.0, float(np.abs(game.payoffs).max()))
            return (x, bool(rank == len(x))) if np.abs(F).max() < 1e-9 * scale else None
    return None


def _spread(p: Array, support: tuple[int, ...], size: int) -> Array:
    full = np.zeros(size)
    full[list(support)] = p
    return full


# ---- proofs -------------------------------------------------------------------------------------------------------


def proves(game: FiniteGame, support: Support, point: Array) -> bool:
    """Whether exactly one equilibrium with this support lies within RADIUS of the point, no other action paying as much."""
    centre = np.concatenate([p[list(s)] for p, s in zip(game.split(point), support, strict=True)])
    ends = np.cumsum([0, *(len(s) for s in support)])
    parts = np.split(centre, ends[1:-1])
    box = [Interval(p - RADIUS, p + RADIUS) for p in parts]
    below, above, _, _ = _assembled(support, *_system(game, support, [Interval.point(p) for p in parts]))
    _, _, low, high = _assembled(support, *_system(game, support, box))
    try:
        A = np.linalg.inv(0.5 * (low + high))
    except np.linalg.LinAlgError:
        return False
    spread = Interval.point(np.eye(len(A))) - Interval.point(A) @ Interval(low, high)
    image = spread @ Interval(np.full(len(A), -RADIUS), np.full(len(A), RADIUS)) - Interval.point(A) @ Interval(below, above)  # fmt: skip
    if not (image.magnitude < RADIUS).all() or not (centre > RADIUS).all():
        return False
    return all(_best_responses(game, i, support, box) for i in range(game.players))


def _best_responses(game: FiniteGame, i: int, support: Support, box: Sequence[Interval]) -> bool:
    rows = tuple(range(game.sizes[i]))
    outside = [a for a in rows if a not in support[i]]
    if not outside:
        return True
    table = game.payoffs[i][np.ix_(*(rows if j == i else s for j, s in enumerate(support)))]
    u = expected(table, box, [i])
    return bool(u.high[outside].max() < u.low[list(support[i])].max())


def exact_vertices(game: FiniteGame, support: Support, point: Array) -> list[Profile]:
    """Exact equilibria near a point where the equations are singular: the others' strategies rounded to rationals, a player's own
    moved to the ends of the set that keeps all indifferent."""
    parts = [_rounded(p) for p in game.split(point)]
    if any(p is None for p in parts):
        parts = [None if p is None else p for p in parts]
    found: set[Profile] = set()
    for i in range(game.players):
        others = [p for j, p in enumerate(parts) if j != i]
        if any(p is None for p in others):
            continue
        for vertex in _ends_of_set(game, support, parts, i):
            profile = tuple(vertex if j == i else p for j, p in enumerate(parts))
            if all(p is not None for p in profile) and is_equilibrium(game, profile):  # type: ignore[arg-type]
                found.add(profile)  # type: ignore[arg-type]
    return sorted(found, reverse=True)


def _rounded(p: Array) -> tuple[Fraction, ...] | None:
    near = tuple(Fraction(float(v)).limit_denominator(DENOMINATOR) for v in p)
    return near if sum(near) == 1 and np.abs(np.array([float(v) for v in near]) - p).max() < 1e-8 else None


def _ends_of_set(game: FiniteGame, support: Support, parts: Sequence[Any], i: int) -> list[tuple[Fraction, ...]]:
    """Vertices of {x_i : every other player keeps its best responses}, by linear programs, as rationals."""
    m, rows, sides = game.sizes[i], [], []
    floats = [np.full(m, 1 / m) if j == i else np.array([float(v) for v in p]) for j, p in enumerate(parts)]
    for j in range(game.players):
        if j != i:
            pair = expected(game.payoffs[j], floats, sorted((i, j)))
            pair = pair.T if i < j else pair
            best = pair[support[j][0]]
            for a in range(game.sizes[j]):
                (rows if a in support[j] else sides).append(pair[a] - best)
    bounds = [(0.0, None) if a in support[i] else (0.0, 0.0) for a in range(m)]
    equal, right = np.array([*rows, np.ones(m)]), np.array([*([0.0] * len(rows)), 1.0])
    upper = {"A_ub": np.array(sides), "b_ub": np.zeros(len(sides))} if sides else {}
    vertices = []
    for a, sign in itertools.product(support[i], (1.0, -1.0)):
        cost = np.zeros(m)
        cost[a] = sign
        answer: Any = linprog(cost, A_eq=equal, b_eq=right, bounds=bounds, **upper)
        vertex = _rounded(np.asarray(answer.x)) if answer.status == 0 else None
        if vertex is not None:
            vertices.append(vertex)
    return vertices


def is_equilibrium(game: FiniteGame, profile: Profile) -> bool:
    """Whether every action played is a best response, in rationals."""
    for i in range(game.players):
        u = [Fraction(0)] * game.sizes[i]
        for place in np.ndindex(*game.sizes):
            weight = Fraction(1)
            for j, a in enumerate(place):
                weight *= profile[j][a] if j != i else 1
            if weight:
                u[place[i]] += weight * Fraction(float(game.payoffs[(i, *place)]))
        if any(p > 0 and v != max(u) for p, v in zip(profile[i], u, strict=True)):
            return False
    return True


# ---- no other equilibrium -------------------------------------------------------------------------------------------


def is_only(game: FiniteGame, point: Array) -> tuple[bool, str]:
    """Whether the proved equilibrium near the point is the only one; otherwise why that is not known."""
    if max(game.sizes) > ACTIONS:
        return False, f"others are excluded for at most {ACTIONS} actions a player"
    room = 1e-10 * max(1.0, float(np.abs(game.payoffs).max()))
    size = unique_cube(game, point, room)
    if size == 0:
        return False, "its equations are too near to singular to separate it from others"
    pairs = [_differences(game, i) for i in range(game.players)]
    cube_low, cube_high = point - size, point + size
    waiting = [(np.zeros_like(point), np.ones_like(point))]
    for _ in range(BOXES):
        if not waiting:
            return True, ""
        box = _contracted(game, *waiting.pop(), pairs, room)
        if box is None or ((box[0] >= cube_low) & (box[1] <= cube_high)).all():
            continue
        low, high = box
        k = int((high - low).argmax())
        middle = 0.5 * (low[k] + high[k])
        upper, lower = low.copy(), high.copy()
        upper[k], lower[k] = middle, middle
        waiting += [(low, lower), (upper, high)]
    return False, f"{BOXES} boxes of mixed strategies did not suffice to exclude another one"


def _differences(game: FiniteGame, i: int) -> Array:
    """u_i(b, .) - u_i(a, .) as (a, b, other players' actions)."""
    u = np.moveaxis(game.payoffs[i], i, 0)
    return u[None] - u[:, None]


def _contracted(
    game: FiniteGame, low: Array, high: Array, pairs: Sequence[Array], room: float
) -> tuple[Array, Array] | None:
    """The box without actions that are beaten everywhere in it; None if no equilibrium is left."""
    ends = np.cumsum((0, *game.sizes))
    low, high = low.copy(), high.copy()
    while True:
        for i in range(game.players):
            own = slice(ends[i], ends[i + 1])
            low[own] = np.maximum(low[own], 1 - (high[own].sum() - high[own]) - 1e-15)
            high[own] = np.minimum(high[own], 1 - (low[own].sum() - low[own]) + 1e-15)
        if (low > high + 1e-12).any():
            return None
        changed = False
        for i in range(game.players):
            others = [slice(ends[j], ends[j + 1]) for j in range(game.players) if j != i]
            least = pairs[i]
            for own in reversed(others):
                least = _least_mean(least, low[own], high[own])
            beaten = ends[i] + np.flatnonzero((least > room).any(axis=1))
            if (low[beaten] > 0).any():
                return None
            if high[beaten].any():
                high[beaten] = 0.0
                changed = True
        if not changed:
            return low, high


def _least_mean(table: Array, low: Array, high: Array) -> Array:
    """min of sum_k w_k table[..., k] over low <= w <= high with sum 1: mass goes to the smallest entries first."""
    order = np.argsort(table, axis=-1)
    ranked = np.take_along_axis(table, order, axis=-1)
    capacity = np.maximum(high - low, 0.0)[order]
    before = np.cumsum(capacity, axis=-1) - capacity
    extra = np.clip((1 - low.sum()) - before, 0.0, capacity)
    return (table * low).sum(axis=-1) + (ranked * extra).sum(axis=-1)


def unique_cube(game: FiniteGame, point: Array, room: float) -> float:
    """Half width of a cube around an equilibrium in which there is no other one; 0 if none was found.

    In it every action of the support is played, all others pay less, and the Jacobian of the indifference equations is regular.
    """
    parts = game.split(point)
    support = tuple(tuple(int(a) for a in np.flatnonzero(p)) for p in parts)
    ends = np.cumsum([0, *(len(s) for s in support)])
    size = min(0.25, 0.5 * float(min(p[p > 0].min() for p in parts)))
    while size > 1e-6:
        box = [
            Interval(np.maximum(p[list(s)] - size, 0.0), np.minimum(p[list(s)] + size, 1.0))
            for p, s in zip(parts, support, strict=True)
        ]
        _, _, low, high = _assembled(support, *_system(game, support, box))
        middle, radius = 0.5 * (low + high), 0.5 * (high - low)
        A = np.linalg.inv(middle)
        spread = np.abs(np.eye(ends[-1]) - A @ middle) + np.abs(A) @ radius
        if spread.sum(axis=1).max() < 1 - 1e-9 and _alone(game, parts, size, room):
            return size
        size *= 0.5
    return 0.0


def _alone(game: FiniteGame, parts: Sequence[Array], size: float, room: float) -> bool:
    """Every action that is not played pays less than some other one on the whole cube."""
    low, high = [np.maximum(p - size, 0.0) for p in parts], [np.minimum(p + size, 1.0) for p in parts]
    for i in range(game.players):
        least = _differences(game, i)
        for j in range(game.players - 1, -1, -1):
            if j != i:
                least = _least_mean(least, low[j], high[j])
        if not (least[parts[i] == 0] > room).any(axis=1).all():
            return False
    return True
