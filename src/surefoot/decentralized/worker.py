"""One node as a process: a gradient loop, an exchange loop and a listener on one state, in real time.

    python -m surefoot.decentralized.worker FOLDER NODE GENERATION

Time is wall-clock time over the agreed unit. Every thread moves the state by the exact flow up to now, then applies its jump.
The lower node of an edge starts its exchanges; the other answers. No lock is held while waiting for a neighbour, so that a
neighbour that stalls or dies costs the exchanges with it and nothing else. `wire.EdgeFlow` says how the dual survives.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants
from surefoot.decentralized.flow import flow_matrices
from surefoot.decentralized.wire import (
    HELLO,
    REPLY,
    REQUEST,
    STATE,
    ContradictionError,
    EdgeFlow,
    Message,
    WireError,
    receive,
    send,
)
from surefoot.records.files import read_json, read_npz

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]
X, XT, Y, YT, Z, ZT = range(6)
PATIENCE = 0.5
"""Seconds that a node waits for a neighbour's answer."""
RETRY = 0.05
"""Seconds before a broken connection is tried again."""


@dataclass(frozen=True)
class Plan:
    """What all workers agree on, from `plan.json`."""

    port: int
    origin: float  # epoch seconds at time 0
    unit: float  # seconds
    ends: tuple[tuple[int, int], ...]
    rates: tuple[float, ...]
    constants: Constants
    dim: int
    report: float  # units between reports

    @classmethod
    def read(cls, folder: Path) -> Plan:
        tree = read_json(folder / "plan.json")
        ends = tuple((int(i), int(j)) for i, j in tree["ends"])
        constants = Constants(**{k: float(v) for k, v in tree["constants"].items()})
        rates = tuple(map(float, tree["rates"]))
        origin, unit, report = (float(tree[name]) for name in ("origin", "unit", "report"))
        return cls(int(tree["port"]), origin, unit, ends, rates, constants, int(tree["dim"]), report)


