"""The asynchronous method in earnest: a process a node, real time, real connections, workers that stall, die and come back.

`run_async` starts one `worker` process a node, lets them find each other through a TCP store, restarts those that die, and stops
when the points that the workers report are proved to be within the tolerance of the minimiser. The proof needs no trust in what
the workers did: it is made from their points alone. Two runs are never the same; only claims about the answer are made.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Status
from surefoot.core.problem import Consensus
from surefoot.core.solve import Result
from surefoot.decentralized.certify import CARD, answer_claims
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.problem import Network, network, require_finite_start
from surefoot.decentralized.rates import RateDesign
from surefoot.decentralized.solution import Agreement
from surefoot.numerics.losses import LOSSES
from surefoot.records.files import write_json, write_npz
from surefoot.records.history import History
from surefoot.records.process import peak_memory, polite_interrupt

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]


class FlowError(RuntimeError):
    """The two ends of an edge hold flows that are not opposite: the dual no longer sums to zero."""


@dataclass(frozen=True)
class Scene:
    """What a watch sees at every look: seconds, processes by node, proved distance and gap, counts."""

    seconds: float
    processes: Mapping[int, subprocess.Popen[bytes]]
    distance: float
    gap: float
    counts: Mapping[str, int]


@dataclass
class _Crew:
    """The worker processes and what is known of them."""

    folder: Path
    nodes: int
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)
    restarts: int = 0

    def start(self, node: int) -> None:
        generation = self.generations.get(node, -1) + 1
        command = [sys.executable, "-m", "surefoot.decentralized.worker", str(self.folder), str(node), str(generation)]
        with (self.folder / f"node-{node}-{generation}.err").open("wb") as errors:
            self.processes[node] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self.generations[node] = generation

    def revive(self, most: int) -> None:
        """Restart workers that died.

        Raises:
            RuntimeError: more often than allowed, with the end of what the worker said.
        """
        for node, process in list(self.processes.items()):
            if process.poll() is None:
                continue
            if self.restarts >= most:
                said = (self.folder / f"node-{node}-{self.generations[node]}.err").read_text(errors="replace")[-400:]
                raise RuntimeError(
                    f"node {node} died (exit {process.returncode}) and {most} restarts are used up: {said}"
                )
            self.restarts += 1
            log.warning("node %d died (exit %s); it is restarted", node, process.returncode)
            self.start(node)

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def run_async(
    problem: Consensus, method: EventGossip | None = None, *, start: Any = None, seconds: float = 60.0, unit: float = 0.02,
    restarts: int = 8, recipe: str = "", watch: Sequence[Callable[[Scene], None]] = (),
) -> Result[Agreement]:  # fmt: skip
    """Run every node as a process of its own on this machine.

    Args:
        problem: a `Consensus` of linear models, or any with its `recipe`.
        method: tolerance, constants and rates are read from it.
        start: as for `solve`.
        seconds: stop then, at the latest.
        unit: seconds between a node's gradients on average, the unit of the method's time; four gradients where those are
            slower. It should be long against the delay of a message and of the scheduler: with delays of about a unit the
            motion is no longer the one that converges.
        restarts: how many deaths of workers are made good.
        recipe: `package.module:factory` that returns this problem in a worker, where its losses are no linear models.
        watch: called at every look.

    Returns:
        A `Result` as `solve` gives it: `counts` has gradients, exchanges, broken exchanges, restarts and rejoins.

    Raises:
        ValueError: workers could not be told what the losses are.
        RuntimeError: workers keep dying.
        FlowError: after a rejoin or at the end, two ends of an edge contradict each other.
    """
    chosen = method or EventGossip()
    net = network(problem)
    if net.rows is None and not recipe:
        raise ValueError(
            "these losses are no linear models; give recipe='package.module:factory' so that workers can make them"
        )
    if not (math.isfinite(unit) and unit > 0 and math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"unit is {unit} and seconds is {seconds}; expected finite numbers > 0")
    if chosen.batch:
        raise ValueError(f"batch is {chosen.batch}; processes take whole gradients (batch=0)")
    if net.schedule is not None:
        raise ValueError("processes run on one graph, and this one changes over time; simulate it (solve)")
    points = np.zeros(net.dim) if start is None else start.points if isinstance(start, Agreement) else start
    points = require_finite_start(np.asarray(points), net.nodes, net.dim)
    design = chosen.choose_rates(problem, net)
    rates = design.rates if isinstance(design, RateDesign) else design
    letters = chosen.choose_constants(net, rates)
    unit = max(unit, 4 * _slowest_gradient(net, points))
    with tempfile.TemporaryDirectory(prefix="surefoot-async-") as scratch:
        folder = Path(scratch)
        store = _open_store()
        tree = {
            "port": store.port, "unit": unit, "ends": net.edges.tolist(), "rates": rates.tolist(), "constants": asdict(letters),
            "dim": net.dim, "report": 5.0, "start": points.tolist(), "recipe": recipe, "origin": time.time(),
        }  # fmt: skip
        write_json(folder / "plan.json", {**tree, **_write_rows(net, folder)})
        crew = _Crew(folder, net.nodes)
        try:
            for node in range(net.nodes):
                crew.start(node)
            return _supervise(problem, net, chosen, rates, store, crew, seconds, restarts, watch)
        finally:
            crew.end()


def _slowest_gradient(net: Network, points: Array) -> float:
    """Seconds of the slowest node's gradient."""
    slowest = 0.0
    for node in range(net.nodes):
        began = time.perf_counter()
        net.gradient(node, np.ascontiguousarray(points[node]))
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


