"""The ledger of a private run: every release is written down, and synced to disk, before its value leaves the mechanism.

A run that is killed between the two has spent what it wrote: the entries that its checkpoint does not know stay in the
ledger when it goes on, and a release that the budget no longer covers is refused.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from surefoot.privacy.gaussian_dp import mu_for
from surefoot.records.files import UnsafeFileError, regular
from surefoot.records.trees import typed

if TYPE_CHECKING:
    from surefoot.privacy.accounting import Account

Key = tuple[str, float, float, int]  # name, noise multiplier, sampling rate, part
Neighbours = Literal["replace", "add-remove"]
SLACK = 1e-9
"""Relative rounding allowed between a planned schedule and the sum of its releases."""


class BudgetSpentError(ValueError):
    """The next release would go beyond the budget; what was spent so far stands."""


@dataclass(frozen=True)
class Budget:
    """What may be spent: (epsilon, delta) for neighbours that differ in one record, replaced or added."""

    epsilon: float
    delta: float
    neighbours: Neighbours = "replace"

    def __post_init__(self) -> None:
        if self.neighbours not in get_args(Neighbours):
            raise ValueError(f"neighbours is {self.neighbours!r}; expected one of {', '.join(get_args(Neighbours))}")
        mu_for(self.epsilon, self.delta)  # names what is wrong with either

    @property
    def mu(self) -> float:
        """The mu of Gaussian DP that the budget amounts to."""
        return mu_for(self.epsilon, self.delta)


@dataclass(frozen=True)
class Release:
    """One noisy vector: `value + N(0, (noise_multiplier * record_bound)^2 I)`.

    Args:
        name: what it is ("anchor", "difference", "final query").
        noise_multiplier: noise standard deviation over `record_bound`; fixed before the run.
        record_bound: the most that one record contributes to the value (norm). Public, may depend on earlier releases; 0 is
            a release that carries nothing.
        sampling: rate of Poisson sampling; 1 uses every record.
        part: index of the disjoint set of records used, or -1 for all of them (parallel composition over parts).
        number: how many such releases (a block is reserved at once).
    """

    name: str
    noise_multiplier: float
    record_bound: float
    sampling: float = 1.0
    part: int = -1
    number: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_multiplier < math.inf:
            raise ValueError(
                f"release {self.name!r}: the noise multiplier is {self.noise_multiplier}; expected a number > 0"
            )
        if not 0.0 <= self.record_bound < math.inf:
            raise ValueError(
                f"release {self.name!r}: one record's share is {self.record_bound}; expected a number >= 0"
            )
        if not 0.0 < self.sampling <= 1.0:
            raise ValueError(
                f"release {self.name!r}: the sampling rate is {self.sampling}; expected a number in (0, 1]"
            )
        if self.number < 1 or self.part < -1:
            raise ValueError(f"release {self.name!r}: number {self.number}, part {self.part}; expected >= 1 and >= -1")

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each coordinate."""
        return self.noise_multiplier * self.record_bound


@dataclass(frozen=True)
class Entry:
    """Releases of one kind, counted: a line of the ledger as an accountant reads it."""

    name: str
    noise_multiplier: float
    sampling: float
    part: int
    number: int


def tally(releases: Iterable[Release | Entry]) -> Counter[Key]:
    """Releases added up by what the accountant looks at, in order of first appearance."""
    total: Counter[Key] = Counter()
    for release in releases:
        total[release.name, release.noise_multiplier, release.sampling, release.part] += release.number
    return total


