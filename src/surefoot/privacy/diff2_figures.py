"""Pictures of a DIFF2 run, made from the run directory alone: from released vectors and the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

OURS, PLAIN, MARK, SOFT = "#1f5f8b", "#d1603d", "#3f8f5f", "#9aa4ad"


def _claims(reader: RunReader) -> Mapping[str, Mapping[str, Any]]:
    return {claim["name"]: claim for claim in reader.certificate_tree["claims"]}


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims, ledger, plan = _claims(reader), reader.evidence("ledger.json"), reader.evidence("plan.json")
    privacy = claims["privacy"]
    if ledger["not_private"]:
        said = "Not private: the noise came from a fixed seed"
    elif privacy["outcome"] == "holds":
        said = f"({privacy['value']:.4g}, {ledger['delta']:g})-differentially private after {plan['rounds']} rounds"
    else:
        said = f"The budget was exceeded: epsilon {privacy['value']:.4g} instead of {ledger['epsilon']:g}"
    level = f"with {100 * (1 - plan['failure_probability']):g} % confidence"
    if "gradient" in claims:
        said += f"; gradient norm at the answer at most {claims['gradient']['value']:.3g} {level}"
    if "held_out_loss" in claims:
        said += f"; held-out loss at most {claims['held_out_loss']['value']:.3g}"
    if claims.get("drift", {}).get("outcome") == "fails":
        said += "; but clipping has made the estimate drift"
    return said + "."


def figures(reader: RunReader) -> Sequence[Figure]:
    """Noise a round where there are differences, the released gradient with its bounds, delta over epsilon."""
    if not reader.has("evidence/ledger.json"):
        return []
    if not reader.has("evidence/releases.npz"):
        return [_curve(reader)]
    differences = reader.evidence("plan.json")["restart"] > 1  # without any the noise of a round is one number
    return [*([_noise(reader)] if differences else []), _gradient(reader), _curve(reader)]


def _multipliers(reader: RunReader) -> dict[str, tuple[float, int]]:
    """Multiplier and number of the releases of each name, of the first part that has them."""
    found: dict[str, tuple[float, int]] = {}
    for entry in reader.evidence("ledger.json")["entries"]:
        found.setdefault(entry["name"], (entry["noise_multiplier"], entry["number"]))
    return found


def noise_by_round(reader: RunReader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviation of each round's release (R,), of the estimate made of them (R,), and which rounds are anchors."""
    plan, vectors, releases = reader.evidence("plan.json"), reader.evidence("releases.npz"), _multipliers(reader)
    x, step, unit = vectors["start"], plan["step_length"], plan["noise_unit"]
    points = [x]
    for row, direction in enumerate(vectors["directions"]):
        x = x - step * (direction + plan["ridge"] * x)
        if (row + 1) % plan["inner"] == 0:
            points.append(x)
    reach = np.linalg.norm(np.diff(np.array(points), axis=0), axis=1)
    rounds = np.arange(plan["rounds"])
    anchors = rounds % plan["restart"] == 0
    own = np.where(anchors, releases["anchor"][0] * plan["clip_gradient"] * unit, 0.0)
    if not anchors.all():
        scale = releases["difference"][0] * plan["clip_difference"] * unit
        own[1:] = np.where(anchors[1:], own[1:], scale * reach[:-1])
    total = np.empty_like(own)
    for r in rounds:
        total[r] = own[r] if anchors[r] else math.hypot(total[r - 1], own[r])
    return own, total, anchors


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.6, 4.2), layout="constrained")
    axis = canvas.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return canvas, axis


