"""Benchmarks beside the peers, in one session on the same data.

    surefoot bench CARD [--case NAME]... [--repeats N] [--quick] [--no-peers]
    surefoot bench --page                 # docs/benchmarks.md from the results on file

A card's benchmark is `benchmarks/CARD/bench.py` with `def main(bench: Bench) -> None`. Sides are worker processes: ours
in this environment, each peer in an environment of its own (`benchmarks/peers/NAME/requirements.txt`, made when first
needed). A worker reads one JSON request a line and answers `{"seconds": …, "value": …}`; it measures itself with
`time.perf_counter` around the call alone. Requests go to the sides in turn, A B A B …, after warm-ups, so that the
ratios hold when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
PAGE = ROOT.parent / "docs" / "benchmarks.md"
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.10", "python3")


@dataclass(frozen=True)
class Side:
    """One competitor: a worker script and the environment it runs in ('' is this one)."""

    name: str
    script: Path
    peer: str = ""
    label: str = ""  # said in the tables, e.g. "our port of the paper"


class Worker:
    """A running side, one JSON line in, one out."""

    def __init__(self, side: Side, threads: int) -> None:
        self.side = side
        python = sys.executable if not side.peer else str(environment(side.peer))
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}  # each side's own kernels
        env |= dict.fromkeys(names, str(threads))
        self.process = subprocess.Popen(
            [python, "-u", str(side.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=side.script.parent,
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request; skip what the peer's library prints until the answer comes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("@@"):
                return json.loads(line[2:])
        raise RuntimeError(f"{self.side.name} ended without an answer (exit {self.process.wait()})")

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def serve(handle: Any) -> None:
    """A worker's loop: `handle(request) -> dict`; adds the peak memory of the process."""
    import resource

    for line in sys.stdin:
        answer = handle(json.loads(line))
        answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sys.stdout.write("@@" + json.dumps(answer) + "\n")
        sys.stdout.flush()


def environment(peer: str) -> Path:
    """The peer's own Python, installed from its pinned requirements when first asked for."""
    folder = ROOT / "peers" / peer
    python = folder / ".venv" / "bin" / "python"
    stamp = folder / ".venv" / ".made"
    if not stamp.is_file():
        print(f"installing the peer {peer} into {folder / '.venv'}", file=sys.stderr)
        wanted = (folder / "python.txt").read_text().split() if (folder / "python.txt").is_file() else PYTHONS
        base = next((name for name in wanted if _runs(name)), sys.executable)
        subprocess.run([base, "-m", "venv", "--clear", str(folder / ".venv")], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(folder / "requirements.txt")], check=True
        )
        stamp.touch()
    return python


