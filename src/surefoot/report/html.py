"""Run directory -> report.html, one self-contained file; and the parts that tour and comparison share."""

from __future__ import annotations

import base64
import io
import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np

from surefoot.core.certificate import Claim, read_claims
from surefoot.core.rundir import RunReader
from surefoot.core.system import System
from surefoot.records.files import inside, write_bytes
from surefoot.records.numbers import as_number, to_float
from surefoot.report.style import styled

log = logging.getLogger(__name__)
T = TypeVar("T")
TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, **values: Any) -> str:
    """A page; everything from a run is escaped, since a run may come from a stranger."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def number(value: Any) -> str:
    """A claim's number for people: rationals also as a decimal, floats short."""
    if isinstance(value, str):
        shown = to_float(as_number(value))
        return f"{shown:.8g}" + (
            "" if "/" not in value else f" (= {value})" if len(value) <= 24 else " (exact rational)"
        )
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


def relation(claim: Claim) -> str:
    """The claim's arithmetic as text."""
    if claim.bound is None:
        return number(claim.value)
    sign = {"<=": "≤", ">=": "≥", "==": "="}[claim.relation]
    if claim.outcome == "fails":
        sign = {"≤": "≰", "≥": "≱", "=": "≠"}[sign]
    if claim.outcome == "undecided":
        sign += "?"
    return f"{number(claim.value)} {sign} {number(claim.bound)}" + (
        f" ± {claim.tolerance:.1g}" if claim.tolerance else ""
    )


def claim_rows(reader: RunReader) -> list[dict[str, Any]]:
    """What a page shows of each claim."""
    if not reader.has("certificate.json"):
        return []
    said = {v["claim"]: v for v in reader.verdicts}
    unsaid = {"verdict": "unchecked", "why": "not verified yet"}
    if not reader.judged.get("same", True):
        said, unsaid["why"] = {}, "the certificate changed after it was verified"
    rows = []
    for claim in read_claims(reader):
        verdict = said.get(claim.name, unsaid)
        confidence = claim.confidence
        rows.append({
            "name": claim.name, "statement": claim.statement, "kind": claim.kind, "outcome": claim.outcome, "scope": claim.scope,
            "confidence": "" if confidence is None else f"{confidence.level:.4g} ({confidence.reach}, {confidence.test}, n = {confidence.samples})",
            "premises": claim.premises, "relation": relation(claim), "verdict": verdict["verdict"], "why": verdict["why"],
            "reason": claim.reason,
        })  # fmt: skip
    return rows


def svg_uri(figure: Any) -> tuple[str, bytes]:
    """A matplotlib figure as a data URI and as SVG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode(), buffer.getvalue()


def draw(reader: RunReader, system: System) -> list[dict[str, str]]:
    """The card's figures, saved as figures/NAME.svg and .png, and what a page needs of them."""
    shown = []
    with styled():
        for figure in system.figures(reader):
            uri, svg = svg_uri(figure.figure)
            figure.figure.set_layout_engine("none")  # it stays as it was laid out
            png = io.BytesIO()
            figure.figure.savefig(png, format="png", dpi=150)
            write_bytes(inside(reader.root, f"figures/{figure.name}.svg"), svg)
            write_bytes(inside(reader.root, f"figures/{figure.name}.png"), png.getvalue())
            shown.append(
                {"uri": uri, "caption": figure.caption, "alt": figure.alt or figure.caption, "name": figure.name}
            )
    return shown


def history_plots(histories: Mapping[str, Mapping[str, Any]], most: int = 6) -> str:
    """Small plots of the recorded quantities that change over the steps, one line a run, as a data URI; '' where there are none."""
    names = list(dict.fromkeys(n for h in histories.values() for n in h if n not in ("k", "seconds")))
    names = [n for n in names if any(_changes(_numbers(h, n)) for h in histories.values())][:most]
    if not names:
        return ""
    from matplotlib.figure import Figure

    with styled():
        rows = math.ceil(len(names) / 2)
        canvas = Figure(figsize=(9.0, 2.6 * rows))
        canvas.set_layout_engine("none")  # fixed spaces: the solver of layouts would take as long as drawing
        spaces = {"wspace": 0.25, "hspace": 0.65}
        axes = canvas.subplots(rows, min(2, len(names)), squeeze=False, gridspec_kw=spaces).ravel()
        for axis, name in zip(axes, names, strict=False):
            for label, history in histories.items():
                if name in history:
                    values = _numbers(history, name)
                    axis.plot(
                        _numbers(history, "k") if "k" in history else np.arange(len(values)),
                        values,
                        label=_plain(label),
                    )
            values = np.concatenate([_numbers(h, name) for h in histories.values() if name in h])
            values = values[np.isfinite(values)]
            if (values > 0).all() and values.max() < 1e300 and values.max() > 50 * values.min():
                axis.set_yscale("log")
            axis.set(title=_plain(name.replace("_", " ")), xlabel="step")
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        if len(histories) > 1:
            axes[0].legend()
        return svg_uri(canvas)[0]


