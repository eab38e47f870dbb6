"""Runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surefoot.core.rundir import RunReader
from surefoot.records.files import write_bytes
from surefoot.report.html import claim_rows, history_plots, page


def compared(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Facts, differing options and claims of several runs, as rows of cells.

    Raises:
        FileNotFoundError: a path is no run.
    """
    readers = [RunReader(p) for p in paths]
    names = [r.root.name for r in readers]
    labels = names if len(set(names)) == len(names) else [str(r.root) for r in readers]
    configs = [r.config for r in readers]
    facts = []
    for name in ("card", "status", "ended", "steps", "seconds", "peak_bytes", "seed", "preset"):
        cells = [_cell(c.get(name)) for c in configs]
        if any(cells):
            facts.append((name.replace("_", " "), cells))
    keys = dict.fromkeys(k for c in configs for k in c.get("options", {}))
    options = [(k, [str(c.get("options", {}).get(k, "–")) for c in configs]) for k in keys]
    tables = [{row["name"]: row for row in claim_rows(r)} for r in readers]
    claims = dict.fromkeys(name for table in tables for name in table)
    return {
        "runs": [{"label": label} for label in labels],
        "facts": facts,
        "options": [(k, cells) for k, cells in options if len(set(cells)) > 1],
        "claims": [(name, [table.get(name) for table in tables]) for name in claims],
        "plots": history_plots(dict(zip(labels, [r.history for r in readers], strict=True))),
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write_comparison(paths: Sequence[str | Path], target: Path) -> Path:
    """The comparison as one self-contained page."""
    write_bytes(target, page("compare.html", **compared(paths)).encode())
    return target
