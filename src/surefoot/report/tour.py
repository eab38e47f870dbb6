"""The tour: every card on its sample and at its further stops, in processes of their own, into one page."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surefoot.core.rundir import RunReader
from surefoot.core.system import System, TourStop
from surefoot.data.samples import SampleMissingError, collected
from surefoot.records.files import write_bytes
from surefoot.records.versions import versions
from surefoot.report.html import claim_rows, guarded, headline, page

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visit:
    """One run of the tour: how its process ended and how long it took, start of Python included.

    Attributes:
        system, stop: the card, on its sample or at a further stop.
        root: the run's folder.
        code, seconds, said: of the process; what it said last.
        skipped: why there was none, or ''.
    """

    system: System
    stop: TourStop | None
    root: Path
    code: int = 0
    seconds: float = 0.0
    said: str = ""
    skipped: str = ""

    @property
    def name(self) -> str:
        """The card, and the stop beyond its sample."""
        return self.system.name + (f"-{self.stop.name}" if self.stop else "")

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.skipped:
            return f"skipped ({self.skipped})"
        return f"failed ({self.said or f'exit code {self.code}'})" if self.code else "ok"


def visit(system: System, folder: Path, threads: int, stop: TourStop | None = None) -> Visit:
    """Run the card's `tour` preset, or its further stop where the data collection holds the files, with `surefoot run` in a fresh process."""
    here = Visit(system, stop, folder / (system.name + (f"-{stop.name}" if stop else "")))
    try:
        given = [str(collected(path).resolve()) for path in stop.inputs] if stop else []
    except SampleMissingError as error:
        return replace(here, skipped=str(error))
    command = [
        sys.executable,
        "-m",
        "surefoot",
        "run",
        system.name,
        *given,
        *(stop.flags if stop else ("--preset", "tour")),
    ]
    command += ["-o", str(here.root), "--force", "--quiet", "--threads", str(threads)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - began
    said = (done.stderr or done.stdout).strip().splitlines()
    log.info("%s: exit %d in %.1f s", here.name, done.returncode, seconds)
    return replace(here, code=done.returncode, seconds=seconds, said=said[-1] if said else "")


def tour(systems: Sequence[System], folder: Path, jobs: int = 1) -> tuple[Path, list[Visit]]:
    """Run the cards, and their further stops, and write `folder/index.html`; what fails is shown as failed.

    Args:
        jobs: runs at a time; the cores are shared among them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    folder.mkdir(parents=True, exist_ok=True)
    places = [(system, stop) for system in systems for stop in (None, *system.stops)]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        share = max(1, cores // max(1, jobs))
        visits = list(pool.map(lambda place: visit(place[0], folder, share, place[1]), places))
    entries = [_entry(visit) for visit in visits if not visit.skipped]
    rows = [row for entry in entries for row in entry["rows"]]
    further = sum(visit.stop is not None and not visit.skipped for visit in visits)
    collection = any(visit.stop and visit.stop.inputs and not visit.skipped for visit in visits)
    tiles = [
        ("card" if len(systems) == 1 else "cards", str(len(systems))),
        *([("further stops", str(further))] if further else []),
        ("claims confirmed", f"{sum(r['verdict'] == 'confirmed' for r in rows)} of {len(rows)}"),
        ("seconds in all", f"{sum(v.seconds for v in visits):.1f}"),
    ]
    skipped = [(v.name, v.stop.title, v.skipped) for v in visits if v.skipped and v.stop]
    html = page(
        "tour.html",
        cards=entries,
        tiles=tiles,
        collection=collection,
        skipped=skipped,
        versions=versions(),
        when=time.strftime("%Y-%m-%d"),
    )
    write_bytes(folder / "index.html", html.encode())
    return folder / "index.html", visits


def _entry(visit: Visit) -> dict[str, Any]:
    system, stop, name = visit.system, visit.stop, visit.name
    entry: dict[str, Any] = {
        "name": name, "title": stop.title if stop else system.title, "claim": system.paper.claim, "paper": system.paper,
        "clock": f"{visit.seconds:.1f} s", "report": f"{name}/report.html", "picture": "", "alt": "", "caption": "", "headline": "",
        "rows": [], "error": "" if visit.code == 0 else visit.said or f"exit code {visit.code}",
        "sample": ". ".join(filter(None, ("from the data collection", stop.licence, stop.credit))) if stop and stop.inputs else "",
    }  # fmt: skip
    try:
        reader = RunReader(visit.root)
    except FileNotFoundError as error:
        return {**entry, "error": entry["error"] or str(error)}
    samples = [i for i in reader.inputs if i["role"] == "sample"]
    entry["sample"] = entry["sample"] or "; ".join(
        f"{i.get('title', i['origin'])}{' (fallback sample)' if i.get('fallback') else ''}" for i in samples
    )
    if reader.config.get("status") == "finished" and reader.has("answer"):
        pictures, _ = guarded("Figures", lambda: list(system.figures(reader)), [])
        if pictures:
            first = pictures[0]
            entry |= {
                "picture": f"{name}/figures/{first.name}.svg",
                "caption": first.caption,
                "alt": first.alt or first.caption,
            }
        entry |= {"headline": headline(system, reader), "rows": claim_rows(reader)}
    return entry
