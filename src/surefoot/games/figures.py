"""Pictures of a game, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.system import Figure
from surefoot.records.files import read_csv

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[Any]]
FIELD, CELL, BALL, PATH, POINT = "#9aa4ad", "#cfd8df", "#3f8f5f", "#1f5f8b", "#d1603d"


def _claims(reader: RunReader) -> Mapping[str, Mapping[str, Any]]:
    return {claim["name"]: claim for claim in reader.certificate_tree["claims"]}


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims = _claims(reader)
    if "unique-logit" in claims:
        unique = claims["unique-logit"]["outcome"] == "holds"
        said = "The logit equilibrium is unique" if unique else "Logit equilibrium found, not proved to be the only one"
        error = claims["logit-error"]["value"]
        said += f"; every player is within {error:.1e} of it" if unique and error is not None else ""
        nash = claims.get("unique-nash")
        if nash:
            words = {
                "holds": "exactly one Nash equilibrium",
                "fails": "several Nash equilibria",
                "undecided": "Nash uniqueness undecided",
            }
            said += f"; {words[nash['outcome']]}"
        return said + "."
    if "local-margin" in claims:
        return f"Policies with gradient norm {claims['stationarity']['value']:.1e} and local margin {claims['local-margin']['value']:.4g}."
    gain = claims["small-gain"]
    if gain["outcome"] != "holds" and "paired-step" in claims and claims["error"]["outcome"] == "holds":
        return (
            f"Certified by couplings taken in pairs: contraction at rate {claims['paired-margin']['value']:.4g}; the only equilibrium is "
            f"within {claims['error']['value']:.1e} of the answer."
        )
    if gain["outcome"] != "holds":
        return f"Not certified: {gain['reason']}."
    text = f"Certified: contraction at rate {gain['value']:.4g}"
    if "classical-step" in claims and "step-limit" in claims:
        text += f", steps up to {claims['step-limit']['value']:.4g} ({claims['step-limit']['value'] / claims['classical-step']['value']:.1f} times the classical bound)"
    error = claims["error"]
    if error["outcome"] == "holds":
        text += f"; the only equilibrium in the region is within {error['value']:.1e} of the answer"
    return text + "."


def figures(reader: RunReader) -> Sequence[Figure]:
    """The field with cells, path and ball, and the error over the rounds; or the players' probabilities."""
    claims = _claims(reader)
    if "small-gain" not in claims:
        return [_bars(reader), _residuals(reader)]
    drawn = [_slice(reader)] if reader.has("evidence/field.npz") else []
    return [*drawn, _errors(reader, claims)]


