"""What the peers' workers share: payoff tables out of a request, a time limit a table, and the answer line. Standard library and numpy."""

import json
import resource
import signal
import sys
import time

import numpy as np


def games(request):
    """Name and payoffs (N, m_1, ..., m_N) of every table of the request."""
    return {name: np.array(table, dtype=np.float64) for name, table in request["tables"].items()}


def regret(payoffs, strategies):
    """The most that one player gains by leaving the strategies alone, relative to the largest payoff."""
    worst = 0.0
    for i in range(len(payoffs)):
        u = np.moveaxis(payoffs[i], i, 0)
        for j in range(len(payoffs) - 1, -1, -1):
            if j != i:
                u = np.tensordot(u, strategies[j], axes=([u.ndim - 1], [0]))
        worst = max(worst, float(u.max() - u @ strategies[i]))
    return worst / max(1.0, float(np.abs(payoffs).max()))


def solve_all(request, solve, limit=10.0):
    """Seconds of all `solve(name, payoffs) -> list of profiles` together, and what they gave: equilibria, worst regret, failures."""

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    seconds, value = 0.0, {}
    for name, payoffs in games(request).items():
        began = time.perf_counter()
        try:
            signal.setitimer(signal.ITIMER_REAL, limit)
            found = solve(name, payoffs)
            said = ""
        except Exception as error:  # a peer's own failure is a result
            found, said = [], type(error).__name__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds += time.perf_counter() - began
        worst = max((regret(payoffs, [np.asarray(p, dtype=float) for p in x]) for x in found), default=None)
        value[name] = {"found": len(found), "regret": worst, "failed": said}
    return {"seconds": seconds, "value": value}


def serve(handle):
    """One JSON request a line in, one answer a line out."""
    for line in sys.stdin:
        answer = handle(json.loads(line))
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
