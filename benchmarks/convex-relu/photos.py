"""Worker of the photos: networks trained by convex programs and by Adam on clean or attacked pictures, tried by attacks."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import serve
from surefoot.convex_networks.certify import rows_right
from surefoot.convex_networks.local import objective_and_gradient, random_start
from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.robust import attack, certified_right
from surefoot.convex_networks.training import ConvexTraining
from surefoot.core.solve import solve

RADIUS, BETA, WIDTH, STEPS = 10 / 255, 0.5, 50, 600


def train(way: str, problem: PatternProgram, robust: PatternProgram, quick: bool) -> tuple[Tensor, Tensor]:
    """(hidden, output) of the network that this way of training gives."""
    if way.startswith("convex"):
        # of two hundred hyperplanes drawn none has room for these boxes: the one pattern with all rows in it is left
        count = 1 if "robust" in way else 4 if quick else 36
        method = ConvexTraining(arrangements=count, tolerance=1e-4, iterations=80)
        answer = solve(robust if "robust" in way else problem, method, certify=False).answer
        return torch.from_numpy(answer.hidden), torch.from_numpy(answer.output)
    point = list(random_start(problem, WIDTH, np.random.default_rng(0)))
    first, second = ([torch.zeros_like(w) for w in point] for _ in range(2))
    steps, starts = {"Adam, clean": (0, 0), "Adam, FGSM": (1, 1), "Adam, PGD": (7, 1)}[way]
    rng = np.random.default_rng(1)
    count = 20 if quick else STEPS
    for k in range(1, count + 1):
        X = problem.features
        if starts:
            X = X + attack(robust, X, problem.targets, point[0], point[1], rng, steps=steps, starts=starts)
        _, *gradient = objective_and_gradient(replace(problem, features=X), point[0], point[1])
        length = 0.004 * 0.5 * (1 + np.cos(np.pi * (k - 1) / count))
        for w, g, a, b in zip(point, gradient, first, second, strict=True):
            a.mul_(0.9).add_(g, alpha=0.1)
            b.mul_(0.999).addcmul_(g, g, value=0.001)
            w.addcdiv_(a / (1 - 0.9**k), (b / (1 - 0.999**k)).sqrt().add_(1e-8), value=-length)
    return point[0], point[1]


def photos(request: dict[str, Any]) -> dict[str, Any]:
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    problem = PatternProgram(torch.from_numpy(stored["X"]), torch.from_numpy(stored["y"])[:, None], "logistic", BETA)
    radii = torch.full((problem.features.shape[1],), RADIUS, dtype=torch.float64)
    radii[-1] = 0.0
    robust = replace(problem, radii=radii)
    began = time.process_time()
    hidden, output = train(request["way"], problem, robust, request["quick"])
    spent = time.process_time() - began
    X, y = torch.from_numpy(stored["X_test"]), torch.from_numpy(stored["y_test"])[:, None]
    rng = np.random.default_rng(2)
    moved = {
        "clean": torch.zeros_like(X), "fgsm": attack(robust, X, y, hidden, output, rng, steps=1, starts=1),
        "pgd": attack(robust, X, y, hidden, output, rng),
    }  # fmt: skip
    right = {}
    for name, delta in moved.items():
        scores = ((X + delta) @ hidden.T).clamp(min=0) @ output
        right[name] = float(np.mean(rows_right(scores.numpy(), y.numpy())))
    proved = float(certified_right(robust, X, y, hidden, output).double().mean())
    return {"seconds": spent, "value": {**right, "proved": proved, "neurons": len(hidden)}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(photos)
