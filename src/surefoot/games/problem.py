"""What the user brings: smooth games (costs, a pseudo-gradient, or matrices), payoff tables, Markov games.

Every player minimises its own cost; `maximise=True` takes payoffs instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.games.expressions import Expression, Operand, Program, lift, variables
from surefoot.games.strategy_sets import bounding_box, one_set_a_player, project
from surefoot.numerics.sets import Set
from surefoot.records.fingerprint import fingerprint

Array = np.ndarray[Any, np.dtype[Any]]
Formula = Callable[[list[Expression]], Operand]


@dataclass(frozen=True, eq=False)
class SmoothGame:
    """N players with strategies x = (x_1 ... x_N) in a product of sets, boxes unless `sets` says otherwise; player i minimises f_i(x) over its block.

    Exactly one of `costs`, `pseudo_gradient` and `jacobian` (with `offset`) says what is minimised. Use the builders
    `game_from_costs`, `game_from_pseudo_gradient` and `quadratic_game`.

    Args:
        blocks: size of each player's block; they sum to d.
        lower, upper: ends (d,) of the strategy boxes X_i, infinite where a strategy is free.
        sets: instead of them, one set X_i a player from `surefoot.numerics.sets`: FreeSpace, Box, Ball, Simplex.
        region: ends (2, d) of the box on which the certificate shall hold; None for quadratic games (everywhere).
        costs: f_i, as formulas of all d strategies.
        pseudo_gradient: F, one formula a strategy.
        jacobian, offset: F(x) = jacobian x + offset.
        names: of the players.
        reference: an equilibrium known beforehand (d,), for comparison only.
    """

    blocks: tuple[int, ...]
    lower: Array
    upper: Array
    region: Array | None = None
    costs: tuple[Expression, ...] = ()
    pseudo_gradient: tuple[Expression, ...] = ()
    jacobian: Array | None = None
    offset: Array | None = None
    names: tuple[str, ...] = ()
    title: str = ""
    reference: Array | None = None
    sets: Sequence[Set] = ()

    def __post_init__(self) -> None:
        d, players = self.size, len(self.blocks)
        if not self.blocks or any(b < 1 for b in self.blocks):
            raise ValueError(f"the block sizes are {self.blocks}; expected one positive size a player")
        given = [bool(self.costs), bool(self.pseudo_gradient), self.jacobian is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of costs, pseudo_gradient, or jacobian with offset")
        if not isinstance(self.sets, Sequence) or self.sets:
            if np.isfinite([self.lower, self.upper]).any():
                raise ValueError("give either sets or lower and upper ends, not both")
            object.__setattr__(self, "sets", one_set_a_player(self.sets, self.blocks))
            for name, ends in zip(("lower", "upper"), bounding_box(self.sets, self.blocks), strict=True):
                object.__setattr__(self, name, ends)
        for name in ("lower", "upper"):
            ends = np.asarray(getattr(self, name), dtype=np.float64)
            if ends.shape != (d,) or np.isnan(ends).any():
                raise ValueError(f"{name} has shape {ends.shape}; expected one end (no NaN) for each of {d} strategies")
            object.__setattr__(self, name, ends)
        if (empty := np.flatnonzero(self.lower > self.upper)).size:
            raise ValueError(
                f"the strategy set of x[{empty[0]}] is empty: {self.lower[empty[0]]} > {self.upper[empty[0]]}"
            )
        if self.costs and len(self.costs) != players:
            raise ValueError(f"{len(self.costs)} costs for {players} players; expected one a player")
        if self.pseudo_gradient and len(self.pseudo_gradient) != d:
            raise ValueError(f"the pseudo-gradient has {len(self.pseudo_gradient)} entries; the blocks sum to {d}")
        names = self.names or tuple(f"player {i + 1}" for i in range(players))
        if len(names) != players:
            raise ValueError(f"{len(names)} names for {players} players")
        object.__setattr__(self, "names", tuple(names))
        self._check_matrices(d)
        self._check_region(d)
        Program([*self.costs, *self.pseudo_gradient], d)

    def _check_matrices(self, d: int) -> None:
        if self.jacobian is None:
            return
        jacobian = np.asarray(self.jacobian, dtype=np.float64)
        offset = np.zeros(d) if self.offset is None else np.asarray(self.offset, dtype=np.float64)
        if jacobian.shape != (d, d) or offset.shape != (d,):
            raise ValueError(
                f"the jacobian is {jacobian.shape} and the offset {offset.shape}; the blocks {self.blocks} need ({d}, {d}) and ({d},)"
            )
        if not (np.isfinite(jacobian).all() and np.isfinite(offset).all()):
            raise ValueError("the jacobian or the offset holds NaN or infinite numbers")
        for i, own in enumerate(self.slices):
            block = jacobian[own, own]
            if np.abs(block - block.T).max() > 1e-12 * max(np.abs(block).max(), 1e-300):
                raise ValueError(
                    f"player {i + 1}'s own block of the jacobian is not symmetric, so it is no Hessian of a cost"
                )
            jacobian[own, own] = 0.5 * (block + block.T)
        object.__setattr__(self, "jacobian", jacobian)
        object.__setattr__(self, "offset", offset)

    def _check_region(self, d: int) -> None:
        if self.region is None and self.jacobian is None:
            object.__setattr__(self, "region", np.stack([self.lower, self.upper]))
        if self.region is None:
            return
        region = np.asarray(self.region, dtype=np.float64)
        if region.shape != (2, d) or not np.isfinite(region).all():
            raise ValueError(
                "the region must be a finite box (2, d); give region=(low, high) where strategy sets are unbounded"
            )
        low, high = np.maximum(region[0], self.lower), np.minimum(region[1], self.upper)
        if (empty := np.flatnonzero(low > high)).size:
            raise ValueError(
                f"the region is empty in x[{empty[0]}]: [{region[0, empty[0]]}, {region[1, empty[0]]}] within the strategy set"
            )
        object.__setattr__(self, "region", np.stack([low, high]))

    @property
    def size(self) -> int:
        """d, the number of strategies of all players."""
        return int(sum(self.blocks))

    @property
    def slices(self) -> list[slice]:
        """Where each player's block is."""
        ends = np.cumsum((0, *self.blocks))
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    def project(self, x: Array) -> Array:
        """The nearest strategies within the sets."""
        return project(self.sets, self.blocks, x) if self.sets else np.clip(x, self.lower, self.upper)

    def fingerprint(self) -> str:
        """Hash of formulas or matrices, sets and region."""
        keys = [e.key for e in (*self.costs, *self.pseudo_gradient)]
        return fingerprint(
            "smooth", self.blocks, self.lower, self.upper, self.region, keys, self.jacobian, self.offset, self.sets
        )


