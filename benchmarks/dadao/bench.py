"""DADAO: events a second, the targets on the barbell, and exchanges and gradients beside synchronous methods and the published constants."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
PEER = Side("decent-bench 0.3.0", HERE / "decent_bench_side.py", peer="decent-bench")
STEPS = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.9)
TUNED = ("extra", "nids", "gradient-tracking")
ALGORITHMS = (*TUNED, "msda", "adom", "adom-multi")
TARGET = 1e-8
UNITS = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240)
"""Times of the looks at the Lyapunov function, in gradients a node."""


def main(bench: Bench) -> None:
    for case, measure in CASES.items():
        if bench.wants(case):
            measure(bench)


def events(bench: Bench) -> None:
    """Events a second on one core."""
    count = 20_000 if bench.quick else 2_000_000
    asked = [
        {"kind": "events", "case": f"{graph}, d = {data.removeprefix('random')}, {engine}", "graph": graph, "data": data, "engine": engine,
         "count": count if engine == "warp" else count // 20}
        for graph, data in (("star:300", "random2"), ("barbell:8", "random10"), ("barbell:8", "random16"))
        for engine in ("warp", "numpy")
    ]  # fmt: skip
    rows = [
        {"case": r["case"], "events_per_s": r["value"]["events_per_s"], "without_drawing": r["value"]["without_drawing"],
         "median_s": r["median_s"], "repeats": r["repeats"]}
        for r in bench.paired([OURS], asked)
    ]  # fmt: skip
    says = (
        "Events drawn and processed a second on one core, certified constants, squared losses; the last of the repeats. The official "
        "notebook prints 180,376 events in 325 s (554 a second) for the shape of the first row."
    )
    bench.table("Events a second", rows, says=says)


def mean_and_half(values: list[int]) -> tuple[float, float]:
    """The mean and half its 95 % interval (Student)."""
    from scipy.stats import t

    count = len(values)
    return float(np.mean(values)), float(
        t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)
    ) if count > 1 else math.inf


def gossip_row(
    bench: Bench, graph: str, data: str, label: str, constants: str, rates: str, product: float, seeds: int
) -> dict[str, Any]:
    request = {
        "kind": "gossip", "case": f"{graph}, {label}", "graph": graph, "data": data, "constants": constants, "rates": rates, "product": product,
        "seeds": seeds, "target": TARGET,
    }  # fmt: skip
    found = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
    exchanges, half = mean_and_half(found["exchanges"])
    gradients, half_gradients = mean_and_half(found["gradients"])
    return {
        "graph": graph, "method": label, "exchanges": exchanges, "exchanges_95": half, "gradients": gradients,
        "gradients_95": half_gradients, "runs": seeds,
    }  # fmt: skip


def barbell(bench: Bench) -> None:
    """Two cliques of eight, diabetes over 16 nodes, ridge 0.1: published constants and equal rates against ours."""
    seeds = 2 if bench.quick else 30
    settings = [
        ("published constants, equal rates", "paper", "uniform", 0.5), ("published constants, optimal rates", "paper", "optimal", 0.5),
        ("certified constants, optimal rates, product 0.5", "certified", "optimal", 0.5),
        ("certified constants, optimal rates, product 2", "certified", "optimal", 2.0),
        ("certified constants, optimal rates, product 8", "certified", "optimal", 8.0),
    ]  # fmt: skip
    rows = [gossip_row(bench, "barbell:8", "diabetes", *setting, seeds) for setting in settings]
    for row in rows:
        row["fewer_exchanges"] = rows[0]["exchanges"] / row["exchanges"]
        row["fewer_gradients"] = rows[0]["gradients"] / row["gradients"]
    says = (
        "Until the mean over the nodes of squared distances to the minimiser is 1e-8; means over the seeds, with half their 95 % interval. "
        "Expected: at least 10 times fewer exchanges and 2.5 times fewer gradients at product 0.5, 6,029 and 2,960 within the interval."
    )
    bench.table("Barbell 8 + 8", rows, says=says)


def peers(bench: Bench) -> None:
    """Exchanges and gradients on five graphs, beside synchronous methods."""
    rows: list[dict[str, Any]] = []
    for graph in ("complete:16", "star:16", "barbell:8", "grid:4,4", "path:16")[: 1 if bench.quick else 5]:
        rows += _beside(bench, graph, "diabetes", 2 if bench.quick else 10)
    says = (
        "Diabetes over 16 nodes, ridge 0.1, mean squared distance 1e-8. Synchronous methods are our ports of their papers: Metropolis weights, the "
        "step of EXTRA, NIDS and gradient tracking chosen in hindsight among nine, one use of an edge counted as one exchange. MSDA takes exact "
        "gradients of the conjugates, which are dearer than gradients."
    )
    bench.table("Beside synchronous methods", rows, says=says)
    _verdicts(bench, rows)


def product(bench: Bench) -> None:
    """Exchanges and gradients on the grid and the barbell over the product: whether one default can serve both."""
    seeds, rows = 2 if bench.quick else 30, []
    first = {
        graph: gossip_row(bench, graph, "diabetes", "published constants, equal rates", "paper", "uniform", 0.5, seeds)
        for graph in ("grid:4,4", "barbell:8")
    }
    for graph, base in first.items():
        for value in (0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0):
            row = gossip_row(bench, graph, "diabetes", f"product {value:g}", "certified", "optimal", value, seeds)
            row["fewer_exchanges"] = base["exchanges"] / row["exchanges"]
            row["fewer_gradients"] = base["gradients"] / row["gradients"]
            rows.append(row)
    says = (
        "Diabetes over 16 nodes, ridge 0.1, mean squared distance 1e-8, certified constants and optimal rates; `fewer` against the published constants with "
        "equal rates on the same graph. On the grid NIDS, its step chosen in hindsight, needs 4,080 exchanges."
    )
    bench.table("The product between exchanges and gradients", rows, says=says)


def _beside(
    bench: Bench,
    graph: str,
    data: str,
    seeds: int,
    algorithms: tuple[str, ...] = ALGORITHMS,
    steps: tuple[float, ...] = STEPS,
) -> list[dict[str, Any]]:
    rows = [gossip_row(bench, graph, data, "published DADAO", "paper", "uniform", 0.5, seeds)]
    rows += [
        gossip_row(bench, graph, data, f"ours, product {x:g}", "certified", "optimal", x, seeds)
        for x in (0.5, 2.0, 8.0)
    ]
    for algorithm in algorithms:
        sizes = list(steps) if algorithm in TUNED else [1.0]
        request = {
            "kind": "rounds", "case": f"{graph}, {algorithm}", "graph": graph, "data": data, "algorithm": algorithm, "steps": sizes, "target": TARGET,
        }  # fmt: skip
        found = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
        rows.append({
            "graph": graph, "method": algorithm, "exchanges": found and found["exchanges"], "gradients": found and found["gradients"], "runs": 1,
        })  # fmt: skip
    return rows + (_decent_bench(bench, graph, steps) if data == "diabetes" and bench.peers else [])


def _decent_bench(bench: Bench, graph: str, steps: tuple[float, ...]) -> list[dict[str, Any]]:
    """The peer's own methods on the same quadratics."""
    from ours import network, problem

    net = network(problem("diabetes", graph))
    assert net.quadratics is not None
    shared = {
        "curvatures": [H.tolist() for H, _ in net.quadratics], "linears": [c.tolist() for _, c in net.quadratics],
        "edges": net.edges.tolist(), "smoothness": net.smoothness, "steps": list(steps), "limit": 8000, "target": TARGET,
    }  # fmt: skip
    rows = []
    for algorithm in ("extra", "nids", "aug-dgm"):
        request = {"case": f"{graph}, {algorithm}", "algorithm": algorithm, **shared}
        found = bench.paired([PEER], [request], repeats=1, warmups=0)[0]["value"]
        rows.append({
            "graph": graph, "method": f"decent-bench {algorithm}", "exchanges": found and found["exchanges"],
            "gradients": found and found["gradients"], "runs": 1,
        })  # fmt: skip
    return rows


