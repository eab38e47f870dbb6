"""DADAO as a method: gradients and exchanges at the jumps of independent Poisson clocks, exact motion in between.

References:
    Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", ICML 2023.
"""

from __future__ import annotations

import logging
import math
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.decentralized import kernel, levels, minibatch, reference
from surefoot.decentralized.constants import (
    Constants,
    certified_constants,
    certified_rate,
    paper_constants,
    thrifty_product,
)
from surefoot.decentralized.events import Clocks, Events
from surefoot.decentralized.flow import require_no_resonance
from surefoot.decentralized.graphs import given_rates, plain_graph, slowness, uniform_rates
from surefoot.decentralized.problem import Network, network, require_finite_start
from surefoot.decentralized.rates import RateDesign, optimal_rates
from surefoot.decentralized.schedule import Schedule
from surefoot.decentralized.solution import Agreement
from surefoot.decentralized.windows import Switching, choose_restarts, switching_constants, window_slowness

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]
Engine = Literal["auto", "warp", "numpy", "reference"]
WhichRates = Literal["optimal", "uniform", "graph"]


@dataclass(kw_only=True)
class GossipState(State):
    """Where a run stands. `k` counts events."""

    values: Array  # (n, 6, d), every node at its own clock
    clocks: Array  # (n,)
    start: Array  # (n, d)
    rates: Array  # (E,); of a graph that changes, their mean over the time
    constants: Array  # (11,) in the order of `Constants`
    engine: str
    time: float = 0.0
    distance: float = math.inf  # |mean gradient at the mean| / mu at the last look
    gap: float = math.inf  # largest distance of a node from the mean then
    design: dict[str, Array] = field(default_factory=dict)  # multipliers of the rates' lower bound
    windows: dict[str, Array] = field(default_factory=dict)  # of a graph that changes: the fields of `Switching`
    visit: int = 0  # windows begun since the start, less one
    within: int = 0  # events of this window so far
    until: float = math.inf  # when it ends
    settled: bool = False  # with mini-batches: the bound's transient part is small against its floor
    quiet: Any = transient()  # noqa: RUF009 (it is dataclasses.field)
    net: Network | None = transient()  # noqa: RUF009 (it is dataclasses.field)
    compiled: Any = transient()  # noqa: RUF009 (it is dataclasses.field)

    @property
    def letters(self) -> Constants:
        return Constants(*map(float, self.constants))

    @property
    def switching(self) -> Switching | None:
        if not self.windows:
            return None
        w = self.windows
        return Switching(w["rates"], w["durations"], w["twins"], w["restarts"].astype(bool))


