"""Claims about a DIFF2 run, from its ledger and the vectors it released; the data are not needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scipy import stats
from torch import Tensor

from surefoot.core.certificate import Certificate, Claim, Confidence, Premise, capped
from surefoot.privacy.certify import privacy_claims
from surefoot.privacy.diff2_plan import Known, stable
from surefoot.privacy.diff2_releases import held_out_entry
from surefoot.privacy.diff2_state import Diff2State, running_radius
from surefoot.privacy.federation import Federation
from surefoot.privacy.mechanism import gradient_bound

if TYPE_CHECKING:
    from surefoot.privacy.diff2 import Diff2

CARD = "diff2"
PRIVATE = Premise("each record's gradient and difference are clipped by a rule that looks at that record alone")


def certificate(method: Diff2, problem: Federation, state: Diff2State) -> Certificate:
    """Everything that can be said of the run."""
    ledger = state.ledger
    assert ledger is not None
    not_private = state.streams.seed is not None
    claims, evidence = privacy_claims(ledger, not_private=not_private, record_bound=PRIVATE, unit=problem_unit(problem))
    x = method.answer(problem, state)
    evidence["plan.json"] = plan_tree(method, problem, state)
    if method.trust == "secagg":
        claims.append(_single_message(method, problem, state))
    if state.directions is not None:
        start = problem.start if problem.start is not None else state.directions.new_zeros(problem.dim)
        released: dict[str, Any] = {
            "start": start.double().cpu().numpy(),
            "directions": state.directions[: state.k * _inner(method)].numpy(),
        }
        if state.query is not None:
            released["query"] = state.query.numpy()
        evidence["releases.npz"] = released
        claims.append(_replay(method, problem, state))
        claims.append(_running(method, problem, state))
        if state.query is not None:
            claims += [_gradient(method, problem, state, x), _drift(method, problem, state, x)]
    if (expected := _expected(method, problem, state)) is not None:
        claims.append(expected)
    if state.held_out is not None:
        claims.append(_held_out(method, problem, state))
        assert problem.held_out is not None
        evidence["held_out.json"] = {
            "released": state.held_out,
            "most": problem.held_out.most,
            "size": problem.held_out.size,
            "failure_probability": method.failure_probability,
        }
    return Certificate(CARD, tuple(claims), problem.fingerprint() if problem.identity is not None else "", evidence)


def problem_unit(problem: Federation) -> str:
    """What a record is, in the user's words."""
    return str((problem.identity or {}).get("unit", "record"))


def _inner(method: Diff2) -> int:
    return method.local.steps if method.local else 1


