"""Worker of our side."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import serve
from surefoot.convex_networks.patterns import PatternSet
from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.training import ConvexTraining
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.records.numbers import as_number, to_float


def program(request: dict[str, Any]) -> dict[str, Any]:
    """From the table and the same hyperplanes (they are drawn from the same stream) to the network, bounds included."""
    stored = np.load(request["file"])
    problem = PatternProgram(
        torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"])[:, None], "squared", float(stored["beta"])
    )
    method = ConvexTraining(arrangements=len(stored["directions"]), tolerance=1e-4)
    if request["warmup"]:
        return {"seconds": 0.0}
    began = time.perf_counter()
    result = solve(problem, method, certify=False)
    seconds = time.perf_counter() - began
    certificate = solve(problem, method).certificate
    assert certificate is not None
    n = len(stored["y"])
    return {"seconds": seconds, "value": {
        "objective": to_float(as_number(certificate.claim("network").value)) / n, "gap": to_float(as_number(certificate.claim("program_gap").value)),
        "iterations": result.steps,
    }}  # fmt: skip


def iteration(request: dict[str, Any]) -> dict[str, Any]:
    stored = np.load(request["file"])
    problem = PatternProgram(
        torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"])[:, None], "squared", float(stored["beta"])
    )
    method = ConvexTraining(solver=request["solver"], tolerance=1e-12)
    state = method.init(problem, None, Streams(0))
    method._open(problem, state, PatternSet(problem.features, torch.from_numpy(stored["directions"])).directions)
    method._iterate(problem, state)
    count = 4 if request["solver"] == "interior" else 30
    began = time.perf_counter()
    for _ in range(count):
        method._iterate(problem, state)
    return {"seconds": (time.perf_counter() - began) / count, "value": {"solver": request["solver"]}}


def auto(request: dict[str, Any]) -> dict[str, Any]:
    """Local runs, pricing and certificate together."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem = PatternProgram(
        torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"])[:, None], "squared", float(stored["beta"])
    )
    method = ConvexTraining(
        arrangements=50,
        pricing_rounds=request["rounds"],
        local_runs=5,
        local_steps=1500,
        tolerance=1e-4,
        candidates=150,
    )
    began = time.perf_counter()
    result = solve(problem, method)
    seconds = time.perf_counter() - began
    certificate = result.certificate
    assert certificate is not None
    n = len(stored["y"])
    value = {
        name: to_float(as_number(certificate.claim(name).value)) for name in ("network", "local_runs", "global_gap")
    }
    return {"seconds": seconds, "value": {
        "objective": value["network"] / n, "local": value["local_runs"] / n, "global_gap": value["global_gap"],
        "neurons": result.answer.width,
    }}  # fmt: skip


KINDS = {"auto": auto, "program": program, "iteration": iteration}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(lambda request: KINDS[request["kind"]](request))
