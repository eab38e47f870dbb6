"""The motion, the jumps and the engines, against matrix exponentials, invariants and each other."""

from __future__ import annotations

import numpy as np
import pytest
from gossip_networks import net_of, stationary
from scipy.linalg import expm

from surefoot.core.random import Streams
from surefoot.decentralized import kernel, levels, reference
from surefoot.decentralized.constants import Constants, certified_constants, paper_constants
from surefoot.decentralized.events import Clocks, Events
from surefoot.decentralized.flow import flowed, generator, require_no_resonance
from surefoot.decentralized.graphs import slowness, uniform_rates

OVERDAMPED = Constants(0.3, 0.5, 0.2, 1.0, 0.3, 0.1, 0.5, 1.0, 0.1, 0.2, 1.0)
CRITICAL = Constants(0.3, 0.5, 0.2, 1.0, 0.3, 0.25, 0.5, 1.0, 0.1, 0.2, 1.0)
ALL = [pytest.param(paper_constants(1 / kappa, 1.0, 0.7), id=f"paper {kappa:g}") for kappa in (1.0, 10.0, 1e3, 1e6)] + [
    pytest.param(certified_constants(0.02, 1.0, 1.0, 0.6), id="certified"),
    pytest.param(OVERDAMPED, id="overdamped"),
    pytest.param(CRITICAL, id="critical"),
]