def _verdicts(bench: Bench, rows: list[dict[str, Any]]) -> None:
    """In words: where ours needs fewest exchanges, and where not."""
    for graph in dict.fromkeys(row["graph"] for row in rows):
        own = [r for r in rows if r["graph"] == graph and r["method"].startswith("ours")]
        rest = [r for r in rows if r["graph"] == graph and not r["method"].startswith("ours") and r["exchanges"]]
        best, other = min(own, key=lambda r: r["exchanges"]), min(rest, key=lambda r: r["exchanges"])
        word = "fewer" if best["exchanges"] < other["exchanges"] else "more"
        factor = max(best["exchanges"], other["exchanges"]) / min(best["exchanges"], other["exchanges"])
        bench.note(
            f"{graph}: {best['method']} needs {factor:.2f} times {word} exchanges than the best of the others ({other['method']}); "
            f"gradients {best['gradients']:,.0f} against {other['gradients']:,.0f}."
        )


def bound(bench: Bench) -> None:
    """The proved bound on the mean of the Lyapunov function against many runs, on the graphs of the other tables."""
    rows = []
    for graph in ("star:16", "path:16", "cycle:16", "complete:16", "grid:4,4", "barbell:8", "florentine")[
        : 1 if bench.quick else 7
    ]:
        for constants, rates in (("paper", "uniform"), ("certified", "optimal")):
            request = {
                "kind": "bound", "case": f"{graph}, {constants}", "graph": graph, "data": "diabetes", "constants": constants, "rates": rates,
                "product": 0.5, "runs": 20 if bench.quick else 300, "units": UNITS,
            }  # fmt: skip
            found = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
            rows.append(
                {
                    "graph": graph,
                    "constants": constants,
                    "runs": request["runs"],
                    **found,
                    "decay_over_rho": found["seen_decay"] / found["rho"],
                }
            )
    says = (
        "exp(rho t) Phi(t) / Phi(0) at eleven times from 0.25 to 240 gradients a node, diabetes, ridge 0.1. By the proof its mean is at most 1 at any time (at most three "
        "standard errors above it here) and it ever passes 20 with chance at most 0.05. `decay_over_rho`: the decay that is seen over the certified one."
    )
    bench.table("The Lyapunov bound in many runs", rows, says=says)


