"""Checks of trained networks, by other code than trained them: numpy, pattern by pattern, losses from their formulas.

The exact global claim is checked from the vertices of the arrangement (`verify_arrangement`), not by walking along it; the searched one by a
search of its own (random directions and projected ascent in single cells).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from surefoot.convex_networks.problem import Network, PatternProgram, ordered
from surefoot.convex_networks.verify_arrangement import above_limit
from surefoot.convex_networks.verify_losses import (
    Array,
    answer_of,
    data_of,
    dual_sum,
    loss_sum,
    network_loss,
    radii_of,
    row_range,
    worst_sum,
)
from surefoot.convex_networks.verify_sampled import sampled_gap, sampled_network
from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute

SURE = 1e-12
"""|x'a| below this multiple of |x| |a| leaves open which pattern a direction has."""


# ---- the program ---------------------------------------------------------------------------------------------


def _patterns(X: Array, directions: Array) -> tuple[Array, str]:
    """(P, n) patterns of unit directions, and what is wrong with them."""
    sizes = np.linalg.norm(directions, axis=1)
    if not np.allclose(sizes, 1.0, rtol=0, atol=1e-9):
        return np.zeros((0, 0)), "the directions have not length one"
    products = directions @ X.T
    unsure = np.abs(products) < SURE * np.linalg.norm(X, axis=1)[None, :]
    unsure[:, ~X.any(axis=1)] = False
    if unsure.any():
        return np.zeros((0, 0)), "a direction lies on a row's hyperplane"
    return (products >= 0).astype(float), ""


def _feasible_value(problem: PatternProgram, program: Mapping[str, Any]) -> tuple[float, str]:
    """The program's value at the point in the evidence, and what is wrong with it."""
    X, y = data_of(problem)
    directions, blocks, weights = (np.asarray(program[name]) for name in ("directions", "blocks", "weights"))
    patterns, wrong = _patterns(X, directions)
    if wrong:
        return np.inf, wrong
    count, columns = len(directions), y.shape[1]
    if (
        len(np.unique(blocks)) != len(blocks)
        or blocks.min(initial=0) < 0
        or blocks.max(initial=0) >= columns * 2 * count
    ):
        return np.inf, "block numbers are repeated or out of range"
    if np.any(np.diff(blocks) < 0):
        return np.inf, "the blocks are not in order"
    total, radii = 0.0, radii_of(problem)
    zeta = np.zeros((columns, *X.shape))  # a row's slope
    norms = np.linalg.norm(X, axis=1)
    for block, w in zip(blocks, weights, strict=True):
        column, side, place = np.unravel_index(int(block), (columns, 2, count))
        D = patterns[place]
        products = X @ w
        if ((2 * D - 1) * products - radii @ np.abs(w) < -1e-13 * norms * np.linalg.norm(w)).any():
            return np.inf, f"block {block} leaves its pattern's cone"
        zeta[column, D > 0] += (1.0 - 2.0 * side) * w
        total += float(np.linalg.norm(w))
    scores = np.stack([(slope * X).sum(axis=1) for slope in zeta], axis=1)
    if not problem.robust:
        return loss_sum(problem, scores, y) + problem.weight * total, ""
    reach = np.stack([np.abs(slope) @ radii for slope in zeta], axis=1)
    return worst_sum(problem, scores - reach, scores + reach, y) + problem.weight * total, ""


