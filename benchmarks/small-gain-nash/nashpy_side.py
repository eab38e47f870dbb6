"""nashpy's side: all equilibria of two-player tables by vertex enumeration."""

import warnings

import nashpy
from tables import serve, solve_all

warnings.simplefilter("ignore")


def nash(name, payoffs):
    """Extreme equilibria in floats."""
    if len(payoffs) != 2:
        raise NotImplementedError("two players only")
    return list(nashpy.Game(payoffs[0], payoffs[1]).vertex_enumeration())


serve(lambda request: solve_all(request, nash))
