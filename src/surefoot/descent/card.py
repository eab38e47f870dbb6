"""The card `acceleration`: certified rates of momentum methods, the heavy-ball cycle, and runs on a real loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot.core.system import Figure, System, Traits
from surefoot.records.inputs import Inputs, InputSpec, Sample
from surefoot.records.paper import Paper

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import Check
    from surefoot.descent.problem import AccelerationProblem

MethodName = Literal["gd", "nag", "nag-quadratic", "tmm", "rmm", "hb"]
KAPPAS = (2.0, 4.0, 10.0, 17.94, 17.945, 25.0, 100.0, 1000.0, 10000.0)


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Args:
        methods: momentum methods to certify; those that can run are run on the table. A method file replaces them.
        kappas: condition numbers of the table of rates.
        memory: past points in the Lyapunov functions.
        ridge: weight of the squared norm in the logistic loss; it is the strong convexity m.
        target: name of the class column of a CSV; default: the last one.
        steps: most iterations of each method.
        tolerance: a method stops when |gradient|^2 / (2 m), a bound on its distance to the minimum, is below it.
    """

    methods: tuple[MethodName, ...] = ("gd", "nag", "tmm", "hb")
    kappas: tuple[float, ...] = KAPPAS
    memory: int = 0
    ridge: float = 0.01
    target: str = ""
    steps: int = 2000
    tolerance: float = 1e-12


SAMPLE = Sample(
    id="breast-cancer",
    title="Breast cancer Wisconsin (diagnostic), 569 x 30",
    origin="scikit-learn, load_breast_cancer",
    licence="BSD-3-Clause (scikit-learn); data: CC BY 4.0",
    credit="Wolberg, Mangasarian, Street, Street, UCI Machine Learning Repository, 1993",
)


def load(options: Options, inputs: Inputs) -> AccelerationProblem:
    """The methods with their constants, and the model where there is a table."""
    import numpy as np

    from surefoot.descent.momentum import fixed_step
    from surefoot.descent.problem import AccelerationProblem, read_method
    from surefoot.descent.tables import logistic_model, read_table, sample_table
    from surefoot.records.fingerprint import fingerprint

    _check(options)
    if inputs.has("problem"):
        path = inputs.path("problem")
        if path.suffix == ".json":
            system = read_method(path)
            name = "".join(c if c.isalnum() else "-" for c in system.name.lower()).strip("-") or "method"
            table = {(name, kappa): system.with_condition(kappa) for kappa in options.kappas}
            return AccelerationProblem({name: system}, table)
        features, classes, names = read_table(path, options.target)
    else:
        import sklearn

        features, classes, names = sample_table()
        digest = fingerprint(features, classes)
        inputs.sample(SAMPLE, sha256=digest, distribution="scikit-learn", version=sklearn.__version__)
    model = logistic_model(features, np.asarray(classes, dtype=np.float64), options.ridge)
    m, L = model.constants["strong_convexity"].value, model.constants["smoothness"].value
    systems = {name: fixed_step(name, m, L) for name in options.methods}
    table = {(name, kappa): fixed_step(name, 1 / kappa, 1.0) for name in options.methods for kappa in options.kappas}
    return AccelerationProblem(systems, table, model, ("intercept", *names))


def _check(options: Options) -> None:
    if not options.methods:
        raise ValueError("methods is empty; give at least one, for instance --methods nag")
    if any(not 1 < kappa <= 1e8 for kappa in options.kappas):
        raise ValueError(f"kappas must lie in (1, 1e8], got {list(options.kappas)}")
    if len(set(options.methods)) < len(options.methods) or len(set(options.kappas)) < len(options.kappas):
        raise ValueError("methods and kappas must not repeat")
    if not options.ridge > 0:
        raise ValueError(f"ridge must be positive (it is the strong convexity), got {options.ridge}")
    if options.steps < 1:
        raise ValueError(f"steps must be at least 1, got {options.steps}")


def run(options: Options, problem: AccelerationProblem, folder: RunDir | None) -> Result[Any]:
    """Run all lanes side by side, then certify."""
    from surefoot.core.solve import Budget, solve
    from surefoot.descent.acceleration import LANES, Race

    lanes = tuple(name for name in problem.systems if name in LANES) if problem.model is not None else ()
    race = Race(lanes, memory=options.memory, tolerance=options.tolerance)
    return solve(problem, race, budget=Budget(steps=options.steps), run=folder)


def write_answer(answer: Mapping[str, Any], problem: AccelerationProblem, folder: Path) -> None:
    """rates.csv, and coefficients.csv where methods were run."""
    from surefoot.records.files import write_csv

    write_csv(folder / "rates.csv", answer["rates"])
    if answer["coefficients"]:
        write_csv(folder / "coefficients.csv", {"feature": list(problem.features), **answer["coefficients"]})


