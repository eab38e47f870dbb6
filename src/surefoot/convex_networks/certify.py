"""Claims about a network trained by convex programs, with the evidence that lets `verify.py` derive them again.

Evidence: `program.npz` (one direction a pattern, and the nonzero blocks of a feasible point), `dual.npz` (multipliers of predictions
and cones, scaled into the dual's feasible set), `global.npz` (largest |z'(Xu)_+| by column and where), `local.npz` (networks trained
locally beside it). The objectives are sums over rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.convex_networks.patterns import sign_lots
from surefoot.convex_networks.problem import Network, PatternProgram, ordered
from surefoot.convex_networks.recovery import dual_norms, network_value, weights_of
from surefoot.convex_networks.robust import attack, certified_right
from surefoot.core.certificate import FLOAT64, Certificate, Claim, Premise, capped

if TYPE_CHECKING:
    from surefoot.convex_networks.state import ConvexState
    from surefoot.convex_networks.training import ConvexTraining

CARD = "convex-relu"
INPUT = "input:table"

PROGRAM_GAP = 1e-4
"""Relative primal-dual gap below which the program counts as solved."""

GLOBAL_GAP = {True: 1e-4, False: 1e-2}
"""Relative gap to the bound over all networks that is claimed: proved, and by search."""

SEARCH = Premise("no direction prices above the best that the multi-start search found", "estimated")


def certify_training(
    problem: PatternProgram, network: Network, state: ConvexState, method: ConvexTraining
) -> Certificate:
    """The certificate of a run."""
    assert state.v is not None
    assert state.z is not None
    assert state.p is not None
    evidence: dict[str, Any] = {"program.npz": _program(state), "dual.npz": _dual(problem, state)}
    hidden, output = torch.from_numpy(network.hidden), torch.from_numpy(network.output)
    value = network_value(problem, hidden.to(problem.features), output.to(problem.features))
    claims = [_network_claim(value, state.upper, problem.robust), _gap_claim(state, evidence)]
    if problem.robust:
        evidence["attack.npz"] = _attacks(problem, hidden, output, state)
        claims.append(_attack_claim(problem, evidence["attack.npz"]["rows"], network, value))
    if state.largest is not None and state.where is not None:
        evidence["global.npz"] = _global(problem, state)
        claims.append(global_claim(problem, value, state.exact, evidence["global.npz"]))
    if state.local_hidden is not None and state.local_output is not None:
        evidence["local.npz"] = {"hidden": state.local_hidden.cpu().numpy(), "output": state.local_output.cpu().numpy()}
        claims.append(local_claim(problem, state.local_hidden, state.local_output, value))
        if is_rival(network, state):
            claims.append(_rival_claim(problem, state, value))
    if problem.held_features is not None:
        claims.append(held_claim(problem, network))
        if problem.robust and problem.classes:
            claims.append(_certified_claim(problem, hidden, output))
            claims.append(_held_attack_claim(problem, network, evidence["attack.npz"]["held"]))
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


# ---- evidence ------------------------------------------------------------------------------------------------


def _program(state: ConvexState) -> dict[str, Any]:
    v = state.v.cpu().numpy() if state.v is not None else np.zeros((0, 2, 0, 0))
    flat = v.reshape(-1, v.shape[-1])
    blocks = np.flatnonzero(np.linalg.norm(flat, axis=1) > 0)
    return {"directions": state.directions.cpu().numpy(), "blocks": blocks, "weights": flat[blocks]}


def _dual(problem: PatternProgram, state: ConvexState) -> dict[str, Any]:
    """Row and cone multipliers that matter, and the norms they leave; scaled once more for the ones left out."""
    assert state.z is not None
    assert state.p is not None
    assert state.scale is not None
    X = problem.features
    columns, P = len(state.z), len(state.directions)
    places: list[np.ndarray[Any, Any]] = []
    values: list[np.ndarray[Any, Any]] = []
    all_norms, factors = [], []
    for column in range(columns):
        small = torch.zeros_like(state.p[column])
        for part, _ in sign_lots(X, state.directions):
            p = state.p[column][:, part] * state.scale[column]
            small[:, part] = torch.where(p > 1e-9 * p.amax(dim=-1, keepdim=True), p, 0.0)
        tilt = None if state.tilt is None else state.tilt[column]
        norms = dual_norms(problem, state.directions, state.z[column], tilt, small)
        factor = min(1.0, problem.weight * (1 - 1e-12) / max(float(norms.max()), np.finfo(float).tiny))
        flat = small.cpu().numpy().ravel()
        kept = np.flatnonzero(flat)
        places.append(kept + column * 2 * P * len(X))
        values.append(flat[kept] * factor)
        all_norms.append(norms.cpu().numpy() * factor)
        factors.append(factor)
    scale = torch.tensor(factors, dtype=X.dtype, device=X.device)[:, None]
    found = {
        "z": (state.z * scale).T.cpu().numpy(), "places": np.concatenate(places), "multipliers": np.concatenate(values),
        "norms": np.stack(all_norms),
    }  # fmt: skip
    if state.spread is not None and state.tilt is not None:
        found["spread"] = (state.spread * scale).T.cpu().numpy()
        found["tilt"] = (state.tilt * scale[:, :, None]).cpu().numpy()
    return found


def _global(problem: PatternProgram, state: ConvexState) -> dict[str, Any]:
    assert state.largest is not None
    assert state.where is not None
    assert state.bound_z is not None
    return {
        "largest": state.largest.cpu().numpy(),
        "where": state.where.cpu().numpy(),
        "z": state.bound_z.T.cpu().numpy(),
    }


# ---- claims --------------------------------------------------------------------------------------------------


ROBUST_NETWORK = (
    "The regularised loss of the network under every perturbation of the rows within the radii, bounded from its weights alone, is no "
    "higher than the robust convex program's value at a feasible point."
)


def _network_claim(value: float, upper: float, robust: bool) -> Claim:
    tolerance = 1e-8 * abs(upper)
    held = value <= upper + tolerance
    return Claim(
        name="network",
        statement=ROBUST_NETWORK
        if robust
        else "The regularised loss of the network, from its weights alone, is no higher than the convex program's value "
        "at a feasible point (the two are equal where the network's patterns are the program's).",
        value=value,
        relation="<=",
        bound=upper,
        tolerance=tolerance,
        kind="proved",
        premises=(FLOAT64,),
        outcome="holds" if held else "fails",
        reason="" if held else "the network's own patterns cost more than the program's",
        check="network",
        evidence=("answer", "program.npz", INPUT),
    )


def _gap_claim(state: ConvexState, evidence: dict[str, Any]) -> Claim:
    gap = (state.upper - state.lower) / max(abs(state.upper), np.finfo(float).tiny)
    held = gap <= PROGRAM_GAP
    patterns = len(evidence["program.npz"]["directions"])
    return Claim(
        name="program_gap",
        statement=f"Relative primal-dual gap of the convex program over {patterns} patterns: no network with these patterns "
        "has a regularised loss lower than the program's by more than this fraction. It says nothing about other patterns.",
        value=gap,
        relation="<=",
        bound=PROGRAM_GAP,
        kind="proved",
        premises=(FLOAT64,),
        outcome="holds" if held else "fails",
        reason="" if held else "the program was not solved to that gap within the iterations",
        check="program_gap",
        evidence=("program.npz", "dual.npz", INPUT),
    )


def global_claim(
    problem: PatternProgram, value: float, exact: bool, found: dict[str, Any], *, bounded: bool = True
) -> Claim:
    """Distance to the bound over all networks; `bounded`: it is claimed to be small."""
    lower = global_lower(problem, found["z"], found["largest"])
    gap = (value - lower) / max(abs(value), np.finfo(float).tiny)
    bound = GLOBAL_GAP[exact] if bounded else None
    premises = (FLOAT64,) if exact else (FLOAT64, SEARCH)
    held = bound is None or gap <= bound
    how = "all arrangements of the rows were visited" if exact else "by multi-start search, not rigorous"
    return Claim(
        name="global_gap",
        statement="Relative gap between this network's regularised loss and a bound below that of every two-layer ReLU network "
        f"of any width ({how}).",
        value=gap,
        relation="<=",
        bound=bound,
        kind=capped("proved", premises),
        outcome="holds" if held else "fails",
        reason="" if held else "more pricing rounds would be needed",
        premises=premises,
        check="global_gap_exact" if exact else "global_gap_search",
        evidence=("answer", "global.npz", INPUT),
    )


def global_lower(problem: PatternProgram, z: Any, largest: Any) -> float:
    """Dual value of the multipliers z (n, C), each column scaled until no direction prices above beta."""
    theta = np.minimum(1.0, problem.weight / np.maximum(largest, np.finfo(float).tiny))
    scaled = torch.from_numpy(z * theta).to(problem.features)
    return -float(problem.loss.conjugate(-scaled, problem.targets).sum())


def _attacks(problem: PatternProgram, hidden: torch.Tensor, output: torch.Tensor, state: ConvexState) -> dict[str, Any]:
    generator = state.streams.numpy("attack", 0)
    hidden, output = hidden.to(problem.features), output.to(problem.features)
    found = {"rows": attack(problem, problem.features, problem.targets, hidden, output, generator).cpu().numpy()}
    if problem.held_features is not None and problem.held_targets is not None and problem.classes:
        held = attack(problem, problem.held_features, problem.held_targets, hidden, output, generator)
        found["held"] = held.cpu().numpy()
    return found


def _attack_claim(problem: PatternProgram, moved: Any, network: Network, certified: float) -> Claim:
    scores = torch.from_numpy(network.scores(problem.features.cpu().numpy() + moved)).to(problem.targets)
    decay = 0.5 * problem.weight * float(np.sum(network.hidden**2) + np.sum(network.output**2))
    value = float(problem.loss.value(scores, problem.targets).sum()) + decay
    return Claim(
        name="attack",
        statement="Regularised loss on rows moved within the radii by projected sign-gradient attacks; the certified worst case is "
        "above it, and as much above as attack and bound leave open.",
        value=value,
        relation="<=",
        bound=certified,
        tolerance=1e-9 * abs(certified),
        kind="measured",
        outcome="holds" if value <= certified + 1e-9 * abs(certified) else "fails",
        reason="" if value <= certified + 1e-9 * abs(certified) else "an attack exceeds the bound: the bound is wrong",
        check="attack",
        evidence=("answer", "attack.npz", INPUT),
    )


def _certified_claim(problem: PatternProgram, hidden: torch.Tensor, output: torch.Tensor) -> Claim:
    assert problem.held_features is not None
    assert problem.held_targets is not None
    right = certified_right(problem, problem.held_features, problem.held_targets, hidden, output)
    return Claim(
        name="held_certified",
        statement=f"Share of {len(right)} rows kept apart that are classified right whatever the perturbation within the radii, by "
        "bounds on the network's scores (at least).",
        value=float(right.double().mean()),
        kind="proved",
        premises=(FLOAT64,),
        check="held_certified",
        evidence=("answer", INPUT),
    )


def _held_attack_claim(problem: PatternProgram, network: Network, moved: Any) -> Claim:
    assert problem.held_features is not None
    assert problem.held_targets is not None
    right = rows_right(network.scores(problem.held_features.cpu().numpy() + moved), problem.held_targets.cpu().numpy())
    return Claim(
        name="held_attack",
        statement=f"Share of {len(right)} rows kept apart that are classified right after projected sign-gradient attacks within "
        "the radii.",
        value=float(np.mean(right)),
        kind="measured",
        check="held_attack",
        evidence=("answer", "attack.npz", INPUT),
    )


def rows_right(scores: Any, targets: Any) -> Any:
    """Whether each row's class is the network's: by sign for one column, by the largest for several."""
    if targets.shape[1] == 1:
        return (scores[:, 0] >= 0) == (targets[:, 0] > 0)
    return scores.argmax(axis=1) == targets.argmax(axis=1)


def local_claim(
    problem: PatternProgram, hidden: torch.Tensor, output: torch.Tensor, value: float, *, bounded: bool = True
) -> Claim:
    """The best of the networks trained beside it; `bounded`: it is claimed not to be lower than the answer."""
    best = min(network_value(problem, h, a) for h, a in zip(hidden, output, strict=True))
    what = "Lowest certified worst-case loss" if problem.robust else "Lowest regularised loss"
    how = "Adam on attacked rows" if problem.robust else "Adam and L-BFGS"
    tolerance = 1e-9 * abs(value) if bounded else 0.0  # the answer may be one of them, summed in another order
    held = not bounded or best >= value - tolerance
    return Claim(
        name="local_runs",
        statement=f"{what} of {len(hidden)} networks trained by {how}{', against this network' if bounded else ''}.",
        value=best,
        relation=">=",
        bound=value if bounded else None,
        tolerance=tolerance,
        kind="measured",
        outcome="holds" if held else "fails",
        reason="" if held else "a local run ended lower",
        check="local_runs",
        evidence=("answer", "local.npz", INPUT),
    )


def is_rival(network: Network, state: ConvexState) -> bool:
    """Whether the answer is one of the networks trained locally, weight by weight."""
    if state.local_hidden is None or state.local_output is None:
        return False
    pairs = zip(state.local_hidden.cpu().numpy(), state.local_output.cpu().numpy(), strict=True)
    trained = [ordered(hidden, output) for hidden, output in pairs]
    return any(np.array_equal(u, network.hidden) and np.array_equal(a, network.output) for u, a in trained)


def _rival_claim(problem: PatternProgram, state: ConvexState, value: float) -> Claim:
    """The answer is not the program's network: that one's loss, above the answer's."""
    assert state.v is not None
    own = network_value(problem, *weights_of(state.v))
    tolerance = 1e-9 * abs(value)
    return Claim(
        name="rival",
        statement="The answer is, weight by weight, one of the networks trained locally, not the convex program's: that one's own network "
        "has this loss.",
        value=own,
        relation=">=",
        bound=value,
        tolerance=tolerance,
        kind="proved",
        premises=(FLOAT64,),
        outcome="holds" if own >= value - tolerance else "fails",
        reason="" if own >= value - tolerance else "the program's network is better than the answer",
        check="rival",
        evidence=("answer", "program.npz", "local.npz", INPUT),
    )


def held_claim(problem: PatternProgram, network: Network) -> Claim:
    """How the network does on the rows kept apart."""
    assert problem.held_features is not None
    assert problem.held_targets is not None
    scores = network.scores(problem.held_features.cpu().numpy())
    y = problem.held_targets.cpu().numpy()
    rows = len(scores)
    if problem.classes and y.shape[1] == 1:
        value, what = (
            float(np.mean((scores[:, 0] >= 0) == (y[:, 0] > 0))),
            f"Share of {rows} rows kept apart that are classified right",
        )
    elif problem.classes:
        value, what = (
            float(np.mean(scores.argmax(axis=1) == y.argmax(axis=1))),
            f"Share of {rows} rows kept apart that are classified right",
        )
    else:
        value, what = float(np.mean((scores - y) ** 2)), f"Mean squared error on {rows} rows kept apart"
    return Claim(
        name="held_out",
        statement=f"{what}.",
        value=value,
        kind="measured",
        check="held_out",
        evidence=("answer", INPUT),
    )
