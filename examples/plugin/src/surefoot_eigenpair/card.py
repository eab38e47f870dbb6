"""What the command needs to know. Nothing heavy is imported before a function is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.core.system import Figure, Inputs, InputSpec, Paper, Sample, System


@dataclass(frozen=True)
class Options:
    """Options of the card dominant-eigenpair."""

    accuracy: float = 1e-8
    """Residual asked for, relative to the Frobenius norm of the matrix."""
    momentum: float = 0.0
    """Momentum; best is a quarter of the second-largest eigenvalue squared, 0 is the plain power method."""
    squarings: int = 5
    """How often to square the deflated matrix to bound the other eigenvalues."""
    steps: int = 100_000
    """At most so many iterations."""


SAMPLE = Sample(
    id="karate-club",
    title="Friendships in a karate club, 34 members",
    origin="networkx, karate_club_graph (adjacency without weights)",
    licence="BSD-3-Clause",
    credit="Zachary 1977",
)


def load(options: Options, inputs: Inputs) -> Any:
    """Read a square symmetric matrix from CSV or npy; without an input, take the sample."""
    from surefoot_eigenpair.problem import Symmetric, read_matrix

    if inputs.has("matrix"):
        return Symmetric(read_matrix(Path(inputs.path("matrix"))), options.accuracy)

    import networkx as nx
    import numpy as np

    from surefoot.records.fingerprint import fingerprint

    matrix = np.asarray(nx.to_numpy_array(nx.karate_club_graph(), weight=None), dtype=np.float64)
    inputs.sample(SAMPLE, sha256=fingerprint(matrix))
    return Symmetric(matrix, options.accuracy)


def run(options: Options, problem: Any, folder: Any) -> Any:
    from surefoot.core.solve import Budget, solve
    from surefoot_eigenpair.method import PowerIteration

    method = PowerIteration(options.momentum, options.squarings)
    return solve(problem, method, budget=Budget(steps=options.steps), run=folder)


def write_answer(answer: Any, problem: Any, folder: Path) -> None:
    import numpy as np

    from surefoot.records.files import write_csv

    write_csv(folder / "eigenvector.csv", {"component": answer.vector})
    write_csv(folder / "eigenvalue.csv", {"eigenvalue": np.array([answer.value])})


def read_answer(folder: Path) -> Any:
    import numpy as np

    from surefoot.records.files import read_csv
    from surefoot_eigenpair.problem import Eigenpair

    value = np.asarray(read_csv(folder / "eigenvalue.csv")["eigenvalue"], dtype=np.float64)
    vector = np.asarray(read_csv(folder / "eigenvector.csv")["component"], dtype=np.float64)
    if value.shape != (1,):
        raise ValueError(f"eigenvalue.csv holds {len(value)} rows; expected one. Run the card again")
    return Eigenpair(float(value[0]), vector)


def checks() -> Mapping[str, Any]:
    from surefoot_eigenpair.verify import CHECKS

    return CHECKS


def figures(reader: Any) -> Sequence[Figure]:
    from matplotlib.figure import Figure as Canvas

    convergence = Canvas()
    axis = convergence.subplots()
    axis.semilogy(reader.evidence("iterations.npz")["residual"])
    axis.set(xlabel="iteration", ylabel="residual |A v - theta v|", title="Power iteration")

    vector = read_answer(Path(reader.root) / "answer").vector
    components = Canvas()
    axis = components.subplots()
    axis.bar(range(1, len(vector) + 1), vector)
    axis.set(xlabel="row of the matrix", ylabel="component", title="The dominant eigenvector")
    return [
        Figure("residual", "The residual over the iterations.", convergence),
        Figure("eigenvector", "The components of the eigenvector.", components),
    ]


def headline(reader: Any) -> str:
    import json

    value = read_answer(Path(reader.root) / "answer").value
    certificate = json.loads((Path(reader.root) / "certificate.json").read_text(encoding="utf-8"))
    outcomes = {claim["name"]: claim["outcome"] for claim in certificate["claims"]}
    if outcomes["residual"] != "holds":
        return f"No eigenvalue to the accuracy asked for; the last estimate is {value:.10g}."
    if outcomes["largest"] != "holds":
        return f"An eigenvalue is {value:.10g}; whether it is the largest in absolute value is undecided."
    return f"The largest eigenvalue in absolute value is {value:.10g}."


def tiny() -> Sequence[tuple[Any, Any]]:
    import numpy as np

    from surefoot_eigenpair.method import PowerIteration
    from surefoot_eigenpair.problem import Symmetric

    size = 6
    laplacian = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
    problem = Symmetric(laplacian, 1e-10)
    return [(problem, PowerIteration(block=7)), (problem, PowerIteration(momentum=2.0, block=7))]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    rows = ["2,-1,0,0", "-1,2,-1,0", "0,-1,2,-1", "0,0,-1,2"]
    (folder / "matrix.csv").write_text("\n".join(rows) + "\n")
    return {"matrix": str(folder / "matrix.csv")}


CARD = System(
    name="dominant-eigenpair",
    title="The dominant eigenpair of a symmetric matrix, with proofs",
    paper=Paper(
        "Praktische Verfahren der Gleichungsauflösung",
        ("Richard von Mises", "Hilda Pollaczek-Geiringer"),
        1929,
        venue="ZAMM",
        doi="10.1002/zamm.19290090105",
        claim="Repeated multiplication by a matrix finds its largest eigenvalue and the vector that goes with it.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=checks,
    sample=SAMPLE,
    presets={"default": Options(), "tour": Options(), "momentum": Options(momentum=6.19)},
    inputs=(InputSpec("matrix", "square and symmetric: CSV of numbers without header, or npy", ("csv", "npy")),),
    figures=figures,
    headline=headline,
    tiny=tiny,
    tiny_options={"accuracy": 1e-3},
    tiny_inputs=tiny_inputs,
)
