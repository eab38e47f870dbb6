"""Synchronous methods on the same problem: every node computes, then every edge is used, round after round.

They answer the same question with the same certificate of the answer, so that costs can be compared: an exchange is one use of
one edge in both directions, whatever the round's barrier costs.

    EXTRA              x+ = (I + W) x - (I + W)/2 x- - s (grad F(x) - grad F(x-))
    NIDS               x+ = (I + W)/2 (2 x - x- - s (grad F(x) - grad F(x-)))
    gradient tracking  x+ = W (x - s y),  y+ = W (y + grad F(x+) - grad F(x))          two exchanges an edge
    MSDA               accelerated dual ascent with Chebyshev gossip; needs gradients of the conjugates
    ADOM+              accelerated primal method, with or without several gossips a step

References:
    Shi, Ling, Wu, Yin, "EXTRA", SIAM J. Optim. 2015.  Li, Shi, Yan, "NIDS", IEEE Trans. Signal Process. 2019.
    Nedic, Olshevsky, Shi, "Achieving geometric convergence", SIAM J. Optim. 2017.  Scaman et al., "Optimal algorithms", ICML 2017.
    Kovalev et al., "Lower bounds and optimal algorithms for smooth and strongly convex decentralized optimization over time-varying
    networks", NeurIPS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.decentralized.certify import CARD, answer_claims
from surefoot.decentralized.graphs import Edges, rate_matrix
from surefoot.decentralized.problem import Network, network, require_finite_start
from surefoot.decentralized.solution import Agreement

Array = np.ndarray[Any, np.dtype[np.float64]]
Algorithm = Literal["extra", "nids", "gradient-tracking", "msda", "adom", "adom-multi"]


@dataclass(kw_only=True)
class RoundState(State):
    """`arrays` holds what the algorithm keeps, all (n, d); `x` is the point of every node."""

    arrays: dict[str, Array] = field(default_factory=dict)
    distance: float = math.inf
    gap: float = math.inf
    net: Network | None = transient()  # noqa: RUF009 (it is dataclasses.field)
    plan: Any = transient()  # noqa: RUF009 (it is dataclasses.field)

    @property
    def x(self) -> Array:
        return self.arrays["x"]


@dataclass(frozen=True)
class Rounds(Method[Consensus, RoundState, Agreement]):
    """A synchronous method until the answer is proved to be within `tolerance`.

    Args:
        algorithm: see the module's text.
        step_size: of EXTRA, NIDS and gradient tracking, in units of 1 / L; ignored by the others.
        tolerance: as for `EventGossip`.
        check_every: rounds between looks at the stopping rule.
        block: rounds a step.
    """

    algorithm: Algorithm = "nids"
    step_size: float = 1.0
    tolerance: float = 1e-8
    check_every: int = 10
    block: int = 20
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise ValueError(f"algorithm is {self.algorithm!r}; expected one of {', '.join(get_args(Algorithm))}")
        if not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size is {self.step_size}; expected a finite number > 0")
        if self.check_every < 1 or self.block < 1:
            raise ValueError("check_every and block are numbers of rounds, at least 1")

    def init(self, problem: Consensus, start: Agreement | Array | None, streams: Streams) -> RoundState:
        net = network(problem)
        if net.schedule is not None:
            raise ValueError("synchronous methods run on one graph, and this one changes over time; take EventGossip")
        points = start.points if isinstance(start, Agreement) else np.zeros(net.dim) if start is None else start
        x = require_finite_start(np.asarray(points), net.nodes, net.dim)
        plan = PLANS[self.algorithm](net, self)
        return RoundState(streams=streams, arrays={"x": x, **plan.start(x)}, net=net, plan=plan)

    def step(self, problem: Consensus, state: RoundState) -> RoundState:
        net, plan = self._plan(problem, state)
        for _ in range(state.room(self.block)):
            with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is found at the next look
                gradients, gossips = plan.round(state.arrays, state.k)
            state.k += 1
            state.count(gradient=gradients * net.nodes, exchange=gossips * len(net.edges))
            if state.k % self.check_every == 0:
                mean = state.x.mean(axis=0)
                state.gap = float(np.linalg.norm(state.x - mean, axis=1).max())
                state.distance = float(np.linalg.norm(net.mean_gradient(mean))) / net.mu
                state.count(look=net.nodes)
                if state.distance + state.gap <= self.tolerance or not math.isfinite(state.gap):
                    break
        return state

    def look(self, state: RoundState) -> Look:
        row = {
            "time": float(state.k), "distance": state.distance, "gap": state.gap,
            "gradients": float(state.counts.get("gradient", 0)), "exchanges": float(state.counts.get("exchange", 0)),
        }  # fmt: skip
        done = self.tolerance > 0 and state.distance + state.gap <= self.tolerance
        return Look(row, Status.CONVERGED if done else None, "every node is proved to be within the tolerance" * done)

    def answer(self, problem: Consensus, state: RoundState) -> Agreement:
        net, plan = self._plan(problem, state)
        return Agreement(state.x.copy(), np.full(len(net.edges), float(plan.gossips)))

    def certify(self, problem: Consensus, state: RoundState) -> Certificate:
        net, _ = self._plan(problem, state)
        claims, evidence = answer_claims(net, self.answer(problem, state), self.tolerance)
        return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)

    def _plan(self, problem: Consensus, state: RoundState) -> tuple[Network, Any]:
        if state.net is None or state.plan is None:
            state.net = network(problem)
            state.plan = PLANS[self.algorithm](state.net, self)
        return state.net, state.plan


# ---- gossip matrices --------------------------------------------------------------------------------------------


def metropolis(nodes: int, edges: Edges) -> Array:
    """Doubly stochastic W (n, n) with w_ij = 1 / (1 + max degree) on edges (Metropolis weights)."""
    degree = np.bincount(edges.ravel(), minlength=nodes)
    W = np.zeros((nodes, nodes))
    i, j = edges[:, 0], edges[:, 1]
    W[i, j] = W[j, i] = 1 / (1 + np.maximum(degree[i], degree[j]))
    np.fill_diagonal(W, 1 - W.sum(axis=1))
    return W


def _spectrum(net: Network) -> tuple[Array, float, float]:
    """Laplacian of equal weights, its least positive and its largest eigenvalue."""
    laplacian = rate_matrix(net.nodes, net.edges, np.ones(len(net.edges)))
    values = np.linalg.eigvalsh(laplacian)
    return laplacian, float(values[1]) if net.nodes > 1 else 1.0, float(values[-1]) if net.nodes > 1 else 1.0


class _Plan:
    """One algorithm on one network: `start` makes its arrays, `round` moves them and says what it cost (gradients a node, uses of
    every edge)."""

    gossips = 1

    def __init__(self, net: Network, method: Rounds) -> None:
        self.net = net
        self.step = method.step_size / net.smoothness
        self.W = metropolis(net.nodes, net.edges)

    def gradients(self, x: Array) -> Array:
        return np.array([self.net.gradient(i, np.ascontiguousarray(row)) for i, row in enumerate(x)])

    def start(self, x: Array) -> dict[str, Array]:
        raise NotImplementedError

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        raise NotImplementedError


class _Extra(_Plan):
    """x1 = W x0 - s grad F(x0)."""

    def start(self, x: Array) -> dict[str, Array]:
        return {"old": np.zeros_like(x), "slope": np.zeros_like(x)}

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        slope = self.gradients(a["x"])
        if k == 0:
            fresh = self.W @ a["x"] - self.step * slope
        else:
            mixed = self.W @ a["x"]
            fresh = a["x"] + mixed - 0.5 * (a["old"] + self.W @ a["old"]) - self.step * (slope - a["slope"])
        a["old"], a["slope"], a["x"] = a["x"], slope, fresh
        return 1, 1  # W x of the last round is kept by the nodes


class _Nids(_Extra):
    """x1 = x0 - s grad F(x0)."""

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        slope = self.gradients(a["x"])
        if k == 0:
            fresh = a["x"] - self.step * slope
        else:
            inner = 2 * a["x"] - a["old"] - self.step * (slope - a["slope"])
            fresh = 0.5 * (inner + self.W @ inner)
        a["old"], a["slope"], a["x"] = a["x"], slope, fresh
        return 1, 1 if k else 0


class _Tracking(_Plan):
    """Adapt then combine; the tracker starts at the gradients."""

    gossips = 2

    def start(self, x: Array) -> dict[str, Array]:
        slope = self.gradients(x)
        return {"tracker": slope.copy(), "slope": slope}

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        a["x"] = self.W @ (a["x"] - self.step * a["tracker"])
        slope = self.gradients(a["x"])
        a["tracker"] = self.W @ (a["tracker"] + slope - a["slope"])
        a["slope"] = slope
        return 1 + (k == 0), 2


class _Msda(_Plan):
    """Multi-step dual accelerated method. theta_i = grad f_i*(dual_i), the primal point."""

    def __init__(self, net: Network, method: Rounds) -> None:
        super().__init__(net, method)
        self.laplacian, low, high = _spectrum(net)
        g = low / high
        root = math.sqrt(g)
        self.gossips = max(1, math.floor(1 / root))
        K = self.gossips
        if g >= 1 - 1e-12:  # the complete graph: one gossip averages exactly, and the polynomial is 1 - t / t_max
            self.complete, c = True, 0.0
            self.c2 = self.c3 = 0.0
        else:
            self.complete, c = False, ((1 - root) / (1 + root)) ** K
            self.c2, self.c3 = (1 + g) / (1 - g), 2 / ((1 + g) * high)
        self.high = high
        # the polynomial's values lie in [1 - 2 c / (1 + c^2), 1 + 2 c / (1 + c^2)]
        self.dual_step = net.mu * (1 + c * c) / (1 + c) ** 2
        kappa = net.smoothness / net.mu
        ratio = math.sqrt(kappa) * (1 + c) / (1 - c)
        self.momentum = (ratio - 1) / (ratio + 1)
        self.factors = _conjugate_factors(net)

    def start(self, x: Array) -> dict[str, Array]:
        return {"dual": np.zeros_like(x), "shadow": np.zeros_like(x)}

    def mix(self, theta: Array) -> Array:
        """The Chebyshev polynomial of degree K of the Laplacian, which vanishes on constants."""
        if self.complete:
            return self.laplacian @ theta / self.high
        a_old, a_now = 1.0, self.c2
        x_old, x_now = theta, self.c2 * (theta - self.c3 * self.laplacian @ theta)
        for _ in range(self.gossips - 1):
            a_old, a_now = a_now, 2 * self.c2 * a_now - a_old
            x_old, x_now = x_now, 2 * self.c2 * (x_now - self.c3 * self.laplacian @ x_now) - x_old
        return theta - x_now / a_now

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        theta = np.array([self._primal(i, a["dual"][i], a["x"][i]) for i in range(self.net.nodes)])
        shadow = a["dual"] - self.dual_step * self.mix(theta)
        a["dual"] = (1 + self.momentum) * shadow - self.momentum * a["shadow"]
        a["shadow"], a["x"] = shadow, theta
        return 1, self.gossips

    def _primal(self, node: int, dual: Array, guess: Array) -> Array:
        """argmax <dual, x> - f_node(x): exactly for quadratics, else by Newton's method."""
        if self.factors is not None:
            inverse, linear = self.factors[node]
            return inverse @ (dual + linear)
        return _newton(self.net, node, dual, guess)


