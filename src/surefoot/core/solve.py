"""The one loop: budget, stopping with a reason, history, Ctrl-C, checkpoints, certificate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from surefoot.core.certificate import Certificate
from surefoot.core.checkpoint import Every, load_checkpoint, save_checkpoint
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.core.rundir import RunDir, is_writer
from surefoot.records.history import History
from surefoot.records.process import peak_memory, polite_interrupt

log = logging.getLogger(__name__)
A = TypeVar("A")
S = TypeVar("S", bound=State)
UNSET: Final[Any] = object()


@dataclass(frozen=True)
class Budget:
    """What a run may use; whichever comes first. `steps` counts iterations (State.k), whatever the block."""

    steps: int | None = None
    seconds: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"steps": self.steps, "seconds": self.seconds, **self.counts}.items():
            if value is not None and not value >= 0:
                raise ValueError(f"budget {name} is {value}; expected a number >= 0 or None")

    def spent(self, k: int, seconds: float, counts: Mapping[str, int]) -> str:
        """The part of the budget that is used up, or ''."""
        if self.steps is not None and k >= self.steps:
            return f"{self.steps} steps"
        if self.seconds is not None and seconds >= self.seconds:
            return f"{self.seconds:g} seconds"
        return next((f"{n} {name} calls" for name, n in self.counts.items() if counts.get(name, 0) >= n), "")


@dataclass(frozen=True)
class Moment:
    """What a watch sees after a step; `state` is borrowed and must not be kept or changed."""

    k: int
    row: Mapping[str, float]
    counts: Mapping[str, int]
    seconds: float
    state: State
    budget: Budget


Watch = Callable[[Moment], str | None]  # a text stops the run and is its reason


@dataclass(frozen=True)
class Result(Generic[A]):
    """What a run brings back. Times and memory describe the run; they are never claims."""

    answer: A
    status: Status
    reason: str
    certificate: Certificate | None
    history: History
    steps: int
    counts: Mapping[str, int]
    seconds: float
    peak_bytes: int


def iterate(
    problem: Any, method: Method[Any, S, Any], state: S, steps: int | None = None,
    until: Callable[[Look], bool] | None = None,
) -> S:  # fmt: skip
    """The bare loop, for inner solves and tests: no files, no history. `steps` counts calls of `step`."""
    done = 0
    while steps is None or done < steps:
        state = method.step(problem, state)
        look = method.look(state)
        done += 1
        if look.status is not None or (until is not None and until(look)):
            break
    return state


def solve(
    problem: Any, method: Method[Any, S, A], start: A | None = None, *, budget: Budget | None = None,
    stop: Watch | None = None, watch: Sequence[Watch] = (), seed: int | None = UNSET,
    run: RunDir | str | Path | None = None, certify: bool = True, every: Every | None = None,
) -> Result[A]:  # fmt: skip
    """Run `method` on `problem` until its criterion, the budget, `stop` or an interrupt.

    Args:
        start: where to begin; None lets the method choose.
        budget: default: the method's horizon. A horizon may not be exceeded.
        stop: called after each step; a text it returns stops the run and is its reason.
        watch: further callables of that kind (progress, snapshots).
        seed: of all streams; unset means 0, or system entropy for a private method.
        run: a run directory; only then are files written (by rank 0), and its checkpoint is resumed.
        certify: make the certificate at the end (not after an interrupt or a divergence).
        every: when to save checkpoints.

    Raises:
        ValueError: a budget beyond the method's horizon.
    """
    folder = RunDir.create(run) if isinstance(run, str | Path) else run
    if folder and method.private:
        folder.private = True
    budget = _within_horizon(budget or Budget(), method.horizon)
    if seed is UNSET and folder and folder.seed != "unset":
        seed = folder.seed
    streams = Streams((None if method.private else 0) if seed is UNSET else seed)
    state = method.init(problem, start, streams)
    history, before, ended = History(), 0.0, None
    saving = every or (folder.every if folder else None) or Every()
    if folder and (found := load_checkpoint(folder.checkpoints, state)):
        state, extra = found
        history, before, ended = History.from_json(extra["history"]), float(extra["seconds"]), extra["ended"]
        over = ended or budget.spent(state.k, before, state.counts)
        log.log(logging.DEBUG if over else logging.INFO, "resuming at step %d", state.k)
    state.limit = budget.steps
    watches = [*watch, *((stop,) if stop else ()), *(folder.watch if folder else ())]
    began = saved_at = time.perf_counter()
    saved_k = state.k
    status: Status | None = Status.BUDGET if (reason := budget.spent(state.k, before, state.counts)) else None
    if ended is not None:  # the method itself had finished
        status, reason = Status[ended[0]], ended[1]

    def save() -> None:
        if folder and is_writer():
            ended = [status.name, reason] if status is not None and status.final else None
            extra = {"history": history.to_json(), "seconds": before + time.perf_counter() - began, "ended": ended}
            save_checkpoint(folder.checkpoints, state, extra, saving.keep)
            folder.write_history(history.columns())

    with polite_interrupt() as interrupted:
        while status is None:
            state = method.step(problem, state)
            now = time.perf_counter()
            seconds = before + now - began
            look = method.look(state)
            history.add({"k": float(state.k), "seconds": seconds, **look.row})
            status, reason = _verdict(look, state, budget, seconds, watches)
            if status is None and interrupted():
                status, reason = Status.INTERRUPTED, "interrupted"
            due = (saving.steps is not None and state.k - saved_k >= saving.steps) or (
                saving.seconds is not None and now - saved_at >= saving.seconds
            )
            if due and status is None:
                save()
                saved_at, saved_k = now, state.k
        if status is not Status.DIVERGED:
            save()
        seconds = before + time.perf_counter() - began
        answer = method.answer(problem, state)
        certificate = method.certify(problem, state) if certify and status.good else None
    cost = (state.k, dict(state.counts), seconds, peak_memory())
    return Result(answer, status, reason or status.value, certificate, history, *cost)


def _within_horizon(budget: Budget, horizon: int | None) -> Budget:
    if horizon is None:
        return budget
    if budget.steps is None:
        return Budget(horizon, budget.seconds, budget.counts)
    if budget.steps > horizon:
        raise ValueError(
            f"the budget of {budget.steps} steps is beyond the method's horizon {horizon}; make the method with a longer one"
        )
    return budget


def _verdict(
    look: Look, state: State, budget: Budget, seconds: float, watches: Sequence[Watch]
) -> tuple[Status | None, str]:
    bad = [name for name, value in look.row.items() if math.isnan(value)]
    if bad and look.status is None:
        return Status.DIVERGED, f"{', '.join(bad)} became NaN at step {state.k}"
    moment = Moment(state.k, look.row, state.counts, seconds, state, budget)
    said = [text for text in [w(moment) for w in watches] if text]
    if look.status is not None:
        return look.status, look.why or look.status.value
    if said:
        return Status.STOPPED, said[0]
    spent = budget.spent(state.k, seconds, state.counts)
    return (Status.BUDGET, spent) if spent else (None, "")
