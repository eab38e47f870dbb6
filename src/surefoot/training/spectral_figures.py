"""Pictures of a measurement, from its run directory only: rates over batch size, top eigenvalue over batch size, spectral density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure as Canvas

from surefoot.core.system import Figure
from surefoot.training.spectral_problem import Rates
from surefoot.training.spectral_recipes import read_rates

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

BLUE, ORANGE, GREY, GREEN = "#2a6f97", "#d1683c", "#8a8f98", "#4f8a4c"


def figures(reader: RunReader) -> Sequence[Figure]:
    """The rates, the eigenvalues, and the density where it was asked for."""
    rates = read_rates(reader.answer_dir)
    measured = np.asarray(reader.evidence("batches.npz")["measured"])
    drawn = [_rates(rates), _eigenvalues(rates, measured)]
    if (reader.root / "evidence" / "density.npz").is_file():
        drawn.append(_density(reader))
    return drawn


def headline(reader: RunReader) -> str:
    """The range of stable rates, and how near the prediction is."""
    rates = read_rates(reader.answer_dir)
    error = np.abs(rates.predicted / rates.measured - 1).max()
    text = (
        f"Largest stable rate of plain descent {rates.rate[0]:.3g} at batch {rates.batch[0]} to {rates.rate[-1]:.3g} at {rates.batch[-1]}; "
        f"predicted and measured top eigenvalues differ by at most {100 * error:.0f} %"
    )
    if np.isfinite(rates.trains).any():
        text += f"; descent still trains at {np.nanmin(rates.trains / rates.rate):.1f} to {np.nanmax(rates.trains / rates.rate):.1f} times the local bound"
    return text + "."


def _rates(rates: Rates) -> Figure:
    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axis = canvas.subplots()
    axis.plot(rates.batch, rates.rate, color=BLUE, linewidth=1.8, label="predicted, local bound")
    linear = rates.rate[0] * rates.batch / rates.batch[0]
    shown = np.concatenate([rates.rate, rates.threshold, rates.trains])
    low, high = np.nanmin(shown), np.nanmax(shown)
    seen = linear <= 1.5 * high
    axis.plot(
        rates.batch[seen], linear[seen], color=GREY, linestyle=":", linewidth=1.2, label="linear in the batch size"
    )
    axis.plot(
        rates.batch,
        rates.threshold,
        "o",
        color=BLUE,
        markersize=6,
        markerfacecolor="white",
        label="measured: a step's perturbation grows",
    )
    if np.isfinite(rates.trains).any():
        axis.plot(
            rates.batch, rates.trains, "^", color=ORANGE, markersize=6, label="largest tried rate that still trains"
        )
    axis.set(xscale="log", yscale="log", xlabel="rows a batch", ylabel="learning rate", ylim=(low / 1.5, high * 1.6))
    _sizes(axis, rates)
    axis.legend(frameon=False, fontsize=8)
    return Figure(
        "rates",
        "Largest stable rate of plain descent by batch size, from the predicted curvature (line) and measured on the linearised step (circles); triangles: the rate "
        "that still trains, which is not predicted.",
        canvas, "Learning rates rising with the batch size and saturating",
    )  # fmt: skip


def _eigenvalues(rates: Rates, measured: np.ndarray) -> Figure:
    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axis = canvas.subplots()
    for size, row in zip(rates.batch, measured, strict=True):
        shown = row[np.isfinite(row)]
        axis.plot(np.full(len(shown), size), shown, ".", color=GREY, markersize=4, alpha=0.5)
    axis.errorbar(
        rates.batch,
        rates.measured,
        2 * rates.spread,
        fmt="o",
        color=ORANGE,
        markersize=5,
        capsize=3,
        label="measured, mean with two standard errors",
    )
    axis.plot(rates.batch, rates.predicted, color=BLUE, linewidth=1.8, label="predicted from the rows' curvature")
    axis.plot(
        rates.batch,
        rates.theorem,
        color=GREEN,
        linestyle="--",
        linewidth=1.3,
        label="theorem, variance along the eigenvector",
    )
    axis.plot(
        rates.batch,
        rates.isotropic,
        color=GREY,
        linestyle=":",
        linewidth=1.3,
        label="theorem, variance of a random direction",
    )
    axis.set(xscale="log", yscale="log", xlabel="rows a batch", ylabel="top eigenvalue")
    _sizes(axis, rates)
    axis.legend(frameon=False, fontsize=8)
    return Figure(
        "eigenvalues",
        "Top eigenvalue of a batch's curvature matrix; grey dots: single batches.",
        canvas,
        "Top eigenvalue falling with the batch size",
    )


def _sizes(axis: object, rates: Rates) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_xticks(rates.batch, [str(b) for b in rates.batch])  # type: ignore[attr-defined]
    axis.xaxis.set_minor_locator(NullLocator())  # type: ignore[attr-defined]
    plain = FuncFormatter(lambda v, _: f"{v:g}")
    axis.yaxis.set_major_formatter(plain)  # type: ignore[attr-defined]
    axis.yaxis.set_minor_formatter(plain)  # type: ignore[attr-defined]


def _density(reader: RunReader) -> Figure:
    kept = reader.evidence("density.npz")
    nodes, weights = (np.asarray(kept[k], dtype=np.float64) for k in ("nodes", "weights"))
    values = np.asarray(reader.evidence("ritz.npz")["values"])
    low, high = min(nodes.min(), 0.0), max(nodes.max(), values.max())
    width = 0.012 * (high - low)
    t = np.linspace(low - 4 * width, high + 4 * width, 1500)
    kernel = np.exp(-0.5 * ((t[:, None] - nodes.ravel()) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    canvas = Canvas(figsize=(6.4, 3.4), layout="constrained")
    axis = canvas.subplots()
    density = kernel @ weights.ravel() / len(nodes)
    axis.fill_between(t, 1e-7, np.maximum(density, 1e-7), color=BLUE, alpha=0.25, linewidth=0)
    axis.plot(t, np.maximum(density, 1e-7), color=BLUE, linewidth=1.2)
    for place, value in enumerate(values):
        axis.axvline(
            value, color=ORANGE, linewidth=1, linestyle="--", label="leading eigenvalues" if place == 0 else None
        )
    axis.set(yscale="log", xlabel="eigenvalue", ylabel="spectral density", ylim=(1e-6, None))
    axis.legend(frameon=False, fontsize=8)
    return Figure(
        "density",
        f"Spectral density from {len(nodes)} random probes, each node widened by {width:.2g}.",
        canvas,
        "Spectral density with a spike at zero",
    )
