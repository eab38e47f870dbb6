"""Claims about a smooth game's region, its steps and its equilibrium, with the evidence that lets `verify.py` derive them again.

Evidence: `cells.npz` (the cells and their bounds), `witness.npz` (vectors v > 0, weights, steps, error and regret bounds) and
`path.npz` (the first iterates). All inequalities are proved with outward rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate, Claim
from surefoot.games.certify_metrics import metric_claims, paired_answer_claims
from surefoot.games.field import Field
from surefoot.games.problem import SmoothGame
from surefoot.games.proofs import (
    euler_product,
    moved,
    proved_factor,
    proved_margin,
    proved_metric_margin,
    regret_bounds,
)
from surefoot.games.region import RegionBounds, bound_region
from surefoot.games.small_gain import (
    Bounds,
    best_weights,
    classical_steps,
    error_bounds,
    euler_steps,
    lipschitz,
    margin,
    perron_margin,
    step_margin,
    weight_bands,
)
from surefoot.games.stages import Stages

Array = np.ndarray[Any, np.dtype[Any]]
CARD = "small-gain-nash"
GRID = 15
LIMIT_ROOM = 1e-9
"""The limit of the steps is proved up to this fraction of itself."""


def certify_region(game: SmoothGame, *, cells: int = 512, share: float = 0.5) -> Certificate:
    """Rate, weights, bands and steps of a region, without seeking the equilibrium.

    Args:
        game: the game on its region.
        cells, share: budget and target of the subdivision (see `bound_region`).
    """
    region = bound_region(game, cells=cells, share=share)
    bounds = region.bounds
    scale = {"low": region.low, "high": region.high, "mu": bounds.mu, "ell": bounds.ell, "coupling": bounds.coupling}
    evidence: dict[str, Any] = {"cells.npz": scale, "witness.npz": {"vector": region.vector}}
    alpha = proved_margin(bounds, region.vector)
    claims = [_small_gain_claim(region, alpha, evidence), *metric_claims(game, bounds, evidence)]
    if alpha > 0:
        claims += _metric_claims(region, evidence)
        claims += _step_claims(game, bounds, np.full(game.size, euler_steps(bounds).best), evidence)
    return Certificate(CARD, tuple(claims), game.fingerprint(), evidence)


def certify_play(
    game: SmoothGame,
    field: Field,
    region: RegionBounds,
    x: Array,
    step: Array,
    path: Array | None,
    stages: Stages | None = None,
) -> Certificate:
    """The certificate of a region and of the strategies found in it.

    Args:
        game, field, region: the game, its derivatives, its bounds.
        x: strategies (d,).
        step: lengths (d,) of the projected Euler step, constant within a block.
        path: the first iterates (k, d) where they were Euler steps.
        stages: what is known of single steps where they were Runge-Kutta steps.
    """
    bounds = region.bounds
    scale = {"low": region.low, "high": region.high, "mu": bounds.mu, "ell": bounds.ell, "coupling": bounds.coupling}
    evidence: dict[str, Any] = {"cells.npz": scale, "witness.npz": {"vector": region.vector}}
    alpha = proved_margin(bounds, region.vector)
    claims = [_small_gain_claim(region, alpha, evidence), *metric_claims(game, bounds, evidence)]
    rests_on_pairs = [] if alpha > 0 else paired_answer_claims(game, field, bounds, x, step, evidence)
    if alpha > 0:
        claims += _metric_claims(region, evidence)
        claims += _step_claims(game, bounds, step, evidence)
        if stages is not None:
            claims.append(_stages_claim(stages, evidence))
        claims += _answer_claims(game, field, region, x, step, evidence)
        if path is not None and len(path) > 2:
            claims += _path_claims(game, path, evidence)
        claims += _field_claims(game, field, x, path, evidence)
    elif rests_on_pairs:
        claims += rests_on_pairs + _field_claims(game, field, x, path, evidence)
    else:
        claims.append(Claim(
            name="error", statement="The distance of the answer to an equilibrium, player by player; this is the largest.",
            value=None, kind="proved", outcome="undecided", reason=f"the region is not certified: {region.reason}", check="nothing",
        ))  # fmt: skip
    return Certificate(CARD, tuple(claims), game.fingerprint(), evidence)


# ---- claims ---------------------------------------------------------------------------------------------------------


def _where(region: RegionBounds) -> str:
    cells = len(region.low)
    return (
        "everywhere" if not cells else "on the whole region" if cells == 1 else f"on the whole region ({cells} cells)"
    )


def _small_gain_claim(region: RegionBounds, alpha: float, evidence: dict[str, Any]) -> Claim:
    statement = (
        f"Small-gain condition: {_where(region)} every player's own curvature outweighs its couplings, K v >= value * v with the "
        "v > 0 of the evidence; distances to the equilibrium shrink at this rate along the gradient flow."
    )
    if alpha > 0:
        return Claim(
            name="small-gain", statement=statement, value=alpha, relation=">=", bound=0.0, kind="proved", check="small-gain",
            evidence=("cells.npz", "witness.npz"),
        )  # fmt: skip
    if region.obstruction is None:
        return Claim(
            name="small-gain", statement=statement, value=alpha, relation=">=", bound=0.0, kind="proved", outcome="undecided",
            reason=region.reason, check="small-gain", evidence=("cells.npz", "witness.npz"),
        )  # fmt: skip
    evidence["witness.npz"]["obstruction"] = region.obstruction
    return Claim(
        name="small-gain", statement=statement, value=region.obstruction_alpha, relation=">=", bound=0.0,
        kind="proved", outcome="fails", reason=region.reason, check="obstruction", evidence=("cells.npz", "witness.npz"),
    )  # fmt: skip


def _metric_claims(region: RegionBounds, evidence: dict[str, Any]) -> list[Claim]:
    bounds = region.bounds
    weights = best_weights(bounds.comparison)
    evidence["witness.npz"]["weights"] = weights
    proved = proved_metric_margin(bounds, weights)
    claims = [Claim(
        name="metric-margin",
        statement="Contraction rate of the flow in |x|_w^2 = sum w_i |x_i|^2, with one weight a player (smallest weight 1).",
        value=proved, relation=">=", bound=0.0, kind="proved", outcome="holds" if proved >= 0 else "fails",
        reason="" if proved >= 0 else "no one weighted Euclidean norm serves all cells; the weighted largest norm of small-gain does",
        check="metric-margin", evidence=("cells.npz", "witness.npz"),
    )]  # fmt: skip
    if proved <= 0:
        return claims
    evidence["bands.npz"] = {"bands": np.nan_to_num(weight_bands(bounds.comparison, weights), posinf=1e300)}
    claims.append(Claim(
        name="timescale-band",
        statement="How far the weight of one player can be changed, the others' kept, before the certificate is lost: the narrowest "
        "band's upper end over its lower end.",
        value=_narrowest(evidence["bands.npz"]["bands"]), relation=">=", bound=1.0, kind="measured", check="timescale-band",
        evidence=("cells.npz", "witness.npz", "bands.npz"),
    ))  # fmt: skip
    return claims


def _narrowest(bands: Array) -> float:
    with np.errstate(divide="ignore", over="ignore"):
        return float(min(1e300, (bands[:, 1] / np.maximum(bands[:, 0], 1e-300)).min()))


def _step_claims(game: SmoothGame, bounds: Bounds, step: Array, evidence: dict[str, Any]) -> list[Claim]:
    witness = evidence["witness.npz"]
    each = np.array([step[s.start] for s in game.slices])
    own = np.maximum(np.abs(1 - each * bounds.mu), np.abs(1 - each * bounds.ell))
    _, vector = perron_margin(-(own[..., None] * np.eye(len(each)) + each[:, None] * bounds.coupling))
    witness |= {"step": each, "step_vector": vector}
    factor = proved_factor(bounds, each, vector)
    steps = euler_steps(bounds)
    limit = steps.limit * (1 - LIMIT_ROOM)
    _, limit_vector = step_margin(bounds, limit)
    witness |= {"limit": np.array([steps.limit]), "limit_vector": limit_vector}
    if not proved_factor(bounds, np.full(len(each), limit), limit_vector) < 1:
        raise ArithmeticError("the limit of the steps could not be proved with outward rounding")
    weights = witness["weights"]
    rate, beta = margin(bounds.comparison, weights), lipschitz(bounds, weights)
    claims = [
        Claim(
            name="step", statement="One projected Euler step of the length used (after Runge-Kutta play: of the best length) shrinks the weighted largest distance by this factor.",
            value=factor, relation="<=", bound=1.0, kind="proved", outcome="holds" if factor <= 1 else "fails", check="step",
            reason="" if factor <= 1 else "the step asked for is longer than the certified limit",
            evidence=("cells.npz", "witness.npz"),
        ),
        Claim(
            name="step-limit", statement="Every projected Euler step shorter than this contracts (proved to nine digits).",
            value=steps.limit, relation=">=", bound=0.0, kind="proved", check="step-limit", evidence=("cells.npz", "witness.npz"),
        ),
    ]  # fmt: skip
    if rate > 0:
        classical = classical_steps(rate, beta)
        claims.append(Claim(
            name="classical-step",
            statement="The classical bound 2 alpha / beta^2 of a projected Euler step, from rate and Lipschitz constant alone.",
            value=classical.euler, relation="<=", bound=steps.limit, tolerance=1e-9 * steps.limit, kind="measured",
            outcome="holds" if classical.euler <= steps.limit * (1 + 1e-9) else "fails",
            check="classical-step", evidence=("cells.npz", "witness.npz"),
        ))  # fmt: skip
        claims.append(Claim(
            name="runge-kutta-step",
            statement="One Runge-Kutta (RK4) step shorter than this contracts in the w-norm, also for nonlinear games, where the bounds hold "
            "h max|F| beyond the region, too. The guideline 2.5 / beta is asymptotic and for linear games only.",
            value=classical.rk4, kind="measured", relation=">=", bound=0.0, check="runge-kutta-step", evidence=("cells.npz", "witness.npz"),
        ))  # fmt: skip
    return claims


def _stages_claim(stages: Stages, evidence: dict[str, Any]) -> Claim:
    statement = (
        "One Runge-Kutta step of the length used shrinks the distance in the w-norm by this factor, its stages included: they stay in the "
        "enlarged region of the evidence, on which the rate and the Lipschitz constant hold."
    )
    if stages.weights is None:
        return Claim(
            name="runge-kutta-contraction", statement=statement, value=None, kind="proved", outcome="undecided", check="nothing",
            reason=f"{stages.reason}; of linear games steps up to 2.5 / beta are asymptotically stable, which says nothing of single steps",
        )  # fmt: skip
    bounds = stages.region.bounds
    evidence["enlarged.npz"] = {
        "low": stages.region.low, "high": stages.region.high, "mu": bounds.mu, "ell": bounds.ell, "coupling": bounds.coupling,
        "reach": stages.reach, "weights": stages.weights, "step": np.array([stages.step]),
    }  # fmt: skip
    return Claim(
        name="runge-kutta-contraction", statement=statement, value=stages.factor, relation="<=", bound=1.0, kind="proved",
        check="runge-kutta-contraction", evidence=("enlarged.npz",),
    )  # fmt: skip


def _answer_claims(
    game: SmoothGame, field: Field, region: RegionBounds, x: Array, step: Array, evidence: dict[str, Any]
) -> list[Claim]:
    witness, bounds = evidence["witness.npz"], region.bounds
    each, vector = witness["step"], witness["step_vector"]
    gradient = field.gradient_interval(x)
    residual = moved(game, gradient, x, step)
    factor = proved_factor(bounds, each, vector)
    statement = (
        "The distance of the answer to the equilibrium, player by player (Euclidean); this is the largest. One step maps the set of "
        "points within these distances into itself and contracts it, so the equilibrium exists there and is the only one in the region."
    )
    if factor >= 1:
        return [Claim(
            name="error", statement=statement, value=None, kind="proved", outcome="undecided", check="nothing",
            reason="the step asked for does not contract; no error bound follows from it",
        )]  # fmt: skip
    T = _euler_matrices(bounds, each)
    # the checker's own enclosure of the residual may be a little wider than ours
    padded = residual * 1.25 + 64 * np.finfo(np.float64).eps * np.abs(each) * np.array(
        [np.abs(gradient.mid[s]).max() for s in game.slices]
    )
    padded = np.maximum(padded, 4 * np.finfo(np.float64).eps * max(float(np.abs(x).max()), 1e-300))
    error = error_bounds(T, padded, factor, vector) * (1 + 1e-9)
    for _ in range(40):
        if (euler_product(bounds, each, error).high + padded * (1 + 1e-12) <= error).all():
            break
        error = error * (1 + 1e-6)
    else:
        raise ArithmeticError("the error bounds could not be proved with outward rounding")
    outside = leaving(game, x, error)
    regret = 1.25 * regret_bounds(game, gradient, x, bounds.mu.min(axis=0)) + 1e-300
    witness |= {"error": error, "regret": regret}
    inside = outside == 0
    reason = "" if inside else "the set of possible equilibria reaches beyond the certified region"
    return [
        Claim(
            name="error", statement=statement, value=float(error.max()), kind="proved", relation="<=", check="error",
            outcome="holds" if inside else "undecided", reason=reason, evidence=("answer", "cells.npz", "witness.npz"),
        ),
        Claim(
            name="existence",
            statement="Exactly one equilibrium of the certified game exists in the region: so many strategies' error balls leave it.",
            value=outside, relation="==", bound=0, kind="proved", outcome="holds" if inside else "undecided", reason=reason,
            check="existence", evidence=("answer", "cells.npz", "witness.npz"),
        ),
        Claim(
            name="regret",
            statement="What all players together could still gain by changing their own strategies within the region (own costs are "
            "strongly convex there, so this is about all deviations, not only small ones).",
            value=float(regret.sum()), kind="proved", relation="<=", check="regret", evidence=("answer", "cells.npz", "witness.npz"),
        ),
    ]  # fmt: skip


def _euler_matrices(bounds: Bounds, each: Array) -> Array:
    own = np.maximum(np.abs(1 - each * bounds.mu), np.abs(1 - each * bounds.ell))
    return own[..., None] * np.eye(len(each)) + each[:, None] * bounds.coupling


def leaving(game: SmoothGame, x: Array, error: Array) -> int:
    """How many strategies have an error ball that leaves the region (the ends of the strategy sets do not count)."""
    if game.region is None:
        return 0
    radius = np.repeat(error, game.blocks)
    low, high = game.region
    below = (x - radius < low) & (game.lower < low)
    above = (x + radius > high) & (game.upper > high)
    return int((below | above).sum())


def _path_claims(game: SmoothGame, path: Array, evidence: dict[str, Any]) -> list[Claim]:
    vector = evidence["witness.npz"]["step_vector"]
    starts = [s.start for s in game.slices]
    moves = np.sqrt(np.add.reduceat(np.diff(path, axis=0) ** 2, starts, axis=1))
    sizes = (moves / vector).max(axis=1)
    useful = np.flatnonzero(sizes[:-1] > 1e-9 * max(sizes[0], 1e-300))
    evidence["path.npz"] = {"points": path}
    if not useful.size:
        del evidence["path.npz"]
        return []
    worst = float((sizes[1:][useful] / sizes[:-1][useful]).max())
    factor = proved_factor(
        Bounds(**{k: evidence["cells.npz"][k] for k in ("mu", "ell", "coupling")}),
        evidence["witness.npz"]["step"],
        vector,
    )
    inside = game.region is None or bool(((path >= game.region[0]) & (path <= game.region[1])).all())
    fits = worst <= factor + 1e-6
    return [Claim(
        name="contraction",
        statement="Along the first rounds of play, the largest ratio of one move to the move before it (in the step's norm).",
        value=worst, relation="<=", bound=factor, tolerance=1e-6, kind="measured",
        outcome="holds" if inside and fits else "fails" if inside else "undecided",
        reason="" if inside and fits else "a move shrank less than certified" if inside else "the path left the certified region",
        check="contraction", evidence=("cells.npz", "witness.npz", "path.npz"),
    )]  # fmt: skip


def _field_claims(
    game: SmoothGame, field: Field, x: Array, path: Array | None, evidence: dict[str, Any]
) -> list[Claim]:
    """F on a grid in the plane of two players' first strategies, for the picture."""
    if len(game.blocks) < 2:
        return []
    first, second = game.slices[0].start, game.slices[1].start
    points = np.tile(x, (GRID * GRID, 1))
    for axis, spread in ((first, np.repeat), (second, np.tile)):
        low, high = _window(game, x, path, axis)
        points[:, axis] = spread(np.linspace(low, high, GRID), GRID)
    values = field.gradient(points)
    if not np.isfinite(values).all():
        return []
    evidence["field.npz"] = {
        "points": points, "values": values, "axes": np.array([first, second]), "blocks": np.array(game.blocks),
    }  # fmt: skip
    return [Claim(
        name="field", statement="The largest entry of the pseudo-gradient on the grid of the picture.", value=float(np.abs(values).max()),
        kind="measured", relation="<=", check="field", evidence=("answer", "field.npz"),
    )]  # fmt: skip


def _window(game: SmoothGame, x: Array, path: Array | None, axis: int) -> tuple[float, float]:
    if game.region is not None:
        return float(game.region[0, axis]), float(game.region[1, axis])
    reach = 1.2 * float(np.abs(path[:, axis] - x[axis]).max()) if path is not None else 1.0
    return float(x[axis] - max(reach, 1e-3)), float(x[axis] + max(reach, 1e-3))