class Node:
    """The state of one node and what may happen to it; every method takes the lock itself."""

    def __init__(self, node: int, plan: Plan, gradient: Any) -> None:
        self.node, self.plan, self.gradient = node, plan, gradient
        self.lock = threading.Lock()
        self.values = np.zeros((6, plan.dim))
        self.time = 0.0
        self.edges = {
            e: EdgeFlow(np.zeros((2, plan.dim)))
            for e, pair in enumerate(plan.ends)
            if node in pair and plan.rates[e] > 0
        }
        self.counts = {"gradient": 0, "exchange": 0, "broken": 0, "adopted": 0}
        self.met: dict[int, dict[str, Any]] = {}  # both copies of every edge when its ends last met

    def neighbour(self, edge: int) -> int:
        i, j = self.plan.ends[edge]
        return j if i == self.node else i

    def now(self) -> float:
        """Units since the start; the plan's origin makes it common to all processes of a machine."""
        return max(0.0, (time.time() - self.plan.origin) / self.plan.unit)

    def _advance(self, moment: float) -> None:
        """Exact flow up to `moment`; never backwards."""
        elapsed = moment - self.time
        if elapsed > 0:
            self.values = flow_matrices(self.plan.constants, np.array([elapsed]))[0] @ self.values
            self.time = moment

    def _pair_flow(self, pair: Array, elapsed: float) -> Array:
        """(z, zt) moved by their own motion, which needs nothing else."""
        return flow_matrices(self.plan.constants, np.array([elapsed]))[0][Z:, Z:] @ pair

    def _gather(self) -> None:
        """z and zt are the sum over the edges' flows, each moved to the node's time."""
        total = np.zeros((2, self.plan.dim))
        for edge in self.edges.values():
            # an edge stamped a moment ahead (the other end's clock) counts as of now
            total += self._pair_flow(edge.flow, max(0.0, self.time - edge.time))
        self.values[Z:] = total

    def restart(self, point: Array) -> None:
        """Begin at `point` with the duals that belong to it; the flows of the edges stay."""
        with self.lock:
            self.time = self.now()
            slope = self.gradient(point) - self.plan.constants.nu * point
            self.values[X] = self.values[XT] = point
            self.values[Y] = self.values[YT] = slope
            self._gather()

    def step(self) -> float:
        """One gradient; seconds that it took."""
        with self.lock:
            self._advance(self.now())
            point = self.values[X].copy()
        began = time.perf_counter()
        slope = self.gradient(point)
        took = time.perf_counter() - began
        c = self.plan.constants
        with self.lock:
            self._advance(self.now())
            error = slope - c.nu * point - self.values[YT]
            self.values[X] -= c.gamma * error
            self.values[XT] -= c.gamma_twin * error
            self.values[YT] += c.delta * error
            self.counts["gradient"] += 1
        return took

    def offer(self, edge: int) -> Message:
        """The request of the edge's next exchange."""
        with self.lock:
            self._advance(self.now())
            copy = self.edges[edge]
            moment = max(self.time, copy.time)
            return Message(REQUEST, self.node, copy.sequence + 1, moment, self.values[Y] + self.values[Z])

    def accept(self, edge: int, request: Message) -> Message:
        """Apply an exchange that the other end asks for, and answer it; or say where this end is."""
        with self.lock:
            copy = self.edges[edge]
            if request.sequence != copy.sequence + 1 or request.time < copy.time:
                return Message(STATE, self.node, copy.sequence, copy.time, copy.flow.ravel())
            self._advance(max(self.now(), request.time))
            own = self.values[Y] + self.values[Z]
            self._exchange(copy, request.time, request.sequence, own - request.numbers)
            return Message(REPLY, self.node, request.sequence, request.time, own)

    def finish(self, edge: int, request: Message, reply: Message) -> bool:
        """Apply the exchange that this end asked for; whether it counted."""
        with self.lock:
            copy = self.edges[edge]
            if reply.kind == STATE:
                self._adopt(copy, reply)
                return False
            if reply.kind != REPLY or reply.sequence != request.sequence or copy.sequence + 1 != request.sequence:
                raise WireError("the answer is not that of the request")
            self._advance(max(self.now(), request.time))
            self._exchange(copy, request.time, request.sequence, request.numbers - reply.numbers)
            self.counts["exchange"] += 1
            return True

    def _exchange(self, copy: EdgeFlow, moment: float, sequence: int, difference: Array) -> None:
        """Move the edge to `moment` and add its jump. The two ends compute opposite numbers, bit for bit."""
        c = self.plan.constants
        copy.flow = self._pair_flow(copy.flow, moment - copy.time)
        copy.flow[0] -= c.beta * difference
        copy.flow[1] -= c.beta_twin * difference
        copy.time, copy.sequence = moment, sequence
        self._gather()

    def hello(self, edge: int) -> Message:
        """This end's copy of the edge."""
        with self.lock:
            copy = self.edges[edge]
            return Message(HELLO, self.node, copy.sequence, copy.time, copy.flow.ravel())

    def meet(self, edge: int, greeting: Message) -> None:
        """Settle with the other end's copy.

        Raises:
            WireError: the copies contradict each other.
        """
        with self.lock:
            copy = self.edges[edge]
            self._adopt(copy, greeting)
            if greeting.sequence == copy.sequence:  # else the other end is behind, and takes this end's copy
                self.met[edge] = {
                    "sequence": copy.sequence, "own": copy.flow.ravel().tolist(), "theirs": greeting.numbers.tolist(),
                }  # fmt: skip

    def _adopt(self, copy: EdgeFlow, message: Message) -> None:
        if message.numbers.size != copy.flow.size:
            raise WireError("the other end has vectors of another length")
        if copy.settle(message.sequence, message.time, message.numbers):
            self.counts["adopted"] += 1
            self._advance(self.now())
            self._gather()

    def report(self) -> dict[str, Any]:
        """The point now, counts, and the edges' sequence numbers."""
        with self.lock:
            self._advance(self.now())
            point = self.values[X].tolist()
            sequences = {str(e): copy.sequence for e, copy in self.edges.items()}
            return {"time": self.time, "point": point, "counts": dict(self.counts), "sequences": sequences}

    def flows(self) -> dict[str, Any]:
        """All copies of edges, for the audit at the end."""
        with self.lock:
            return {
                str(e): {"sequence": c.sequence, "time": c.time, "flow": c.flow.ravel().tolist()}
                for e, c in self.edges.items()
            }


