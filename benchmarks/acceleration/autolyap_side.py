"""Worker of the peer AutoLyap, in an environment of its own; it imports nothing of Surefoot.

Its rho is the factor of the Lyapunov value, so the square root is the rate of the distance.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
import warnings
from typing import Any

from autolyap import IterationIndependent, SolverOptions, algorithms, problemclass

warnings.filterwarnings("ignore")
LINEAR = IterationIndependent.LinearConvergence


def method(name: str, m: float, L: float) -> Any:
    if name == "gd":
        return algorithms.GradientMethod(2 / (L + m))
    if name == "hb":
        root = math.sqrt(m / L)
        return algorithms.HeavyBallMethod(4 / (math.sqrt(L) + math.sqrt(m)) ** 2, ((1 - root) / (1 + root)) ** 2)
    return {"nag": algorithms.NesterovConstant, "tmm": algorithms.TripleMomentum}[name](m, L)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    m, L = 1 / request["kappa"], 1.0
    began = time.perf_counter()
    algorithm = method(request["method"], m, L)
    problem = problemclass.InclusionProblem([problemclass.SmoothStronglyConvex(m, L)])
    P, p, T, t = LINEAR.get_parameters_distance_to_solution(algorithm)
    found = LINEAR.bisection_search_rho(
        problem, algorithm, P, T, p, t, S_equals_T=True, s_equals_t=True, remove_C3=True, tol=1e-6,
        solver_options=SolverOptions(backend="cvxpy", cvxpy_solver="CLARABEL"), verbosity=0,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    factor = found.get("rho")
    return {"seconds": seconds, "value": {"rate": None if factor is None else math.sqrt(factor), "proved": False}}


for line in sys.stdin:
    answer = handle(json.loads(line))
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write("@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
