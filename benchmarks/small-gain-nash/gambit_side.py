"""pygambit's side: `logit_solve_lambda` on the strategic form, one table after the other."""

import json
import resource
import sys
import time
from pathlib import Path

import pygambit


def handle(request):
    """Seconds of all calls together, and the strategies."""
    games = {name: pygambit.read_nfg(str(Path(request["folder"]) / f"{name}.nfg")) for name in request["precisions"]}
    seconds, value = 0.0, {}
    for name, game in games.items():
        began = time.perf_counter()
        found = pygambit.qre.logit_solve_lambda(game, request["precisions"][name], use_strategic=True)
        seconds += time.perf_counter() - began
        profile = found[0].profile
        value[name] = {"strategies": [float(p) for player in game.players for _, p in profile[player]]}
    return {"seconds": seconds, "value": value}


for line in sys.stdin:
    answer = handle(json.loads(line))
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write("@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
