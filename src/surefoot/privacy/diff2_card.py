"""The card of DIFF2: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot.core.system import Figure, Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import Check


@dataclass(frozen=True)
class Options:
    """What can be chosen. Everything but the table is taken to be public."""

    epsilon: float = 1.0
    """Privacy budget: epsilon of the whole run (1 is strict, 8 is loose)."""
    delta: float = 1e-6
    """Privacy budget: delta, below a tenth of one over the number of records."""
    trust: Literal["central", "secagg", "local"] = "central"
    """Who may see what: a trusted server, only sums of noisy messages, or nobody anything that is not private by itself."""
    rounds: int = 0
    """Rounds; 0 leaves them to the plan (linear models)."""
    restart: int = 0
    """A noisy gradient every so many rounds, differences between; 1 is plain noisy gradient descent, 0 the plan's choice."""
    step_length: float = 0.0
    """Length of the steps; 0 is the plan's choice."""
    most_rounds: int = 400
    """The plan takes no more rounds."""
    clip_gradient: float = 0.0
    """Records' gradients are clipped to this norm; 0 takes the known bound of a linear model."""
    clip_difference: float = 0.0
    """Differences of gradients are clipped to this times the distance; 0 takes the known bound of a linear model."""
    share: float = 0.0
    """The anchors' part of the rounds' budget; 0 is the plan's choice."""
    query_share: float = 0.2
    """Part of the budget kept for a noisy gradient at the answer, which certifies it."""
    failure_probability: float = 0.05
    """Of every statistical claim."""
    output: Literal["last", "average", "random", "best"] = "last"
    """The answer: the last iterate, the average after half of the rounds, a random one (the theory's), or that of the least bound."""
    stop_below: float = 0.0
    """Stop early once the gradient's bound from released vectors is below this."""
    local_steps: int = 1
    """Gradient steps a round; more than 1 are made on one client's records (BVR-L-SGD)."""
    local_batch: float = 100.0
    """Expected batch of the local steps."""
    honest: int = 0
    """With secagg: how many clients surely add their noise; 0: all."""
    weights: Literal["records", "clients"] = "records"
    """Every record counts the same, or every client does."""
    loss: Literal["huber", "logistic"] = "huber"
    """Of the predictions."""
    knee: float = 1.0
    """Where the Huber loss becomes linear."""
    hidden: int = 0
    """Width of a softplus layer; 0 is a linear model."""
    ridge: float = 0.0
    """Weight of the quadratic term."""
    row_norm: float = 4.0
    """Public bound: rows are divided by it, longer ones shortened."""
    target_bound: float = 5.0
    """Public bound: targets are clipped to it."""
    target: str = ""
    """Column of the targets; default: the last."""
    client_column: str = ""
    """Column that names the client; default: "client" where there is one."""
    clients: int = 4
    """Rows are dealt to so many clients where no column names them."""
    held_out: bool = True
    """Keep every fifth row of a client apart, for a noisy look at the loss at the end."""
    one_year_each: bool = False
    """Of the health sample: keep one year of every person, so that what is protected is a person."""
    compat: Literal["surefoot", "paper"] = "surefoot"
    """Exact noise, or the published one."""
    allow_large_delta: bool = False
    """Let delta reach one over the number of records."""
    not_private: bool = False
    """Allow --seed: the run can be repeated, and hides nothing."""


