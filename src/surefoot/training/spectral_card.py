"""The card of spectral learning rates: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot._lazy import later
from surefoot.core.system import Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import Result
    from surefoot.training.spectral_problem import Curvature, Rates


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    batches: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Batch sizes, ascending; those beyond the rows are refused."""
    curvature: Literal["ggn", "hessian"] = "ggn"
    """Generalised Gauss-Newton matrix, or Hessian (which misses the kinks of ReLU networks)."""
    rows: int = 2_048
    """At most so many rows of the data, drawn at random; 0 takes all."""
    outliers: int = 4
    """Leading eigenvectors kept for the prediction."""
    steps: int = 40
    """Lanczos steps."""
    probes: int = 4
    """Random probes of the spectral density; 0 leaves it out."""
    draws: int = 200
    """Batches drawn from the rows' compressed curvature, for the prediction."""
    repeats: int = 8
    """Batches measured at least, a size."""
    most: int = 64
    """Small batches vary more: up to so many are measured."""
    thresholds: int = 24
    """How many of them have their threshold measured, a size."""
    trained: int = 60
    """Descent steps in the search for the rate that still trains; 0 leaves it out."""
    weight_decay: float = 0.0
    """Of plain descent: it adds to every eigenvalue. Decoupled decay (AdamW) adds nothing; leave it at 0."""
    statistics: Literal["running", "ghost"] = "running"
    """Batch normalisation: at its running statistics, or with those of ghost batches, as training has them; batches are then of whole ghost batches."""
    ghost: int = 0
    """Rows of a ghost batch; 0 takes the smallest batch size."""
    read: int = 0
    """Of data without an index (streams): at most so many rows are read, of which `rows` are kept; 0 reads to their end."""
    population: int = 0
    """N, where the data are a random part of more; 0: those that the recipe's data have."""
    double: bool = False
    """Work in float64."""
    network: Literal["mlp", "cnn", "attention"] = "mlp"
    """Sample only: which network."""
    training: int = 100
    """Sample only: training steps before the measurement."""


FALLBACK = Sample(
    id="digits-8x8",
    title="1,797 handwritten digits of 8 x 8 pixels and a small network trained on the spot",
    origin="scikit-learn, load_digits, read where it is installed",
    licence="BSD-3-Clause (scikit-learn); the digits are UCI's, CC BY 4.0",
    credit="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
)


def load(options: Options, inputs: Inputs) -> Curvature:
    """The user's network and data from a recipe, or the digits with a network trained on the spot."""
    from surefoot.training.spectral_problem import Plan

    plan = Plan(
        tuple(options.batches), options.outliers, options.steps, options.probes, options.draws, options.repeats, options.most, options.thresholds,
        options.trained, weight_decay=options.weight_decay,
    )  # fmt: skip
    for name in ("rows", "read", "population", "ghost"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name} is {getattr(options, name)}; expected 0 or more")
    if inputs.has("case"):
        if not inputs.is_recipe("case"):
            inputs.path("case")
            raise ValueError(
                "a network with its data is code: give a recipe module:factory whose factory returns (model, data) or (model, data, loss)"
            )
        from surefoot.training.spectral_recipes import from_recipe

        found = from_recipe(inputs, rows=options.rows, read=options.read)
        problem = (found.model, found.inputs, found.targets, found.criterion)
        identity, population = None, max(found.population, options.population)
    else:
        *problem, identity = _sample(options, inputs)
        population = max(len(problem[1]), options.population)
    return _stated(options, problem, population, plan, identity, double=options.double or inputs.dtype == "float64")


def _stated(options: Options, problem: Any, population: int, plan: Any, identity: Any, *, double: bool) -> Curvature:
    """The problem, with batch normalisation as the options say."""
    import torch

    from surefoot.core.random import Streams
    from surefoot.training.spectral_ghost import in_ghost_batches
    from surefoot.training.spectral_problem import Curvature, row_losses
    from surefoot.training.spectral_rows import count

    model, x, y, criterion = problem
    rows = count(x)
    classes = criterion in ("cross-entropy", "logistic") or isinstance(criterion, torch.nn.CrossEntropyLoss)
    if classes and isinstance(y, torch.Tensor) and not y.is_floating_point() and len(torch.unique(y)) == 1:
        raise ValueError(
            f"all targets are class {int(y.flatten()[0])}; a classifier's curvature needs at least two classes"
        )
    whole = {
        "kind": options.curvature,
        "plan": plan,
        "population": population if population > rows else None,
        "identity": identity,
    }
    if options.statistics == "ghost":
        size = options.ghost or options.batches[0]
        parts = (model, x, y, row_losses(criterion))
        stated = Curvature(**whole, **in_ghost_batches(parts, size, Streams(0).numpy("ghost", rows, size)))
    else:
        stated = Curvature(model, x, y, criterion, **whole)
    return stated.cast(torch.float64) if double else stated


