"""Recovered triggers on disk: perturbations as npz and npy, pictures as PNG, the table as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from surefoot.records.files import UnsafeFileError, read_npz, regular, write_json, write_npz
from surefoot.robustness.inversion import Inversions
from surefoot.robustness.suspect_problem import Suspect
from surefoot.robustness.trigger_success import attack_success, robust_scores

Array = np.ndarray[Any, np.dtype[Any]]


def write_inversions(answer: Inversions, problem: Suspect, folder: Path) -> None:
    """perturbations.npz (all classes), trigger.npy, trigger.png, triggered.png (the class that stands out), report.json."""
    write_npz(folder / "perturbations.npz", {
        "targets": answer.targets, "noise_stds": answer.noise_stds, "starts": answer.starts, "perturbations": answer.perturbations,
    })  # fmt: skip
    found = [
        attack_success(problem, torch.from_numpy(np.nan_to_num(delta)), int(target), problem.heldout)
        for target, delta in zip(answer.targets, answer.perturbations, strict=True)
    ]
    k, n = np.array([s.successes for s in found]), np.array([s.trials for s in found])
    scores = robust_scores(k, n)
    place = int(np.lexsort((-k / np.maximum(n, 1), -np.nan_to_num(scores)))[0])
    trigger = answer.perturbations[place]
    np.save(folder / "trigger.npy", trigger, allow_pickle=False)
    write_png(folder / "trigger.png", contrast(trigger))
    row = int(answer.starts[place])
    if 0 <= row < len(problem.images):
        write_png(folder / "triggered.png", problem.images[row].cpu().numpy() + trigger)
    write_json(folder / "report.json", {
        "class": int(answer.targets[place]),
        "classes": [
            {
                "class": int(t), "noise_std": float(s), "norm": float(np.linalg.norm(d)), "successes": f.successes, "trials": f.trials,
                "without_trigger": f.before, "score": float(z),
            }
            for t, s, d, f, z in zip(answer.targets, answer.noise_stds, answer.perturbations, found, scores, strict=True)
        ],
    })  # fmt: skip


def read_inversions(folder: Path) -> Inversions:
    """The perturbations, after checking that trigger.npy is one of them.

    Raises:
        UnsafeFileError: arrays are missing or disagree.
    """
    arrays = read_npz(folder / "perturbations.npz")
    kinds = {"targets": np.int64, "noise_stds": np.float64, "starts": np.int64, "perturbations": np.float32}
    for name, kind in kinds.items():
        if name not in arrays or arrays[name].dtype != kind:
            raise UnsafeFileError(f"perturbations.npz has no {name} of type {np.dtype(kind).name}")
    if arrays["perturbations"].ndim != 4 or len({len(arrays[name]) for name in kinds}) != 1:
        raise UnsafeFileError(
            "perturbations.npz: expected (T, C, H, W) perturbations with T targets, noise_stds and starts"
        )
    try:
        trigger = np.load(regular(folder / "trigger.npy"), allow_pickle=False)
    except ValueError as error:
        raise UnsafeFileError(f"trigger.npy is not a readable array: {error}") from error
    if not any(np.array_equal(trigger, delta, equal_nan=True) for delta in arrays["perturbations"]):
        raise UnsafeFileError("trigger.npy is none of the perturbations")
    return Inversions(**{name: arrays[name] for name in kinds})


def contrast(perturbation: Array) -> Array:
    """A perturbation as a picture: grey is no change, the largest change is black or white."""
    largest = float(np.nanmax(np.abs(perturbation), initial=0.0))
    return 0.5 + 0.5 * perturbation / largest if largest > 0 else np.full_like(perturbation, 0.5)


def write_png(path: Path, image: Array) -> None:
    """An image (C, H, W) in [0, 1] with one or three channels; of more channels the first three."""
    pixels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(pixels[0]) if len(pixels) < 3 else Image.fromarray(np.moveaxis(pixels[:3], 0, -1))
    picture.save(path)