def network(claim: Claim, dossier: Dossier) -> Verdict:
    """The network's loss from its weights, against the program's value at the feasible point."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if wrong:
        return refute(claim, wrong)
    upper, wrong = _feasible_value(problem, dossier.evidence["program.npz"])
    if wrong:
        return refute(claim, wrong)
    if claim.tolerance > 1e-8 * abs(upper) * (1 + 1e-6):
        return refute(claim, "the tolerance is wider than 1e-8 of the value")
    return compare(claim, network_loss(problem, found), supports="proved", bound=upper, rtol=1e-9)


def program_gap(claim: Claim, dossier: Dossier) -> Verdict:
    """Both values again; the multipliers must be inside their balls for every pattern."""
    problem: PatternProgram = dossier.problem
    X, y = data_of(problem)
    upper, wrong = _feasible_value(problem, dossier.evidence["program.npz"])
    if wrong:
        return refute(claim, wrong)
    lower, wrong = _dual_value(problem, X, y, dossier.evidence["program.npz"], dossier.evidence["dual.npz"])
    if wrong:
        return refute(claim, wrong)
    gap = (upper - lower) / max(abs(upper), np.finfo(float).tiny)
    return compare(claim, gap, supports="proved", bound=1e-4, rtol=1e-5, atol=1e-11)


def _dual_value(
    problem: PatternProgram, X: Array, y: Array, program: Mapping[str, Any], dual: Mapping[str, Any]
) -> tuple[float, str]:
    patterns, wrong = _patterns(X, np.asarray(program["directions"]))
    if wrong:
        return -np.inf, wrong
    z, places, multipliers, norms = (np.asarray(dual[name]) for name in ("z", "places", "multipliers", "norms"))
    shape = (y.shape[1], 2, len(patterns), len(X))
    if z.shape != y.shape or not np.isfinite(z).all():
        return -np.inf, "z has the wrong shape or is not finite"
    if multipliers.min(initial=0.0) < 0 or not np.isfinite(multipliers).all():
        return -np.inf, "a cone multiplier is negative or not finite"
    if np.any(np.diff(places) <= 0) or places.min(initial=0) < 0 or places.max(initial=0) >= np.prod(shape):
        return -np.inf, "the places of the multipliers are out of order or range"
    if norms.shape != shape[:3]:
        return -np.inf, "the norms have the wrong shape"
    radii, push = radii_of(problem), -z.T[:, :, None] * X[None]
    if problem.robust:
        spread, tilt = np.asarray(dual["spread"]), np.asarray(dual["tilt"])
        if (
            spread.shape != z.shape
            or tilt.shape != push.shape
            or not (np.isfinite(spread).all() and np.isfinite(tilt).all())
        ):
            return -np.inf, "spread or tilt have the wrong shape or are not finite"
        if (np.abs(tilt) > spread.T[:, :, None] * radii * (1 + 1e-9) + 1e-15).any():
            return -np.inf, "a row's tilt is beyond its spread times the radii"
        push = push + tilt
    where = np.unravel_index(places.astype(np.int64), shape)
    block = np.ravel_multi_index(where[:3], shape[:3])
    starts = np.searchsorted(block, np.arange(np.prod(shape[:3]) + 1))
    for number in range(int(np.prod(shape[:3]))):
        column, side, place = np.unravel_index(number, shape[:3])
        D = patterns[place]
        vector = -(1.0 - 2.0 * side) * (D @ push[column])
        mine = slice(starts[number], starts[number + 1])
        rows = where[3][mine]
        vector = vector + (multipliers[mine] * (2 * D[rows] - 1)) @ X[rows]
        free = radii * float(multipliers[mine].sum())
        vector = np.sign(vector) * np.maximum(np.abs(vector) - free, 0.0)
        size = float(np.linalg.norm(vector))
        if not size <= problem.weight * (1 + 1e-9):
            return -np.inf, f"block {number} of the multipliers is outside its ball ({size:.6g} > {problem.weight:.6g})"
        if not abs(size - norms[column, side, place]) <= 1e-7 * problem.weight:
            return -np.inf, f"the norm of block {number} is {size:.6g}, not {norms[column, side, place]:.6g}"
    return (
        robust_dual_sum(problem, z, np.asarray(dual["spread"]), y) if problem.robust else dual_sum(problem, z, y)
    ), ""


def robust_dual_sum(problem: PatternProgram, z: Array, spread: Array, y: Array) -> float:
    """Value of row multipliers of the worst-case loss, which must be in its conjugate's domain."""
    name, options = problem.loss_name, problem.loss_options
    room = 1e-12
    if (spread < np.abs(z) * (1 - 1e-9) - room).any() and name != "quantile":
        return -np.inf
    if name in ("logistic", "hinge"):
        return dual_sum(problem, z, y) if np.allclose(spread, np.abs(z), rtol=1e-9, atol=room) else -np.inf
    if (
        name == "quantile"
    ):  # z = q up - (1 - q) down, spread = q up + (1 - q) down with up, down >= 0 and up + down <= 1
        level = options.get("quantile", 0.5)
        up, down = (spread + z) / (2 * level), (spread - z) / (2 * (1 - level))
        inside = up.min() >= -room and down.min() >= -room and (up + down).max() <= 1 + 1e-9
        return float(np.sum(z * y)) if inside else -np.inf
    if name == "huber" and spread.max(initial=0.0) > options.get("knee", 1.0) * (1 + 1e-9):
        return -np.inf
    return float(np.sum(z * y - 0.5 * spread**2))


