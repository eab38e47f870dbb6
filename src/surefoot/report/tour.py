"""The tour: every card on its sample, in processes of their own, into one page."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.core.rundir import RunReader
from surefoot.core.system import System
from surefoot.records.files import write_bytes
from surefoot.records.versions import versions
from surefoot.report.html import claim_rows, guarded, headline, page

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stop:
    """One card's stop on the tour: how its process ended and how long it took, start of Python included."""

    system: System
    root: Path
    code: int
    seconds: float
    said: str


def visit(system: System, folder: Path, threads: int) -> Stop:
    """Run the card's `tour` preset with `surefoot run` in a fresh process."""
    root = folder / system.name
    command = [
        sys.executable,
        "-m",
        "surefoot",
        "run",
        system.name,
        "--preset",
        "tour",
        "-o",
        str(root),
        "--force",
        "--quiet",
    ]
    command += ["--threads", str(threads)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    said = (done.stderr or done.stdout).strip().splitlines()
    log.info("%s: exit %d in %.1f s", system.name, done.returncode, time.perf_counter() - began)
    return Stop(system, root, done.returncode, time.perf_counter() - began, said[-1] if said else "")


def tour(systems: Sequence[System], folder: Path, jobs: int = 1) -> tuple[Path, list[Stop]]:
    """Run the cards and write `folder/index.html`; a card that fails is shown as failed.

    Args:
        jobs: cards at a time; the cores are shared among them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        stops = list(pool.map(lambda system: visit(system, folder, max(1, cores // max(1, jobs))), systems))
    entries = [_entry(stop) for stop in stops]
    rows = [row for entry in entries for row in entry["rows"]]
    tiles = [
        ("cards", str(len(entries))),
        ("claims confirmed", f"{sum(r['verdict'] == 'confirmed' for r in rows)} of {len(rows)}"),
        ("seconds in all", f"{sum(s.seconds for s in stops):.1f}"),
    ]
    html = page("tour.html", cards=entries, tiles=tiles, versions=versions(), when=time.strftime("%Y-%m-%d"))
    write_bytes(folder / "index.html", html.encode())
    return folder / "index.html", stops


def _entry(stop: Stop) -> dict[str, Any]:
    system = stop.system
    entry: dict[str, Any] = {
        "name": system.name, "title": system.title, "claim": system.paper.claim, "paper": system.paper,
        "clock": f"{stop.seconds:.1f} s", "report": f"{system.name}/report.html", "picture": "", "alt": "", "caption": "",
        "headline": "", "rows": [], "error": "" if stop.code == 0 else stop.said or f"exit code {stop.code}", "sample": "",
    }  # fmt: skip
    try:
        reader = RunReader(stop.root)
    except FileNotFoundError as error:
        return {**entry, "error": entry["error"] or str(error)}
    samples = [i for i in reader.inputs if i["role"] == "sample"]
    entry["sample"] = "; ".join(
        f"{i.get('title', i['origin'])}{' (fallback sample)' if i.get('fallback') else ''}" for i in samples
    )
    if reader.config.get("status") == "finished" and reader.has("answer"):
        pictures, _ = guarded("Figures", lambda: list(system.figures(reader)), [])
        if pictures:
            first = pictures[0]
            entry |= {
                "picture": f"{system.name}/figures/{first.name}.svg",
                "caption": first.caption,
                "alt": first.alt or first.caption,
            }
        entry |= {"headline": headline(system, reader), "rows": claim_rows(reader)}
    return entry
