"""The same events in batches, without a compiled kernel.

Events on disjoint sets of nodes commute exactly. An event's level is one more than the last level of its nodes; the events of
one level are one array operation. In float64 the result equals the sequential one to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants
from surefoot.decentralized.events import Events
from surefoot.decentralized.flow import flow_matrices
from surefoot.decentralized.problem import Network
from surefoot.decentralized.reference import XT, YT, ZT, X, Y, Z, gradient_error

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A block of events by level, with every participant's elapsed time, which the times of the events alone decide.

    Attributes:
        order: events sorted by level.
        starts: where each level begins in `order`, and the end.
        elapsed: (b, 2) time since the last event of the first and of the second participant (0 where there is none).
    """

    order: np.ndarray[Any, np.dtype[np.int64]]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    elapsed: Array


def schedule(network: Network, clocks: Array, events: Events) -> Schedule:
    """Levels and elapsed times; `clocks` (n,) is moved to the last event of every node."""
    nodes, ends = network.nodes, network.edges.tolist()
    level, clock = [0] * nodes, clocks.tolist()
    levels: list[int] = []
    elapsed: list[tuple[float, float]] = []
    for k, time in zip(events.what.tolist(), events.times.tolist(), strict=True):
        if k < nodes:
            level[k] += 1
            levels.append(level[k])
            elapsed.append((time - clock[k], 0.0))
            clock[k] = time
        else:
            i, j = ends[k - nodes]
            level[i] = level[j] = max(level[i], level[j]) + 1
            levels.append(level[i])
            elapsed.append((time - clock[i], time - clock[j]))
            clock[i] = clock[j] = time
    clocks[:] = clock
    found = np.array(levels, dtype=np.int64)
    order = np.argsort(found, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(found[order])) + 1, [len(order)]])
    return Schedule(order, starts, np.array(elapsed))


def advance(network: Network, constants: Constants, values: Array, clocks: Array, events: Events) -> None:
    """Process events level by level, in place; arguments as in `reference.advance`."""
    if not len(events):
        return
    plan = schedule(network, clocks, events)
    motion = flow_matrices(constants, plan.elapsed.ravel()).reshape(len(events), 2, 6, 6)
    c = constants
    for start, end in pairwise(plan.starts):
        batch = plan.order[start:end]
        what = events.what[batch]
        local = what < network.nodes
        alone, pairs = batch[local], batch[~local]
        for k in alone:
            node = events.what[k]
            state = np.matmul(motion[k, 0], values[node])
            error = gradient_error(network, c, int(node), state, events.rows_of(k))
            state[X] -= c.gamma * error
            state[XT] -= c.gamma_twin * error
            state[YT] += c.delta * error
            values[node] = state
        if len(pairs):
            nodes = network.edges[what[~local] - network.nodes]
            moved = np.matmul(motion[pairs], values[nodes])
            sums = moved[:, :, Y] + moved[:, :, Z]
            message = sums[:, 0] - sums[:, 1]
            step, step_twin = c.beta * message, c.beta_twin * message
            moved[:, 0, Z] -= step
            moved[:, 1, Z] += step
            moved[:, 0, ZT] -= step_twin
            moved[:, 1, ZT] += step_twin
            values[nodes] = moved