# ---- all networks --------------------------------------------------------------------------------------------


def _response(X: Array, z: Array, directions: Array) -> Array:
    """z'(X u)_+ of directions (k, d)."""
    return np.maximum(directions @ X.T, 0.0) @ z


def _global_parts(claim: Claim, dossier: Dossier) -> tuple[Any, ...]:
    problem: PatternProgram = dossier.problem
    X, y = data_of(problem)
    found, wrong = answer_of(dossier)
    part = dossier.evidence["global.npz"]
    z, largest, where = (np.asarray(part[name], dtype=float) for name in ("z", "largest", "where"))
    if not wrong and (z.shape != y.shape or largest.shape != (y.shape[1],) or where.shape != (y.shape[1], X.shape[1])):
        wrong = "the global evidence has the wrong shapes"
    if not wrong and not (np.isfinite(z).all() and np.isfinite(largest).all() and (largest > 0).all()):
        wrong = "the global evidence is not finite, or a largest value is not positive"
    if not wrong and not np.allclose(np.linalg.norm(where, axis=1), 1.0, rtol=0, atol=1e-9):
        wrong = "the best directions have not length one"
    return problem, X, y, found, z, largest, where, wrong


def _gap_to(problem: PatternProgram, y: Array, found: Network, z: Array, largest: Array) -> float:
    theta = np.minimum(1.0, problem.weight / largest)
    value = network_loss(problem, found)
    return (value - dual_sum(problem, z * theta, y)) / max(abs(value), np.finfo(float).tiny)


def _said(claim: Claim, bound: float) -> float | None:
    """The bound that a claim of a small gap must have; one without a bound only reports the distance."""
    return None if claim.bound is None else bound


def global_gap_search(claim: Claim, dossier: Dossier) -> Verdict:
    """The claimed largest value is reached at its direction, and a search by other means finds nothing above it."""
    problem, X, y, found, z, largest, where, wrong = _global_parts(claim, dossier)
    if wrong:
        return refute(claim, wrong)
    for column in range(y.shape[1]):
        reached = float(np.abs(_response(X, z[:, column], where[column : column + 1])[0]))
        if not abs(reached - largest[column]) <= 1e-9 * largest[column]:
            return refute(claim, f"the direction of column {column} reaches {reached:.6g}, not {largest[column]:.6g}")
        above = _search(X, z[:, column], np.random.default_rng(dossier.seed))
        if above > max(largest[column], problem.weight) * (1 + 1e-3):
            return refute(
                claim, f"a direction prices at {above:.6g}, above the largest {largest[column]:.6g} found", above
            )
    gap = _gap_to(problem, y, found, z, largest)
    return compare(claim, gap, supports="measured", bound=_said(claim, 1e-2), rtol=1e-6, atol=1e-12)


def _search(X: Array, z: Array, generator: np.random.Generator, starts: int = 200) -> float:
    """Best |z'(Xu)_+| of random directions followed by gradient steps of shrinking length on the sphere."""
    best = 0.0
    for sign in (1.0, -1.0):
        u = generator.standard_normal((starts, X.shape[1]))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        for k in range(40):
            best = max(best, float((sign * _response(X, z, u)).max()))
            g = sign * (((u @ X.T) > 0) * z) @ X
            g /= np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-300)
            u = u + (1.0 / (1 + 0.2 * k)) * g
            u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-300)
    return best


