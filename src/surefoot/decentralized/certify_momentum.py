"""Claims of gossip and of A2CiD2: the rate at which nodes come together, and what it implies for an average or a non-convex loss.

A2CiD2 with gradients of norm at most G and steps s. A gradient at node i moves (w, v) by s pi e_i g in Psi's norm, where it is at most s G (1 + c chi1)^(1/2).
So d/dt E Psi <= -rho E Psi + 2 S E[Psi]^(1/2) + S^2 with S = s G (n (1 + c chi1))^(1/2), and

    E |w|^2 <= E Psi <= max(Psi(0), N^2),   N = S (1 + (1 + rho)^(1/2)) / rho.

The mean of the points moves by -(s / n) grad f_i(x_i) at the node's gradient, and by nothing else. With f the mean loss, L-smooth as every f_i is,

    d/dt E f(mean) <= -(s / 2) E |grad f(mean)|^2 + (s L^2 / (2 n)) E |w|^2 + L s^2 G^2 / (2 n),

hence the mean over [0, T] of E |grad f(mean)|^2 is at most 2 (f(start) - inf f) / (s T) + L^2 max(Psi(0), N^2) / n + L s G^2 / n. Mini-batches are unbiased
and obey the same bounds with G over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.core.certificate import FLOAT64, Certificate, Claim, Premise, capped
from surefoot.core.problem import Consensus, Constant
from surefoot.decentralized.certify import CARD, FAILURE, answer_claims
from surefoot.decentralized.graphs import slowness
from surefoot.decentralized.mixing import Mixing, mixing_rate
from surefoot.decentralized.problem import KNOWN, Network
from surefoot.decentralized.rates import lower_bound
from surefoot.decentralized.solution import Agreement

if TYPE_CHECKING:
    from surefoot.decentralized.momentum import MixingState

Array = np.ndarray[Any, np.dtype[np.float64]]
MIXING = "Without gradients, the expected weighted distance of all nodes to their mean decays at least by exp(-rate) a unit of time."


def _mixing_claims(net: Network, state: MixingState) -> tuple[list[Claim], dict[str, Any], float, float]:
    """Claims on the graph and the rate; what is stored; rho and 1 + c chi1."""
    letters: Mixing = state.letters
    chi1, chi2 = (number * (1 + 1e-10) for number in slowness(net.nodes, net.edges, state.rates))
    stored: dict[str, Any] = {"mixing": asdict(letters), "chi1": chi1, "chi2": chi2, "time": state.time}
    if net.nodes == 1:
        return [], stored, math.inf, 1.0
    rho = mixing_rate(letters, chi1, chi2) * (1 - 1e-9)
    claims = [
        Claim(
            name="gossip", value=chi1 * chi2, kind="proved", check="mixing-gossip", evidence=("answer", "dynamics.json"),
            statement="chi1 chi2 of the edges' rates: slowness of the graph times half its largest resistance over firing edges.",
        ),
        Claim(
            name="mixing-rate", value=rho, kind="proved", scope="expectation", check="mixing-rate", evidence=("answer", "dynamics.json"),
            statement=MIXING,
        ),
    ]  # fmt: skip
    return claims, {**stored, "rho": rho}, rho, 1 + letters.share * chi1


def _design(net: Network, state: MixingState) -> tuple[list[Claim], dict[str, Any]]:
    if not state.design:
        return [], {}
    chi1, chi2 = slowness(net.nodes, net.edges, state.rates)
    value = lower_bound(net.edges, *(state.design[name] for name in ("modes", "potentials", "weights")))[0]
    claim = Claim(
        name="rates-optimal", value=float(state.rates.sum()) / (value * math.sqrt(0.5 / (chi1 * chi2))) - 1, bound=1e-2, kind="proved",
        check="mixing-design", evidence=("answer", "design.npz"),
        statement="Relative excess of the total gossip rate over a lower bound for all rates with the same chi1 chi2 whose "
        "resistances are bounded on every edge of the graph.",
    )  # fmt: skip
    return [claim], {"design.npz": dict(state.design)}


def certify_average(
    problem: Consensus, net: Network, state: MixingState, answer: Agreement, tolerance: float
) -> Certificate:
    """What can be said after averaging: distances of the answer, the rate, and the mean square at the end, before the run."""
    claims, evidence = answer_claims(net, answer, tolerance)
    more, stored, rho, weight = _mixing_claims(net, state)
    claims += more
    if net.nodes > 1:
        spread = float(((state.start - state.start.mean(axis=0)) ** 2).sum())
        first = weight * spread * (1 + 1e-9)
        goal = tolerance or 1e-8
        claims += [
            Claim(
                name="mean-square", value=first * math.exp(-rho * state.time), kind="proved", scope="expectation", check="mixing-square",
                evidence=("answer", "dynamics.json"),
                statement="Before the run: the expected sum over the nodes of squared distances to the average at its end.",
            ),
            Claim(
                name="time-that-suffices", value=max(0.0, math.log(first / (goal**2 * FAILURE)) / rho) if first else 0.0, kind="proved",
                scope="probability", check="mixing-time", evidence=("answer", "dynamics.json"),
                statement=f"Before the run: with probability {1 - FAILURE:g} every node is within {goal:g} of the average from this time on.",
            ),
        ]  # fmt: skip
        stored |= {"goal": goal, "failure": FAILURE}
    design, proof = _design(net, state)
    return Certificate(CARD, (*claims, *design), problem.fingerprint(), {**evidence, **proof, "dynamics.json": stored})


def certify_descent(problem: Consensus, net: Network, state: MixingState, answer: Agreement, batch: int) -> Certificate:
    """What can be said after A2CiD2: where the answer is, how fast nodes come together, and the two bounds where gradients are bounded."""
    mean = answer.mean
    local = np.array([net.gradient(i, mean) for i in range(net.nodes)])
    gaps = np.linalg.norm(answer.points - mean, axis=1)
    evidence: dict[str, Any] = {
        "nodes.csv": {"node": np.arange(net.nodes), "gap": gaps, "gradient_norm": np.linalg.norm(local, axis=1)}
    }
    claims = [
        Claim(
            name="gradient-norm", value=float(np.linalg.norm(local.mean(axis=0))), kind="proved", premises=(FLOAT64,), check="descent-slope",
            evidence=("answer", "nodes.csv"), statement="The norm of the mean loss's gradient at the nodes' mean.",
        ),
        Claim(
            name="agreement", value=float(gaps.max()), kind="proved", premises=(FLOAT64,), check="descent-gap", evidence=("answer", "nodes.csv"),
            statement="The largest distance of any node's point to their mean.",
        ),
    ]  # fmt: skip
    more, stored, rho, weight = _mixing_claims(net, state)
    stored |= {"step_size": state.step_size, "sampled": batch > 0}
    claims += more
    bounds = _bounds(net, state, batch, rho, weight)
    claims += bounds
    if bounds:
        evidence["start.npz"] = {"start": state.start}
    design, proof = _design(net, state)
    evidence |= {**proof, "dynamics.json": stored}
    return Certificate(CARD, (*claims, *design), problem.fingerprint(), evidence)


def _bounds(net: Network, state: MixingState, batch: int, rho: float, weight: float) -> list[Claim]:
    """Expected spread and stationarity, where the gradients' bound (and the smoothness and least value) are known."""
    name = "row_gradient_bound" if batch else "gradient_bound"
    found = [objective.constants.get(name) for objective in net.objectives]
    if net.nodes == 1 or any(bound is None for bound in found) or not state.time > 0:
        return []
    G = max(bound.value for bound in found if bound is not None)
    taken = [Premise(f"every gradient's norm is at most {G:.6g}", _weakest(found))]
    S = state.step_size * G * math.sqrt(net.nodes * weight)
    start = weight * float(((state.start - state.start.mean(axis=0)) ** 2).sum())
    spread = max(start, (S * (1 + math.sqrt(1 + rho)) / rho) ** 2) * (1 + 1e-9)
    shared: dict[str, Any] = {"scope": "expectation", "evidence": ("answer", "dynamics.json", "start.npz")}
    claims = [
        Claim(
            name="spread", value=spread, kind=capped("proved", taken), premises=tuple(taken), check="descent-spread", **shared,
            statement="Before the run: the expected sum over the nodes of squared distances to their mean, at any time.",
        )
    ]  # fmt: skip
    lows = [objective.constants.get("minimum") for objective in net.objectives]
    if any(low is None for low in lows) or not math.isfinite(net.smoothness):
        return claims
    taken += [
        Premise(f"every node's loss is {net.smoothness:.6g}-smooth", net.known),  # type: ignore[arg-type]
        Premise("lower bounds of the losses", _weakest(lows)),
    ]
    at = torch.from_numpy(np.ascontiguousarray(state.start.mean(axis=0)))
    excess = float(np.mean([
        float(o.value_and_grad(at)[0]) - low.value for o, low in zip(net.objectives, lows, strict=True) if low is not None
    ]))  # fmt: skip
    s, L = state.step_size, net.smoothness
    value = 2 * excess / (s * state.time) + L**2 * spread / net.nodes + L * s * G**2 / net.nodes
    claims.append(
        Claim(
            name="stationarity", value=value, kind=capped("proved", taken), premises=tuple(taken), check="descent-stationarity", **shared,
            statement="Before the run: the mean over its time of the expected squared gradient norm of the mean loss at the nodes' mean.",
        )
    )  # fmt: skip
    return claims


def _weakest(constants: Sequence[Constant | None]) -> Any:
    """How the least certain of them is known."""
    return max((constant.known for constant in constants if constant is not None), key=KNOWN.index)
