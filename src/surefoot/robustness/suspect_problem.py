"""What the inversion is given: a classifier under suspicion, and clean images dealt into start, validation and held-out ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.core.random import Streams
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.poisoning import Planted
from surefoot.robustness.problem import Classifier, as_images, as_labels

Denoiser = Callable[[Tensor, float], Tensor]
Rows = np.ndarray[Any, np.dtype[np.int64]]
REFERENCE_RADIUS, REFERENCE_DIMENSION = 10.0, 3 * 224 * 224  # of the paper's pictures
STARTS = 16  # candidates for start images that are set aside


@dataclass(frozen=True, eq=False)
class Suspect:
    """A classifier that may hide a backdoor, and clean images with labels.

    Args:
        classifier: logits of images in [0, 1], normalisation inside; gradients must flow through it.
        images: (n, C, H, W).
        labels: (n,) the true classes, or the classifier's own decisions where they are not known.
        start: rows that an inversion may begin at, in this order.
        validation: rows that choose the noise and the iterate.
        heldout: rows that the reported success is measured on; never used before.
        denoiser: D(noisy, sigma), applied before the classifier wherever there is noise; None for none.
        planted: the true backdoor where it is known, for comparison only.

    Raises:
        ValueError: with what was wrong, what was expected and what to do.
    """

    classifier: Classifier
    images: Tensor
    labels: Rows
    start: Rows
    validation: Rows
    heldout: Rows
    denoiser: Denoiser | None = None
    planted: Planted | None = None

    def __post_init__(self) -> None:
        if not self.classifier.differentiable:
            raise ValueError(
                "no gradient flows through this model (ONNX models are not differentiable here); give a torch module as "
                "recipe module:factory with weights, or an exported program"
            )
        if self.classifier.value_range != (0.0, 1.0):
            raise ValueError(
                f"the images' range is {self.classifier.value_range}; noise and budgets are in units of [0, 1]: scale the "
                "images and put the normalisation into the model"
            )
        if len(self.classifier.shape) != 3:
            raise ValueError(f"the image shape is {self.classifier.shape}; expected (channels, height, width)")
        object.__setattr__(self, "images", self.classifier.tensor(self.images))
        object.__setattr__(self, "labels", as_labels(self.labels, self.classifier.classes, len(self.images)))
        for name in ("start", "validation", "heldout"):
            rows = np.asarray(getattr(self, name), dtype=np.int64)
            if len(rows) == 0 and name != "validation":
                raise ValueError(f"there are no {name} images; give more images")
            if len(rows) and (rows.min() < 0 or rows.max() >= len(self.images)):
                raise ValueError(f"{name} names row {int(rows.max())}, but there are {len(self.images)} images")
            object.__setattr__(self, name, rows)

    @property
    def disjoint(self) -> bool:
        """Whether the held-out rows were kept from everything that chooses; only then is their success a sample."""
        return not np.intersect1d(self.heldout, np.concatenate([self.start, self.validation])).size

    def start_rows(self, target: int, count: int = 1) -> Rows:
        """The first start rows whose class is not the target.

        Raises:
            ValueError: the target is no class, or there are too few such rows.
        """
        self.require_class(target)
        rows = self.start[self.labels[self.start] != target]
        if len(rows) < count:
            raise ValueError(
                f"{len(rows)} start images are not of class {target}, {count} wanted; images of the target class are useless: "
                "give others"
            )
        return rows[:count]

    def require_class(self, target: int) -> None:
        if not 0 <= target < self.classifier.classes:
            raise ValueError(f"the target class is {target}; the model has classes 0 .. {self.classifier.classes - 1}")

    def rows_against(self, rows: Rows, target: int) -> Rows:
        """Those of the rows that are not of the target class: only they can show that a trigger works."""
        return rows[self.labels[rows] != target]

    def fingerprint(self) -> str:
        """Hash of the classifier, the images, the labels, how they were dealt, and the denoiser's weights."""
        denoiser: object = None
        if isinstance(self.denoiser, nn.Module):
            layers = [(name, type(m).__name__, m.extra_repr()) for name, m in self.denoiser.named_modules()]
            denoiser = {"layers": layers, "weights": dict(self.denoiser.state_dict())}
        elif self.denoiser is not None:
            denoiser = {"identity": getattr(self.denoiser, "identity", None) or _no_identity()}
        return fingerprint(
            "suspect",
            self.classifier.fingerprint(),
            self.images,
            self.labels,
            self.start,
            self.validation,
            self.heldout,
            denoiser,
        )


