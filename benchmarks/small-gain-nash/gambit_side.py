"""pygambit's side: `logit_solve_lambda` on the strategic form, and Nash equilibria, one table after the other."""

import io
import time
from fractions import Fraction

import pygambit
from tables import games, serve, solve_all


def game_of(payoffs, divisor=1):
    """The table as a pygambit game, payoffs divided exactly."""
    names = " ".join(f'"{i}"' for i in range(len(payoffs)))
    sizes = " ".join(map(str, payoffs.shape[1:]))
    # the first player's action varies fastest
    flat = payoffs.transpose(0, *range(payoffs.ndim - 1, 0, -1)).reshape(len(payoffs), -1).T
    body = " ".join(str(Fraction(float(v)) / divisor) for row in flat for v in row)
    return pygambit.read_nfg(io.BytesIO(f'NFG 1 R "t" {{ {names} }} {{ {sizes} }}\n\n{body}\n'.encode()))


def logit(request):
    """Seconds of all calls together, and the strategies."""
    seconds, value = 0.0, {}
    tables = {name: (game_of(p, request["divisors"].get(name, 1)), p) for name, p in games(request).items()}
    options = {"first_step": request["first_step"]} if "first_step" in request else {}
    for name, (game, _) in tables.items():
        precision = request["precisions"][name] * request["divisors"].get(name, 1)
        began = time.perf_counter()
        found = pygambit.qre.logit_solve_lambda(game, precision, use_strategic=True, **options)
        seconds += time.perf_counter() - began
        profile = found[-1].profile
        value[name] = {"strategies": [float(p) for player in game.players for _, p in profile[player]]}
    return {"seconds": seconds, "value": value}


def nash(name, payoffs):
    """All extreme equilibria of two players (exact), or all isolated ones of more (polynomial systems)."""
    game = game_of(payoffs)
    if len(payoffs) == 2:
        found = pygambit.nash.enummixed_solve(game, rational=True).equilibria
    else:
        found = pygambit.nash.enumpoly_solve(game, use_strategic=True).equilibria
    return [[[float(p) for _, p in profile[player]] for player in game.players] for profile in found]


serve(lambda request: logit(request) if request["what"] == "logit" else solve_all(request, nash))