@dataclass(frozen=True)
class EventGossip(Method[Consensus, GossipState, Agreement]):
    """Simulate the asynchronous method event by event until the answer is proved to be within `tolerance`.

    On a graph that changes over time (`windows.changing_graph`) every window has its own rates and its own beta_twin, and the twin of z
    restarts at z when a window begins, where that is the cheaper way into it.

    Args:
        tolerance: stop once max_i |x_i - xbar| + |mean gradient at xbar| / mu <= tolerance; 0 never stops.
        constants: "certified" (largest certified rate), "paper", or a `Constants` of your own.
        product: chi1 chi2 of the rates, the knob between exchanges and gradients: the total rate is proportional to
            product^-1/2, so that 8 exchanges four times less often than the published 1/2, and contracts more slowly.
        exchange_cost: > 0 chooses the product for the least certified cost, where an exchange costs so many gradients; 0 keeps `product`.
        rates: "optimal" (least total rate), "uniform", or "graph" (as the edges of the graph carry them).
        engine: "warp" (compiled, extra `kernels`), "numpy" (batches), "reference" (one by one); "auto" takes the first
            that can run this problem. A resumed run keeps its engine.
        check_every: units of time between looks at the stopping rule; each costs a gradient a node, counted as `look`.
        design_tolerance: relative gap of optimal rates.
        batch: rows a gradient, drawn with replacement; 0 takes all. The run then ends at the latest when its bound is within 1 % of the floor
            that the noise leaves (see `minibatch`).
        caution: with mini-batches, > 1 takes the constants of so many times the noise: a lower rate and a lower floor.
        compat: "paper" sets constants, product and rates as published.
        block: events a step.
    """

    tolerance: float = 1e-8
    constants: Literal["certified", "paper"] | Constants = "certified"
    product: float = 0.5
    exchange_cost: float = 0.0
    rates: WhichRates = "optimal"
    engine: Engine = "auto"
    check_every: float = 4.0
    design_tolerance: float = 1e-4
    batch: int = 0
    caution: float = 1.0
    compat: Literal["", "paper"] = ""
    block: int = 1024
    horizon: int | None = None

    def __post_init__(self) -> None:
        for name in ("product", "check_every", "design_tolerance"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number > 0")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}; expected a number >= 0")
        for name, kinds in (("engine", Engine), ("rates", WhichRates)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(kinds))}")
        if self.block < 1:
            raise ValueError(f"block is {self.block}; expected at least one event")
        if not (math.isfinite(self.exchange_cost) and self.exchange_cost >= 0):
            raise ValueError(f"exchange_cost is {self.exchange_cost}; expected a finite number >= 0")
        if self.exchange_cost and (self.rates == "graph" or self.compat == "paper"):
            raise ValueError("exchange_cost chooses the product, which rates='graph' and compat='paper' fix already")
        if self.batch < 0:
            raise ValueError(f"batch is {self.batch}; expected a number of rows, or 0 for all")
        if not (math.isfinite(self.caution) and self.caution >= 1):
            raise ValueError(f"caution is {self.caution}; expected a finite number >= 1")

    # ---- the five verbs ---------------------------------------------------------------------------------------

    def init(self, problem: Consensus, start: Agreement | Array | None, streams: Streams) -> GossipState:
        net = network(problem)
        if self.batch:
            minibatch.require_rows(net)
        points = start.points if isinstance(start, Agreement) else np.zeros(net.dim) if start is None else start
        points = require_finite_start(np.asarray(points), net.nodes, net.dim)
        values, more = reference.start_values(points), {}
        if net.schedule is not None:
            if self.exchange_cost:
                raise ValueError("exchange_cost chooses a product for one graph, and this one changes; give product")
            windows, letters, proof = self.choose_windows(net, net.schedule)
            rates = windows.mean_rates
            more = {"windows": shallow(windows), "until": float(windows.durations[0])}
        else:
            design = self.choose_rates(problem, net)
            rates = design.rates if isinstance(design, RateDesign) else design
            letters, proof = self.choose_constants(net, rates), multipliers(design)
        state = GossipState(
            streams=streams, values=values, clocks=np.zeros(net.nodes), start=points, rates=rates,
            constants=np.array(astuple(letters)), engine=self._engine(net), net=net, design=proof, **more,
        )  # fmt: skip
        log.info("events run in the engine %r", state.engine)
        return state

    def step(self, problem: Consensus, state: GossipState) -> GossipState:
        net = self._network(problem, state)
        switching = state.switching
        every = max(1, math.ceil(self.check_every * (net.nodes + state.rates.sum())))
        room = state.room(self.block)
        while room > 0:
            take = min(room, every - state.k % every)
            if switching is None:
                clocks = Clocks(state.streams, net.nodes, state.rates, batch=self.batch, sizes=net.sizes)
                events = clocks.draw(state.k, take, state.time)
            else:
                rates = switching.rates[state.visit % len(switching.rates)]
                clocks = Clocks(state.streams, net.nodes, rates, (state.visit,))
                events = clocks.draw(state.within, take, state.time).before(state.until)
                if not len(events):
                    self._switch(state, switching)
                    continue
                take = len(events)
                state.within += take
            self._advance(net, state, events)
            local = int((events.what < net.nodes).sum())
            state.count(gradient=local, exchange=take - local)
            state.time, state.k, room = float(events.times[-1]), state.k + take, room - take
            if state.k % every == 0:
                self._inspect(net, state)
                if state.settled or state.distance + state.gap <= self.tolerance or not math.isfinite(state.gap):
                    break
        return state

    def look(self, state: GossipState) -> Look:
        row = {
            "time": state.time, "distance": state.distance, "gap": state.gap,
            "gradients": float(state.counts.get("gradient", 0)), "exchanges": float(state.counts.get("exchange", 0)),
        }  # fmt: skip
        if self.tolerance > 0 and state.distance + state.gap <= self.tolerance:
            return Look(row, Status.CONVERGED, "every node is proved to be within the tolerance")
        if state.settled:
            return Look(
                row, Status.CONVERGED, "the bound is within 1 % of the floor that the noise of mini-batches leaves"
            )
        return Look(row)

    def answer(self, problem: Consensus, state: GossipState) -> Agreement:
        moved = reference.at_time(state.letters, state.values, state.clocks, state.time)
        windows = state.windows.get("rates", np.zeros((0, len(state.rates))))
        return Agreement(np.ascontiguousarray(moved[:, reference.X]), state.rates, windows)

    def certify(self, problem: Consensus, state: GossipState) -> Certificate:
        from surefoot.decentralized.certify import certify_gossip

        net = self._network(problem, state)
        return certify_gossip(problem, net, state, self.answer(problem, state), self.tolerance, self.batch)

    # ---- parts ------------------------------------------------------------------------------------------------

    def _network(self, problem: Consensus, state: GossipState) -> Network:
        if state.net is None:
            state.net = network(problem)
        return state.net

    @staticmethod
    def _switch(state: GossipState, switching: Switching) -> None:
        """The next window begins: all nodes move to that time, and the twin of z restarts at z if that is the plan."""
        state.values = reference.at_time(state.letters, state.values, state.clocks, state.until)
        state.clocks[:] = state.time = state.until
        state.visit, state.within = state.visit + 1, 0
        window = state.visit % len(switching.durations)
        if switching.restarts[window]:
            state.values[:, reference.ZT] = state.values[:, reference.Z]
        state.until += float(switching.durations[window])

    def choose_windows(self, net: Network, schedule: Schedule) -> tuple[Switching, Constants, dict[str, Array]]:
        """Rates of every window, constants, and the proofs of the rates."""
        n, edges, durations = net.nodes, net.edges, schedule.durations
        rates, proof = np.zeros(schedule.present.shape), {}
        which = "uniform" if self.compat == "paper" else self.rates
        for k, present in enumerate(schedule.present):
            if which == "graph":
                if schedule.given is None:
                    raise ValueError("rates='graph', but the graph's edges carry no rates; take 'uniform' or 'optimal'")
                rates[k] = schedule.given[k]
            elif which == "uniform":
                rates[k, present] = uniform_rates(n, edges[present], self._product)
            else:
                design = optimal_rates(n, edges[present], self._product, self.design_tolerance)
                rates[k, present] = design.rates
                proof |= {f"{name}_{k}": array for name, array in multipliers(design).items()}
        chi = window_slowness(n, edges, rates)
        if self.compat == "paper":  # as published: equal totals in all windows, and the constants of the slowest
            rates /= rates.sum(axis=1, keepdims=True)
            top = window_slowness(n, edges, rates).max(axis=0)
            rates *= math.sqrt(top[0] * top[1] / 0.5) * (1 + 1e-9)
            chi = np.tile(window_slowness(n, edges, rates).max(axis=0), (len(rates), 1))
        if isinstance(self.constants, Constants):
            letters, twins = self.constants, np.full(len(durations), self.constants.beta_twin)
        elif self.constants == "paper" or self.compat == "paper":
            each = [self.choose_constants(net, rates[k], (float(chi[k, 0]), float(chi[k, 1]))) for k in range(len(chi))]
            letters, twins = each[0], np.array([own.beta_twin for own in each])
        else:
            letters, twins = switching_constants(net.mu, net.smoothness, n, edges, rates, durations)
        restarts = np.zeros(len(durations), dtype=bool)
        if self.compat != "paper":
            restarts = choose_restarts(letters, twins, net.mu, net.smoothness, n, edges, rates)
        require_no_resonance(letters)
        return Switching(rates, durations, twins, restarts), letters, proof

    @property
    def _product(self) -> float:
        return 0.5 if self.compat == "paper" else self.product

    def choose_rates(self, problem: Consensus, net: Network) -> RateDesign | Array:
        if net.nodes == 1:
            return np.zeros(0)
        which = "uniform" if self.compat == "paper" else self.rates
        if which == "graph":
            given = given_rates(plain_graph(problem.graph))
            if given is None:
                raise ValueError("rates='graph', but the graph's edges carry no rate; take 'uniform' or 'optimal'")
            return given
        product = self._product
        if which == "uniform":
            if self.exchange_cost:
                product = self._thrifty(net, float(uniform_rates(net.nodes, net.edges).sum()))
            return uniform_rates(net.nodes, net.edges, product)
        if self.exchange_cost:
            product = self._thrifty(net, optimal_rates(net.nodes, net.edges, tolerance=1e-3).total)
        return optimal_rates(net.nodes, net.edges, product, self.design_tolerance)

    def _thrifty(self, net: Network, total: float) -> float:
        product = thrifty_product(net.mu, net.smoothness, net.nodes, total, self.exchange_cost)
        log.info("the product with the least certified cost is %.3g", product)
        return product

    def choose_constants(self, net: Network, rates: Array, slow: tuple[float, float] | None = None) -> Constants:
        """The constants for these rates, or for the given (chi1, chi2)."""
        chi1, chi2 = slow or slowness(net.nodes, net.edges, rates)
        which = "paper" if self.compat == "paper" else self.constants
        if isinstance(which, Constants):
            letters = which
        elif which == "paper":
            if chi1 * chi2 > 0.5:
                total = float(rates.sum()) * math.sqrt(2 * chi1 * chi2)
                raise ValueError(
                    f"gossip is too slow for the published constants: chi1 chi2 = {chi1 * chi2:.4g} > 1/2; they need a total rate "
                    f">= {total:.4g}, not {rates.sum():.4g} (constants='certified' fits any rates)"
                )
            letters = paper_constants(net.mu, net.smoothness, chi1)
        else:
            noise = minibatch.growth(net, self.batch, 1.0) * self.caution if self.batch else 0.0
            letters = certified_constants(net.mu, net.smoothness, chi1, chi2, noise)
        require_no_resonance(letters)
        if certified_rate(letters, net.mu, net.smoothness, chi1, chi2) is None:
            log.warning("no rate is certified for these constants; the answer is still certified when it is reached")
        return letters

    def _engine(self, net: Network) -> str:
        if self.engine != "auto":
            if self.engine == "warp" and not kernel.installed():
                raise ImportError("engine='warp' needs Warp: pip install 'surefoot[kernels]'")
            if self.engine == "warp" and not kernel.supports(net):
                raise ValueError(
                    "engine='warp' takes linear models with squared, logistic or huber loss; take engine='numpy'"
                )
            return self.engine
        return "warp" if kernel.installed() and kernel.supports(net) else "numpy"

    def _advance(self, net: Network, state: GossipState, events: Events) -> None:
        switching, letters, window = state.switching, state.letters, 0
        if switching is not None:
            window = state.visit % len(switching.durations)
            letters = switching.constants(letters, window)
        if state.engine == "warp":
            if state.compiled is None:
                state.compiled = {}
            if window not in state.compiled:
                state.compiled[window] = kernel.EventKernel(net, letters, batch=self.batch)
            state.compiled[window].advance(state.values, state.clocks, events)
        else:
            module = levels if state.engine == "numpy" else reference
            module.advance(net, letters, state.values, state.clocks, events)

    def _inspect(self, net: Network, state: GossipState) -> None:
        """Distance and gap at the current time; the state itself is not moved."""
        points = reference.at_time(state.letters, state.values, state.clocks, state.time)[:, reference.X]
        mean = points.mean(axis=0)
        state.gap = float(np.linalg.norm(points - mean, axis=1).max())
        state.distance = float(np.linalg.norm(net.mean_gradient(mean))) / net.mu
        state.count(look=net.nodes)
        if self.batch and math.isfinite(state.gap):
            if state.quiet is None:
                state.quiet = minibatch.Bound.of(net, state.letters, state.rates, self.batch, state.start)
            state.settled = state.quiet.settled(state.time)


def multipliers(design: RateDesign | Array) -> dict[str, Array]:
    """What proves a lower bound of the rates; nothing for rates that were not designed."""
    if not isinstance(design, RateDesign):
        return {}
    return {"modes": design.modes, "potentials": design.potentials, "weights": design.weights}


def shallow(switching: Switching) -> dict[str, Array]:
    """The plan of a graph that changes, as a state keeps it."""
    return {f.name: np.asarray(getattr(switching, f.name)) for f in fields(switching)}
