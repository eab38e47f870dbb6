"""Claims about curvature and rates, with what a checker needs to find them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.core.certificate import FLOAT64, Certificate, Claim, Confidence
from surefoot.records.fingerprint import fingerprint
from surefoot.training.curvature import CurvatureOperator
from surefoot.training.spectral_problem import Curvature, Rates

if TYPE_CHECKING:
    from surefoot.training.spectral_method import MeasureState

__all__ = ["certificate"]

CARD = "spectral-learning-rates"
SMALL, LARGE = 0.25, 0.10  # how near the prediction shall be: below, and from 128 rows a batch
MANY = 128
LOCAL = 0.15


def certificate(problem: Curvature, state: MeasureState, answer: Rates) -> Certificate:
    """Eigenpairs, the bound from the random start, and the predictions held against measurements."""
    from surefoot.training.spectral_method import upper_bound

    double = problem if problem.network.vector().dtype == torch.float64 else problem.cast(torch.float64)
    operator = CurvatureOperator.of(double)
    vectors = state.leading.double()
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
    images = torch.stack([operator(v) for v in vectors.T], dim=1)
    values = (vectors * images).sum(dim=0)
    residuals = torch.linalg.vector_norm(images - vectors * values, dim=0)
    settings: dict[str, Any] = {"seed": state.streams.seed, "products": state.products, "lowest": state.lowest}
    evidence: dict[str, Any] = {
        "ritz.npz": {"values": values.numpy(), "residuals": residuals.numpy(), "vectors": state.leading.numpy()},
        "rows.npz": {
            "center": state.center.numpy(), "spread": state.spread.numpy(), "own": state.own.numpy(), "random": state.random.numpy(),
        },
        "draws.npz": {"drawn": state.drawn.numpy()},
        "batches.npz": {"measured": state.measured.numpy(), "threshold": state.threshold.numpy(), "tried": state.tried.numpy()},
    }  # fmt: skip
    base = ["ritz.npz", "settings.json", "input:case"]
    if problem.identity is not None:
        weights = {name: value.detach().cpu().numpy() for name, value in problem.model.state_dict().items()}
        evidence["network.npz"], settings["network"] = weights, fingerprint(weights)
        base.append("network.npz")
    claims = [
        _eigenvalue(values, residuals, problem, tuple(base)),
        _extreme(problem, state, upper_bound(problem, state), tuple(base)),
    ]
    if problem.plan.probes:
        evidence["density.npz"] = {"nodes": state.nodes.numpy(), "weights": state.weights.numpy()}
        trace = float((state.nodes.double() * state.weights.double()).sum(dim=1).mean()) * state.leading.shape[0]
        claims.append(Claim(
            name="trace", statement="Trace of the curvature matrix, from the mean over random probes of the Lanczos quadrature that draws the density.",
            value=trace, kind="measured", check="density", evidence=("density.npz", *base),
        ))  # fmt: skip
    evidence["settings.json"] = settings
    table = tuple(["rows.npz", "draws.npz", "batches.npz", "answer", *base])
    claims += _predicted(problem, answer, table)
    claims += _thresholds(problem, answer, table)
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _eigenvalue(values: torch.Tensor, residuals: torch.Tensor, problem: Curvature, needed: tuple[str, ...]) -> Claim:
    radius = float(residuals[0]) / max(float(values[0].abs()), 1e-300)
    limit = 10 * problem.plan.tolerance
    return Claim(
        name="eigenvalue",
        statement=f"The curvature matrix of the rows has an eigenvalue within this share of {float(values[0]):.6g}: the residual of the stated vector."
        + (f" {problem.normalisation[0].upper()}{problem.normalisation[1:]}." if problem.normalisation else ""),
        value=radius, bound=limit, outcome="holds" if radius <= limit else "fails", kind="proved", premises=(FLOAT64,),
        check="eigenvalue", evidence=needed,
    )  # fmt: skip


def _extreme(problem: Curvature, state: MeasureState, bound: float, needed: tuple[str, ...]) -> Claim:
    finite = np.isfinite(bound)
    return Claim(
        name="largest",
        statement=f"No eigenvalue lies above this, after {state.products} Lanczos steps from a direction uniform on the sphere "
        f"(top Ritz value {float(state.values[0]):.6g}).",
        value=bound if finite else float(state.values[0]), kind="statistical", scope="probability",
        outcome="holds" if finite else "undecided", reason="" if finite else "too few Lanczos steps for this failure probability",
        confidence=Confidence(1 - problem.plan.failure, "Kuczynski-Wozniakowski, random start", state.products),
        check="largest", evidence=needed,
    )  # fmt: skip


def _decayed(problem: Curvature) -> str:
    decay = problem.plan.weight_decay
    return f" Plain descent's weight decay of {decay:g} is in every eigenvalue and step." if decay else ""


def _predicted(problem: Curvature, answer: Rates, needed: tuple[str, ...]) -> list[Claim]:
    claims = []
    error = np.abs(answer.predicted / answer.measured - 1)
    for name, chosen, limit, what in (
        ("prediction-small", answer.batch < MANY, SMALL, f"below {MANY} rows"),
        ("prediction-large", answer.batch >= MANY, LARGE, f"of {MANY} rows and more"),
    ):
        if chosen.any():
            worst = float(error[chosen].max())
            claims.append(Claim(
                name=name, statement=f"Largest relative difference between predicted and measured mean top eigenvalue of batches {what}.{_decayed(problem)}",
                value=worst, bound=limit, outcome="holds" if worst <= limit else "fails", kind="measured", check="prediction", evidence=needed,
                reason="" if worst <= limit else "rows of very different weight: few of them carry the curvature, or few batches were measured",
            ))  # fmt: skip
    return claims


def _thresholds(problem: Curvature, answer: Rates, needed: tuple[str, ...]) -> list[Claim]:
    claims = []
    shown = np.isfinite(answer.threshold)
    if shown.any():
        worst = float(np.abs(answer.rate / answer.threshold - 1)[shown].max())
        claims.append(Claim(
            name="threshold",
            statement="Largest relative difference between the predicted rate and the median measured one from which on a perturbation grows on the linearised step."
            + _decayed(problem),
            value=worst, bound=LOCAL, outcome="holds" if worst <= LOCAL else "fails", kind="measured", check="threshold", evidence=needed,
            reason="" if worst <= LOCAL else "few batches were measured, or the batch's loss bends otherwise than its Gauss-Newton matrix",
        ))  # fmt: skip
    if np.isfinite(answer.trains).any():
        claims.append(Claim(
            name="trains",
            statement=f"Smallest factor, over the batch sizes, between the largest tried rate at which {problem.plan.trained} steps of descent keep the loss within "
            "twice its start and the outputs different from row to row, and the predicted local threshold; it is shown, not predicted." + _decayed(problem),
            value=float(np.nanmin(answer.trains / answer.rate)), kind="measured", check="trains", evidence=needed,
        ))  # fmt: skip
    return claims
