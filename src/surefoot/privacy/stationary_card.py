"""The card of private stationary points: what the command, the tour and the docs need to know."""

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
    from surefoot.privacy.private_method import PrivateMethod
    from surefoot.privacy.risk import PrivateRisk


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    epsilon: float = 1.0
    """The privacy budget: 1 is strict, 8 is loose."""
    delta: float = 0.0
    """Chance that the promise fails; 0 takes 1 / (10 n). At 1/n and above it is refused."""
    allow_large_delta: bool = False
    """Allow delta >= 1/n."""
    neighbours: Literal["replace", "add-remove"] = "replace"
    """What one record's difference means: replaced by any other, or left out."""
    method: Literal["spider", "gd", "tree", "recursive"] = "spider"
    """SpiderBoost, DP gradient descent, one pass for the population, or recursive regularisation (convex)."""
    loss: Literal["logistic", "sigmoid", "huber"] = "logistic"
    """For labels 0 and 1: logistic, or the bounded sigmoid; for numbers: Huber."""
    target: str = ""
    """Column to predict; default: the last one."""
    group: str = ""
    """Column that names who a row belongs to: only the first row of each is kept, so that a person is protected, not a row. In the sample: person."""
    ranges: tuple[str, ...] = ()
    """Public ranges of columns as NAME:LOW:HIGH; mapped to [-1, 1] over the root of the number of columns."""
    feature_bound: float = 1.0
    """Rows longer than this are scaled down, one by one. Choose it without the data."""
    intercept: bool = True
    """Fit an intercept."""
    penalty: Literal["none", "ridge", "bounded"] = "ridge"
    """Public term of the objective; bounded is w^2 / (1 + w^2), not convex."""
    penalty_weight: float = 1e-3
    """Its weight."""
    knee: float = 1.0
    """Residual beyond which the Huber loss grows linearly."""
    iterations: int = 400
    """Releases of the search."""
    phase: int = 0
    """An anchor gradient every so many iterations, differences in between; 0 takes 1 with whole batches and 10 with Poisson batches."""
    step_size: float = 0.0
    """Length of the steps; 0 takes 1 / L (compat paper: 1 / (2 L))."""
    anchor_batch: int = 0
    """Expected records of a Poisson sample for anchors; 0 uses all."""
    difference_batch: int = 0
    """Expected records of a Poisson sample for differences; 0 uses all."""
    anchor_share: float = 0.7
    """Share of the search's budget for anchors."""
    query_share: float = 0.2
    """Share of the budget (mu squared) kept for the final query (two with tree and recursive) that certifies."""
    certify_below: float = 0.0
    """A gradient norm to be certified; 0 reports what there is."""
    radius: float = 10.0
    """Public bound of the minimiser's norm, for recursive regularisation."""
    stages: int = 8
    """Stages of recursive regularisation; 0 takes the printed number."""
    projection: int = 0
    """Search in so many random directions (GLM projection); 0 searches all parameters, -1 takes the printed number."""
    compat: Literal["", "paper"] = ""
    """"paper": published step length, settings and output rule (corrected accounting all the same)."""
    not_private: bool = False
    """Allow --seed. Whoever knows the seed subtracts the noise; the run is marked."""