def _open_store() -> Any:
    import torch.distributed as dist

    make: Any = dist.TCPStore  # type: ignore[attr-defined]
    return make("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=30))


def _write_rows(net: Network, folder: Path) -> dict[str, Any]:
    """Every node's rows in a file of its own, and what the loss is."""
    if net.rows is None:
        return {}
    loss = net.rows[0].loss
    if len({repr(local.loss) for local in net.rows}) > 1:
        raise ValueError("the nodes have different losses; give a recipe")
    name = next(name for name, kind in LOSSES.items() if type(loss) is kind)
    for node, local in enumerate(net.rows):
        write_npz(folder / f"node-{node}.npz", {"features": local.features, "targets": local.targets})
    return {"loss": name, "loss_options": asdict(loss), "ridges": [local.ridge for local in net.rows]}  # type: ignore[call-overload]


def _supervise(
    problem: Consensus, net: Network, method: EventGossip, rates: Array, store: Any, crew: _Crew, seconds: float, restarts: int,
    watch: Sequence[Callable[[Scene], None]],
) -> Result[Agreement]:  # fmt: skip
    history, began = History(), time.perf_counter()
    status, reason, best = Status.BUDGET, f"{seconds:g} seconds", math.inf
    checked: set[tuple[int, int]] = set()
    looks = 0
    with polite_interrupt() as interrupted:
        while True:
            time.sleep(0.02)
            spent = time.perf_counter() - began
            crew.revive(restarts)
            for rejoin in _new_rejoins(store, crew, checked):
                _audit(net, rejoin)
            if store.check(["contradiction"]):
                raise FlowError(store.get("contradiction").decode())
            reports = _reports(store, "report", net.nodes)
            distance = gap = math.inf
            if len(reports) == net.nodes:
                points = np.array([reports[i]["point"] for i in range(net.nodes)])
                distance, gap = _proved(net, points)
                looks += 1
                best = min(best, distance + gap)
                row = {"time": float(np.mean([r["time"] for r in reports.values()])), "distance": distance, "gap": gap}
                counts = _counts(reports)
                row |= {"gradients": float(counts["gradient"]), "exchanges": float(counts["exchange"])}
                history.add({"k": float(looks), "seconds": spent, **row})
            for see in watch:
                see(Scene(spent, dict(crew.processes), distance, gap, _counts(reports)))
            if distance + gap <= method.tolerance:
                status, reason = Status.CONVERGED, "every node is proved to be within the tolerance"
            elif interrupted():
                status, reason = Status.INTERRUPTED, "interrupted"
            elif spent < seconds:
                continue
            break
    final = _finish(store, crew, net)
    chosen = reports if status is Status.CONVERGED else final if len(final) == net.nodes else reports
    if len(chosen) < net.nodes:
        missing = [i for i in range(net.nodes) if i not in chosen]
        raise RuntimeError(f"nodes {missing} never reported within {seconds:g} seconds; give more seconds")
    answer = Agreement(np.array([chosen[i]["point"] for i in range(net.nodes)]), rates)
    claims, evidence = answer_claims(net, answer, method.tolerance)
    certificate = Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)
    counts = {
        **_counts(final or reports),
        "restart": crew.restarts,
        "rejoin": len([1 for _, g in checked if g]),
        "look": looks * net.nodes,
    }
    return Result(
        answer, status, reason, certificate, history, looks, counts, time.perf_counter() - began, peak_memory()
    )


