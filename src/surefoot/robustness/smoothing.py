"""Randomized smoothing with a chosen map and form: the method that certifies images one after the other.

For every image (3c of the plan):
    1  draw n0 noisy logits, choose class, form and, per input, the map by the predicted radius
    2  draw n fresh noisy logits
    3  confidence bounds with that one strategy and the whole alpha; buckets of classes share it
    4  lower_A > upper_B: the class with its radius; otherwise abstain
A fixed map is chosen once, before, on draws of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.numerics.memory import keep_freed_memory
from surefoot.robustness.estimate import Estimate, columns, estimate_counts, estimate_scores
from surefoot.robustness.maps import HARDMAX, SimplexMap, votes
from surefoot.robustness.plan import FORMS, Choice, Strategy
from surefoot.robustness.problem import Certification, Radii
from surefoot.robustness.target import Capital, null_mean

__all__ = ["CertifyRadii", "SmoothingState"]

CALIBRATE, SELECT, ESTIMATE, DONE = range(4)


@dataclass(kw_only=True)
class SmoothingState(State):
    """Where the certification is, the draws of the current image, and the finished rows.

    `phase`, `image` and `block` say what is drawn next; arrays have one row an image.
    """

    phase: int
    image: int = 0
    block: int = 0
    logits: Tensor  # (n0, c) selection draws of the current image
    scores: Tensor  # (n, 1 + buckets) soft scores of the current image; empty for counts
    merit: Tensor  # (maps,) summed predicted radii of the calibration
    fixed: int = -1  # index of the fixed map
    selected: Tensor  # (N, c) votes of the selection draws
    counted: Tensor  # (N, c) votes of the fresh draws
    top: Tensor  # (N,)
    form: Tensor  # (N,) index into FORMS
    share: Tensor  # (N,)
    map: Tensor  # (N,) index into the plan's maps
    bucket: Tensor  # (N, c)
    used: Tensor  # (N,) fresh draws
    bounds: Tensor  # (N, 3) lower, upper, radius
    kept: list[Tensor]  # soft scores, or the order of the votes, of finished images that need them
    capital: list[Tensor]  # the gambler's books of the current image, with a target


@dataclass(frozen=True)
class CertifyRadii(Method[Certification, SmoothingState, Radii]):
    """Certify the images of a `Certification`, one block of noisy forward passes at a time.

    Args:
        block: blocks of draws (of `Noise.rows` each) a step; changes the pace of checkpoints, never the result.
    """

    block: int = 8
    horizon: int | None = None

    def init(self, problem: Certification, start: Radii | None, streams: Streams) -> SmoothingState:
        """Nothing drawn yet; the model is tried on the first images.

        Raises:
            ValueError: the model's output is malformed or depends on chance.
        """
        keep_freed_memory()  # batch after batch asks for the same activations
        problem.classifier.probe(problem.images.values)
        plan, images, c = problem.plan, len(problem.images), problem.classifier.classes
        calibrate = plan.scope == "fixed" and len(plan.maps) > 1
        return SmoothingState(
            streams=streams,
            phase=CALIBRATE if calibrate else SELECT,
            logits=torch.zeros(plan.selection_draws, c, dtype=problem.classifier.dtype),
            scores=torch.zeros(0, 0),
            merit=torch.zeros(len(plan.maps), dtype=torch.float64),
            fixed=0 if plan.scope == "fixed" and not calibrate else -1,
            selected=torch.zeros(images, c, dtype=torch.int64),
            counted=torch.zeros(images, c, dtype=torch.int64),
            top=torch.full((images,), -1, dtype=torch.int64),
            form=torch.zeros(images, dtype=torch.int64),
            share=torch.zeros(images, dtype=torch.float64),
            map=torch.zeros(images, dtype=torch.int64),
            bucket=torch.zeros(images, c, dtype=torch.int64),
            used=torch.zeros(images, dtype=torch.int64),
            bounds=torch.zeros(images, 3, dtype=torch.float64),
            kept=[],
            capital=[],
        )

    def step(self, problem: Certification, state: SmoothingState) -> SmoothingState:
        """Some blocks of draws; at the end of a phase its conclusion."""
        for _ in range(state.room(self.block)):
            if state.phase == DONE:
                break
            if state.phase == ESTIMATE:
                _estimate(problem, state)
            else:
                _select(problem, state)
            state.k += 1
        return state

    def look(self, state: SmoothingState) -> Look:
        """Images done, certified share and mean radius so far."""
        done = finished(state)
        radii = state.bounds[:done, 2]
        row = {
            "images": float(done),
            "certified": float((radii > 0).double().mean()) if done else 0.0,
            "mean_radius": float(radii.mean()) if done else 0.0,
            "draws": float(state.counts.get("forward", 0)),
        }
        return Look(row, Status.CONVERGED if state.phase == DONE else None, "all images are done")

    def answer(self, problem: Certification, state: SmoothingState) -> Radii:
        """The finished images."""
        done = finished(state)
        radius = state.bounds[:done, 2].numpy().copy()
        predicted = np.where(radius > 0, state.top[:done].numpy(), -1)
        labels = problem.images.labels
        label = np.full(done, -1, dtype=np.int64) if labels is None else labels[:done]
        return Radii(np.arange(done, dtype=np.int64), label.copy(), predicted, radius)

    def certify(self, problem: Certification, state: SmoothingState) -> Certificate:
        """One table claim of the radii, and what was measured."""
        from surefoot.robustness.certify import certificate

        return certificate(problem, state, self.answer(problem, state))


def finished(state: SmoothingState) -> int:
    """How many images have their certificate."""
    return 0 if state.phase == CALIBRATE else state.image


def chosen_maps(problem: Certification, state: SmoothingState) -> list[SimplexMap]:
    """The maps among which an image's strategy may be chosen."""
    maps = problem.plan.maps
    return list(maps) if problem.plan.scope == "per-input" else [maps[state.fixed]]


