"""Pictures of a training, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.convex_networks.export import folded, read_network
from surefoot.core.certificate import Claim, read_claims
from surefoot.core.system import Figure
from surefoot.records.files import read_json
from surefoot.records.numbers import as_number, to_float

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

UPPER, LOWER, LOCAL, GLOBAL = "#1f5f8b", "#3f8f5f", "#d1603d", "#8a5fa8"


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    network = read_network(reader.answer_dir)
    claims = {claim.name: claim for claim in read_claims(reader)}
    robust = "attack" in claims
    said = [f"A network of {network.width} neurons, regularised loss {_number(claims['network'].value)}"]
    if robust:
        said[0] += f" under every perturbation (attacks reach {_number(claims['attack'].value)})"
    gap = claims["program_gap"]
    program = "sampled" if gap.check == "sampled_gap" else "convex"
    word = "within" if gap.outcome == "holds" else "not closer than"
    if "rival" in claims:
        worse = _above(claims["rival"], claims["network"].value)
        said[0] = (
            f"The answer is the best network trained locally (the convex program's own ends {worse:.1%} above it): "
            + said[0].replace("A network", "a network", 1)
        )
        said.append(f"the program was solved to {word} {_percent(gap.value)} of its optimum")
    else:
        said.append(f"{word} {_percent(gap.value)} of its {program} program's optimum")
    if "global_gap" in claims:
        kind = "proved" if claims["global_gap"].kind == "proved" else "by search"
        said.append(f"{_percent(claims['global_gap'].value)} from the bound over all networks ({kind})")
    if "local_runs" in claims and "rival" not in claims:
        above = _above(claims["local_runs"], claims["network"].value)
        said.append(f"the best local run ends {abs(above):.1%} {'above' if above >= 0 else 'below'} it")
    if "held_out" in claims:
        value = claims["held_out"].value
        said.append(
            f"{to_float(as_number(value)):.1%} right on rows kept apart"
            if network.classes
            else f"squared error {_number(value)} apart"
        )
    if "held_certified" in claims:
        kept, attacked = (to_float(as_number(claims[name].value)) for name in ("held_certified", "held_attack"))
        said.append(f"{kept:.1%} whatever the perturbation, {attacked:.1%} after attacks")
    return "; ".join(said) + "."


def _above(claim: Claim, answer: Any) -> float:
    """By what fraction the claim's value lies above the answer's loss."""
    here, there = to_float(as_number(answer)), to_float(as_number(claim.value))
    return there / here - 1 if here else 0.0


def _number(value: Any) -> str:
    return f"{float(value):.5g}"


def _percent(value: Any) -> str:
    return f"{100 * float(value):.2g} %"


def figures(reader: RunReader) -> Sequence[Figure]:
    """Bounds over the iterations, and what the neurons are (a decision region for two columns)."""
    network = read_network(reader.answer_dir)
    claims = {claim.name: claim for claim in read_claims(reader)}
    found = [
        Figure(
            "bounds",
            f"The program's value at feasible points and its lower bound meet; {_beside(claims)}.",
            _bounds(reader, claims),
        )
    ]
    columns = folded(network)[0].shape[1]
    if columns == 2:
        found.append(Figure("region", "The network's score over the two columns.", _region(network, _columns(reader))))
    found.append(
        Figure(
            "neurons",
            "Weight of every neuron, the product of its two layers' sizes, heaviest first.",
            _neurons(network),
        )
    )
    return found


def _beside(claims: dict[str, Claim]) -> str:
    if "rival" in claims:
        return "the answer is a network trained locally, below them: it may cross a row's perturbations, the program's may not"
    if "local_runs" in claims and _above(claims["local_runs"], claims["network"].value) < 0:
        return "a network trained locally, whose hidden layer moves, ends below"
    return "networks trained locally stop above" if "local_runs" in claims else "so the optimum is known"


def _bounds(reader: RunReader, claims: dict[str, Claim]) -> Any:
    from matplotlib.figure import Figure as Canvas

    history = reader.history
    canvas = Canvas()
    axis = canvas.subplots()
    k = np.asarray(history["k"], dtype=float)
    upper, lower = (np.asarray(history.get(name, np.full(len(k), np.nan)), dtype=float) for name in ("upper", "lower"))
    rounds = np.asarray(history.get("round", np.zeros(len(k))), dtype=float)
    fresh = np.append(False, np.diff(rounds) != 0)  # every round is a program of its own: its curve begins anew
    upper, lower = np.where(fresh, np.nan, upper), np.where(fresh, np.nan, lower)
    best = to_float(as_number(claims["network"].value))
    below = [best]
    axis.plot(k, upper, color=UPPER, label="program, feasible point")
    axis.plot(k, np.where(lower > 0, lower, np.nan), color=LOWER, label="program, lower bound")
    if "global_gap" in claims:
        proved = claims["global_gap"].kind == "proved"
        level = best * (1 - to_float(as_number(claims["global_gap"].value)))
        label = "bound over all networks" + ("" if proved else " (by search)")
        axis.axhline(level, color=GLOBAL, linestyle=":", label=label)
        below.append(level)
    axis.set(
        xlabel="iteration" if rounds.max() == 0 else "iteration, over the rounds of pricing",
        ylabel="worst-case regularised loss (summed)" if "attack" in claims else "regularised loss (summed)",
    )
    finite = upper[np.isfinite(upper)]
    top = float(np.quantile(finite, 0.9)) if len(finite) else best
    top = max(
        1.25 * best, min(top, 2.5 * best) if rounds.max() == 0 else best, *(1.08 * value for value in finite[-1:])
    )
    if "local_runs" in claims:
        trained = to_float(as_number(claims["local_runs"].value))
        label = ("the answer: " if "rival" in claims else "") + "best network trained locally"
        label += (", certified" if "attack" in claims else "") + (
            "" if trained <= 3 * best else f": {trained:.4g}, off the top"
        )
        axis.axhline(trained, color=LOCAL, linestyle="--", label=label)
        top = max(top, 1.08 * trained) if trained <= 3 * best else top
        below.append(trained)
    axis.set_ylim(max(0.0, min((0.6 if rounds.max() == 0 else 0.85) * best, *(0.85 * level for level in below))), top)
    axis.legend(framealpha=0.9, frameon=True, edgecolor="none")
    return canvas


def _neurons(network: Any) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.0, 3.4))
    axis = canvas.subplots()
    size = np.linalg.norm(network.hidden, axis=1)
    weight = network.output.sum(axis=1) * size
    places = np.arange(1, len(weight) + 1)
    axis.bar(places[weight >= 0], weight[weight >= 0], color=UPPER, label="adds to the score", width=0.9)
    axis.bar(places[weight < 0], -weight[weight < 0], color=LOCAL, label="subtracts", width=0.9)
    if len(weight):
        axis.set_yscale("log")
        axis.legend()
    axis.set(xlabel="neuron", ylabel="weight |u| |a|")
    axis.grid(visible=False, axis="x")
    return canvas


def _columns(reader: RunReader) -> tuple[str, str]:
    """What the two columns of the table are called."""
    names = read_json(reader.answer_dir / "network.json").get("columns") or ("first column", "second column")
    return str(names[0]).replace("$", r"\$"), str(names[1]).replace("$", r"\$")


def _region(network: Any, columns: tuple[str, str]) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.4, 4.6))
    axis = canvas.subplots()
    scaling = network.scaling
    centre, spread = (np.zeros(2), np.ones(2)) if scaling is None else (scaling.centre, scaling.spread)
    sides = [np.linspace(centre[i] - 2.5 * spread[i], centre[i] + 2.5 * spread[i], 160) for i in (0, 1)]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    score = network(grid)
    score = score[:, 0] if score.shape[1] == 1 else score.max(axis=1)
    largest = float(np.abs(score).max()) or 1.0
    shown = axis.pcolormesh(
        sides[0], sides[1], score.reshape(160, 160), cmap="RdBu_r", vmin=-largest, vmax=largest, rasterized=True
    )
    axis.contour(sides[0], sides[1], score.reshape(160, 160), levels=[0.0], colors="#222", linewidths=1.2)
    axis.set(xlabel=columns[0], ylabel=columns[1])
    axis.grid(visible=False)
    canvas.colorbar(shown, ax=axis, label="score")
    return canvas
