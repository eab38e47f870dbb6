"""Our side: all payoff tables of a folder at once, certificate included."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.data.nfg import read_nfg
from surefoot.games.logit import logit_equilibria
from surefoot.games.problem import FiniteGame


def handle(request: dict) -> dict:
    """Seconds of `logit_equilibria` on the tables named, their strategies and largest error bounds."""
    games = [
        FiniteGame(read_nfg(Path(request["folder"]) / f"{name}.nfg").payoffs, 1 / precision)
        for name, precision in request["precisions"].items()
    ]
    began = time.perf_counter()
    found = logit_equilibria(games)
    seconds = time.perf_counter() - began
    value = {
        name: {"strategies": e.strategies.tolist(), "error": float(e.error.max()), "unique": e.unique}
        for name, e in zip(request["precisions"], found, strict=True)
    }
    return {"seconds": seconds, "value": value}


serve(handle)
