"""The count of operations is torch's own, without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from surefoot.numerics.operations import CountOperations
from surefoot.training.muon_networks import CharTransformer, cnn, mlp


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (cnn(), torch.rand(5, 1, 28, 28)),
        (mlp(49, width=12), torch.rand(5, 1, 7, 7)),
        (CharTransformer(20, 8, 16, 2), torch.arange(16).reshape(2, 8)),
    ],
)
def test_the_count_is_torch_s(model, x):
    parameters = list(model.parameters())
    for wanted in (parameters, parameters[-1:], [p for p in parameters if p is not parameters[2]]):
        with FlopCounterMode(display=False) as theirs:
            torch.autograd.grad(model(x).square().sum(), wanted)
        with CountOperations() as ours:
            torch.autograd.grad(model(x).square().sum(), wanted)
        assert ours.total == theirs.get_total_flops() > 0


def test_by_hand():
    with CountOperations() as counter:
        torch.rand(3, 4) @ torch.rand(4, 5)
    assert counter.total == 2 * 3 * 4 * 5


def test_training_with_drop_muon_imports_no_compiler():
    code = (
        "import sys, torch\n"
        "from surefoot.training import DropMuon\n"
        "from surefoot.training.drop_muon_costs import count_costs\n"
        "model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))\n"
        "optimizer = DropMuon(model)\n"
        "count_costs(optimizer, lambda: model(torch.ones(3, 4)).sum().backward())\n"
        "optimizer.zero_grad(); model(torch.ones(3, 4)).sum().backward(); optimizer.step()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
