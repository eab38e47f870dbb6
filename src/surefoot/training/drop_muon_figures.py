"""Pictures of a Drop-Muon run, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import Claim, read_claims
from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

DROP, FULL, IDLE = "#1f6f8b", "#d1603d", "#e6ecef"


def _claims(reader: RunReader) -> dict[str, Claim]:
    return {claim.name: claim for claim in read_claims(reader)}


def _number(claim: Claim) -> float:
    return float(claim.value or 0)  # type: ignore[arg-type]


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims = _claims(reader)
    if "descent" in claims:
        ratio, worst = claims["average"], claims["descent"]
        kept = "is" if worst.outcome == "holds" else "is NOT"
        return f"The promised descent {kept} kept at every step (at most {_number(worst):.0%} of the decrease was promised); in sum {_number(ratio):.3g} of {float(ratio.bound or 0):.3g}."  # type: ignore[arg-type]
    said = f"{_number(claims['draws']):.0%} of the layers updated a step, {_number(claims['operations']):.0%} of full Muon's operations"
    if "beside-full" in claims:
        said += f"; after as many steps full Muon's test accuracy is {100 * _number(claims['beside-full']):+.1f} points"
    return f"{said}; accuracy at least {_number(claims['accuracy']):.1%}."


def figures(reader: RunReader) -> Sequence[Figure]:
    """Loss over work, and which layers were updated."""
    if "path.npz" in {p.name for p in (reader.root / "evidence").iterdir()}:
        return [_descent(reader), _layers(reader, "path.npz")]
    return [_work(reader), _layers(reader, "draws.npz")]


def _work(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    history = reader.history
    canvas = Canvas(figsize=(6.2, 3.4), layout="constrained")
    axis = canvas.subplots()
    axis.plot(history["work"], history["loss"], color=DROP, label="Drop-Muon")
    if "full_loss" in history:
        axis.plot(history["full_work"], history["full_loss"], color=FULL, label="every layer")
    axis.set(xlabel="work (operations of so many full steps)", ylabel="training loss of the batch", yscale="log")
    axis.legend(frameon=False)
    caption = "Training loss over the operations spent: forward passes, truncated backward passes, orthogonalisation. Both see the same batches."
    return Figure("loss-over-work", caption, canvas, alt="Two falling curves of the loss over work")


def _layers(reader: RunReader, name: str) -> Figure:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure as Canvas

    masks = np.asarray(reader.evidence(name)["masks"])
    shown = masks[: min(len(masks), 120)]
    canvas = Canvas(figsize=(6.2, 0.9 + 0.25 * min(masks.shape[1], 12)), layout="constrained")
    axis: Any = canvas.subplots()
    axis.imshow(shown.T, aspect="auto", interpolation="nearest", cmap=ListedColormap([IDLE, DROP]), vmin=0, vmax=1)
    axis.set(xlabel="step", ylabel="layer")
    axis.set_yticks(range(masks.shape[1]), [f"{i}  {share:.0%}" for i, share in enumerate(masks.mean(0))])
    caption = f"Which layers the first {len(shown)} steps updated (dark), the input's at the top; the share of all {len(masks)} steps beside each."
    return Figure("layers", caption, canvas, alt="A map of steps by layers, filled where a layer was updated")


def _descent(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.2, 3.2), layout="constrained")
    axis = canvas.subplots()
    axis.semilogy(reader.history["k"], np.maximum(reader.history["value"], 1e-300), color=DROP)
    axis.set(xlabel="step", ylabel="f")
    return Figure(
        "descent",
        "The objective over the steps; every step keeps what the smoothness constants promise.",
        canvas,
        alt="A falling curve",
    )
