"""Two methods with a continuous momentum between neighbours: accelerated randomised gossip for averages, and A2CiD2 for any smooth loss.

The motion, its constants and its rate are in `mixing`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.decentralized.event_gossip import WhichRates, multipliers
from surefoot.decentralized.events import Clocks, Events
from surefoot.decentralized.graphs import given_rates, plain_graph, slowness, uniform_rates
from surefoot.decentralized.mixing import Mixing, meet, mixing_constants, moved
from surefoot.decentralized.problem import Network, network, require_finite_start
from surefoot.decentralized.rates import optimal_rates
from surefoot.decentralized.solution import Agreement

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(kw_only=True)
class MixingState(State):
    """Where a run stands. `k` counts events; `values` holds x and its twin of every node at its own clock."""

    values: Array  # (n, 2, d)
    clocks: Array  # (n,)
    start: Array  # (n, d)
    rates: Array  # (E,)
    mixing: Array  # eta, alpha, alpha_twin
    step_size: float = 0.0
    time: float = 0.0
    distance: float = math.inf  # of the mean to the minimiser (averages)
    gap: float = math.inf
    slope: float = math.inf  # norm of the mean gradient at the nodes' mean
    design: dict[str, Array] = field(default_factory=dict)
    net: Network | None = transient()  # noqa: RUF009 (it is dataclasses.field)

    @property
    def letters(self) -> Mixing:
        return Mixing(*map(float, self.mixing))

    def points(self) -> Array:
        """Every node's x (n, d) now."""
        return moved(self.letters, self.values, self.time - self.clocks)[:, 0]


def _choose_rates(
    problem: Consensus, net: Network, which: WhichRates, product: float
) -> tuple[Array, dict[str, Array]]:
    if net.nodes == 1:
        return np.zeros(0), {}
    if which == "uniform":
        return uniform_rates(net.nodes, net.edges, product), {}
    if which == "graph":
        given = given_rates(plain_graph(problem.graph))
        if given is None:
            raise ValueError("rates='graph', but the graph's edges carry no rate; take 'uniform' or 'optimal'")
        return given, {}
    design = optimal_rates(net.nodes, net.edges, product)
    return design.rates, multipliers(design)


