"""Training with Drop-Muon under `solve`, beside full Muon on the same batches, with audited steps.

The cost of a step is counted in floating-point operations, so that the same seed gives the same run, draw by draw, with "auto" too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.training.drop_muon import DropMuon
from surefoot.training.drop_muon_costs import CostModel, count_costs, count_spared
from surefoot.training.drop_muon_layers import layers_from_module
from surefoot.training.drop_muon_problem import LeastSquares, MuonTask
from surefoot.training.drop_muon_sampling import Auto, EpochShift, LayerSchedule, as_schedule, optimal_cutoffs

__all__ = ["DropMuonState", "LeastSquaresMuon", "TrainMuon"]

SLOTS = (
    "momentum_buffer",
    "exp_avg_sq",
)  # what the audit keeps: the first moment (AdamW's under the same name), the second


@dataclass
class Arm:
    """One model with its optimiser, alive."""

    model: nn.Module
    optimizer: DropMuon


DIVERGED = 1e4  # a cross-entropy beyond this is no training any more


@dataclass(kw_only=True)
class DropMuonState(State):
    weights: dict[str, Tensor]
    slots: dict[str, Tensor] = field(default_factory=dict)  # parameter:slot
    memory: dict[str, Any] = field(default_factory=dict)
    full_weights: dict[str, Tensor] = field(default_factory=dict)
    full_slots: dict[str, Tensor] = field(default_factory=dict)
    full_memory: dict[str, Any] = field(default_factory=dict)
    costs: list[float] = field(default_factory=list)  # C_f, c_0, ..., in operations
    spared: list[float] = field(default_factory=list)  # (b,), where sets need not be suffixes
    masks: list[list[int]] = field(default_factory=list)
    # since which step; from then on the cutoffs' probabilities, or the layers' ("independent")
    eras: list[list[float]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    loss: float = -1.0  # moving averages over about ten steps; below 0: none yet
    full_loss: float = -1.0
    work: float = 0.0  # over that of one full step
    full_work: float = 0.0
    live: Any = transient()  # noqa: RUF009 (it is dataclasses.field)


@dataclass(frozen=True)
class TrainMuon(Method[MuonTask, DropMuonState, dict[str, Tensor]]):
    """Drop-Muon, and beside it full Muon from the same start on the same batches.

    Args:
        horizon: steps of each.
        sampling: "independent", "uniform", "full", "auto" or "epoch-shift".
        batch: samples a step.
        compare: train with full Muon, too.
        audits: steps of which everything is kept for the certificate ("auto" adds those that estimate the smoothness).
        block: steps a call; changes nothing.
        The others are `DropMuon`'s.
    """

    horizon: int = 60  # pyright: ignore[reportIncompatibleVariableOverride]
    sampling: str = "independent"
    lr: float = 0.03
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    lr_compensation: float | None = None
    momentum_compensation: float | None = None
    norm: str | None = None
    scale: str = "original"
    ns_steps: int = 5
    batch: int = 128
    epochs: int = 8
    compare: bool = True
    audits: int = 3
    block: int = 5

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.batch < 1 or self.audits < 1 or self.epochs < 1:
            raise ValueError("steps, batch, audits and epochs must be at least 1")
        if self.sampling not in ("independent", "uniform", "full", "auto", "epoch-shift"):
            raise ValueError(f"sampling is {self.sampling!r}; expected independent, uniform, full, auto or epoch-shift")

    @property
    def compensation(self) -> float:
        """c in lr / max(P, 1/4)^c."""
        return 1.0 if self.lr_compensation is None else self.lr_compensation

    @property
    def forgetting(self) -> float:
        """a in momentum^(1 / max(P, 1/4)^a)."""
        return float(self.sampling != "auto") if self.momentum_compensation is None else self.momentum_compensation

    # ---- building ------------------------------------------------------------------------------------------------------
    def schedule(self, costs: list[float]) -> LayerSchedule:
        """The sampling, with counted costs for "auto"."""
        if self.sampling == "auto":
            return Auto(costs=tuple(costs), exact=True)
        if self.sampling == "epoch-shift":
            return EpochShift(self.epochs, steps_per_epoch=max(1, -(-self.horizon // self.epochs)))
        return as_schedule(self.sampling)

    def _arm(self, problem: MuonTask, sampling: Any, seed: int) -> Arm:
        model = problem.make()
        blocks = None if problem.layers is None else problem.layers(model)
        groups = layers_from_module(model, blocks)
        if self.norm is not None:
            groups = [{**group, "norm": self.norm} for group in groups]
        how: dict[str, Any] = {"scale": self.scale}
        optimizer = DropMuon(
            groups, self.lr, sampling=sampling, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay,
            lr_compensation=self.compensation, momentum_compensation=self.forgetting, ns_steps=self.ns_steps, seed=seed, **how,
        )  # fmt: skip
        return Arm(model.train(), optimizer)

    def init(self, problem: MuonTask, start: dict[str, Tensor] | None, streams: Streams) -> DropMuonState:
        seed = 0 if streams.seed is None else streams.seed
        arm = self._arm(problem, "full", seed)
        if start is not None:
            arm.model.load_state_dict(start)
        kept = {name: v.detach().clone() for name, v in arm.model.state_dict().items()}
        rows = torch.arange(min(self.batch, len(problem.x)))

        def gradient() -> None:
            arm.optimizer.zero_grad()
            problem.loss(arm.model, problem.x[rows], problem.y[rows]).backward()

        costs = list(count_costs(arm.optimizer, gradient).as_tuple())
        return DropMuonState(
            streams=streams,
            weights=kept,
            full_weights={k: v.clone() for k, v in kept.items()} if self.compare else {},
            costs=costs,
            spared=count_spared(arm.optimizer, gradient) if self.sampling == "independent" else [],
        )

    def _alive(self, problem: MuonTask, state: DropMuonState) -> list[Arm]:
        if state.live is None:
            seed = 0 if state.streams.seed is None else state.streams.seed
            arms = [self._arm(problem, self.schedule(state.costs), seed)]
            saved = [(state.weights, state.slots, state.memory)]
            if self.compare:
                arms.append(self._arm(problem, "full", seed))
                saved.append((state.full_weights, state.full_slots, state.full_memory))
            for arm, (weights, slots, memory) in zip(arms, saved, strict=True):
                arm.model.load_state_dict(weights)
                names = dict(arm.model.named_parameters())
                for key, value in slots.items():
                    name, _, slot = key.rpartition(":")
                    arm.optimizer.state[names[name]][slot] = value.clone()
                if memory:
                    arm.optimizer.restore(memory)
            state.live = arms
        return state.live

    def _keep(self, state: DropMuonState) -> None:
        for i, arm in enumerate(state.live):
            weights = {name: v.detach().clone() for name, v in arm.model.state_dict().items()}
            names = {p: name for name, p in arm.model.named_parameters()}
            slots = {
                f"{names[p]}:{slot}": v.clone() for p, values in arm.optimizer.state.items() for slot, v in values.items()
            }  # fmt: skip
            if i == 0:
                state.weights, state.slots, state.memory = weights, slots, arm.optimizer.remembered()
            else:
                state.full_weights, state.full_slots, state.full_memory = weights, slots, arm.optimizer.remembered()

    # ---- the five verbs --------------------------------------------------------------------------------------------------
    def batches(self, problem: MuonTask, streams: Streams, k: int) -> Tensor:
        """Rows of batch k."""
        size = min(self.batch, len(problem.x))
        return torch.from_numpy(np.sort(streams.numpy("batch", k).choice(len(problem.x), size, replace=False)))

    def batch_of(self, problem: MuonTask, streams: Streams, k: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of batch k."""
        rows = self.batches(problem, streams, k)
        return problem.x[rows], problem.y[rows]

    def fresh(self, problem: MuonTask, state: DropMuonState) -> Arm:
        """Model and optimiser as at the start."""
        return self._arm(problem, "full", 0 if state.streams.seed is None else state.streams.seed)

    def audited(self, k: int) -> bool:
        """Whether step k is kept for the certificate."""
        places = {
            round(float(x))
            for x in np.linspace(0, self.horizon - 1, self.audits + 1)[:-1] + (self.horizon - 1) / (2 * self.audits)
        }
        return k in places or (self.sampling == "auto" and Auto().probes(k))

    def step(self, problem: MuonTask, state: DropMuonState) -> DropMuonState:
        arms = self._alive(problem, state)
        model = CostModel(state.costs[0], tuple(state.costs[1:]))
        for _ in range(state.room(self.block)):
            x, y = self.batch_of(problem, state.streams, state.k)
            losses: list[float] = []
            before: dict[str, Any] | None = None
            for i, arm in enumerate(arms):
                if i == 0:
                    self._note(state, arm)
                    before = audit_of(arm) if self.audited(state.k) else None
                losses.append(self._train(problem, state, arm, x, y))
                if i == 0 and before is not None:
                    after = audit_of(arm)
                    state.audits.append(
                        {"step": state.k, **before, "after": after["weights"], "momentum_after": after["momentum"]}
                    )
            mask = state.masks[-1]
            probing = self.sampling == "auto" and Auto().probes(state.k)
            state.work += (model.of(mask, state.spared) * (2 if probing else 1)) / model.step(0)
            state.full_work += float(self.compare)
            state.loss, state.full_loss = _smoothed(state.loss, losses[0]), _smoothed(state.full_loss, losses[-1])
            state.k += 1
            state.count(gradient=len(arms) + probing)
        self._keep(state)
        return state

    def _note(self, state: DropMuonState, arm: Arm) -> None:
        mask = [int(i in arm.optimizer.drawn) for i in range(arm.optimizer.layers)]
        state.masks.append(mask)
        P = arm.optimizer.inclusion
        p = [float(x) for x in (P if self.sampling == "independent" else np.diff(P, prepend=0.0))]
        if not state.eras or state.eras[-1][1:] != p:
            state.eras.append([float(state.k), *p])

    def _train(self, problem: MuonTask, state: DropMuonState, arm: Arm, x: Tensor, y: Tensor) -> float:
        def closure() -> Tensor:
            arm.optimizer.zero_grad()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state.streams.key("dropout", state.k) & (2**63 - 1))
                loss = problem.loss(arm.model, x, y)
            loss.backward()
            return loss

        return float(arm.optimizer.step(closure).detach())

    def look(self, state: DropMuonState) -> Look:
        row = {"loss": state.loss, "work": state.work, "layers": float(np.mean(state.masks[-1]))}
        row |= {"full_loss": state.full_loss, "full_work": state.full_work} if self.compare else {}
        lost = [name for name in ("loss", "full_loss") if not row.get(name, 0.0) <= DIVERGED]
        if lost:
            whose = "the training" if lost[0] == "loss" else "full Muon beside it"
            return Look(
                row,
                Status.DIVERGED,
                f"{whose} diverged: its loss is {row[lost[0]]:.3g} at step {state.k} with lr {self.lr:g}; take a smaller one",
            )
        return Look(row)

    def answer(self, problem: MuonTask, state: DropMuonState) -> dict[str, Tensor]:
        return {name: v.clone() for name, v in state.weights.items()}

    def certify(self, problem: MuonTask, state: DropMuonState) -> Certificate:
        from surefoot.training.drop_muon_certify import certify_training

        return certify_training(problem, self, state)


