"""Search of the best certified rate of a fixed-step method: bracketed Newton steps on the margin, then exact proofs.

The margin t(rho) of the Lyapunov program is positive exactly where a Lyapunov function exists, and the multipliers of one
solve give its derivative in rho^2 for nothing. The rate on quadratics bounds the root from below and is the root itself
for gradient descent, triple and robust momentum, so the first solve is made there; Newton steps then climb from below,
usually three. Rate 1 is tried only where they do not arrive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.momentum import fixed_step
from surefoot.descent.obstruction import ObstructionProgram
from surefoot.descent.problem import FixedStep
from surefoot.descent.rate_certificate import ObstructionCertificate, RateCertificate
from surefoot.descent.rate_proofs import prove_obstruction, prove_rate
from surefoot.descent.scaling import quadratic_rate
from surefoot.numerics.rationals import Number, spectral_radius_at_least

__all__ = ["Bracket", "RateResult", "advance", "certify", "certify_rate", "conclude", "first_bracket", "settle_outcome"]

# Proofs are tried this far above the root, and again further off where rounding destroys them.
OFFSETS = (1e-6, 3e-6, 1e-5, 1e-4, 1e-3)
# Distance below the root at which the Lyapunov program is proved infeasible.
OBSTRUCTION_OFFSETS = (4e-6, 6e-6, 2e-5, 2e-4, 2e-3)
DENOMINATOR = 10**9
# The first solve is made this far above the rate on quadratics.
NEAR = 1e-7
# Solves before the search turns from Newton steps to safer ones.
PATIENCE = 7
# A floor this near to the rate settles it; a nearer one is not looked for.
CLOSE = Fraction(1, 10**5)


@dataclass(frozen=True)
class Bracket:
    """Rates between which the margin changes sign.

    Attributes:
        low: rate without a Lyapunov function, or the lower bound from quadratics.
        high: rate with one, or 1.
        low_margin: margin at ``low``; NaN before it was solved for.
        high_margin: margin at ``high``; NaN before it was solved for.
        low_slope: derivative of the margin in rho^2 at ``low``.
        high_slope: the same at ``high``.
        quadratic: rate on quadratics.
        solves: semidefinite programs solved so far.
        done: nothing is left to search.
    """

    low: float
    high: float
    low_margin: float
    high_margin: float
    low_slope: float
    high_slope: float
    quadratic: float
    solves: int = 0
    done: bool = False

    @property
    def feasible(self) -> bool:
        """A Lyapunov function exists at ``high``."""
        return self.high_margin > 0


@dataclass(frozen=True)
class RateResult:
    """Best certified rate of a method on F_{m,L}, with its proofs.

    Attributes:
        method: the method.
        floor: rate below which a proof forbids to go: by a quadratic function (then true of the method itself)
            or by infeasibility of the Lyapunov program of this memory.
        floor_by: "quadratic" or "lyapunov".
        proof: exact proof of ``rho``, or None.
        obstruction: exact proof that the Lyapunov program is infeasible at ``lower``; None where the
            quadratic bound is within 1e-5 of ``rho``.
        quadratic: rate on quadratics with spectrum in [m, L].
        solves: semidefinite programs solved.
        memory: past points in the Lyapunov functions that were searched.
        cycle: a counterexample to convergence where no rate was found and one exists (``cycles.Cycle``).
    """

    method: FixedStep
    floor: Fraction
    floor_by: str
    proof: RateCertificate | None
    obstruction: ObstructionCertificate | None
    quadratic: float
    solves: int
    memory: int = 0
    cycle: Any = None

    @property
    def rho(self) -> float:
        """Certified rate a step, NaN where none was found; distances contract like rho^k."""
        return float(self.proof.rho) if self.proof is not None else math.nan

    @property
    def lower(self) -> float:
        """The floor as a float."""
        return float(self.floor)

    @property
    def verified(self) -> bool:
        """The rate is proved in exact arithmetic."""
        return self.proof is not None

    @property
    def outcome(self) -> str:
        """ "certified", "disproved" (a cycle is attached) or "undecided"."""
        if self.proof is not None:
            return "certified"
        return "disproved" if self.cycle is not None else "undecided"


def first_bracket(program: LyapunovProgram) -> Bracket:
    """Solve just above the rate on quadratics."""
    quadratic = quadratic_rate(program.method)
    if quadratic >= 1:
        return Bracket(1.0, 1.0, math.nan, -math.inf, math.nan, math.nan, quadratic, 0, done=True)
    low = min(quadratic + NEAR, 1.0)
    bottom = program.margin(low)
    if bottom.margin > 0 or low == 1:
        return Bracket(quadratic, low, math.nan, bottom.margin, math.nan, bottom.slope, quadratic, 1, done=True)
    return Bracket(low, 1.0, bottom.margin, math.nan, bottom.slope, math.nan, quadratic, 1)


def advance(program: LyapunovProgram, bracket: Bracket, tolerance: float) -> Bracket:
    """One more solve, which narrows the bracket from one side."""
    rho = _next_rate(bracket, tolerance)
    point = program.margin(rho)
    solves = bracket.solves + 1
    if point.margin > 0:
        moved = replace(bracket, high=rho, high_margin=point.margin, high_slope=point.slope, solves=solves)
    elif rho == 1:
        return replace(bracket, high_margin=point.margin, high_slope=point.slope, solves=solves, done=True)
    else:
        moved = replace(bracket, low=rho, low_margin=point.margin, low_slope=point.slope, solves=solves)
    return replace(moved, done=moved.feasible and moved.high - moved.low <= tolerance)


def _next_rate(bracket: Bracket, tolerance: float) -> float:
    """A Newton step from the nearer end, pushed beyond the root by less than the tolerance so that both ends close in."""
    low, high = bracket.low, bracket.high
    from_low, from_high = _newton(low, bracket.low_margin, bracket.low_slope), math.nan
    if not bracket.feasible:
        # Rate 1 decides where there is nothing to find; near it, or after a few steps, it is time to ask.
        near = not from_low < 1 - NEAR or bracket.solves >= PATIENCE
        return 1.0 if near else min(from_low + 0.4 * tolerance, 1 - NEAR)
    from_high = _newton(high, bracket.high_margin, bracket.high_slope)
    guesses = [(from_low - low, from_low + 0.4 * tolerance), (high - from_high, from_high - 0.4 * tolerance)]
    inside = [guess for guess in guesses if low < guess[1] < high]
    # Where the margin bends, Newton steps may shorten one side only; every third solve then halves the bracket.
    if not inside or (bracket.solves > PATIENCE and bracket.solves % 3 == 0):
        return (low + high) / 2
    return min(inside)[1]


def _newton(rho: float, margin: float, slope: float) -> float:
    """Root of the tangent of the margin in rho^2; NaN where it does not rise."""
    square = rho**2 - margin / slope if slope > 0 else math.nan
    return math.sqrt(square) if square > 0 else math.nan


def conclude(program: LyapunovProgram, bracket: Bracket) -> RateResult:
    """Exact proofs on both sides of a closed bracket."""
    method = program.method
    proof = _prove_above(program, bracket) if bracket.feasible else None
    quadratic = _quadratic_bound(method, bracket.quadratic)
    result = RateResult(method, quadratic, "quadratic", proof, None, bracket.quadratic, bracket.solves, program.memory)
    if proof is None or proof.rho - quadratic <= CLOSE:
        return result
    obstruction = _obstruct_below(program, bracket.low, float(proof.rho))
    if obstruction is None or obstruction.rho <= quadratic:
        return result
    return replace(result, floor=obstruction.rho, floor_by="lyapunov", obstruction=obstruction)


def _prove_above(program: LyapunovProgram, bracket: Bracket) -> RateCertificate | None:
    for offset in OFFSETS:
        rho = min(_short(bracket.high + offset, up=True), Fraction(1))
        proof = prove_rate(program, program.margin(float(rho), tolerance=1e-11), rho)
        if proof is not None:
            return proof
    return None


def _obstruct_below(program: LyapunovProgram, low: float, certified: float) -> ObstructionCertificate | None:
    candidates = ObstructionProgram(program)
    for offset in OBSTRUCTION_OFFSETS:
        # The nearest proof that holds: within 1e-5 of the certified rate where conditioning allows.
        rho = _short(max(low - offset, certified - max(9.9e-6, 2 * offset)), up=False)
        if rho <= 0:
            return None
        proof = prove_obstruction(program, candidates.solve(float(rho)), rho)
        if proof is not None:
            return proof
    return None


def _quadratic_bound(method: FixedStep, estimate: float) -> Fraction:
    """A rate proved to be necessary: some curvature of a grid has a mode that is no faster, exactly."""
    for slack in (1e-9, 1e-7, 1e-6, 1e-5, 1e-4):
        radius = _short(estimate - slack, up=False)
        if radius <= 0:
            break
        for curvature in (method.m, method.L):
            if spectral_radius_at_least(closed_loop(method, curvature), radius):
                return radius
    return Fraction(0)


def closed_loop(method: FixedStep, curvature: Fraction) -> list[list[Fraction]]:
    """A + curvature B C: one step of the method on a quadratic."""
    return [
        [a + curvature * b * c for a, c in zip(row, method.C, strict=True)]
        for row, b in zip(method.A, method.B, strict=True)
    ]


def _short(value: float, *, up: bool) -> Fraction:
    count = value * DENOMINATOR
    return Fraction(math.ceil(count) if up else math.floor(count), DENOMINATOR)


def certify_rate(
    method: FixedStep | str = "nag",
    *,
    kappa: float | None = None,
    m: float | None = None,
    L: float | None = None,
    memory: int = 0,
    tolerance: float = 1e-6,
    disprove: bool = True,
    step_size: float | None = None,
    rate: float | None = None,
) -> RateResult:
    """Best linear rate of a fixed-step method on F_{m,L} that a Lyapunov function proves, with its exact
    proof.

    Args:
        method: a ``FixedStep`` or a name of ``momentum.METHODS``.
        kappa: condition number L / m, for a named method in units where L = 1.
        m: strong convexity, for a named method.
        L: smoothness, for a named method.
        memory: past points in the Lyapunov function; 0 is enough for all methods of the table.
        tolerance: on the rate, 1e-9 to 1e-2.
        disprove: look for a cycle where no rate can be certified.
        step_size: own step size of "gd".
        rate: wanted rate of "rmm".

    Returns:
        RateResult: look at ``outcome``. "undecided" means neither a proof nor a counterexample was found.

    Raises:
        ValueError: constants missing, out of range, or given beside a ``FixedStep``.

    Example:
        >>> round(certify_rate("tmm", kappa=100.0).rho, 4)
        0.9

    References:
        Taylor, Van Scoy, Lessard, Lyapunov functions for first-order methods, ICML 2018.
    """
    if not 1e-9 <= tolerance <= 1e-2:
        raise ValueError(f"tolerance must lie in [1e-9, 1e-2], got {tolerance}")
    system = _resolve(method, kappa, m, L, step_size, rate)
    program = LyapunovProgram(system, memory)
    bracket = first_bracket(program)
    while not bracket.done:
        bracket = advance(program, bracket, tolerance)
    return settle_outcome(conclude(program, bracket), system, disprove=disprove)


def settle_outcome(result: RateResult, method: FixedStep, *, disprove: bool = True) -> RateResult:
    """The result in the user's units, with a cycle where no rate was certified and one exists."""
    proof, obstruction = result.proof, result.obstruction
    if obstruction is not None:
        obstruction = replace(obstruction, method=method)
    if proof is not None:
        return replace(result, method=method, proof=replace(proof, method=method), obstruction=obstruction)
    if not disprove:
        return replace(result, method=method)
    from surefoot.descent.cycles import find_cycle

    return replace(result, method=method, cycle=find_cycle(method))


