"""What the checkers of recovered triggers share: the case in float64, counts that rounding cannot change, the table of classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Dossier
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Suspect, with_trained_weights

Array = np.ndarray[Any, np.dtype[Any]]
NEAR = 1e-4  # logit gaps below this share of the logits' spread may be rounded to either side in float32


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the model."""


def require(fits: Any, what: str) -> None:
    if not bool(np.all(fits)):
        raise EvidenceError(what)


def _with_its_network(dossier: Dossier) -> Suspect:
    """The problem, with the network that the run trained where it trained one."""
    problem: Suspect = dossier.problem
    identity = problem.classifier.identity
    if identity is None or "trained" not in identity:
        return problem
    weights = dict(dossier.evidence["network.npz"])
    require(fingerprint(weights) == dossier.evidence["terms.json"]["network"], "network.npz is not the run's network")
    return with_trained_weights(problem, weights)


class Case:
    """Answer, table and terms, after checking that they speak of the same perturbations."""

    def __init__(self, dossier: Dossier) -> None:
        self.problem: Suspect = _with_its_network(dossier)
        self.answer = dossier.answer
        self.table = dossier.evidence["scan.csv"]
        self.dossier = dossier
        names = {"target": "targets", "noise_std": "noise_stds", "start": "starts"}
        for column, field in names.items():
            require(
                np.array_equal(self.table[column], np.asarray(getattr(self.answer, field), dtype=np.float64)),
                f"the table's {column} is not the answer's",
            )
        shape = (len(self.table["target"]), *self.problem.classifier.shape)
        require(self.answer.perturbations.shape == shape, f"the perturbations are not of shape {shape}")
        require(np.isfinite(self.answer.perturbations), "a perturbation holds NaN or infinity")
        for target, row in zip(self.answer.targets, self.answer.starts, strict=True):
            require(int(row) in self.problem.start_rows(int(target), 1), f"class {target} begins at another image")
        require(np.array_equal(np.sort(self.table["rank"]), np.arange(1, shape[0] + 1)), "the ranks are no ranking")
        self.place = int(np.argmin(self.table["rank"]))

    @property
    def terms(self) -> dict[str, Any]:
        terms = self.dossier.evidence["terms.json"]
        kinds = {"radius": float, "radii": int, "failure_probability": float, "draws": int, "seed": int}
        for name, kind in kinds.items():
            good = isinstance(terms[name], kind | int) and not isinstance(terms[name], bool)
            require(good and terms[name] >= 0, f"terms.json: {name} is {terms[name]!r}")
        return terms

    @property
    def target(self) -> int:
        return int(self.table["target"][self.place])

    @property
    def sigma(self) -> float:
        return float(self.table["noise_std"][self.place])

    @property
    def row(self) -> int:
        return int(self.table["start"][self.place])

    @property
    def image(self) -> Tensor:
        return self.problem.images[self.row].double().cpu()

    def delta(self, place: int | None = None) -> Tensor:
        return torch.from_numpy(self.answer.perturbations[self.place if place is None else place]).double()

    def draw(self, name: str, count: int, *index: int) -> Tensor:
        """Standard normal draws at their address."""
        generator = Streams(self.terms["seed"]).torch(name, *index)
        return torch.randn(count, *self.image.shape, generator=generator).double()

    def noisy(self, image: Tensor, z: Tensor, sigma: float) -> Iterator[Tensor]:
        """Noisy copies after the denoiser, 37 at a time."""
        for part in (image + sigma * z).split(37):
            yield self.denoised(part, sigma)

    def denoised(self, part: Tensor, sigma: float) -> Tensor:
        denoiser = self.problem.denoiser
        if denoiser is None or not sigma:
            return part
        like = self.problem.images
        return denoiser(part.to(like), sigma).double().cpu()