class Worker:
    """The threads around a `Node`, its connections, and the store where workers find each other."""

    def __init__(self, node: Node, store: Any, generation: int) -> None:
        self.node, self.store, self.generation = node, store, generation
        self.stopping = threading.Event()
        self.settled: set[int] = set()
        self.links: dict[int, socket.socket] = {}
        self.retry: dict[int, float] = {}
        self.server = socket.create_server(("127.0.0.1", 0))
        self.rng = np.random.default_rng([node.node, generation, time.time_ns() & 0xFFFFFFFF])
        self.own = [e for e in node.edges if node.plan.ends[e][0] == node.node]

    # ---- answering ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Accept neighbours; a thread for each of their connections."""
        self.server.settimeout(0.2)
        while not self.stopping.is_set():
            try:
                connection, _ = self.server.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                greeting = receive(connection)
                edge = self._edge_to(greeting)
                self.node.meet(edge, greeting)
                send(connection, self.node.hello(edge))
                self.settled.add(edge)
                connection.settimeout(None)
                while not self.stopping.is_set():
                    send(connection, self.node.accept(edge, receive(connection)))
            except (OSError, WireError) as error:
                self._report_contradiction(error)
                log.info("node %d: a connection ended: %s", self.node.node, error)

    def _report_contradiction(self, error: Exception) -> None:
        """Tell the supervisor, who ends the run: nothing that follows could be trusted."""
        if isinstance(error, ContradictionError):
            self.store.set("contradiction", f"node {self.node.node}: {error}")

    def _edge_to(self, greeting: Message) -> int:
        if greeting.kind == HELLO:
            for edge in self.node.edges:
                if self.node.neighbour(edge) == greeting.node and edge not in self.own:
                    return edge
        raise WireError(f"node {greeting.node} has no edge to this node")

    # ---- asking ---------------------------------------------------------------------------------------------

    def _link(self, edge: int) -> socket.socket | None:
        """The connection of an edge that this node starts, reopened if it broke; None while the neighbour is away."""
        if edge in self.links:
            return self.links[edge]
        if time.monotonic() < self.retry.get(edge, 0.0):
            return None
        self.retry[edge] = time.monotonic() + RETRY
        key = f"port/{self.node.neighbour(edge)}"
        if not self.store.check([key]):
            return None
        connection = None
        try:
            connection = socket.create_connection(("127.0.0.1", int(self.store.get(key))), PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(PATIENCE)
            send(connection, self.node.hello(edge))
            self.node.meet(edge, receive(connection))
        except (OSError, WireError) as error:
            self._report_contradiction(error)
            log.info("node %d: no connection for edge %d: %s", self.node.node, edge, error)
            if connection is not None:
                connection.close()
            return None
        self.settled.add(edge)
        self.links[edge] = connection
        return connection

    def _exchange(self, edge: int) -> None:
        connection = self._link(edge)
        if connection is None:
            return
        request = self.node.offer(edge)
        try:
            send(connection, request)
            self.node.finish(edge, request, receive(connection))
        except (OSError, WireError) as error:
            self._report_contradiction(error)
            log.info("node %d: edge %d broke: %s", self.node.node, edge, error)
            self.node.counts["broken"] += 1
            self.links.pop(edge).close()

    def exchanges(self) -> None:
        """Exchanges at the jumps of the clocks of the edges that this node starts."""
        rates = np.array([self.node.plan.rates[e] for e in self.own])
        due = self.node.now()
        while len(rates) and not self.stopping.is_set():
            due = self._wait(due, float(rates.sum()))
            self._exchange(self.own[int(self.rng.choice(len(rates), p=rates / rates.sum()))])

    def gradients(self) -> None:
        """Gradients at the jumps of the node's own clock."""
        due, mean = self.node.now(), 0.0
        while not self.stopping.is_set():
            due = self._wait(due, 1.0)
            mean = 0.95 * mean + 0.05 * self.node.step()

    def _wait(self, due: float, rate: float) -> float:
        """Sleep until the clock's next jump. A process that fell behind goes on from now, without a burst."""
        due += float(self.rng.exponential(1 / rate))
        late = self.node.now() - due
        if late < 0:
            self.stopping.wait(-late * self.node.plan.unit)
        return due if late < 5 / rate else self.node.now()

    # ---- life -----------------------------------------------------------------------------------------------

    def rejoin(self, patience: float) -> dict[str, Any]:
        """Settle every edge with its other end before anything is computed; what was found, edge by edge."""
        until = time.monotonic() + patience
        while len(self.settled) < len(self.node.edges) and time.monotonic() < until:
            for edge in self.own:
                self._link(edge)
            time.sleep(0.01)
        missing = [e for e in self.node.edges if e not in self.settled]
        with self.node.lock:
            met = {str(e): copies for e, copies in self.node.met.items()}
        return {"met": met, "missing": missing, "adopted": self.node.counts["adopted"]}

    def run(self, start: Array, point_of: Any) -> None:
        """Open for business, settle, work until told to stop, leave the last report and the flows."""
        node, name = self.node, self.node.node
        threading.Thread(target=self.listen, daemon=True).start()
        self.store.set(f"port/{name}", str(self.server.getsockname()[1]))
        self.store.set(f"rejoin/{name}/{self.generation}", json.dumps(self.rejoin(3.0 if self.generation else 20.0)))
        node.restart(point_of() if self.generation else start)
        loops = [threading.Thread(target=loop, daemon=True) for loop in (self.gradients, self.exchanges)]
        for loop in loops:
            loop.start()
        while not self.store.check(["stop"]):
            self.store.set(f"report/{name}", json.dumps({**node.report(), "generation": self.generation}))
            time.sleep(max(0.005, node.plan.report * node.plan.unit))
        self.stopping.set()
        for loop in loops:
            loop.join(timeout=2 * PATIENCE)
        self._quiet()
        self.store.set(
            f"final/{name}", json.dumps({**node.report(), "generation": self.generation, "edges": node.flows()})
        )
        self._leave()

    def _quiet(self) -> None:
        """Wait until nobody exchanges any more, then settle once more the edges that this node starts."""
        self.store.add("quiet", 1)
        self._until(lambda: self.store.add("quiet", 0) >= int(self.store.get("alive")))
        for edge in self.own:
            self.retry.pop(edge, None)
            if edge in self.links:
                self.links.pop(edge).close()
            if self._link(edge) is None:
                log.warning("node %d: edge %d cannot be settled at the end", self.node.node, edge)
        self.store.add("settled", 1)
        self._until(lambda: self.store.add("settled", 0) >= int(self.store.get("alive")))

    def _leave(self) -> None:
        self.store.set(f"done/{self.node.node}", "1")
        for connection in self.links.values():
            connection.close()

    @staticmethod
    def _until(reached: Any) -> None:
        end = time.monotonic() + 4.0
        while not reached() and time.monotonic() < end:
            time.sleep(0.01)


def local_gradient(folder: Path, node: int, tree: Mapping[str, Any]) -> Any:
    """x -> grad f_node(x), from the node's rows or the recipe of the whole problem."""
    import torch

    if tree.get("recipe"):
        import importlib

        module, _, name = str(tree["recipe"]).rpartition(":")
        objective = getattr(importlib.import_module(module), name)().objectives[node]
    else:
        from surefoot.data.linear_model import LinearModel
        from surefoot.numerics.losses import Squared, loss

        arrays = read_npz(folder / f"node-{node}.npz")
        A, y, ridge = arrays["features"], arrays["targets"], float(tree["ridges"][node])
        chosen = loss(tree["loss"], **tree["loss_options"])
        if isinstance(chosen, Squared):
            H, c = A.T @ A / len(y) + ridge * np.eye(A.shape[1]), A.T @ y / len(y)
            return lambda x: H @ x - c
        objective = LinearModel(torch.from_numpy(A), torch.from_numpy(y), chosen, ridge).objective
    return lambda x: objective.value_and_grad(torch.from_numpy(np.ascontiguousarray(x)))[1].numpy()


def main(arguments: list[str]) -> None:
    """The process of one node."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    folder, node, generation = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    plan = Plan.read(folder)
    tree = read_json(folder / "plan.json")
    logging.basicConfig(level=logging.INFO, filename=folder / f"node-{node}-{generation}.log")
    make: Any = dist.TCPStore  # type: ignore[attr-defined]
    store = make("127.0.0.1", plan.port, is_master=False, timeout=datetime.timedelta(seconds=30))
    start = np.array(tree["start"][node], dtype=np.float64)

    def neighbours_mean() -> Array:
        """Where the others are: a restarted node begins there."""
        points = []
        for edge in worker.node.edges:
            key = f"report/{worker.node.neighbour(edge)}"
            if store.check([key]):
                points.append(json.loads(store.get(key))["point"])
        found = np.mean(points, axis=0) if points else start
        return found if np.isfinite(found).all() else start

    worker = Worker(Node(node, plan, local_gradient(folder, node, tree)), store, generation)
    with contextlib.suppress(dist.DistNetworkError, ConnectionError):  # the supervisor went away
        worker.run(start, neighbours_mean)
    if not math.isfinite(float(worker.node.values.sum())):
        raise SystemExit("the state is not finite")


if __name__ == "__main__":
    main(sys.argv[1:])
