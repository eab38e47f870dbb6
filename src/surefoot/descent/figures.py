"""Pictures and headline of the acceleration card, from the run directory only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from surefoot.core.certificate import read_claims
from surefoot.core.system import Figure
from surefoot.descent.momentum import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from surefoot.core.rundir import RunReader

Array = npt.NDArray[np.float64]

__all__ = ["all_figures", "headline_of"]

COLOURS = {
    "gd": "#5f6b76",
    "nag": "#1f5f8b",
    "nag-quadratic": "#2b8f8f",
    "tmm": "#3f8f5f",
    "rmm": "#8a5fa8",
    "hb": "#d1603d",
}


def all_figures(reader: RunReader, answer: Mapping[str, Any]) -> list[Figure]:
    """The card's picture first."""
    figures = [_rates(reader, answer["rates"])]
    if any(key.startswith("gap_") for key in reader.history):
        figures.append(_runs(reader))
    return figures


def headline_of(reader: RunReader, answer: Mapping[str, Any]) -> str:
    """Certified rates at the run's own constants, and the cycle where one was found."""
    claims = {claim.name: claim for claim in read_claims(reader)}
    parts: list[str] = []
    for name, record in reader.evidence("proofs.json").items():
        if record["outcome"] == "certified":
            rate = float(_fraction(record["proof"]["rho"]))
            parts.append(f"{_label(name)} contracts by {rate:.5f} a step, proved")
        elif record["outcome"] == "disproved":
            parts.append(f"{_label(name)} has a cycle of {len(record['cycle']['values'])} points and no rate")
        else:
            parts.append(f"{_label(name)} is undecided")
    gaps = [claim.value for name, claim in claims.items() if name.startswith("gap-")]
    tail = f" The best run is within {min(float(gap or 0) for gap in gaps):.1e} of the minimum." if gaps else ""
    return "; ".join(parts) + "." + tail


def _fraction(text: str) -> float:
    from surefoot.numerics.rationals import fraction_from

    return float(fraction_from(text))


def _label(name: str) -> str:
    return METHODS.get(name, name)


def _colour(name: str, place: int) -> str:
    return COLOURS.get(name, ["#1f5f8b", "#b8860b", "#c2447a"][place % 3])


def _methods(rates: Mapping[str, Array]) -> list[str]:
    return [key for key in rates if key != "kappa" and not key.endswith("_floor")]


def _rates(reader: RunReader, rates: Mapping[str, Array]) -> Figure:
    """Steps a decimal digit over the condition number, and the cycle beside it."""
    from matplotlib.figure import Figure as Canvas

    cycle = _first_cycle(reader)
    canvas = Canvas(figsize=(9.6, 4.2) if cycle else (7.0, 4.2))
    axes = canvas.subplots(1, 2, width_ratios=(1.45, 1.0)) if cycle else [canvas.subplots()]
    left = axes[0]
    kappa = rates["kappa"]
    order = np.argsort(kappa)
    for place, name in enumerate(_methods(rates)):
        rate = rates[name][order]
        known = ~np.isnan(rate)
        steps = -math.log(10) / np.log(rate[known])
        colour = _colour(name, place)
        left.loglog(kappa[order][known], steps, "o-", color=colour, label=_label(name), markersize=4)
        if known.any() and not known.all():
            last = kappa[order][known].max()
            left.axvline(last, color=colour, linewidth=1, linestyle=":")
            text = f" {_label(name)}:\n no rate beyond" if cycle else f" {_label(name)}:\n none certified"
            left.text(last, left.get_ylim()[1] * 0.45, text, color=colour, fontsize=8, va="top")
    left.set(
        xlabel="condition number L / m", ylabel="steps a decimal digit", title="Certified rates, each proved exactly"
    )
    left.legend(loc="lower right")
    if cycle:
        _draw_cycle(axes[1], *cycle)
    caption = (
        "Steps that a method needs for one more correct digit on any m-strongly convex, L-smooth function, from rates "
        "that were proved in exact rational arithmetic."
    )
    if cycle:
        caption += (
            f" Right: {_label(cycle[0])} at condition number {cycle[1]:g} runs in this cycle for ever, on an explicit "
            "function with its minimum at the cross."
        )
    return Figure("rates", caption, canvas, alt="Steps a digit over condition number; the cycle of heavy ball")