def plan_tree(method: Diff2, problem: Federation, state: Diff2State) -> dict[str, Any]:
    """What was fixed before the run, as far as a checker needs it."""
    tree: dict[str, Any] = {
        "rounds": state.k, "anchors": method.schedule(problem).anchors, "restart": method.restart, "inner": _inner(method),
        "step_length": method.step_length, "ridge": problem.ridge, "clip_gradient": method.clip_gradient,
        "noise_unit": method.noise_unit(problem), "failure_probability": method.failure_probability, "output": method.output,
        "trust": method.trust,
    }  # fmt: skip
    if method.restart > 1 or state.query is not None:
        tree["clip_difference"] = method.clip_difference
    if method.output == "average":
        tree["averaged_from"] = min(state.k, method.rounds // 2 + 1)
    if method.output == "random":
        tree["chosen"] = state.chosen
    if method.trust == "secagg":
        tree["honest"] = method.honest or len(problem.sizes)
    known = known_numbers(method, problem)
    if known is not None and _applies(method, problem, state, known):
        tree |= {"gap": known.gap, "clip_difference": method.clip_difference}
    return tree


def unclipped(method: Diff2, problem: Federation, differences: bool = False) -> tuple[bool, tuple[Premise, ...]]:
    """Whether no record can have been clipped, by public bounds, and the premises of that.

    Args:
        differences: ask for the bound of differences also where none is released.
    """
    premises = []
    for name, clip in (("lipschitz", method.clip_gradient), ("smoothness", method.clip_difference)):
        if name == "smoothness" and method.restart == 1 and method.local is None and not differences:
            continue
        constant = problem.constants.get(name)
        if constant is None or constant.known == "estimated" or clip < constant.value * (1 - 1e-12):
            return False, ()
        what = "gradient is longer than" if name == "lipschitz" else "gradient difference is longer, per distance, than"
        premises.append(Premise(f"no record's {what} {constant.value:.6g}: {constant.why}", constant.known))
    return True, tuple(premises)


def known_numbers(method: Diff2, problem: Federation) -> Known | None:
    """The public numbers of the a-priori bound, or None where one is missing; f is as smooth as its records at least."""
    smoothness, gap = problem.known("smoothness"), problem.known("gap")
    if smoothness is None or gap is None or method.clip_difference < smoothness * (1 - 1e-12):
        return None
    C1, C2 = method.clip_gradient, method.clip_difference
    return Known(problem.effective_records, problem.dim, C1, C2, C2 + problem.ridge, gap)


def _objective(method: Diff2, problem: Federation) -> tuple[str, tuple[Premise, ...]]:
    free, premises = unclipped(method, problem)
    if free:
        return "the objective's gradient", premises
    return f"the gradient of the clipped objective (every record's gradient at most {method.clip_gradient:g} long)", ()


def _statistical(
    name: str, statement: str, value: float, evidence: tuple[str, ...], premises: tuple[Premise, ...], level: float, test: str, **more: Any
) -> Claim:  # fmt: skip
    return Claim(
        name=name, statement=statement, value=value, kind="statistical", scope="probability", premises=premises,
        confidence=Confidence(level, test, 1), check=f"diff2-{name}", evidence=evidence, **more,
    )  # fmt: skip


def _single_message(method: Diff2, problem: Federation, state: Diff2State) -> Claim:
    assert state.ledger is not None
    mu = state.ledger.spent().mu
    assert mu is not None
    honest = method.honest or len(problem.sizes)
    return Claim(
        name="single_message",
        statement=f"mu of a client's messages for whoever sees them one by one; only their sum has the account's mu ({honest} clients "
        "add noise), so a secure aggregation protocol is needed.",
        value=mu * math.sqrt(honest), kind="proved", scope="probability", check="diff2-single_message",
        evidence=("ledger.json", "plan.json"),
        premises=(Premise(f"at least {honest} of {len(problem.sizes)} clients add their noise and keep it secret", "declared"),),
    )  # fmt: skip


def _replay(method: Diff2, problem: Federation, state: Diff2State) -> Claim:
    assert state.directions is not None
    x = (problem.start if problem.start is not None else state.directions.new_zeros(problem.dim)).double().cpu()
    origin, total, step = x.clone(), 0.0, method.step_length
    used = state.k * _inner(method)
    for direction in state.directions[:used]:
        x = x - step * (direction + problem.ridge * x)
        total += float((x - origin).norm())
    return Claim(
        name="replay",
        statement="The answer follows from the start and the released vectors alone, so it costs no further privacy; the value is the "
        "iterates' mean distance from the start.",
        value=total / used, kind="proved", check="diff2-replay", evidence=("answer", "releases.npz", "plan.json"),
    )  # fmt: skip


def _running(method: Diff2, problem: Federation, state: Diff2State) -> Claim:
    what, premises = _objective(method, problem)
    return _statistical(
        "running_gradient",
        f"At one of the iterates (all rounds hold at once) the norm of {what} is at most this, by the running estimate and the noise "
        "since its anchor.",
        state.best_bound, ("ledger.json", "releases.npz", "plan.json"), premises, 1.0 - method.failure_probability,
        "time-uniform method of mixtures",
    )  # fmt: skip


def _gradient(method: Diff2, problem: Federation, state: Diff2State, x: Tensor) -> Claim:
    assert state.query is not None
    free, premises = unclipped(method, problem)
    what = (
        "the objective's gradient"
        if free
        else f"the mean of the records' gradients, each clipped to {method.clip_gradient:g},"
    )
    value = gradient_bound(state.query + problem.ridge * x, query_std(method, problem), method.failure_probability)
    return _statistical(
        "gradient", f"The norm of {what} at the answer is at most this, by a noisy gradient released there.", value,
        ("ledger.json", "releases.npz", "plan.json", "answer"), premises, 1.0 - method.failure_probability,
        "noncentral chi-square, exact",
    )  # fmt: skip


def query_std(method: Diff2, problem: Federation) -> float:
    """Standard deviation of the final query's noise."""
    return method.noise_of(problem).query * method.clip_gradient * method.noise_unit(problem)


def _drift(method: Diff2, problem: Federation, state: Diff2State, x: Tensor) -> Claim:
    """The running estimate against the fresh query: a bias that clipped differences left would show."""
    assert state.query is not None
    last = (state.previous, state.estimate, state.variance)
    point, estimate, variance = {
        "last": last,
        "average": last,
        "random": (state.random.point, state.random.estimate, state.random.variance),
        "best": (state.best.point, state.best.estimate, state.best.variance),
    }[method.output]
    p = method.failure_probability
    radius = running_radius(variance, method.first_variance(problem), problem.dim, p, method.schedule(problem).anchors)
    fresh = query_std(method, problem) * math.sqrt(float(stats.chi2.isf(p, problem.dim)))
    bound = radius + fresh + method.clip_difference * float((x - point).norm())
    value = float((state.query - estimate).norm())
    reason = (
        f"the running estimate is {value:.3g} from the fresh gradient, more than noise explains ({bound:.3g}): differences were clipped, "
        "and what was cut off has added up; raise clip_difference, or restart more often"
    )
    return _statistical(
        "drift", "The running estimate and the fresh gradient at the answer differ by no more than noise and the last step explain: "
        "no sign that clipping has made the estimate drift.",
        value, ("ledger.json", "releases.npz", "plan.json", "answer"), (), 1.0 - 2.0 * p, "time-uniform bound and chi-square",
        bound=bound, outcome="holds" if value <= bound else "fails", reason="" if value <= bound else reason,
    )  # fmt: skip


def _expected(method: Diff2, problem: Federation, state: Diff2State) -> Claim | None:
    known = known_numbers(method, problem)
    if known is None or not _applies(method, problem, state, known):
        return None
    first, _ = noise_squares_of(method, problem)
    value = 2.0 * known.gap / (method.step_length * method.rounds) + first
    _, premises = unclipped(method, problem, differences=True)
    gap = problem.constants["gap"]
    premises = (
        *premises,
        Premise(f"f at the start is at most {known.gap:.6g} above its infimum: {gap.why}", gap.known),
    )
    return Claim(
        name="expected_gradient",
        statement="The mean over the rounds of the expected squared norm of the objective's gradient is at most this, known before the run.",
        value=value, kind=capped("proved", premises), scope="expectation", premises=premises, check="diff2-expected_gradient",
        evidence=("ledger.json", "plan.json", "releases.npz"),
    )  # fmt: skip


def noise_squares_of(method: Diff2, problem: Federation) -> tuple[float, float]:
    """(tau1^2, tau2^2) of the run's own multipliers."""
    noise, unit = method.noise_of(problem), method.noise_unit(problem)
    return (
        problem.dim * (noise.anchor * method.clip_gradient * unit) ** 2,
        problem.dim * (noise.difference * method.clip_difference * unit) ** 2,
    )


def _applies(method: Diff2, problem: Federation, state: Diff2State, known: Known) -> bool:
    """Whether the a-priori bound holds: nothing clipped, a stable step, the whole schedule done."""
    _, second = noise_squares_of(method, problem)
    whole = state.k == method.rounds and method.local is None and state.directions is not None
    free, _ = unclipped(method, problem)
    return whole and free and stable(method.step_length, method.restart, known.smoothness, second)


def _held_out(method: Diff2, problem: Federation, state: Diff2State) -> Claim:
    held, entry = problem.held_out, held_out_entry(method, problem)
    assert held is not None
    assert entry is not None
    assert state.held_out is not None
    std = entry.noise_multiplier * held.most / (2.0 * held.size)
    value = state.held_out + float(stats.norm.isf(method.failure_probability)) * std
    return _statistical(
        "held_out_loss",
        f"The mean loss of the {held.size} records kept apart, each at most {held.most:g}, is at most this at the answer (a noisy mean; they "
        "are a part of their own, so it costs the training records nothing).",
        value, ("ledger.json", "held_out.json"), (), 1.0 - method.failure_probability, "Gaussian noise of known size",
    )  # fmt: skip
