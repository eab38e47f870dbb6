"""Worker of PyHessian: its power iteration."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from network import load
from pyhessian import hessian

from harness import serve


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of construction and eigenvalues(), and the eigenvalue."""
    network, x, y = load(request["file"])
    torch.manual_seed(0)
    began = time.perf_counter()
    found, _ = hessian(network, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(
        maxIter=500, tol=request["tolerance"], top_n=1
    )
    return {"seconds": time.perf_counter() - began, "value": float(found[0])}


if __name__ == "__main__":
    serve(handle)
