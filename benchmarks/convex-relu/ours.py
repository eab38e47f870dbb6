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
from surefoot.convex_networks.kernel import Kernel
from surefoot.convex_networks.local import random_start, train_locally
from surefoot.convex_networks.patterns import PatternSet, pattern_of
from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.sampled import train_sampled
from surefoot.convex_networks.training import ConvexTraining
from surefoot.core.certificate import Certificate
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.records.numbers import as_number, to_float


def problem_of(stored: Any, loss: str = "squared", radii: torch.Tensor | None = None) -> PatternProgram:
    return PatternProgram(
        torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"])[:, None], loss, float(stored["beta"]), radii
    )


def value_of(certificate: Certificate | None, name: str) -> float:
    assert certificate is not None
    return to_float(as_number(certificate.claim(name).value))


def program(request: dict[str, Any]) -> dict[str, Any]:
    """From the table and the same hyperplanes (they are drawn from the same stream) to the network, bounds included."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem = problem_of(stored)
    method = ConvexTraining(arrangements=len(stored["directions"]), tolerance=1e-4)
    began = time.perf_counter()
    result = solve(problem, method, certify=False)
    seconds = time.perf_counter() - began
    certificate = solve(problem, method).certificate
    return {"seconds": seconds, "value": {
        "objective": value_of(certificate, "network") / len(stored["y"]), "gap": value_of(certificate, "program_gap"), "iterations": result.steps,
    }}  # fmt: skip


def auto(request: dict[str, Any]) -> dict[str, Any]:
    """Local runs, pricing and certificate together."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem = problem_of(stored)
    method = ConvexTraining(
        arrangements=50,
        pricing_rounds=request["rounds"],
        local_runs=5,
        local_steps=1500,
        tolerance=1e-4,
        candidates=150,
    )
    began, before = time.perf_counter(), time.process_time()
    result = solve(problem, method)
    seconds, spent = time.perf_counter() - began, time.process_time() - before
    n = len(stored["y"])
    return {"seconds": seconds, "value": {
        "cpu_s": spent, "objective": value_of(result.certificate, "network") / n, "local": value_of(result.certificate, "local_runs") / n,
        "global_gap": value_of(result.certificate, "global_gap"), "neurons": result.answer.width,
    }}  # fmt: skip


def sine(request: dict[str, Any]) -> dict[str, Any]:
    """All patterns (neurons 0), a lasso over so many drawn neurons, or (-1) the best of eight local runs."""
    if request["warmup"]:
        return {"seconds": 0.0}
    problem, count = problem_of(np.load(request["file"])), request["neurons"]
    began = time.perf_counter()
    if count > 0:
        found = train_sampled(problem, count, tolerance=1e-6)
        return {
            "seconds": time.perf_counter() - began,
            "value": {"objective": found.upper, "lower": found.lower, "neurons": found.network.width},
        }
    if count < 0:
        starts = [random_start(problem, 30, np.random.default_rng(seed)) for seed in range(8)]
        ends = [train_locally(problem, *start)[2] for start in starts]
        return {
            "seconds": time.perf_counter() - began,
            "value": {"objective": min(ends), "worst": max(ends), "neurons": 30},
        }
    method = ConvexTraining(arrangements=24, pricing_rounds=6, tolerance=1e-7, global_tolerance=1e-6)
    result = solve(problem, method)
    objective = value_of(result.certificate, "network")
    lower = objective * (1 - value_of(result.certificate, "global_gap"))
    return {
        "seconds": time.perf_counter() - began,
        "value": {"objective": objective, "lower": lower, "neurons": result.answer.width},
    }


def worst(request: dict[str, Any]) -> dict[str, Any]:
    """A robust network, and the largest loss of each row over a grid of its box."""
    if request["warmup"]:
        return {"seconds": 0.0}
    radius = 0.05
    problem = problem_of(
        np.load(request["file"]), request["loss"], torch.tensor([radius, radius, 0.0], dtype=torch.float64)
    )
    began = time.perf_counter()
    result = solve(problem, ConvexTraining(arrangements=60, tolerance=1e-6))
    seconds = time.perf_counter() - began
    hidden, output = (torch.from_numpy(part) for part in (result.answer.hidden, result.answer.output))
    decay = 0.5 * problem.weight * float(hidden.square().sum() + output.square().sum())
    largest = torch.zeros_like(problem.targets)
    steps = torch.linspace(-radius, radius, 81, dtype=torch.float64)
    for a in steps:
        for b in steps:
            scores = ((problem.features + torch.stack([a, b, 0 * a])) @ hidden.T).clamp(min=0) @ output
            largest = torch.maximum(largest, problem.loss.value(scores, problem.targets))
    certified = value_of(result.certificate, "network")
    return {"seconds": seconds, "value": {
        "objective": certified, "program": certified - decay, "grid": float(largest.sum()), "gap": value_of(result.certificate, "program_gap"),
        "neurons": result.answer.width,
    }}  # fmt: skip


def growth(request: dict[str, Any]) -> dict[str, Any]:
    """Fastest of a few: set-up and iteration of ADMM, iteration of the interior point, the whole program."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem, directions = problem_of(stored), torch.from_numpy(stored["directions"])
    signs = torch.where(pattern_of(problem.features, directions), 1.0, -1.0).to(problem.features)
    targets = problem.targets.T.contiguous()

    def make() -> Kernel:
        return Kernel(
            problem.features,
            signs,
            targets,
            problem.loss,
            problem.weight,
            0.1,
            1.0,
            max(1, (64 << 20) // (16 * len(stored["y"]))),
        )

    setup = fastest(make, 2 if request["n"] > 2000 else 4)
    kernel = make()
    at = kernel.start(10.0)
    admm = fastest(lambda: kernel.step(at), 12)
    method = ConvexTraining(solver="interior", tolerance=1e-12)
    state = method.init(problem, None, Streams(0))
    method._open(problem, state, PatternSet(problem.features, directions).directions)
    interior = fastest(lambda: method._iterate(problem, state), 4)
    began = time.process_time()
    solve(problem, ConvexTraining(arrangements=len(directions), solver="interior", tolerance=1e-4), certify=False)
    whole = time.process_time() - began
    sizes = {name: request[name] for name in ("axis", "n", "d", "P")}
    return {
        "seconds": whole,
        "value": {**sizes, "setup_s": setup, "admm_s": admm, "interior_s": interior, "solve_s": whole},
    }


def kinked(request: dict[str, Any]) -> dict[str, Any]:
    """Hinge loss by one solver."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem = problem_of(stored, "hinge")
    method = ConvexTraining(
        arrangements=len(stored["directions"]),
        solver=request["solver"],
        iterations=request["iterations"],
        tolerance=1e-4,
    )
    before = time.process_time()
    result = solve(problem, method)
    spent = time.process_time() - before
    return {"seconds": spent, "value": {
        "cpu_s": spent, "iterations": result.steps, "objective": value_of(result.certificate, "network") / len(stored["y"]),
        "gap": value_of(result.certificate, "program_gap"),
    }}  # fmt: skip


def fastest(action: Any, count: int) -> float:
    """Least processor seconds of a few calls, on one thread."""
    found = []
    for _ in range(count):
        began = time.process_time()
        action()
        found.append(time.process_time() - began)
    return min(found)


KINDS = {"auto": auto, "program": program, "growth": growth, "kinked": kinked, "sine": sine, "worst": worst}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(lambda request: KINDS[request["kind"]](request))
