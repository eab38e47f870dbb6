"""The constants of the dynamics, and the rate that their Lyapunov function certifies.

Centre all variables at their optima, let M = L - nu, m = mu - nu, D_i the Bregman distance of f_i - nu/2 |.|^2, and

    Phi = |xt|^2 + b sum D_i + at |yt|^2 + bt |y|^2 + c |y + z|^2 + ct zt' Lambda^+ zt,
    b = 2 gammat / eta,  at = gammat / (theta nu),  c = gammat / (alpha nu),  ct = gammat / (nu betat).

Then E Phi(t) <= exp(-rho t) Phi(0) whenever alphat >= rho, etat >= rho, alpha > rho, eta >= rho, betat <= beta (1 - beta) /
(alpha chi2), and for some k > 0, with r = alpha chi1 / betat,

    (a) (1 + k) r alphat <= 2 alpha - rho
    (b) bt (alpha - rho) >= (1 + 1/k) ct alphat chi1
    (c) w = 2 etat / (A m) <= 1,  A = b (eta - rho) + b eta,  G = (1 - w) A / (2 M)
    (d) [[q - G, h], [h, b M gamma^2 / 2 + gammat^2 - 2 at delta + at delta^2 + q]] is negative semidefinite,
        q = bt alpha + rho at,  h = at delta - q - b gamma / 2.

The proof is written out in the documentation of the card. `delta` is the whole jump of yt at a gradient (the paper's
delta + delta tilde).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

PAPER_PRODUCT = 0.5
"""chi1 chi2 that the published constants are made for."""


@dataclass(frozen=True)
class Constants:
    """The published letters; `_twin` is the tilde.

    Args:
        nu: curvature moved from the losses into the coupling, in (0, mu).
        eta, eta_twin: pulls between x and its twin.
        alpha, alpha_twin: pulls between z and its twin; alpha also pulls y to its twin.
        theta: pull of yt to -(z + nu xt).
        beta, beta_twin: shares of a difference that an exchange moves in z and in its twin.
        gamma, gamma_twin, delta: jumps of x, its twin and yt at a gradient.
    """

    nu: float
    eta: float
    eta_twin: float
    alpha: float
    alpha_twin: float
    theta: float
    beta: float
    beta_twin: float
    gamma: float
    gamma_twin: float
    delta: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the constant {name} is {value}; expected a finite number > 0")


@dataclass(frozen=True)
class Rate:
    """A certified rate rho with the k of condition (b) and the weight bt of |y|^2."""

    rho: float
    k: float
    y_weight: float


def require_curvature(mu: float, smoothness: float) -> None:
    """Refuse curvatures that no strongly convex, smooth function has.

    Raises:
        ValueError: not finite, mu <= 0, or mu > L.
    """
    if not (math.isfinite(mu) and math.isfinite(smoothness)):
        raise ValueError(f"strong convexity {mu} and smoothness {smoothness} must be finite")
    if mu <= 0:
        raise ValueError(
            f"the strong convexity is {mu}; the method needs a strongly convex loss at every node: add a ridge term"
        )
    if mu > smoothness:
        raise ValueError(f"the strong convexity {mu} exceeds the smoothness {smoothness}; one of them is wrong")


def paper_constants(mu: float, smoothness: float, chi1: float) -> Constants:
    """The published constants, for nu = mu / 2 and rates with chi1 chi2 <= 1/2.

    Args:
        chi1: of the matrix of *rates*, not of edge probabilities.

    Raises:
        ValueError: see `require_curvature`.
    """
    require_curvature(mu, smoothness)
    nu = mu / 2
    s = math.sqrt(nu / smoothness)
    return Constants(
        nu=nu, eta=s / 8, eta_twin=s / 8, alpha=s / 4, alpha_twin=s / 8, theta=1 / (2 * s), beta=0.5,
        beta_twin=2 * chi1 / s if chi1 else 1.0, gamma=1 / (4 * smoothness), gamma_twin=1 / (4 * math.sqrt(smoothness * nu)),
        delta=1 + s / 4,
    )  # fmt: skip


def certified_constants(mu: float, smoothness: float, chi1: float, chi2: float, noise: float = 0.0) -> Constants:
    """Constants with (nearly) the largest certified rate for rates with this chi1 and chi2, found by search.

    beta = 1/2, beta_twin = 1 / (4 alpha chi2), alpha_twin = eta_twin = rho; the other seven and rho by Nelder and Mead on a
    problem without units (L = 1). What the search finds is only a proposal: `certified_rate` and the checkers decide.

    Args:
        noise: growth of the variance of gradients, in the units of L (see `minibatch`).

    Raises:
        ValueError: see `require_curvature`.
    """
    require_curvature(mu, smoothness)
    # One node has nothing to exchange; any small product leaves the gradient part alone.
    product = max(chi1 * chi2, 1e-6)
    kappa = max(smoothness / mu, 1 + 1e-9)
    unit_product = float(f"{math.log(product * (1 + 1e-6)):.6g}")
    point, rho = _search(float(f"{math.log(kappa):.6g}"), unit_product)
    if noise:
        point, rho = _search_noise(
            point, 1 / kappa, math.exp(unit_product), float(f"{noise / smoothness * (1 + 1e-6):.6g}")
        )
    unit, _ = _letters(point, 1 / kappa)
    nu, alpha, eta, theta, gamma, gamma_twin, delta = unit
    rho *= 1 - 1e-6
    return Constants(
        nu=nu * smoothness, eta=eta, eta_twin=rho, alpha=alpha, alpha_twin=rho, theta=theta, beta=0.5,
        beta_twin=1 / (4 * alpha * chi2) * (1 - 1e-9) if chi2 else 1.0, gamma=gamma / smoothness,
        gamma_twin=gamma_twin / smoothness, delta=delta,
    )  # fmt: skip


PRODUCTS = tuple(0.5 * 2.0 ** (k / 2) for k in range(-8, 17))
"""What `thrifty_product` chooses from: 1/32 to 128."""


def thrifty_product(mu: float, smoothness: float, nodes: int, total: float, cost: float) -> float:
    """The chi1 chi2 with the least certified cost, where an exchange costs as much as `cost` gradients.

    A unit of time costs n + cost total (2 X)^(-1/2), and log(1 / accuracy) / rho(X) units are certified to be enough.

    Args:
        total: exchanges a unit of time at product 1/2.

    Raises:
        ValueError: see `require_curvature`.
    """
    require_curvature(mu, smoothness)
    log_kappa = float(f"{math.log(max(smoothness / mu, 1 + 1e-9)):.6g}")

    def price(product: float) -> float:
        rho = _search(log_kappa, float(f"{math.log(product * (1 + 1e-6)):.6g}"))[1]
        return (nodes + cost * total / math.sqrt(2 * product)) / rho

    # the price falls, then rises: walk down from 1/2
    here = PRODUCTS.index(0.5)
    for step in (1, -1):
        while 0 <= here + step < len(PRODUCTS) and price(PRODUCTS[here + step]) < price(PRODUCTS[here]):
            here += step
    return PRODUCTS[here]


def noise_weight(c: Constants, smoothness: float) -> float:
    """C = b M gamma^2 / 2 + gammat^2 + at delta^2: what the variance of a gradient adds to Phi a unit of time (see `minibatch`)."""
    b, at = 2 * c.gamma_twin / c.eta, c.gamma_twin / (c.theta * c.nu)
    return b * (smoothness - c.nu) * c.gamma**2 / 2 + c.gamma_twin**2 + at * c.delta**2


def certified_rate(
    constants: Constants, mu: float, smoothness: float, chi1: float, chi2: float, noise: float = 0.0
) -> Rate | None:
    """The largest rho for which (a)-(d) hold, by bisection; None where they hold for none. `noise` is the growth of `minibatch`."""
    ceiling = min(constants.alpha, constants.eta, constants.alpha_twin, constants.eta_twin)
    found = None
    low, high = 0.0, ceiling
    for place in range(60):
        middle = ceiling * (1 - 1e-12) if place == 0 else 0.5 * (low + high)
        rate = conditions(constants, middle, mu, smoothness, chi1, chi2, noise)
        if rate is not None:
            found, low = rate, middle
        else:
            high = middle
        if high - low <= 1e-14 * ceiling:
            break
    return found


def conditions(
    c: Constants, rho: float, mu: float, smoothness: float, chi1: float, chi2: float, noise: float = 0.0
) -> Rate | None:
    """The rate rho with its k and bt, if the conditions (a)-(d) hold; None otherwise."""
    m, M = mu - c.nu, smoothness - c.nu
    if m <= 0 or M <= 0 or c.alpha <= rho or c.eta < rho or c.alpha_twin < rho or c.eta_twin < rho:
        return None
    if chi2 and c.beta_twin * c.alpha * chi2 > c.beta * (1 - c.beta):
        return None
    if chi1:
        room = (2 * c.alpha - rho) * c.beta_twin / (c.alpha * chi1 * c.alpha_twin)  # (a): 1 + k <= room
        if room <= 1:
            return None
        k = room - 1
        y_weight = (1 + 1 / k) * c.gamma_twin / (c.nu * c.beta_twin) * c.alpha_twin * chi1 / (c.alpha - rho)  # (b)
    else:
        k, y_weight = math.inf, 0.0
    b = 2 * c.gamma_twin / c.eta
    spent = noise_weight(c, smoothness) * noise
    A = b * (2 * c.eta - rho) - spent
    if b * (c.eta - rho) < spent:
        return None
    share = 2 * c.eta_twin / (A * m)  # (c)
    if share > 1:
        return None
    at = c.gamma_twin / (c.theta * c.nu)
    q = y_weight * c.alpha + rho * at
    first = q - (1 - share) * A / (2 * M)
    last = b * M * c.gamma**2 / 2 + c.gamma_twin**2 - 2 * at * c.delta + at * c.delta**2 + q
    cross = at * c.delta - q - b * c.gamma / 2
    if first > 0 or last > 0 or first * last < cross * cross:  # (d)
        return None
    return Rate(rho, k, y_weight)


# ---- the search -------------------------------------------------------------------------------------------------

START = (0.3, math.log(0.42), math.log(0.68), math.log(1.28), math.log(0.42), math.log(0.69), math.log(0.465))
"""logit of nu / mu, then logarithms of alpha, eta, theta, gamma, gamma_twin (in their natural units) and delta."""


def _letters(point: tuple[float, ...], mu: float) -> tuple[tuple[float, ...], float]:
    root = math.sqrt(mu)
    alpha, eta, theta, gamma, gamma_twin, delta = (math.exp(min(max(v, -30.0), 30.0)) for v in point[1:])
    nu = mu / (1 + math.exp(-min(max(point[0], -30.0), 30.0)))
    return (nu, alpha * root, eta * root, theta / root, gamma, gamma_twin / root, delta), root


def _best_rho(point: tuple[float, ...], mu: float, product: float, noise: float = 0.0) -> float:
    """The largest rho / sqrt(mu) at L = 1 with alpha_twin = eta_twin = rho and chi1 = product, chi2 = 1."""
    return _best(point, mu, product, noise)[0]


def _best(point: tuple[float, ...], mu: float, product: float, noise: float = 0.0) -> tuple[float, float]:
    """The same with the k of condition (b), for gradients with noise (see `minibatch`)."""
    (nu, alpha, eta, theta, gamma, gamma_twin, delta), root = _letters(point, mu)
    m, M = mu - nu, 1 - nu
    b, at = 2 * gamma_twin / eta, gamma_twin / (theta * nu)
    fixed = b * M * gamma * gamma / 2 + gamma_twin * gamma_twin - 2 * at * delta + at * delta * delta
    spent = (b * M * gamma * gamma / 2 + gamma_twin * gamma_twin + at * delta * delta) * noise
    low, high, kept = 0.0, min(alpha, eta), math.inf
    for _ in range(45):
        rho = 0.5 * (low + high)
        k = (2 * alpha - rho) / (4 * alpha * alpha * rho * product) - 1
        A = b * (2 * eta - rho) - spent
        share = 2 * rho / (A * m) if A > 0 else math.inf
        if k > 0 and share <= 1 and b * (eta - rho) >= spent:
            q = (1 + 1 / k) * 4 * gamma_twin * alpha * alpha * rho * product / (nu * (alpha - rho)) + rho * at
            first, last, cross = q - (1 - share) * A / (2 * M), fixed + q, at * delta - q - b * gamma / 2
            if first <= 0 and last <= 0 and first * last >= cross * cross:
                low, kept = rho, k
                continue
        high = rho
    return low / root, kept


@lru_cache(maxsize=64)
def search_switching(
    kappa: float, products: tuple[float, ...], keeps: tuple[float, ...], cycle: float
) -> tuple[tuple[float, ...], float]:
    """Seven constants at L = 1 and rho with (nearly) the largest rho - (sum of log-prices) / cycle, for graphs that change.

    Args:
        products: chi1 chi2 of every window.
        keeps: price of keeping zt into every window.
        cycle: length of all windows together, units of time.
    """
    from scipy.optimize import minimize

    mu, worst = 1 / max(kappa, 1 + 1e-9), max(products) * (1 + 1e-6)

    def gain(point: np.ndarray) -> float:
        """The decay over a cycle, in units of sqrt(mu)."""
        (nu, alpha, _, _, _, gamma_twin, _), root = _letters(tuple(point), mu)
        rho, k = _best(tuple(point), mu, worst)
        rho *= root
        if rho <= 0:
            return -math.inf
        y_weight = (1 + 1 / k) * 4 * gamma_twin * alpha * rho * worst / (nu * (alpha - rho))
        spent = 0.0
        for product, keep in zip(products, keeps, strict=True):
            restart = 1 + 4 * gamma_twin * alpha * product / nu * (alpha * nu / gamma_twin + 1 / y_weight)
            spent += math.log(max(1.0, min(keep, restart)))
        return (rho - spent / cycle) / root

    start = np.array(_search(float(f"{math.log(1 / mu):.6g}"), float(f"{math.log(worst):.6g}"))[0])
    best, top = start, gain(start)
    for lower in (0.0, 1.0, 2.0):  # shorter windows want a weaker pull between z and its twin
        point = start.copy()
        point[1] -= lower
        for tries in range(6):
            simplex = np.vstack([point, point + 0.25 * 0.7**tries * (-1) ** tries * np.eye(7)])
            options = {"maxfev": 600, "xatol": 1e-7, "fatol": 1e-10, "initial_simplex": simplex}
            point = minimize(lambda v: -gain(v), point, method="Nelder-Mead", options=options).x
        if gain(point) > top:
            best, top = point, gain(point)
    letters, root = _letters(tuple(best), mu)
    return letters, _best_rho(tuple(best), mu, worst) * root * (1 - 1e-6)


@lru_cache(maxsize=256)
def _search(log_kappa: float, log_product: float) -> tuple[tuple[float, ...], float]:
    """A point and its rho at L = 1. Large condition numbers and extreme products are reached by continuation."""
    path = max(1, math.ceil(max(abs(log_kappa - 4.6) / 5, abs(log_product - math.log(0.5)) / 3)))
    point = np.array(START)
    rho = 0.0
    for stage in range(path + 1):
        part = stage / path
        mu = math.exp(-(4.6 + part * (log_kappa - 4.6)))
        product = math.exp(math.log(0.5) + part * (log_product - math.log(0.5)))
        if stage:  # alpha falls about as product^-0.4
            point[1] -= 0.4 * (log_product - math.log(0.5)) / path
        point, rho = _climb(point, mu, product)
    return tuple(map(float, point)), rho


@lru_cache(maxsize=64)
def _search_noise(point: tuple[float, ...], mu: float, product: float, noise: float) -> tuple[tuple[float, ...], float]:
    """Constants for gradients with noise, from the best point without.

    The largest rate alone would leave a floor out of all proportion (the floor falls with the rate, as for any constant step): the search
    raises rate^1.5 / floor. It starts at the steps of a smoothness that is larger by the best power of two.
    """

    def gain(point: np.ndarray) -> float:
        (nu, _, eta, theta, gamma, gamma_twin, delta), root = _letters(tuple(point), mu)
        rho = _best_rho(tuple(point), mu, product, noise) * root
        if rho <= 0:
            return -math.inf
        b, at = 2 * gamma_twin / eta, gamma_twin / (theta * nu)
        weight = b * (1 - nu) * gamma * gamma / 2 + gamma_twin * gamma_twin + at * delta * delta
        floor = 2 / (b * (mu - nu)) * weight / rho
        return 1.5 * math.log(rho) - math.log(floor)

    def calmer(logs: float) -> np.ndarray:
        return np.array(point) + logs * np.array([0.0, -0.5, -0.5, 0.5, -1.0, -0.5, 0.0])

    best = max((calmer(k * math.log(2)) for k in range(60)), key=gain)
    if gain(best) == -math.inf:
        raise RuntimeError("no constants are certified for this noise; take larger batches")
    found = _climbed(best, gain, 1e-5)
    return tuple(map(float, found)), _best_rho(tuple(found), mu, product, noise) * math.sqrt(mu)


def _climb(point: np.ndarray, mu: float, product: float) -> tuple[np.ndarray, float]:
    point = _climbed(point, lambda v: _best_rho(tuple(v), mu, product), 1e-7)
    return point, _best_rho(tuple(point), mu, product) * math.sqrt(mu)


def _climbed(point: np.ndarray, gain: Callable[[np.ndarray], float], pull: float) -> np.ndarray:
    """The point moved to a larger gain by Nelder and Mead, restarted from simplices of changing size."""
    from scipy.optimize import minimize

    origin = point.copy()

    def cost(v: np.ndarray) -> float:
        # the maximum is a flat ridge: the second term keeps the constants near their natural size
        return -gain(v) + pull * float((v - origin) @ (v - origin))

    for tries in range(8):
        width = 0.25 * 0.6**tries * (-1) ** tries
        simplex = np.vstack([point, point + width * np.eye(7)])
        options = {"maxfev": 600, "xatol": 1e-7, "fatol": 1e-10, "initial_simplex": simplex}
        point = minimize(cost, point, method="Nelder-Mead", options=options).x
    return point
