"""Pictures of a scan, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import Claim, read_claims
from surefoot.core.system import Figure
from surefoot.numerics.bounds import clopper_pearson_upper
from surefoot.records.files import read_npz

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[Any]]
OTHER, SUSPECT, LINE = "#9db4c0", "#d1603d", "#5a6b75"


def _claims(reader: RunReader) -> dict[str, Claim]:
    return {claim.name: claim for claim in read_claims(reader)}


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims, table = _claims(reader), reader.evidence("scan.csv")
    place = int(np.argmin(table["rank"]))
    target, k, n = (int(table[name][place]) for name in ("target", "successes", "trials"))
    works = f"the recovered trigger turns {k} of {n} held-out images into class {target}"
    works += f" (at least {float(table['lower'][place]):.1%})" if claims["success"].kind == "statistical" else ""
    verdict = claims.get("backdoor")
    if verdict is None:
        return f"Class {target} inverted alone: {works}."
    if verdict.outcome == "holds":
        planted = claims.get("planted-class")
        right = (
            "" if planted is None else ", the planted one" if planted.outcome == "holds" else ", not the planted one"
        )
        return f"Class {target} stands out (score {float(verdict.value or 0):.1f}){right}: {works}."
    return f"No class stands out; the best, class {target}, reaches {k} of {n} held-out images. No proof of absence."


def figures(reader: RunReader) -> Sequence[Figure]:
    """The trigger beside the planted one, and the classes beside each other."""
    return [_triggers(reader), _bars(reader)]


def _triggers(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    table, start = reader.evidence("scan.csv"), reader.evidence("image.npz")["start"]
    place = int(np.argmin(table["rank"]))
    delta = read_npz(reader.answer_dir / "perturbations.npz")["perturbations"][place]
    panels = [
        ("clean image", start, False),
        (f"recovered, class {int(table['target'][place])}", delta, True),
        ("image with it", start + delta, False),
    ]
    if reader.has("evidence/planted.npz"):
        change = reader.evidence("planted.npz")["change"]
        panels.insert(2, ("planted (mean change)", change, True))
    canvas = Canvas(figsize=(2.1 * len(panels), 2.5), layout="constrained")
    for axis, (title, picture, signed) in zip(np.atleast_1d(canvas.subplots(1, len(panels))), panels, strict=True):
        _show(axis, picture, signed)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    caption = (
        f"The perturbation of norm {float(table['norm'][place]):.2f} recovered from this one image with noise {float(table['noise_std'][place]):g}. "
        "Red adds, blue removes, each panel on its own scale."
    )
    return Figure(
        "trigger",
        caption,
        canvas,
        alt="A clean image, the recovered trigger, the planted one, the image with the trigger",
    )


def _show(axis: Any, picture: Array, signed: bool) -> None:
    if signed:
        flat = picture.mean(0)
        largest = float(np.abs(flat).max()) or 1.0
        axis.imshow(flat, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    elif len(picture) >= 3:
        axis.imshow(np.clip(np.moveaxis(picture[:3], 0, -1), 0, 1), interpolation="nearest")
    else:
        axis.imshow(picture[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _bars(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    table, terms = reader.evidence("scan.csv"), reader.evidence("terms.json")
    n = np.maximum(table["trials"], 1)
    rate = table["successes"] / n
    looks = len(n) * terms["radii"]
    upper = clopper_pearson_upper(table["successes"], n, terms["failure_probability"] / looks)
    place = int(np.argmin(table["rank"]))
    canvas = Canvas(figsize=(6.2, 3.2), layout="constrained")
    axis = canvas.subplots()
    positions = np.arange(len(n))
    axis.bar(positions, rate, color=[SUSPECT if i == place else OTHER for i in positions], width=0.7)
    spans = np.clip(np.stack([rate - table["lower"], upper - rate]), 0, None)
    axis.errorbar(positions, rate, yerr=spans, fmt="none", ecolor=LINE, capsize=3, lw=1)
    axis.axhline(0.5, color=LINE, lw=0.8, ls=":")
    axis.set_xticks(positions, [str(int(t)) for t in table["target"]])
    axis.set(xlabel="target class", ylabel="success on held-out images", ylim=(0, 1.1), yticks=np.linspace(0, 1, 6))
    if np.isfinite(table["score"]).all():
        for x, score, top in zip(positions, table["score"], upper, strict=True):
            axis.text(float(x), top + 0.015, f"{score:.1f}", ha="center", va="bottom", fontsize=7, color=LINE)
    caption = (
        f"Success of every class's own perturbation with Clopper-Pearson bounds that hold together (failure probability "
        f"{terms['failure_probability']:g}); above the bars the robust scores. A class is flagged above 3.5 with its lower bound above one half."
    )
    return Figure("classes", caption, canvas, alt="Bars of success for each target class, one standing out")