def certify(A: Any, B: Any, C: Any, m: Number, L: Number, *, memory: int = 0, **options: Any) -> RateResult:
    """``certify_rate`` for a method given as matrices; see ``FixedStep.from_arrays``.

    Args:
        A: (n, n) state matrix.
        B: (n,) input column.
        C: (n,) output row.
        m: strong convexity.
        L: smoothness.
        memory: past points in the Lyapunov function.
        **options: ``tolerance`` and ``disprove`` of ``certify_rate``.

    Raises:
        ValueError: as in ``FixedStep.from_arrays`` and ``certify_rate``.
    """
    return certify_rate(FixedStep.from_arrays(A, B, C, m, L), memory=memory, **options)


def _resolve(
    method: FixedStep | str,
    kappa: float | None,
    m: float | None,
    L: float | None,
    step_size: float | None,
    rate: float | None,
) -> FixedStep:
    if isinstance(method, FixedStep):
        if not all(value is None for value in (kappa, m, L, step_size, rate)):
            raise ValueError("a FixedStep carries its own constants; leave out kappa, m, L, step_size and rate")
        return method
    if kappa is not None:
        if m is not None or L is not None:
            raise ValueError("give either kappa or m and L, not both")
        if not kappa > 1 or not math.isfinite(kappa):
            raise ValueError(f"kappa = L / m must be larger than 1 and finite, got {kappa}")
        m, L = 1.0 / kappa, 1.0
    if m is None or L is None:
        raise ValueError("a named method needs kappa, or both m and L")
    return fixed_step(method, m, L, step_size=step_size, rate=rate)