def _sample(options: Options, inputs: Inputs) -> Any:
    import torch

    from surefoot.core.random import Streams
    from surefoot.data.digits import small_digits
    from surefoot.records.fingerprint import fingerprint
    from surefoot.training.spectral_networks import make, train

    digits = small_digits()
    digest = fingerprint(digits.images, digits.labels)
    inputs.sample(FALLBACK, sha256=digest)
    x, y = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    if options.rows:
        x, y = x[: options.rows], y[: options.rows]
    network = make(options.network, digits.images.shape[2], Streams(0))
    if inputs.only is None:  # a check takes the weights from the evidence
        network = train(network, x, y, Streams(0), steps=options.training)
    settings = {
        "data": digest,
        "network": options.network,
        "steps": options.training,
        "rows": len(x),
        "double": options.double,
    }
    return network, x.to(inputs.device), y.to(inputs.device), "cross-entropy", {"trained": settings}


def run(options: Options, problem: Curvature, run: RunDir | None) -> Result[Rates]:
    """Measure unit by unit."""
    import logging

    from surefoot.core.solve import solve
    from surefoot.numerics.threads import torch_threads
    from surefoot.training.spectral_method import MeasureRates
    from surefoot.training.spectral_rows import threads_for

    if problem.normalisation:  # said here and not in `load`, which a check calls, too
        hint = "" if problem.unit > 1 else " (--statistics ghost takes those of ghost batches)"
        logging.getLogger(__name__).warning("measured with %s%s", problem.normalisation, hint)
    with torch_threads(threads_for(problem.network.vector().numel())):
        return solve(problem, MeasureRates(), run=run)


def write_answer(answer: Rates, problem: Curvature, folder: Path) -> None:
    """rates.csv, a row a batch size, and scales.csv."""
    from surefoot.training.spectral_recipes import write_rates

    write_rates(folder, answer)


def read_answer(folder: Path) -> Rates:
    """The table."""
    from surefoot.training.spectral_recipes import read_rates

    return read_rates(folder)


def tiny() -> Sequence[tuple[Any, Any]]:
    """A tanh network of 4 inputs on 24 rows, by both matrices, one of them with weight decay."""
    import torch
    from torch import nn

    from surefoot.core.random import Streams
    from surefoot.training.spectral_method import MeasureRates
    from surefoot.training.spectral_problem import Curvature, Plan

    generator = Streams(3).torch("tiny")
    x = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).long()
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    plan = Plan((4, 12, 24), outliers=2, steps=12, probes=1, draws=5, repeats=2, most=3, thresholds=1, trained=4)
    decayed = replace(plan, weight_decay=0.05)
    cases = [Curvature(network, x, y, plan=plan), Curvature(network, x, y, kind="hessian", plan=decayed)]
    return [(case, MeasureRates()) for case in cases]


CARD = System(
    name="spectral-learning-rates",
    title="Largest stable learning rates by batch size, from the curvature of a network",
    paper=Paper(
        title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
        authors=("Diego Granziol", "Stefan Zohren", "Stephen Roberts"),
        year=2022,
        venue="Journal of Machine Learning Research 23(173)",
        arxiv="2006.09092",
        claim="Random matrix theory predicts how a batch's extreme curvature grows as the batch shrinks, and with it the largest stable learning rate: "
        "linear in the batch size for SGD until it saturates, the square root for adaptive methods.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=later("surefoot.training.spectral_verify:CHECKS"),
    sample=FALLBACK,
    domain="training",
    presets={
        "default": Options(),
        "tour": Options(batches=(8, 32, 128, 512), probes=2, draws=100, repeats=6, most=40, trained=40),
        "paper": Options(curvature="hessian", steps=100, probes=8, rows=0),
    },
    inputs=(
        InputSpec("case", "recipe module:factory whose factory returns (model, data loader), and if need be a loss and a function batch -> (inputs, targets)"),
        InputSpec("weights", "weights of the recipe's model", (".safetensors", ".pt"), required=False),
    ),
    figures=later("surefoot.training.spectral_figures:figures"),
    headline=later("surefoot.training.spectral_figures:headline"),
    traits=Traits(gpu=True),
    peers=("pyhessian", "curvlinops"),
    tiny=tiny,
    tiny_options={
        "batches": (4, 6), "rows": 8, "outliers": 2, "steps": 8, "probes": 1, "draws": 2, "repeats": 1, "most": 1, "thresholds": 1,
        "trained": 1, "training": 20, "double": True,
    },
)  # fmt: skip