def _smoothed(average: float, value: float) -> float:
    return value if average < 0 else 0.9 * average + 0.1 * value


def audit_of(arm: Arm) -> dict[str, Any]:
    """Weights, first and second moments of all parameters as flat vectors in the order of the model; counts of updates; buffers."""
    state = arm.optimizer.state

    def slot(p: Tensor, *names: str) -> Tensor:
        found = next((state[p][n] for n in names if n in state.get(p, {})), torch.zeros_like(p))
        return found.detach().reshape(-1).clone()

    parameters = list(arm.model.parameters())
    buffers = [b.detach().reshape(-1).double() for b in arm.model.buffers()]
    return {
        "weights": torch.cat([p.detach().reshape(-1).clone() for p in parameters]),
        "momentum": torch.cat([slot(p, "momentum_buffer", "exp_avg") for p in parameters]),
        "second": torch.cat([slot(p, "exp_avg_sq") for p in parameters]),
        "updates": torch.tensor([float(state.get(p, {}).get("updates", 0.0)) for p in parameters]),
        "buffers": torch.cat(buffers) if buffers else torch.zeros(0, dtype=torch.float64),
    }


def parameter_layers(arm: Arm) -> Iterator[tuple[str, int, str]]:
    """Name, layer and norm of each parameter, in the order of the model."""
    norms = {p: arm.optimizer.norm_of(p) for p in arm.model.parameters()}
    for name, p in arm.model.named_parameters():
        yield name, arm.optimizer.layer_of(p), norms[p]


