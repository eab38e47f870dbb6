"""Checking a private run's gradient claims from its ledger and released vectors, without the data.

The search is replayed from the released vectors; noise scales are rebuilt from the ledger's multipliers and the replayed
distances; the noncentral chi-square distribution is summed as its Poisson mixture instead of inverted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.privacy.verify import checks as ledger_checks
from surefoot.privacy.verify import is_bound

Array = np.ndarray[Any, np.dtype[np.float64]]
AGREE = 1e-8


def checks() -> Mapping[str, Check]:
    """All checkers of the card."""
    return {
        **ledger_checks(), "answer": check_answer, "gradient_bound": check_query, "path_bound": check_path,
        "expected_gradient": check_expected, "population_bound": check_population, "floor": check_floor,
    }  # fmt: skip


class SpoiledError(ValueError):
    """The evidence contradicts itself."""


def _require(good: bool, why: str) -> None:
    if not good:
        raise SpoiledError(why)


WORDS = {"rule": ("none", "descent", "tree"), "known": ("exact", "clipped"), "compat": ("", "paper")}


def _facts(dossier: Dossier) -> Mapping[str, Any]:
    tree = dossier.evidence["release.json"]
    for name, words in WORDS.items():
        _require(tree.get(name, words[0]) in words, f"{name} is {tree.get(name)!r}")
    return tree


def _multiplier(ledger: Mapping[str, Any], name: str) -> float:
    found = {float(e["noise_multiplier"]) for e in ledger["entries"] if e["name"] == name}
    _require(len(found) == 1, f"the ledger has {len(found)} kinds of {name!r}")
    return found.pop()


def _near(first: Any, second: Any) -> bool:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=AGREE, atol=1e-12 * (1.0 + np.abs(b).max(initial=0.0))))


# ---- the search played again --------------------------------------------------------------------------------
def _penalty_gradient(tree: Mapping[str, Any], w: Array) -> Array:
    penalty = tree["penalty"]
    weight, free = float(penalty["weight"]), int(penalty["free"])
    slope = {"none": 0.0 * w, "ridge": w, "bounded": 2.0 * w / (1.0 + w * w) ** 2}[penalty["kind"]]
    mask = np.ones_like(w)
    mask[len(w) - free :] = 0.0 if free else 1.0
    return weight * slope * mask


def _replay(tree: Mapping[str, Any], arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Points (t + 1, k) of the search, and the norms (t,) of its directions."""
    w, estimates = arrays["start"].astype(np.float64), arrays["estimates"]
    phi = arrays.get("projection")
    points, norms, step = [w], [], float(tree["step_size"])
    for estimate in estimates:
        pull = _penalty_gradient(tree, w) if phi is None else phi @ _penalty_gradient(tree, phi.T @ w)
        direction = estimate + pull
        norms.append(math.sqrt(float(direction @ direction)))
        w = w - (step * direction if tree["rule"] == "descent" else step / norms[-1] * direction)
        points.append(w)
    return np.array(points), np.array(norms)


def check_answer(claim: Claim, dossier: Dossier) -> Verdict:
    """Replay the search; the candidate must be its last point or its mean over the second half, or one of its points (tree)."""
    tree, arrays = _facts(dossier), dossier.evidence["release.npz"]
    answer = np.asarray(dossier.answer, dtype=np.float64)
    candidates = np.asarray(arrays["points"], dtype=np.float64)
    _require(
        candidates.ndim == 2 and candidates.shape[1] == int(tree["dim"]) and bool(np.isfinite(candidates).all()),
        "points",
    )
    place = (
        int(np.argmin(np.where(np.isnan(b := arrays["query_bounds"]), np.inf, b))) if "query_bounds" in arrays else 0
    )
    if not np.array_equal(answer, candidates[place]):
        return refute(claim, "the answer is not the candidate with the smallest bound")
    if tree["rule"] != "none" and (why := _not_reached(tree, arrays, candidates)):
        return refute(claim, why)
    return compare(claim, math.sqrt(math.fsum(answer**2)), supports="measured")


def _not_reached(tree: Mapping[str, Any], arrays: Mapping[str, Array], candidates: Array) -> str:
    """What is wrong with the candidates, or ''."""
    points, _ = _replay(tree, arrays)
    phi = arrays.get("projection")
    reached = points if phi is None else points @ phi
    if tree["rule"] == "descent" and tree["compat"] != "paper":
        wanted = reached[-1]
        if "averaged_from" in tree:
            first = int(tree["averaged_from"])
            _require(0 <= first < len(points) - 1, "averaged_from")
            wanted = reached[first + 1 :].mean(axis=0)
        if len(candidates) == 1 and _near(candidates[0], wanted):
            return ""
        return "the candidate is not the last point, or the mean that the evidence names, replayed"
    lost = [c for c in candidates if not any(_near(c, point) for point in reached)]
    return "a candidate does not follow from the released vectors" if lost else ""