def _no_identity() -> str:
    raise TypeError("the denoiser is a plain callable; give it an attribute `identity`, the numbers that define it")


def suspect(
    classifier: Classifier, images: Any, labels: Any = None, *, denoiser: Denoiser | None = None,
    planted: Planted | None = None, starts: int = STARTS, heldout_share: float = 0.5, split: bool = True, ask: bool = True,
    seed: int = 0,
) -> Suspect:  # fmt: skip
    """Deal clean images into start, validation and held-out ones.

    Args:
        classifier: what is under suspicion.
        images: (n, C, H, W) in [0, 1].
        labels: (n,); None takes the classifier's own decisions.
        denoiser: see `Suspect`.
        planted: see `Suspect`.
        starts: how many images are set aside to begin at (fewer if there are few images).
        heldout_share: of the other images.
        ask: let the model say which images it decides rightly, and begin at those; False deals by the labels alone.
        split: False evaluates on the very images that choose, as published.
        seed: of the deal.

    Raises:
        ValueError: fewer than four images, images or labels that do not fit.
    """
    values = as_images(images, classifier.shape, classifier.value_range)
    if len(values) < 4:
        raise ValueError(
            f"{len(values)} images; at least four are wanted: one to begin at, and others to choose and to measure on"
        )
    if not 0 < heldout_share < 1:
        raise ValueError(f"heldout_share is {heldout_share}; expected a fraction in (0, 1)")
    if labels is None and not ask:
        raise ValueError("without labels the model has to be asked for its decisions; leave ask=True")
    decided = decisions(classifier, classifier.tensor(values)) if ask else None
    known = decided if labels is None else as_labels(labels, classifier.classes, len(values))
    assert known is not None
    order = Streams(seed).numpy("deal").permutation(len(values))
    right = order
    if decided is not None:
        right = np.concatenate([order[known[order] == decided[order]], order[known[order] != decided[order]]])
        _warn_of_disagreement(float((known == decided).mean()))
    count = max(1, min(starts, len(values) // 4))
    start = _spread_over_classes(right, known, count)
    rest = order[~np.isin(order, start)]
    cut = max(1, round((1 - heldout_share) * len(rest)))
    validation, heldout = (rest[:cut], rest[cut:]) if split else (rest, rest)
    return Suspect(classifier, values, known, start, validation, heldout, denoiser, planted)


def _warn_of_disagreement(agree: float) -> None:
    if agree < 0.5:
        warnings.warn(
            f"the model decides {agree:.0%} of the clean images as labelled; check the pixel range, the normalisation inside "
            "the model and the order of the classes",
            stacklevel=3,
        )


def _spread_over_classes(order: Rows, labels: Rows, count: int) -> Rows:
    """The first row, then rows in order with each class at most once until all are used: every target finds a start."""
    seen: set[int] = set()
    first, later = [], []
    for row in order.tolist():
        (later if int(labels[row]) in seen else first).append(row)
        seen.add(int(labels[row]))
    return np.array((first + later)[:count], dtype=np.int64)


def decisions(classifier: Classifier, images: Tensor, batch: int = 512) -> Rows:
    """The un-smoothed model's classes of images."""
    with torch.no_grad():
        parts = [classifier.logits(part).argmax(1).cpu().numpy() for part in images.split(batch)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def trained_weights(problem: Suspect) -> dict[str, Any] | None:
    """The weights of a network that the run trained itself (they become evidence); None for a model that was given."""
    identity, model = problem.classifier.identity, problem.classifier.model
    if identity is None or "trained" not in identity or not isinstance(model, nn.Module):
        return None
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def with_trained_weights(problem: Suspect, weights: Mapping[str, Any]) -> Suspect:
    """The same problem with the weights that a run trained and kept.

    Raises:
        RuntimeError: they do not fit the network.
    """
    model: Any = copy.deepcopy(problem.classifier.model)
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in weights.items()})
    return replace(problem, classifier=replace(problem.classifier, model=model.eval()))


def default_radii(dimension: int) -> tuple[float, ...]:
    """10 sqrt(d / 150528), the paper's budget for pictures scaled to d numbers in an image, then twice and four times that.

    A first guess: triggers of small images are larger for their size.
    """
    guess = REFERENCE_RADIUS * (dimension / REFERENCE_DIMENSION) ** 0.5
    return guess, 2 * guess, 4 * guess
