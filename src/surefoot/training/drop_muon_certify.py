"""Claims about a run of Drop-Muon: audited steps, untouched layers, draws, operations saved, test accuracy; on least squares, proved descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import FLOAT64, Certificate, Claim, Confidence, Premise
from surefoot.numerics.bounds import clopper_pearson_lower
from surefoot.numerics.spectral_matrix import as_matrix, dual_norm, newton_schulz
from surefoot.training.drop_muon import shape_scale
from surefoot.training.drop_muon_costs import CostModel
from surefoot.training.drop_muon_problem import LeastSquares, MuonTask
from surefoot.training.drop_muon_sampling import LEAST_INCLUSION, predicted_ratio

if TYPE_CHECKING:
    from surefoot.training.drop_muon_method import DropMuonState, LeastSquaresMuon, LeastSquaresState, TrainMuon

CARD = "drop-muon"
STEP_ERROR = 0.02
NO_GRADIENT = (
    1e-6  # of the largest entry: a bias before a batch norm has no gradient but rounding, and AdamW steps by its sign
)
LEVEL = 0.95


def certify_training(problem: MuonTask, method: TrainMuon, state: DropMuonState) -> Certificate:
    """What was done, step by step where it was audited, and how good the answer is."""
    from surefoot.training.drop_muon_method import parameter_layers

    arm = method.fresh(problem, state)
    arm.optimizer.draw_exactly(range(arm.optimizer.layers))
    rows = list(parameter_layers(arm))
    settings: dict[str, Any] = {
        "sampling": method.sampling, "lr": method.lr, "momentum": method.momentum, "nesterov": method.nesterov, "weight_decay": method.weight_decay,
        "lr_compensation": method.compensation, "momentum_compensation": method.forgetting, "scale": method.scale, "ns_steps": method.ns_steps, "batch": method.batch,
        "seed": state.streams.seed, "names": [r[0] for r in rows], "layers": [r[1] for r in rows], "norms": [r[2] for r in rows],
    }  # fmt: skip
    if method.sampling == "epoch-shift":
        settings |= {"epochs": method.epochs, "steps": method.horizon}
    masks = np.array(state.masks, dtype=np.uint8)
    audits = {k: np.stack([np.asarray(a[k]) for a in state.audits]) for k in (state.audits[0] if state.audits else {})}
    evidence: dict[str, Any] = {
        "settings.json": settings,
        "draws.npz": {
            "masks": masks,
            "eras": np.array(state.eras),
            "costs": np.array(state.costs),
            "spared": np.array(state.spared),
        },
    }
    claims = [*_draws(method, state, masks)]
    if audits:
        evidence["audits.npz"] = audits
        claims += _audited(problem, method, state, arm, settings, masks)
    claims += _quality(problem, state, arm)
    if method.compare:
        of = state.full_weights
        buffers = [of[name].double().reshape(-1) for name, _ in arm.model.named_buffers() if name in of]
        evidence["full.npz"] = {"weights": torch.cat([of[n].reshape(-1) for n in settings["names"]]).numpy()}
        if buffers:
            evidence["full.npz"]["buffers"] = torch.cat(buffers).numpy()
        claims.append(_beside(problem, state, arm))
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _draws(method: TrainMuon, state: DropMuonState, masks: Any) -> list[Claim]:
    costs = CostModel(state.costs[0], tuple(state.costs[1:]))
    done = sum(costs.of(mask.tolist(), state.spared) for mask in masks)
    inputs = ("draws.npz", "settings.json", "input:data")
    claims = [
        Claim(
            name="draws",
            statement="Mean share of the layers that a step updated; every set is the one that seed, step and probabilities give.",
            value=float(masks.mean()), relation="<=", bound=1.0, kind="measured", check="draws", evidence=inputs,
        ),
        Claim(
            name="operations",
            statement="Floating-point operations of the steps (forward, truncated backward, orthogonalisation) over those of as many full ones.",
            value=float(done / (len(masks) * costs.step(0))), relation="<=", bound=1.0, kind="measured", check="operations",
            evidence=inputs,
        ),
    ]  # fmt: skip
    if method.sampling == "auto":
        P = np.minimum(np.cumsum(state.eras[-1][1:]), 1.0)
        claims.append(Claim(
            name="sampling",
            statement="Predicted cost of a step under the last probabilities over that of a full one: the least that the estimated "
            "smoothness allows, or 1 where less than 3 % would be saved.",
            value=predicted_ratio(P, costs.forward, costs.layers), relation="<=", bound=1.0, kind="measured", check="sampling",
            premises=(Premise("layer smoothness as secants along the steps", "estimated"),), evidence=(*inputs, "audits.npz"),
        ))  # fmt: skip
    return claims


def _audited(
    problem: MuonTask, method: TrainMuon, state: DropMuonState, arm: Any, settings: dict[str, Any], masks: Any
) -> list[Claim]:
    """Steps done once more in float64, with the gradient of the drawn layers alone."""
    model = arm.model.double()
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    worst, touched = 0.0, 0
    for audit in state.audits:
        k = int(audit["step"])
        parts = {
            name: audit[name].split(sizes) for name in ("weights", "momentum", "second", "after", "momentum_after")
        }
        drawn = [i for i, layer in enumerate(settings["layers"]) if masks[k][layer]]
        with torch.no_grad():
            for p, values in zip(parameters, parts["weights"], strict=True):
                p.copy_(values.reshape(p.shape))
            offset = 0
            for buffer in model.buffers():
                buffer.copy_(audit["buffers"][offset : offset + buffer.numel()].reshape(buffer.shape))
                offset += buffer.numel()
        x, y = method.batch_of(problem, state.streams, k)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state.streams.key("dropout", k) & (2**63 - 1))
            loss = problem.loss(model, x.double() if x.is_floating_point() else x, y)
        gradients = torch.autograd.grad(loss, [parameters[i] for i in drawn], allow_unused=True)
        largest = max(float(g.abs().max()) for g in gradients if g is not None)  # pyright: ignore[reportUnnecessaryComparison]
        p = next(e for e in reversed(state.eras) if e[0] <= k)[1:]
        P = np.asarray(p) if method.sampling == "independent" else np.minimum(np.cumsum(p), 1.0)
        for i, g in zip(drawn, gradients, strict=True):
            if g is None or float(g.abs().max()) <= NO_GRADIENT * largest:  # pyright: ignore[reportUnnecessaryComparison] - allow_unused gives None
                continue
            before = parts["weights"][i].double().reshape(g.shape)
            moved = parts["after"][i].double().reshape(g.shape) - before
            share = max(float(P[settings["layers"][i]]), LEAST_INCLUSION)
            wanted = _step(
                method,
                settings["norms"][i],
                g,
                before,
                parts["momentum"][i],
                parts["second"][i],
                float(audit["updates"][i]),
                method.lr / share**method.compensation,
                method.momentum ** (1 / share**method.forgetting),
            )
            size = float(wanted.norm())
            worst = max(worst, float((moved - wanted).norm()) / size if size > 0 else float(moved.norm() > 0))
        for i in set(range(len(parameters))) - set(drawn):
            touched += int((parts["weights"][i] != parts["after"][i]).sum())
            touched += int((parts["momentum"][i] != parts["momentum_after"][i]).sum())
    model.float()
    inputs = ("audits.npz", "draws.npz", "settings.json", "input:data")
    return [
        Claim(
            name="step",
            statement="Largest relative difference, over the audited steps and drawn parameters, between the change that was made and Drop-Muon's "
            "step in float64 from the gradient of a complete backward pass; parameters whose gradient is rounding are left out.",
            value=worst, bound=STEP_ERROR, outcome="holds" if worst <= STEP_ERROR else "fails", kind="measured", check="step", evidence=inputs,
        ),
        Claim(
            name="untouched",
            statement="Entries of weights and momentum in layers that were not drawn which an audited step changed.",
            value=float(touched), relation="==", bound=0.0, outcome="holds" if touched == 0 else "fails", kind="proved", check="untouched",
            evidence=inputs[:-1],
        ),
    ]  # fmt: skip


def _step(
    method: TrainMuon,
    norm: str,
    g: Tensor,
    X: Tensor,
    momentum: Tensor,
    second: Tensor,
    updates: float,
    rate: float,
    keeps: float,
) -> Tensor:
    """Drop-Muon's change of one parameter, in float64."""
    moment = momentum.double().reshape(g.shape)
    if norm in ("adamw", "sgd"):
        rate *= 0.1
    decay = -rate * method.weight_decay * X
    if norm == "adamw":
        moment = 0.9 * moment + 0.1 * g
        variance = 0.95 * second.double().reshape(g.shape) + 0.05 * g * g
        n = updates + 1
        return decay - rate * (moment / (1 - 0.9**n)) / ((variance / (1 - 0.95**n)).sqrt() + 1e-8)
    moment = keeps * moment + (1 - keeps) * g
    if method.momentum == 0:
        moment = g
    elif method.nesterov:
        moment = (1 - keeps) * g + keeps * moment
    if norm == "sgd":
        return decay - rate * moment
    if norm == "spectral":
        unit = newton_schulz(as_matrix(moment), method.ns_steps).reshape(g.shape)
        return decay - rate * shape_scale(as_matrix(moment).shape, method.scale) * unit
    return decay - rate * (moment.sign() if norm == "sign" else moment / moment.norm())


