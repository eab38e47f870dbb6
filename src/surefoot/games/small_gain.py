"""Small-gain arithmetic: from bounds of curvature and coupling to margin, weights, steps, bands and error bounds.

Bounds are kept for a family of cells: mu, ell (cells, N) and coupling L (cells, N, N), where on every cell
mu_i <= eigenvalues of J_ii <= ell_i and |J_ij|_2 <= L_ij. The comparison matrix of a cell is K = diag(mu) - L. A mean of J
along any segment has the mean of its cells' bounds, so what holds for every cell with one v (or one w) holds on the whole
region. Numbers found here are ordinary floats; `certify.py` proves them with outward rounding.

References:
    V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games", arXiv 2512.06791.
    J. B. Rosen, "Existence and uniqueness of equilibrium points for concave N-person games", 1965.
    A. Berman and R. Plemmons, "Nonnegative matrices in the mathematical sciences", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq, minimize

Array = np.ndarray[Any, np.dtype[Any]]
RK4_RADIUS = 2.5
"""The published guideline's constant; classical RK4 is stable on the left half-disc of radius 2.6156."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Curvature and coupling on a family of cells.

    Args:
        mu, ell: (cells, N) lower and upper bounds of the own blocks' eigenvalues.
        coupling: (cells, N, N) bounds of the spectral norms of the other blocks; zero diagonal.
        known: "exact" (matrices), "interval" (bounds over boxes) or "sampled" (estimates, never a proof).
    """

    mu: Array
    ell: Array
    coupling: Array
    known: str = "interval"

    def __post_init__(self) -> None:
        cells, players = self.mu.shape
        if self.ell.shape != (cells, players) or self.coupling.shape != (cells, players, players):
            raise ValueError(
                f"bounds of {players} players on {cells} cells have shapes {self.ell.shape}, {self.coupling.shape}"
            )
        if (self.mu > self.ell).any():
            raise ValueError("mu > ell: the lower bound of a curvature lies above its upper bound")
        if (self.coupling < 0).any():
            raise ValueError("a coupling bound is negative; it bounds a norm")
        if np.einsum("cii->ci", self.coupling).any():
            raise ValueError("the coupling of a player with itself must be 0; its own block is bounded by mu and ell")

    @property
    def comparison(self) -> Array:
        """K of every cell, (cells, N, N)."""
        return _diagonal(self.mu) - self.coupling

    def euler(self, step: float) -> Array:
        """T(h) of every cell: |x+ - y+| <= T(h) |x - y| blockwise after a projected Euler step of length h."""
        return _diagonal(np.maximum(np.abs(1 - step * self.mu), np.abs(1 - step * self.ell))) + step * self.coupling


def _diagonal(rows: Array) -> Array:
    return rows[..., None] * np.eye(rows.shape[-1])


# ---- the margin ---------------------------------------------------------------------------------------------------


def perron_margin(K: Array) -> tuple[float, Array]:
    """Largest alpha and a v > 0 with K_s v >= alpha v for every matrix K_s of the family (cells, N, N).

    Rows may be taken from different cells, so the best v is found by policy iteration over the rows (nonlinear Perron theory);
    for one matrix it is the right Perron vector and alpha = min Re eig(K).

    Returns:
        alpha (of the v returned) and v, scaled to max v = 1.
    """
    n = K.shape[-1]
    rows = np.zeros(n, dtype=np.int64)
    best, witness = -math.inf, np.ones(n)
    for _ in range(60):
        mixed = K[rows, np.arange(n)]
        v = _right_perron(mixed)
        ratios = (K @ v) / v
        value = float(ratios.min())
        if value > best:
            best, witness = value, v
        worst = ratios.argmin(axis=0)
        if np.array_equal(worst, rows):
            break
        rows = worst
    return best, witness


def _right_perron(K: Array) -> Array:
    """A positive vector near the right Perron vector of s I - K."""
    scale = max(float(np.abs(K).max()), 1e-300)
    off = -K + np.diag(np.diag(K))
    off = np.where(off < 1e-12 * off.max(initial=0.0), 1e-12 * off.max(initial=0.0), off) * (1 - np.eye(len(K)))
    if not off.any():
        return np.ones(len(K))
    top = float(np.diag(K).max()) + scale
    values, vectors = np.linalg.eig((np.diag(top - np.diag(K)) + off) / scale)
    v = np.abs(np.real(vectors[:, int(np.argmax(np.real(values)))]))
    return np.maximum(v / v.max(), 1e-14)


def margin(K: Array, weights: Array) -> float:
    """a*(w) = min over the cells of lambda_min(sym(W^1/2 K W^-1/2)): the contraction rate in |x|_w^2 = sum w_i |x_i|^2."""
    root = np.sqrt(weights)
    scaled = K * (root[:, None] / root[None, :])
    return float(np.linalg.eigvalsh(0.5 * (scaled + np.swapaxes(scaled, -1, -2))).min())


def best_weights(K: Array) -> Array:
    """Weights w that maximise a*(w), scaled to min w = 1.

    For one matrix w = u / v, with its left and right Perron vectors. For a family a*(e^z) is concave in z; the Perron weights of
    the rowwise worst matrix are the start of a direct search.
    """
    _alpha, v = perron_margin(K)
    rows = ((K @ v) / v).argmin(axis=0)
    worst = K[rows, np.arange(len(v))]
    start = np.log(_right_perron(worst.T) / _right_perron(worst))
    candidates = [start - start.mean(), np.zeros(len(v))]
    if len(K) > 1:
        few = K[np.unique(((K @ v) / v).argmin(axis=0))] if len(K) > 400 else K
        found = minimize(
            lambda z: -margin(few, np.exp(z)), candidates[0], method="Nelder-Mead", options={"maxiter": 60 * len(v)}
        )
        candidates.append(found.x)
    z = max(candidates, key=lambda c: margin(K, np.exp(c)))
    return np.exp(z - z.min())


# ---- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EulerSteps:
    """The certified interval of projected Euler steps.

    Args:
        limit: every 0 < h < limit contracts.
        best: the h with the smallest factor.
        factor: rho(T(best)), the contraction of one step.
        vector: v with T_s(best) v <= factor v for all cells.
    """

    limit: float
    best: float
    factor: float
    vector: Array


def step_margin(bounds: Bounds, step: float) -> tuple[float, Array]:
    """lambda(h) and its vector: the factor of a projected Euler step is 1 - h lambda(h)."""
    return perron_margin(_diagonal(np.minimum(bounds.mu, 2 / step - bounds.ell)) - bounds.coupling)


def euler_steps(bounds: Bounds) -> EulerSteps:
    """The interval (0, h_max) of contracting steps, and the best step in it.

    lambda(h) does not increase with h, so h_max is found by bisection, and min q(h) by golden section.

    Raises:
        ValueError: the small-gain condition does not hold, so that no step is certified.
    """
    alpha, _ = perron_margin(bounds.comparison)
    if alpha <= 0:
        raise ValueError(f"the small-gain margin is {alpha:.6g}; no step is certified")
    high = 2.0 / float(bounds.ell.max())
    low = 0.0
    while step_margin(bounds, high)[0] > 0:
        low, high = high, 2 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if step_margin(bounds, middle)[0] > 0:
            low = middle
        else:
            high = middle

    def factor(h: float) -> float:
        return 1 - h * step_margin(bounds, h)[0]

    # below min 2/(mu + ell) the factor is 1 - h alpha, so the best step is not smaller
    best = _golden(factor, float(np.min(2 / (bounds.mu + bounds.ell))), low)
    value, vector = step_margin(bounds, best)
    return EulerSteps(low, best, 1 - best * value, vector)


def _golden(function: Callable[[float], float], low: float, high: float) -> float:
    """A minimiser of a unimodal function on [low, high], the ends included."""
    if high <= low:
        return min(low, high)
    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    a, b = low, high
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    fc, fd = function(c), function(d)
    for _ in range(80):
        if fc <= fd:
            b, d, fd = d, c, fc
            c = b - ratio * (b - a)
            fc = function(c)
        else:
            a, c, fc = c, d, fd
            d = a + ratio * (b - a)
            fd = function(d)
        if b - a <= 1e-12 * high:
            break
    return min((low, 0.5 * (a + b), high), key=function)


def per_player_steps(bounds: Bounds) -> tuple[Array, float]:
    """Step lengths c_i = 2 / (mu_i + ell_i), one a player, and the factor rho(T) of the round in which all use theirs.

    Every diagonal entry of T is then (ell_i - mu_i) / (ell_i + mu_i).
    """
    steps = 2 / (bounds.mu.min(axis=0) + bounds.ell.max(axis=0))
    own = np.maximum(np.abs(1 - steps * bounds.mu), np.abs(1 - steps * bounds.ell))
    value, _ = perron_margin(-(_diagonal(own) + steps[:, None] * bounds.coupling))
    return steps, -value


def lipschitz(bounds: Bounds, weights: Array) -> float:
    """beta_w, a Lipschitz constant of F in the w-norm: the largest |W^1/2 B W^-1/2|_2, B the blocks' norms."""
    own = np.maximum(np.abs(bounds.mu), np.abs(bounds.ell))
    root = np.sqrt(weights)
    return float(
        np.linalg.norm((_diagonal(own) + bounds.coupling) * (root[:, None] / root[None, :]), 2, axis=(-2, -1)).max()
    )