def _changes(values: np.ndarray) -> bool:
    values = values[np.isfinite(values)]
    return len(values) > 1 and bool((values != values[0]).any())


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: no formulas, no hidden labels."""
    return " " * text.startswith("_") + text.replace("$", r"\$")


def _numbers(history: Mapping[str, Any], name: str) -> np.ndarray:
    column = np.asarray(history.get(name, ()))
    return column.astype(np.float64) if column.dtype.kind in "fiu" else np.full(column.shape, np.nan)


def tiles(reader: RunReader, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The few numbers at the top of a report."""
    config = reader.config
    found = [("claims confirmed", f"{sum(r['verdict'] == 'confirmed' for r in rows)} of {len(rows)}")] if rows else []
    if isinstance(config.get("steps"), int):
        found.append(("steps", f"{config['steps']:,}"))
    if isinstance(config.get("seconds"), int | float):
        found.append(("seconds in the method", f"{config['seconds']:.2f}"))
    if isinstance(config.get("peak_bytes"), int):
        found.append(("peak memory", f"{config['peak_bytes'] / 2**20:,.0f} MiB"))
    if isinstance(config.get("ended"), str):
        found.append(("ended", config["ended"].lower().replace("_", " ")))
    return found


def command(config: Mapping[str, Any], system: System) -> str:
    """The command that reproduces the run: every option that differs from the preset, and the seed."""
    preset = config.get("preset", "default")
    given = [str(v) for v in (config.get("given") or {}).values()]
    parts = ["surefoot", "run", system.name, *given]
    if preset != "default":
        parts += ["--preset", str(preset)]
    base = system.preset(preset if preset in system.presets else "default")
    for name, value in (config.get("options") or {}).items():
        default = getattr(base, name, None)
        if value != (list(default) if isinstance(default, tuple) else default):
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                parts.append(flag if value else "--no-" + name.replace("_", "-"))
            else:
                parts += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    if isinstance(config.get("seed"), int) and config["seed"] != 0:
        parts += ["--seed", str(config["seed"])]
    return shlex.join(parts)


def headline(system: System, reader: RunReader) -> str:
    """The card's headline, or why its files allow none (they may be a stranger's)."""
    text, wrong = guarded("The headline", lambda: system.headline(reader), "")
    return text or wrong


def guarded(what: str, make: Callable[[], T], otherwise: T) -> tuple[T, str]:
    """What `make` gives and ''; or `otherwise` and why, since a picture that fails loses no answer."""
    try:
        return make(), ""
    except Exception as error:  # whatever a card's drawing code raises
        log.warning("%s cannot be made: %s: %s", what.lower(), type(error).__name__, error)
        log.debug("details", exc_info=error)
        return otherwise, f"{what} cannot be made from the files of this run ({type(error).__name__}: {error})."


def write_report(path: str | Path, system: System) -> Path:
    """Draw the figures and write report.html into the run; needs nothing but the run directory."""
    reader = RunReader(path)
    config = reader.config
    rows = claim_rows(reader)
    complete = reader.has("answer") and config.get("status") == "finished"
    lead, figures = str(config.get("reason", "")), list[dict[str, str]]()
    if complete:
        figures, wrong = guarded("Figures", lambda: draw(reader, system), [])
        lead = f"{headline(system, reader)} {wrong}".strip()
    html = page(
        "report.html", card=system.name, title=system.title, when=config.get("created", ""), status=config.get("status", ""),
        headline=lead, judged=reader.judged, tiles=tiles(reader, rows), figures=figures, rows=rows, why_none=config.get("reason", ""),
        plots=history_plots({"": reader.history}), command=command(config, system), folder=reader.root.name,
        options=config.get("options", {}), inputs=[_Blank(i) for i in reader.inputs], paper=system.paper,
        versions=config.get("versions", {}),
    )  # fmt: skip
    target = reader.root / "report.html"
    write_bytes(target, html.encode())
    return target


class _Blank(dict[str, Any]):
    """A record whose missing fields read as nothing."""

    def __missing__(self, key: str) -> str:
        return ""

    def __getattr__(self, key: str) -> Any:
        return self[key]