# ---- final queries ------------------------------------------------------------------------------------------
def check_query(claim: Claim, dossier: Dossier) -> Verdict:
    """The noise from the ledger, the distribution by its Poisson mixture."""
    tree, arrays, ledger = _facts(dossier), dossier.evidence["release.npz"], dossier.evidence["ledger.json"]
    queries, p = int(tree["queries"]), float(tree["failure_probability"])
    norms, bounds = np.asarray(arrays["query_norms"]), np.asarray(arrays["query_bounds"])
    made = sum(int(e["number"]) for e in ledger["entries"] if e["name"] == "final query")
    _require(0 < queries == len(norms) == len(bounds) == len(arrays["points"]) and made <= queries, "queries")
    std = _multiplier(ledger, "final query") * float(tree["record_gradient"]) / int(tree["size"])
    if not _near(arrays["query_std"], std):
        return refute(claim, f"the noise of a query is {std:.6g}, not {float(arrays['query_std']):.6g}")
    known = np.isfinite(norms)
    _require(0.0 < p < 1.0 and bool((norms[known] >= 0).all()) and made >= int(known.sum()), "norms")
    for norm, bound in zip(norms, bounds, strict=True):
        lost = not math.isfinite(norm)
        if (
            math.isfinite(bound)
            if lost
            else not is_bound(float(bound), float(norm), std, int(tree["dim"]), p / queries)
        ):
            return refute(claim, f"{bound:.6g} is not the bound that {norm:.6g} gives")
    if claim.confidence is None or not math.isclose(claim.confidence.level, 1.0 - p) or not np.array_equal(
        np.asarray(dossier.answer, dtype=np.float64), arrays["points"][int(np.argmin(bounds))]
    ):  # fmt: skip
        return refute(claim, "the level, or the point, is not the one the query was made for")
    target = float(tree["target"])
    return compare(claim, float(bounds.min()), supports="statistical", bound=target or None)


# ---- along the search ---------------------------------------------------------------------------------------
def check_path(claim: Claim, dossier: Dossier) -> Verdict:
    """Noise scales from the replayed distances, the mixture's radius step by step."""
    tree, table, ledger = _facts(dossier), dossier.evidence["path.csv"], dossier.evidence["ledger.json"]
    _require(tree["known"] == "exact", "clipping may have moved the estimates")
    steps = len(table["k"])
    _require(bool(np.array_equal(table["k"], np.arange(steps))), "the steps are not counted from 0")
    phase, anchors = int(tree.get("phase", 1)), int(tree["anchors"])
    norms = np.asarray(table["released_norm"])
    if tree["rule"] == "descent" and not _near(norms, _replay(tree, dossier.evidence["release.npz"])[1]):
        return refute(claim, "the norms are not those of the replayed search")
    share, n, d = float(tree["record_gradient"]), int(tree["size"]), int(tree["dim"])
    first = _multiplier(ledger, "anchor") * share / n
    later = _multiplier(ledger, "difference") if phase > 1 else 0.0
    p = float(tree["failure_probability"])
    if claim.confidence is None or not math.isclose(claim.confidence.level, 1.0 - p):
        return refute(claim, "the level is not the run's")
    _require(steps <= phase * anchors, "more steps than the phases hold")
    spread, least = 0.0, math.inf
    for k in range(steps):
        std = first
        if k % phase:
            distance = float(tree["step_size"]) * norms[k - 1]
            std = later * min(float(tree["record_smoothness"]) * distance, 2.0 * share) / n
        spread = std**2 if k % phase == 0 else spread + std**2
        radius = math.sqrt((spread + first**2) * (d * math.log(1.0 + spread / first**2) + 2.0 * math.log(anchors / p)))
        bound = norms[k] + radius
        if not (_near(table["noise_std"][k], std) and _near(table["bound"][k], bound)):
            return refute(
                claim,
                f"step {k}: noise {std:.6g} and bound {bound:.6g}, not {table['noise_std'][k]:.6g} and {table['bound'][k]:.6g}",
            )
        least = min(least, bound)
    return compare(claim, least, supports="statistical")


