"""Worker of the limit: torch.randn noise and the forward passes of as many draws, and nothing else."""

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
from surefoot.numerics.memory import keep_freed_memory

torch.set_num_threads(1)
if not keep_freed_memory():  # as our side does: the limit is without page faults
    sys.stderr.write("this allocator cannot be told to keep freed memory\n")


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds an image."""
    data = np.load(request["file"])
    network, images = plain_network(data), torch.from_numpy(data["images"][: request["count"]])
    total, rows = request["draws"] + request["first"], request["rows"]
    sums = torch.zeros(10)
    began = time.process_time()
    with torch.no_grad():
        for image in images:
            for block in range(0, total, rows):
                noise = torch.randn(min(rows, total - block), *image.shape)
                sums += network(image + request["sigma"] * noise).sum(0)
    seconds = time.process_time() - began
    return {
        "seconds": seconds / len(images),
        "value": {"draws_an_image": total, "finite": bool(torch.isfinite(sums).all())},
    }


if __name__ == "__main__":
    serve(handle)
