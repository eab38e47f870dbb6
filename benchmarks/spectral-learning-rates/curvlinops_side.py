"""Worker of curvlinops: its Hessian operator in scipy's eigsh, with its default checks and without."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from network import load
from scipy.sparse.linalg import eigsh

from harness import serve


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of construction and eigsh, and the eigenvalue."""
    network, x, y = load(request["file"])
    began = time.perf_counter()
    parameters = dict(network.named_parameters()) if request["named"] else list(network.parameters())
    operator = HessianLinearOperator(
        network, torch.nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=request["checks"]
    )
    start = np.random.default_rng(0).standard_normal(operator.shape[0])
    found = eigsh(operator.to_scipy(), k=1, which="LA", tol=request["tolerance"], v0=start)[0]
    return {"seconds": time.perf_counter() - began, "value": float(found[0])}


if __name__ == "__main__":
    serve(handle)