def _conjugate_factors(net: Network) -> list[tuple[Any, Any]] | None:
    if net.quadratics is None:
        return None
    return [(np.asarray(np.linalg.inv(H)), c) for H, c in net.quadratics]


def _newton(net: Network, node: int, dual: Array, x: Array) -> Array:
    import torch

    if net.rows is None:
        raise ValueError(
            "MSDA needs gradients of the conjugates, which are known for linear models only; take another algorithm"
        )
    local = net.rows[node]
    targets = torch.from_numpy(local.targets)
    for _ in range(50):
        z = torch.from_numpy(local.features @ x)
        slope = net.gradient(node, np.ascontiguousarray(x)) - dual
        bend = local.loss.second_derivative(z, targets).numpy() / len(local.targets)
        H = (local.features * bend[:, None]).T @ local.features + local.ridge * np.eye(net.dim)
        move = np.linalg.solve(H, slope)
        x = x - move
        if np.linalg.norm(move) <= 1e-13 * (1 + np.linalg.norm(x)):
            break
    return x


class _Adom(_Plan):
    """ADOM+ with its published constants; W is the Laplacian over its largest eigenvalue, chi = largest / least."""

    multi = False

    def __init__(self, net: Network, method: Rounds) -> None:
        super().__init__(net, method)
        laplacian, low, high = _spectrum(net)
        self.gossip = laplacian / high
        chi = high / low
        if self.multi:
            self.gossips = max(1, math.ceil(chi * math.log(2)))
            eye = np.eye(net.nodes)
            self.gossip = eye - np.linalg.matrix_power(eye - self.gossip, self.gossips)
            chi = 2.0
        mu, L = net.mu, net.smoothness
        self.tau1, self.tau2 = 1 / (math.sqrt(L / mu) + 0.5), math.sqrt(mu / L)
        self.sigma2 = self.tau2 / (16 * chi)
        self.sigma1 = 1 / (1 / self.sigma2 + 0.5)
        self.eta, self.alpha, self.beta = 1 / (L * self.tau2), mu / 2, 1 / (2 * L)
        self.delta, self.nu = 1 / (17 * L), mu / 2
        self.gamma = self.nu / (14 * self.sigma2 * chi**2)
        self.theta, self.zeta = self.nu / (4 * self.sigma2), 0.5

    def start(self, x: Array) -> dict[str, Array]:
        names = ("y", "y_f", "z", "z_f", "m")
        return {"x_f": x.copy(), **{name: np.zeros_like(x) for name in names}}

    def round(self, a: dict[str, Array], k: int) -> tuple[int, int]:
        x_g = self.tau1 * a["x"] + (1 - self.tau1) * a["x_f"]
        slope = self.gradients(x_g) - self.nu * x_g
        y_g = self.sigma1 * a["y"] + (1 - self.sigma1) * a["y_f"]
        z_g = self.sigma1 * a["z"] + (1 - self.sigma1) * a["z_f"]
        # x+ and y+ are the solution of a linear system of two equations, the same for every entry
        p = a["x"] + self.eta * self.alpha * x_g - self.eta * slope
        q = a["y"] + self.theta * self.beta * slope - self.theta / self.nu * (y_g + z_g)
        #   (1 + eta alpha) x+ - eta y+ = p,   (1 + theta beta) y+ + theta x+ = q
        determinant = (1 + self.eta * self.alpha) * (1 + self.theta * self.beta) + self.eta * self.theta
        x = ((1 + self.theta * self.beta) * p + self.eta * q) / determinant
        y = ((1 + self.eta * self.alpha) * q - self.theta * p) / determinant
        a["x_f"] = x_g + self.tau2 * (x - a["x"])
        a["y_f"] = y_g + self.sigma2 * (y - a["y"])
        sent = self.gossip @ (y_g + z_g)
        noise = self.gossip @ (self.gamma / self.nu * (y_g + z_g) + a["m"])
        z = a["z"] + self.gamma * self.delta * (z_g - a["z"]) - noise
        a["m"] = self.gamma / self.nu * (y_g + z_g) + a["m"] - noise
        a["z_f"] = z_g - self.zeta * sent
        a["x"], a["y"], a["z"] = x, y, z
        return 1, self.gossips


class _AdomMulti(_Adom):
    multi = True


PLANS: dict[Algorithm, Any] = {
    "extra": _Extra,
    "nids": _Nids,
    "gradient-tracking": _Tracking,
    "msda": _Msda,
    "adom": _Adom,
    "adom-multi": _AdomMulti,
}