def _quality(problem: MuonTask, state: DropMuonState, arm: Any) -> list[Claim]:
    arm.model.load_state_dict(state.weights)
    right = problem.right(arm.model)
    arm.model.eval()
    with torch.no_grad():
        parts = zip(problem.x_test.split(500), problem.y_test.split(500), strict=True)
        loss = sum(float(problem.loss(arm.model, x, y)) * len(x) for x, y in parts) / len(problem.x_test)
    evidence = ("answer", "input:data")
    claims = [Claim(
        name="test-loss", statement="Mean cross-entropy of the answer on the test data.", value=loss, relation=">=", bound=0.0,
        kind="measured", check="test-loss", evidence=evidence,
    )]  # fmt: skip
    hits, n = int(right.sum()), right.numel()
    if right.ndim == 1:
        lower = float(clopper_pearson_lower(hits, n, 1 - LEVEL))
        claims.append(Claim(
            name="accuracy", statement=f"Lower bound of the accuracy on data like the test data, from {hits} right of {n} (Clopper-Pearson).",
            value=lower, relation=">=", bound=0.0, kind="statistical", scope="probability", confidence=Confidence(LEVEL, "Clopper-Pearson, one-sided", n),
            check="accuracy", evidence=evidence,
        ))  # fmt: skip
    else:  # neighbouring characters are not independent
        claims.append(Claim(
            name="accuracy", statement="Share of the test characters that are the most probable ones.", value=hits / n, relation=">=", bound=0.0,
            kind="measured", check="accuracy", evidence=evidence,
        ))  # fmt: skip
    return claims


