"""Worker of the peer dagma, in an environment of its own; it imports nothing of Surefoot."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

os.environ["TQDM_DISABLE"] = "1"  # its progress bar would cost it time

from dagma.linear import DagmaLinear
from tqdm import tqdm


def distance(learned: np.ndarray, truth: np.ndarray) -> int:
    found, real = learned != 0, truth != 0
    return int(np.triu((found != real) | (found.T != real.T), 1).sum())


def fit(request: dict[str, Any]) -> dict[str, Any]:
    stored = np.load(request["file"])
    if request["warmup"]:
        return {"seconds": 0.0}
    values = stored["values"].copy()
    began = time.perf_counter()
    weights = DagmaLinear("l2").fit(
        values, lambda1=request["sparsity"], T=4, s=[1.0, 0.9, 0.8, 0.7], warm_iter=request["warm_steps"],
        max_iter=request["last_steps"], lr=3e-4, checkpoint=request["checkpoint"],
    )  # fmt: skip
    seconds = time.perf_counter() - began
    value = {"shd": distance(weights, stored["truth"]), "edges": int(np.count_nonzero(weights))}
    return {"seconds": seconds, "value": value}


def steps(request: dict[str, Any]) -> dict[str, Any]:
    values = np.load(request["file"])["values"]
    values = values - values.mean(axis=0)
    model = DagmaLinear("l2")
    model.X, model.lambda1, model.checkpoint = values, 0.05, 10**9
    model.n, model.d = values.shape
    model.Id, model.cov = np.eye(model.d), values.T @ values / model.n
    model.exc_r = model.exc_c = model.inc_r = model.inc_c = None
    silent = tqdm(disable=True)
    began = time.perf_counter()
    model.minimize(np.zeros((model.d, model.d)), 1.0, request["count"], 1.0, lr=3e-4, pbar=silent)
    return {"seconds": (time.perf_counter() - began) / request["count"]}


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"fit": fit, "steps": steps}[asked["kind"]](asked)
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()