def _runs(name: str) -> bool:
    try:
        return subprocess.run([name, "-c", "import venv"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@dataclass
class Bench:
    """What a card's `main` works with; everything measured is collected for the results file."""

    card: str
    repeats: int = 5
    quick: bool = False
    peers: bool = True
    only: tuple[str, ...] = ()
    threads: int = 1
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def wants(self, case: str) -> bool:
        """Whether this case was asked for."""
        return not self.only or case in self.only

    def data(self) -> Path | None:
        """SUREFOOT_DATA, or None (then cases on it are left out and say so)."""
        text = os.environ.get("SUREFOOT_DATA")
        return Path(text) if text and Path(text).is_dir() else None

    def paired(
        self,
        sides: Sequence[Side],
        requests: Sequence[Mapping[str, Any]],
        *,
        repeats: int | None = None,
        warmups: int = 1,
    ) -> list[dict[str, Any]]:
        """Each request to each side in turn, `repeats` times; a row a request and side.

        Returns:
            Rows with `case`, `side`, median, minimum and maximum of the seconds, `ratio` (median over the pairs of this
            side's seconds divided by the first side's), peak memory, and the last `value`.
        """
        sides = [s for s in sides if self.peers or not s.peer]
        workers = [Worker(side, self.threads) for side in sides]
        rows: list[dict[str, Any]] = []
        try:
            for request in requests:
                rows += self._one(workers, request, repeats or self.repeats, warmups)
        finally:
            for worker in workers:
                worker.close()
        return rows

    def _one(
        self, workers: Sequence[Worker], request: Mapping[str, Any], repeats: int, warmups: int
    ) -> list[dict[str, Any]]:
        answers: dict[str, list[dict[str, Any]]] = {w.side.name: [] for w in workers}
        for turn in range(warmups + repeats):
            for worker in workers:
                answer = worker.ask({**request, "warmup": turn < warmups})
                if turn >= warmups:
                    answers[worker.side.name].append(answer)
        first = [a["seconds"] for a in answers[workers[0].side.name]]
        rows = []
        for worker in workers:
            mine = answers[worker.side.name]
            seconds = [a["seconds"] for a in mine]
            row = {
                "case": str(request.get("case", "")), "side": worker.side.name, "label": worker.side.label,
                "median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "repeats": len(seconds),
                "ratio": statistics.median(b / a for a, b in zip(first, seconds, strict=True)), "peak_bytes": mine[-1]["peak_bytes"],
                "value": mine[-1].get("value"),
            }  # fmt: skip
            print(
                f"  {row['case']:<28} {row['side']:<18} {row['median_s']:.4g} s  x{row['ratio']:.3g}  {row['value']}",
                file=sys.stderr,
            )
            rows.append(row)
        return rows

    def table(
        self, title: str, rows: Sequence[Mapping[str, Any]], *, says: str = "", columns: Sequence[str] = ()
    ) -> None:
        """Put a table into the results; `says` is the sentence under its title."""
        names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
        self.tables.append({"title": title, "says": says, "columns": names, "rows": [dict(r) for r in rows]})

    def note(self, text: str) -> None:
        """A sentence for the page: what was left out, what falls short."""
        self.notes.append(text)
        print(f"  note: {text}", file=sys.stderr)


def machine() -> dict[str, Any]:
    """The machine, in words that mean something elsewhere."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = lines[0] if lines else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory), "system": platform.system(), "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def run(card: str, asked: argparse.Namespace) -> Path:
    """Run a card's benchmark and write its results file (each title's newest table is kept)."""
    path = ROOT / card / "bench.py"
    if not path.is_file():
        raise SystemExit(
            f"no benchmark for {card!r}; there are {', '.join(sorted(p.parent.name for p in ROOT.glob('*/bench.py')))}"
        )
    sys.path[:0] = [str(ROOT), str(path.parent)]
    spec = importlib.util.spec_from_file_location(f"bench_{card}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bench = Bench(card, asked.repeats, asked.quick, not asked.no_peers, tuple(asked.case), asked.threads)
    described, began = machine(), time.perf_counter()
    module.main(bench)
    target = RESULTS / f"{card}.json"
    old = json.loads(target.read_text()) if target.is_file() and asked.case else {"tables": [], "notes": []}
    titles = {t["title"] for t in bench.tables}
    stamp = {"date": time.strftime("%Y-%m-%d"), "threads": asked.threads, **described}
    tables = [t for t in old["tables"] if t["title"] not in titles] + [{**t, "run": stamp} for t in bench.tables]
    notes = list(dict.fromkeys([*old["notes"], *bench.notes]))
    record = {
        "card": card,
        "machine": described,
        "seconds": round(time.perf_counter() - began, 1),
        "tables": tables,
        "notes": notes,
    }
    if asked.quick:
        print("quick run: nothing is recorded", file=sys.stderr)
        return target
    RESULTS.mkdir(exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")
    write_page()
    return target


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def write_page() -> None:
    """docs/benchmarks.md from the results on file."""
    parts = [
        "# Benchmarks",
        "",
        "Made from `benchmarks/results/` by `surefoot bench --page`; nothing here is typed by hand. Ratios are medians",
    ]
    parts += [
        "over paired repeats, seconds divided by the first side's; times belong to the machine named under each table.",
        "",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        parts += [f"## {record['card']}", "", f"`surefoot bench {record['card']}`", ""]
        for table in record["tables"]:
            parts += [f"### {table['title']}", ""] + ([table["says"], ""] if table["says"] else [])
            parts += [
                "| " + " | ".join(c.replace("_", " ") for c in table["columns"]) + " |",
                "|" + "---|" * len(table["columns"]),
            ]
            parts += ["| " + " | ".join(_cell(row.get(c)) for c in table["columns"]) + " |" for row in table["rows"]]
            stamp = table.get("run") or record["machine"]
            parts += [
                "",
                f"*{stamp['cpu']}, {stamp['cores']} cores, {stamp.get('threads', 1)} thread(s) used, Python {stamp['python']}, {stamp.get('date', '')}*",
                "",
            ]
        parts += [f"- {note}" for note in record["notes"]] + [""]
    PAGE.write_text("\n".join(parts).rstrip() + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="surefoot bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("card", nargs="?", help="which card")
    parser.add_argument("--case", action="append", default=[], help="only this case (may be repeated)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of every side")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, nothing recorded")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--page", action="store_true", help="only write docs/benchmarks.md from the results on file")
    asked = parser.parse_args()
    if asked.page:
        write_page()
        return 0
    if not asked.card:
        parser.error("which card?")
    from surefoot import catalog

    try:
        name = catalog.find(asked.card).name
    except catalog.UnknownCardError as error:
        parser.error(str(error.args[0]))
    print(run(name, asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
