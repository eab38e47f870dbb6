"""What the commands say: exit codes, errors, a run's verdicts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.system import System
    from surefoot.core.verify import Verdict

OK, FAILED, USAGE, UNCHECKED, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(ValueError):
    """The command line asks for something that cannot be; exit code 2."""


def say_error(error: object, code: int) -> int:
    text = error.args[0] if isinstance(error, LookupError) and error.args else error
    sys.stderr.write(f"surefoot: {printable(text)}\n")
    return code


def printable(text: object) -> str:
    """Text without control characters: what a stranger's run says may not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(text))


def parser_for(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"surefoot {name}", description=function.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_run(folder: RunDir, system: System, reason: str, verdicts: Sequence[Verdict], page: Path) -> None:
    from surefoot.core.rundir import RunReader
    from surefoot.report.html import headline

    reader = RunReader(folder.root)
    if reader.config["status"] == "finished" and reader.has("answer"):
        sys.stdout.write(f"{printable(headline(system, reader))}\n\n")
    print_verdicts(reader, verdicts)
    sys.stdout.write(f"\nended: {reason}\nanswer: {folder.root / 'answer'}\nreport: {page}\n")


def print_verdicts(reader: RunReader, verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from surefoot.core.certificate import read_claims
    from surefoot.report.html import relation

    claims = {claim.name: claim for claim in read_claims(reader)} if verdicts else {}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("verdict", "kind", "outcome", "claim", "value"):
        table.add_column(heading)
    colours = {"confirmed": "green", "refuted": "bold red", "unchecked": "yellow"}
    for verdict in verdicts:
        claim = claims[verdict.claim]
        cells = (claim.kind, claim.outcome, claim.name, relation(claim))
        table.add_row(Text(verdict.verdict, colours[verdict.verdict]), *(Text(printable(cell)) for cell in cells))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for verdict in verdicts:
        if verdict.verdict != "confirmed":
            console.print(printable(f"{verdict.claim}: {verdict.why}"), markup=False)