@dataclass(frozen=True)
class ClassicalSteps:
    """What alpha and beta alone give (in one w-norm).

    Args:
        euler: 2 alpha / beta^2, the published bound of a projected Euler step.
        euler_best, euler_factor: alpha / beta^2 and its factor sqrt(1 - alpha^2 / beta^2).
        rk4_guideline: 2.5 / beta: *asymptotic* stability of linear games only; single steps may expand.
        rk4_linear: per-step contraction of linear games: e^(-alpha h) + sum_{k>=5} (h beta)^k / k! < 1.
        rk4: per-step contraction of nonlinear games, 2 alpha / beta^2 (radius of circle contractivity 1).
        rk4_best, rk4_factor: half of it, and its factor, q^2 = 1 - (alpha h / 3)(1 - h beta^2 / (2 alpha)).
    """

    euler: float
    euler_best: float
    euler_factor: float
    rk4_guideline: float
    rk4_linear: float
    rk4: float
    rk4_best: float
    rk4_factor: float


def classical_steps(alpha: float, beta: float) -> ClassicalSteps:
    """Steps from the rate alpha and the Lipschitz constant beta of the same w-norm."""
    ratio = alpha / beta

    def excess(t: float) -> float:
        tail = (
            math.exp(t) - sum(t**k / math.factorial(k) for k in range(5))
            if t > 0.5
            else sum(t**k / math.factorial(k) for k in range(5, 30))
        )
        return math.expm1(-ratio * t) + tail

    root: Any = brentq(excess, 1e-3 * ratio, 3.0) if excess(1e-3 * ratio) < 0 else 0.0
    linear = float(root)
    best = alpha / beta**2
    return ClassicalSteps(
        2 * best, best, math.sqrt(max(0.0, 1 - ratio**2)), RK4_RADIUS / beta, linear / beta, 2 * best, best,
        math.sqrt(1 - alpha * best / 6),
    )  # fmt: skip