def _select(problem: Certification, state: SmoothingState) -> None:
    """One block of the first draws of an image; after the last one, what it decides."""
    plan, rows = problem.plan, problem.noise.rows
    purpose = "calibrate" if state.phase == CALIBRATE else "select"
    drawn = problem.noisy_logits(state.streams, purpose, state.image, state.block, plan.selection_draws)
    state.logits[state.block * rows : state.block * rows + len(drawn)] = drawn.cpu()
    state.count(forward=len(drawn))
    state.block += 1
    if state.block < problem.noise.blocks(plan.selection_draws):
        return
    state.block = 0
    if state.phase == CALIBRATE:
        _calibrate(problem, state)
    else:
        _decide(problem, state)


def _calibrate(problem: Certification, state: SmoothingState) -> None:
    """Add what every map promises for this image; after the last one, fix the best."""
    sigma, labels = problem.classifier.sigma, problem.images.labels
    promised = problem.plan.candidates(state.logits, problem.plan.maps, sigma, problem.base_lipschitz)
    for place, which in enumerate(problem.plan.maps):
        found = max((c for c in promised if c.strategy.map == which), key=lambda c: c.predicted)
        if labels is None or found.top == int(labels[state.image]):
            state.merit[place] += max(found.predicted, 0.0)
    state.image += 1
    if state.image == min(problem.plan.calibration, len(problem.images)):
        state.fixed = int(state.merit.argmax())  # the first of the best: hardmax where it is listed first
        state.phase, state.image = SELECT, 0


def _decide(problem: Certification, state: SmoothingState) -> None:
    plan, i = problem.plan, state.image
    choice = plan.choose(state.logits, chosen_maps(problem, state), problem.classifier.sigma, problem.base_lipschitz)
    state.selected[i] = torch.bincount(votes(state.logits), minlength=problem.classifier.classes)
    state.top[i], state.form[i] = choice.top, FORMS.index(choice.strategy.form)
    state.share[i], state.map[i] = choice.strategy.share, plan.maps.index(choice.strategy.map)
    state.bucket[i] = torch.tensor(choice.bucket)
    groups = max(choice.bucket)
    if plan.target:
        state.scores = torch.zeros(plan.draws, dtype=torch.int16)
        books = Capital.start(groups)
        state.capital = [torch.from_numpy(a) for a in (books.total, books.square, books.log_capital, books.highest)]
    elif choice.strategy.map == HARDMAX:
        state.scores = torch.zeros(0, 0)
    else:
        state.scores = torch.zeros(plan.draws, 1 + groups)
    state.phase = ESTIMATE


