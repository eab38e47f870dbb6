"""Worker of our side: the top Hessian eigenvalue by Lanczos."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from network import load

from harness import serve
from surefoot.training import CurvatureOperator, top_eigenpairs


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds to a residual within the tolerance, and the eigenvalue."""
    network, x, y = load(request["file"])
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    found = top_eigenpairs(
        CurvatureOperator(network, x, y, kind="hessian"), generator=generator, tolerance=request["residual"]
    )
    value = float(found.values[0])
    return {"seconds": time.perf_counter() - began, "value": value}


if __name__ == "__main__":
    serve(handle)
