"""Opacus's side: full-batch noisy gradients on the gas turbine, its own accountant and optimiser."""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.accountants.utils import get_noise_multiplier
from opacus.optimizers import DPOptimizer

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from tables import measured, network  # noqa: E402  # scripts beside this one, whatever the peer's environment

from harness import serve  # noqa: E402

warnings.simplefilter("ignore")


def handle(request):
    """Seconds of the training loop, and what came out."""
    data = np.load(request["path"])
    X, y = torch.from_numpy(data["train"]).float(), torch.from_numpy(data["y_train"]).float()
    # its accountants add or remove a record; a replaced one may turn round, so the multiplier is doubled
    one_more = get_noise_multiplier(
        target_epsilon=request["epsilon"],
        target_delta=request["delta"],
        sample_rate=1.0,
        steps=request["rounds"],
        accountant="prv",
        epsilon_tolerance=0.01,
    )
    model = GradSampleModule(network(X.shape[1], request["seed"]))
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=request["step_length"]),
        noise_multiplier=2.0 * one_more,
        max_grad_norm=request["clip"],
        expected_batch_size=len(X),
    )
    began = time.perf_counter()
    for _ in range(request["rounds"]):
        optimizer.zero_grad()
        (model(X)[:, 0] - y).square().mean().backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    plain = network(X.shape[1], 0)
    plain.load_state_dict(model._module.state_dict())
    return {
        "seconds": seconds,
        "value": {**measured(plain, data), "noise_std": 2.0 * one_more * request["clip"] / len(X)},
    }


serve(handle)
