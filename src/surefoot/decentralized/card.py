"""The card of DADAO: what the command, the tour and the docs need to know."""

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
    """What can be chosen."""

    algorithm: Literal[
        "dadao", "gossip", "acid", "extra", "nids", "gradient-tracking", "msda", "adom", "adom-multi"
    ] = "dadao"
    """The asynchronous method; accelerated gossip (--loss mean); A2CiD2 (any smooth loss); or a synchronous method to hold beside it."""
    processes: bool = False
    """Run every node as a process of its own, in real time, instead of simulating."""
    graph: str = "florentine"
    """Graph by name where no file is given: florentine, karate, star:16, grid:4,4, barbell:8, ...; star:8+cycle:8 changes over time."""
    window: float = 40.0
    """How long each graph lasts where there are several and they do not say it, in gradients a node."""
    loss: Literal["squared", "logistic", "huber", "nonconvex", "mean"] = "squared"
    """Loss of a prediction; nonconvex is a logistic loss with a bounded penalty, mean asks for the nodes' mean row."""
    ridge: float = 0.1
    """Weight of the quadratic term, every node's strong convexity (nonconvex: of the bounded penalty)."""
    target: str = ""
    """Target column of a table; the last one by default."""
    node_column: str = ""
    """Column of a table that says which node holds a row; by default rows are dealt in blocks."""
    standardise: bool = True
    """Scale every feature (and a real target) to mean 0 and spread 1, over all nodes."""
    tolerance: float = 1e-8
    """Stop once every node is proved to be within this distance of the minimiser."""
    rates: Literal["optimal", "uniform", "graph"] = "optimal"
    """Exchanges an edge: the least total rate, equal rates, or the rates in the graph's file."""
    product: float = 0.5
    """Larger means fewer exchanges and more gradients: the product chi1 chi2 of the rates."""
    exchange_cost: float = 0.0
    """> 0: choose the product for the least certified cost, where an exchange costs so many gradients."""
    constants: Literal["certified", "paper"] = "certified"
    """Constants with the largest certified rate, or the published ones."""
    batch: int = 0
    """Rows a gradient, drawn with replacement (0: all); the run ends at the floor that their noise leaves."""
    caution: float = 1.0
    """With --batch, > 1: smaller steps for a lower floor."""
    momentum: bool = True
    """The continuous momentum of gossip and acid; without it plain pairwise averaging."""
    time: float = 200.0
    """With acid: gradients a node."""
    step_size: float = 0.0
    """With acid: step of a gradient; 0 takes 1 / (2 L)."""
    compat: Literal["", "paper"] = ""
    """"paper" takes constants, product and rates as published."""
    engine: Literal["auto", "warp", "numpy", "reference"] = "auto"
    """How events are simulated: compiled (extra `kernels`), in batches, or one by one."""
    beside: bool = True
    """Hold the synchronous methods NIDS and EXTRA beside the run (linear models only)."""
    unit: float = 0.02
    """With --processes: seconds between a node's gradients."""
    seconds: float = 120.0
    """With --processes: stop then."""
    steps: int = 50_000_000
    """At most so many events (or rounds)."""


SAMPLE = Sample(
    id="diabetes-florentine",
    title="Diabetes progression of 442 patients, dealt over 15 Florentine families",
    origin="scikit-learn, load_diabetes; networkx, florentine_families_graph",
    licence="BSD-3-Clause",
    credit="Efron, Hastie, Johnstone, Tibshirani 2004; Breiger, Pattison 1986",
)


