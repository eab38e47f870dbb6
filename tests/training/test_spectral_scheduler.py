"""The learner's rules on real spectra and quadratics; the scheduler on a network; answers and recipes."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surefoot.records.files import UnsafeFileError
from surefoot.training.curvature import CurvatureOperator
from surefoot.training.spectral_problem import Rates
from surefoot.training.spectral_recipes import materialise, read_rates, write_rates
from surefoot.training.spectral_scheduler import CurvatureScheduler, learned_rate, line_search_rate, typical_curvature


@pytest.mark.parametrize(
    ("how", "mu", "rate", "momentum"),
    [("minimum", 0.0704446, 0.119608, 0.824842), ("median", 4.58662, 0.0681858, 0.194275)],
)
def test_rules_on_a_published_spectrum(how: Any, mu: float, rate: float, momentum: float) -> None:
    """A 50-step spectrum of the authors' repository, with the numbers their rules give once the momentum's root is put back."""
    folder = Path(os.environ.get("SUREFOOT_DATA", ""))
    path = folder / "spectral-learning-rates" / "lanczos_spectra.csv"
    if not path.is_file():
        pytest.skip("needs spectral-learning-rates/lanczos_spectra.csv under SUREFOOT_DATA")
    with path.open() as lines:
        rows = [r for r in csv.DictReader(lines) if r["run"] == "SGD-00300"]
    ritz = torch.tensor([float(r["ritz_value"]) for r in rows])
    weights = torch.tensor([float(r["weight"]) for r in rows])
    assert float(ritz.abs().max()) == pytest.approx(30.4434, rel=1e-5)
    found = typical_curvature(ritz, weights, how)
    assert found == pytest.approx(mu, rel=1e-4)
    assert learned_rate(float(ritz.abs().max()), found) == pytest.approx((rate, momentum), rel=1e-4)


def test_the_spike_of_flat_directions_is_left_out() -> None:
    ritz, weights = torch.tensor([-3.0, 0.001, 0.5, 9.0]), torch.tensor([0.05, 0.9, 0.03, 0.02])
    assert typical_curvature(ritz, weights, "minimum") == 0.5
    assert typical_curvature(ritz, weights, "median") == pytest.approx(1.75)
    with pytest.raises(ValueError, match="all weight"):
        typical_curvature(ritz[:1], torch.ones(1), "minimum")
    with pytest.raises(ValueError, match="0 <= mu <= L"):
        learned_rate(1.0, 2.0)


def test_heavy_ball_contracts_by_its_factor_on_a_quadratic() -> None:
    L, mu = 50.0, 0.5
    rate, momentum = learned_rate(L, mu)
    x = torch.nn.Parameter(torch.ones(20, dtype=torch.float64))
    curve = torch.linspace(mu, L, 20, dtype=torch.float64)
    optimizer = torch.optim.SGD([x], lr=rate, momentum=momentum)
    sizes = []
    for _ in range(400):
        x.grad = curve * x.detach()
        optimizer.step()
        sizes.append(float(x.detach().norm()))
    factor = (sizes[-1] / sizes[199]) ** (1 / 200)
    assert factor == pytest.approx((np.sqrt(L / mu) - 1) / (np.sqrt(L / mu) + 1), rel=0.05)
    assert learned_rate(L, mu, "nesterov")[0] == 1 / L
    assert learned_rate(L, mu, "descent") == (2 / (L + mu), 0.0)


def test_line_search_minimises_the_quadratic() -> None:
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    line = nn.Linear(3, 1).double()
    A = CurvatureOperator(line, x, y, "squared", kind="hessian")
    loss = lambda w: ((x @ w[:3] + w[3] - y[:, 0]) ** 2).mean()  # noqa: E731
    point = A.point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    best = line_search_rate(A, gradient)
    values = [float(loss(A.point - r * gradient)) for r in (0.99 * best, best, 1.01 * best)]
    assert values[1] < min(values[0], values[2])


def task() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 2)), x, y


@pytest.mark.parametrize("policy", ["steady", "spectrum"])
def test_the_scheduler_sets_stable_pairs(policy: Any) -> None:
    net, x, y = task()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scheduler = CurvatureScheduler(optimizer, net, x, y, batch=16, policy=policy, steps=20)
    for _ in range(10):
        for rows in torch.randperm(300).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        before = optimizer.param_groups[0]["lr"]
        found = scheduler.step()
        if found is not None:
            assert optimizer.param_groups[0]["lr"] == found.rate <= 3 * before * (1 + 1e-12)
            m = found.momentum
            stable = 2 * (1 + m) / (1 + 2 * m if found.nesterov else 1)
            assert found.rate <= 0.91 * stable / found.largest
            assert found.nesterov is optimizer.param_groups[0]["nesterov"] is (policy == "steady")
    assert len(scheduler.history) == 4  # after epochs 1, 2, 4, 8
    assert net.training
    assert float(nn.functional.cross_entropy(net.eval()(x), y).detach()) < 0.2
    other = CurvatureScheduler(optimizer, net, x, y, batch=16, policy=policy)
    other.load_state_dict(scheduler.state_dict())
    assert other.state_dict() == scheduler.state_dict()


def test_smaller_batches_get_smaller_rates() -> None:
    rates = []
    for batch in (4, 32, 128):
        net, x, y = task()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e6)
        rates.append(CurvatureScheduler(optimizer, net, x, y, batch=batch, rows=128, steps=20).refresh().rate)
    assert rates == sorted(rates)
    assert rates[0] < 0.8 * rates[-1]


def test_the_rate_falls_over_the_second_half_and_is_nesterovs() -> None:
    """0.9 / L at the largest L met, the momentum of condition 1,600, both by hand; no refresh once the rate falls."""
    net, x, y = task()
    optimizer = torch.optim.SGD(net.parameters(), lr=10.0)
    scheduler = CurvatureScheduler(optimizer, net, x, y, batch=16, epochs=10)
    rates = []
    for _ in range(10):
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    largest = max(h.largest for h in scheduler.history)
    assert len(scheduler.history) == 3  # after epochs 1, 2, 4
    assert rates[4] == pytest.approx(0.9 / largest)
    assert rates[5:] == pytest.approx([f * rates[4] for f in (0.8, 0.6, 0.4, 0.2, 0.05)])
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(39 / 41)
    damped = torch.optim.SGD(net.parameters(), lr=10.0, momentum=0.5, dampening=0.1)
    found = CurvatureScheduler(damped, net, x, y, batch=64).refresh()
    assert not found.nesterov
    assert found.momentum == pytest.approx((39 / 41) ** 2)


@pytest.mark.parametrize(("batch", "epochs"), [(16, [1, 2, 4, 8]), (32, [1, 3, 7, 15]), (64, [1, 5, 13]), (300, [1])])
def test_refreshes_double_from_sixteen_training_steps_on(batch: int, epochs: list[int]) -> None:
    net, x, y = task()
    scheduler = CurvatureScheduler(torch.optim.SGD(net.parameters(), lr=0.1), net, x, y, batch=batch)
    assert [epoch for epoch in range(1, 16) if scheduler.step() is not None] == epochs


def test_a_refresh_goes_only_as_far_as_the_top_is_in_doubt() -> None:
    """Each refresh against the dense Hessian of its own rows at its weights: near the top, and in few products; resuming gives the same."""
    net, x, y = task()
    net[1].p = 0.0  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    scheduler = CurvatureScheduler(optimizer, net, x, y, batch=64, steps=8)
    products, tops = [], []
    original = CurvatureOperator.__call__

    def counted(self: CurvatureOperator, v: torch.Tensor) -> torch.Tensor:
        products[-1] += 1
        if products[-1] == 1:
            whole = torch.stack([original(self, e) for e in torch.eye(self.dim)])
            tops.append(float(torch.linalg.eigvalsh(whole).abs().max()))
        return original(self, v)

    saved = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurvatureOperator, "__call__", counted)
        for turn in range(4):
            for rows in torch.randperm(300, generator=torch.Generator().manual_seed(turn)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            saved = scheduler.state_dict()
            products.append(0)
            scheduler.refresh()
        resumed = CurvatureScheduler(optimizer, net, x, y, batch=64, steps=8)
        resumed.load_state_dict(saved)  # type: ignore[arg-type]
        products.append(0)
        resumed.refresh()
    assert resumed.history[-1].largest == scheduler.history[-1].largest
    assert scheduler.history[0].largest == pytest.approx(tops[0], rel=0.1)
    assert scheduler.history[-1].largest >= 0.9 * max(tops)
    assert max(products) <= 5
    assert min(products) >= 2


def test_a_start_without_gradient_is_random() -> None:
    """At a stationary point the gradient is zero, and the curvature is not."""
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)
    x = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1]]).repeat(20, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=10.0)
    found = CurvatureScheduler(optimizer, net, x, torch.zeros(60, 1), "squared", batch=60).refresh()
    assert found.largest == pytest.approx(2 * 4 * 20 / 60, rel=1e-3)


def test_the_learner_beats_a_badly_chosen_rate_by_far() -> None:
    """From a rate a thousand times too small."""
    ends = []
    for learned in (False, True):
        net, x, y = task()
        net[1].p = 0.0  # type: ignore[union-attr]
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        scheduler = CurvatureScheduler(optimizer, net, x, y, batch=32, epochs=12, growth=1e6) if learned else None
        for epoch in range(12):
            for rows in torch.randperm(300, generator=torch.Generator().manual_seed(epoch)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            if scheduler:
                scheduler.step()
        ends.append(float(nn.functional.cross_entropy(net(x), y).detach()))
    assert ends[1] < 0.1 * ends[0]


def test_ghost_batches_are_the_curvature_of_train_mode() -> None:
    """Against central differences of train-mode gradients (torch.func's forward mode is wrong for batch normalisation); running statistics stay."""
    _, x, y = task()
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    x = x[:24].double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    A = CurvatureOperator(net, x, y[:24], kind="hessian", ghost=12)
    v = torch.randn(A.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = A(v)
    assert all(torch.equal(before[k], now) for k, now in net.state_dict().items())
    assert not net.training
    assert not net[1].training
    copied = nn.Sequential(net[0], nn.BatchNorm1d(4, track_running_stats=False), *net[2:]).double().train()
    copied[1].load_state_dict({k: before[f"1.{k}"] for k in ("weight", "bias")})

    def gradient(w: torch.Tensor) -> torch.Tensor:
        w = w.clone().requires_grad_()
        pieces = w.split([p.numel() for _, p in copied.named_parameters()])
        given = {k: t.view_as(p) for (k, p), t in zip(copied.named_parameters(), pieces, strict=True)}
        halves = [torch.func.functional_call(copied, given, (x[s : s + 12],)) for s in (0, 12)]
        return torch.autograd.grad(nn.functional.cross_entropy(torch.cat(halves), y[:24]), w)[0]

    assert [k for k, _ in net.named_parameters()] == [k for k, _ in copied.named_parameters()]
    expected = (gradient(A.point + 1e-5 * v) - gradient(A.point - 1e-5 * v)) / 2e-5
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="24 rows do not fall into ghost batches of 7"):
        CurvatureOperator(net, x, y[:24], ghost=7)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedulers = [CurvatureScheduler(optimizer, net, x, y[:24], batch=8, statistics=s) for s in ("running", "batch")]
    tops = [s.refresh().largest for s in schedulers]
    assert tops[0] != tops[1]
    assert all(torch.equal(before[k], now) for k, now in net.state_dict().items())


def test_bad_schedulers_are_named() -> None:
    net, x, y = task()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Adagrad has no momentum"):
        CurvatureScheduler(torch.optim.Adagrad(net.parameters()), net, x, y, batch=8)
    with pytest.raises(ValueError, match="larger than the data"):
        CurvatureScheduler(sgd, net, x, y, batch=301)
    with pytest.raises(ValueError, match="policy is"):
        CurvatureScheduler(sgd, net, x, y, batch=8, policy="bold")  # type: ignore[arg-type]
    scheduler = CurvatureScheduler(sgd, net, x, y, batch=8)
    with torch.no_grad():
        net[0].weight.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="diverge"):
        scheduler.refresh()
    assert net.training