def global_gap_exact(claim: Claim, dossier: Dossier) -> Verdict:
    """No unit direction prices above the largest value claimed: candidates from all vertices of the arrangement."""
    problem, X, y, found, z, largest, where, wrong = _global_parts(claim, dossier)
    if wrong:
        return refute(claim, wrong)
    for column in range(y.shape[1]):
        reached = float(np.abs(_response(X, z[:, column], where[column : column + 1])[0]))
        if not abs(reached - largest[column]) <= 1e-6 * largest[column]:
            return refute(claim, f"the direction of column {column} reaches {reached:.6g}, not {largest[column]:.6g}")
        for sign in (1.0, -1.0):
            if above := above_limit(X, sign * z[:, column], largest[column] * (1 + 1e-7)):
                return refute(claim, above)
    gap = _gap_to(problem, y, found, z, largest)
    return compare(claim, gap, supports="proved", bound=_said(claim, 1e-4), rtol=1e-6, atol=1e-12)


def local_runs(claim: Claim, dossier: Dossier) -> Verdict:
    """The best of the local networks again, from their weights."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if wrong:
        return refute(claim, wrong)
    values = [network_loss(problem, each) for each in _trained(dossier)]
    own = network_loss(problem, found)
    if claim.tolerance > 1e-9 * abs(own) * (1 + 1e-6):
        return refute(claim, "the tolerance is wider than 1e-9 of the bound")
    return compare(claim, min(values), supports="measured", bound=None if claim.bound is None else own, rtol=1e-9)


def _trained(dossier: Dossier) -> list[Network]:
    part = dossier.evidence["local.npz"]
    hidden, output = np.asarray(part["hidden"], dtype=float), np.asarray(part["output"], dtype=float)
    return [Network(h, a) for h, a in zip(hidden, output, strict=True)]


def rival(claim: Claim, dossier: Dossier) -> Verdict:
    """The answer must be one of the local networks; the program's own network is put together from its blocks and weighed."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if not wrong:
        _, wrong = _feasible_value(problem, dossier.evidence["program.npz"])
    if wrong:
        return refute(claim, wrong)
    local = [ordered(each.hidden, each.output) for each in _trained(dossier)]
    if not any(np.array_equal(u, found.hidden) and np.array_equal(a, found.output) for u, a in local):
        return refute(claim, "the answer is none of the networks trained locally")
    program = dossier.evidence["program.npz"]
    blocks, weights = np.asarray(program["blocks"]), np.asarray(program["weights"], dtype=float)
    columns, count = problem.targets.shape[1], len(program["directions"])
    column, side, _ = np.unravel_index(blocks.astype(np.int64), (columns, 2, count))
    root = np.sqrt(np.linalg.norm(weights, axis=1))
    output = np.zeros((len(blocks), columns))
    output[np.arange(len(blocks)), column] = np.where(side == 0, root, -root)
    own, answer = network_loss(problem, Network(weights / root[:, None], output)), network_loss(problem, found)
    if claim.tolerance > 1e-9 * abs(answer) * (1 + 1e-6):
        return refute(claim, "the tolerance is wider than 1e-9 of the bound")
    return compare(claim, own, supports="proved", bound=answer, rtol=1e-9)