def _require(rates: str, product: float, check_every: float, block: int) -> None:
    if rates not in ("optimal", "uniform", "graph"):
        raise ValueError(f"rates is {rates!r}; expected one of optimal, uniform, graph")
    for name, value in (("product", product), ("check_every", check_every)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if block < 1:
        raise ValueError(f"block is {block}; expected at least one event")


def _still(net: Network, what: str) -> None:
    if net.schedule is not None:
        raise ValueError(f"{what} runs on one graph, and this one changes over time; take EventGossip")


@dataclass(frozen=True)
class ContinuizedGossip(Method[Consensus, MixingState, Agreement]):
    """Agree on an average by exchanges at random times (Even et al. 2021): E Psi decays at 1 / (2 sqrt(chi1 chi2)).

    It takes losses with strong convexity = smoothness, such as `nonconvex.averaging` makes: their minimiser is the mean of the nodes' own
    minimisers, and nothing is left to do but to average. A unit of time is what the rates say.

    Args:
        momentum: the continuous momentum; without it plain pairwise averaging, at 1 / (2 chi1).
        tolerance, rates, product, check_every, block: as for `EventGossip`.
    """

    momentum: bool = True
    tolerance: float = 1e-8
    rates: WhichRates = "optimal"
    product: float = 0.5
    check_every: float = 1.0
    block: int = 32
    horizon: int | None = None

    def __post_init__(self) -> None:
        _require(self.rates, self.product, self.check_every, self.block)
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}; expected a number >= 0")

    def init(self, problem: Consensus, start: Agreement | Array | None, streams: Streams) -> MixingState:
        net = network(problem)
        _still(net, "gossip")
        if net.mu != net.smoothness:
            raise ValueError(
                f"strong convexity {net.mu:g} and smoothness {net.smoothness:g} differ, so that the minimiser is no average; "
                "take EventGossip, or make the problem with `averaging`"
            )
        if start is not None:
            raise ValueError("averaging starts at the nodes' own values; give no start")
        rates, proof = _choose_rates(problem, net, self.rates, self.product)
        origin = np.zeros(net.dim)
        own = np.array([-net.gradient(i, origin) / net.mu for i in range(net.nodes)])
        letters = mixing_constants(*slowness(net.nodes, net.edges, rates), self.momentum)
        return MixingState(
            streams=streams, values=np.stack([own, own], axis=1), clocks=np.zeros(net.nodes), start=own, rates=rates,
            mixing=np.array([letters.eta, letters.alpha, letters.alpha_twin]), design=proof, net=net,
        )  # fmt: skip

    def step(self, problem: Consensus, state: MixingState) -> MixingState:
        net = _network(problem, state)
        if net.nodes == 1:
            state.k += state.room(1)
            _inspect(net, state)
            return state
        every = max(1, math.ceil(self.check_every * float(state.rates.sum())))
        clocks, room = Clocks(state.streams, 0, state.rates), state.room(self.block)
        while room > 0:
            take = min(room, every - state.k % every)
            events = clocks.draw(state.k, take, state.time)
            for e, time in zip(events.what.tolist(), events.times.tolist(), strict=True):
                meet(state.letters, state.values, state.clocks, net.edges[e].tolist(), time)
            state.count(exchange=take)
            state.time, state.k, room = float(events.times[-1]), state.k + take, room - take
            if state.k % every == 0:
                _inspect(net, state)
                if state.distance + state.gap <= self.tolerance:
                    break
        return state

    def look(self, state: MixingState) -> Look:
        done = self.tolerance > 0 and state.distance + state.gap <= self.tolerance
        return Look(
            _row(state, {"distance": state.distance}), Status.CONVERGED if done else None,
            "every node is proved to be within the tolerance" * done,
        )  # fmt: skip

    def answer(self, problem: Consensus, state: MixingState) -> Agreement:
        return Agreement(np.ascontiguousarray(state.points()), state.rates)

    def certify(self, problem: Consensus, state: MixingState) -> Certificate:
        from surefoot.decentralized.certify_momentum import certify_average

        return certify_average(problem, _network(problem, state), state, self.answer(problem, state), self.tolerance)