@dataclass
class Ledger:
    """What was released, against what may be.

    Args:
        budget: the limit.
        plan: the releases foreseen; their account must be within the budget. A release within the plan needs no new
            accounting; one beyond it is admitted only if the account of all that was released still is.
        journal: the file that is synced before a value leaves; None keeps the ledger in memory (in-process use).
        known: what a checkpoint says was released. The journal may know more (a killed run), never less.

    Raises:
        BudgetSpentError: the plan is beyond the budget.
        UnsafeFileError: the journal lacks releases that the checkpoint knows.
    """

    budget: Budget
    plan: Sequence[Entry] = ()
    journal: Path | None = None
    known: Sequence[Entry] = ()
    _used: Counter[Key] = field(default_factory=Counter[Key])
    _planned: Counter[Key] = field(default_factory=Counter[Key])
    _length: int = 0  # of the journal as this ledger knows it

    def __post_init__(self) -> None:
        from surefoot.privacy.accounting import account

        if self.plan:
            planned = account(self.plan, self.budget.neighbours)
            if planned.delta(self.budget.epsilon) > self.budget.delta * (1.0 + SLACK):
                raise BudgetSpentError(
                    f"the planned releases are ({planned.epsilon(self.budget.delta):.6g}, {self.budget.delta:g})-DP, beyond "
                    f"epsilon {self.budget.epsilon:g}; add noise or release less"
                )
        self._planned = tally(self.plan)
        known = tally(self.known)
        self._used = tally(read_journal(self.journal)) if self.journal is not None else Counter(known)
        self._length = self.journal.stat().st_size if self.journal is not None and self.journal.exists() else 0
        if lost := known - self._used:
            raise UnsafeFileError(
                f"{self.journal} lacks {sum(lost.values())} releases that the checkpoint knows; without them the privacy spent "
                "cannot be told: start another run with a new budget, or bring the file back"
            )

    def enter(self, *releases: Release, keep: Sequence[Entry] = ()) -> None:
        """Write releases down, all or none, and sync; only then may their values be drawn.

        Args:
            keep: releases that must remain affordable after these (a final query).

        Raises:
            BudgetSpentError: they are beyond the budget; nothing was written.
        """
        after = self._used + tally(releases)
        kept = after + tally(keep)
        if kept - self._planned:
            self._require_affordable(releases, kept)
        if self.journal is not None:
            self._length = append_journal(self.journal, releases, self._length)
        self._used = after

    def entries(self) -> list[Entry]:
        """The ledger as an accountant reads it."""
        return [Entry(*key, number) for key, number in self._used.items()]

    def released(self, name: str) -> int:
        """How many releases of that name were entered."""
        return sum(number for key, number in self._used.items() if key[0] == name)

    def left(self, release: Release) -> int:
        """How many releases of that kind the plan still holds; what a killed run wrote is gone."""
        (key,) = tally([release])
        return self._planned[key] - self._used[key]

    def spent(self) -> Account:
        """What the entries cost so far."""
        from surefoot.privacy.accounting import account

        return account(self.entries(), self.budget.neighbours)

    def _require_affordable(self, releases: Sequence[Release], after: Counter[Key]) -> None:
        from surefoot.privacy.accounting import account

        cost = account([Entry(*key, number) for key, number in after.items()], self.budget.neighbours)
        if cost.delta(self.budget.epsilon) > self.budget.delta * (1.0 + SLACK):
            raise BudgetSpentError(
                f"the budget (epsilon {self.budget.epsilon:g}, delta {self.budget.delta:g}) is spent: "
                f"{sum(self._used.values())} releases cost epsilon {self.spent().epsilon(self.budget.delta):.6g}, and "
                f"{releases[0].name!r} would make it {cost.epsilon(self.budget.delta):.6g}"
            )


# ---- the journal --------------------------------------------------------------------------------------------
def append_journal(path: Path, releases: Sequence[Release], length: int) -> int:
    """Append a line a release and sync: when this returns, a power cut keeps the lines.

    Args:
        length: bytes that the journal should have.

    Returns:
        Its new length.

    Raises:
        UnsafeFileError: it has another length, since a second process works on the same run; nothing was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    text = "".join(json.dumps(asdict(release)) + "\n" for release in releases)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        _lock(handle)  # until the handle is closed
        if (found := os.fstat(handle).st_size) != length:
            raise UnsafeFileError(
                f"{path} has {found} bytes where this run left {length}: another process goes on with the same run, and both "
                "together would spend more than the budget; let one finish"
            )
        written = os.write(handle, text.encode())
        if written != len(text.encode()):
            raise OSError(f"{path}: only {written} of {len(text.encode())} bytes could be written; is the disk full?")
        os.fsync(handle)
    finally:
        os.close(handle)
    if fresh:  # the name of a new file is durable only once its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return length + written


def _lock(handle: int) -> None:
    """Nobody else writes between the look at the length and the sync (advisory; where the system has no such locks, the look alone)."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(handle, fcntl.LOCK_EX)


def read_journal(path: Path) -> list[Release]:
    """The releases written down; a torn last line was never synced, so its value never left, and is cut off.

    Raises:
        UnsafeFileError: a line that is no release; a ledger that cannot be read must not be taken for an empty one.
    """
    if not path.exists():
        return []
    data = regular(path).read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    try:
        return [typed(json.loads(line), Release) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise UnsafeFileError(f"{path} is not a ledger of releases: {error}") from error


def ledger_tree(budget: Budget, entries: Sequence[Entry], **more: Any) -> Mapping[str, Any]:
    """The ledger as evidence: the budget's relation and the counted entries, without data and without noise."""
    return {"neighbours": budget.neighbours, "entries": [asdict(entry) for entry in entries], **more}