def changing(bench: Bench) -> None:
    """The proved bound on graphs that change over time, against many runs."""
    rows = []
    for window, value in ((5.0, 0.5), (20.0, 0.5), (80.0, 0.5), (5.0, 0.05), (20.0, 0.05))[: 1 if bench.quick else 5]:
        request = {
            "kind": "changing", "case": f"windows of {window:g}, product {value:g}", "graphs": 3 if bench.quick else 10, "window": window,
            "product": value, "runs": 10 if bench.quick else 200, "units": (1, 4, 15, 40, 100),
        }  # fmt: skip
        found = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
        rows.append({"window": window, "product": value, "runs": request["runs"], **found})
    says = (
        "Ten random geometric graphs of 16 nodes (radius 0.4) take turns, each for `window` units of time; diabetes, ridge 0.1. As for one graph, with the prices "
        "of the changes: exp(rho t) Phi(t) / Phi(0) over the prices paid until t has a mean of at most 1, and passes 20 with chance at most 0.05. `price`: the factor "
        "that a change is certified to cost, its geometric mean; `certified_decay`: rho less the prices, a unit of time."
    )
    bench.table("Graphs that change", rows, says=says)


def averages(bench: Bench) -> None:
    """Exchanges of accelerated gossip and of plain pairwise averaging."""
    rows = []
    for graph in ("path:32", "cycle:32", "grid:6,6", "barbell:16", "star:32", "complete:32")[: 1 if bench.quick else 6]:
        both = {}
        for momentum in (True, False):
            request = {
                "kind": "averages", "case": f"{graph}, {'momentum' if momentum else 'plain'}", "graph": graph, "momentum": momentum,
                "seeds": 2 if bench.quick else 10, "target": TARGET,
            }  # fmt: skip
            both[momentum] = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
        with_, half = mean_and_half(both[True]["exchanges"])
        plain, half_plain = mean_and_half(both[False]["exchanges"])
        rows.append({
            "graph": graph, "accelerated": with_, "accelerated_95": half, "plain": plain, "plain_95": half_plain, "fewer": plain / with_,
            "certified_fewer": both[True]["rate"] / both[False]["rate"],
        })  # fmt: skip
    says = (
        "Exchanges until the mean squared distance of the nodes to the average of their values is 1e-8 (d = 4, standard normal), optimal rates, ten seeds. "
        "`certified_fewer`: the ratio of the two proved rates."
    )
    bench.table("Averages", rows, says=says)