def test_data_come_from_loaders_by_index(tmp_path: Path) -> None:
    _, x, y = task()
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    inputs, targets, total = materialise(loader, 0)
    assert torch.equal(inputs, x)
    assert torch.equal(targets, y)
    assert total == 300
    part, _, total = materialise(loader, 50)
    assert len(part) == 50
    assert total == 300
    with pytest.raises(ValueError, match="a batch of the data is a int"):
        materialise(iter([1]), 0)

    class Noisy(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> Any:
            return torch.randn(2), 0

    with pytest.raises(ValueError, match="augmentation"):
        materialise(Noisy(), 0)
    (tmp_path / "rates.csv").write_text("batch,predicted\n1,2\n")
    with pytest.raises(Exception, match="columns"):
        read_rates(tmp_path)


def test_how_a_rate_moves_between_batch_sizes_is_written_and_must_follow(tmp_path: Path) -> None:
    columns = {name: np.array([4.0, 2.0, 1.0]) for name in Rates.__dataclass_fields__}
    write_rates(tmp_path, Rates(**{**columns, "batch": np.array([8, 32, 128])}))
    lines = (tmp_path / "scales.csv").read_text().splitlines()
    assert lines[:3] == ["batch,sgd,linear,adam,square_root", "8,1.0,1.0,1.0,1.0", "32,2.0,4.0,1.4142135623730951,2.0"]
    assert read_rates(tmp_path).batch.tolist() == [8, 32, 128]
    (tmp_path / "scales.csv").write_text("\n".join(lines).replace("32,2.0", "32,3.0"))
    with pytest.raises(UnsafeFileError, match="does not follow"):
        read_rates(tmp_path)
