"""Worker of the peer PEPit, in an environment of its own; it imports nothing of Surefoot.

The exact n-step worst case over F_{m,L}, twice: of |xi_n|^2 with |xi_0|^2 <= 1, and with V_0 <= 1 for the Lyapunov
function V_0 = X' P X + p (f(y_0) - f*), X = (xi_0, u_0), that the request brings. xi = (x_k, x_{k-1}) - x*, or x_k - x*.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
import warnings
from typing import Any

from cvxpy.error import SolverError
from PEPit import PEP
from PEPit.functions import SmoothStronglyConvexFunction

warnings.filterwarnings("ignore")


def parameters(name: str, m: float, L: float) -> tuple[float, float, float]:
    """Step size, momentum, extrapolation, from the literature's formulas."""
    q = math.sqrt(m / L)
    if name == "gd":
        return 2 / (L + m), 0.0, 0.0
    if name == "nag":
        return 1 / L, (1 - q) / (1 + q), (1 - q) / (1 + q)
    if name == "hb":
        return 4 / (math.sqrt(L) + math.sqrt(m)) ** 2, ((1 - q) / (1 + q)) ** 2, 0.0
    r = 1 - q
    return (1 + r) / L, r**2 / (2 - r), r**2 / ((1 + r) * (2 - r))


def worst_case(request: dict[str, Any], start: str) -> float | None:
    """None where the solver gives up."""
    m, L, steps = 1 / request["kappa"], 1.0, request["steps"]
    alpha, beta, gamma = parameters(request["method"], m, L)
    problem = PEP()
    f = problem.declare_function(SmoothStronglyConvexFunction, mu=m, L=L)
    best = f.stationary_point()
    lowest = f(best)
    x = problem.set_initial_point()
    before = x if request["method"] == "gd" else problem.set_initial_point()
    first = True
    state = [x - best] if request["method"] == "gd" else [x - best, before - best]
    condition: Any = sum(part**2 for part in state)
    for _ in range(steps):
        slope, value = f.oracle(x + gamma * (x - before))
        if first and start == "lyapunov":
            X, P = [*state, slope], request["P"]
            form = sum(P[i][j] * (X[i] * X[j]) for i in range(len(X)) for j in range(len(X)))
            condition = form + request["p"][0] * (value - lowest)
        first = False
        x, before = x + beta * (x - before) - alpha * slope, x
    problem.set_initial_condition(condition <= 1)
    if request["method"] == "gd":
        problem.set_performance_metric((x - best) ** 2)
    else:
        problem.set_performance_metric((x - best) ** 2 + (before - best) ** 2)
    try:
        return float(problem.solve(wrapper="cvxpy", solver="CLARABEL", verbose=0))
    except SolverError:
        return None


def handle(request: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    plain = worst_case(request, "state")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": {"from_state": plain, "from_lyapunov": worst_case(request, "lyapunov")}}


for line in sys.stdin:
    answer = handle(json.loads(line))
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write("@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
