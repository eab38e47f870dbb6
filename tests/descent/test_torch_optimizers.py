"""The torch optimisers: torch's own SGD where it is the same method, storage, output point, backtracking, state."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch

from surefoot.descent import momentum_parameters
from surefoot.optim import HB, NAG, RMM, TMM

M, L = 0.5, 8.0
H = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ALL = [NAG, TMM, RMM, HB]


def loss_of(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (H * x**2).sum()


def closure_of(optimizer, x):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        return loss

    return closure


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(START.clone())


@pytest.mark.parametrize(("name", "kind", "nesterov"), [("nag", NAG, True), ("hb", HB, False)])
def test_torchs_own_momentum_is_the_same_method(name: str, kind, nesterov: bool) -> None:
    chosen = momentum_parameters(name, M, L)
    x, y = parameter(), parameter()
    ours = kind([x], m=M, L=L)
    theirs = torch.optim.SGD([y], lr=chosen.step_size, momentum=chosen.momentum, nesterov=nesterov)
    for _ in range(30):
        ours.step(closure_of(ours, x))
        theirs.step(closure_of(theirs, y))
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ALL)
def test_all_converge_no_slower_than_their_rate(kind) -> None:
    x = parameter()
    optimizer = kind([x], m=M, L=L)
    q = math.sqrt(M / L)
    rate = {NAG: math.sqrt(1 - q), TMM: 1 - q, RMM: (1 - q + 1 - M / L) / 2, HB: (1 - q) / (1 + q)}[kind]
    for _ in range(60):
        optimizer.step(closure_of(optimizer, x))
    with optimizer.at_output():
        reached = float(x.detach().norm())
    # a double root at the rate costs a factor of the number of steps
    assert reached <= 60 * 4 * rate**60 * float(START.norm())


def test_the_output_point_is_held_for_the_duration_only() -> None:
    """For triple momentum it is the second state of the splitting form, z_{k+1} = (1 - q) z_k + q (y_k - g_k / m)."""
    x = parameter()
    optimizer = TMM([x], m=M, L=L)
    with optimizer.at_output():
        assert torch.equal(x.detach(), START)
    q, z = math.sqrt(M / L), START.clone()
    for _ in range(12):
        y = x.detach().clone()
        z = (1 - q) * z + q * (y - H * y / M)
        optimizer.step(closure_of(optimizer, x))
    held = x.detach().clone()
    with optimizer.at_output():
        torch.testing.assert_close(x.detach(), z, rtol=1e-10, atol=1e-13)
        assert not torch.equal(x.detach(), held)
    assert torch.equal(x.detach(), held)
    with pytest.raises(RuntimeError, match="inside"), optimizer.at_output():
        raise RuntimeError("inside")
    assert torch.equal(x.detach(), held)


def test_storage_falls_by_its_factor_and_the_gap_is_bounded() -> None:
    x = parameter()
    optimizer = NAG([x], m=M, L=L)
    q, before = math.sqrt(M / L), None
    for _ in range(40):
        point = x.detach().clone()
        optimizer.step(closure_of(optimizer, x))
        with optimizer.at_output():
            loss = float(loss_of(x.detach()))
        value = optimizer.storage(loss, 0.0, [torch.zeros(3, dtype=torch.float64)])
        assert value >= optimizer.storage(loss, 0.0) == loss
        if before is not None:
            assert value <= (1 - q) * before * (1 + 1e-9)
        before = value
        assert optimizer.gap_bound() == pytest.approx(float((H * point).square().sum()) / (2 * M))
        assert optimizer.gap_bound() >= float(loss_of(point))
    assert before < 1e-3


@pytest.mark.parametrize("kind", [NAG, TMM])
def test_backtracking_doubles_until_the_descent_lemma_holds(kind) -> None:
    x = parameter()
    optimizer = kind([x], m=0.1, L=0.3, backtracking=True)
    for _ in range(150):
        optimizer.step(closure_of(optimizer, x))
    # 0.3 * 2^5 = 9.6 is the first that is at least 8; the lemma along the gradients met may be content a little earlier
    assert optimizer.param_groups[0]["L"] in (2.4, 4.8, 9.6)
    with optimizer.at_output():
        assert float(loss_of(x.detach())) < 1e-6


def test_backtracking_needs_a_closure_and_an_honest_gradient() -> None:
    x = parameter()
    optimizer = NAG([x], m=0.1, L=0.3, backtracking=True)
    loss_of(x).backward()
    with pytest.raises(ValueError, match="needs step\\(closure\\)"):
        optimizer.step()

    def liar():
        x.grad = -torch.ones(3, dtype=torch.float64)
        return torch.exp(100 * x.detach().sum())

    with pytest.raises(ValueError, match="is the closure's gradient that of its loss"):
        optimizer.step(liar)


@pytest.mark.parametrize("kind", ALL)
def test_a_saved_state_goes_on_bit_for_bit(kind) -> None:
    x = parameter()
    optimizer = kind([x], m=M, L=L)
    for _ in range(7):
        optimizer.step(closure_of(optimizer, x))
    stored = io.BytesIO()
    torch.save({"x": x.detach(), "optimizer": optimizer.state_dict()}, stored)
    stored.seek(0)
    read = torch.load(stored, weights_only=True)
    y = torch.nn.Parameter(read["x"])
    other = kind([y], m=M, L=L)
    other.load_state_dict(copy.deepcopy(read["optimizer"]))
    for _ in range(7):
        optimizer.step(closure_of(optimizer, x))
        other.step(closure_of(other, y))
    assert torch.equal(x.detach(), y.detach())


def test_groups_schedules_and_unused_parameters() -> None:
    x, y, idle = parameter(), parameter(), parameter()
    optimizer = NAG([{"params": [x]}, {"params": [y, idle], "L": 16.0}], m=M, L=L)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    (loss_of(x) + loss_of(y)).backward()
    optimizer.step()
    # first step: x_1 = x_0 - lr g / L, y_1 = x_1 + gamma (x_1 - x_0), with each group's own L
    for point, smoothness in ((x, 8.0), (y, 16.0)):
        gamma = momentum_parameters("nag", M, smoothness).extrapolation
        torch.testing.assert_close(point.detach(), START - (1 + gamma) * H * START / smoothness, rtol=1e-12, atol=0)
    assert torch.equal(idle.detach(), START)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("kind", ALL)
def test_bad_constants_are_named(kind) -> None:
    for options, match in (
        ({"m": 0.0, "L": 1.0}, "m must be positive"),
        ({"m": 2.0, "L": 1.0}, "m must be smaller than L"),
        ({"kappa": 1.0}, "kappa = L / m must be larger than 1"),
        ({"m": math.nan, "L": 1.0}, "finite"),
    ):
        with pytest.raises(ValueError, match=match):
            kind([parameter()], **options)
    with pytest.raises(ValueError, match="rate must lie in"):
        RMM([parameter()], m=M, L=L, rate=0.1)
    assert kind([parameter()], L=10.0, kappa=100.0).param_groups[0]["m"] == pytest.approx(0.1)
