"""The algorithm as it is written: one event after the other, in the paper's order. Slow, and meant to be read.

    gradient at i:     e = grad f_i(x_i) - nu x_i - yt_i
                       x_i -= gamma e        xt_i -= gammat e        yt_i += (delta + deltat) e
    exchange on (i,j): m = (y_i + z_i) - (y_j + z_j)
                       z_i -= beta m, z_j += beta m                  zt_i -= betat m, zt_j += betat m

Before its event a node moves by the exact flow since its last one; only y + z is sent over an edge, d numbers each way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants
from surefoot.decentralized.events import Events
from surefoot.decentralized.flow import flowed
from surefoot.decentralized.problem import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
X, XT, Y, YT, Z, ZT = range(6)


def start_values(start: Array) -> Array:
    """States (n, 6, d) at time 0: x = xt = start, all else 0 (z and zt must sum to zero over the nodes)."""
    values = np.zeros((len(start), 6, start.shape[1]))
    values[:, X] = values[:, XT] = start
    return values


def advance(network: Network, constants: Constants, values: Array, clocks: Array, events: Events) -> None:
    """Process events in their order, in place.

    Args:
        values: states (n, 6, d) in the order of `flow.ORDER`.
        clocks: (n,) time of each node's last event.
    """

    def flow(node: int, time: float) -> None:
        values[node] = flowed(constants, values[node : node + 1], np.array([time - clocks[node]]))[0]
        clocks[node] = time

    for k, (what, time) in enumerate(zip(events.what, events.times, strict=True)):
        if what < network.nodes:
            i = int(what)
            flow(i, float(time))
            error = gradient_error(network, constants, i, values[i], events.rows_of(k))
            values[i, X] -= constants.gamma * error
            values[i, XT] -= constants.gamma_twin * error
            values[i, YT] += constants.delta * error
        else:
            i, j = map(int, network.edges[what - network.nodes])
            flow(i, float(time))
            flow(j, float(time))
            message = (values[i, Y] + values[i, Z]) - (values[j, Y] + values[j, Z])
            values[i, Z] -= constants.beta * message
            values[j, Z] += constants.beta * message
            values[i, ZT] -= constants.beta_twin * message
            values[j, ZT] += constants.beta_twin * message


def gradient_error(
    network: Network, constants: Constants, node: int, state: Array, rows: np.ndarray[Any, np.dtype[np.int64]] | None = None
) -> Array:  # fmt: skip
    """grad f_i(x_i) - nu x_i - yt_i, (d,), the gradient of all rows or of some."""
    x = np.ascontiguousarray(state[X])
    slope = network.gradient(node, x) if rows is None else network.rows_gradient(node, x, rows)
    return (slope - constants.nu * x) - state[YT]


def at_time(constants: Constants, values: Array, clocks: Array, time: float) -> Array:
    """All states moved to one time (a copy)."""
    return flowed(constants, values, time - clocks)