def _noise(reader: RunReader) -> Figure:
    own, total, anchors = noise_by_round(reader)
    plan, releases = reader.evidence("plan.json"), _multipliers(reader)
    rounds = np.arange(len(own))
    # the same budget spent on gradients only, over the same number of rounds
    squares = sum(n * (2.0 / m) ** 2 for name, (m, n) in releases.items() if name in ("anchor", "difference"))
    plain = 2.0 * math.sqrt(len(own) / squares) * plan["clip_gradient"] * plan["noise_unit"]
    canvas, axis = _canvas()
    shown = own > 0
    between = shown & ~anchors
    axis.plot([0, len(own) - 1], [plain, plain], color=PLAIN, lw=1.6)
    axis.plot(rounds, total, color=OURS, lw=1.4)
    axis.plot(rounds[anchors], own[anchors], ".", color=OURS, ms=5)
    axis.plot(rounds[between], own[between], ".", color=SOFT, ms=2.5)
    last = len(own) - 1
    low, high = axis.get_xlim()
    axis.set_xlim(low, high + 0.3 * (high - low))
    axis.annotate("plain noisy gradients", (last, plain), (6, 0), textcoords="offset points", color=PLAIN, va="center")
    axis.annotate("this run's estimate", (last, total[-1]), (6, 0), textcoords="offset points", color=OURS, va="center")
    if between.any():
        place = int(np.flatnonzero(between)[-1])
        level = float(np.median(own[between][-50:]))
        axis.annotate(
            "noise of the differences", (place, level), (6, 0), textcoords="offset points", color="#6b757d", va="center"
        )
    axis.set_yscale("log")
    axis.set(
        xlabel="round",
        ylabel="noise, standard deviation per coordinate",
        title="Noise in the gradient estimate at equal budget",
    )
    text = (
        "Noise in the running estimate, anchors as dots, the noise that each difference adds, and what the same budget would give on plain "
        "noisy gradients over as many rounds."
    )
    return Figure(
        "noise", text, canvas, alt="Noise of the gradient estimate over the rounds beside plain noisy gradient descent"
    )


def _curve(reader: RunReader) -> Figure:
    curve, ledger = reader.evidence("privacy_curve.csv"), reader.evidence("ledger.json")
    canvas, axis = _canvas()
    shown = curve["delta"] > 1e-30
    axis.semilogy(curve["epsilon"][shown], curve["delta"][shown], color=OURS, marker=".", lw=1.4)
    axis.plot([ledger["epsilon"]], [ledger["delta"]], "s", color=MARK, ms=7)
    axis.annotate("budget", (ledger["epsilon"], ledger["delta"]), (8, 6), textcoords="offset points", color=MARK)
    title = "What the run costs" + (" (would cost, had the seed been secret)" if ledger["not_private"] else "")
    axis.set(xlabel="epsilon", ylabel="delta(epsilon)", title=title)
    return Figure(
        "privacy", "The whole trade-off delta(epsilon), accounted from the ledger.", canvas, alt="delta over epsilon"
    )


def _gradient(reader: RunReader) -> Figure:
    plan, vectors, claims = reader.evidence("plan.json"), reader.evidence("releases.npz"), _claims(reader)
    norms = np.linalg.norm(vectors["directions"][:: plan["inner"]], axis=1)
    canvas, axis = _canvas()
    axis.semilogy(np.arange(len(norms)), norms, color=OURS, lw=1.2)
    if "gradient" in claims and claims["gradient"]["value"] > 0:
        value = claims["gradient"]["value"]
        axis.axhline(value, color=MARK, lw=1.4)
        axis.annotate(
            "bound at the answer", (len(norms) - 1, value), (0, 4), textcoords="offset points", color=MARK, ha="right"
        )
    if "running_gradient" in claims:
        value = claims["running_gradient"]["value"]
        axis.axhline(value, color=SOFT, lw=1.2, ls="--")
        axis.annotate(
            "bound from the running estimate", (0, value), (4, 4), textcoords="offset points", color="#6b757d"
        )
    axis.set(xlabel="round", ylabel="norm", title="Released gradient estimates and what they prove")
    return Figure(
        "gradient",
        "Norms of the released estimates (noise included) and the certified bounds of the true norm.",
        canvas,
    )
