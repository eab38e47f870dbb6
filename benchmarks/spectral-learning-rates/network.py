"""The case that all sides measure: a two-layer network on 2,048 digits, its weights and rows in one file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def load(path: str) -> tuple[torch.nn.Module, Any, Any]:
    """Network, inputs, targets from the file that `bench.py` writes."""
    stored = np.load(path, allow_pickle=False)
    network = torch.nn.Sequential(torch.nn.Linear(784, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    network.load_state_dict({name: torch.from_numpy(stored[name]) for name in network.state_dict()})
    return network.eval(), torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"])
