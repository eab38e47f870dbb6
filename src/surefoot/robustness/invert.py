"""One call for one inversion: a model, an image or several, a target, a perturbation back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.solve import solve
from surefoot.robustness.inversion import NormalisedPGD
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Denoiser, Suspect, decisions


def invert(
    classifier: Classifier, images: Any, targets: int | Sequence[int], radius: float, noise_std: float = 0.25, *,
    shared: bool = False, denoiser: Denoiser | None = None, seed: int = 0, **options: Any,
) -> Tensor:  # fmt: skip
    """Perturbations that lead images to target classes on the smoothed classifier.

    Without further images, an iterate is judged on frozen noisy copies of its own start image.

    Args:
        classifier: what is inverted.
        images: (C, H, W) or (n, C, H, W) in [0, 1].
        targets: one class for one image (or for `shared` ones), else one an image.
        radius: eps, in pixel units.
        noise_std: sigma.
        shared: one perturbation for all images.
        denoiser: D(noisy, sigma).
        seed: of all noise; every image sees the same noise as it would alone.
        options: of `NormalisedPGD`.

    Returns:
        (n, C, H, W), or (1, C, H, W) if shared.

    Raises:
        ValueError: one target for several images, targets of another length, or images that do not fit.
    """
    values = classifier.tensor(images)
    wanted = [int(t) for t in np.atleast_1d(np.asarray(targets))]
    if shared:
        if len(wanted) != 1:
            raise ValueError(f"{len(wanted)} targets for one shared perturbation; expected one class")
        runs = [(wanted[0], np.arange(len(values)))]
    else:
        if len(wanted) != len(values):
            raise ValueError(
                f"{len(wanted)} target{'s' * (len(wanted) != 1)} for {len(values)} images; give one class an image, or shared=True for one "
                "perturbation of all"
            )
        runs = [(target, np.array([row])) for row, target in enumerate(wanted)]
    decided = decisions(classifier, values)
    found = []
    for target, rows in runs:
        none = np.empty(0, dtype=np.int64)
        labels = np.where(
            decided == target, (target + 1) % classifier.classes, decided
        )  # given on purpose: only warned about
        problem = Suspect(classifier, values, labels, rows, none, rows, denoiser)
        method = NormalisedPGD(target, radius, noise_std, shared=len(rows), **options)
        found.append(torch.from_numpy(solve(problem, method, seed=seed, certify=False).answer.perturbations))
    return torch.cat(found)
