"""A smoothed classifier in the habits of scikit-learn: fit chooses the map, predict votes, certify gives radii."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from surefoot.core.problem import Constant
from surefoot.core.random import Streams
from surefoot.records.files import write_npz
from surefoot.robustness.logs import append_row, read_log, whole_rows
from surefoot.robustness.maps import HARDMAX, SimplexMap, grid, votes
from surefoot.robustness.noise import Noise
from surefoot.robustness.plan import Plan
from surefoot.robustness.problem import Certification, Classifier, LabelledImages, Radii
from surefoot.robustness.smoothing import CALIBRATE, DONE, CertifyRadii, finished

__all__ = ["Denoised", "SmoothedClassifier", "certify_smoothed"]


def certify_smoothed(
    classifier: Classifier, images: Any, labels: Any = None, *, plan: Plan | None = None, noise: Noise | None = None, seed: int = 0,
    log: str | Path | None = None, store: str | Path | None = None,
) -> Radii:  # fmt: skip
    """Certify images with one call.

    Args:
        classifier: with its sigma.
        images: (n, *shape) in the classifier's range.
        labels: (n,) if known.
        plan: default: hardmax, 10,000 draws after 1,000, alpha 0.001.
        seed: of the addressed noise; another seed certifies anew.
        log: a log that gets a line as soon as an image is done. Where it has lines already, the run goes on after them: draws are
            addressed by image, so it ends with the same certificates.
        store: a folder that gets `logits-<image>.npz` with the fresh noisy logits.

    Raises:
        ValueError: bad images, labels or model; a log of other images.
    """
    plan = Plan(maps=(HARDMAX,)) if plan is None else plan
    table = LabelledImages(classifier.tensor(images), None if labels is None else np.asarray(labels))
    problem = Certification(classifier, table, plan, noise or Noise())
    method, streams = CertifyRadii(block=1), Streams(seed)
    state = method.init(problem, None, streams)
    rows = _Rows(problem, Path(log) if log else None)
    if rows.done and state.phase == CALIBRATE:
        raise ValueError(
            "a plan with a calibration cannot go on from a log; fix its map first (SmoothedClassifier.fit)"
        )
    if rows.done == len(table):
        return rows.all
    state.image = rows.done
    kept: list[Tensor] = []
    drawing = problem if store is None else _listening(problem, kept)
    began = time.perf_counter()
    while state.phase != DONE:
        before = finished(state)
        state = method.step(drawing, state)
        if finished(state) > before:
            now = time.perf_counter()
            rows.add(problem, state, before, now - began)
            if store is not None:
                write_npz(Path(store) / f"logits-{before}.npz", {"logits": torch.cat(kept).numpy()})
                kept.clear()
            began = now
    return rows.all


class _Rows:
    """The finished certificates, on disk as they come."""

    def __init__(self, problem: Certification, log: Path | None) -> None:
        self.log, n = log, len(problem.images)
        self.done = 0 if log is None else whole_rows(log)
        empty = np.zeros(0, dtype=np.int64)
        self.all = read_log(log) if log is not None and self.done else Radii(empty, empty, empty, np.zeros(0))
        labels = problem.images.labels
        expected = np.full(n, -1) if labels is None else labels
        if self.done > n or not np.array_equal(self.all.index, np.arange(self.done)):
            raise ValueError(
                f"the log {log} has {self.done} rows that are not the first of these {n} images; give another log"
            )
        if not np.array_equal(self.all.label, expected[: self.done]):
            raise ValueError(f"the log {log} has other labels than these images; give another log")

    def add(self, problem: Certification, state: Any, image: int, seconds: float) -> None:
        radius = float(state.bounds[image, 2])
        label = -1 if problem.images.labels is None else int(problem.images.labels[image])
        predicted = int(state.top[image]) if radius > 0 else -1
        more = [np.append(a, v) for a, v in zip(
            (self.all.index, self.all.label, self.all.predicted), (image, label, predicted), strict=True)]  # fmt: skip
        self.all = Radii(more[0], more[1], more[2], np.append(self.all.radius, radius))
        if self.log is not None:
            append_row(self.log, self.all, seconds)


def _listening(problem: Certification, kept: list[Tensor]) -> Certification:
    """The same problem, that also keeps the logits it gives."""

    class Listening(Certification):
        def noisy_logits(self, streams: Streams, purpose: str, image: int, block: int, draws: int) -> Tensor:
            logits = super().noisy_logits(streams, purpose, image, block, draws)
            if purpose == "estimate":
                kept.append(logits.cpu())
            return logits

    return Listening(problem.classifier, problem.images, problem.plan, problem.noise)


class SmoothedClassifier:
    """A classifier averaged over Gaussian noise.

    Args:
        base: a `Classifier`, or a torch module or callable from images to logits.
        sigma: standard deviation of the noise, in the unit of the images.
        alpha, draws, selection_draws: see `Plan`.
        classes: number of classes, where `base` is no `Classifier`; found on the first images otherwise.
        lipschitz: a known Lipschitz constant of the logits.
        noise: how draws are made.
        seed: of the addressed noise.

    Attributes:
        map_: the map from logits to the simplex, after `fit`; hardmax before.
    """

    def __init__(
        self, base: Any, sigma: float = 0.25, *, alpha: float = 0.001, draws: int = 10_000, selection_draws: int = 1_000,
        classes: int | None = None, lipschitz: float | Constant | None = None, noise: Noise | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.base, self.sigma, self.alpha = base, sigma, alpha
        self.draws, self.selection_draws, self.classes = draws, selection_draws, classes
        self.lipschitz, self.noise, self.seed = lipschitz, noise or Noise(), seed
        self.map_: SimplexMap = HARDMAX

    def fit(self, images: Any, labels: Any = None, maps: Sequence[SimplexMap] | None = None) -> SmoothedClassifier:
        """Choose the map, once, by the average radius that it promises on these images; then it is fixed."""
        plan = replace(self._plan(), maps=tuple(maps or grid()), calibration=len(images))
        problem = self._problem(images, labels, plan)
        method = CertifyRadii(block=1)
        state = method.init(problem, None, Streams(self.seed))
        while state.fixed < 0:
            state = method.step(problem, state)
        self.map_ = plan.maps[state.fixed]
        return self

    def certify(self, images: Any, labels: Any = None, **more: Any) -> Radii:
        """Class and radius of every image; see `certify_smoothed`."""
        return certify_smoothed(
            self._classifier(images), images, labels, plan=self._plan(), noise=self.noise, seed=self.seed, **more
        )

    def predict(self, images: Any, draws: int = 1_000) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The class of every image by majority of votes, without a radius; -1 where a two-sided binomial test at alpha does not
        tell the two classes of most votes apart. With a soft map the votes are still the classes' (hardmax).
        """
        problem = self._problem(images, None, self._plan())
        found = []
        for i in range(len(problem.images)):
            counts = np.zeros(problem.classifier.classes, dtype=np.int64)
            for block in range(problem.noise.blocks(draws)):
                logits = problem.noisy_logits(Streams(self.seed), "predict", i, block, draws)
                counts += np.bincount(votes(logits).cpu().numpy(), minlength=len(counts))
            first, second = np.argsort(-counts, kind="stable")[:2]
            test = stats.binomtest(int(counts[first]), int(counts[first] + counts[second]), 0.5)
            found.append(int(first) if test.pvalue <= self.alpha else -1)
        return np.array(found, dtype=np.int64)

    def _plan(self) -> Plan:
        return Plan(self.draws, self.selection_draws, self.alpha, maps=(self.map_,))

    def _problem(self, images: Any, labels: Any, plan: Plan) -> Certification:
        classifier = self._classifier(images)
        return Certification(
            classifier,
            LabelledImages(classifier.tensor(images), None if labels is None else np.asarray(labels)),
            plan,
            self.noise,
        )

    def _classifier(self, images: Any) -> Classifier:
        if isinstance(self.base, Classifier):
            return replace(self.base, sigma=self.sigma)
        tensor = images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images))
        parameter = next(self.base.parameters(), None) if isinstance(self.base, torch.nn.Module) else None
        device = "cpu" if parameter is None else str(parameter.device)
        dtype = torch.float32 if parameter is None else parameter.dtype
        classes = self.classes
        if classes is None:
            with torch.no_grad():
                classes = int(self.base(tensor[:1].to(device=device, dtype=dtype)).shape[-1])
        known = Constant(self.lipschitz, "declared") if isinstance(self.lipschitz, int | float) else self.lipschitz
        return Classifier(
            self.base,
            tuple(tensor.shape[1:]),
            classes,
            self.sigma,
            lipschitz=known,
            device=device,
            dtype=dtype,
            identity={},
        )


# ---- denoised smoothing -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Denoised:
    """A classifier behind a denoiser: `denoise(noisy images, sigma)`, then whatever `classifier` does. Any map after the noise that
    draws no noise of its own keeps the certificates, so this is a model like any other.

    Args:
        classifier: images to logits.
        denoise: (noisy images (n, *shape), sigma) to images of whatever shape the classifier takes.
        sigma: of the smoothing noise.
    """

    classifier: Callable[[Tensor], Tensor]
    denoise: Callable[[Tensor, float], Tensor]
    sigma: float

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of noisy images."""
        return self.classifier(self.denoise(images, self.sigma))
