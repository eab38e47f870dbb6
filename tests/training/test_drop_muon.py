"""DropMuon: what is drawn moves as Muon does, what is not costs nothing and stays bit for bit."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dropped_networks import NETWORKS, Tied, batch, convolutional, dense, loss_of, seeded, train
from surefoot.numerics.spectral_matrix import dual_norm, polar, primal_norm
from surefoot.training import Auto, DropMuon, EpochShift, SplitSequential, Subsets, layers_from_module
from surefoot.training.drop_muon_costs import count_costs

NO_DROP = {"sampling": "full"}


def test_full_is_torch_s_muon_bit_for_bit():
    ours, theirs = (
        seeded(lambda: nn.Sequential(nn.Linear(12, 30, bias=False), nn.Tanh(), nn.Linear(30, 5, bias=False)))
        for _ in range(2)
    )
    a = DropMuon(ours.parameters(), lr=0.03, weight_decay=0.1, ns_dtype=torch.bfloat16, sampling="full")
    b = torch.optim.Muon(theirs.parameters(), lr=0.03, weight_decay=0.1)
    x, y = batch(ours)
    for _ in range(20):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            loss_of(model, x, y).backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["freeze", "inputs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_drawn_gradients_are_those_of_a_full_pass_and_others_do_not_exist(name, mode):
    model = seeded(NETWORKS[name])
    optimizer = DropMuon(model, mode=mode)
    x, y = batch(model)
    with optimizer.thawed():
        whole = torch.autograd.grad(loss_of(model, x, y), list(model.parameters()))
    wanted = dict(zip(model.parameters(), whole, strict=True))
    for start in range(optimizer.layers):
        optimizer.draw_exactly(range(start, optimizer.layers))
        optimizer.zero_grad()
        optimizer.backward(loss_of(model, x, y))
        for p, g in wanted.items():
            if optimizer.layer_of(p) >= start:
                assert torch.equal(p.grad, g)
            else:
                assert p.grad is None


@pytest.mark.parametrize("norm", [None, "sign", "euclidean", "sgd", "adamw"])
def test_layers_that_are_not_drawn_stay_bit_for_bit(norm):
    model = seeded(convolutional)
    optimizer = DropMuon(model.parameters(), norm=norm, weight_decay=0.1, seed=3)
    moved = np.zeros(optimizer.layers, dtype=bool)
    for _ in range(25):
        before = {p: (p.detach().clone(), copy.deepcopy(optimizer.state.get(p, {}))) for p in model.parameters()}
        drawn = optimizer.drawn
        train(model, optimizer, 1)
        for p, (weights, state) in before.items():
            i = optimizer.layer_of(p)
            if i in drawn:
                moved[i] |= not torch.equal(p, weights)
                continue
            assert torch.equal(p, weights)
            assert all(torch.equal(v, optimizer.state[p][k]) for k, v in state.items())
    assert moved.all()


def test_the_backward_pass_really_stops():
    """Operations of the backward pass at each cutoff, beside (2 (8 - c) - 1) / 15 of equal blocks."""
    model = seeded(lambda: nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(64, 64, bias=False), nn.ReLU())]))
    optimizer = DropMuon(model.parameters())
    x = torch.randn(32, 64)

    def gradient():
        optimizer.zero_grad()
        model(x).square().mean().backward()

    costs = count_costs(optimizer, gradient)
    product, update = 2.0 * 32 * 64 * 64, 5 * 2.0 * 64**2 * 3 * 64
    for c in range(8):
        assert costs.step(c) == pytest.approx(8 * product + (2 * (8 - c) - 1) * product + (8 - c) * update, rel=1e-6)
    assert costs.expected([1 / 8] * 8) / costs.step(0) < 0.7


def test_draws_are_addressed_and_do_not_depend_on_the_mode():
    def draws(**how):
        model = seeded(dense)
        optimizer = DropMuon(model, **how)
        found = []
        for _ in range(30):
            found.append(optimizer.drawn)
            train(model, optimizer, 1)
        return found

    assert draws(seed=5) == draws(seed=5, mode="inputs") == draws(seed=5, lr=0.1)
    assert draws(seed=5) != draws(seed=6)
    assert len(set(draws(seed=5))) == 8  # the last layer always
    assert len(set(draws(seed=5, sampling="uniform"))) == 4


@pytest.mark.parametrize(
    "sampling", ["uniform", Auto(costs=(1, 1, 1, 1, 1), probe_every=7), EpochShift(4, steps_per_epoch=6)]
)
def test_a_saved_run_goes_on_bit_for_bit(sampling):
    def closure_for(model, optimizer):
        x, y = batch(model)

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            return loss

        return closure

    first = seeded(dense)
    a = DropMuon(first, sampling=sampling, weight_decay=0.01)
    for _ in range(11):
        a.step(closure_for(first, a))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": a.state_dict()}, file)
    for _ in range(14):
        a.step(closure_for(first, a))
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    second = dense()
    second.load_state_dict(kept["model"])
    b = DropMuon(second, sampling=sampling, weight_decay=0.01)
    b.load_state_dict(kept["optimizer"])
    for _ in range(14):
        b.step(closure_for(second, b))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert a.drawn == b.drawn
    assert a.smoothness() == b.smoothness()


def test_accumulation_keeps_the_set():
    model = seeded(dense)
    optimizer = DropMuon(model, seed=1)
    twin = seeded(dense)
    other = DropMuon(twin, seed=1)
    x, y = batch(model, 16)
    for _ in range(10):
        drawn = optimizer.drawn
        optimizer.zero_grad()
        for part in (slice(0, 8), slice(8, 16)):
            (loss_of(model, x[part], y[part]) / 2).backward()
            assert optimizer.drawn == drawn
        optimizer.step()
        train(twin, other, 1, (x, y))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-3)


def test_autocast_and_a_scaler_that_skips_a_step():
    model = seeded(dense)
    optimizer = DropMuon(model, seed=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    x, y = batch(model)
    for k in range(6):
        drawn, before = optimizer.drawn, [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, x, y)
        scaler.scale(loss * (float("inf") if k == 3 else 1.0)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if k == 3:  # skipped: nothing moved, the same set is tried again
            assert optimizer.drawn == drawn
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.steps_done == 5


def test_sharp_steps_descend_as_much_as_smoothness_promises():
    """f = |A X - C|^2 / 2 has L = |A|^2 in the Frobenius norm, and rank times that in the spectral norm."""
    A, C = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    largest = float(torch.linalg.matrix_norm(A, 2)) ** 2
    for norm, L in (("euclidean", largest), ("spectral", 4 * largest), ("sign", 20 * largest)):
        X = nn.Parameter(torch.zeros(5, 4, dtype=torch.float64))
        optimizer = DropMuon(
            [X], step="sharp", gamma=1 / L, norm=norm, momentum=0.0, orthogonalise="exact", sampling="full"
        )
        for _ in range(20):
            optimizer.zero_grad()
            loss = ((A @ X - C) ** 2).sum() / 2
            loss.backward()
            promised = float(dual_norm(X.grad, norm)) ** 2 / (2 * L)
            optimizer.step()
            after = float(((A @ X.detach() - C) ** 2).sum()) / 2
            assert float(loss.detach()) - after >= promised * (1 - 1e-9)
            assert promised > 0


def test_sharp_and_lmo_steps_have_the_lengths_of_the_theory():
    M = torch.randn(6, 4, dtype=torch.float64)
    for norm in ("spectral", "sign", "euclidean"):
        for step, how, length in (
            ("lmo", {"lr": 0.3, "scale": "none"}, 0.3),
            ("sharp", {"gamma": 0.01}, 0.01 * float(dual_norm(M, norm))),
            ("sharp", {"gamma": (2.0, 0.5)}, float(dual_norm(M, norm)) / (2 + 0.5 * float(dual_norm(M, norm)))),
        ):
            X = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
            optimizer = DropMuon([X], norm=norm, step=step, momentum=0.0, orthogonalise="exact", **how)
            (M * X).sum().backward()
            optimizer.step()
            assert float(primal_norm(X.detach(), norm)) == pytest.approx(length)
            assert float((M * X.detach()).sum()) == pytest.approx(-length * float(dual_norm(M, norm)))
    kernel = nn.Parameter(torch.zeros(4, 2, 3, 3))
    optimizer = DropMuon([kernel], lr=1.0, momentum=0.0, orthogonalise="exact", scale="match_rms_adamw")
    g = torch.randn(4, 2, 3, 3)
    (g * kernel).sum().backward()
    optimizer.step()
    assert torch.allclose(kernel.detach().reshape(4, 18), -0.2 * 18**0.5 * polar(g.reshape(4, 18)), atol=1e-5)


def test_rare_layers_may_step_further():
    for c in (0.0, 0.5, 1.0):
        x = [nn.Parameter(torch.zeros(3, 3)) for _ in range(4)]
        optimizer = DropMuon(x, lr=0.1, momentum=0.0, orthogonalise="exact", sampling="uniform", lr_compensation=c)
        optimizer.draw_exactly(range(4))
        sum(p.trace() for p in x).backward()
        optimizer.step()
        lengths = [float(torch.linalg.matrix_norm(p.detach(), 2)) for p in x]
        assert lengths == pytest.approx([0.1 * (4 / (i + 1)) ** c for i in range(4)], rel=1e-4)


@pytest.mark.parametrize("sampling", ["independent", "uniform", "full"])
def test_by_default_a_layer_moves_as_far_on_average_as_in_full_muon_up_to_four_times_the_rate(sampling):
    x = [nn.Parameter(torch.zeros(3, 3)) for _ in range(8)]
    optimizer = DropMuon(x, lr=0.1, momentum=0.0, orthogonalise="exact", sampling=sampling)
    optimizer.draw_exactly(range(8))
    sum(p.trace() for p in x).backward()
    optimizer.step()
    lengths = [float(torch.linalg.matrix_norm(p.detach(), 2)) for p in x]
    drawn = {"full": [1.0] * 8, "independent": [0.4] * 7 + [1.0]}.get(
        sampling, [1 / 4, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0]
    )
    assert lengths == pytest.approx([0.1 / p for p in drawn], rel=1e-4)


@pytest.mark.parametrize(("a", "kept"), [(None, 0.9**2.5), (0.0, 0.9), (0.5, 0.9 ** (0.4**-0.5)), (1.0, 0.9**2.5)])
def test_a_rarely_drawn_layer_forgets_as_much_a_step_of_the_run_as_in_full_muon(a, kept):
    x = [nn.Parameter(torch.zeros(3, 3)) for _ in range(3)]
    optimizer = DropMuon(x, lr=0.1, momentum=0.9, momentum_compensation=a)
    optimizer.draw_exactly(range(3))
    sum(p.trace() for p in x).backward()
    optimizer.step()
    for p, beta in zip(x, (kept, kept, 0.9), strict=True):
        assert torch.allclose(optimizer.state[p]["momentum_buffer"], (1 - beta) * torch.eye(3), atol=1e-6)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_any_sets_of_layers():
    model = seeded(dense)
    optimizer = DropMuon(model, sampling=Subsets(4, {(0, 3): 0.5, (1,): 0.25, (2, 3): 0.25}))
    seen = set()
    for _ in range(30):
        seen.add(optimizer.drawn)
        train(model, optimizer, 1)
    assert seen == {(0, 3), (1,), (2, 3)}


def test_layers_of_a_module():
    groups = layers_from_module(convolutional())
    assert [(g["layer"], g["kind"], g["norm"], len(g["params"])) for g in groups] == [
        (0, "convolution", "spectral", 1), (0, "vector", "adamw", 3), (1, "convolution", "spectral", 1), (1, "vector", "adamw", 3),
        (2, "head", "adamw", 1), (2, "vector", "adamw", 1),
    ]  # fmt: skip
    tied = Tied()
    groups = layers_from_module(tied, norms={"embedding": "sign"})
    assert groups[0]["names"] == ["out.weight"] or groups[0]["names"] == ["table.weight"]
    assert groups[0]["norm"] == "sign"
    assert sum(len(g["params"]) for g in groups) == len(list(tied.parameters()))


def test_layers_come_in_the_order_of_use():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            return self.last(self.first(x))

    model = Backwards()
    names = [g["names"][0] for g in layers_from_module(model, example=torch.zeros(1, 3)) if g["kind"] != "vector"]
    assert names == ["first.weight", "last.weight"]
    model.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="never uses"):
        layers_from_module(model, example=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"leave out trainable parameters: \['first.weight'"):
        layers_from_module(model, blocks=[model.last, model.unused])


def test_statistics_of_batch_norms_are_kept_on_request():
    for held in (False, True):
        model = seeded(convolutional)
        optimizer = DropMuon(model, frozen_statistics=held)
        optimizer.draw_exactly([2])
        before = model[1].running_mean.clone()
        train(model, optimizer, 1)
        assert torch.equal(before, model[1].running_mean) == held


def test_compiled_blocks_train_as_plain_ones():
    """Each block is compiled alone: at most four combinations of what requires a gradient, whatever the number of cutoffs."""
    plain, compiled = seeded(lambda: dense(10)), seeded(lambda: dense(10))
    torch._dynamo.reset()
    for block in compiled:
        block.compile(backend="aot_eager")
    a, b = DropMuon(plain, seed=4), DropMuon(compiled, seed=4)
    torch._dynamo.utils.counters.clear()
    train(plain, a, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(compiled, b, 24)
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)
    assert not any("recompile_limit" in key for key in torch._dynamo.utils.counters["unimplemented"])


def test_split_blocks_keep_nothing_of_the_first_part():
    plain, blocks = seeded(dense), seeded(lambda: SplitSequential(*dense()))
    a, b = DropMuon(plain, seed=4), DropMuon(blocks, seed=4, mode="split")
    b.draw_exactly([2, 3])
    assert blocks.cut == 4
    seen = []
    blocks[2].register_forward_hook(lambda m, args, out: seen.append(out.grad_fn))
    blocks[4].register_forward_hook(lambda m, args, out: seen.append(args[0].grad_fn))
    loss_of(blocks, *batch(plain)).backward()
    assert seen == [None, None]
    with b.thawed():
        assert blocks.cut == 0
    b.sample()
    b.restore(b.remembered())
    for _ in range(12):
        train(plain, a, 1)
        train(blocks, b, 1, batch(plain))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), blocks.parameters(), strict=True))


def test_distributed_checkpoints_carry_the_draws():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    first = seeded(dense)
    a = DropMuon(first, seed=7)
    train(first, a, 9)
    with a.thawed():
        saved = get_optimizer_state_dict(first, a)
    second = copy.deepcopy(dense())
    second.load_state_dict(first.state_dict())
    b = DropMuon(second, seed=7)
    with b.thawed():
        set_optimizer_state_dict(second, b, copy.deepcopy(saved))
    assert (b.steps_done, b.drawn) == (a.steps_done, a.drawn)
    train(first, a, 9)
    train(second, b, 9)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_a_copy_goes_on_alone():
    model = seeded(dense)
    optimizer = DropMuon(model, seed=4)
    train(model, optimizer, 3)
    twin, other = copy.deepcopy((model, optimizer))
    train(model, optimizer, 5)
    train(twin, other, 5)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda x: DropMuon(x, lr=-1), "lr"),
        (lambda x: DropMuon(x, momentum=1.0), "momentum"),
        (lambda x: DropMuon(x, norm="nuclear"), "norm"),
        (lambda x: DropMuon(x, step="sharp"), "gamma"),
        (lambda x: DropMuon(x, mode="thaw"), "mode"),
        (lambda x: DropMuon(x, mode="split"), "SplitSequential"),
        (lambda x: DropMuon(x, sampling=[0.5, 0.5]), "2 layers; the optimiser has 3"),
        (lambda x: DropMuon(x, sampling=Auto(costs=(1, 1))), "costs"),
        (lambda x: DropMuon(x, ns_dtype=torch.float16), "float16"),
        (lambda x: DropMuon([x[0], x[0]]), "duplicate"),
        (lambda x: DropMuon([{"params": [x[0]], "layer": 0}, {"params": [x[1]]}]), "layer"),
        (lambda x: DropMuon([nn.Parameter(torch.zeros(2, dtype=torch.complex64))]), "complex"),
        (lambda x: DropMuon(x).draw_exactly([]), "at least one"),
        (lambda x: DropMuon(x).load_state_dict(torch.optim.SGD(x, lr=0.1).state_dict()), "not a state of DropMuon"),
        (lambda x: DropMuon(x, lr_compensation=2), "lr_compensation"),
        (lambda x: DropMuon(x, momentum_compensation=-1), "momentum_compensation"),
        (lambda x: DropMuon(x, seed=-1), "seed"),
    ],
)
def test_bad_input_is_named(make, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=match):
            make([nn.Parameter(torch.randn(3, 3)) for _ in range(3)])


def test_sparse_gradients_are_named():
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = DropMuon(table.parameters(), norm="sign")
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
