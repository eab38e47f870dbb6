"""Worker of the peer scnn (pyscnn on the index), in an environment of its own; it imports nothing of Surefoot."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
from scnn.metrics import Metrics
from scnn.models import ConvexReLU
from scnn.optimize import optimize_model
from scnn.regularizers import NeuronGL1
from scnn.solvers import AL


def program(request: dict[str, Any]) -> dict[str, Any]:
    """Its augmented Lagrangian with its defaults, on the same hyperplanes; its lambda is beta / n."""
    if request["warmup"]:
        return {"seconds": 0.0}
    stored = np.load(request["file"])
    X, y, beta = stored["X"], stored["y"], float(stored["beta"])
    began = time.perf_counter()
    model = ConvexReLU(stored["directions"].T.astype(np.float64))
    network, _ = optimize_model(
        model,
        AL(model),
        Metrics(),
        X,
        y[:, None],
        regularizer=NeuronGL1(beta / len(y)),
        unitize_data=False,
        dtype="float64",
    )
    seconds = time.perf_counter() - began
    hidden, output = (np.asarray(p, dtype=float) for p in network.parameters[:2])
    scores = np.maximum(X @ hidden.T, 0.0) @ output.reshape(-1)
    size = np.sum(np.linalg.norm(hidden, axis=1) * np.abs(output.reshape(-1)))
    return {
        "seconds": seconds,
        "value": {"objective": 0.5 * float(np.mean((scores - y) ** 2)) + beta / len(y) * float(size)},
    }


if __name__ == "__main__":
    for line in sys.stdin:
        answer = program(json.loads(line))
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
