"""Worker of the peer opacus, in an environment of its own; it imports nothing of Surefoot."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer
from torch.nn import functional


def calibrate(request: dict[str, Any]) -> dict[str, Any]:
    """Its least noise multiplier for full batches, one record replaced (twice the sensitivity of its own relation)."""
    began = time.perf_counter()
    found = get_noise_multiplier(
        target_epsilon=request["epsilon"], target_delta=request["delta"], sample_rate=1.0, steps=request["steps"],
        accountant=request["accountant"], epsilon_tolerance=1e-4,
    )  # fmt: skip
    return {"seconds": time.perf_counter() - began, "value": {"multiplier": 2.0 * found}}


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Full-batch DP gradient descent on logistic loss with a public penalty, by its optimiser."""
    stored = np.load(request["file"])
    X, t = torch.from_numpy(stored["features"]), torch.from_numpy((stored["targets"] + 1) / 2)
    n, d = X.shape
    model = torch.nn.Linear(d, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    wrapped = GradSampleModule(model, loss_reduction="mean")
    base = torch.optim.SGD(wrapped.parameters(), lr=request["step_size"])
    optimizer = DPOptimizer(base, noise_multiplier=request["multiplier"], max_grad_norm=1.0, expected_batch_size=n)
    weight, total, steps = request["penalty"], torch.zeros(d, dtype=torch.float64), request["steps"]
    if request["warmup"]:
        return {"seconds": 0.0}
    began = time.perf_counter()
    for k in range(steps):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(wrapped(X)[:, 0], t).backward()
        optimizer.pre_step()
        w = model.weight.detach()
        model.weight.grad += weight * 2.0 * w / (1.0 + w.square()).square()
        base.step()
        if k + 1 > steps // 2:
            total += model.weight.detach()[0]
    seconds = time.perf_counter() - began
    points = [(total / (steps - steps // 2)).tolist(), model.weight.detach()[0].tolist()]
    return {"seconds": seconds, "value": {"points": points, "step_ms": 1e3 * seconds / steps}}


KINDS = {"calibrate": calibrate, "train": train}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = KINDS[request["kind"]](request)
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