FALLBACK = Sample(
    id="breast-cancer-4",
    title="Breast tumours, 569 records dealt to 4 clients",
    origin="scikit-learn, load_breast_cancer",
    licence="BSD-3-Clause (CC BY 4.0 at UCI)",
    credit="W. Wolberg, O. Mangasarian, N. Street, W. Street 1995",
)
SAMPLE = Sample(
    id="rand-health-sites",
    title="RAND Health Insurance Experiment: doctor visits, one client per site",
    origin="statsmodels, statsmodels/datasets/randhie/src/randhie.csv, read where it is installed",
    licence="data in the public domain; the package BSD-3-Clause",
    credit="RAND Corporation; P. Deb, P. Trivedi, Journal of Applied Econometrics 17 (2002)",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> Any:
    """A table with a client column, or the sample; scaled by public numbers only."""
    from surefoot.privacy.site_tables import ModelSpec, federation, table_sites

    if not inputs.has("table"):
        table, loss = _sample(options, inputs)
    else:
        bounds = inputs.path("bounds") if inputs.has("bounds") else None
        if options.clients < 1:
            raise ValueError(f"clients is {options.clients}; expected at least 1")
        table = table_sites(inputs.path("table"), bounds, options.target, options.client_column, options.clients)
        loss = options.loss
    spec = ModelSpec(
        loss=loss, knee=options.knee, row_norm=options.row_norm, target_bound=options.target_bound, hidden=options.hidden,
        ridge=options.ridge, apart=options.held_out, weights=options.weights,
    )  # fmt: skip
    problem = federation(table, spec, inputs.device)
    method(options, problem).require_fit(problem)  # what cannot be done is refused before the run has a folder
    return problem


def _sample(options: Options, inputs: Inputs) -> Any:
    from surefoot.data.samples import at_hand
    from surefoot.privacy.site_tables import health_sites, tumour_clients
    from surefoot.records.fingerprint import fingerprint

    def health() -> Any:
        table, record, digest = health_sites(options.one_year_each)
        inputs.sample(SAMPLE, sha256=digest, **record)
        return table, options.loss

    def tumours(note: str) -> Any:
        table = tumour_clients(options.clients)
        inputs.sample(FALLBACK, sha256=fingerprint(table.features, table.targets), note=note)
        return table, "logistic"

    return at_hand(inputs, SAMPLE, health, tumours)


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """Plan, then the rounds."""
    import logging

    from surefoot.core.solve import solve

    journal = run.root / "private" / "ledger.jsonl" if run is not None else None
    chosen = method(options, problem, journal)
    logging.getLogger(__name__).info(
        "%d rounds of step %.4g, a noisy gradient every %d", chosen.rounds, chosen.step_length, chosen.restart
    )
    return solve(problem, chosen, run=run)


def method(options: Options, problem: Any, journal: Path | None = None) -> Any:
    """The method: what is not given comes from the known constants and the plan.

    Raises:
        ValueError: a number that neither the user nor the constants give.
    """
    from surefoot.privacy.diff2 import Diff2
    from surefoot.privacy.diff2_plan import Known, planned
    from surefoot.privacy.diff2_state import LocalSteps
    from surefoot.privacy.ledger import Budget

    budget = Budget(options.epsilon, options.delta)
    clips = {"clip_gradient": "lipschitz", "clip_difference": "smoothness"}
    given = {name: getattr(options, name) or problem.known(known) for name, known in clips.items()}
    if missing := [f"--{n.replace('_', '-')}" for n, v in given.items() if v is None]:
        raise ValueError(f"the bounds of a network's gradients are not known: give {' and '.join(missing)}")
    fixed: dict[str, Any] = {
        "trust": options.trust, "honest": options.honest, "query_share": options.query_share, "output": options.output,
        "failure_probability": options.failure_probability, "stop_below": options.stop_below, "compat": options.compat,
        "allow_large_delta": options.allow_large_delta, "journal": journal,
        "local": LocalSteps(options.local_steps, options.local_batch, given["clip_difference"]) if options.local_steps > 1 else None,
    }  # fmt: skip
    sketch = Diff2(budget=budget, rounds=1, step_length=1.0, **given, **fixed)
    smoothness, gap = problem.known("smoothness"), problem.known("gap")
    share = options.share
    if all((options.rounds, options.restart, options.step_length)):
        return Diff2(
            budget=budget, rounds=options.rounds, restart=options.restart, step_length=options.step_length, share=share, **given, **fixed
        )  # fmt: skip
    if smoothness is None or gap is None:
        raise ValueError("a plan needs the constants of a linear model; give --rounds, --restart and --step-length")
    gain = sketch.noise_unit(problem) * problem.effective_records
    known = Known(
        problem.effective_records, problem.dim, given["clip_gradient"], given["clip_difference"], given["clip_difference"] + problem.ridge, gap, gain
    )  # fmt: skip
    mu = budget.mu * (1.0 - options.query_share) ** 0.5
    plan = planned(
        known, mu, options.most_rounds, options.rounds or None, options.restart or None, options.step_length or None
    )
    share = share or (plan.share if plan.restart > 1 else 0.0)
    return Diff2(
        budget=budget, rounds=plan.rounds, restart=plan.restart, step_length=plan.step_length, share=share, **given, **fixed
    )  # fmt: skip


def write_answer(answer: Any, problem: Any, folder: Path) -> None:
    """parameters.csv: parameter, value."""
    import numpy as np

    from surefoot.records.files import write_csv

    values = np.asarray(answer, dtype=np.float64).reshape(-1)
    identity = problem.identity or {}
    names = identity.get("parameters") or [f"x{i}" for i in range(len(values))]
    write_csv(folder / "parameters.csv", {"parameter": list(names), "value": values})


def read_answer(folder: Path) -> Any:
    """The parameters (d,)."""
    import numpy as np

    from surefoot.records.files import read_csv

    return np.asarray(read_csv(folder / "parameters.csv")["value"], dtype=np.float64)


def checks() -> Mapping[str, Check]:
    """The checkers: from the ledger and the released vectors."""
    from surefoot.privacy.verify_diff2 import checks as all_checks

    return all_checks()


def figures(reader: RunReader) -> Sequence[Figure]:
    """Noise a round beside plain noisy gradients, delta over epsilon, the released norm with its bound."""
    from surefoot.privacy.diff2_figures import figures as draw

    return draw(reader)


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    from surefoot.privacy.diff2_figures import headline as say

    return say(reader)


def tiny() -> Sequence[tuple[Any, Any]]:
    """A small federation of uneven clients, by every branch of the method."""
    import torch

    from surefoot.core.problem import Constant
    from surefoot.data.linear_model import LinearModel
    from surefoot.numerics.losses import Huber
    from surefoot.privacy.diff2 import Diff2
    from surefoot.privacy.diff2_state import LocalSteps
    from surefoot.privacy.federation import Federation
    from surefoot.privacy.ledger import Budget
    from surefoot.privacy.records import LinearRecords

    generator = torch.Generator().manual_seed(0)
    A = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    A = A / A.norm(dim=1, keepdim=True)
    y = A @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
    parts = [LinearRecords(LinearModel(A[a:b], y[a:b], Huber(1.0))) for a, b in ((0, 1), (1, 21), (21, 60))]
    one = Constant(1.0, "exact", "rows of norm 1")
    problem = Federation(
        clients=dict(enumerate(parts)), sizes=(1, 20, 39), constants={"lipschitz": one, "smoothness": one, "gap": one}, ridge=0.01,
        identity={"A": A, "y": y},
    )  # fmt: skip
    shared: dict[str, Any] = {
        "budget": Budget(5.0, 1e-4),
        "rounds": 24,
        "step_length": 0.5,
        "clip_gradient": 1.0,
        "clip_difference": 1.0,
    }
    again = LinearRecords(LinearModel(A[40:], y[40:], Huber(1.0)))
    sampled = Federation(clients={0: parts[1], 1: again}, sizes=(20, 20), identity={"A": A, "y": y})
    return [
        (problem, Diff2(**shared, restart=6)),
        (problem, Diff2(**shared, restart=1, trust="secagg", output="best")),
        (problem, Diff2(**shared, restart=5, trust="local", output="random", allow_large_delta=True)),
        (sampled, Diff2(**{**shared, "rounds": 8}, restart=4, local=LocalSteps(3, 10.0, 1.0))),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """Forty rows of three clients, and the columns' ends."""
    import json

    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.uniform(0.0, 2.0, size=(40, 2))
    y = X @ [1.0, -0.5] + 0.1 * rng.normal(size=40)
    rows = [f"{a:.4f},{b:.4f},{'abc'[i % 3]},{t:.4f}" for i, ((a, b), t) in enumerate(zip(X, y, strict=True))]
    (folder / "table.csv").write_text("\n".join(["a,b,client,y", *rows]) + "\n")
    (folder / "bounds.json").write_text(json.dumps({"a": [0, 2], "b": [0, 2]}))
    return {"table": str(folder / "table.csv"), "bounds": str(folder / "bounds.json")}


CARD = System(
    name="diff2",
    title="Private learning across sites, by noisy gradient differences",
    paper=Paper(
        title="DIFF2: Differential Private Optimization via Gradient Differences for Nonconvex Distributed Learning",
        authors=("Tomoya Murata", "Taiji Suzuki"),
        year=2023,
        venue="ICML",
        arxiv="2302.03884",
        claim="Releasing noisy differences of gradients between rare noisy gradients improves the squared gradient norm under differential "
        "privacy from sqrt(d)/(n eps) to d^(2/3)/(n eps)^(4/3).",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=checks,
    sample=SAMPLE,
    domain="privacy",
    presets={
        "default": Options(),
        "tour": Options(most_rounds=200, restart=20),  # differences shown; the plan for this table would take gradients only
        "paper": Options(
            epsilon=3.0, delta=1e-5, rounds=2000, restart=20, step_length=0.125, clip_gradient=1.0, clip_difference=10.0, hidden=10, share=0.8,
            weights="clients", compat="paper", row_norm=1.0,
        ),
    },
    inputs=(
        InputSpec("table", "CSV with a header: features, a client column, the target last", (".csv", ".parquet")),
        InputSpec("bounds", "JSON with the public ends of columns, {\"age\": [0, 100]}", (".json",), required=False),
    ),
    figures=figures,
    headline=headline,
    extras=("samples", "privacy"),
    traits=Traits(deterministic=False, private=True, gpu=True, distributed=True),
    peers=("opacus", "flwr"),
    tiny=tiny,
    tiny_options={"epsilon": 4.0, "delta": 1e-3, "most_rounds": 12, "restart": 3, "target_bound": 2.0, "row_norm": 2.0, "trust": "secagg"},
    tiny_inputs=tiny_inputs,
)  # fmt: skip
