"""Pictures of a certification, from its run directory only: the accuracy curve, and the images' radii."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from surefoot.core.certificate import read_claims
from surefoot.core.system import Figure
from surefoot.robustness.logs import read_log
from surefoot.robustness.problem import Radii

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

BLUE, ORANGE, GREY = "#2a6f97", "#d1683c", "#8a8f98"


def figures(reader: RunReader) -> Sequence[Figure]:
    """Certified accuracy over the radius; the radius of every image by class."""
    radii = read_log(reader.answer_dir / "radii.tsv")
    table = reader.evidence("radii.csv")
    labelled = bool((radii.label >= 0).all())
    drawn = [_curve(radii, table, labelled)]
    if (reader.root / "evidence" / "pictures.npz").is_file():
        drawn.append(_strip(radii, reader.evidence("pictures.npz"), labelled))
    if len(radii.index) > 1:
        drawn.append(_scatter(radii, table, labelled))
    return drawn


def headline(reader: RunReader) -> str:
    """Mean radius, share, and the confidence."""
    radii = read_log(reader.answer_dir / "radii.tsv")
    claims = {c.name: c for c in read_claims(reader)}
    said = claims["radii"].confidence
    certified = int((radii.radius > 0).sum())
    level = f"{100 * said.level:g} %" if said else "the stated"
    text = f"{certified} of {len(radii.index)} images certified at {level} confidence each, median radius {np.median(radii.radius):.3f}"
    if "average-radius" in claims:
        text += f"; average certified radius {radii.average:.3f}, accuracy {float(radii.correct.mean()):.3f}"
    return text + "."


def _curve(radii: Radii, table: Any, labelled: bool) -> Figure:
    canvas = Canvas(figsize=(6.4, 4.0), layout="constrained")
    axis = canvas.subplots()
    reach = np.linspace(0, max(float(radii.radius.max()) * 1.05, 1e-3), 400)
    values = radii.accuracy(reach) if labelled else (radii.radius[:, None] >= reach).mean(axis=0)
    axis.step(reach, values, where="post", color=BLUE, linewidth=1.8)
    axis.fill_between(reach, 0, values, step="post", color=BLUE, alpha=0.12)
    axis.set(
        xlabel="L2 radius (unit of the pixels)", ylim=(0, 1.02), xlim=(0, float(reach[-1])),
        ylabel="certified accuracy" if labelled else "share certified",
    )  # fmt: skip
    if labelled:
        area = radii.average
        axis.set_title(f"Average certified radius {area:.3f}: the area under the curve", fontsize=10)
    wrong = int(((radii.predicted >= 0) & ~radii.correct).sum()) if labelled else 0
    abstained = int((radii.predicted < 0).sum())
    caption = f"Share of the images whose class is {'right and ' if labelled else ''}certified at each radius; abstentions ({abstained}) count as wrong"
    caption += (
        f", {wrong} {'image is' if wrong == 1 else 'images are'} certified in a wrong class." if labelled else "."
    )
    return Figure("curve", caption, canvas, "A falling step curve of certified accuracy over the radius")


def _strip(radii: Radii, pictures: Any, labelled: bool) -> Figure:
    """Images from the largest radius to the smallest."""
    rows, pixels = pictures["row"], pictures["pixels"]
    wide = min(len(rows), 5)
    deep = -(-len(rows) // wide)
    canvas = Canvas(figsize=(max(1.25 * wide, 2.4), 1.75 * deep), layout="constrained")
    axes = np.atleast_1d(canvas.subplots(deep, wide)).ravel()
    for axis in axes[len(rows) :]:
        axis.set_axis_off()
    low, high = min(float(pixels.min()), 0.0), max(float(pixels.max()), 1.0)
    for axis, row, image in zip(axes[: len(rows)], rows, pixels, strict=True):
        shown = np.moveaxis((image - low) / (high - low), 0, -1)
        axis.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray_r", vmin=0, vmax=1)
        abstains = radii.predicted[row] < 0
        wrong = labelled and not radii.correct[row]
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.set_title(
            "abstains" if abstains else f"class {radii.predicted[row]}", fontsize=8, color=ORANGE if wrong else BLUE
        )
        axis.set_xlabel("" if abstains else f"r = {radii.radius[row]:.2f}", fontsize=8)
    return Figure(
        "strip", "Images from the largest certified radius to the smallest.", canvas, "A row of images with their radii"
    )


def _scatter(radii: Radii, table: Any, labelled: bool) -> Figure:
    canvas = Canvas(figsize=(6.4, 3.6), layout="constrained")
    axis = canvas.subplots()
    order = np.argsort(-radii.radius, kind="stable")
    good = radii.correct if labelled else radii.predicted >= 0
    colours = np.where(radii.predicted < 0, GREY, np.where(good, BLUE, ORANGE))
    meant = ((BLUE, "right class" if labelled else "certified"), (ORANGE, "wrong class"), (GREY, "abstained"))
    keys = [
        axis.scatter([], [], c=c, marker="s", s=30, label=f"{said}: {(colours == c).sum()}")
        for c, said in meant
        if (colours == c).any()
    ]
    forms = np.asarray(table["form"])
    for form, marker in (("one-class", "o"), ("two-class", "^"), ("margin", "s")):
        rows = np.flatnonzero(forms[order] == form)
        if len(rows):
            axis.scatter(rows, radii.radius[order][rows], c=colours[order][rows], marker=marker, s=22, linewidths=0)
            keys.append(axis.scatter([], [], facecolors="none", edgecolors="#33373d", marker=marker, s=22, label=form))
    axis.set(xlabel="image, by radius", ylabel="certified L2 radius")
    axis.legend(handles=keys, frameon=False, fontsize=9)
    maps = sorted(
        {f"{m}" if m == "hardmax" else f"{m}({b:.3g})" for m, b in zip(table["map"], table["sharpness"], strict=True)}
    )
    shown = ", ".join(maps) if len(maps) <= 4 else f"{len(maps)} maps"
    return Figure(
        "radii",
        f"Radius of every image, coloured by its class, marked by the form of its certificate; maps: {shown}.",
        canvas,
        "Sorted radii of all images",
    )
