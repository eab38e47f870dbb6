"""The card: proved descent on least squares, automatic sampling, text, real digits, bad input."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

import surefoot
from surefoot.core.rundir import RunReader
from surefoot.testing import check_certificate
from surefoot.training.drop_muon_card import CARD
from surefoot.training.drop_muon_method import LeastSquaresMuon
from surefoot.training.drop_muon_problem import least_squares

SHORT = {"steps": 20, "width": 4, "depth": 2, "batch": 40}


def verdicts(folder):
    return {v.claim: v for v in surefoot.verify(folder, write=False)}


def images(tmp_path, n=120, classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    x = rng.random((n, 8, 8), dtype=np.float32)
    x[:, 0] += labels[:, None]
    np.savez(tmp_path / "images.npz", images=x / 4, labels=labels)
    return tmp_path / "images.npz"


def test_least_squares_claims_survive_no_spoil(tmp_path):
    card = dataclasses.replace(
        CARD, tiny_options={"problem": "least-squares", "steps": 12, "depth": 2}, tiny_inputs=None
    )
    assert check_certificate(card, tmp_path) > 20


@pytest.mark.parametrize("sampling", ["full", "uniform", "optimal"])
def test_the_sheet_s_theory(sampling):
    """b = 4, K = 300: the mean over seeds of (1 / K) sum P_i / L_i |g_i|*^2 is below 2 Delta / K, and f falls below 1e-7."""
    from surefoot.core.solve import solve

    problem = least_squares(4, seed=1)
    method = LeastSquaresMuon(300, sampling)
    L = np.array([c.value for c in problem.smoothness])
    P = np.cumsum(method.cutoffs(problem))
    import torch

    from surefoot.numerics.spectral_matrix import dual_norm

    means = []
    for seed in range(3):
        kept = []
        result = solve(problem, method, seed=seed, watch=[lambda m, kept=kept: kept.append(m.state)])
        claims = {c.name: c for c in result.certificate.claims}
        assert claims["descent"].outcome == claims["average"].outcome == "holds"
        assert claims["descent"].kind == "proved"
        total = 0.0
        for X in kept[-1].path[:-1]:
            X = X.clone().requires_grad_(True)
            (g,) = torch.autograd.grad(problem.value(X), X)
            total += sum(P[i] / L[i] * float(dual_norm(g[i], "spectral")) ** 2 for i in range(len(L)))
        means.append(total / 300)
    delta = float(problem.value(torch.zeros_like(problem.left[:, 0, :, None]).expand(-1, -1, 4)))
    assert np.mean(means) <= 2 * delta / 300


def test_automatic_sampling_is_confirmed(tmp_path):
    surefoot.run("drop-muon", images(tmp_path), out=tmp_path / "run", sampling="auto", lr=0.005, **SHORT)
    found = verdicts(tmp_path / "run")
    assert found["sampling"].verdict == "confirmed"
    assert all(v.verdict == "confirmed" for v in found.values())


def test_text_trains_a_transformer(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    surefoot.run(
        "drop-muon", tmp_path / "text.txt", out=tmp_path / "run", steps=8, width=16, depth=2, context=16, batch=8
    )
    found = verdicts(tmp_path / "run")
    assert all(v.verdict == "confirmed" for v in found.values())
    assert len(RunReader(tmp_path / "run").evidence("draws.npz")["costs"]) == 1 + 4  # embeddings, two blocks, head


def test_a_recipe_with_dropout_and_batch_norms(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    surefoot.run("drop-muon", images(tmp_path), "mine:net", out=tmp_path / "run", **SHORT)
    found = {v.claim: v for v in surefoot.verify(tmp_path / "run", write=False, trust=True)}
    assert all(v.verdict == "confirmed" for v in found.values()), found


def test_bad_input_is_named(tmp_path):
    one = tmp_path / "one.npz"
    np.savez(one, images=np.zeros((20, 8, 8), dtype=np.float32), labels=np.zeros(20, dtype=int))
    bare = tmp_path / "bare.npz"
    np.savez(bare, images=np.zeros((20, 8, 8), dtype=np.float32))
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for path, match in ((one, "at least two classes"), (bare, "no labels"), (short, "needs at least")):
        with pytest.raises(ValueError, match=match):
            surefoot.run("drop-muon", path, **SHORT)
    for options, match in (
        ({"lr": -1.0}, "lr > 0"),
        ({"steps": 0}, "at least 1"),
        ({"network": "transformer"}, "reads text"),
        ({"width": 0}, "width"),
    ):
        with pytest.raises(ValueError, match=match):
            surefoot.run("drop-muon", images(tmp_path), **{**SHORT, **options})


def test_a_rate_that_diverges_is_named(tmp_path):
    result = surefoot.run("drop-muon", images(tmp_path), **{**SHORT, "lr": 1e25})
    assert result.status.name == "DIVERGED"
    assert "step" in result.reason


def test_real_digits(tmp_path):
    folder = os.environ.get("SUREFOOT_DATA")
    if not folder or not (Path(folder) / "drop-muon").is_dir():
        pytest.skip("SUREFOOT_DATA is not set")
    path = Path(folder) / "drop-muon" / "t10k-images-idx3-ubyte.gz"
    result = surefoot.run("drop-muon", path, out=tmp_path / "run", steps=40, width=8, batch=64, compare=False)
    claims = {c.name: c for c in result.certificate.claims}
    assert claims["accuracy"].value > 0.6
    assert all(v.verdict == "confirmed" for v in verdicts(tmp_path / "run").values())


RECIPES = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.spare = net(), nn.Linear(3, 3)

    def forward(self, x):
        return self.net(x)

class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).detach())

def frozen():
    return net().requires_grad_(False)

class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(64, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.w).real

def narrow():
    return nn.Linear(7, 3)
"""


@pytest.mark.parametrize(
    ("recipe", "flags", "word"),
    [
        ("Spare", (), "does not reach the parameters spare.weight, spare.bias"),
        ("Cut", (), "does not reach the parameters first.weight, first.bias"),
        ("frozen", (), "no parameter of the model requires a gradient"),
        ("Waves", (), "does not take complex parameters"),
        ("narrow", (), "does not take inputs of shape (2, 1, 8, 8): RuntimeError"),
        ("net", ("--lr", "1e8"), "the training diverged: its loss is"),
    ],
)
def test_the_command_names_what_is_wrong_with_a_model(tmp_path, monkeypatch, capsys, recipe, flags, word):
    from surefoot import cli

    (tmp_path / "drop_muon_user_nets.py").write_text(RECIPES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = [
        "run",
        "drop-muon",
        str(images(tmp_path)),
        f"drop_muon_user_nets:{recipe}",
        "--steps",
        "12",
        "--batch",
        "40",
    ]
    assert cli.main([*asked, *flags, "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert word in capsys.readouterr().err


def test_the_command_names_a_single_class(tmp_path, capsys):
    from surefoot import cli

    assert cli.main(["run", "drop-muon", str(images(tmp_path, classes=1)), "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert "all training labels are the same" in capsys.readouterr().err