def _first_cycle(reader: RunReader) -> tuple[str, float, Array] | None:
    """Method, condition number and points (K, 2) of the disproved row of smallest condition number."""
    records: dict[tuple[str, float], Any] = {}
    if reader.has("evidence/table.json"):
        for key, record in reader.evidence("table.json").items():
            name, _, kappa = key.rpartition("@")
            records[name, float(kappa)] = record
    found = sorted((kappa, name) for (name, kappa), record in records.items() if record["cycle"])
    # The first cycle past the threshold is hard to see; one well inside is drawn.
    found = [row for row in found if row[0] >= 25.0] or found
    if not found:
        return None
    kappa, name = found[0]
    content = records[name, kappa]["cycle"]
    output = [_fraction(text) for text in content["method"]["C"]]
    points = np.array(
        [
            sum(c * np.array([_fraction(x) for x in vector]) for c, vector in zip(output, state, strict=True))
            for state in content["states"]
        ]
    )
    flat = points[:, :2] if points.shape[1] > 1 else np.column_stack([points[:, 0], np.zeros(len(points))])
    return name, kappa, flat


def _draw_cycle(axes: Axes, name: str, kappa: float, points: Array) -> None:
    colour = _colour(name, 0)
    closed = np.vstack([points, points[:1]])
    for start, end in pairwise(closed):
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8})
    axes.plot(points[:, 0], points[:, 1], "o", color=colour, markersize=7)
    axes.plot(0, 0, "+", color="#222222", markersize=12, markeredgewidth=2)
    axes.annotate("minimum", (0, 0), textcoords="offset points", xytext=(8, -12), fontsize=9)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.2)
    axes.spines[:].set_visible(False)
    label = _label(name)
    axes.set(title=f"{label[0].upper()}{label[1:]} never gets there (L/m = {kappa:g})", xticks=[], yticks=[])


def _runs(reader: RunReader) -> Figure:
    """Gap bounds along the runs, and the slopes of the certified rates."""
    from matplotlib.figure import Figure as Canvas

    history, proofs = reader.history, reader.evidence("proofs.json")
    canvas = Canvas(figsize=(7.0, 4.2))
    axes = canvas.subplots()
    k = np.asarray(history["k"], dtype=np.float64)
    lowest, highest = math.inf, 0.0
    for place, key in enumerate(key for key in history if key.startswith("gap_")):
        name = key.removeprefix("gap_")
        gap = np.asarray(history[key], dtype=np.float64)
        moving = np.append(True, np.diff(gap) != 0)
        axes.semilogy(k[moving], gap[moving], color=_colour(name, place), label=_label(name))
        lowest, highest = min(lowest, float(gap[gap > 0].min())), max(highest, float(gap.max()))
        record = proofs.get(name)
        if record and record["proof"]:
            rate = _fraction(record["proof"]["rho"])
            bound = gap[0] * rate ** (2 * (k - k[0]))
            axes.semilogy(k, bound, color=_colour(name, place), linestyle="--", linewidth=1)
    if any(record["proof"] for record in proofs.values()):
        axes.plot([], [], color="0.4", linestyle="--", linewidth=1, label="slope of the certified rate")
    axes.set_ylim(lowest * 0.3, highest * 3)
    axes.set(
        xlabel="gradients", ylabel=r"bound on $f - f^*$", title="On the real loss: faster than the worst case allows"
    )
    axes.legend(loc="upper right")
    caption = (
        "The a-posteriori bound |gradient|² / (2 m) on the distance to the minimum along each run. Dashed: the slope of "
        "the certified rate, which holds for every function of the class; no run may be slower in the long run."
    )
    return Figure("runs", caption, canvas, alt="Gap bounds of the methods over gradients on the table's loss")
