"""Pictures of a private run, made from released quantities alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

RELEASED, BOUND, CERTIFIED, FLOOR = "#9aa4ad", "#1f5f8b", "#3f8f5f", "#d1603d"


def _claims(reader: RunReader) -> Mapping[str, Mapping[str, Any]]:
    return {claim["name"]: claim for claim in reader.certificate_tree["claims"]}


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims, ledger = _claims(reader), reader.evidence("ledger.json")
    if claims["privacy"]["outcome"] != "holds":
        return f"Not private: {claims['privacy']['reason']}."
    said = f"Within ({ledger['epsilon']:g}, {ledger['delta']:.2g})-differential privacy"
    if "gradient_bound" not in claims:
        return said + ", no gradient norm was certified: no final query was made, or its value was lost."
    bound = claims["gradient_bound"]
    said += f", the gradient norm at the answer is at most {bound['value']:.3g} with confidence {bound['confidence']['level']:.0%}"
    if "path_bound" in claims:
        said += f" (without the final query the best bound would be {claims['path_bound']['value']:.3g})"
    if bound["outcome"] == "fails":
        said += f"; the target of {bound['bound']:.3g} was missed"
    return said + "."


def figures(reader: RunReader) -> Sequence[Figure]:
    """The gradient norm along the search with what is certified, and delta over epsilon."""
    return [_search(reader), _curve(reader)]


def _search(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    claims = _claims(reader)
    canvas = Canvas(figsize=(7.2, 4.2), layout="constrained")
    axis = canvas.subplots()
    searched = sum(int(e["number"]) for e in reader.evidence("ledger.json")["entries"] if e["name"] != "final query")
    if reader.has("evidence/path.csv"):
        table = reader.evidence("path.csv")
        axis.semilogy(table["k"], table["released_norm"], color=RELEASED, lw=1.0, label="released (noisy) gradient")
        axis.semilogy(table["k"], table["bound"], color=BOUND, lw=1.4, label="bound along the search")
    else:
        k, norm = reader.history["k"], reader.history["released_norm"]
        shown = k <= searched
        axis.semilogy(k[shown], norm[shown], color=RELEASED, lw=1.0, label="released (noisy) gradient")
    end = axis.get_xlim()[1]
    if "gradient_bound" in claims:
        value = float(claims["gradient_bound"]["value"])
        axis.axhline(max(value, 1e-300), color=CERTIFIED, lw=2.0, label=f"certified at the answer: {value:.3g}")
    floor = float(claims["floor"]["value"])
    axis.axhline(floor, color=FLOOR, lw=1.2, ls=":", label="shape of the lower bound, constant unknown")
    axis.set(
        xlabel="release", ylabel="gradient norm", xlim=(0, end), title="The gradient that the budget lets us certify"
    )
    axis.legend(loc="upper right")
    return Figure(
        "search", "The noisy gradient norms that were released, the bound that holds at all steps at once, and the norm that the "
        "final query certifies. The dotted line has the shape of the lower bound for every private method; its constant is not known.",
        canvas, alt="Gradient norms over the releases of the search, with the certified norm as a line",
    )  # fmt: skip


def _curve(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    curve, ledger = reader.evidence("privacy_curve.csv"), reader.evidence("ledger.json")
    epsilon, delta = np.asarray(curve["epsilon"]), np.asarray(curve["delta"])
    shown = delta > 1e-14
    canvas = Canvas(figsize=(6.4, 3.8), layout="constrained")
    axis = canvas.subplots()
    axis.semilogy(epsilon[shown], delta[shown], marker="o", ms=4, color=BOUND)
    axis.plot([ledger["epsilon"]], [ledger["delta"]], "s", color=FLOOR, ms=8, label="the budget")
    axis.set(xlabel="epsilon", ylabel="delta", title="The whole privacy curve of this run")
    axis.legend()
    return Figure(
        "privacy",
        "Every pair (epsilon, delta) that the ledger of this run satisfies.",
        canvas,
        alt="delta over epsilon",
    )
