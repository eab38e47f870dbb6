"""Rows that are tuples and dicts, ghost batches, streams, and predictions from them: against plain tensors, dense matrices and limits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surefoot import cli
from surefoot.core.solve import solve
from surefoot.training import curvature as cu
from surefoot.training import spectral_law as law
from surefoot.training.spectral_ghost import GhostBatches, in_ghost_batches
from surefoot.training.spectral_method import MeasureRates
from surefoot.training.spectral_problem import Curvature, Plan, row_losses
from surefoot.training.spectral_recipes import materialise
from surefoot.training.spectral_rows import split_batch
from surefoot.training.spectral_scheduler import CurvatureScheduler
from surefoot.training.spectral_streams import StreamOperator, batch_edges

SMALL = Plan((4, 20), outliers=2, steps=15, probes=0, draws=4, repeats=1, most=1, thresholds=1, trained=0)


class Record:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Pair(nn.Module):
    """A linear map of two inputs that are added, returned as a record."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> Record:
        return Record(self.inner(first + second))


def rows(n: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, z = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, z, torch.randint(0, 3, (n,), generator=generator)


@pytest.mark.parametrize("form", ["tuple", "dict", "whole batch"])
def test_measurements_do_not_depend_on_the_form_of_the_rows(form: str) -> None:
    """Two inputs, named or not, a loss that takes the whole batch: the numbers of one tensor."""
    torch.manual_seed(0)
    model = Pair()
    x, z, y = rows()
    inputs: Any = (x, z) if form == "tuple" else {"second": z, "first": x}
    plain = solve(Curvature(model.inner, x + z, y, plan=SMALL), MeasureRates(), certify=False).answer
    loss: Any = "cross-entropy"
    if form == "whole batch":
        loss = lambda out, batch: batch["weight"] * row_losses("cross-entropy")(out, batch["labels"])  # noqa: E731
    targets: Any = {"labels": y, "weight": torch.ones(40, dtype=torch.float64)} if form == "whole batch" else y
    found = solve(Curvature(model, inputs, targets, loss, plan=SMALL), MeasureRates(), certify=False).answer
    for name, column in plain.to_dict().items():
        assert np.allclose(column, found.to_dict()[name], rtol=1e-6, equal_nan=True), name
    sgd = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, model.inner)]
    one = CurvatureScheduler(sgd[0], model, inputs, targets, loss, batch=8).refresh()
    two = CurvatureScheduler(sgd[1], model.inner, x + z, y, batch=8).refresh()
    assert one.largest == pytest.approx(two.largest, rel=1e-9)


def test_losses_of_tokens_leave_unlabelled_ones_out() -> None:
    z = torch.randn(2, 4, 7, dtype=torch.float64)
    y = torch.tensor([[1, 2, 3, -100], [0, -100, -100, 6]])
    each = -torch.log_softmax(z, dim=-1)
    first = (each[0, 0, 1] + each[0, 1, 2] + each[0, 2, 3]) / 3
    assert torch.allclose(row_losses("tokens")(z, y), torch.stack([first, (each[1, 0, 0] + each[1, 3, 6]) / 2]))
    shifted = torch.stack([(each[0, 0, 2] + each[0, 1, 3]) / 2, each[1, 2, 6]])
    assert torch.allclose(row_losses("next-token")(z, y), shifted)


def test_batches_are_split_by_their_form() -> None:
    a, b, c = torch.zeros(2), torch.ones(2), torch.ones(2)
    assert split_batch((a, b)) == (a, b)
    assert split_batch([a, b, c]) == ((a, b), c)
    inputs, labels = split_batch({"ids": a, "mask": b, "labels": c})
    assert list(inputs) == ["ids", "mask"]
    assert labels is c
    for batch, word in (({"ids": a}, "'ids'.*expected inputs and one of labels"), (a, "Tensor; expected")):
        with pytest.raises(ValueError, match=word):
            split_batch(batch)