FALLBACK = Sample(
    id="breast-cancer",
    title="Wisconsin breast cancer, 569 tumours (few records: epsilon must be large)",
    origin="scikit-learn, load_breast_cancer",
    licence="BSD-3-Clause",
    credit="Wolberg, Street, Mangasarian 1995",
)
SAMPLE = Sample(
    id="rand-health",
    title="RAND health insurance, 20,190 person-years: any visit to a doctor",
    origin="statsmodels, statsmodels/datasets/randhie/src/randhie.csv, read where it is installed",
    licence="public domain (as stated by statsmodels, BSD-3-Clause)",
    credit="RAND Corporation; Cameron, Trivedi 2005",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> PrivateRisk:
    """Bounded records with their loss and public penalty; without an input, the sample."""
    import numpy as np
    import torch

    from surefoot.numerics import losses
    from surefoot.privacy.projection import projected_dimension, projection_matrix, with_projection
    from surefoot.privacy.risk import Penalty, linear_risk
    from surefoot.privacy.stationary_input import signs

    features, targets, unit = _records(options, inputs)
    loss: Any = {"logistic": losses.Logistic, "sigmoid": losses.Sigmoid, "huber": losses.Huber}[options.loss]()
    if options.loss == "huber":
        loss = losses.Huber(options.knee)
    else:
        targets = signs(targets)
    problem = linear_risk(
        torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(targets), loss, bound=options.feature_bound,
        intercept=options.intercept, penalty=Penalty(options.penalty, options.penalty_weight), unit=unit,
    )  # fmt: skip
    if wanted := options.projection:
        if wanted < 0:
            wanted = projected_dimension(problem.size, problem.dim, budget(options, problem))
        problem = with_projection(problem, projection_matrix(wanted, problem.dim))
    method(options, problem).validate(problem)  # before the run has a folder
    return problem


def _records(options: Options, inputs: Inputs) -> tuple[Any, Any, str]:
    """Features, targets and the unit of protection."""
    from surefoot.privacy.stationary_input import one_row_each, parsed_ranges, read_records, scaled

    if not inputs.has("records"):
        return _sample(options, inputs)
    names, values, targets = read_records(inputs.path("records"), options.target)
    unit = "record"
    if options.group:
        if options.group not in names:
            raise ValueError(f"--group {options.group!r}: the table has no such column; it has {', '.join(names)}")
        place = names.index(options.group)
        values, targets = one_row_each(values, targets, values[:, place])
        import numpy as np

        values, names, unit = (
            np.delete(values, place, axis=1),
            tuple(n for n in names if n != options.group),
            options.group,
        )
    return scaled(values, names, parsed_ranges(options.ranges, names)), targets, unit


def _sample(options: Options, inputs: Inputs) -> tuple[Any, Any, str]:
    from surefoot.data.health import health_visits
    from surefoot.data.samples import at_hand
    from surefoot.privacy.stationary_input import scaled, tumours

    if options.loss == "huber":
        raise ValueError("the sample's target is yes or no; --loss huber needs a table with numbers to predict")

    def visits() -> tuple[Any, Any, str]:
        if options.group not in ("", "person"):
            raise ValueError(
                f"--group {options.group!r}: the sample knows 'person' (one year of each) or none (person-years)"
            )
        table = health_visits(one_year_each=options.group == "person")
        assert table.source is not None
        inputs.sample(SAMPLE, sha256=table.source.sha256, **table.source.record())
        unit = "person, with one year each" if options.group else "person-year (a person has up to five)"
        return table.features / table.features.shape[1] ** 0.5, (table.visits > 0).astype(float), unit

    def patients(note: str) -> tuple[Any, Any, str]:
        names, values, malignant, ranges = tumours(inputs, FALLBACK, note)
        return scaled(values, names, ranges), malignant, "tumour"

    return at_hand(inputs, SAMPLE, visits, patients)


def budget(options: Options, problem: PrivateRisk) -> Any:
    """The budget that the options ask for."""
    from surefoot.privacy.ledger import Budget

    delta = options.delta or 0.1 / problem.size
    return Budget(options.epsilon, delta, options.neighbours)


def method(options: Options, problem: PrivateRisk, journal: Path | None = None) -> PrivateMethod[Any]:
    """The method that the options describe."""
    from surefoot.privacy.private_spider import PrivateSpiderBoost, paper_schedule
    from surefoot.privacy.recursive_regularization import RecursiveRegularization
    from surefoot.privacy.tree_spider import TreeSpider

    shared: dict[str, Any] = {
        "budget": budget(options, problem), "query_share": options.query_share, "target": options.certify_below,
        "journal": journal, "allow_large_delta": options.allow_large_delta,
    }  # fmt: skip
    if options.method == "tree":
        return TreeSpider(compat=options.compat, **shared)
    if options.method == "recursive":
        return RecursiveRegularization(radius=options.radius, stages=0 if options.compat else options.stages, **shared)
    if options.compat == "paper" and options.method == "spider":
        return paper_schedule(problem, step_size=options.step_size or None, **shared)
    return PrivateSpiderBoost(
        iterations=options.iterations, phase=1 if options.method == "gd" else options.phase, step_size=options.step_size or None,
        anchor_batch=options.anchor_batch, difference_batch=options.difference_batch, anchor_share=options.anchor_share,
        compat=options.compat, **shared,
    )  # fmt: skip


def run(options: Options, problem: PrivateRisk, run: RunDir | None) -> Result[Any]:
    """Search and certify under one ledger, which is written ahead under private/."""
    from surefoot.core.checkpoint import Every
    from surefoot.core.solve import solve

    chosen = method(options, problem, None if run is None else run.root / "private" / "ledger.jsonl")
    result = solve(problem, chosen, run=run, every=Every(seconds=1.0))  # a kill loses what was released since
    if run is not None:
        _for_the_owner(problem, result.answer, run.root / "private" / "owner.json")
    return result


def _for_the_owner(problem: PrivateRisk, w: Any, path: Path) -> None:
    """What the data say about the answer: unaccounted, so for the owner's eyes, and no part of report or certificate."""
    from surefoot.privacy.records import LinearRecords
    from surefoot.records.files import write_json

    gradient = problem.records.gradient_sum(w, problem.record_gradient) / problem.size + problem.penalty.gradient(w)
    tree: dict[str, Any] = {"gradient_norm": float(gradient.norm())}
    if isinstance(records := problem.records, LinearRecords):
        values = records.model.loss.value(records.model.features.double() @ w, records.model.targets.double())
        tree["mean_loss"] = float(values.mean())
    write_json(path, {"note": "computed from the data without noise: publishing it voids the guarantee", **tree})


def write_answer(answer: Any, problem: PrivateRisk, folder: Path) -> None:
    """parameters.csv: one row a parameter, an intercept last."""
    from surefoot.records.files import write_csv

    values = answer.double().cpu().numpy()
    write_csv(folder / "parameters.csv", {"parameter": list(range(len(values))), "value": values})


def read_answer(folder: Path) -> Any:
    """The parameters (d,)."""
    import torch

    from surefoot.records.files import read_csv

    table = read_csv(folder / "parameters.csv")
    if list(table["parameter"]) != list(range(len(table["value"]))):
        raise ValueError("parameters.csv does not count its rows from 0")
    return torch.from_numpy(table["value"])


def tiny_problem() -> PrivateRisk:
    """Forty records of three features."""
    import torch

    from surefoot.numerics.losses import Logistic
    from surefoot.privacy.risk import Penalty, linear_risk

    generator = torch.Generator().manual_seed(0)
    A = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    y = torch.sign(A[:, 0] + 0.3 * torch.randn(400, generator=generator, dtype=torch.float64))
    return linear_risk(A, y, Logistic(), penalty=Penalty("ridge", 0.01))


def tiny() -> Sequence[tuple[Any, Any]]:
    """Every method on forty records."""
    from surefoot.privacy.ledger import Budget
    from surefoot.privacy.private_spider import PrivateSpiderBoost
    from surefoot.privacy.projection import projection_matrix, with_projection
    from surefoot.privacy.recursive_regularization import RecursiveRegularization
    from surefoot.privacy.tree_spider import TreeSpider

    problem, allowed = tiny_problem(), Budget(20.0, 1e-4)
    return [
        (problem, PrivateSpiderBoost(budget=allowed, iterations=18, phase=4)),
        (problem, PrivateSpiderBoost(budget=allowed, iterations=10, phase=5, compat="paper")),
        (with_projection(problem, projection_matrix(2, 3)), PrivateSpiderBoost(budget=allowed, iterations=12, phase=3)),
        (problem, TreeSpider(budget=allowed, root_batch=32)),
        (problem, RecursiveRegularization(budget=allowed, radius=5.0, stages=3, inner_steps=6)),
        (problem, RecursiveRegularization(budget=allowed, radius=5.0, stages=3, solver="phased-sgd")),
    ]


def seeded_classifier() -> Any:
    """`PrivateClassifier` with fixed noise, hence marked as not private: scikit-learn's checks compare fits."""
    from surefoot.privacy.linear import PrivateClassifier

    return PrivateClassifier(epsilon=8.0, iterations=20, random_state=0)


def seeded_regressor() -> Any:
    """`PrivateRegressor` with fixed noise, hence marked as not private."""
    from surefoot.privacy.linear import PrivateRegressor

    return PrivateRegressor(epsilon=8.0, iterations=20, random_state=0)


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """Four hundred rows of three features and a label."""
    import numpy as np

    rng = np.random.default_rng(3)
    A = rng.uniform(-1, 1, size=(400, 3))
    y = (A[:, 0] - 0.5 * A[:, 1] + 0.2 * rng.normal(size=400) > 0).astype(int)
    rows = [
        "age,dose,weight,ill",
        *(",".join([*map(repr, map(float, a)), str(label)]) for a, label in zip(A, y, strict=True)),
    ]
    (folder / "records.csv").write_text("\n".join(rows) + "\n")
    return {"records": str(folder / "records.csv")}


CARD = System(
    name="private-stationary",
    title="Differentially private training with a certified gradient norm",
    paper=Paper(
        title="Faster Rates of Convergence to Stationary Points in Differentially Private Optimization",
        authors=("Raman Arora", "Raef Bassily", "Tomás González", "Cristóbal Guzmán", "Michael Menart", "Enayat Ullah"),
        year=2023,
        venue="International Conference on Machine Learning",
        arxiv="2206.00846",
        claim="Noisy gradient differences between noisy gradients reach points of smaller gradient at the same privacy: "
        "(sqrt(d) / (n epsilon))^(2/3) instead of the power 1/2.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=later("surefoot.privacy.verify_gradient:checks"),
    sample=SAMPLE,
    aliases=("private-spider",),
    domain="privacy",
    presets={
        "default": Options(),
        "tour": Options(phase=10),
        "paper": Options(compat="paper", loss="sigmoid", penalty="none", intercept=False),
    },
    inputs=(InputSpec("records", "table with the target in its last column, npz, or LIBSVM file", (".csv", ".tsv", ".parquet", ".npz", ".svm")),),
    figures=later("surefoot.privacy.stationary_figures:figures"),
    headline=later("surefoot.privacy.stationary_figures:headline"),
    extras=("privacy", "samples"),
    traits=Traits(private=True),
    peers=("opacus", "diffprivlib"),
    tiny=tiny,
    tiny_options={"epsilon": 8.0, "iterations": 24, "phase": 6, "ranges": ("age:-1:1", "dose:-1:1", "weight:-1:1")},
    tiny_inputs=tiny_inputs,
    estimators=("surefoot.privacy.stationary_card:seeded_classifier", "surefoot.privacy.stationary_card:seeded_regressor"),
)  # fmt: skip
