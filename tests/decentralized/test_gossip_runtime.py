"""The dual on the edges, the wire, and four processes of which one is killed and another stalls."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import socket
from typing import Any

import numpy as np
import pytest
from gossip_networks import consensus, minimiser

from surefoot import catalog, solve
from surefoot.core.method import Status
from surefoot.core.problem import Consensus
from surefoot.decentralized.constants import Constants, certified_constants
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.problem import network
from surefoot.decentralized.runtime import FlowError, Scene, _audit, opposite_flows, run_async
from surefoot.decentralized.wire import HELLO, REPLY, REQUEST, STATE, EdgeFlow, Message, WireError, receive, send
from surefoot.decentralized.worker import Node, Plan


def plan(constants: Constants | None = None) -> Plan:
    chosen = constants or certified_constants(0.1, 1.0, 1.0, 0.5)
    return Plan(0, 0.0, 1.0, ((0, 1), (1, 2)), (1.0, 2.0), chosen, 2, 1.0)


class Still(Node):
    """A node whose clock is set by the test."""

    clock = 0.0

    def now(self) -> float:
        return self.clock


def trio() -> list[Still]:
    nodes = [Still(i, plan(), lambda x, i=i: 0.5 * x - i) for i in range(3)]
    for node in nodes:
        node.restart(np.array([1.0, -1.0]) * (node.node + 1))
    return nodes


def exchange(nodes: list[Still], edge: int) -> None:
    i, j = plan().ends[edge]
    request = nodes[i].offer(edge)
    assert nodes[i].finish(edge, request, nodes[j].accept(edge, request))


def copies(nodes: list[Still], edge: int) -> tuple[EdgeFlow, EdgeFlow]:
    i, j = plan().ends[edge]
    return nodes[i].edges[edge], nodes[j].edges[edge]


def run_some(nodes: list[Still], seed: int, count: int = 60) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        for node in nodes:  # clocks that do not agree
            node.clock += float(rng.exponential(0.2))
        exchange(nodes, int(rng.integers(2))) if rng.random() < 0.5 else nodes[int(rng.integers(3))].step()


def test_both_copies_stay_opposite_and_the_dual_sums_to_zero() -> None:
    nodes = trio()
    run_some(nodes, 0)
    for edge in (0, 1):
        left, right = copies(nodes, edge)
        assert np.array_equal(left.flow, -right.flow)
        assert (left.time, left.sequence) == (right.time, right.sequence)
        assert np.abs(left.flow).max() > 1e-3
    moment = max(node.time for node in nodes)
    total = 0.0
    for node in nodes:
        node.clock = moment
        node.report()
        node._gather()
        total = total + node.values[4:]
    assert np.abs(total).max() < 1e-12


def test_a_restarted_node_takes_its_flows_from_its_neighbours() -> None:
    nodes = trio()
    run_some(nodes, 1)
    before = {edge: copies(nodes, edge)[1].flow.copy() for edge in (0, 1)}
    fresh = Still(1, plan(), lambda x: 0.5 * x - 1)
    fresh.clock = nodes[1].clock
    for edge, other in ((0, nodes[0]), (1, nodes[2])):
        fresh.meet(edge, other.hello(edge))
        other.meet(edge, fresh.hello(edge))
    for edge in (0, 1):  # what the supervisor is told and checks
        assert fresh.met[edge]["own"] == [-value for value in fresh.met[edge]["theirs"]]
        assert fresh.met[edge]["sequence"] > 0
    rejoin = {"node": 1, "generation": 1, "met": {str(e): m for e, m in fresh.met.items()}, "missing": [], "adopted": 2}
    net = network(consensus("path:3", dim=2))
    _audit(net, rejoin)
    rejoin["met"]["1"]["theirs"][0] += 1e-15
    with pytest.raises(FlowError, match="edge 1 - 2"):
        _audit(net, rejoin)
    fresh.restart(np.zeros(2))
    nodes[1] = fresh
    assert fresh.counts["adopted"] == 2
    assert np.array_equal(fresh.edges[0].flow, before[0])
    assert np.array_equal(-fresh.edges[1].flow, before[1])
    run_some(nodes, 2)
    for edge in (0, 1):
        left, right = copies(nodes, edge)
        assert np.array_equal(left.flow, -right.flow)


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_message_lost_is_made_good(lost: str) -> None:
    nodes = trio()
    run_some(nodes, 3)
    request = nodes[0].offer(0)
    if lost == "reply":
        nodes[1].accept(0, request)  # applied there, never heard of here
        again = nodes[1].accept(0, nodes[0].offer(0))  # the next request finds the responder ahead
        assert again.kind == STATE
        assert not nodes[0].finish(0, request, again)
    left, right = copies(nodes, 0)
    assert left.sequence == right.sequence
    assert np.array_equal(left.flow, -right.flow)
    exchange(nodes, 0)


def test_contradicting_copies_are_refused() -> None:
    nodes = trio()
    run_some(nodes, 4)
    greeting = nodes[0].hello(0)
    with pytest.raises(WireError, match="not opposite"):
        nodes[1].meet(0, dataclasses.replace(greeting, numbers=greeting.numbers + 1e-12))
    with pytest.raises(WireError, match="another length"):
        nodes[1].meet(0, dataclasses.replace(greeting, numbers=np.zeros(3)))


def test_messages_come_back_and_garbage_is_refused() -> None:
    left, right = socket.socketpair()
    with left, right:
        for kind, numbers in ((HELLO, np.arange(3.0)), (REQUEST, np.zeros(0)), (REPLY, np.array([math.pi]))):
            send(left, Message(kind, 4, 2**40, 1.5, numbers))
            back = receive(right)
            assert (back.kind, back.node, back.sequence, back.time) == (kind, 4, 2**40, 1.5)
            assert np.array_equal(back.numbers, numbers)
        left.sendall(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")
        with pytest.raises(WireError, match="no message"):
            receive(right)
    left, right = socket.socketpair()
    with left, right:
        send(left, Message(REPLY, 0, 1, 0.0, np.array([math.nan])))
        with pytest.raises(WireError, match="NaN"):
            receive(right)
        left.close()
        with pytest.raises(WireError, match="closed"):
            receive(right)


def test_the_final_audit_names_the_edge() -> None:
    net = network(consensus("path:2"))
    good = {"sequence": 3, "time": 1.0, "flow": [1.0, -2.0]}
    final = {0: {"edges": {"0": good}}, 1: {"edges": {"0": {**good, "flow": [-1.0, 2.0]}}}}
    assert opposite_flows(net, final) == 1
    for spoiled in ({**good, "flow": [-1.0, 2.0 + 1e-15]}, {**good, "flow": [-1.0, 2.0], "sequence": 4}):
        with pytest.raises(FlowError, match="edge 0 - 1"):
            opposite_flows(net, {**final, 1: {"edges": {"0": spoiled}}})


def test_four_processes_reach_the_simulators_answer_though_one_is_killed_and_one_stalls() -> None:
    problem = consensus("cycle:4", ridge=0.5)
    done: list[str] = []

    def disturb(scene: Scene) -> None:
        """At the first good look kill node 1 and stop node 3 for a moment."""
        near = scene.distance + scene.gap < 1e-1
        if near and not done:
            os.kill(scene.processes[1].pid, signal.SIGKILL)
            os.kill(scene.processes[3].pid, signal.SIGSTOP)
            done.append(f"{scene.seconds}")
        elif len(done) == 1 and scene.seconds > float(done[0]) + 1.0:
            os.kill(scene.processes[3].pid, signal.SIGCONT)
            done.append("woken")

    result = run_async(problem, EventGossip(tolerance=5e-7), seconds=150, watch=[disturb])
    assert len(done) == 2
    assert result.status is Status.CONVERGED, result.reason
    assert result.counts["restart"] == 1
    assert result.counts["rejoin"] == 1
    assert result.counts["broken"] >= 1
    simulated = solve(problem, EventGossip(tolerance=1e-9, engine="numpy"), certify=False)
    assert np.abs(result.answer.points - simulated.answer.points).max() < 1e-6
    assert np.abs(result.answer.points - minimiser(network(problem))).max() < 5e-7
    assert {v.verdict for v in catalog.verify(result, problem)} == {"confirmed"}


def test_bad_input() -> None:
    from test_gossip_method import any_objective

    from surefoot.decentralized.graphs import named_graph

    other = Consensus((any_objective(1.0), any_objective(2.0)), named_graph("path:2"))
    cases: list[tuple[Any, str]] = [
        (lambda: run_async(other), "recipe="),
        (lambda: run_async(consensus("path:2"), unit=0.0), "unit is 0"),
        (lambda: run_async(consensus("path:2"), seconds=math.nan), "seconds is nan"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