def a9a(bench: Bench) -> None:
    """Logistic regression on a9a over 16 nodes."""
    folder = bench.data()
    file = folder / "dadao" / "a9a.gz" if folder else None
    if file is None or not file.is_file():
        bench.note("a9a left out: SUREFOOT_DATA does not hold dadao/a9a.gz")
        return
    rows: list[dict[str, Any]] = []
    for graph in ("cycle:16", "barbell:8")[: 1 if bench.quick else 2]:
        rows += _beside(bench, graph, str(file), 2, ("nids",), (0.6, 1.0, 1.5))
    bench.table(
        "a9a over 16 nodes",
        rows,
        says="Logistic loss, 32,561 rows of 123 features, ridge 0.01, mean squared distance 1e-8.",
    )


def a9a_many(bench: Bench) -> None:
    """Logistic regression on a9a over 64 and 256 nodes."""
    folder = bench.data()
    file = folder / "dadao" / "a9a.gz" if folder else None
    if file is None or not file.is_file():
        bench.note("a9a over many nodes left out: SUREFOOT_DATA does not hold dadao/a9a.gz")
        return
    rows: list[dict[str, Any]] = []
    for graph in MANY[: 1 if bench.quick else len(MANY)]:
        # equal rates are optimal on graphs whose edges are all alike; large barbells have three kinds of edges
        which = "kinds" if graph.startswith("barbell") else "optimal" if graph.startswith("grid") else "uniform"
        for product in (0.5, 2.0, 8.0):
            rows.append(
                gossip_row(bench, graph, str(file), f"ours, product {product:g}", "certified", which, product, 2)
            )
        request = {
            "kind": "rounds", "case": f"{graph}, nids", "graph": graph, "data": str(file), "algorithm": "nids", "steps": [1.0, 1.5],
            "target": TARGET, "limit": MOST_ROUNDS,
        }  # fmt: skip
        found = bench.paired([OURS], [request], repeats=1, warmups=0)[0]["value"]
        rows.append({
            "graph": graph, "method": "nids", "exchanges": found and found["exchanges"], "gradients": found and found["gradients"], "runs": 1,
        })  # fmt: skip
    says = (
        "Logistic loss, 32,561 rows of 123 features, ridge 0.01, mean squared distance 1e-8. Equal rates where all edges are alike (there they are "
        "optimal), optimal rates on the grids, and on the barbells the best rates for three kinds of edges (the bridge, those beside it, the rest). NIDS takes "
        f"the better of the steps 1 and 1.5 over L; a dash: not there after {MOST_ROUNDS:,} rounds."
    )
    bench.table("a9a over 64 and 256 nodes", rows, says=says)


MANY = (
    "cycle:64", "grid:8,8", "barbell:32", "star:64", "complete:64", "cycle:256", "grid:16,16", "barbell:128", "star:256", "complete:256",
)  # fmt: skip
MOST_ROUNDS = 12_000

CASES = {
    "events": events, "barbell": barbell, "bound": bound, "peers": peers, "a9a": a9a, "a9a-many": a9a_many, "product": product,
    "changing": changing, "averages": averages,
}  # fmt: skip
