"""The search of a certified rate as a method for `solve`: one small semidefinite program a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.problem import FixedStep
from surefoot.descent.rate_search import Bracket, RateResult, advance, conclude, first_bracket

__all__ = ["RateSearch"]


@dataclass(kw_only=True)
class RateSearchState(State):
    """The bracket of the rate; None before the first step."""

    records: ClassVar[tuple[type, ...]] = (Bracket,)
    bracket: Bracket | None = None


@dataclass(frozen=True)
class RateSearch(Method[FixedStep, RateSearchState, RateResult]):
    """Bracketed secant search on the margin of the Lyapunov program.

    Args:
        memory: past points in the Lyapunov function.
        tolerance: on the rate.
    """

    memory: int = 0
    tolerance: float = 1e-6
    horizon: int | None = None

    def init(self, problem: FixedStep, start: RateResult | None, streams: Streams) -> RateSearchState:
        return RateSearchState(streams=streams)

    def step(self, problem: FixedStep, state: RateSearchState) -> RateSearchState:
        program = LyapunovProgram(problem, self.memory)
        before = state.bracket.solves if state.bracket is not None else 0
        if state.bracket is None:
            state.bracket = first_bracket(program)
        elif not state.bracket.done:
            state.bracket = advance(program, state.bracket, self.tolerance)
        state.count(sdp=state.bracket.solves - before)
        state.k += 1
        return state

    def look(self, state: RateSearchState) -> Look:
        bracket = state.bracket
        if bracket is None:
            return Look({})
        row = {"low": bracket.low, "high": bracket.high if bracket.feasible else math.inf}
        return Look(row, Status.CONVERGED if bracket.done else None)

    def answer(self, problem: FixedStep, state: RateSearchState) -> RateResult:
        from surefoot.descent.rate_search import settle_outcome

        bracket = state.bracket or first_bracket(LyapunovProgram(problem, self.memory))
        return settle_outcome(conclude(LyapunovProgram(problem, self.memory), bracket), problem)

    def certify(self, problem: FixedStep, state: RateSearchState) -> Certificate:
        from surefoot.descent.certify import certify_rate_result

        return certify_rate_result(problem, self.answer(problem, state))
