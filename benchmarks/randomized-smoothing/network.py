"""The benchmark's network for sides that do not import Surefoot: the same layers, from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def plain_network(data: Mapping[str, Any]) -> nn.Module:
    """Two strided convolutions and two dense layers, with the weights of the file."""
    weights = {
        name.removeprefix("weight:"): torch.from_numpy(data[name]) for name in data if name.startswith("weight:")
    }
    conv1, conv2, dense, out = (weights[f"{k}.weight"] for k in ("conv1", "conv2", "dense", "out"))
    network = nn.Sequential(
        nn.Conv2d(conv1.shape[1], conv1.shape[0], 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(conv2.shape[1], conv2.shape[0], 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(dense.shape[1], dense.shape[0]), nn.ReLU(), nn.Linear(out.shape[1], out.shape[0]),
    )  # fmt: skip
    for place, name in ((0, "conv1"), (2, "conv2"), (5, "dense"), (7, "out")):
        network[place].load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    return network.eval()
