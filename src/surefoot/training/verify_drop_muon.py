"""Checkers of Drop-Muon's claims.

Steps are redone from the gradient of a complete backward pass in float64, with the Newton-Schulz polynomial applied to singular values;
draws from the seed; the optimal probabilities by a linear program; operations with a graph that is pruned instead of frozen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Check, Dossier, Verdict, compare
from surefoot.numerics.operations import CountOperations
from surefoot.training.drop_muon_problem import MuonTask
from surefoot.training.verify_drop_muon_squares import average, descent

Array = np.ndarray[Any, np.dtype[Any]]
QUINTIC = (3.4445, -4.7750, 2.0315)
LEAST_GAIN, LEAST_SHARE, DECAYS, RECENT, EVERY = 0.03, 0.25, (0.9, 0.95), 5, 100
SHARE = 0.4  # of the steps, of a layer other than the last: "independent"


def _require(truth: Any, why: str) -> None:
    if not truth:
        raise ValueError(why)


def _numbers(settings: Mapping[str, Any], *names: str) -> list[float]:
    found = [settings[name] for name in names]
    _require(all(isinstance(x, int | float) and math.isfinite(x) for x in found), f"{names} are not numbers")
    return found


class _Run:
    """Settings and draws, once they agree with the network and with each other."""

    def __init__(self, dossier: Dossier) -> None:
        problem = dossier.problem
        _require(isinstance(problem, MuonTask), "the problem is not a network to train")
        self.problem: MuonTask = problem
        self.settings = dossier.evidence["settings.json"]
        self.model = problem.make()
        self.parameters = list(self.model.parameters())
        self.names = [name for name, _ in self.model.named_parameters()]
        self.layers, self.norms = self.settings["layers"], self.settings["norms"]
        _require(self.settings["names"] == self.names, "the parameters are not the network's")
        _require(set(self.norms) <= {"spectral", "sign", "euclidean", "adamw", "sgd"}, "a norm has no meaning")
        _require(self.settings["scale"] in ("original", "match_rms_adamw", "none"), "the scale has no meaning")
        _require(isinstance(self.settings["nesterov"], bool), "nesterov is neither true nor false")
        draws = dossier.evidence["draws.npz"]
        self.masks, self.eras, self.costs, self.spared = (draws[n] for n in ("masks", "eras", "costs", "spared"))
        self.suffixes = self.settings["sampling"] != "independent"
        b = len(self.costs) - 1
        _require(self.masks.dtype == np.uint8 and set(np.unique(self.masks)) <= {0, 1}, "the sets are not 0 and 1")
        _require(self.masks.shape[1] == b == self.eras.shape[1] - 1, "the sets are not of the layers")
        _require(sorted(set(self.layers)) == list(range(b)), "the layers are not 0 to b - 1")
        self.seed = self.settings["seed"]
        self.streams = Streams(self.seed)

    def era(self, k: int) -> Array:
        """Probabilities at step k: of the cutoffs, or ("independent") of the layers."""
        return self.eras[np.flatnonzero(self.eras[:, 0] <= k)[-1], 1:]

    def inclusion(self, k: int) -> Array:
        """How often step k draws each layer."""
        return np.cumsum(self.era(k)) if self.suffixes else self.era(k)

    def probing(self, k: int) -> bool:
        auto = self.settings["sampling"] == "auto" and len(self.costs) > 2
        return auto and k > 0 and (k % EVERY == 0 or k in (4, 20))

    def batch(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        (size,) = _numbers(self.settings, "batch")
        n = len(self.problem.x)
        rows = np.sort(self.streams.numpy("batch", k).choice(n, min(int(size), n), replace=False))
        x = self.problem.x[torch.from_numpy(rows)]
        return x, self.problem.y[torch.from_numpy(rows)]

    def gradient(self, weights: Array, buffers: Array, k: int) -> list[Array]:
        """Of every parameter, by a complete backward pass in float64."""
        model = self.model.double().train()
        place = 0
        with torch.no_grad():
            for p in self.parameters:
                p.copy_(torch.from_numpy(weights[place : place + p.numel()]).reshape(p.shape))
                place += p.numel()
            _require(place == len(weights), "the weights are not those of the network")
            place = 0
            for buffer in model.buffers():
                buffer.copy_(torch.from_numpy(buffers[place : place + buffer.numel()]).reshape(buffer.shape))
                place += buffer.numel()
        x, y = self.batch(k)
        for p in self.parameters:
            p.requires_grad_(True).grad = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.streams.key("dropout", k) & (2**63 - 1))
            self.problem.loss(model, x.double() if x.is_floating_point() else x, y).backward()
        return [np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy() for p in self.parameters]


# ---- draws and costs ---------------------------------------------------------------------------------------------------
def _declared(run: _Run, k: int) -> Array | None:
    """The probabilities that the sampling's name means at step k; None for "auto"."""
    b, name = len(run.costs) - 1, run.settings["sampling"]
    if name == "independent":
        return np.array([*[SHARE] * (b - 1), 1.0])
    if name == "uniform":
        return np.full(b, 1 / b)
    if name == "full":
        return np.eye(b)[0]
    if name == "epoch-shift":
        epochs, steps = _numbers(run.settings, "epochs", "steps")
        _require(epochs >= 1 and len(run.masks) <= steps, "the schedule is not of these steps")
        tau = min((k // max(1, math.ceil(steps / epochs))) / epochs, 1.0)
        s = np.arange(1, b + 1)
        weights = np.exp(0.5 * ((1 - tau) * (b - s) + tau * (s - 1)))
        return weights / weights.sum()
    _require(name == "auto", "the sampling has no meaning")
    return None


def _check_draws(run: _Run) -> None:
    _require(
        np.isfinite(run.eras).all() and run.eras[0, 0] == 0 and (np.diff(run.eras[:, 0]) > 0).all(),
        "the eras have no order",
    )
    _require(
        (run.eras[:, 0] < len(run.masks)).all() and (run.eras[:, 0] == np.round(run.eras[:, 0])).all(),
        "an era is of no step",
    )
    for k, mask in enumerate(run.masks):
        p, wanted = run.era(k), _declared(run, k)
        if wanted is not None:
            _require(
                np.allclose(p, wanted, rtol=1e-9, atol=1e-12),
                f"step {k}: the probabilities are not those of the sampling",
            )
        if not run.suffixes:
            coins = run.streams.numpy("layers", k).random(len(p))
            _require((mask == (coins < p)).all(), f"step {k}: the set is not what seed and probabilities give")
            continue
        _require((p >= -1e-12).all() and abs(p.sum() - 1) < 1e-9, f"step {k}: the probabilities are none")
        if run.probing(k):
            _require(mask.all(), f"step {k} estimates the smoothness, so it updates every layer")
            continue
        u = run.streams.numpy("layers", k).random()
        cumulated, start = 0.0, len(p) - 1
        for s, share in enumerate(p):
            cumulated += max(share, 0.0)
            if u < cumulated:
                start = s
                break
        near = np.abs(np.cumsum(p) - u).min() < 1e-9
        _require(
            near or (mask == (np.arange(len(p)) >= start)).all(),
            f"step {k}: the set is not what seed and probabilities give",
        )


def _check_costs(run: _Run) -> None:
    """Counted again, on the whole graph pruned by asking for some gradients only."""
    b = len(run.costs) - 1
    model = run.problem.make().train()
    (size,) = _numbers(run.settings, "batch")
    (ns_steps,) = _numbers(run.settings, "ns_steps")
    rows = slice(0, min(int(size), len(run.problem.x)))
    parameters = list(model.parameters())
    passes, updates = [], np.zeros(b)
    for s in range(b):
        wanted = [p for p, layer in zip(parameters, run.layers, strict=True) if layer >= s]
        passes.append(_operations_of(run, model, rows, wanted))
    for p, layer, norm in zip(parameters, run.layers, run.norms, strict=True):
        if norm == "spectral":
            low, high = sorted((p.shape[0], p.numel() // p.shape[0]))
            updates[layer] += ns_steps * (4 * low * low * high + 2 * low**3)
    T = np.array([passes[s] + updates[s:].sum() for s in range(b)])
    said = np.array([run.costs[0] + run.costs[1 + s :].sum() for s in range(b)])
    _require(np.allclose(said, T, rtol=1e-6), "the costs are not those that are counted")
    _require(np.isclose(run.costs[0], passes[-1], rtol=1e-6), "the forward cost is not the one that is counted")
    if run.suffixes:
        _require(run.spared.size == 0, "only sets that are no suffixes spare layers within")
        return
    spared = np.zeros(b)
    for i in range(1, b):
        wanted = [p for p, layer in zip(parameters, run.layers, strict=True) if layer != i]
        spared[i] = passes[0] - _operations_of(run, model, rows, wanted) + updates[i]
    _require(
        run.spared.shape == (b,) and np.allclose(run.spared, spared, rtol=1e-6),
        "what leaving out a layer saves is not what is counted",
    )


def _operations_of(run: _Run, model: torch.nn.Module, rows: slice, wanted: list[torch.nn.Parameter]) -> float:
    """Of forward pass and backward pass to some parameters."""
    with CountOperations() as counter:
        torch.autograd.grad(
            run.problem.loss(model, run.problem.x[rows], run.problem.y[rows]), wanted, allow_unused=True
        )
    return float(counter.total)


def draws(claim: Claim, dossier: Dossier) -> Verdict:
    """Every set drawn once more."""
    run = _Run(dossier)
    _check_draws(run)
    return compare(claim, float(np.mean([m.sum() / len(m) for m in run.masks])), supports="measured", bound=1.0)


def operations(claim: Claim, dossier: Dossier) -> Verdict:
    """Costs counted once more, added up over the draws."""
    run = _Run(dossier)
    _check_draws(run)
    _check_costs(run)
    layers = run.costs[1:]
    total = 0.0
    for mask in run.masks:
        start = int(np.flatnonzero(mask)[0])
        total += run.costs[0] + layers[start:].sum()
        if not run.suffixes:
            total -= run.spared[start:][mask[start:] == 0].sum()
    return compare(claim, float(total / (len(run.masks) * run.costs.sum())), supports="measured", bound=1.0)


def sampling(claim: Claim, dossier: Dossier) -> Verdict:
    """Secants from the audited steps, and the cheapest probabilities by a linear program."""
    run = _Run(dossier)
    _check_costs(run)
    audits, b = dossier.evidence["audits.npz"], len(run.costs) - 1
    found: list[list[float]] = [[] for _ in range(b)]
    large: list[list[float]] = [[] for _ in range(b)]
    p: Array = np.eye(b)[0]
    (lr,) = _numbers(run.settings, "lr")
    for place, step in enumerate(audits["step"]):
        if not run.probing(int(step)):
            continue
        _require(
            np.allclose(run.era(int(step)), p, atol=0.05),
            f"the probabilities before step {int(step)} are not those of the estimates",
        )
        for i, (secant, size) in enumerate(zip(*_secants(run, audits, place, int(step)), strict=True)):
            found[i].append(secant)
            large[i].append(size)
        L = _shared([float(np.median(values[-RECENT:])) for values in found])
        ratio, P = _cheapest(L, run.costs)
        ratio *= _more_steps(P, L, np.array([float(np.median(values[-RECENT:])) for values in large]), lr)
        enough = max(len(values) for values in found) >= 2
        p = np.diff(P, prepend=0.0) if enough and 1 - ratio >= LEAST_GAIN else np.eye(b)[0]
        if (
            enough and abs(1 - ratio - LEAST_GAIN) < 5e-3 and int(step) + 1 < len(run.masks)
        ):  # on the edge either is right
            p = run.era(int(step) + 1)
    last = int(max((s for s in audits["step"] if run.probing(int(s))), default=-1))
    if last + 1 < len(run.masks):
        _require(
            np.allclose(run.era(len(run.masks) - 1), p, atol=0.05),
            "the last probabilities are not those of the estimates",
        )
    inclusion = np.cumsum(run.eras[-1, 1:])
    value = float((run.costs[0] + inclusion @ run.costs[1:]) / run.costs.sum())
    return compare(claim, value, supports="measured", bound=1.0)


def _more_steps(P: Array, L: Array, g: Array, lr: float) -> float:
    """Guaranteed decrease of a full step of radius lr over the expected one of steps lr / P_i of drawn layers."""
    full = dropped = 0.0
    for share, bend, size in zip(P, L, g, strict=True):
        if size > 0:
            full += lr * size - bend * lr**2 / 2
            dropped += share * (lr / share * size - bend * (lr / share) ** 2 / 2)
    return 1.0 if full <= 0 else math.inf if dropped <= 0 else full / dropped


def _shared(values: list[float]) -> Array:
    """Layers that only AdamW or SGD trains take the constant of the next layer with one, or of the last such."""
    out, ahead = np.array(values), math.nan
    for i in range(len(out))[::-1]:
        ahead = out[i] if math.isfinite(out[i]) else ahead
        out[i] = ahead
    last = out[np.isfinite(out)][-1]
    return np.where(np.isfinite(out), out, last)


def _cheapest(L: Array, costs: Array) -> tuple[float, Array]:
    """min C_f t + c q over q_i >= L_i, q non-decreasing, q_b = t: expected cost times steps; and P = q / t."""
    from scipy.optimize import linprog

    b = len(L)
    objective = costs[1:].copy()
    objective[-1] += costs[0]
    rises = np.eye(b)[:-1] - np.eye(b)[1:]
    floors = LEAST_SHARE * np.eye(b)[-1] - np.eye(b)[:-1]  # q_i >= LEAST_SHARE t
    scale = objective.max()
    best = linprog(
        objective / scale,
        A_ub=np.vstack([rises, floors]),
        b_ub=np.zeros(2 * (b - 1)),
        bounds=[(x, None) for x in L / L.max()],
    )
    _require(best.x is not None, "the linear program has no solution")
    full = costs.sum()
    return float(best.fun * scale / full), best.x / best.x[-1]


def _secants(run: _Run, audits: Mapping[str, Array], place: int, k: int) -> tuple[list[float], list[float]]:
    """|g(X+) - g(X)|* / |X+ - X| and |g(X)|* by layer, in norms in which a step has length lr."""
    b = len(run.costs) - 1
    before, after, buffers = audits["weights"][place], audits["after"][place], audits["buffers"][place]
    g, h = run.gradient(before, buffers, k), run.gradient(after, buffers, k)
    change, moved, sizes, offset = np.zeros(b), np.zeros(b), np.zeros(b), 0
    for a, c, layer, norm in zip(g, h, run.layers, run.norms, strict=True):
        d = after[offset : offset + a.size].astype(float) - before[offset : offset + a.size]
        offset += a.size
        if norm in ("adamw", "sgd"):
            continue
        scale = _scale(run, a.shape) if norm == "spectral" else 1.0
        e = (c - a).reshape(a.shape[0], -1)
        d = d.reshape(e.shape)
        if norm == "spectral":
            dual, size = np.linalg.norm(e, "nuc"), np.linalg.norm(d, 2)
        else:
            dual, size = (
                (np.abs(e).sum(), np.abs(d).max()) if norm == "sign" else (np.linalg.norm(e), np.linalg.norm(d))
            )
        change[layer] += scale * float(dual)
        flat = a.reshape(e.shape)
        ways = {
            "spectral": lambda M: np.linalg.norm(M, "nuc"),
            "sign": lambda M: np.abs(M).sum(),
            "euclidean": np.linalg.norm,
        }
        sizes[layer] += scale * float(ways[norm](flat))
        moved[layer] = max(moved[layer], float(size) / scale)
    return [c / m if m > 0 else math.nan for c, m in zip(change, moved, strict=True)], sizes.tolist()


# ---- steps -------------------------------------------------------------------------------------------------------------
def _scale(run: _Run, shape: tuple[int, ...]) -> float:
    rows, columns = shape[0], math.prod(shape[1:])
    how = run.settings["scale"]
    return (
        math.sqrt(max(1.0, rows / columns))
        if how == "original"
        else 0.2 * math.sqrt(max(rows, columns))
        if how == "match_rms_adamw"
        else 1.0
    )


def _orthogonal(M: Array, steps: int) -> Array:
    """The quintic applied to the singular values, which is what Newton-Schulz computes."""
    a, b, c = QUINTIC
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    s = S / max(float(np.sqrt((S**2).sum())), 1e-7)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (U * s) @ Vh


def _wanted(
    run: _Run, i: int, g: Array, X: Array, moment: Array, variance: Array, n: float, rate: float, momentum: float
) -> Array:
    decay, ns_steps = _numbers(run.settings, "weight_decay", "ns_steps")
    norm = run.norms[i]
    if norm in ("adamw", "sgd"):
        rate = rate / 10
    shrink = -rate * decay * X
    if norm == "adamw":
        first, second = DECAYS
        moment, variance = first * moment + (1 - first) * g, second * variance + (1 - second) * g**2
        return shrink - rate * moment / (1 - first**n) / (np.sqrt(variance / (1 - second**n)) + 1e-8)
    if momentum > 0:
        moment = momentum * moment + (1 - momentum) * g
        moment = momentum * moment + (1 - momentum) * g if run.settings["nesterov"] else moment
    else:
        moment = g
    if norm == "sgd":
        return shrink - rate * moment
    if norm == "spectral":
        return shrink - rate * _scale(run, g.shape) * _orthogonal(
            moment.reshape(g.shape[0], -1), int(ns_steps)
        ).reshape(g.shape)
    return shrink - rate * (np.sign(moment) if norm == "sign" else moment / np.linalg.norm(moment))


def step(claim: Claim, dossier: Dossier) -> Verdict:
    """Every audited step from a complete backward pass in float64."""
    run = _Run(dossier)
    _check_draws(run)
    audits, worst = dossier.evidence["audits.npz"], 0.0
    lr, compensation, usual, forgetting = _numbers(
        run.settings, "lr", "lr_compensation", "momentum", "momentum_compensation"
    )
    steps = audits["step"]
    _require(len(steps) >= 1 and (np.diff(steps) > 0).all() and steps[0] >= 0, "the audited steps have no order")
    _require(np.isfinite(audits["buffers"]).all(), "a buffer is not finite")
    for place, k in enumerate(int(s) for s in steps):
        before, after = audits["weights"][place], audits["after"][place]
        P = run.inclusion(k)
        gradients = run.gradient(before, audits["buffers"][place], k)
        offset = 0
        drawn = [g for g, layer in zip(gradients, run.layers, strict=True) if run.masks[k, layer]]
        largest = max(float(np.abs(g).max()) for g in drawn)
        _require(np.isfinite(after).all(), f"step {k}: a weight is not finite")
        for i, g in enumerate(gradients):
            part = slice(offset, offset + g.size)
            offset += g.size
            M, later, V = (
                audits[name][place][part].astype(float).reshape(g.shape)
                for name in ("momentum", "momentum_after", "second")
            )
            n = float(run.masks[:k, run.layers[i]].sum())
            counted = run.norms[i] == "adamw"
            _require(
                audits["updates"][place][i] == (n if counted else 0),
                f"step {k}: {run.names[i]} was not updated {n:g} times before",
            )
            _require(
                np.isfinite(V).all() and (V >= 0).all() and (counted or not V.any()),
                f"step {k}: second moments of {run.names[i]}",
            )
            if not run.masks[k, run.layers[i]]:
                continue
            share = max(float(P[run.layers[i]]), LEAST_SHARE)
            momentum = usual**share ** (-forgetting)
            weight = 1 - (DECAYS[0] if counted else momentum)
            kept = M + weight * (g - M) if counted or momentum > 0 else np.zeros_like(g)
            size = max(np.linalg.norm(kept), 1e-12)
            _require(
                np.linalg.norm(later - kept) <= 1e-3 * size + 1e-7,
                f"step {k}: the momentum of {run.names[i]} is not what follows",
            )
            if np.abs(g).max() <= 1e-6 * largest:
                continue
            X = before[part].astype(float).reshape(g.shape)
            wanted = _wanted(run, i, g, X, M, V, n + 1, lr / share**compensation, momentum)
            moved = after[part].astype(float).reshape(g.shape) - X
            length = float(np.linalg.norm(wanted))
            error = float(np.linalg.norm(moved - wanted)) / length if length > 0 else float(np.linalg.norm(moved) > 0)
            worst = max(worst, error) if math.isfinite(error) else math.nan
            _require(math.isfinite(worst), f"step {k}: {run.names[i]} moved to where numbers are not finite")
    return compare(claim, worst, supports="measured", bound=0.02, rtol=0.1, atol=1e-7)


def untouched(claim: Claim, dossier: Dossier) -> Verdict:
    """Compared entry by entry."""
    run = _Run(dossier)
    _check_draws(run)
    audits, changed = dossier.evidence["audits.npz"], 0
    layer = np.concatenate([np.full(p.numel(), i) for p, i in zip(run.parameters, run.layers, strict=True)])
    for place, k in enumerate(int(s) for s in audits["step"]):
        held = ~run.masks[k].astype(bool)[layer]
        for a, b in (("weights", "after"), ("momentum", "momentum_after")):
            changed += int((audits[a][place][held] != audits[b][place][held]).sum())
    return compare(claim, float(changed), supports="proved", bound=0.0)


def self_parameters(run: _Run) -> list[torch.Tensor]:
    return list(run.parameters)


# ---- quality -----------------------------------------------------------------------------------------------------------
def _loaded(problem: MuonTask, weights: Mapping[str, Any]) -> torch.nn.Module:
    model = problem.make()
    model.load_state_dict({name: torch.as_tensor(np.asarray(v)) for name, v in weights.items()})
    _require(all(torch.isfinite(p).all() for p in model.parameters()), "a weight of the answer is not finite")
    return model.eval()


def _logits(model: torch.nn.Module, x: torch.Tensor) -> Array:
    with torch.no_grad():
        return np.concatenate([model(part).double().numpy() for part in x.split(256)])


def _count(claim: Claim, problem: MuonTask, weights: Mapping[str, Any]) -> tuple[int, int]:
    logits = _logits(_loaded(problem, weights), problem.x_test)
    y = problem.y_test.numpy()
    return int((logits.argmax(-1) == y).sum()), y.size


def accuracy(claim: Claim, dossier: Dossier) -> Verdict:
    """Counted from the answer; the bound by the quantile of a beta distribution."""
    problem = dossier.problem
    hits, n = _count(claim, problem, dossier.answer)
    if problem.y_test.ndim > 1:
        return compare(claim, hits / n, supports="measured", bound=0.0, rtol=1e-3)
    said = claim.confidence
    _require(
        said is not None and said.level == 0.95 and said.samples == n, "the confidence is not that of the test data"
    )
    # One sample whose two best logits nearly tie may fall either way on another machine.
    bounds = [0.0 if k <= 0 else float(betaincinv(k, n - k + 1, 0.05)) for k in (hits - 1, hits, hits + 1)]
    near = min(bounds, key=lambda x: abs(x - float(claim.value or 0)))  # type: ignore[arg-type]
    return compare(claim, near, supports="statistical", bound=0.0, rtol=1e-6, atol=1e-9)


def mean_loss(claim: Claim, dossier: Dossier) -> Verdict:
    """From the answer, with the logarithm of the sum taken in numpy."""
    problem = dossier.problem
    logits = _logits(_loaded(problem, dossier.answer), problem.x_test)
    y = problem.y_test.numpy()
    top = logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, y[..., None], -1)
    losses = np.log(np.exp(logits - top).sum(-1)) - (chosen - top)[..., 0]
    return compare(claim, float(losses.mean()), supports="measured", bound=0.0, rtol=1e-4, atol=1e-7)


def beside_full(claim: Claim, dossier: Dossier) -> Verdict:
    """Both networks counted once more."""
    problem, settings = dossier.problem, dossier.evidence["settings.json"]
    flat = dossier.evidence["full.npz"]["weights"]
    model, answer = problem.make(), dossier.answer
    _require(np.isfinite(flat).all(), "a weight of full Muon is not finite")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    _require(
        list(shapes) == settings["names"] and flat.size == sum(math.prod(s) for s in shapes.values()),
        "the weights of full Muon do not fit",
    )
    weights: dict[str, Any] = {name: np.asarray(v) for name, v in answer.items()}
    mine, n = _count(claim, problem, answer)
    place = 0
    for name, shape in shapes.items():
        weights[name] = flat[place : place + math.prod(shape)].reshape(shape)
        place += math.prod(shape)
    first = {id(p): name for name, p in reversed([*model.named_parameters()])}
    for name, p in model.named_parameters(remove_duplicate=False):  # tied ones have several names
        weights[name] = weights[first[id(p)]]
    place = 0
    for name, buffer in model.named_buffers():
        if name in weights:
            values = dossier.evidence["full.npz"]["buffers"][place : place + buffer.numel()]
            _require(np.isfinite(values).all(), f"{name} of full Muon is not finite")
            weights[name], place = values.reshape(tuple(buffer.shape)), place + buffer.numel()
    theirs, _ = _count(claim, problem, weights)
    return compare(claim, (theirs - mine) / n, supports="measured", rtol=1e-9, atol=1e-12)


CHECKS: Mapping[str, Check] = {
    "draws": draws, "operations": operations, "sampling": sampling, "step": step, "untouched": untouched, "accuracy": accuracy,
    "test-loss": mean_loss, "beside-full": beside_full, "descent": descent, "average": average,
}  # fmt: skip