def load(options: Options, inputs: Inputs) -> Any:
    """A graph (GraphML or edge list, or by name) and rows over its nodes (a file, a folder, or the sample)."""
    import numpy as np

    from surefoot.decentralized.graphs import plain_graph
    from surefoot.decentralized.loading import as_labels, graph_by_name, read_graphs, read_rows, standardised
    from surefoot.decentralized.problem import linear_consensus
    from surefoot.numerics.losses import loss as named_loss

    if inputs.has("graph") and inputs.is_recipe("graph"):
        from surefoot.core.problem import Consensus

        problem = inputs.factory("graph")()
        if not isinstance(problem, Consensus):
            raise ValueError(f"the recipe returned a {type(problem).__name__}; expected a Consensus")
        require_possible(options, problem)
        return problem
    window = options.window
    graph = read_graphs(inputs.path("graph"), window) if inputs.has("graph") else graph_by_name(options.graph, window)
    names = tuple(plain_graph(graph))
    owner = None
    if inputs.has("data"):
        features, targets, owner = read_rows(inputs.path("data"), names, options.target, options.node_column)
    else:
        from sklearn.datasets import load_diabetes

        from surefoot.records.fingerprint import fingerprint

        found: Any = load_diabetes()
        features, targets = np.asarray(found.data), np.asarray(found.target)
        if options.loss in ("logistic", "nonconvex"):
            targets = np.where(targets > np.median(targets), 1.0, -1.0)
        inputs.sample(SAMPLE, sha256=fingerprint(np.asarray(found.data), np.asarray(found.target)))
    if options.loss in ("logistic", "nonconvex"):
        targets = as_labels(targets)
    elif options.standardise:
        targets = standardised(targets)
    if options.standardise:
        features = standardised(features)
    if options.loss in ("mean", "nonconvex"):
        from surefoot.decentralized.nonconvex import averaging, node_means, nonconvex_logistic

        require_method(options)
        if options.loss == "mean":
            everything = np.column_stack([features, targets])
            problem = averaging(node_means(everything, len(names), owner), graph)
        else:
            problem = nonconvex_logistic(features, targets, options.ridge, graph, owner)
        require_possible(options, problem)
        return problem
    loss = named_loss("huber", knee=1.0) if options.loss == "huber" else named_loss(options.loss)
    problem = linear_consensus(features, targets, loss, options.ridge, graph, owner)
    require_possible(options, problem)
    return problem


def require_method(options: Options) -> None:
    """Refuse a method that cannot do with the loss.

    Raises:
        ValueError: with the methods that can.
    """
    if options.loss == "nonconvex" and options.algorithm != "acid":
        raise ValueError(f"the loss is not convex, for which there is --algorithm acid, not {options.algorithm}")
    if options.algorithm == "gossip" and options.loss != "mean":
        raise ValueError(f"gossip finds averages only: give --loss mean, not {options.loss}")


def require_possible(options: Options, problem: Any) -> None:
    """Refuse what cannot be run before the run has a folder.

    Raises:
        ValueError: options out of range or that exclude each other, and rates that the graph does not carry.
    """
    import math

    from surefoot.decentralized.graphs import given_rates, plain_graph
    from surefoot.decentralized.schedule import schedule_of

    method(options)
    require_method(options)
    plain = plain_graph(problem.graph)
    schedule = schedule_of(plain)
    if schedule is not None and (options.processes or options.algorithm != "dadao"):
        raise ValueError("the graph changes over time, for which there is the simulated asynchronous method only")
    if options.processes and options.algorithm != "dadao":
        raise ValueError(f"--processes runs the asynchronous method only, not {options.algorithm}")
    if options.batch and (options.processes or options.algorithm not in ("dadao", "acid")):
        raise ValueError("--batch is for the simulated dadao and acid")
    if options.processes and not all(math.isfinite(v) and v > 0 for v in (options.unit, options.seconds)):
        raise ValueError(f"unit is {options.unit} and seconds is {options.seconds}; expected finite numbers > 0")
    if options.steps < 1:
        raise ValueError(f"steps is {options.steps}; expected at least 1")
    given = given_rates(plain) if schedule is None else schedule.given
    if options.rates == "graph" and options.algorithm in ("dadao", "gossip", "acid") and given is None:
        raise ValueError("--rates graph, but the graph's edges carry no rate; take uniform or optimal")


def method(options: Options) -> Any:
    """The method that the options describe."""
    from surefoot.decentralized.event_gossip import EventGossip
    from surefoot.decentralized.momentum import ContinuizedGossip, MomentumDescent
    from surefoot.decentralized.rounds import Rounds

    if options.algorithm == "gossip":
        return ContinuizedGossip(options.momentum, options.tolerance, options.rates, options.product)
    if options.algorithm == "acid":
        return MomentumDescent(
            options.time, options.step_size, options.batch, options.momentum, options.rates, options.product
        )
    if options.algorithm != "dadao":
        return Rounds(options.algorithm, tolerance=options.tolerance)
    return EventGossip(
        tolerance=options.tolerance, constants=options.constants, product=options.product, rates=options.rates,
        engine=options.engine, compat=options.compat, batch=options.batch, caution=options.caution,
        exchange_cost=options.exchange_cost,
    )  # fmt: skip


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """Simulate (or run) until the answer is proved to be good enough."""
    from surefoot.core.solve import Budget, solve

    if options.processes:
        from surefoot.decentralized.runtime import run_async

        return run_async(problem, method(options), seconds=options.seconds, unit=options.unit)
    result = solve(problem, method(options), budget=Budget(steps=options.steps), run=run)
    if options.beside and options.algorithm == "dadao" and not options.batch:
        from surefoot.decentralized.beside import with_peers

        return with_peers(result, problem, options.tolerance)
    return result


