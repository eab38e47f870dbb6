"""Clipped sums against gradients of single records; one record's share is bounded exactly; what mixes records is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from surefoot.data.linear_model import LinearModel
from surefoot.numerics.losses import Huber, Logistic, Sigmoid
from surefoot.privacy.records import LinearRecords, ModuleRecords, Records


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.reshape(len(target), -1).sum(dim=1) - target).square()


class Words(nn.Module):
    """An embedding, a convolution and two linear layers, one over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(7, 4), nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.table(words))).mean(dim=1))


def modules() -> list[tuple[str, nn.Module, Tensor]]:
    torch.manual_seed(0)
    return [
        ("mlp", nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 1)), torch.randn(11, 5)),
        ("frozen", nn.Sequential(nn.Linear(5, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 1)), torch.randn(11, 5)),
        ("conv", nn.Sequential(nn.Conv2d(2, 4, 3, groups=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1)), torch.randn(11, 2, 4, 4)),
        ("words", Words(), torch.randint(0, 7, (11, 6))),
        ("norm", nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1)), torch.randn(11, 5)),
    ]  # fmt: skip


def explicit(records: ModuleRecords, w: Tensor, row: int) -> Tensor:
    """The gradient of one record's loss, by plain autograd."""
    module = records.load(w, records.module)
    module.zero_grad()
    inputs = records.inputs[0][row : row + 1]
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    squared(module(inputs), records.targets[0][row : row + 1].double()).sum().backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad and p.grad is not None]).clone()


def clipped(shares: list[Tensor], bound: float) -> Tensor:
    return sum((g * min(1.0, bound / max(float(g.norm()), 1e-300)) for g in shares), torch.zeros_like(shares[0]))


@pytest.mark.parametrize(("name", "module", "inputs"), modules(), ids=[m[0] for m in modules()])
def test_sums_against_single_records(name: str, module: nn.Module, inputs: Tensor) -> None:
    torch.manual_seed(0)
    torch.manual_seed(1)
    records = ModuleRecords(module, squared, [inputs], [torch.randn(11)], chunk=4)
    assert isinstance(records, Records)
    assert records.ghosts == (name != "norm")
    w = records.start()
    for distance in (0.3, 1e-7):  # nearly equal points: a difference of squares would have no digit left
        v = w + distance * torch.randn(len(w), dtype=torch.float64)
        here, there = ([explicit(records, point, i) for i in range(11)] for point in (v, w))
        moved = [a - b for a, b in zip(here, there, strict=True)]
        typical = float(torch.stack([m.norm() for m in moved]).median())
        for bound in (0.5 * typical, 1e6):
            # shares are clipped by `slack` more than plain clipping; coordinates of the sum may cancel, so it is absolute
            room = 2.0 * records.slack * sum(min(float(g.norm()), bound) for g in here) + 1e-12
            assert float((records.gradient_sum(v, bound) - clipped(here, bound)).norm()) <= room
            found = records.difference_sum(v, w, bound)
            assert torch.allclose(found, clipped(moved, bound), rtol=1e-5, atol=1e-6 * typical)
    rows = torch.tensor([2, 9, 3])
    some = clipped([here[i] for i in rows.tolist()], 0.1)
    assert float((records.gradient_sum(v, 0.1, rows) - some).norm()) <= 2.0 * records.slack * 0.3 + 1e-12