def read_answer(folder: Path) -> dict[str, Any]:
    """The inverse of `write_answer`."""
    from surefoot.records.files import read_csv

    coefficients: dict[str, Any] = {}
    if (folder / "coefficients.csv").is_file():
        coefficients = read_csv(folder / "coefficients.csv")
        coefficients.pop("feature")
    return {"coefficients": coefficients, "rates": read_csv(folder / "rates.csv")}


def checks() -> Mapping[str, Check]:
    """Checkers by key."""
    from surefoot.descent.verify import CHECKS

    return CHECKS


def figures(reader: RunReader) -> Sequence[Figure]:
    """Rates over condition number with the cycle, and the runs against their certified rates."""
    from surefoot.descent.figures import all_figures

    return all_figures(reader, read_answer(reader.answer_dir))


def headline(reader: RunReader) -> str:
    """One sentence of what was found."""
    from surefoot.descent.figures import headline_of

    return headline_of(reader, read_answer(reader.answer_dir))


def tiny() -> Sequence[tuple[Any, Any]]:
    """Smallest problems, for the contract tests."""
    import torch

    from surefoot.core.problem import Constant, Objective
    from surefoot.descent.acceleration import GradientDescent, HeavyBall, Nesterov, RobustMomentum, TripleMomentum
    from surefoot.descent.momentum import fixed_step
    from surefoot.descent.rate_method import RateSearch

    curvatures = torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=torch.float64)
    centre = torch.arange(4.0, dtype=torch.float64)
    objective = Objective(
        value_and_grad=lambda x: (0.5 * (curvatures * (x - centre) ** 2).sum(), curvatures * (x - centre)),
        dim=4,
        constants={"strong_convexity": Constant(1.0, "exact"), "smoothness": Constant(9.0, "exact")},
        minimiser=centre,
        identity={"curvatures": curvatures, "centre": centre},
    )
    methods = (GradientDescent, Nesterov, TripleMomentum, RobustMomentum, HeavyBall)
    runs = [(objective, method(tolerance=0.0, block=3)) for method in methods]
    backtracking = (objective, Nesterov(smoothness=1.5, backtracking=True, tolerance=0.0, block=3))
    return [*runs, backtracking, (fixed_step("nag", 0.1, 1.0), RateSearch())]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """A table of twelve rows."""
    rows = ["width,height,kind"]
    for i in range(12):
        rows.append(f"{i * 7 % 12},{i * 5 % 11 + 0.5},{'ab'[(i * i) % 3 % 2]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"problem": str(folder / "table.csv")}


CARD = System(
    name="acceleration",
    title="Momentum methods with proved rates, and the cycle of heavy ball",
    domain="descent",
    aliases=("acceleration-dynamics",),
    paper=Paper(
        title="On the Dynamics of Acceleration in First order Gradient Methods",
        authors=("Mahesh Parimi", "Rachit Mehra", "S. R. Wagh", "Amol Yerudkar", "Navdeep Singh"),
        year=2025,
        arxiv="2509.18346",
        claim=(
            "Nesterov's and the triple momentum method come from one passive second-order flow, which also shows why "
            "Polyak's heavy ball need not reach the optimum."
        ),
    ),
    options=Options,
    presets={
        "default": Options(),
        "tour": Options(),
        "paper": Options(
            methods=("gd", "nag", "nag-quadratic", "tmm", "rmm", "hb"),
            kappas=(2.0, 4.0, 10.0, 17.94, 17.945, 18.0, 25.0, 50.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
            ridge=0.001,
            steps=20000,
        ),
    },
    inputs=(
        InputSpec(
            "problem",
            "a table with two classes to fit (CSV or svmlight), or a method to certify (JSON: A, B, C, m, L)",
            ("csv", "svm", "svmlight", "txt", "gz", "json"),
            required=False,
        ),
    ),
    sample=SAMPLE,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=checks,
    figures=figures,
    headline=headline,
    traits=Traits(deterministic=True, resumable=True),
    peers=("AutoLyap", "PEPit"),
    tiny=tiny,
    tiny_options={"methods": ("nag", "hb"), "kappas": (4.0, 25.0), "steps": 60, "ridge": 0.05},
    tiny_inputs=tiny_inputs,
    optimizers=(
        "surefoot.descent.optimizers:NAG",
        "surefoot.descent.optimizers:TMM",
        "surefoot.descent.optimizers:RMM",
        "surefoot.descent.optimizers:HB",
    ),
)
