"""Worker of the peer CVXPY with Clarabel, in an environment of its own; it imports nothing of Surefoot."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import cvxpy as cp
import numpy as np


def program(request: dict[str, Any]) -> dict[str, Any]:
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    X, y, D, beta = stored["X"], stored["y"], stored["patterns"], float(stored["beta"])
    began = time.perf_counter()
    v, w = cp.Variable((X.shape[1], D.shape[1])), cp.Variable((X.shape[1], D.shape[1]))
    scores = cp.sum(cp.multiply(D, X @ (v - w)), axis=1)
    walls = [cp.multiply(2 * D - 1, X @ v) >= 0, cp.multiply(2 * D - 1, X @ w) >= 0]
    sizes = cp.sum(cp.norm(v, 2, axis=0)) + cp.sum(cp.norm(w, 2, axis=0))
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(scores - y) + beta * sizes), walls)
    problem.solve(solver="CLARABEL")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": {"objective": float(problem.value) / len(y)}}


if __name__ == "__main__":
    for line in sys.stdin:
        answer = program(json.loads(line))
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