# ---- the theory's setting ----------------------------------------------------------------------------------------------
@dataclass(kw_only=True)
class LeastSquaresState(State):
    X: Tensor  # (b, m, n) float64
    path: list[Tensor] = field(default_factory=list)
    masks: list[list[int]] = field(default_factory=list)
    value: float = float("nan")


@dataclass(frozen=True)
class LeastSquaresMuon(Method[LeastSquares, LeastSquaresState, dict[str, Tensor]]):
    """Sharp steps ``X_i <- X_i - M_i# / L_i`` with exact constants, on least squares: descent is proved at every step."""

    horizon: int = 200  # pyright: ignore[reportIncompatibleVariableOverride]
    sampling: str = "optimal"
    block: int = 20

    def cutoffs(self, problem: LeastSquares) -> tuple[float, ...]:
        """The distribution: "optimal", "uniform" or "full"."""
        b = len(problem.left)
        if self.sampling == "optimal":
            return optimal_cutoffs([L.value for L in problem.smoothness]).p
        return tuple(np.asarray(as_schedule(self.sampling).at(0, 0, b).p).tolist())  # type: ignore[attr-defined]

    def init(self, problem: LeastSquares, start: dict[str, Tensor] | None, streams: Streams) -> LeastSquaresState:
        b, m, n = len(problem.left), problem.left.shape[2], problem.right.shape[1]
        X = torch.zeros(b, m, n, dtype=torch.float64) if start is None else torch.stack(list(start.values())).double()
        return LeastSquaresState(streams=streams, X=X, path=[X.clone()])

    def step(self, problem: LeastSquares, state: LeastSquaresState) -> LeastSquaresState:
        blocks = [nn.Parameter(x.clone()) for x in state.X]
        groups = [
            {"params": [p], "layer": i, "gamma": 1 / L.value}
            for i, (p, L) in enumerate(zip(blocks, problem.smoothness, strict=True))
        ]
        seed = 0 if state.streams.seed is None else state.streams.seed
        optimizer = DropMuon(
            groups, step="sharp", momentum=0.0, orthogonalise="exact", sampling=self.cutoffs(problem), seed=seed
        )
        optimizer.restore({**optimizer.remembered(), "k": state.k})
        for _ in range(state.room(self.block)):
            optimizer.zero_grad()
            loss = problem.value(torch.stack(list(blocks)))
            state.masks.append([int(i in optimizer.drawn) for i in range(len(blocks))])
            loss.backward()
            optimizer.step()
            state.path.append(torch.stack([p.detach().clone() for p in blocks]))
            state.k += 1
            state.count(gradient=1)
        state.X = state.path[-1].clone()
        state.value = float(problem.value(state.X))
        return state

    def look(self, state: LeastSquaresState) -> Look:
        return Look({"value": state.value, "layers": float(np.mean(state.masks[-1]))})

    def answer(self, problem: LeastSquares, state: LeastSquaresState) -> dict[str, Tensor]:
        return {f"X{i}": x.clone() for i, x in enumerate(state.X)}

    def certify(self, problem: LeastSquares, state: LeastSquaresState) -> Certificate:
        from surefoot.training.drop_muon_certify import certify_least_squares

        return certify_least_squares(problem, self, state)
