"""Which class is the backdoor's: one inversion a class and noise level, compared over the classes.

Screening gives every class a small budget at every noise level; the two best classes then get the full one. The noise
level and the iterate are chosen on validation images, the success that counts is measured on held-out ones. Every cell
is a run of its own below the run directory, so that a scan that was stopped goes on with the cell it was in.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.method import Status
from surefoot.core.rundir import RunDir
from surefoot.core.solve import Budget, Result, solve
from surefoot.records.history import History
from surefoot.records.process import peak_memory
from surefoot.robustness.certify_inversion import Terms, certify_inversions
from surefoot.robustness.inversion import Inversions, NormalisedPGD
from surefoot.robustness.suspect_problem import Suspect, default_radii
from surefoot.robustness.trigger_success import attack_success, flagged, robust_scores, success_lower_bounds

log = logging.getLogger(__name__)
STAGES = ("screening", "full")


@dataclass(frozen=True)
class Scan:
    """How a scan is made.

    Args:
        method: the inversion with its full budget; its target, radius and noise are set cell by cell.
        radii: eps to try, from small to large, until a class is flagged; () takes `default_radii`.
        noise_stds: sigma to try.
        targets: classes to try; () takes all.
        screening_steps, screening_draws: the budget of screening.
        finalists: how many classes get the full budget.
        failure_probability: of all statistical claims together, split over classes and radii.
    """

    method: NormalisedPGD = field(default_factory=lambda: NormalisedPGD(0, 1.0))
    radii: tuple[float, ...] = ()
    noise_stds: tuple[float, ...] = (0.12, 0.25, 0.5)
    targets: tuple[int, ...] = ()
    screening_steps: int = 100
    screening_draws: int = 20
    finalists: int = 2
    failure_probability: float = 0.05

    def __post_init__(self) -> None:
        if not self.noise_stds:
            raise ValueError("noise_stds is empty; give at least one noise level, such as 0.25")
        if min(self.noise_stds) < 0:
            raise ValueError(f"noise_stds holds {min(self.noise_stds)}; expected numbers >= 0 in pixel units")
        if any(not radius > 0 for radius in self.radii):
            raise ValueError(f"radii holds {min(self.radii)}; expected numbers > 0 in pixel units")
        if self.screening_steps < 1 or self.screening_draws < 1 or self.finalists < 0:
            raise ValueError("screening needs at least one step and one draw, and finalists >= 0")


@dataclass(frozen=True)
class Cell:
    """One inversion of a scan."""

    stage: str
    radius: float
    target: int
    noise_std: float

    @property
    def name(self) -> str:
        return f"{self.stage}-r{self.radius:g}-t{self.target}-s{self.noise_std:g}"


@dataclass(frozen=True)
class Found:
    """What a cell found, with its success on the validation images."""

    cell: Cell
    inversion: Inversions
    validation: float

    @property
    def preference(self) -> tuple[float, float, int]:
        """Success first; among equals more noise, whose triggers are truer, and the fuller budget."""
        return self.validation, self.cell.noise_std, STAGES.index(self.cell.stage)


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """A cell was interrupted; its state is saved."""


@dataclass
class _Sweep:
    """The loop over cells and what it has used so far."""

    problem: Suspect
    scan: Scan
    run: RunDir | None
    seed: int
    history: History = field(default_factory=History)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    failed: list[str] = field(default_factory=list)

    def invert(self, cell: Cell) -> Found:
        """One cell, resumed where it was."""
        scan, full = self.scan, cell.stage == "full"
        method = dataclasses.replace(
            scan.method, target=cell.target, radius=cell.radius, noise_std=cell.noise_std,
            draws=scan.method.draws if full else min(scan.screening_draws, scan.method.draws),
            horizon=scan.method.horizon if full else min(scan.screening_steps, scan.method.horizon or scan.screening_steps),
        )  # fmt: skip
        result = solve(self.problem, method, seed=self.seed, run=self._folder(cell), certify=False, budget=Budget())
        if result.status is Status.INTERRUPTED:
            raise Interrupted
        if not result.status.good:
            self.failed.append(f"{cell.name}: {result.reason}")
        self.steps += result.steps
        for name, number in result.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        delta = torch.from_numpy(result.answer.perturbations[0])
        rows = self.problem.validation if len(self.problem.validation) else self.problem.start
        success = attack_success(self.problem, delta, cell.target, rows)
        last = {name: float(column[-1]) for name, column in result.history.columns().items() if len(column)}
        self.history.add({
            "k": float(self.steps), "success": success.rate, "probability": last.get("probability", 0.0),
            "loss": last.get("loss", float("inf")), "target": float(cell.target), "noise_std": cell.noise_std, "radius": cell.radius,
            "full": float(full),
        })  # fmt: skip
        return Found(cell, result.answer, success.rate)

    def _folder(self, cell: Cell) -> RunDir | None:
        if self.run is None:
            return None
        folder = RunDir.create(self.run.checkpoints / "cells" / cell.name, resume=True)
        folder.watch, folder.every = self.run.watch, self.run.every
        return folder

    def classes(self, targets: Sequence[int], radius: float) -> list[Found]:
        """The best inversion of every class at one radius."""
        scan = self.scan
        best: dict[int, Found] = {}
        for target in targets:
            cells = [Cell("screening", radius, target, sigma) for sigma in scan.noise_stds]
            best[target] = max((self.invert(cell) for cell in cells), key=lambda found: found.preference)
        finalists = sorted(targets, key=lambda t: best[t].validation, reverse=True)[: scan.finalists]
        for target in finalists:
            cells = [Cell("full", radius, target, sigma) for sigma in scan.noise_stds]
            again = [self.invert(cell) for cell in cells]
            best[target] = max([best[target], *again], key=lambda found: found.preference)
        return [best[target] for target in targets]


def scan_classes(problem: Suspect, scan: Scan, run: RunDir | None = None, seed: int = 0) -> Result[Inversions]:
    """Scan the classes; the answer holds one perturbation a class, the certificate says which one stands out.

    Args:
        problem: the suspect with its images.
        scan: budgets and grids.
        run: a run directory; cells are resumed from it.
        seed: of all noise.
    """
    began = time.perf_counter()
    sweep = _Sweep(problem, scan, run, seed)
    targets = _targets(problem, scan)
    radii = tuple(sorted(scan.radii)) or default_radii(problem.classifier.dimension)
    if run is not None and (begun := len(list((run.checkpoints / "cells").glob("*")))):
        log.info("going on with a scan; %d of its inversions are at hand", begun)
    answer = None
    status, reason = Status.CONVERGED, "every class was scanned"
    radius = radii[0]
    try:
        for radius in radii:
            answer = _stack(sweep.classes(targets, radius))
            if _stands_out(problem, answer, scan.failure_probability, len(targets) * len(radii)):
                break
    except Interrupted:
        status, reason = Status.INTERRUPTED, "interrupted; finished classes and the current state are saved"
    if sweep.failed:
        warnings.warn(f"{len(sweep.failed)} inversions found no gradient, e.g. {sweep.failed[0]}", stacklevel=2)
    certificate = None
    if status is Status.CONVERGED and answer is not None:
        terms = Terms(
            radius, len(radii), scan.failure_probability, scan.method.certificate_draws, seed, tuple(scan.noise_stds)
        )
        certificate = certify_inversions(problem, answer, terms)
    seconds = time.perf_counter() - began
    return Result(answer, status, reason, certificate, sweep.history, sweep.steps, sweep.counts, seconds, peak_memory())  # pyright: ignore[reportReturnType] - an interrupted scan has no answer


def _targets(problem: Suspect, scan: Scan) -> list[int]:
    """The classes that have a start image; one without is left out with a warning."""
    wanted = scan.targets or tuple(range(problem.classifier.classes))
    usable = []
    for target in wanted:
        problem.require_class(target)
        try:
            problem.start_rows(target, scan.method.shared)
        except ValueError as error:
            warnings.warn(f"class {target} is not scanned: {error}", stacklevel=3)
        else:
            usable.append(target)
    if not usable:
        raise ValueError("no class can be scanned: every start image is of the class asked for; give other images")
    return usable


def _stack(found: Sequence[Found]) -> Inversions:
    parts = [f.inversion for f in found]
    names = [f.name for f in dataclasses.fields(Inversions)]
    return Inversions(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def _stands_out(problem: Suspect, answer: Inversions, failure_probability: float, looks: int) -> bool:
    """Whether a class is flagged on the *validation* images: the held-out ones may not decide when to stop."""
    rows = problem.validation if len(problem.validation) else problem.heldout
    counts = [attack_success(problem, delta, int(target), rows) for target, delta in _pairs(answer)]
    successes, trials = np.array([c.successes for c in counts]), np.array([c.trials for c in counts])
    scores = robust_scores(successes, trials)
    lower = success_lower_bounds(successes, trials, failure_probability, looks)
    return any(flagged(float(s), float(p)) for s, p in zip(scores, lower, strict=True))


def _pairs(answer: Inversions) -> Iterator[tuple[int, Tensor]]:
    for target, delta in zip(answer.targets, answer.perturbations, strict=True):
        yield int(target), torch.from_numpy(delta)


def detect(
    model: Any, images: Any, labels: Any = None, *, classes: int | None = None, scan: Scan | None = None, seed: int = 0,
    denoiser: Any = None, device: str = "cpu",
) -> Report:  # fmt: skip
    """Does this model hide a backdoor? One call for a torch module and clean images.

    Args:
        model: a `torch.nn.Module` in eval mode with its normalisation inside, or a `Classifier`.
        images: (n, C, H, W) floating point in [0, 1]; a handful to begin at, the more the narrower the intervals.
        labels: (n,); None takes the model's own decisions.
        classes: number of logits; found on the images where not given.
        scan: budgets and grids.
        seed: of the deal and of all noise.
        denoiser: D(noisy, sigma), applied before the model wherever there is noise.
        device: where the model is.

    Returns:
        The report: per-class table, verdict, perturbations, certificate.

    Raises:
        ValueError: images outside [0, 1] or of integers, a model in train mode, NaN logits, too few images.
    """
    from surefoot.robustness.problem import Classifier
    from surefoot.robustness.suspect_problem import suspect

    if isinstance(model, Classifier):
        classifier = model
    else:
        values = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
        if classes is None:
            with torch.no_grad():
                classes = int(model(values[:1].to(device=device, dtype=torch.float32)).shape[-1])
        classifier = Classifier(model, tuple(values.shape[1:]), classes, device=device)
    problem = suspect(classifier, images, labels, denoiser=denoiser, seed=seed)
    chosen = scan or Scan()
    result = scan_classes(problem, chosen, seed=seed)
    return Report.of(problem, result)


@dataclass(frozen=True)
class Report:
    """What a scan found.

    Attributes:
        flagged: whether a class stands out by the rule (score > 3.5 and success lower bound > 1/2). False is no proof of
            absence.
        target: the class that stands out most.
        score, success, lower: its robust score, its success on held-out images, and the joint lower bound of that.
        table: per-class columns (target, noise_std, norm, successes, trials, lower, score, ...).
        image: the start image with the trigger (C, H, W); perturbation: the trigger itself.
        result: the whole result with its certificate, for `surefoot.verify(report.result, report.problem)`.
    """

    flagged: bool
    target: int
    score: float
    success: float
    lower: float
    table: dict[str, Any]
    image: np.ndarray[Any, np.dtype[Any]]
    perturbation: np.ndarray[Any, np.dtype[Any]]
    problem: Suspect
    result: Result[Inversions]

    @classmethod
    def of(cls, problem: Suspect, result: Result[Inversions]) -> Report:
        """The report of a finished scan."""
        if result.certificate is None:
            raise ValueError("the scan was interrupted; there is no report")
        table = result.certificate.evidence["scan.csv"]
        place = int(np.argmax(table["rank"] == 1))
        start = problem.images[int(result.answer.starts[place])].cpu().numpy()
        delta = result.answer.perturbations[place]
        score, lower = float(table["score"][place]), float(table["lower"][place])
        success = float(table["successes"][place] / max(table["trials"][place], 1))
        return cls(
            flagged(score, lower),
            int(table["target"][place]),
            score,
            success,
            lower,
            table,
            start + delta,
            delta,
            problem,
            result,
        )