class Counted(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for i in range(1000):
            yield torch.full((2,), float(i)), i % 3


def test_streams_are_sampled_uniformly_and_only_the_rows_kept_are_held() -> None:
    loader = DataLoader(Counted(), batch_size=64)
    x, y, total = materialise(loader, 200)
    assert total == 1000
    assert x.shape == (200, 2)
    assert torch.equal(y, x[:, 0].long() % 3)
    assert bool((x[:, 0].diff() > 0).all())
    means = [float(materialise(loader, 200, seed=s)[0][:, 0].mean()) for s in range(12)]
    assert abs(np.mean(means) - 499.5) < 4 * 289 / math.sqrt(200 * 12)
    assert materialise(loader, 0)[0].shape == (1000, 2)
    assert materialise(loader, 50, read=300)[2] == 300
    assert float(materialise(loader, 0, read=300)[0].max()) == 299
    with pytest.raises(ValueError, match="neither indexed nor iterable"):
        materialise(7, 0)
    with pytest.raises(ValueError, match="gave no batch"):
        materialise(iter([]), 0)
    with pytest.raises(ValueError, match="pad all to one length"):
        materialise(iter([(torch.ones(2, 3), torch.ones(2)), (torch.ones(2, 4), torch.ones(2))]), 0)
    with pytest.raises(ValueError, match="str; expected tensors"):
        materialise(iter([("text", torch.ones(2))]), 0)


# ---- streams in Python ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_a_stream_is_the_matrix_of_all_its_rows(kind: Any) -> None:
    torch.manual_seed(0)
    model = Pair()
    x, z, y = rows()
    data = TensorDataset(x, z, y)
    stream = StreamOperator(model, DataLoader(data, batch_size=7, shuffle=True), kind=kind, ridge=0.1)
    whole = cu.CurvatureOperator(model, (x, z), y, kind=kind, ridge=0.1)
    v = stream.start(torch.Generator().manual_seed(0))
    assert torch.allclose(stream(v), whole(v), rtol=1e-9, atol=1e-12)
    assert stream.rows == 40


def test_a_streams_variance_agrees_with_that_of_single_rows_in_expectation() -> None:
    torch.manual_seed(0)
    model = Pair()
    x, z, y = rows(400)
    case = Curvature(model, (x, z), y, plan=SMALL)
    v = torch.nn.functional.normalize(torch.ones(case.network.vector().numel(), dtype=torch.float64), dim=0)
    exact = cu.directional_variance(case, v)
    stream = StreamOperator(model, DataLoader(TensorDataset(x, z, y), batch_size=8, shuffle=True))
    found = [stream.variance(v) for _ in range(12)]
    mean, error = np.mean([f for f, _ in found]), np.std([f for f, _ in found], ddof=1) / math.sqrt(12)
    assert abs(mean - exact) < 4 * error + 0.02 * exact
    assert found[0][1] > 0


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> Any:
        return torch.randn(5, dtype=torch.float64), i % 3


def test_streams_that_change_are_refused() -> None:
    model = nn.Linear(5, 3).double()
    x, _, y = rows()
    for loader, word in (
        (iter([(x, y)]), "once only"),
        (DataLoader(Augmented(), batch_size=10), "two passes over the loader differ"),
        ([], "gave no batch"),
        ([(x * float("nan"), y)], "row 0 of a pass is NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            StreamOperator(model, loader)
    norm = normed().train()
    kept = norm[1].running_mean.clone()  # type: ignore[index]
    with pytest.raises(ValueError, match=r"module '1' \(BatchNorm1d\) is in train mode"):
        StreamOperator(norm, [(x, y)])
    assert torch.equal(kept, norm[1].running_mean)  # type: ignore[index]
    with pytest.raises(ValueError, match="fewer than the 40 rows"):
        StreamOperator(model, [(x, y)], population=12)
    with pytest.raises(ValueError, match="at least 2"):
        StreamOperator(model, [(x, y)]).variance(torch.ones(18, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_edges_are_the_theorem_at_both_ends(kind: Any) -> None:
    torch.manual_seed(0)
    model = Pair()
    x, z, y = rows(300)
    case = Curvature(model, (x, z), y, kind=kind, plan=SMALL)
    found = batch_edges(case, (4, 50, 300), tolerance=1e-8)
    pairs = cu.top_eigenpairs(cu.CurvatureOperator.of(case), generator=torch.Generator().manual_seed(3), tolerance=1e-8)
    top, V = float(pairs.values[0]), cu.directional_variance(case, pairs.vectors[:, 0])
    expected = [law.moved_eigenvalue(top, V, law.effective_batch(b, 300)) for b in (4, 50, 300)]
    assert found.largest == pytest.approx(expected, rel=1e-6)
    assert found.largest[-1] == found.whole == pytest.approx(top, rel=1e-6)
    assert found.scale == pytest.approx(found.rate / found.rate[0])
    assert found.rule == pytest.approx([1, 12.5, 75])
    assert found.damping[1] == pytest.approx((expected[1] - top) / 2, rel=1e-4)
    assert found.damping[-1] == 0
    drawn_twice = batch_edges(case, (300,), replacement=True, tolerance=1e-8)
    assert drawn_twice.largest[0] == pytest.approx(top + V / (300 * top), rel=1e-6)
    adam = batch_edges(case, (4, 50), optimizer="adam", momentum=0.9)
    assert adam.scale[1] == pytest.approx(math.sqrt(found.scale[1]), rel=1e-3)
    assert adam.rate[0] == pytest.approx(38 / adam.largest[0])
    if kind == "hessian":
        low = cu.top_eigenpairs(
            cu.CurvatureOperator.of(case), generator=torch.Generator().manual_seed(3), tolerance=1e-8, end="smallest"
        )
        below, VP = float(low.values[0]), cu.directional_variance(case, low.vectors[:, 0])
        assert found.smallest[-1] == pytest.approx(below, rel=1e-5)
        assert found.smallest[0] == pytest.approx(
            law.moved_eigenvalue(below, VP, law.effective_batch(4, 300)), rel=1e-5
        )
        assert bool((np.diff(found.smallest) > 0).all())
    else:
        assert np.isnan(found.smallest).all()


def test_a_parts_own_noise_is_taken_off() -> None:
    """A part of a larger population stands above it; its batches are those of the population."""
    torch.manual_seed(0)
    x, z, y = rows(60)
    part = Curvature(Pair(), (x, z), y, plan=SMALL, population=6000)
    found = batch_edges(part, (60, 6000), tolerance=1e-8)
    top = float(
        cu.top_eigenpairs(
            cu.CurvatureOperator.of(part), generator=torch.Generator().manual_seed(3), tolerance=1e-8
        ).values[0]
    )
    assert found.whole < top
    assert found.largest[0] == pytest.approx(top, rel=1e-6)
    assert found.largest[1] == pytest.approx(found.whole, rel=1e-6)


# ---- ghost batches -------------------------------------------------------------------------------------------------
def normed() -> nn.Module:
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    made(rows()[0])
    return made.eval()


def test_ghost_batches_are_rows_and_their_matrix_that_of_train_mode() -> None:
    x, _, y = rows()
    model = normed()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stated = in_ghost_batches((model, x, y, row_losses("cross-entropy")), 8, np.random.default_rng(0))
    case = Curvature(**stated, kind="hessian", plan=Plan((8, 16), 2, 12, 1, 4, 2, 3, 1, 2))
    assert case.rows == 5
    assert case.sizes == (1, 2)
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    dealt = cu.CurvatureOperator(model, x[order], y[order], kind="hessian", ghost=8)
    A = cu.CurvatureOperator.of(case)
    v = A.start(torch.Generator().manual_seed(0))
    assert torch.allclose(A(v), dealt(v), rtol=1e-8, atol=1e-10)
    images = cu.row_products(case, torch.arange(5), v)  # forward over reverse, by vmap
    assert torch.allclose(images.mean(dim=0), dealt(v), rtol=1e-8, atol=1e-10)
    assert all(torch.equal(before[k], now) for k, now in model.state_dict().items())
    assert "ghost batches of 8 rows" in case.normalisation
    found = solve(case, MeasureRates(), certify=False).answer
    assert found.batch.tolist() == [8, 16]
    assert found.measured[0] > 0


def test_ghost_batches_of_images_are_those_of_torch() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)).double()
    x = torch.randn(3, 5, 2, 6, 6, dtype=torch.float64)
    found = GhostBatches(net, 5)(x)
    with cu.batch_statistics(net):
        expected = torch.stack([net(part) for part in x])
    assert torch.allclose(found, expected, atol=1e-12)


def test_bad_ghost_batches_are_named() -> None:
    x, _, y = rows()
    losses = row_losses("cross-entropy")
    for model, size, word in (
        (normed(), 1, "has no statistics"),
        (normed(), 30, "fewer than two ghost batches"),
        (nn.Linear(5, 3).double(), 8, "no batch normalisation"),
    ):
        with pytest.raises(ValueError, match=word):
            in_ghost_batches((model, x, y, losses), size, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"batch sizes \[12\] are no multiples of the ghost batch, 8 rows"):
        Curvature(**in_ghost_batches((normed(), x, y, losses), 8, np.random.default_rng(0)), plan=Plan((8, 12)))


# ---- the command ---------------------------------------------------------------------------------------------------
CASES = '''
import torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
X = torch.randn(60, 5); Y = (X[:, 0] > 0).long()

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 2)

    def forward(self, values=None, mask=None):
        return {"logits": self.out(values * mask)}

def named():
    rows = [{"values": X[i], "mask": torch.ones(5), "labels": Y[i]} for i in range(60)]
    return Named(), DataLoader(rows, batch_size=7, shuffle=True)

def normed():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net(X)
    return net, (X, Y), nn.CrossEntropyLoss()

def one_class():
    return nn.Linear(5, 2), (X, torch.ones_like(Y))

def frozen():
    return nn.Linear(5, 2).requires_grad_(False), (X, Y)

def idle():
    net = nn.Linear(5, 2); net.spare = nn.Parameter(torch.zeros(2))
    return net, (X, Y)

def diverged():
    net = nn.Linear(5, 2); net.weight.data.fill_(float("nan"))
    return net, (X, Y)

class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.memory(x[..., None])[0][:, -1])

def memory():
    return Memory(), (X, Y)

def texts():
    return nn.Linear(5, 2), DataLoader([("a", 1)] * 20, batch_size=4)

def broken():
    raise OSError("no such disk")
'''  # fmt: skip
FLAGS = (
    *("--batches", "4", "12", "--outliers", "2", "--steps", "8", "--probes", "1", "--draws", "2", "--repeats", "1"),
    *("--most", "1", "--thresholds", "1", "--trained", "1"),
)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "spectral_user_cases.py").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(case: str, *more: str) -> int:
        flags = [] if "--batches" in more else FLAGS
        out = tmp_path / f"{case}{len(more)}"
        return cli.main(
            ["run", "spectral-learning-rates", f"spectral_user_cases:{case}", *flags, *more, "-o", str(out), "--quiet"]
        )

    return run


def test_loaders_of_dicts_run_and_verify(command: Any, tmp_path: Path) -> None:
    assert command("named") == 0
    assert cli.main(["verify", str(tmp_path / "named0"), "--trust"]) == 0


def test_batch_normalisation_is_measured_either_way_and_said(command: Any, tmp_path: Path, capsys: Any) -> None:
    for flags, word in (((), "running statistics"), (("--statistics", "ghost"), "ghost batches of 4 rows")):
        assert command("normed", *flags) == 0
        said = capsys.readouterr().err
        assert word in said
        assert said.count("measured with") == 1  # the check that ends a run does not say it again
        claims = json.loads((tmp_path / f"normed{len(flags)}" / "certificate.json").read_text())["claims"]
        assert word in claims[0]["statement"]
        assert cli.main(["verify", str(tmp_path / f"normed{len(flags)}"), "--trust"]) == 0


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("one_class", "all targets are class 1"),
        ("frozen", "no parameter of the model requires a gradient"),
        ("idle", "does not reach the parameters spare"),
        ("diverged", "did the training diverge"),
        ("memory", "memory (LSTM)"),
        ("texts", "expected tensors"),
        ("broken", "spectral_user_cases:broken failed: OSError: no such disk"),
        ("nothing", "nothing"),
    ],
)
def test_the_command_names_what_is_wrong(command: Any, capsys: Any, case: str, word: str) -> None:
    assert command(case) != 0
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
