"""Two processes over gloo: the same draws, and the training that one process does on all the data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HOWS = ("ddp", "own", "fsdp", "auto")
SCRIPT = Path(__file__).with_name("drop_muon_ranks.py")


def alone(how: str):
    spec = importlib.util.spec_from_file_location("drop_muon_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train(how, 0, 1)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), "2", str(folder / "store"), str(folder), *HOWS],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]
    return folder


@pytest.mark.parametrize("how", HOWS)
def test_ranks_draw_and_train_alike(how, results):
    first, second = (load_file(results / f"{how}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)  # starts and weights, bit for bit
    if how == "auto":
        return
    weights, starts = alone("plain")
    assert first.pop("starts").tolist() == starts
    for name, p in weights.items():
        assert torch.allclose(first[name], p, atol=2e-4), name
