"""quantecon's side: vertex enumeration for two players, McLennan and Tourky's algorithm for more (one equilibrium)."""

import numpy as np
import quantecon.game_theory as gt
from tables import serve, solve_all


def nash(name, payoffs):
    """Equilibria in floats."""
    n = len(payoffs)
    # every player's own action comes first, then the next players', cyclically
    players = [gt.Player(np.ascontiguousarray(payoffs[i].transpose([(i + k) % n for k in range(n)]))) for i in range(n)]
    game = gt.NormalFormGame(players)
    if n == 2:
        return gt.vertex_enumeration(game)
    found, details = gt.mclennan_tourky(game, epsilon=1e-6, full_output=True)
    if not details.converged:
        raise ArithmeticError("did not converge")
    return [found]


serve(lambda request: solve_all(request, nash))
