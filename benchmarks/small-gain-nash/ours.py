"""Our side: logit equilibria, Nash verdicts, and the Cournot equilibrium, certificates included."""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.solve import solve
from surefoot.games.logit import logit_equilibrium
from surefoot.games.models import cournot_game
from surefoot.games.nash import decide_nash
from surefoot.games.play import ProjectedPlay
from surefoot.games.problem import FiniteGame


def logit(request: dict) -> dict:
    """Seconds of `logit_equilibrium` on each table in turn, their strategies and largest error bounds."""
    seconds, value = 0.0, {}
    for name, table in request["tables"].items():
        game = FiniteGame(np.array(table), 1 / request["precisions"][name])
        began = time.perf_counter()
        found = logit_equilibrium(game)
        seconds += time.perf_counter() - began
        value[name] = {
            "strategies": found.strategies.tolist(),
            "error": float(found.error.max()),
            "unique": found.unique,
        }
    return {"seconds": seconds, "value": value}


def nash(request: dict) -> dict:
    """Seconds of `decide_nash` on each table in turn, and the verdicts."""
    seconds, value = 0.0, {}
    for name, table in request["tables"].items():
        game = FiniteGame(np.array(table))
        began = time.perf_counter()
        finding = decide_nash(game)
        seconds += time.perf_counter() - began
        value[name] = {
            "found": len(finding.equilibria) + len(finding.enclosed),
            "outcome": finding.outcome,
            "regret": 0.0,
        }
    return {"seconds": seconds, "value": value}


def cournot(request: dict) -> dict:
    """Seconds of bounding the region, proving the step, playing, and the whole certificate."""
    game = cournot_game(request["radius"])
    began = time.perf_counter()
    result = solve(game, ProjectedPlay(), start=np.array(request["start"]))
    seconds = time.perf_counter() - began
    assert result.certificate is not None
    return {
        "seconds": seconds,
        "value": {"x": result.answer.tolist(), "error": result.certificate.claim("error").value},
    }


serve(lambda request: {"logit": logit, "nash": nash, "cournot": cournot}[request["what"]](request))