def _proved(net: Network, points: Array) -> tuple[float, float]:
    mean = points.mean(axis=0)
    if not np.isfinite(points).all():
        return math.inf, math.inf
    return float(np.linalg.norm(net.mean_gradient(mean))) / net.mu, float(np.linalg.norm(points - mean, axis=1).max())


def _reports(store: Any, kind: str, nodes: int) -> dict[int, dict[str, Any]]:
    keys = {i: f"{kind}/{i}" for i in range(nodes)}
    return {i: json.loads(store.get(key)) for i, key in keys.items() if store.check([key])}


def _counts(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, int]:
    names = ("gradient", "exchange", "broken")
    return {name: sum(int(r["counts"][name]) for r in reports.values()) for name in names}


def _new_rejoins(store: Any, crew: _Crew, checked: set[tuple[int, int]]) -> list[dict[str, Any]]:
    found = []
    for node, newest in crew.generations.items():
        for generation in range(newest + 1):
            key = f"rejoin/{node}/{generation}"
            if (node, generation) not in checked and store.check([key]):
                checked.add((node, generation))
                found.append({"node": node, "generation": generation, **json.loads(store.get(key))})
    return found


def _audit(net: Network, rejoin: Mapping[str, Any]) -> None:
    """A worker that came back holds flows opposite to those at the other ends, so the dual sums to zero as before.

    Raises:
        FlowError: naming the edge.
    """
    if not rejoin["generation"]:
        return
    for e, copies in rejoin["met"].items():
        if copies["own"] != [-value for value in copies["theirs"]]:
            i, j = (net.names[node] for node in net.edges[int(e)])
            raise FlowError(
                f"node {net.names[rejoin['node']]} came back, but the flows of edge {i} - {j} after exchange {copies['sequence']} "
                "are not opposite"
            )
    if rejoin["missing"]:
        log.warning(
            "node %d came back without its edges %s, whose other ends are away", rejoin["node"], rejoin["missing"]
        )
    log.info("node %d came back; %d flows came from its neighbours", rejoin["node"], rejoin["adopted"])


def _finish(store: Any, crew: _Crew, net: Network) -> dict[int, dict[str, Any]]:
    """Stop all workers, then hold the two copies of every edge against each other.

    Raises:
        FlowError: they are not opposite.
    """
    alive = [node for node, process in crew.processes.items() if process.poll() is None]
    store.set("alive", str(len(alive)))
    store.set("stop", "1")
    until = time.perf_counter() + 12.0
    while time.perf_counter() < until and not all(store.check([f"done/{node}"]) for node in alive):
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        for node in alive:
            crew.processes[node].wait(timeout=2.0)
    final = _reports(store, "final", net.nodes)
    opposite_flows(net, final)
    return final


def opposite_flows(net: Network, final: Mapping[int, Mapping[str, Any]]) -> int:
    """Check that every edge's two copies agree in their number and are opposite to the last bit; how many edges were checked.

    Raises:
        FlowError: naming the edge.
    """
    checked = 0
    for e, (i, j) in enumerate(net.edges.tolist()):
        if i not in final or j not in final or str(e) not in final[i]["edges"]:
            continue
        left, right = final[i]["edges"][str(e)], final[j]["edges"][str(e)]
        if left["sequence"] != right["sequence"] or left["flow"] != [-value for value in right["flow"]]:
            raise FlowError(
                f"edge {net.names[i]} - {net.names[j]}: exchange {left['sequence']} at one end and {right['sequence']} at the other, "
                "with flows that are not opposite"
            )
        checked += 1
    return checked
