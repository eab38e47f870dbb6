"""Claims about certified radii, with the counts and scores that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from surefoot.core.certificate import Certificate, Claim, Confidence, Premise, capped
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.maps import HARDMAX
from surefoot.robustness.plan import FORMS
from surefoot.robustness.problem import Certification, Radii

if TYPE_CHECKING:
    from surefoot.robustness.smoothing import SmoothingState

__all__ = ["certificate"]

CARD = "randomized-smoothing"
SHOWN, LARGEST_PICTURE = 10, 64  # pictures kept for the report, and their side at most


def certificate(problem: Certification, state: SmoothingState, answer: Radii) -> Certificate:
    """The table claim of the radii, the measured mean, and the Lipschitz constant where one was proved."""
    table = radii_table(problem, state, answer)
    settings: dict[str, Any] = {
        "seed": state.streams.seed,
        "device": problem.classifier.device,
        "fixed_map": state.fixed,
        "lipschitz": None if problem.classifier.lipschitz is None else problem.classifier.lipschitz.value,
    }
    done = len(answer.index)
    evidence: dict[str, Any] = {
        "radii.csv": table,
        "counts.npz": {
            "selected": state.selected[:done].numpy(), "counted": state.counted[:done].numpy(), "bucket": state.bucket[:done].numpy(),
        },
    }  # fmt: skip
    needed = ["radii.csv", "counts.npz", "settings.json", "answer", "input:model", "input:images"]
    if pictures := _pictures(problem, answer):
        evidence["pictures.npz"] = pictures
        needed.append("pictures.npz")
    if state.kept:
        soft = [i for i in range(done) if problem.plan.target or problem.plan.maps[int(state.map[i])] != HARDMAX]
        evidence["draws.npz"] = {f"image_{i}": kept.numpy() for i, kept in zip(soft, state.kept, strict=True)}
        needed.append("draws.npz")
    identity = problem.classifier.identity
    if identity is not None and "trained" in identity and isinstance(problem.classifier.model, nn.Module):
        weights = {name: value.detach().cpu().numpy() for name, value in problem.classifier.model.state_dict().items()}
        evidence["network.npz"], settings["network"] = weights, fingerprint(weights)
        needed.append("network.npz")
    evidence["settings.json"] = settings
    claims = [_radii_claim(problem, answer, tuple(needed)), *_measured(answer)]
    if problem.classifier.lipschitz is not None and problem.classifier.lipschitz.known == "exact":
        claims.append(_lipschitz_claim(problem))
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _pictures(problem: Certification, answer: Radii) -> dict[str, Any]:
    """A few images over the range of radii, for the report; none where they are no small pictures."""
    shape = problem.classifier.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or max(shape[1:]) > LARGEST_PICTURE or min(shape[1:]) < 4:
        return {}
    order = np.argsort(-answer.radius, kind="stable")
    rows = np.unique(np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(np.int64))
    chosen = order[rows]
    return {"row": chosen, "pixels": problem.images.values[torch.from_numpy(chosen)].cpu().float().numpy()}


def radii_table(problem: Certification, state: SmoothingState, answer: Radii) -> dict[str, Any]:
    """One row an image: what was chosen, the bounds and the radius."""
    done = len(answer.index)
    maps = [problem.plan.maps[int(m)] for m in state.map[:done]]
    return {
        "image": answer.index,
        "label": answer.label,
        "top": state.top[:done].numpy(),
        "form": [FORMS[int(f)] for f in state.form[:done]],
        "share": state.share[:done].numpy(),
        "map": [m.kind for m in maps],
        "sharpness": np.array([m.sharpness for m in maps]),
        "used": state.used[:done].numpy(),
        "lower": state.bounds[:done, 0].numpy(),
        "upper": state.bounds[:done, 1].numpy(),
        "radius": answer.radius,
    }


def _radii_claim(problem: Certification, answer: Radii, needed: tuple[str, ...]) -> Claim:
    plan, classifier = problem.plan, problem.classifier
    certified = answer.radius[answer.radius > 0]
    about = (
        "each for the smoothed classifier of its own map"
        if plan.scope == "per-input" and len(plan.maps) > 1
        else "for one smoothed classifier"
    )
    premises = [
        Premise(
            "round-off of noise and images is exact on the lattice, and the images lie on it"
            if problem.noise.lattice_bits
            else "noise and sums in floating point are taken for Gaussian noise and exact sums",
            "declared",
        )
    ]
    if classifier.lipschitz is not None and np.isfinite(problem.base_lipschitz):
        premises.append(
            Premise(
                f"the logits have the Lipschitz constant {classifier.lipschitz.value:g}", classifier.lipschitz.known
            )
        )
    test = "exact binomial" if all(m == HARDMAX for m in plan.maps) else f"exact binomial or {plan.bound}"
    test = "betting, at any time" if plan.target else test
    return Claim(
        name="radii",
        statement=(
            f"No change of an image below its radius (L2, in the unit of the pixels, noise {classifier.sigma:g}) changes its class, "
            f"{about}, each with probability {1 - plan.alpha:g} over the draws; the smallest of {len(certified)} radii."
        ),
        value=float(certified.min()) if len(certified) else 0.0,
        relation=">=",
        kind=capped("statistical", premises),
        scope="probability",
        confidence=Confidence(1 - plan.alpha, test, plan.draws),
        premises=tuple(premises),
        check="radii",
        evidence=needed,
    )


def _measured(answer: Radii) -> list[Claim]:
    certified = float((answer.radius > 0).mean())
    claims = [
        Claim(
            name="certified-share",
            statement="Share of the images for which the smoothed classifier does not abstain.",
            value=certified,
            kind="measured",
            check="share",
            evidence=("radii.csv", "answer"),
        )
    ]
    if (answer.label >= 0).all():
        claims.append(
            Claim(
                name="average-radius",
                statement="Average certified radius: the mean over the images of radius times whether the class is the label.",
                value=answer.average,
                kind="measured",
                check="average",
                evidence=("radii.csv", "answer"),
            )
        )
    return claims


def _lipschitz_claim(problem: Certification) -> Claim:
    assert problem.classifier.lipschitz is not None
    return Claim(
        name="lipschitz",
        statement="The logits change by at most this much per unit of L2 change of the image, from the norms of the layers.",
        value=problem.classifier.lipschitz.value,
        kind="proved",
        check="lipschitz",
        evidence=("settings.json", "input:model"),
    )