def _beside(problem: MuonTask, state: DropMuonState, arm: Any) -> Claim:
    arm.model.load_state_dict(state.weights)
    mine = problem.right(arm.model)
    arm.model.load_state_dict(state.full_weights)
    theirs = problem.right(arm.model)
    return Claim(
        name="beside-full",
        statement="Test accuracy of full Muon after as many steps on the same batches, minus that of the answer.",
        value=(float(theirs.sum()) - float(mine.sum())) / mine.numel(), relation=">=", kind="measured", check="beside-full",
        evidence=("answer", "full.npz", "settings.json", "input:data"),
    )  # fmt: skip


# ---- least squares -----------------------------------------------------------------------------------------------------
FLOOR = 1e-9  # of f_0: below it a decrease is rounding


def certify_least_squares(problem: LeastSquares, method: LeastSquaresMuon, state: LeastSquaresState) -> Certificate:
    """Descent at every step, and the bound on the mean of squared dual norms that follows from it."""
    L = [c.value for c in problem.smoothness]
    values = [float(problem.value(X)) for X in state.path]
    total, ratio = 0.0, 0.0
    for k, mask in enumerate(state.masks):
        X = state.path[k].clone().requires_grad_(True)
        (g,) = torch.autograd.grad(problem.value(X), X)
        promised = sum(float(dual_norm(g[i], "spectral")) ** 2 / (2 * L[i]) for i, on in enumerate(mask) if on)
        total += promised
        if values[k] > FLOOR * values[0]:
            ratio = max(ratio, promised / max(values[k] - values[k + 1], 1e-300))
    path = torch.stack(state.path).numpy()
    evidence = {
        "path.npz": {"X": path, "masks": np.array(state.masks, dtype=np.uint8)},
        "settings.json": {"sampling": method.sampling, "seed": state.streams.seed, "p": list(method.cutoffs(problem))},
    }
    names = ("path.npz", "settings.json", "answer")
    return Certificate(CARD, (
        Claim(
            name="descent",
            statement="Largest ratio over the steps of the promised decrease sum_{i in S} |g_i|*^2 / 2 L_i to the decrease of f.",
            value=ratio, bound=1.0, outcome="holds" if ratio <= 1 else "fails", kind="proved", check="descent",
            premises=(FLOAT64,), evidence=names,
        ),
        Claim(
            name="average",
            statement="Sum over the steps of |g_i|*^2 / 2 L_i over the drawn layers, beside f(X_0) - f(X_K), which it cannot exceed.",
            value=total, bound=values[0] - values[-1], outcome="holds" if total <= values[0] - values[-1] else "fails", kind="proved",
            check="average", premises=(FLOAT64,), evidence=names,
        ),
    ), problem.fingerprint(), evidence)  # fmt: skip