def published_weights(bounds: Bounds, objective: Literal["euler", "rk4"] = "euler") -> Array:
    """Two players' weights as the paper's code takes them: the ratio w_2 / w_1 on a grid of 161 points in [0.1, 1e4] with the largest
    alpha / beta^2 (Euler) or alpha / beta (RK4).

    Raises:
        ValueError: more than two players, for whom nothing is published.
    """
    if bounds.mu.shape[1] != 2:
        raise ValueError(
            f"the published grid of weights is for two players; this game has {bounds.mu.shape[1]} (leave compat unset)"
        )
    candidates = [np.array([1.0, ratio]) for ratio in np.logspace(-1, 4, 161)]
    power = 2 if objective == "euler" else 1
    best = max(candidates, key=lambda w: margin(bounds.comparison, w) / lipschitz(bounds, w) ** power)
    return best / best.min()


# ---- bands of weights ---------------------------------------------------------------------------------------------


def timescale_band(
    mu: tuple[float, float], coupling: tuple[float, float], target: float = 0.0
) -> tuple[float, float] | None:
    """Ratios r = w_2 / w_1 with margin >= target for two players, or None.

    r = (2 m - L12 L21 +- 2 sqrt(m (m - L12 L21))) / L21^2, with m = (mu_1 - a)(mu_2 - a).
    """
    first, second = mu[0] - target, mu[1] - target
    m, product = first * second, coupling[0] * coupling[1]
    if first <= 0 or second <= 0 or m < product:
        return None
    if coupling[1] == 0:
        return coupling[0] ** 2 / (4 * m), math.inf
    root = 2 * math.sqrt(m * (m - product))
    middle = 2 * m - product
    high = (middle + root) / coupling[1] ** 2
    return (coupling[0] ** 2 / (coupling[1] ** 2 * high) if coupling[0] else 0.0), high


def weight_bands(K: Array, weights: Array, target: float = 0.0) -> Array:
    """For each player the interval of its weight, the others' fixed, on which the margin is at least `target`.

    The margin is concave in log w, so the band is an interval: bisection outwards from `weights`.

    Returns:
        (N, 2) ends; 0 or infinity where the band does not end within a factor of 1e12.
    """
    bands = np.empty((len(weights), 2))
    for i in range(len(weights)):
        for side, sign in enumerate((-1.0, 1.0)):

            def enough(z: float, i: int = i, sign: float = sign) -> bool:
                moved = weights.copy()
                moved[i] *= math.exp(sign * z)
                return margin(K, moved) >= target

            low, high = 0.0, math.log(1e12)
            if enough(high):
                bands[i, side] = 0.0 if side == 0 else math.inf
                continue
            for _ in range(60):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if enough(middle) else (low, middle)
            bands[i, side] = weights[i] * math.exp(sign * low)
    return bands


# ---- error bounds -------------------------------------------------------------------------------------------------


def error_bounds(T: Array, residual: Array, factor: float, vector: Array) -> Array:
    """E >= 0 with T_s E + e <= E for all cells: then |x - x*| <= E blockwise, and an equilibrium exists within.

    A step of length h moves the answer by e = |x - Proj(x - h F(x))| (blockwise) and contracts by T(h), so it maps the set
    {y: |y - x| <= E} into itself. Starts from a multiple of `vector` and tightens it row by row.

    Args:
        T: (cells, N, N) at the step; residual: e (N,); factor, vector: T_s v <= factor v.
    """
    E = vector * float((residual / vector).max()) / (1 - factor)
    own = np.einsum("cii->ci", T)
    beside = T - _diagonal(own)
    for _ in range(200):
        fresh = ((beside @ E + residual) / (1 - own)).max(axis=0) if (own < 1).all() else E
        fresh = np.minimum(E, fresh)
        if np.allclose(fresh, E, rtol=1e-3, atol=0):
            break
        E = fresh
    return E
