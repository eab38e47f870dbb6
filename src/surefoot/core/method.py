"""How a method is written: init, step, look, answer, certify."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from surefoot.core.certificate import Certificate
    from surefoot.core.random import Streams


class Status(Enum):
    """Why a run ended, each with a sentence."""

    CONVERGED = "the method's own criterion was met"
    BUDGET = "the budget was used up"
    STREAM_END = "the stream ended"
    STOPPED = "the caller's stopping rule was met"
    INTERRUPTED = "it was interrupted; the state is saved"
    DIVERGED = "values stopped being finite"
    SEARCH_FAILED = "a line search or inner search found no acceptable point"
    INFEASIBLE = "no feasible point was found"

    @property
    def good(self) -> bool:
        """Whether the answer may be used as one."""
        return self in (Status.CONVERGED, Status.BUDGET, Status.STREAM_END, Status.STOPPED)

    @property
    def final(self) -> bool:
        """Whether going on would change nothing."""
        return self in (Status.CONVERGED, Status.STREAM_END, Status.SEARCH_FAILED, Status.INFEASIBLE)


def transient() -> Any:
    """A state field that is not saved and is rebuilt by the method when it is None."""
    return field(default=None, metadata={"transient": True})


@dataclass(kw_only=True)
class State:
    """Everything needed to go on. Subclasses add tensors, arrays, numbers, strings, and lists, tuples or
    dicts of them; classes of nested dataclasses are named in `records`."""

    records: ClassVar[tuple[type, ...]] = ()
    streams: Streams
    k: int = 0  # iterations done, in the method's own unit
    counts: dict[str, int] = field(default_factory=dict)  # gradient, hvp, exchange, forward, release, …
    limit: int | None = field(default=None, metadata={"transient": True})  # `solve` sets the budget here

    def room(self, block: int) -> int:
        """How many iterations the next block may do: `block`, or fewer where the budget ends before."""
        return block if self.limit is None else max(0, min(block, self.limit - self.k))

    def count(self, **more: int) -> None:
        """Add to the counts: `state.count(gradient=1)`."""
        for name, number in more.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def saved_fields(self) -> list[str]:
        """Names of the fields a checkpoint holds."""
        return [f.name for f in dataclasses.fields(self) if not f.metadata.get("transient")]


@dataclass(frozen=True)
class Look:
    """What a step left behind for free: scalars for the history, a status if the method has finished."""

    row: dict[str, float]
    status: Status | None = None
    why: str = ""


P = TypeVar("P", contravariant=True)
S = TypeVar("S", bound=State)
A = TypeVar("A")


class Method(Protocol[P, S, A]):
    """A frozen dataclass of hyper-parameters with these five verbs. Inherit from it, or only look like it.

    `horizon` is the number of iterations the theory was made for (None: stop at any time); `private` says
    that the seed must stay secret and the history may show released quantities only.
    """

    horizon: int | None = None
    private: bool = False

    def init(self, problem: P, start: A | None, streams: Streams) -> S:
        """Cast, project, allocate."""
        ...

    def step(self, problem: P, state: S) -> S:
        """One block of work, a few ms to a second; consumes `state`. The block size must not change the result."""
        ...

    def look(self, state: S) -> Look:
        """No oracle calls."""
        ...

    def answer(self, problem: P, state: S) -> A:
        """What the user came for, in the user's dtype and device."""
        ...

    def certify(self, problem: P, state: S) -> Certificate:
        """Claims with their evidence; may be dear; draws from streams of its own."""
        ...