def game_from_costs(
    blocks: Sequence[int], costs: Sequence[Formula], *, region: Any = None, lower: Any = -np.inf, upper: Any = np.inf,
    maximise: bool = False, **more: Any,
) -> SmoothGame:  # fmt: skip
    """A game from its players' costs.

    Args:
        blocks: sizes of the players' blocks.
        costs: x -> f_i(x), x a list of all d strategies; write them with the functions of `surefoot.games.expressions`.
        region: (low, high), numbers or arrays (d,); default: the strategy sets.
        lower, upper: ends of the strategy sets; or sets=[...], one a player.
        maximise: the formulas are payoffs.
    """
    formulas = [lift(cost(variables(int(sum(blocks))))) for cost in costs]
    return _built(blocks, region, lower, upper, costs=tuple(-f if maximise else f for f in formulas), **more)


def game_from_pseudo_gradient(
    blocks: Sequence[int], field: Callable[[list[Expression]], Sequence[Operand]], *, region: Any = None,
    lower: Any = -np.inf, upper: Any = np.inf, **more: Any,
) -> SmoothGame:  # fmt: skip
    """A game from F(x) = (grad_i f_i(x))_i, written as d formulas."""
    formulas = tuple(lift(f) for f in field(variables(int(sum(blocks)))))
    return _built(blocks, region, lower, upper, pseudo_gradient=formulas, **more)


def quadratic_game(
    jacobian: Array,
    offset: Array | None,
    blocks: Sequence[int],
    *,
    lower: Any = -np.inf,
    upper: Any = np.inf,
    **more: Any,
) -> SmoothGame:
    """A linear-quadratic game, F(x) = jacobian x + offset."""
    return _built(blocks, None, lower, upper, jacobian=np.array(jacobian, dtype=np.float64), offset=offset, **more)


def _built(blocks: Sequence[int], region: Any, lower: Any, upper: Any, **more: Any) -> SmoothGame:
    d = int(sum(blocks))

    def row(value: Any) -> Array:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (d,)).copy()

    box = None if region is None else np.stack([row(region[0]), row(region[1])])
    return SmoothGame(tuple(int(b) for b in blocks), row(lower), row(upper), box, **more)


