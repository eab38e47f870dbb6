"""What `sampling="auto"` learns of smoothness and costs, and what it chooses."""

import pytest
import torch
from torch import nn

from dropped_networks import batch, dense, loss_of, seeded, train
from surefoot.training import Auto, DropMuon
from surefoot.training.drop_muon_costs import fit_costs, measure_costs


def test_auto_keeps_its_momentum_unless_told():
    for a, kept in ((None, 0.9), (1.0, 0.9**2)):
        x = [nn.Parameter(torch.zeros(3, 3)) for _ in range(2)]
        optimizer = DropMuon(x, momentum=0.9, sampling=Auto(costs=(1.0, 2.0, 1.0)), momentum_compensation=a)
        optimizer.restore({**optimizer.remembered(), "cutoffs": [0.5, 0.5]})
        optimizer.draw_exactly(range(2))
        sum(p.trace() for p in x).backward()
        optimizer.step()
        assert torch.allclose(optimizer.state[x[0]]["momentum_buffer"], (1 - kept) * torch.eye(3), atol=1e-6)


def test_auto_measures_and_decides():
    """The first layer is made smoother than the second, so that it is worth leaving alone."""
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 12, bias=False), nn.Linear(12, 5, bias=False)))
    optimizer = DropMuon(
        [{"params": [model[0].weight], "layer": 0}, {"params": [model[1].weight], "layer": 1}],
        lr=1e-4,
        sampling=Auto(costs=(1.0, 2.0, 1.0), probe_every=10),
    )
    x, y = batch(model)
    x = 0.1 * x  # the gradient of the first layer is proportional to its input ...
    with torch.no_grad():
        model[0].weight.mul_(10.0)  # ... and that of the second to what the first gives, which is as before

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    before = optimizer.inclusion
    for _ in range(21):
        optimizer.step(closure)
    L = optimizer.smoothness()
    assert before == [1.0, 1.0]
    assert L[0] < 0.5 * L[1]
    assert optimizer.inclusion[0] == pytest.approx(max(L[0] / max(L), 0.25), rel=1e-6)
    assert optimizer.predicted_saving() > 0.03


def test_auto_times_what_it_chose_and_gives_up_what_times_do_not_confirm(monkeypatch):
    """The clock is ours: leaving the first layer alone saves half a step, or nothing."""
    for saves, chosen in ((True, 0.25), (False, 1.0)):
        x = [nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(3)]
        optimizer = DropMuon(x, lr=1e-3, norm="euclidean", sampling=Auto(rounds=2, probe_every=10), seed=1)
        now = [0.0]
        monkeypatch.setattr("surefoot.training.drop_muon.time.perf_counter", lambda now=now: now[0])

        def closure(x=x, optimizer=optimizer, now=now, saves=saves):
            optimizer.zero_grad()
            loss = sum(s * (p**2).sum() / 2 for s, p in zip((1.0, 5.0, 2.0), x, strict=True))
            loss.backward()
            now[0] += 2.0 if optimizer.drawn[0] == 0 or not saves else 1.0
            return loss

        for _ in range(12):
            optimizer.step(closure)
        assert optimizer.inclusion == pytest.approx([0.25, 1.0, 1.0])  # tried
        for _ in range(40):
            optimizer.step(closure)
        assert optimizer.inclusion == pytest.approx([chosen, 1.0, 1.0])
        costs = optimizer.costs()
        assert (costs.step(0), costs.step(1)) == pytest.approx((2.0, 1.0 if saves else 2.0))


def test_smoothness_of_a_quadratic_is_found():
    """f = l |X|^2 / 2 by layers: the Euclidean secant is l exactly."""
    x = [nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(3)]
    sizes = (1.0, 5.0, 2.0)
    optimizer = DropMuon(x, lr=1e-3, norm="euclidean", sampling=Auto(costs=(1, 1, 1, 1), probe_every=4, exact=True))

    def closure():
        optimizer.zero_grad()
        loss = sum(s * (p**2).sum() / 2 for s, p in zip(sizes, x, strict=True))
        loss.backward()
        return loss

    before = [p.detach().clone() for p in x]
    optimizer.probe(closure)
    assert optimizer.smoothness() == pytest.approx(sizes, rel=1e-6)
    assert optimizer.inclusion == pytest.approx([1.0, 1.0, 1.0])  # the new distribution is that of the next draw
    assert all(torch.equal(p, q) for p, q in zip(before, x, strict=True))
    assert optimizer.steps_done == 0
    for _ in range(5):
        optimizer.step(closure)
    assert optimizer.inclusion == pytest.approx([0.25, 1.0, 1.0], rel=1e-6)
    for _ in range(25):
        optimizer.step(closure)
    assert optimizer.generalised_smoothness(1)[0] == pytest.approx(5.0, rel=1e-6)


def test_auto_without_a_closure_says_what_is_missing():
    model = seeded(dense)
    optimizer = DropMuon(model, sampling=Auto(costs=(1, 1, 1, 1, 1), probe_every=10))
    with pytest.warns(UserWarning, match="probe"):
        train(model, optimizer, 6)


def test_measured_costs_fall_with_the_cutoff_and_nothing_is_changed():
    model = seeded(lambda: nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(256, 256), nn.ReLU())]))
    optimizer = DropMuon(model)
    train_state = [p.detach().clone() for p in model.parameters()]
    x = torch.randn(256, 256)

    def step():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    costs, times = measure_costs(optimizer, step, rounds=3)
    assert all(len(values) == 3 for values in times.values())
    assert costs.step(0) > costs.step(3) > 0
    assert all(torch.equal(p, q) for p, q in zip(train_state, model.parameters(), strict=True))
    assert optimizer.steps_done == 0
    assert fit_costs({0: [4.0], 2: [2.0]}, 3).as_tuple() == pytest.approx((2.0, 1.0, 1.0, 0.0))
