"""What a DIFF2 run enters in its ledger, and its two last releases: the final query and the look at the held-out loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surefoot.privacy.diff2_noise import entries
from surefoot.privacy.diff2_state import HELD_OUT, Diff2State, in_order
from surefoot.privacy.federation import Federation
from surefoot.privacy.ledger import BudgetSpentError, Entry, Ledger, Release
from surefoot.privacy.mechanism import Gaussian

if TYPE_CHECKING:
    from surefoot.privacy.diff2 import Diff2

log = logging.getLogger(__name__)


def ledger_of(method: Diff2, problem: Federation, state: Diff2State) -> Ledger:
    """The run's ledger, rebuilt from its journal and the checkpoint where the state has none yet."""
    if state.ledger is None:
        held = held_out_entry(method, problem)
        noise = method.noise_of(problem)
        plan = entries(method.schedule(problem), noise, method.parts(problem), (held,) if held else ())
        journal = method.journal if problem.exchange.server else None
        state.ledger = Ledger(method.budget, plan, journal, state.entries)
        state.entries = in_order(state.ledger)
    return state.ledger


def enter(
    method: Diff2, problem: Federation, state: Diff2State, releases: Sequence[Release], keep: Sequence[Entry] = ()
) -> bool:
    """The server writes the releases down, or finds that they are beyond the budget; what it decides holds everywhere."""
    ledger, allowed = ledger_of(method, problem, state), 1.0
    if problem.exchange.server:
        try:
            ledger.enter(*releases, keep=keep)
        except BudgetSpentError as error:
            log.warning("%s", error)
            allowed = 0.0
    allowed = float(problem.exchange.announce(torch.tensor([allowed]))[0])
    if allowed and not problem.exchange.server:
        ledger.enter(*releases)
    state.entries = in_order(ledger)
    return bool(allowed)


def weight_of(method: Diff2, problem: Federation, part: int) -> float:
    """One record's weight as the ledger counts it: a client's own where its messages are private by themselves."""
    return float(problem.record_weights[part] if method.trust == "local" else problem.record_weights.max())


def foreseen(method: Diff2, problem: Federation, first: int, number: int) -> list[Release]:
    """The releases of rounds first .. first + number - 1, counted by kind; bounds of differences per unit of distance."""
    noise, clients = method.noise_of(problem), len(problem.sizes)
    rounds = range(first, first + number)
    anchors = sum(r % method.restart == 0 for r in rounds)
    found: list[Release] = []
    for part in method.parts(problem):
        weight = weight_of(method, problem, part)
        for name, multiplier, clip, count in (
            ("anchor", noise.anchor, method.clip_gradient, anchors),
            ("difference", noise.difference, method.clip_difference, number - anchors),
        ):
            if count:
                found.append(Release(name, multiplier, clip * weight, part=part, number=count))
        turns = sum(r % clients == part for r in rounds)
        if method.local is not None and turns:
            rate = method.schedule(problem).sampling[part]
            share = method.local.clip / method.local.batch
            found.append(Release("local", noise.local, share, rate, part, turns * (method.local.steps - 1)))
    return found


def queries(method: Diff2, problem: Federation) -> list[Entry]:
    """What must remain affordable until the end."""
    query = method.noise_of(problem).query
    return [Entry("final query", query, 1.0, part, 1) for part in method.parts(problem)] if query else []


def held_out_entry(method: Diff2, problem: Federation) -> Entry | None:
    """The final look at the held-out loss: a part of its own, so it has the whole budget."""
    if problem.held_out is None:
        return None
    return Entry(HELD_OUT, 2.0 / method.budget.mu * (1 + 1e-12), 1.0, len(method.parts(problem)), 1)


def noisy_sum(
    method: Diff2, problem: Federation, state: Diff2State, name: str, index: int, messages: Mapping[int, Tensor], multiplier: float, clip: float
) -> Tensor:  # fmt: skip
    """The clients' messages added up with noise, everywhere; the noise is the server's or the clients'.

    Args:
        messages: weighted sums of clipped shares, by client at hand.
        multiplier: of the sum; already entered in the ledger.
        clip: the bound c of one record's share before its weight.
    """
    exchange, weights, clients = problem.exchange, problem.record_weights, len(problem.sizes)
    gaussian = Gaussian(ledger_of(method, problem, state), state.streams)
    if method.trust != "central":
        own = multiplier / method.honest_clients(problem) ** 0.5 if method.trust == "secagg" else multiplier
        messages = {
            p: gaussian.release(
                message, name, index * clients + p, noise_multiplier=own, reserved=True,
                record_bound=clip * float(weights[p] if method.trust == "local" else weights.max()),
            )
            for p, message in messages.items()
        }  # fmt: skip
    total = exchange.total(messages, clients)
    if method.trust == "central" and exchange.server:
        bound = clip * float(weights.max())
        total = gaussian.release(total, name, index, noise_multiplier=multiplier, record_bound=bound, reserved=True)
    return exchange.announce(total)


def final_query(method: Diff2, problem: Federation, state: Diff2State, x: Tensor) -> None:
    """A noisy gradient at the answer, once; a killed run that had it already may not afford it again."""
    multiplier = method.noise_of(problem).query
    if state.query is not None or not multiplier:
        return
    clip = method.clip_gradient
    releases = [
        Release("final query", multiplier, clip * weight_of(method, problem, part), part=part)
        for part in method.parts(problem)
    ]
    if enter(method, problem, state, releases):
        messages = problem.gradient_messages(x, clip)
        state.query = noisy_sum(method, problem, state, "final query", 0, messages, multiplier, clip)


def look_at_held_out(method: Diff2, problem: Federation, state: Diff2State, x: Tensor) -> None:
    """The mean loss of the records kept apart, with noise, once. In [0, most]: a record moves it by at most most / m.

    Raises:
        ValueError: a loss is not finite.
    """
    held, entry = problem.held_out, held_out_entry(method, problem)
    if held is None or entry is None or state.held_out is not None:
        return
    bound = held.most / (2.0 * held.size)  # about the middle of the range
    if not enter(method, problem, state, [Release(HELD_OUT, entry.noise_multiplier, bound, part=entry.part)]):
        return
    losses = held.losses(x).double().cpu()
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("a held-out loss is not finite; nothing of it was released")
    gaussian = Gaussian(ledger_of(method, problem, state), state.streams)
    noisy = gaussian.release(
        losses.clamp(0.0, held.most).mean().reshape(1), HELD_OUT, 0, noise_multiplier=entry.noise_multiplier, record_bound=bound,
        reserved=True,
    )  # fmt: skip
    state.held_out = float(problem.exchange.announce(noisy)[0])
