"""The progress line: objective, rate, time left."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from surefoot.core.solve import Moment

log = logging.getLogger(__name__)
PREFERRED = ("objective", "gap", "loss", "value", "score")  # the first of these in a row is shown
BESIDE = {"held_out_psnr": "dB held out"}  # shown beside it, with its unit
SPENT = ("spent_epsilon", "spent_share", "spent")  # of a private run's budget: always shown


def clock(seconds: float) -> str:
    """Seconds as 4s, 3m12s or 2h05m."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def left(moment: Moment, rate: float) -> float | None:
    """Seconds until the budget ends at this rate (steps a second), None without a budget."""
    budget = moment.budget
    ends = []
    if budget.steps is not None and rate > 0:
        ends.append((budget.steps - moment.k) / rate)
    if budget.seconds is not None:
        ends.append(budget.seconds - moment.seconds)
    return max(0.0, min(ends)) if ends else None


class Bar:
    """A watch that shows a live line on a terminal, and a log line every 15 s elsewhere."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        console = Console(stderr=True)
        self.live = sys.stderr.isatty() and not quiet
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[say]}"),
            console=console, transient=True, disable=not self.live,
        )  # fmt: skip
        self.task = self.progress.add_task(title, total=None, say="")
        self.began: tuple[float, int] | None = None
        self.shown = 0.0

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, moment: Moment) -> str | None:
        now = time.monotonic()
        if self.began is None:
            self.began, self.shown = (now, moment.k), now
        if now - self.shown < (0.1 if self.live else 15.0):
            return None
        self.shown = now
        rate = (moment.k - self.began[1]) / max(now - self.began[0], 1e-9)
        name = next((n for n in PREFERRED if n in moment.row), next(iter(moment.row), ""))
        remaining = left(moment, rate)
        spent = "".join(f"  spent {moment.row[n]:.3g}" for n in SPENT if n in moment.row)
        spent += "".join(f"  {moment.row[n]:.2f} {unit}" for n, unit in BESIDE.items() if n in moment.row)
        say = f"step {moment.k}" + (f"  {name} {moment.row[name]:.6g}" if name else "") + spent + f"  {rate:,.0f}/s"
        say += "" if remaining is None else f"  {clock(remaining)} left"
        if self.live:
            self.progress.update(self.task, total=moment.budget.steps, completed=moment.k, say=say)
        elif not self.quiet:
            log.info("%s: %s", self.title, say)
        return None