@pytest.mark.parametrize("constants", ALL)
@pytest.mark.parametrize("time", [0.0, 1e-3, 0.3, 5.0, 200.0])
def test_flow_is_the_matrix_exponential(constants: Constants, time: float) -> None:
    values = np.random.default_rng(0).normal(size=(4, 6, 3))
    found = flowed(constants, values, np.full(4, time))
    expected = expm(generator(constants) * time) @ values
    assert np.allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())
    again = flowed(constants, flowed(constants, values, np.full(4, 0.4 * time)), np.full(4, 0.6 * time))
    assert np.allclose(again, found, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


def test_resonance_is_refused() -> None:
    # (alpha + alpha_twin)^2 - alpha (alpha + alpha_twin) + alpha theta = 0 needs an overdamped y
    with pytest.raises(ValueError, match="resonance"):
        require_no_resonance(Constants(0.3, 0.3, 0.2, 1.0, 0.3, 0.25, 0.5, 1.0, 0.1, 0.2, 1.0))


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber"])
def test_the_saddle_point_stays(loss: str) -> None:
    net = net_of("grid:2,3", loss=loss)
    rates = uniform_rates(net.nodes, net.edges)
    for constants in (
        paper_constants(net.mu, net.smoothness, slowness(net.nodes, net.edges, rates)[0]),
        certified_constants(net.mu, net.smoothness, *slowness(net.nodes, net.edges, rates)),
    ):
        start = stationary(net, constants.nu)
        values, clocks = start.copy(), np.zeros(net.nodes)
        reference.advance(net, constants, values, clocks, Clocks(Streams(1), net.nodes, rates).draw(0, 300, 0.0))
        assert np.abs(values - start).max() < 1e-11


def test_invariants() -> None:
    net = net_of("cycle:5")
    rates = uniform_rates(net.nodes, net.edges)
    constants = certified_constants(net.mu, net.smoothness, *slowness(net.nodes, net.edges, rates))
    values, clocks = reference.start_values(np.ones((5, 3))), np.zeros(5)
    reference.advance(net, constants, values, clocks, Clocks(Streams(0), 5, rates).draw(0, 400, 0.0))
    now = reference.at_time(constants, values, clocks, float(clocks.max()))
    assert np.abs(now[:, reference.Z].sum(axis=0)).max() < 1e-12
    assert np.abs(now[:, reference.ZT].sum(axis=0)).max() < 1e-12
    before, still = now.copy(), np.full(5, 1.0)
    reference.advance(net, constants, now, still, Events(np.array([net.nodes]), np.array([1.0])))
    for kept in (reference.X, reference.XT, reference.Y, reference.YT):
        assert np.array_equal(now[:, kept], before[:, kept])
    assert not np.array_equal(now[:, reference.Z], before[:, reference.Z])


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("graph", ["star:6", "barbell:4", "path:2", "path:1"])
def test_batches_equal_one_by_one_to_the_last_bit(graph: str, loss: str) -> None:
    net = net_of(graph, loss=loss)
    rates = np.random.default_rng(0).uniform(0.2, 3.0, len(net.edges))
    constants = certified_constants(net.mu, net.smoothness, *slowness(net.nodes, net.edges, rates))
    events = Clocks(Streams(5), net.nodes, rates).draw(0, 700, 0.0)
    results = []
    for engine, cuts in ((reference, (700,)), (levels, (700,)), (levels, (1, 99, 600))):
        values, clocks, first = reference.start_values(np.zeros((net.nodes, 3))), np.zeros(net.nodes), 0
        for count in cuts:
            part = Events(events.what[first : first + count], events.times[first : first + count])
            engine.advance(net, constants, values, clocks, part)
            first += count
        results.append((values, clocks))
    for values, clocks in results[1:]:
        assert np.array_equal(values, results[0][0])
        assert np.array_equal(clocks, results[0][1])


@pytest.mark.skipif(not kernel.installed(), reason="the extra kernels (warp-lang) is not installed")
@pytest.mark.parametrize("loss", ["squared", "logistic", "huber"])
@pytest.mark.parametrize("dim", [3, 8, 19])
def test_the_kernel_agrees(loss: str, dim: int) -> None:
    net = net_of("wheel:6", loss=loss, dim=dim)
    rates = uniform_rates(net.nodes, net.edges)
    chosen = {
        "certified": certified_constants(net.mu, net.smoothness, *slowness(net.nodes, net.edges, rates)),
        "overdamped": Constants(0.05, 0.5, 0.2, 1.0, 0.3, 0.1, 0.5, 0.2, 0.01, 0.02, 0.3),
        "critical": Constants(0.05, 0.5, 0.2, 1.0, 0.3, 0.25, 0.5, 0.2, 0.01, 0.02, 0.3),
    }
    for constants in chosen.values():
        events = [Clocks(Streams(seed), net.nodes, rates).draw(0, 400, 0.0) for seed in range(3)]
        start = np.random.default_rng(0).normal(size=(net.nodes, dim))
        values = np.repeat(reference.start_values(start)[None], 3, axis=0)
        clocks = np.zeros((3, net.nodes))
        kernel.EventKernel(net, constants).advance(values, clocks, events)
        for k in range(3):
            one, times = reference.start_values(start), np.zeros(net.nodes)
            reference.advance(net, constants, one, times, events[k])
            assert np.abs(values[k] - one).max() <= 1e-11 * np.abs(one).max()
            assert np.array_equal(clocks[k], times)


def test_clocks_do_not_depend_on_blocks() -> None:
    rates = np.array([0.5, 0.0, 2.0])
    clocks = Clocks(Streams(3), 4, rates)
    whole = clocks.draw(0, 10_000, 0.0)
    what, times, first = [], [0.0], 0
    for count in (1, 4095, 4096, 7, 1801):
        part = clocks.draw(first, count, times[-1])
        what += part.what.tolist()
        times += part.times.tolist()
        first += count
    assert what == whole.what.tolist()
    assert times[1:] == whole.times.tolist()
    assert not (whole.what == 5).any()  # an edge that does not fire
    counts = np.bincount(whole.what, minlength=7) / whole.times[-1]
    assert np.abs(counts - [1, 1, 1, 1, 0.5, 0, 2.0]).max() < 0.2
    gaps = np.diff(whole.times, prepend=0.0) * 6.5
    assert abs(gaps.mean() - 1) < 0.04
    assert abs(gaps.std() - 1) < 0.06
