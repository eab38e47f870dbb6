"""Worker of the peer diffprivlib (objective perturbation, pure privacy), in an environment of its own."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
from diffprivlib.models import LogisticRegression


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Its private logistic regression with the ridge that the public penalty amounts to near zero."""
    stored = np.load(request["file"])
    X, y = stored["features"], stored["targets"]
    if request["warmup"]:
        return {"seconds": 0.0}
    model = LogisticRegression(
        epsilon=request["epsilon"],
        data_norm=1.0,
        C=1.0 / (len(X) * 2.0 * request["penalty"]),
        fit_intercept=False,
        max_iter=1000,
    )
    began = time.perf_counter()
    model.fit(X, y)
    return {"seconds": time.perf_counter() - began, "value": {"points": [model.coef_[0].tolist()] * 2}}


if __name__ == "__main__":
    for line in sys.stdin:
        answer = train(json.loads(line))
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