def test_closed_form_is_the_module() -> None:
    rng = torch.Generator().manual_seed(1)
    A = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    y = torch.sign(torch.randn(50, generator=rng, dtype=torch.float64))
    w, v = torch.randn(6, generator=rng, dtype=torch.float64), torch.randn(6, generator=rng, dtype=torch.float64)
    for loss in (Logistic(), Sigmoid(), Huber(0.5)):
        closed = LinearRecords(LinearModel(A, y, loss), chunk=7)
        module = ModuleRecords(
            nn.Linear(6, 1, bias=False), lambda out, t, loss=loss: loss.value(out[:, 0], t), [A], [y]
        )
        for bound in (0.2, 100.0):
            assert torch.allclose(closed.gradient_sum(w, bound), module.gradient_sum(w, bound), atol=1e-10)
            assert torch.allclose(closed.difference_sum(w, v, bound), module.difference_sum(w, v, bound), atol=1e-7)
    whole = LinearModel(A, y, Logistic()).objective.value_and_grad(w)[1]
    assert torch.allclose(LinearRecords(LinearModel(A, y, Logistic())).gradient_sum(w, 1e3) / 50, whole, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 40),
    chunk=st.integers(1, 13),
    bound=st.sampled_from([1e-3, 1.0, 77.0]),
)
def test_one_record_moves_the_sum_by_at_most_twice_the_bound(seed: int, size: int, chunk: int, bound: float) -> None:
    """Without any tolerance: the exchanged record is as bad as can be, batches are uneven."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(size, 3)) * 10.0 ** rng.uniform(-3, 6))
    labels = torch.from_numpy(rng.choice([-1.0, 1.0], size))
    place = int(rng.integers(size))
    other, flipped = features.clone(), labels.clone()
    other[place] *= -(10.0 ** float(rng.uniform(0, 4)))
    w, v = torch.from_numpy(rng.normal(size=3)), torch.from_numpy(rng.normal(size=3))

    def linear(A: Tensor) -> Records:
        return LinearRecords(LinearModel(A, flipped, Logistic()), chunk)

    def module(A: Tensor) -> Records:
        return ModuleRecords(
            nn.Linear(3, 1, bias=False), lambda o, t: functional.softplus(-t * o[:, 0]), [A], [flipped], chunk=chunk
        )

    for kind in (linear, module):
        one, two = kind(features), kind(other)
        assert float((one.gradient_sum(w, bound) - two.gradient_sum(w, bound)).norm()) <= 2 * bound
        assert float((one.difference_sum(w, v, bound) - two.difference_sum(w, v, bound)).norm()) <= 2 * bound
        assert float(one.gradient_sum(w, bound, torch.tensor([place])).norm()) <= bound


def test_memory_is_rows_times_width() -> None:
    """The largest tensor of a ghost pass is far below one gradient a record."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
        ) -> object:  # fmt: skip
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
            return out

    width, rows = 300, 200
    module = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    records = ModuleRecords(module, squared, [torch.randn(rows, width)], [torch.randn(rows)])
    w = records.start()
    with Watch():
        records.difference_sum(1.01 * w, w, 1.0)
    assert largest <= 2 * max(rows * width, records.dim)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x))).sum(dim=1)


def test_a_layer_called_twice_takes_single_records() -> None:
    records = ModuleRecords(Twice(), squared, [torch.randn(9, 5)], [torch.randn(9)])
    assert not records.ghosts
    w = records.start()
    expected = clipped([explicit(records, w, i) for i in range(9)], 0.7)
    assert torch.allclose(records.gradient_sum(w, 0.7), expected, atol=1e-12)


@pytest.mark.parametrize(("layers", "match"), [
    ([nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)], r"'1' \(BatchNorm1d\) mixes records"),
    ([nn.Linear(5, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 1)], r"'1' \(BatchNorm1d\) mixes records"),
    ([nn.Linear(5, 4), nn.Dropout(0.2), nn.Linear(4, 1)], r"'1' \(Dropout\) is random"),
    ([nn.Linear(5, 4), Centred(), nn.Linear(4, 1)], "Layer '1' gives a record another output"),
    ([nn.Tanh(), nn.Linear(5, 1).requires_grad_(False)], "nothing to train"),
])  # fmt: skip
def test_what_mixes_records_is_named(layers: list[nn.Module], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ModuleRecords(nn.Sequential(*layers), squared, [torch.randn(6, 5)], [torch.randn(6)])


@pytest.mark.parametrize(("wrong", "match"), [
    (lambda: ModuleRecords(nn.Linear(2, 1), squared, [torch.tensor([[1.0, float("nan")]])], [torch.ones(1)]), "NaN"),
    (lambda: ModuleRecords(nn.Linear(2, 1), squared, [torch.ones(3, 2)], [torch.ones(2)]), "same number"),
    (lambda: ModuleRecords(nn.Linear(2, 1), lambda o, t: o, [torch.ones(3, 2)], [torch.ones(3)]), "one number a record"),
    (lambda: LinearRecords(LinearModel(torch.ones(2, 1), torch.tensor([1.0, 3.0]), Logistic())), "Label 3"),
    (lambda: LinearRecords(LinearModel(torch.ones(2, 1), torch.ones(2), Huber())).gradient_sum(torch.ones(1), -1.0), "bound is -1"),
    (lambda: LinearRecords(LinearModel(torch.full((2, 1), 1e30), torch.ones(2), Huber(1e300))).gradient_sum(torch.full((1,), 1e300, dtype=torch.float64), 1.0), "not finite"),
])  # fmt: skip
def test_bad_records_are_refused(wrong: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wrong()
