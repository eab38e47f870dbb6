"""Games from the literature, built in code: the paper's examples, a Cournot market, and car makers with logit demand.

References:
    F. Murphy, H. Sherali and A. Soyster, "A mathematical programming approach for determining oligopolistic market
    equilibrium", Mathematical Programming 24 (1982) 92-106 (the five firms).
    S. Berry, J. Levinsohn and A. Pakes, "Automobile prices in market equilibrium", Econometrica 63 (1995) 841-890 (the cars).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.games.expressions import Expression, Operand, log, log_sum_exp, total
from surefoot.games.problem import SmoothGame, game_from_costs, quadratic_game

Array = np.ndarray[Any, np.dtype[Any]]
COURNOT_COSTS = (10.0, 8.0, 6.0, 4.0, 2.0)
COURNOT_EXPONENTS = (1.2, 1.1, 1.0, 0.9, 0.8)
COURNOT_EQUILIBRIUM = (36.93251082, 41.81814166, 43.70657852, 42.65923974, 39.17895252)
"""The published quantities."""


def toy_game() -> SmoothGame:
    """f_1 = x1^2/2 + 10 x1 x2, f_2 = x2^2/2 + x1 x2 / 20: contracting, but not monotone in the Euclidean norm."""
    return quadratic_game(
        np.array([[1.0, 10.0], [0.05, 1.0]]), None, (1, 1), title="two players, strong and weak coupling"
    )


def orthogonal_game(coupling: float = 1.0, size: int = 32, seed: int = 12345) -> SmoothGame:
    """The paper's linear-quadratic game: own Hessians I, couplings 10 c R and 0.05 c R' with R orthogonal."""
    R = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    eye = np.eye(size)
    J = np.block([[eye, 10 * coupling * R], [0.05 * coupling * R.T, eye]])
    return quadratic_game(J, None, (size, size), title=f"linear-quadratic game, coupling {coupling:g}")


def cournot_game(radius: float = 3.0) -> SmoothGame:
    """Five firms choose quantities; price (5000 / Q)^(1/1.1), marginal cost c_i + (q_i / 5)^(1 / b_i).

    Args:
        radius: the region is the published equilibrium plus and minus it.
    """

    def cost(i: int) -> Any:
        def minus_profit(q: list[Expression]) -> Operand:
            power = 1 + 1 / COURNOT_EXPONENTS[i]
            production = COURNOT_COSTS[i] * q[i] + (5.0 ** (1 - power) / power) * q[i] ** power
            return production - q[i] * (5000.0 ** (1 / 1.1) * total(q) ** (-1 / 1.1))

        return minus_profit

    point = np.array(COURNOT_EQUILIBRIUM)
    return game_from_costs(
        (1,) * 5, [cost(i) for i in range(5)], region=(point - radius, point + radius), lower=0.0,
        names=tuple(f"firm {i + 1}" for i in range(5)), title="five-firm Cournot market", reference=point,
    )  # fmt: skip


def price_game(shares: Array, firms: Array, sensitivity: float, spread: float = 2.0) -> SmoothGame:
    """Multi-product price competition with logit demand, one strategy a maker: the margin on all its products.

    With utility delta_j - a p_j the best margins of a maker's products are equal, so its profit is m A e^(-a m) / D, with
    D = 1 + sum_g A_g e^(-a m_g). Costs are inferred from the observed shares, so that the observed prices are an equilibrium:
    m_f = 1 / (a (1 - S_f)). Players minimise -log profit, which has the same best responses and is convex.

    Args:
        shares: of the products among all households (n,); the rest buys nothing.
        firms: maker of each product (n,).
        sensitivity: a, per unit of price.
        spread: margins between the observed ones divided by this, and multiplied by it.
    """
    if not (sensitivity > 0 and spread > 1):
        raise ValueError("expected a price sensitivity > 0 and a spread > 1")
    if not ((shares > 0).all() and shares.sum() < 1):
        raise ValueError("shares must be positive and sum to less than 1")
    makers = np.unique(firms)
    held = np.array([shares[firms == f].sum() for f in makers])
    margins = 1 / (sensitivity * (1 - held))
    weights = np.log(held / (1 - shares.sum())) + sensitivity * margins

    def cost(i: int) -> Any:
        def minus_log_profit(m: list[Expression]) -> Operand:
            demand = log_sum_exp([0.0, *(float(w) - sensitivity * x for w, x in zip(weights, m, strict=True))])
            return sensitivity * m[i] - log(m[i]) + demand

        return minus_log_profit

    return game_from_costs(
        (1,) * len(makers), [cost(i) for i in range(len(makers))], region=(margins / spread, margins * spread), lower=1e-3,
        names=tuple(f"maker {f}" for f in makers), title=f"price competition of {len(makers)} car makers, {len(shares)} models",
        reference=margins,
    )  # fmt: skip