@dataclass(frozen=True, eq=False)
class FiniteGame:
    """N players with finitely many actions; `payoffs[i]` is player i's utility at every pure profile, to be maximised.

    Args:
        payoffs: (N, m_1, ..., m_N).
        temperature: tau of the logit equilibrium (1 / precision); None takes rho(L) / 0.9, or 1 where rho(L) = 0.
        names: of the players.
        actions: names of each player's actions.
    """

    payoffs: Array
    temperature: float | None = None
    names: tuple[str, ...] = ()
    actions: tuple[tuple[str, ...], ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        try:
            payoffs = np.array(self.payoffs, dtype=np.float64)
        except ValueError as error:
            raise ValueError("the payoffs are ragged; expected one table of equal shape for every player") from error
        players = payoffs.shape[0] if payoffs.ndim else 0
        if payoffs.ndim < 2 or payoffs.ndim != players + 1:
            raise ValueError(
                f"the payoffs have shape {payoffs.shape}; expected (N, m_1, ..., m_N), a table with N axes for each of N players"
            )
        if players < 2:
            raise ValueError("the game has one player; expected at least two")
        if payoffs.size == 0:
            raise ValueError(f"some player has no action: the payoffs have shape {payoffs.shape}")
        if not np.isfinite(payoffs).all():
            raise ValueError("the payoffs hold NaN or infinite numbers")
        if self.temperature is not None and not (self.temperature > 0 and np.isfinite(self.temperature)):
            raise ValueError(f"temperature is {self.temperature}; expected a positive number")
        object.__setattr__(self, "payoffs", payoffs)
        sizes = payoffs.shape[1:]
        object.__setattr__(self, "names", self.names or tuple(f"player {i + 1}" for i in range(players)))
        object.__setattr__(self, "actions", self.actions or tuple(tuple(str(a + 1) for a in range(m)) for m in sizes))
        if len(self.names) != players or tuple(len(a) for a in self.actions) != sizes:
            raise ValueError("the names of players or actions do not fit the payoffs")

    @property
    def players(self) -> int:
        """N."""
        return len(self.payoffs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many actions each player has."""
        return self.payoffs.shape[1:]

    def split(self, x: Array) -> list[Array]:
        """A row of all probabilities cut into one vector a player."""
        return np.split(x, np.cumsum(self.sizes)[:-1])

    def fingerprint(self) -> str:
        """Hash of payoffs and temperature."""
        return fingerprint("finite", self.payoffs, self.temperature)


@dataclass(frozen=True, eq=False)
class MarkovGame:
    """Softmax players in a discounted Markov game with entropy bonus, two or more.

        f_i(theta) = -(J_i(theta) + entropy_weight sum_s H(pi_i(. | s))),  pi_i(. | s) = softmax(theta_i[s])

    Args:
        transitions: P(s' | s, a_1, ..., a_N), shape (S, A_1, ..., A_N, S).
        rewards: R_i(s, a_1, ..., a_N), shape (N, S, A_1, ..., A_N).
        start: distribution of the first state (S,).
        discount: gamma in [0, 1).
        entropy_weight: tau > 0.
    """

    transitions: Array
    rewards: Array
    start: Array
    discount: float = 0.9
    entropy_weight: float = 1.0
    title: str = ""

    def __post_init__(self) -> None:
        for name in ("transitions", "rewards", "start"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.isfinite(value).all():
                raise ValueError(f"{name} holds NaN or infinite numbers")
            object.__setattr__(self, name, value)
        if self.transitions.ndim < 4 or self.transitions.shape[0] != self.transitions.shape[-1]:
            raise ValueError(
                f"transitions have shape {self.transitions.shape}; expected (S, A_1, ..., A_N, S) for N >= 2 players"
            )
        if min(self.transitions.shape[1:-1]) < 2:
            raise ValueError(f"the players have {self.transitions.shape[1:-1]} actions; expected at least two each")
        expected = (self.transitions.ndim - 2, *self.transitions.shape[:-1])
        if self.rewards.shape != expected:
            raise ValueError(f"rewards have shape {self.rewards.shape}; expected {expected}")
        if (self.transitions < 0).any() or np.abs(self.transitions.sum(axis=-1) - 1).max() > 1e-9:
            raise ValueError("transitions must be non-negative and sum to 1 over the next state")
        if self.start.shape != self.transitions.shape[:1] or (self.start < 0).any() or abs(self.start.sum() - 1) > 1e-9:
            raise ValueError("start must be a distribution over the states")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount is {self.discount}; expected a number in [0, 1)")
        if not self.entropy_weight > 0:
            raise ValueError(f"entropy_weight is {self.entropy_weight}; expected a number > 0")

    @property
    def actions(self) -> tuple[int, ...]:
        """Numbers of actions (N,)."""
        return self.transitions.shape[1:-1]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Logits of each player: states times actions."""
        return tuple(len(self.start) * m for m in self.actions)

    @property
    def spans(self) -> list[slice]:
        """Where each player's logits are."""
        ends = np.cumsum([0, *self.blocks])
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    def fingerprint(self) -> str:
        """Hash of the whole game."""
        return fingerprint("markov", self.transitions, self.rewards, self.start, self.discount, self.entropy_weight)
