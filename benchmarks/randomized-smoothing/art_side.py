"""Worker of the peer adversarial-robustness-toolbox: its PyTorchRandomizedSmoothing.certify on the same network and images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from network import plain_network

from harness import serve

torch.set_num_threads(1)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds an image of certify(x, n), and what it certifies (ART draws its first 100 copies beside the n)."""
    data = np.load(request["file"])
    network = plain_network(data)
    smoothed = PyTorchRandomizedSmoothing(
        model=network, loss=torch.nn.CrossEntropyLoss(), input_shape=data["images"].shape[1:], nb_classes=10, device_type="cpu",
        sample_size=request["first"], scale=request["sigma"], alpha=request["alpha"], clip_values=None,
    )  # fmt: skip
    torch.manual_seed(request.get("seed", 0))
    np.random.seed(request.get("seed", 0))  # noqa: NPY002  (ART draws from the global generator)
    images, labels = data["images"][: request["count"]], data["labels"][: request["count"]]
    began = time.process_time()
    predicted, radius = smoothed.certify(
        images, n=request["draws"], batch_size=request.get("peer_rows", request["rows"])
    )
    seconds = time.process_time() - began
    right = predicted == labels
    return {
        "seconds": seconds / len(images),
        "value": {"acr": float(np.mean(np.where(right, radius, 0.0))), "abstained": int((predicted < 0).sum())},
    }


if __name__ == "__main__":
    serve(handle)