def held_out(claim: Claim, dossier: Dossier) -> Verdict:
    """Each row kept apart, one after the other."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if wrong:
        return refute(claim, wrong)
    if problem.held_features is None or problem.held_targets is None:
        return refute(claim, "no rows were kept apart")
    total = 0.0
    for x, y in zip(
        problem.held_features.double().cpu().numpy(), problem.held_targets.double().cpu().numpy(), strict=True
    ):
        score = sum(
            (max(float(x @ u), 0.0) * a for u, a in zip(found.hidden, found.output, strict=True)), np.zeros(len(y))
        )
        if problem.classes and len(y) == 1:
            total += float((score[0] >= 0) == (y[0] > 0))
        elif problem.classes:
            total += float(int(np.argmax(score)) == int(np.argmax(y)))
        else:
            total += float(np.mean((score - y) ** 2))
    return compare(claim, total / len(problem.held_features), supports="measured", rtol=1e-9)


def _moved(problem: PatternProgram, rows: Any, moved: Any) -> tuple[Array, str]:
    """Rows after a perturbation, and what is wrong with it."""
    X, moved = rows.double().cpu().numpy(), np.asarray(moved, dtype=float)
    if moved.shape != X.shape or not np.isfinite(moved).all():
        return X, "the perturbations have the wrong shape or are not finite"
    if (np.abs(moved) > radii_of(problem) * (1 + 1e-12)).any():
        return X, "a perturbation is larger than its radius"
    return X + moved, ""


def attacked(claim: Claim, dossier: Dossier) -> Verdict:
    """The loss at the attack's rows, and the bound that must be above it."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    X, bad = _moved(problem, problem.features, dossier.evidence["attack.npz"]["rows"])
    if wrong or bad:
        return refute(claim, wrong or bad)
    scores = (
        np.stack([np.maximum(found.hidden @ x, 0.0) @ found.output for x in X])
        if found.width
        else np.zeros_like(data_of(problem)[1])
    )
    decay = 0.5 * problem.weight * float(np.sum(found.hidden**2) + np.sum(found.output**2))
    value = loss_sum(problem, scores, data_of(problem)[1]) + decay
    certified = network_loss(problem, found)
    if claim.tolerance > 1e-9 * abs(certified) * (1 + 1e-6):
        return refute(claim, "the tolerance is wider than 1e-9 of the bound")
    return compare(claim, value, supports="measured", bound=certified, rtol=1e-9)


def _held(problem: PatternProgram) -> tuple[Any, Array]:
    if problem.held_features is None or problem.held_targets is None:
        raise ValueError("no rows were kept apart")
    return problem.held_features, problem.held_targets.double().cpu().numpy()


def held_certified(claim: Claim, dossier: Dossier) -> Verdict:
    """Each row kept apart: its class must hold over the whole box, by the bounds on scores or on their differences."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if wrong:
        return refute(claim, wrong)
    rows, y = _held(problem)
    radii, right = radii_of(problem), 0
    for x, target in zip(rows.double().cpu().numpy(), y, strict=True):
        if len(target) == 1:
            low, high = row_range(x, radii, found.hidden, found.output[:, 0])
            right += low >= 0 if target[0] > 0 else high < 0
            continue
        own = int(np.argmax(target))
        apart = [found.output[:, own] - found.output[:, c] for c in range(len(target)) if c != own]
        right += all(row_range(x, radii, found.hidden, a)[0] > 0 for a in apart)
    return compare(claim, right / len(y), supports="proved", rtol=1e-9)


def held_attack(claim: Claim, dossier: Dossier) -> Verdict:
    """Rows kept apart, moved by the attack."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    if wrong:
        return refute(claim, wrong)
    rows, y = _held(problem)
    X, bad = _moved(problem, rows, dossier.evidence["attack.npz"]["held"])
    if bad:
        return refute(claim, bad)
    right = 0
    for x, target in zip(X, y, strict=True):
        score = np.maximum(found.hidden @ x, 0.0) @ found.output if found.width else np.zeros(len(target))
        right += bool((score[0] >= 0) == (target[0] > 0)) if len(target) == 1 else np.argmax(score) == np.argmax(target)
    return compare(claim, right / len(y), supports="measured", rtol=1e-9)


CHECKS: Mapping[str, Check] = {
    "attack": attacked,
    "held_certified": held_certified,
    "held_attack": held_attack,
    "network": network,
    "program_gap": program_gap,
    "sampled_network": sampled_network,
    "sampled_gap": sampled_gap,
    "global_gap_exact": global_gap_exact,
    "global_gap_search": global_gap_search,
    "local_runs": local_runs,
    "rival": rival,
    "held_out": held_out,
}