def write_answer(answer: Any, problem: Any, folder: Path) -> None:
    """points.npz and graph.graphml with the rates."""
    from surefoot.decentralized.solution import write_solution

    write_solution(answer, problem.graph, folder)


def read_answer(folder: Path) -> Any:
    """Every node's point and every edge's rate."""
    from surefoot.decentralized.solution import read_solution

    return read_solution(folder)


def checks() -> Mapping[str, Check]:
    """The checkers."""
    from surefoot.decentralized.verify import CHECKS

    return CHECKS


def figures(reader: RunReader) -> Sequence[Figure]:
    """The graph with its rates, and the error over gradients and exchanges."""
    from surefoot.decentralized.figures import figures as draw

    return draw(reader)


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    from surefoot.decentralized.figures import headline as say

    return say(reader)


def tiny() -> Sequence[tuple[Any, Any]]:
    """Three nodes on a path, by every engine and every kind of rates; gossip and A2CiD2; the synchronous methods."""
    import numpy as np

    from surefoot.decentralized.event_gossip import EventGossip
    from surefoot.decentralized.graphs import named_graph
    from surefoot.decentralized.momentum import ContinuizedGossip, MomentumDescent
    from surefoot.decentralized.nonconvex import averaging, nonconvex_logistic
    from surefoot.decentralized.problem import linear_consensus
    from surefoot.decentralized.rounds import PLANS, Rounds
    from surefoot.numerics.losses import Logistic, Squared

    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 2))
    quadratic = linear_consensus(A, A @ [1.0, -2.0] + rng.normal(size=12), Squared(), 0.5, named_graph("path:3"))
    labels = np.where(A[:, 0] > 0, 1.0, -1.0)
    binary = linear_consensus(A, labels, Logistic(), 0.1, named_graph("cycle:4"))
    return [
        (quadratic, EventGossip(tolerance=0.0, engine="numpy")),
        (quadratic, EventGossip(tolerance=0.0, engine="reference", rates="uniform", product=2.0)),
        (binary, EventGossip(tolerance=0.0, compat="paper", check_every=0.5)),
        (binary, MomentumDescent(batch=2, check_every=0.5)),
        (nonconvex_logistic(A, labels, 0.1, named_graph("cycle:4")), MomentumDescent(momentum=False)),
        (averaging(A[:4], named_graph("cycle:4")), ContinuizedGossip(tolerance=0.0)),
        *((quadratic, Rounds(name, tolerance=0.0)) for name in PLANS),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """A path of four nodes with a chord, and 40 rows."""
    import numpy as np

    rng = np.random.default_rng(1)
    A = rng.normal(size=(40, 3))
    y = A @ np.array([1.0, -0.5, 0.25]) + 0.3 * rng.normal(size=40)
    (folder / "graph.csv").write_text("source,target\na,b\nb,c\nc,d\nb,d\n", encoding="utf-8")
    rows = ["size,age,load,wear", *(",".join(map(repr, map(float, [*r, t]))) for r, t in zip(A, y, strict=True))]
    (folder / "data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"graph": str(folder / "graph.csv"), "data": str(folder / "data.csv")}


CARD = System(
    name="dadao",
    title="Decentralised optimisation without rounds: asynchronous gradients and pairwise exchanges",
    paper=Paper(
        title="DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization",
        authors=("Adel Nabli", "Edouard Oyallon"),
        year=2023,
        venue="International Conference on Machine Learning",
        arxiv="2208.00779",
        claim="Gradients and exchanges at independent random times, without rounds, reach the accelerated rate in both: their "
        "numbers grow with the square root of the condition number.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=checks,
    sample=SAMPLE,
    aliases=("event-gossip",),
    domain="decentralized",
    presets={"default": Options(), "tour": Options(), "paper": Options(compat="paper")},
    inputs=(
        InputSpec("graph", "graph of the machines: GraphML, edge list, a folder of them that take turns, or a recipe module:factory", (".graphml", ".csv", ".txt", ".edges")),
        InputSpec(
            "data", "rows: table, svmlight file, or a folder with one svmlight file a node",
            (".csv", ".tsv", ".parquet", ".npy", ".svm", ".libsvm"), required=False,
        ),
    ),
    figures=figures,
    headline=headline,
    extras=("kernels",),
    traits=Traits(),
    peers=("decent-bench",),
    tiny=tiny,
    tiny_options={"tolerance": 1e-3, "engine": "numpy"},
    tiny_inputs=tiny_inputs,
)  # fmt: skip
