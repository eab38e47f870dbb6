"""Worker of our side: whole certifications."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from network import plain_network

from harness import serve
from surefoot.core.solve import solve
from surefoot.robustness.maps import HARDMAX, grid
from surefoot.robustness.noise import Noise
from surefoot.robustness.plan import Plan
from surefoot.robustness.problem import Certification, Classifier, LabelledImages
from surefoot.robustness.smoothing import CertifyRadii

torch.set_num_threads(1)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds an image."""
    data = np.load(request["file"])
    network = plain_network(data)
    images = torch.from_numpy(data["images"][: request["count"]])
    labels = data["labels"][: request["count"]]
    plans = {
        "votes": {"maps": (HARDMAX,)},
        "one-class": {"maps": (HARDMAX,), "forms": ("one-class",)},
        "per-input": {"scope": "per-input", "maps": grid()},
        "target": {"maps": (HARDMAX,), "target": request.get("target", 0.0)},
    }
    plan = Plan(request["draws"], request["first"], request["alpha"], **plans[request["plan"]])
    problem = Certification(
        Classifier(network, tuple(images.shape[1:]), 10, request["sigma"], identity={"bench": 1}), LabelledImages(images, labels), plan,
        Noise(rows=request["rows"]),
    )  # fmt: skip
    began = time.process_time()
    result = solve(problem, CertifyRadii(), seed=request.get("seed", 0), certify=False)
    seconds = time.process_time() - began
    return {
        "seconds": seconds / len(images),
        "value": {
            "acr": result.answer.average, "abstained": int((result.answer.predicted < 0).sum()),
            "draws_an_image": result.counts["forward"] / len(images),
        },
    }  # fmt: skip


if __name__ == "__main__":
    serve(handle)