def choice_of(problem: Certification, state: SmoothingState, image: int) -> Choice:
    """What was decided for an image."""
    strategy = Strategy(
        FORMS[int(state.form[image])], problem.plan.maps[int(state.map[image])], float(state.share[image])
    )
    return Choice(strategy, int(state.top[image]), tuple(int(b) for b in state.bucket[image]), math.nan)


def _estimate(problem: Certification, state: SmoothingState) -> None:
    """One block of fresh draws; after the last one, bounds and radius."""
    plan, i, rows = problem.plan, state.image, problem.noise.rows
    drawn = problem.noisy_logits(state.streams, "estimate", i, state.block, plan.draws)
    state.count(forward=len(drawn))
    begin = state.block * rows
    state.block += 1
    last = state.block == problem.noise.blocks(plan.draws)
    if plan.target:
        _wager(problem, state, drawn, begin, last)
        return
    state.counted[i] += torch.bincount(votes(drawn), minlength=problem.classifier.classes).cpu()
    which = plan.maps[int(state.map[i])]
    if which != HARDMAX:
        state.scores[begin : begin + len(drawn)] = columns(which, drawn, state.bucket[i].numpy()).cpu()
    if not last:
        return
    sigma, choice = problem.classifier.sigma, choice_of(problem, state, i)
    if which == HARDMAX:
        found = estimate_counts(choice, state.counted[i].numpy(), plan, sigma)
    else:
        found = estimate_scores(choice, state.scores, plan, sigma, problem.base_lipschitz, problem.classifier.classes)
        state.kept.append(state.scores)
    _finish(problem, state, found, plan.draws)


def _wager(problem: Certification, state: SmoothingState, drawn: Tensor, begin: int, last: bool) -> None:
    """Bet on one block; stop at the target."""
    plan, i = problem.plan, state.image
    seen = votes(drawn).cpu()
    state.scores[begin : begin + len(drawn)] = seen.to(torch.int16)
    total, square, log_capital, highest = (t.numpy() for t in state.capital)
    books = Capital(begin, total, square, log_capital, highest)
    null, goal = null_mean(plan.target, problem.classifier.sigma), math.log(len(total) / plan.alpha)
    reached = books.bet(state.bucket[i].numpy()[seen.numpy()], null, goal)
    state.capital = [torch.from_numpy(a) for a in (books.total, books.square, books.log_capital, books.highest)]
    if reached is None and not last:
        return
    used = reached or plan.draws
    state.counted[i] = torch.bincount(state.scores[:used].long(), minlength=problem.classifier.classes)
    state.kept.append(state.scores[:used].clone())
    _finish(problem, state, Estimate(null if reached else 0.0, 1.0, plan.target if reached else 0.0), used)


def _finish(problem: Certification, state: SmoothingState, found: Estimate, used: int) -> None:
    i = state.image
    state.bounds[i] = torch.tensor([found.lower, found.upper, found.radius], dtype=torch.float64)
    state.used[i] = used
    state.image, state.block = i + 1, 0
    state.phase = SELECT if state.image < len(problem.images) else DONE


def draws_needed(problem: Certification) -> dict[str, Any]:
    """How many noisy copies a whole run evaluates at most."""
    plan, images = problem.plan, len(problem.images)
    calibration = min(plan.calibration, images) if plan.scope == "fixed" and len(plan.maps) > 1 else 0
    return {"calibrate": calibration * plan.selection_draws, "certify": images * (plan.selection_draws + plan.draws)}
