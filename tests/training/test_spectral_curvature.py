"""Operators, rows and thresholds against dense matrices, finite differences and closed forms; bad input by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.training import curvature as cu
from surefoot.training.spectral_method import MeasureRates, growth_threshold, still_trains
from surefoot.training.spectral_problem import Curvature, Plan, row_losses

SMALL = Plan((4, 20), outliers=2, steps=15, probes=1, draws=4, repeats=2, thresholds=1, trained=2)


def network(seed: int = 0, width: int = 6) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def data(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def problem(kind: Any = "ggn", **more: Any) -> Curvature:
    x, y = data()
    return Curvature(network(), x, y, kind=kind, plan=SMALL, **more)


def dense(case: Curvature, rows: Any = slice(None)) -> torch.Tensor:
    """The whole matrix by torch.func.hessian, or from the Jacobian."""
    flat = case.network
    x, y = case.inputs[rows], case.targets[rows]
    if case.kind == "hessian":
        return torch.func.hessian(lambda w: case.losses(flat(w, x), y).mean())(flat.vector())
    J = torch.func.jacrev(lambda w: flat(w, x))(flat.vector()).reshape(-1, flat.vector().numel())
    z = flat(flat.vector(), x).detach()
    C = torch.func.hessian(lambda q: case.losses(q.view_as(z), y).mean())(z.flatten())
    return J.T @ C @ J


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
@pytest.mark.parametrize("keep", [True, False])
def test_products_are_the_dense_matrix(kind: Any, keep: bool) -> None:
    case = problem(kind)
    A = cu.CurvatureOperator(case.model, case.inputs, case.targets, kind=kind, keep=keep, chunk=16, ridge=0.5)
    H = dense(case) + 0.5 * torch.eye(A.dim)
    for seed in range(2):
        v = torch.randn(A.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.allclose(A(v), H @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["ggn", "hessian", "fisher"])
def test_the_operators_gradient_is_the_losses(kind: Any) -> None:
    case = problem()
    A = cu.CurvatureOperator(case.model, case.inputs, case.targets, kind=kind, chunk=16)
    loss = lambda w: case.losses(case.network(w, case.inputs), case.targets).mean()  # noqa: E731
    assert torch.allclose(A.gradient(), torch.func.grad(loss)(A.point), rtol=1e-10)


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_ends_of_the_spectrum_agree_with_exact_eigenvalues_to_a_millionth(kind: Any) -> None:
    case = problem(kind)
    A, exact = cu.CurvatureOperator.of(case), torch.linalg.eigvalsh(dense(case))
    top = cu.top_eigenpairs(A, 3, generator=torch.Generator().manual_seed(0), tolerance=1e-7)
    assert torch.allclose(top.values, exact.flip(0)[:3], rtol=1e-6)
    low = cu.top_eigenpairs(A, generator=torch.Generator().manual_seed(0), tolerance=1e-7, end="smallest")
    assert float(low.values[0]) == pytest.approx(float(exact[0]), rel=1e-6, abs=1e-9 * float(exact[-1]))
    for value, residual in zip(top.values, top.residuals, strict=True):
        assert float((exact - value).abs().min()) <= float(residual) + 1e-12
    assert float(eigsh(A.to_scipy(), k=1, which="LA")[0][0]) == pytest.approx(float(top.values[0]), rel=1e-6)


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_never_negative() -> None:
    x, y = data()
    linear = nn.Linear(5, 3).double()
    ggn, hessian = (cu.CurvatureOperator(linear, x, y, kind=k) for k in ("ggn", "hessian"))
    v = torch.randn(ggn.dim, dtype=torch.float64)
    assert torch.allclose(ggn(v), hessian(v), atol=1e-12)
    assert float(torch.linalg.eigvalsh(dense(problem("ggn")))[0]) > -1e-12


def test_least_squares_batches_have_their_closed_form() -> None:
    """H_B = 2 X_B'X_B / B, also by rows."""
    x, _ = data()
    line = nn.Linear(5, 1, bias=False).double()
    case = Curvature(line, x, torch.zeros(40, 1, dtype=torch.float64), "squared", plan=SMALL)
    rows = torch.tensor([1, 5, 8, 30])
    v = torch.randn(5, dtype=torch.float64)
    assert torch.allclose(cu.CurvatureOperator.of(case, rows)(v), 2 * x[rows].T @ (x[rows] @ v) / 4)
    assert torch.allclose(cu.row_products(case, rows, v), 2 * x[rows] * (x[rows] @ v)[:, None])


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_variances_of_a_direction(kind: Any) -> None:
    """Against the rows' dense matrices; micro-batches of one row give the same up to the bias correction."""
    case = problem(kind)
    v = torch.randn(
        case.model[0].weight.numel() + 6 + 18 + 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )  # type: ignore[index]
    v = v / v.norm()
    images = torch.stack([dense(case, slice(i, i + 1)) @ v for i in range(case.rows)])
    exact = float(images.square().sum(dim=1).mean() - images.mean(dim=0).square().sum())
    assert cu.directional_variance(case, v, chunk=7) == pytest.approx(exact, rel=1e-9)
    assert cu.microbatch_variance(case, v, 1) == pytest.approx(exact * 40 / 39, rel=1e-9)


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_row_curvature_is_the_rows_dense_matrices_compressed(kind: Any) -> None:
    case = problem(kind)
    W = torch.linalg.qr(torch.randn(45, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    W = torch.cat([W, W.new_zeros(dense(case).shape[0] - 45, 2)])
    found = cu.row_curvature(case, torch.arange(5), W, W[:, 0])
    for i in range(5):
        H = dense(case, slice(i, i + 1))
        A = W.T @ H @ W
        R = H @ W - W @ A
        assert torch.allclose(found.center[i], A, atol=1e-12)
        assert torch.allclose(found.spread[i], R.T @ R, atol=1e-12)
        U, _, _ = torch.linalg.svd(R, full_matrices=False)
        assert float(found.own[i]) == pytest.approx(float(U[:, 0] @ H @ U[:, 0]), rel=1e-6, abs=1e-10)


def test_the_growth_threshold_is_two_over_the_hessians_top_eigenvalue() -> None:
    case = problem("ggn")
    rows = torch.arange(0, 40, 4)
    H = dense(dataclasses.replace(case, kind="hessian"), rows)
    start = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rate = growth_threshold(case, rows, start, 0.3)
    assert rate == pytest.approx(2 / float(torch.linalg.eigvalsh(H)[-1]), rel=1e-2)


def test_weight_decay_adds_to_every_eigenvalue_and_to_the_steps() -> None:
    """Against the dense matrices of the penalised loss ``f + decay |w|^2 / 2``, and its descent by hand."""
    decay, all_rows = 0.7, torch.arange(40)
    plain = dataclasses.replace(SMALL, batches=(8, 40), outliers=6, steps=45)
    case = dataclasses.replace(problem(), plan=plain)
    decayed = dataclasses.replace(case, plan=dataclasses.replace(plain, weight_decay=decay))
    before, after = (solve(c, MeasureRates(), certify=False).answer for c in (case, decayed))
    top = float(torch.linalg.eigvalsh(dense(case))[-1])
    assert after.measured[-1] == pytest.approx(top + decay, rel=1e-5)
    assert after.rate == pytest.approx(2 / (2 / before.rate + decay))
    for name in ("predicted", "theorem", "isotropic", "measured"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) + decay)
    assert after.damping == pytest.approx(before.damping)
    assert after.damping[-1] == pytest.approx(0)
    assert after.damping[0] == pytest.approx((before.theorem[0] - before.theorem[-1]) / 2, rel=1e-4)
    H = dense(dataclasses.replace(case, kind="hessian")) + decay * torch.eye(case.network.vector().numel())
    start = torch.randn(len(H), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rate = growth_threshold(decayed, all_rows, start, 0.3)
    assert rate == pytest.approx(2 / float(torch.linalg.eigvalsh(H)[-1]), rel=1e-2)
    # where the loss is flat, decay alone multiplies the weights: they grow from a rate of 2 / decay on
    line = nn.Linear(5, 1, bias=False).double()
    flat = Curvature(
        line, case.inputs, torch.ones(40, 1).double(), lambda z, y: 0 * z[:, 0] + 1 + z[:, 0] ** 4, plan=plain
    )
    flat = dataclasses.replace(flat, plan=dataclasses.replace(plain, weight_decay=decay, trained=40))
    assert still_trains(flat, 40, 0.01, Streams(0))
    assert not still_trains(flat, 40, 2.5 / decay, Streams(0))
    with pytest.raises(ValueError, match=r"the weight decay is -1; expected a number >= 0"):
        dataclasses.replace(plain, weight_decay=-1)


def test_adams_preconditioned_curvature() -> None:
    case = problem("hessian")
    A = cu.CurvatureOperator.of(case)
    second = torch.rand(A.dim, dtype=torch.float64) + 0.1
    D = torch.diag((second.sqrt() + 1e-8).rsqrt())
    v = torch.randn(A.dim, dtype=torch.float64)
    assert torch.allclose(cu.preconditioned(A, second)(v), D @ dense(case) @ D @ v, atol=1e-10)


def test_zero_curvature_gives_zeros() -> None:
    x, _ = data()
    model = nn.Linear(5, 1).double()
    A = cu.CurvatureOperator(model, x, x[:, :1], lambda z, y: z[:, 0], kind="hessian")
    found = cu.top_eigenpairs(A, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.values, torch.zeros(2, dtype=torch.float64))


def test_all_rows_as_the_batch_are_predicted_and_measured_exactly() -> None:
    case = dataclasses.replace(problem(), plan=dataclasses.replace(SMALL, batches=(8, 40), outliers=6, steps=45))
    found = solve(case, MeasureRates(), certify=False).answer
    exact = float(torch.linalg.eigvalsh(dense(case))[-1])
    assert found.measured[-1] == pytest.approx(exact, rel=1e-5)
    assert found.theorem[-1] == pytest.approx(exact, rel=1e-5)


def test_the_empirical_fisher_is_the_covariance_of_the_rows_gradients() -> None:
    case = problem()
    A = cu.CurvatureOperator(case.model, case.inputs, case.targets, kind="fisher", chunk=16)
    flat = case.network
    G = torch.func.jacrev(lambda w: case.losses(flat(w, case.inputs), case.targets))(flat.vector())
    v = torch.randn(A.dim, dtype=torch.float64)
    assert torch.allclose(A(v), G.T @ (G @ v) / case.rows, atol=1e-12)


def test_shrinkage_keeps_what_rows_agree_on() -> None:
    """Equal rows have no spread; very few noisy micro-batches shrink more than many."""
    x, y = data()
    same = Curvature(network(), x[:1].expand(40, 5).clone(), y[:1].expand(40).clone(), plan=SMALL)
    seed = lambda: torch.Generator().manual_seed(2)  # noqa: E731
    assert cu.shrinkage(same, 4, seed()) == pytest.approx(1.0)
    assert 0 <= cu.shrinkage(problem(), 1, seed()) < 1
    with pytest.raises(ValueError, match="at least 2"):
        cu.shrinkage(problem(), 30, seed())


# ---- bad input ----------------------------------------------------------------------------------------------------
def frozen() -> nn.Module:
    return network().requires_grad_(False)


def idle() -> nn.Module:
    made = network()
    made.register_parameter("spare", nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    return made


def diverged() -> nn.Module:
    made = network()
    with torch.no_grad():
        made[0].weight[0, 0] = float("nan")  # type: ignore[index]
    return made


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.memory(x[..., None])[0][:, -1])


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.inner(x)
        return z - z.mean(dim=0)


def norm(train: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double().train(train)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (frozen, "no parameter of the model requires a gradient"),
        (idle, "does not reach the parameters spare"),
        (diverged, r"'0.weight' hold NaN.*diverge"),
        (lambda: norm(True), r"module '1' \(BatchNorm1d\) is in train mode"),
        (lambda: nn.Sequential(nn.Dropout(0.5), network()).train(), r"module '0' \(Dropout\)"),
        (Centred, "depends on the other rows"),
        (lambda: Recurrent().double(), r"no second derivatives row by row.*memory \(LSTM\)"),
        (lambda: nn.Linear(7, 3).double(), r"does not take these inputs: in model \(Linear\)"),
    ],
)
def test_unsuitable_models_are_named(model: Any, word: str) -> None:
    x, y = data()
    with pytest.raises(ValueError, match=word):
        Curvature(model(), x, y, plan=SMALL)


def test_batch_normalisation_with_running_statistics_is_fine() -> None:
    x, y = data()
    assert Curvature(norm(False), x, y, plan=SMALL).rows == 40


def test_unsuitable_data_are_named() -> None:
    x, y = data()
    bad = x.clone()
    bad[7, 2] = float("inf")
    with pytest.raises(ValueError, match=r"inputs hold NaN or infinite numbers \(row 7\)"):
        Curvature(network(), bad, y, plan=SMALL)
    with pytest.raises(ValueError, match=r"batch size 64 is larger than the data \(40 rows\)"):
        Curvature(network(), x, y, plan=Plan((8, 64)))
    with pytest.raises(ValueError, match="40 inputs and 39 targets"):
        Curvature(network(), x, y[:39], plan=SMALL)
    with pytest.raises(ValueError, match="fewer than the 40 rows"):
        Curvature(network(), x, y, plan=SMALL, population=12)
    with pytest.raises(ValueError, match="different sizes >= 1"):
        Plan((0, 4))


def test_losses_that_are_no_mean_of_rows_are_refused() -> None:
    x, y = data()
    with pytest.raises(ValueError, match="reduction='sum'"):
        row_losses(nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(ValueError, match=r"expected one loss a row, \(3,\)"):
        Curvature(network(), x, y, lambda z, t: nn.functional.cross_entropy(z, t), plan=SMALL)
    own, torch_loss = row_losses("cross-entropy"), row_losses(nn.CrossEntropyLoss())
    z = network()(x)
    assert torch.equal(own(z, y), torch_loss(z, y))


def test_networks_are_reproducible() -> None:
    from surefoot.training.spectral_networks import NETWORKS, make

    for name in NETWORKS:
        first, second = (make(name, 8, Streams(4)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert np.isfinite(first(torch.ones(2, 1, 8, 8)).detach().numpy()).all()