@dataclass(frozen=True)
class MomentumDescent(Method[Consensus, MixingState, Agreement]):
    """A2CiD2: asynchronous decentralised (stochastic) gradient descent with a continuous momentum, for losses that need not be convex.

    At a node's gradient x and its twin both move by -step_size g, so that the nodes' mean does a gradient step of its own; exchanges and
    motion only bring the nodes together. With bounded gradients the certificate bounds how far they are apart, and the mean squared
    gradient norm over the run.

    Args:
        time: units of time to run (gradients a node).
        step_size: of a gradient; 0 takes 1 / (2 L).
        batch: rows a gradient, drawn with replacement; 0 takes all.
        momentum: without it, plain asynchronous gossip (AD-PSGD).
        rates, product: as for `EventGossip`.
        check_every: units of time between looks, which cost a gradient a node each.
        block: events a step.
    """

    time: float = 100.0
    step_size: float = 0.0
    batch: int = 0
    momentum: bool = True
    rates: WhichRates = "optimal"
    product: float = 0.5
    check_every: float = 4.0
    block: int = 256
    horizon: int | None = None

    def __post_init__(self) -> None:
        _require(self.rates, self.product, self.check_every, self.block)
        if not (math.isfinite(self.time) and self.time > 0):
            raise ValueError(f"time is {self.time}; expected a finite number > 0")
        if not (math.isfinite(self.step_size) and self.step_size >= 0):
            raise ValueError(f"step_size is {self.step_size}; expected a finite number >= 0")
        if self.batch < 0:
            raise ValueError(f"batch is {self.batch}; expected a number of rows, or 0 for all")

    def init(self, problem: Consensus, start: Agreement | Array | None, streams: Streams) -> MixingState:
        net = network(problem, convex=False)
        _still(net, "A2CiD2")
        if not self.step_size and not math.isfinite(net.smoothness):
            raise ValueError("the smoothness of these losses is not known; give a step_size")
        if self.batch and net.sizes is None:
            raise ValueError("mini-batches need losses with rows (linear models, or a SampledObjective)")
        points = start.points if isinstance(start, Agreement) else np.zeros(net.dim) if start is None else start
        points = require_finite_start(np.asarray(points), net.nodes, net.dim)
        rates, proof = _choose_rates(problem, net, self.rates, self.product)
        letters = mixing_constants(*slowness(net.nodes, net.edges, rates), self.momentum)
        return MixingState(
            streams=streams, values=np.stack([points, points], axis=1), clocks=np.zeros(net.nodes), start=points, rates=rates,
            mixing=np.array([letters.eta, letters.alpha, letters.alpha_twin]), design=proof, net=net,
            step_size=self.step_size or 0.5 / net.smoothness,
        )  # fmt: skip

    def step(self, problem: Consensus, state: MixingState) -> MixingState:
        net = _network(problem, state, convex=False)
        every = max(1, math.ceil(self.check_every * (net.nodes + float(state.rates.sum()))))
        clocks = Clocks(state.streams, net.nodes, state.rates, batch=self.batch, sizes=net.sizes)
        room = state.room(self.block)
        while room > 0 and state.time < self.time:
            take = min(room, every - state.k % every)
            events = clocks.draw(state.k, take, state.time)
            events = events.first(len(events.before(self.time)) + 1)  # the last one ends the run, whatever the block
            take = len(events)
            with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is found at the next look
                self._advance(net, state, events)
            local = int((events.what < net.nodes).sum())
            state.count(gradient=local, exchange=take - local)
            state.time, state.k, room = float(events.times[-1]), state.k + take, room - take
            if state.k % every == 0:
                _inspect(net, state)
                if not math.isfinite(state.gap):
                    break
        return state

    @staticmethod
    def _advance(net: Network, state: MixingState, events: Events) -> None:
        letters = state.letters
        for k, (what, time) in enumerate(zip(events.what.tolist(), events.times.tolist(), strict=True)):
            if what >= net.nodes:
                meet(letters, state.values, state.clocks, net.edges[what - net.nodes].tolist(), time)
                continue
            own = moved(letters, state.values[what], time - state.clocks[what])
            x, rows = np.ascontiguousarray(own[0]), events.rows_of(k)
            slope = net.gradient(what, x) if rows is None else net.rows_gradient(what, x, rows)
            state.values[what], state.clocks[what] = own - state.step_size * slope, time

    def look(self, state: MixingState) -> Look:
        done = state.time >= self.time
        return Look(
            _row(state, {"gradient_norm": state.slope}),
            Status.CONVERGED if done else None,
            f"{self.time:g} units of time" * done,
        )

    def answer(self, problem: Consensus, state: MixingState) -> Agreement:
        return Agreement(np.ascontiguousarray(state.points()), state.rates)

    def certify(self, problem: Consensus, state: MixingState) -> Certificate:
        from surefoot.decentralized.certify_momentum import certify_descent

        net = _network(problem, state, convex=False)
        return certify_descent(problem, net, state, self.answer(problem, state), self.batch)


def _network(problem: Consensus, state: MixingState, convex: bool = True) -> Network:
    if state.net is None:
        state.net = network(problem, convex)
    return state.net


def _row(state: MixingState, more: dict[str, float]) -> dict[str, float]:
    counts = {f"{name}s": float(state.counts.get(name, 0)) for name in ("gradient", "exchange")}
    return {"time": state.time, **more, "gap": state.gap, **counts}


def _inspect(net: Network, state: MixingState) -> None:
    points = state.points()
    mean = points.mean(axis=0)
    state.gap = float(np.linalg.norm(points - mean, axis=1).max())
    state.slope = float(np.linalg.norm(net.mean_gradient(mean)))
    state.distance = state.slope / net.mu if net.mu else math.inf
    state.count(look=net.nodes)