def check_population(claim: Claim, dossier: Dossier) -> Verdict:
    """Every leaf's path walked from the root: noise and sampling errors added up node by node."""
    tree, table, ledger = _facts(dossier), dossier.evidence["path.csv"], dossier.evidence["ledger.json"]
    _require(tree["known"] == "exact", "clipping may have moved the estimates")
    D, T, b = (int(tree[k]) for k in ("depth", "rounds", "root_batch"))
    L0, L1, d, p = (float(tree[k]) for k in ("record_gradient", "record_smoothness", "dim", "failure_probability"))
    leaves = 2**D
    steps = len(table["k"])
    _require(
        steps == T * leaves and bool(np.array_equal(table["k"], np.arange(steps))), "the leaves are not counted from 0"
    )
    points, norms = _replay(tree, dossier.evidence["release.npz"])
    m, total = _multiplier(ledger, "root"), T * leaves
    if m != _multiplier(ledger, "right child") or not _near(table["released_norm"], norms):
        return refute(claim, "noise or norms are not those of the ledger and the replayed search")
    least, best = math.inf, 0
    for k in range(steps):
        leaf, noise, spread, own = k % leaves, (m * L0 / b) ** 2, 4.0 * L0**2 / b, m * L0 / b
        for depth in range(1, D + 1):
            if (leaf >> (D - depth)) % 2:
                share, batch = min(L1 * 2 ** (D - depth) * float(tree["step_size"]), 2.0 * L0), b // 2**depth
                noise, spread, own = (
                    noise + (m * share / batch) ** 2,
                    spread + 4.0 * share**2 / batch,
                    m * share / batch,
                )
        radius = math.sqrt(noise) * (math.sqrt(d) + math.sqrt(2 * math.log(2 * total / p))) + math.sqrt(
            2 * spread * math.log(4 * total / p)
        )
        if not (_near(table["noise_std"][k], own) and _near(table["bound"][k], norms[k] + radius)):
            return refute(claim, f"leaf {k}: noise {own:.6g} and bound {norms[k] + radius:.6g}")
        if norms[k] + radius < least:
            least, best = norms[k] + radius, k
    if not _near(dossier.evidence["release.npz"]["points"][0], points[best]):
        return refute(claim, f"the first candidate is not leaf {best}")
    if claim.confidence is None or not math.isclose(claim.confidence.level, 1.0 - p):
        return refute(claim, "the level is not the run's")
    return compare(claim, least, supports="statistical", rtol=AGREE)


# ---- known before the run -----------------------------------------------------------------------------------
def check_expected(claim: Claim, dossier: Dossier) -> Verdict:
    """Equation 5 from the ledger's multipliers and rates."""
    tree, ledger = _facts(dossier), dossier.evidence["ledger.json"]
    L0, n, d, T = (float(tree[k]) for k in ("record_gradient", "size", "dim", "iterations"))
    eta, L, gap = (float(tree[k]) for k in ("step_size", "smoothness", "start_gap"))
    entries = {e["name"]: e for e in ledger["entries"]}
    _require(sum(int(entries[k]["number"]) for k in ("anchor", "difference") if k in entries) == T, "iterations")

    def square(entry: Mapping[str, Any], share: float) -> float:
        rate = float(entry["sampling"])
        return (share**2 / (rate * n) if rate < 1.0 else 0.0) + d * (
            float(entry["noise_multiplier"]) * share / (rate * n)
        ) ** 2

    first, second, phase = square(entries["anchor"], L0), 0.0, 1.0
    if "difference" in entries:
        second, phase = square(entries["difference"], float(tree["record_smoothness"])), float(tree["phase"])
    A = eta * (1.0 - L * eta - eta**2 * second * phase) / 2.0
    _require(A > 0.0, "the descent constant is not positive")
    mean_step = gap / (T * A) + eta * first / (2.0 * A)  # mean E |V_t|^2
    value = math.sqrt(2.0 * (1.0 + second * eta**2 * phase) * mean_step + 2.0 * first)
    return compare(claim, value, supports="proved")


def check_floor(claim: Claim, dossier: Dossier) -> Verdict:
    """L0 sqrt(d log(1/delta)) / (n epsilon)."""
    tree, ledger = _facts(dossier), dossier.evidence["ledger.json"]
    root = math.sqrt(int(tree["dim"]) * -math.log(float(ledger["delta"])))
    return compare(
        claim,
        float(tree["record_gradient"]) * root / (int(tree["size"]) * float(ledger["epsilon"])),
        supports="measured",
    )
