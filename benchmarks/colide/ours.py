"""Worker of our side: fits, steps, and where a step's time goes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import serve
from surefoot.causal.batch import fit_batch
from surefoot.causal.inverse import BlockInverse
from surefoot.causal.kernel import InnerLoop, Position, Stage
from surefoot.causal.metrics import structural_hamming_distance
from surefoot.causal.order_test import test_order
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Table, table
from surefoot.causal.score import start_levels
from surefoot.core.solve import solve


def read(request: dict[str, Any]) -> tuple[Table, np.ndarray]:
    stored = np.load(request["file"])
    return table(stored["values"]), stored["truth"]


def fit(request: dict[str, Any]) -> dict[str, Any]:
    """One fit, as a user makes it, without the certificate (the peer makes none) unless that is asked for."""
    stored = np.load(request["file"])
    method = ConcomitantPath(**request["method"])
    if request["warmup"]:
        return {"seconds": 0.0}
    certify = bool(request.get("certify"))
    began = time.perf_counter()
    problem = table(stored["values"])
    result = solve(problem, method, certify=certify)
    seconds = time.perf_counter() - began
    dag = result.answer
    value: dict[str, Any] = {
        "shd": structural_hamming_distance(dag.adjacency, stored["truth"]),
        "edges": int(np.count_nonzero(dag.adjacency)),
        "steps": result.steps,
    }
    if result.certificate is not None:
        gap = result.certificate.claim("order_gap")
        value["relative_gap"] = (float(gap.value) - float(gap.bound)) / abs(float(gap.value))  # type: ignore[arg-type]
        value["acyclic"] = result.certificate.claim("acyclic").outcome
        tested = test_order(problem.covariance, dag.order, problem.rows, problem.values)
        value["bartlett_p"], value["brown_forsythe_p"] = tested.bartlett_p_value, tested.brown_forsythe_p_value
    return {"seconds": seconds, "value": value}


def start(problem: Table, variance: str) -> tuple[InnerLoop, Position]:
    levels, floor = start_levels(problem.covariance, variance)  # type: ignore[arg-type]
    zero = np.zeros_like(problem.covariance)
    loop = InnerLoop(problem.covariance, 0.05, floor)
    return loop, Position(zero.copy(), levels.copy(), zero.copy(), zero.copy(), zero.copy(), 3e-4, 1.0)


def steps(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds an iteration over the first `count` iterations from W = 0."""
    problem, _ = read(request)
    loop, position = start(problem, request["variance"])
    stage = Stage(1.0, 10**9, 10**9, 0.0)
    began = time.perf_counter()
    loop.advance(position, stage, request["count"])
    return {"seconds": (time.perf_counter() - began) / request["count"]}


def best(call: Callable[[], Any], count: int) -> float:
    fastest = np.inf
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            call()
        fastest = min(fastest, (time.perf_counter() - began) / count)
    return float(fastest)


def limit(request: dict[str, Any]) -> dict[str, Any]:
    """A step, its share in LAPACK and BLAS, and its distance from 4 d^3 flops at the speed of a large product."""
    problem, _ = read(request)
    order, count = problem.order, request["count"]
    loop, position = start(problem, request["variance"])
    stage = Stage(1.0, 10**9, 10**9, 0.0)
    loop.advance(position, stage, 50)
    step = best(lambda: loop.advance(position, stage, count), 1) / count
    out = np.empty((order, order))
    matrix = np.eye(order) - position.weights_in**2
    inverse = BlockInverse(order)
    product = best(lambda: np.matmul(matrix, problem.covariance, out=out), count)
    inverting = best(lambda: inverse(matrix.copy().T, out), count)
    large = np.random.default_rng(0).normal(size=(1000, 1000))
    peak = 2e9 / best(lambda: np.matmul(large, large), 1)
    value = {
        "step_us": 1e6 * step,
        "inverse_us": 1e6 * inverting,
        "product_us": 1e6 * product,
        "blas_share": (inverting + product) / step,
        "peak_gflops": peak / 1e9,
        "limit_us": 1e6 * 4 * order**3 / peak,
        "times_the_limit": step * peak / (4 * order**3),
    }
    return {"seconds": step, "value": value}


def batch(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds a graph, in a batch or one by one."""
    rng = np.random.default_rng(0)
    stored = np.load(request["file"])["values"]
    tables = [table(stored[rng.integers(0, len(stored), len(stored))]) for _ in range(request["count"])]
    method = ConcomitantPath(**request["method"])
    if request["warmup"]:
        return {"seconds": 0.0}
    began = time.perf_counter()
    if request["together"]:
        fit_batch(tables, method)
    else:
        for problem in tables:
            solve(problem, method, certify=False)
    return {"seconds": (time.perf_counter() - began) / request["count"]}


KINDS = {"fit": fit, "steps": steps, "limit": limit, "batch": batch}

if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    serve(lambda request: KINDS[request["kind"]](request))
