"""Our side: the scan of one network, and single inversions beside plain projected descent."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zoo import Entry, problem, true_success

from surefoot.core.solve import solve
from surefoot.robustness.certify_inversion import fidelity
from surefoot.robustness.inversion import NormalisedPGD
from surefoot.robustness.scan import Scan, scan_classes
from surefoot.robustness.trigger_success import attack_success

RADIUS, NOISE = 2.5, (0.25, 0.5)
STEPS, DRAWS = 200, 8
FULL = NormalisedPGD(
    0,
    RADIUS,
    draws=DRAWS,
    horizon=STEPS,
    halve_every=STEPS // 4,
    keep="last",
    stop_probability=1.0,
    certificate_draws=200,
)
SCAN = Scan(FULL, (RADIUS,), NOISE, screening_steps=40, screening_draws=8)
LADDER = (
    Scan()
)  # as it comes: three budgets from small to large, three noise levels, full inversions of 400 steps of 40 draws


def scan(entry: Entry, data: Path, how: Scan = SCAN) -> dict[str, Any]:
    """Detection: the class that stands out, its score and bound, what was spent."""
    case = problem(entry, data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        result = scan_classes(case, how, seed=entry.seed)
        seconds = time.perf_counter() - began
    assert result.certificate is not None
    table = result.certificate.evidence["scan.csv"]
    top = int(np.argmax(table["rank"] == 1))
    found: dict[str, Any] = {
        "target": int(table["target"][top]), "score": float(table["score"][top]), "lower": float(table["lower"][top]),
        "flagged": result.certificate.claim("backdoor").outcome == "holds", "evaluations": result.counts["gradient"],
        "seconds": seconds, "radius": float(np.asarray(result.history.columns()["radius"])[-1]), "warnings": len(caught),
    }  # fmt: skip
    if case.planted is not None:
        place = int(np.flatnonzero(table["target"] == entry.target)[0])
        delta = torch.from_numpy(result.answer.perturbations[place])
        agreement = fidelity(case, delta, case.planted)
        found |= {
            "recovered": float(table["successes"][place] / table["trials"][place]), "true": true_success(case),
            "energy": agreement.energy_share, "cosine": agreement.cosine, "overlap": agreement.overlap,
        }  # fmt: skip
    return found


def plain(entry: Entry, data: Path) -> dict[str, Any]:
    """Plain projected descent (cross-entropy, no noise) at the planted class: as many steps, and as many evaluations."""
    case = problem(entry, data)
    assert case.planted is not None
    found = {}
    for name, steps in (("steps", STEPS), ("evaluations", STEPS * DRAWS)):
        method = NormalisedPGD.published(entry.target, RADIUS, 0.0, draws=1, horizon=steps, halve_every=steps // 4)
        delta = torch.from_numpy(solve(case, method, certify=False, seed=entry.seed).answer.perturbations[0])
        success = attack_success(case, delta, entry.target, case.heldout)
        agreement = fidelity(case, delta, case.planted)
        found[name] = {"energy": agreement.energy_share, "cosine": agreement.cosine, "success": success.rate}
    return found


def prototype(entry: Entry, data: Path, radius: float, noise_std: float, starts: int = 5) -> dict[str, float]:
    """One cell of the sheet's table: success and energy share, mean over start images, 200 steps of 40 draws."""
    case = problem(entry, data)
    rates, shares = [], []
    for start in case.start_rows(entry.target, starts):
        import dataclasses

        alone = dataclasses.replace(case, start=np.array([start]))
        draws = 40 if noise_std else 1
        method = NormalisedPGD.published(entry.target, radius, noise_std, draws=draws, horizon=200)
        delta = torch.from_numpy(solve(alone, method, certify=False).answer.perturbations[0])
        everything = np.concatenate([case.validation, case.heldout])
        rates.append(attack_success(case, delta, entry.target, everything).rate)
        if case.planted is not None:
            shares.append(fidelity(case, delta, case.planted).energy_share)
    return {"success": float(np.mean(rates)), "energy": float(np.mean(shares)) if shares else float("nan")}
