"""muon-optimizer, in its own environment: makes an arm, advances it, tests it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from arms import Arm

KEPT: dict[str, Arm] = {}


def handle(request: dict) -> dict:
    if request["do"] == "make":
        arrays = np.load(request["data"])
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        KEPT["arm"] = Arm("kj", request["setting"], x, y)
        KEPT["test"] = (torch.from_numpy(arrays["x_test"]), torch.from_numpy(arrays["y_test"]))  # type: ignore[assignment]
        return {}
    if request["do"] == "advance":
        return KEPT["arm"].advance(int(request["steps"]))
    return {"accuracy": KEPT["arm"].test(*KEPT["test"])}  # type: ignore[misc]


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write("@@" + json.dumps(handle(json.loads(line))) + "\n")
        sys.stdout.flush()
