"""Claims about a network of the sampled program: the lasso's value and gap, and the distance to all networks.

Evidence: `sampled.npz` (drawn directions (N, d), output weights (C, N), multipliers z (n, C)), `global.npz`, `local.npz` as for the
cone program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.convex_networks.certify import CARD, INPUT, PROGRAM_GAP, global_claim, held_claim, local_claim
from surefoot.convex_networks.pricing import all_arrangements, price_column
from surefoot.convex_networks.problem import Network, PatternProgram
from surefoot.convex_networks.recovery import network_value
from surefoot.convex_networks.state import gap_of
from surefoot.core.certificate import FLOAT64, Certificate, Claim

if TYPE_CHECKING:
    from surefoot.convex_networks.sampled import SampledState, SampledTraining


def certify_sampled(
    problem: PatternProgram, network: Network, state: SampledState, method: SampledTraining
) -> Certificate:
    """The certificate of a run of the sampled program."""
    assert state.z is not None
    X = problem.features
    hidden, output = torch.from_numpy(network.hidden).to(X), torch.from_numpy(network.output).to(X)
    value = network_value(problem, hidden, output)
    directions = method.directions(problem, state)
    evidence: dict[str, Any] = {
        "sampled.npz": {
            "directions": directions.cpu().numpy(), "weights": state.a.cpu().numpy(),
            "z": ((1 - 1e-12) * state.z).T.contiguous().cpu().numpy(),
        },
        "global.npz": _all_networks(problem, state, directions),
    }  # fmt: skip
    tolerance = 1e-8 * abs(state.upper)
    gap = gap_of(state.upper, state.lower)
    claims = [
        Claim(
            name="network",
            statement="The regularised loss of the network, from its weights alone, is no higher than the sampled program's value.",
            value=value,
            relation="<=",
            bound=state.upper,
            tolerance=tolerance,
            kind="proved",
            premises=(FLOAT64,),
            outcome="holds" if value <= state.upper + tolerance else "fails",
            reason="" if value <= state.upper + tolerance else "the network costs more than the program",
            check="sampled_network",
            evidence=("answer", "sampled.npz", INPUT),
        ),
        Claim(
            name="program_gap",
            statement=f"Relative primal-dual gap of the sampled program over {len(directions)} drawn neurons: no network whose neurons "
            "have these directions has a lower regularised loss by more than this fraction. It says nothing about other directions.",
            value=gap,
            relation="<=",
            bound=PROGRAM_GAP,
            kind="proved",
            premises=(FLOAT64,),
            outcome="holds" if gap <= PROGRAM_GAP else "fails",
            reason="" if gap <= PROGRAM_GAP else "the lasso was not solved to that gap within the iterations",
            check="sampled_gap",
            evidence=("sampled.npz", INPUT),
        ),
        global_claim(problem, value, all_arrangements(X), evidence["global.npz"], bounded=False),
    ]
    if state.local_hidden is not None and state.local_output is not None:
        evidence["local.npz"] = {"hidden": state.local_hidden.cpu().numpy(), "output": state.local_output.cpu().numpy()}
        claims.append(local_claim(problem, state.local_hidden, state.local_output, value, bounded=False))
    if problem.held_features is not None:
        claims.append(held_claim(problem, network))
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _all_networks(problem: PatternProgram, state: SampledState, directions: torch.Tensor) -> dict[str, Any]:
    """Largest |z'(X u)_+| over the ball for the lasso's multipliers: the drawn directions are the starts of the search."""
    assert state.z is not None
    X, exact = problem.features, all_arrangements(problem.features)
    drawn = torch.from_numpy(state.streams.numpy("price", 0).standard_normal((200, X.shape[1]))).to(X)
    largest, where = [], []
    for z in state.z:
        worth = torch.argsort(((X @ directions.T).clamp(min=0).T @ z).abs(), descending=True)[:300]
        priced = price_column(X, z, torch.cat([directions[worth], drawn]), problem.weight, 1, exact)
        largest.append(priced.upper)
        where.append((priced.best / torch.linalg.vector_norm(priced.best)).cpu().numpy())
    return {"largest": np.array(largest), "where": np.stack(where), "z": state.z.T.contiguous().cpu().numpy()}