def exact_logits(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """The model in float64 on the CPU where it is a module; as it is otherwise."""
    if isinstance(classifier.model, nn.Module):
        twin = copy.deepcopy(classifier.model).cpu().double().requires_grad_(False)
        return lambda images: twin(images.double().cpu())
    return lambda images: classifier.logits(images.to(device=classifier.device, dtype=classifier.dtype)).double().cpu()


def decided(z: Tensor, target: int) -> tuple[Array, Array]:
    """Which rows are surely, and which are possibly, decided as the target."""
    gap = (z[:, target] - z[:, torch.arange(z.shape[1]) != target].amax(1)).numpy()
    room = NEAR * z.std(1).numpy()
    return gap > room, gap >= -room


def hits(case: Case, logits: Any, images: Tensor, target: int) -> tuple[int, int]:
    with torch.no_grad():
        parts = [decided(logits(part), target) for part in images.split(97)]
    return sum(int(sure.sum()) for sure, _ in parts), sum(int(maybe.sum()) for _, maybe in parts)


def case_of(dossier: Dossier) -> Case:
    kept = vars(dossier).setdefault("_inversion_case", {})
    if "case" not in kept:
        kept["case"] = Case(dossier)
    return kept["case"]


def lower_bound(successes: int, trials: int, failure_probability: float) -> float:
    """The success probability at which so many successes or more have just the failure probability."""
    if successes == 0 or trials == 0:
        return 0.0
    tail = lambda p: stats.binom.sf(successes - 1, trials, p) - failure_probability  # noqa: E731
    root: Any = optimize.brentq(tail, 1e-15, successes / trials if successes < trials else 1.0, xtol=1e-15)
    return float(root)


def _scores(k: Array, n: Array) -> Array:
    s = np.log((k + 0.5) / (n - k + 0.5))
    centred = s - np.median(s)
    middle = int(np.argmin(np.abs(centred)))
    floor = math.sqrt(1 / (k[middle] + 0.5) + 1 / (n[middle] - k[middle] + 0.5))
    return centred / max(stats.median_abs_deviation(s, scale=1 / 1.4826), floor)


def check_table(case: Case) -> None:
    """Counts again in float64 for the class in question and for a subset of the others; bounds, scores and ranks for all."""
    kept = vars(case)
    if "table_checked" in kept:
        return
    logits, problem, table = exact_logits(case.problem.classifier), case.problem, case.table
    terms = case.terms
    for place in {case.place, *case.dossier.rows(len(table["target"])).tolist()}:
        target = int(table["target"][place])
        rows = problem.heldout[problem.labels[problem.heldout] != target]
        images = problem.images[torch.from_numpy(rows)].double().cpu()
        require(
            table["trials"][place] == len(rows),
            f"class {target}: there are {len(rows)} held-out images of other classes",
        )
        changed = torch.clamp(images + case.delta(place), 0, 1)
        for column, shown in (("successes", changed), ("before", images)):
            low, high = hits(case, logits, shown, target)
            require(
                low <= table[column][place] <= high, f"class {target}: {column} is {low}, not {table[column][place]:g}"
            )
    looks = len(table["target"]) * int(terms["radii"])
    lower = [
        lower_bound(int(k), int(n), terms["failure_probability"] / looks)
        for k, n in zip(table["successes"], table["trials"], strict=True)
    ]
    require(np.allclose(table["lower"], lower, rtol=1e-6, atol=1e-9), "the lower bounds are not Clopper and Pearson's")
    if len(lower) >= 3:
        require(
            np.allclose(table["score"], _scores(table["successes"], table["trials"]), rtol=1e-9, atol=1e-9),
            "the scores differ",
        )
    else:
        require(np.isnan(table["score"]), "fewer than three classes have no scores")
    _check_ranks(table)
    kept["table_checked"] = True


def _check_ranks(table: dict[str, Array]) -> None:
    share = table["successes"] / np.maximum(table["trials"], 1)
    keys = sorted(range(len(share)), key=lambda i: (-np.nan_to_num(table["score"][i]), -share[i], i))
    ranks = np.empty(len(share))
    ranks[keys] = np.arange(1, len(share) + 1)
    require(np.array_equal(ranks, table["rank"]), "the ranks do not follow scores and success")


def check_confidence(claim: Claim, case: Case, samples: int) -> None:
    said = claim.confidence
    level = 1 - case.terms["failure_probability"]
    require(said is not None and abs(said.level - level) < 1e-12 and said.samples == samples, "another confidence")
