"""nashopt's side: the five-firm Cournot equilibrium by its KKT conditions."""

import time

import jax
import jax.numpy as jnp
import nashopt
import numpy as np
from tables import serve

jax.config.update("jax_enable_x64", True)
COSTS, EXPONENTS = (10.0, 8.0, 6.0, 4.0, 2.0), (1.2, 1.1, 1.0, 0.9, 0.8)


def _cost(i):
    power = 1 + 1 / EXPONENTS[i]

    def minus_profit(q):
        price = 5000.0 ** (1 / 1.1) * jnp.sum(q) ** (-1 / 1.1)
        return COSTS[i] * q[i] + 5.0 ** (1 - power) / power * q[i] ** power - q[i] * price

    return minus_profit


GAME = nashopt.GNEP([1] * 5, f=[_cost(i) for i in range(5)], lb=np.zeros(5), ub=np.full(5, 1e3))


def handle(request):
    """Seconds of `solve` from the centre of the region, and the quantities."""
    start = np.array(request["start"])
    began = time.perf_counter()
    found = GAME.solve(x0=start, verbose=0)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": {"x": np.asarray(found.x).tolist()}}


serve(handle)