def _slice(reader: RunReader) -> Figure:
    """Field, cells, ball and path in the plane of two strategies, the others as in the answer."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Ellipse, Rectangle

    stored, cells = reader.evidence("field.npz"), reader.evidence("cells.npz")
    by_pairs = reader.has("evidence/paired.npz") and _claims(reader)["small-gain"]["outcome"] != "holds"
    witness = reader.evidence("paired.npz" if by_pairs else "witness.npz")
    table = read_csv(reader.answer_dir / "equilibrium.csv")
    x = np.asarray(table["value"])
    a, b = (int(k) for k in stored["axes"])
    points, F = stored["points"], stored["values"]
    canvas = Canvas(figsize=(6.4, 5.2), layout="constrained")
    axis = canvas.subplots()
    others = [k for k in range(len(x)) if k not in (a, b)]
    for low, high in zip(cells["low"], cells["high"], strict=True):
        if all(low[k] <= x[k] <= high[k] for k in others):
            axis.add_patch(Rectangle((low[a], low[b]), high[a] - low[a], high[b] - low[b], fill=False, ec=CELL, lw=1.2))
    size = np.hypot(F[:, a], F[:, b])
    shown = size > 0
    axis.quiver(
        points[shown, a], points[shown, b], -F[shown, a] / size[shown], -F[shown, b] / size[shown], size[shown], cmap="Greys", alpha=0.75,
        width=0.0035, clim=(-0.3 * size.max(), size.max()),
    )  # fmt: skip
    low, high = points.min(axis=0), points.max(axis=0)
    if "weights" in witness:
        owners = np.searchsorted(np.cumsum(stored["blocks"]), [a, b], side="right")
        roots = 1 / np.sqrt(witness["weights"][owners])
        reach = min(min(high[k] - x[k], x[k] - low[k]) / r for k, r in zip((a, b), roots, strict=True))
        if reach > 0:
            axis.add_patch(Ellipse((x[a], x[b]), 2 * reach * roots[0], 2 * reach * roots[1], fc=BALL, alpha=0.12))
            axis.add_patch(
                Ellipse(
                    (x[a], x[b]),
                    2 * reach * roots[0],
                    2 * reach * roots[1],
                    fill=False,
                    ec=BALL,
                    lw=1.8,
                    label="invariant ball",
                )
            )
    if reader.has("evidence/path.npz"):
        path = reader.evidence("path.npz")["points"]
        axis.plot(path[:, a], path[:, b], "-o", color=PATH, ms=3.5, lw=1.4, label="play with the certified step")
    axis.plot(x[a], x[b], "*", color=POINT, ms=14, mec="white", label="equilibrium")
    margin = 0.03 * (high - low)
    axis.set(
        xlim=(low[a] - margin[a], high[a] + margin[a]), ylim=(low[b] - margin[b], high[b] + margin[b]),
        xlabel=f"{table['player'][a]}", ylabel=f"{table['player'][b]}", title="Where the players go",
    )  # fmt: skip
    axis.legend(loc="upper right", frameon=True, framealpha=0.92, edgecolor="none", fontsize=9)
    count = len(cells["low"])
    drawn = f" {count} certified cell{'s' * (count != 1)} as far as this plane cuts them," if count else ""
    return Figure(
        "field",
        f"Directions of play (arrows, darker is faster),{drawn} the ball of the certified metric that play cannot leave, and the first rounds.",
        canvas,
        alt="A field of arrows that leads into an equilibrium inside an ellipse",
    )


def _errors(reader: RunReader, claims: Mapping[str, Mapping[str, Any]]) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 4.2), layout="constrained")
    axis = canvas.subplots()
    moves = None
    if reader.has("evidence/path.npz"):
        points = reader.evidence("path.npz")["points"]
        moves = np.abs(np.diff(points, axis=0)).max(axis=1)
        axis.semilogy(
            np.arange(1, len(moves) + 1),
            np.maximum(moves, 1e-17),
            "-",
            color=PATH,
            lw=2,
            label="largest move of a round",
        )
    else:
        k, residual = np.asarray(reader.history["k"]), np.asarray(reader.history["residual"])
        axis.semilogy(k, np.maximum(residual, 1e-17), "o-", color=PATH, lw=2, label="largest move of a round")
    if "step" in claims and moves is not None:
        k = np.arange(1, len(moves) + 1)
        axis.semilogy(
            k, moves[0] * claims["step"]["value"] ** (k - 1), "--", color=BALL, label="certified factor, certified step"
        )
        if "metric-margin" in claims and "classical-step" in claims:
            best = 0.5 * claims["classical-step"]["value"]
            slow = np.sqrt(max(0.0, 1 - claims["metric-margin"]["value"] * best))
            axis.semilogy(k, moves[0] * slow ** (k - 1), ":", color=POINT, label="classical factor, classical step")
    axis.set(xlabel="round", ylabel="distance", title="How fast play settles")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    return Figure(
        "rounds",
        "The moves of each round, and what the certified and the classical step promise.",
        canvas,
        alt="Falling curves over the rounds",
    )


def _bars(reader: RunReader) -> Figure:
    """Probabilities of every action; beside them the Nash equilibria of the evidence."""
    from matplotlib.figure import Figure as Canvas

    table = read_csv(reader.answer_dir / "equilibrium.csv")
    players = list(dict.fromkeys(map(str, table["player"])))
    nash = _nash_profiles(reader)
    canvas = Canvas(figsize=(6.4, 0.9 + 1.25 * len(players)), layout="constrained")
    axes = np.atleast_1d(canvas.subplots(len(players), 1, sharex=False))
    for place, (axis, player) in enumerate(zip(axes, players, strict=True)):
        own = np.array([str(p) == player for p in table["player"]])
        names = [_label(s) for s in np.asarray(table["strategy"])[own]]
        values = np.asarray(table["value"])[own]
        axis.bar(range(len(values)), values, color=PATH, width=0.7, label="logit" if nash else None)
        for number, (profile, marker) in enumerate(zip(nash, "D^", strict=False)):
            label = "Nash" if len(nash) == 1 else f"Nash {number + 1}"
            axis.plot(
                range(len(values)),
                profile[place],
                marker,
                color=(POINT, BALL)[number],
                ms=7,
                mec="white",
                label=label,
                clip_on=False,
                zorder=3,
            )
        shown = names if max(map(len, names)) < 18 else [str(k + 1) for k in range(len(names))]
        axis.set(xticks=range(len(values)), xticklabels=shown, ylim=(0, 1.02), ylabel=player[:18])
        axis.tick_params(labelsize=8)
    axes[0].set_title("How the players mix their actions")
    if nash:
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    marks = " Marks: Nash equilibria that the certificate proves." if nash else ""
    return Figure(
        "strategies",
        f"Probabilities of every player's actions at the equilibrium found.{marks}",
        canvas,
        alt="Bars of action probabilities",
    )


def _label(strategy: Any) -> str:
    """Names of actions as text; numbers without the point that a table's column gave them."""
    text = str(strategy)
    return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text


def _nash_profiles(reader: RunReader) -> list[list[list[float]]]:
    if not reader.has("evidence/nash.json"):
        return []
    content = reader.evidence("nash.json")
    profiles = [*content["equilibria"], *content["enclosed"]]
    return [[[float(Fraction(p)) for p in player] for player in profile] for profile in profiles]


def _residuals(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
    axis = canvas.subplots()
    name = "residual" if "residual" in reader.history else "gradient_norm"
    axis.semilogy(
        reader.history["k"], np.maximum(np.asarray(reader.history[name], dtype=float), 1e-17), "o-", color=PATH, ms=4
    )
    axis.set(xlabel="round", ylabel=name.replace("_", " "), title="Convergence")
    axis.grid(alpha=0.25)
    return Figure("convergence", "The residual over the rounds.", canvas, alt="A falling curve")
