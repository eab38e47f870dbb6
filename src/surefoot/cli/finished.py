"""What is done with finished runs: verify, compare, view."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from surefoot import catalog
from surefoot.cli.say import FAILED, OK, UNCHECKED, parser_for, print_verdicts, printable, say_error
from surefoot.records.files import OtherSchemaError, UnsafeFileError


def verify(arguments: list[str]) -> int:
    """check every claim of a run again, with independent code"""
    parser = parser_for("verify", verify)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--data", help="folder with the inputs, where they are not where they were")
    parser.add_argument("--full", action="store_true", help="redo every costly row, not a random subset")
    parser.add_argument("--trust", action="store_true", help="import the code (recipes) that the run names")
    parser.add_argument("--seed", type=int, help="of the random subset (default: fresh)")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing; see the exit code")
    asked = parser.parse_args(arguments)
    from surefoot.core.rundir import RunReader
    from surefoot.core.verify import verify_run

    try:
        reader = RunReader(asked.run)
        system = catalog.find(reader.config["card"])
        if not reader.has("certificate.json"):
            return say_error(f"{asked.run} has no certificate ({reader.config.get('status', 'unfinished')})", UNCHECKED)
        verdicts = verify_run(reader.root, system, data=asked.data, trust=asked.trust, full=asked.full, seed=asked.seed)
    except (OtherSchemaError, catalog.UnknownCardError) as error:
        return say_error(error, UNCHECKED)
    except UnsafeFileError as error:
        return say_error(f"refuted: {error}", FAILED)
    if asked.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(v) for v in verdicts], indent=1, default=str) + "\n")
    elif not asked.quiet:
        print_verdicts(RunReader(asked.run), verdicts)
    found = {v.verdict for v in verdicts}
    return FAILED if "refuted" in found else UNCHECKED if "unchecked" in found or not verdicts else OK


def compare(arguments: list[str]) -> int:
    """runs side by side, as a table and a page"""
    parser = parser_for("compare", compare)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-o", "--out", default="compare.html", help="the page (default compare.html)")
    parser.add_argument(
        "--verify", action="store_true", help="judge every run anew; else the verdicts on file are shown"
    )
    asked = parser.parse_args(arguments)
    for path in asked.runs if asked.verify else ():
        verify([path, "--quiet"])
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from surefoot.report.compare import compared, write_comparison

    found = compared(asked.runs)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", *(run["label"] for run in found["runs"])):
        table.add_column(Text(printable(heading)))
    rows = [*found["facts"], *((f"--{k}", cells) for k, cells in found["options"])]
    rows += [(k, [f"{c['relation']} ({c['verdict']})" if c else "–" for c in cells]) for k, cells in found["claims"]]
    for name, cells in rows:
        table.add_row(*(Text(printable(cell)) for cell in (name, *cells)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    sys.stdout.write(f"page: {write_comparison(asked.runs, Path(asked.out))}\n")
    return OK


def view(arguments: list[str]) -> int:
    """draw the report again and open it in the browser; a run with a scene opens that, to walk through, until Ctrl-C"""
    parser = parser_for("view", view)
    parser.add_argument("run")
    parser.add_argument("--page", action="store_true", help="the report, also where there is a scene")
    parser.add_argument("--port", type=int, default=8080, help="of the scene's viewer (0: any that is free)")
    parser.add_argument("--no-open", action="store_true", help="open no browser")
    asked = parser.parse_args(arguments)
    import webbrowser

    from surefoot.core.rundir import RunReader
    from surefoot.report.html import write_report

    reader = RunReader(asked.run)
    system = catalog.find(reader.config["card"])
    if system.scene is not None and not asked.page:
        from surefoot.report.view3d import Viewer

        viewer = Viewer(system.scene(reader), port=asked.port)
        sys.stdout.write(f"{viewer.url} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        if not asked.no_open:
            webbrowser.open(viewer.url)
        viewer.wait()
        return OK
    page = write_report(asked.run, system)
    sys.stdout.write(f"{page}\n")
    if not asked.no_open:
        webbrowser.open(page.resolve().as_uri())
    return OK
