"""Drop-Muon as a ``torch.optim.Optimizer``: every step updates a random set of layers, and computes nothing for the others.

For drawn layers i in S (before the forward pass), with gradient weight ``beta = 1 - momentum``:

    M_i <- (1 - beta) M_i + beta g_i                   # momentum; with Nesterov the step uses (1 - beta) M_i + beta g_i once more
    X_i <- (1 - lr lambda) X_i - lr scale_i M_i# / |M_i|*      # step="lmo": for matrices the polar factor, Muon's step
    X_i <- (1 - lr lambda) X_i - gamma M_i#                    # step="sharp": for matrices |M|_nuc times the polar factor

and the other layers keep weights, momentum and every other state bit for bit. The set of the *next* step is drawn at the end of
``step()`` and the parameters of the other layers stop requiring gradients, so that an ordinary training loop needs no change:

    optimizer = DropMuon(model, lr=0.02)                # layers and norms from the modules
    for batch in loader:
        optimizer.zero_grad()
        loss(model, batch).backward()                   # stops at the deepest layer that was drawn
        optimizer.step()

Gradients are accumulated over the same set until ``step()``; a step that a gradient scaler skips keeps the set, too. Between steps
some parameters have ``requires_grad == False``: use ``with optimizer.thawed():`` for code of your own that needs all gradients, or
to wrap the model (DistributedDataParallel looks at ``requires_grad`` when it is made). Gradient norms and clipping see drawn layers only. Batch
norms in layers that are not drawn still update their running statistics unless ``frozen_statistics=True``.

Draws are addressed by (seed, step): the same on all ranks, whatever the resume.

References:
    Gruntkowska, Maziane, Qu, Richtarik, Drop-Muon: Update less, converge faster, 2025, arXiv 2510.02239.
    Jordan et al., Muon, 2024.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surefoot.core.random import Streams
from surefoot.numerics.spectral_matrix import NORMS, as_matrix
from surefoot.training.drop_muon_costs import CostModel, fit_costs
from surefoot.training.drop_muon_distributed import average_gradients, shared_draws
from surefoot.training.drop_muon_holding import MODES, Holding
from surefoot.training.drop_muon_layers import layers_from_module
from surefoot.training.drop_muon_sampling import (
    LEAST_INCLUSION,
    Auto,
    Cutoffs,
    Independent,
    LayerDistribution,
    as_schedule,
    predicted_ratio,
)
from surefoot.training.drop_muon_smoothness import KEPT, Point, current, generalised, secants, sizes, snapshot
from surefoot.training.drop_muon_split import SplitSequential
from surefoot.training.drop_muon_update import AUXILIARY, norm_of, shape_scale, update

__all__ = ["DropMuon", "shape_scale"]

STEPS = ("lmo", "sharp")
Orthogonalise = Literal["newton-schulz", "polar-express", "exact"]
MEMORY = "drop_muon"  # the key in the first group under which the optimiser's own state is saved


class DropMuon(Optimizer):
    """Layer-dropping Muon with truncated back-propagation; see the module for the equations.

    Args:
        params: a module (layers by `layers_from_module`), or parameters or groups. A group may say `layer` (an integer; layers are
            ordered by it, 0 nearest the input) and `norm`; without `layer` every parameter is one of its own, in order.
        lr: the radius of an "lmo" step, and times `auxiliary_scale` the rate of AdamW and SGD.
        sampling: "independent" (the default: every layer with probability 0.4, the last always), "uniform", "full", "auto", cutoff probabilities, a distribution or a schedule of `drop_muon_sampling`.
        momentum, nesterov, weight_decay: as in ``torch.optim.Muon`` (the paper's beta is 1 - momentum).
        norm: "spectral", "sign", "euclidean", "adamw" or "sgd"; None is spectral for two and more dimensions (kernels flattened
            to (out, rest)), AdamW for vectors.
        step: "lmo", or "sharp" with `gamma`.
        gamma: step size of sharp steps, or (L0, L1) for 1 / (L0 + L1 |g|*). Its scale is not that of `lr`.
        scale: of a spectral step by shape (rows, columns): "original" sqrt(max(1, rows / columns)), "match_rms_adamw"
            0.2 sqrt(max(rows, columns)), or "none".
        orthogonalise, ns_steps, ns_dtype: how the polar factor is computed, and its dtype (None: bfloat16 on a GPU, else the parameter's own).
        eps, betas: of Newton-Schulz and of AdamW.
        auxiliary_scale: see `lr`.
        lr_compensation: c in lr_i = lr / max(P_i, 1/4)^c, for layers that are drawn rarely: with 1, the default, a layer moves as far on average
            as in full Muon (and with "auto", where P_i = L_i / max L, by the step that its own smoothness allows), up to 4 lr a step; 0, as published, is in
            effect a smaller rate, which is better only where lr is already as large as full Muon bears.
        momentum_compensation: a in momentum_i = momentum^(1 / max(P_i, 1/4)^a), for steps of a norm and SGD. A layer's momentum stands still while it is not
            drawn, so that with a = 0, as published, it averages gradients that are 1 / P times older, and overshoots with longer steps. With 1, the
            default, it forgets as much a step of the run as in full Muon. With "auto", which is measured without, the default is 0.
        mode: "freeze" switches ``requires_grad``; "inputs" leaves it alone, and ``optimizer.backward(loss)`` prunes the graph;
            "split" freezes, too, and runs the blocks of a `SplitSequential` before the first drawn layer without a graph.
        seed: of the draws.
        synchronise: average the drawn layers' gradients over all ranks in ``step`` (instead of DistributedDataParallel).
        distribute: the polar factors are computed by the ranks in turn and sent around; True with sharded parameters.
        frozen_statistics: batch norms of layers that are not drawn keep their running statistics (needs a module).

    Raises:
        ValueError: a duplicate parameter, layers for some groups only, unknown words, numbers out of range.
    """

    def __init__(
        self, params: nn.Module | Iterable[Any], lr: float = 0.02, *, sampling: Any = "independent", momentum: float = 0.95,
        nesterov: bool = True, weight_decay: float = 0.0, norm: str | None = None, step: Literal["lmo", "sharp"] = "lmo",
        gamma: float | tuple[float, float] | None = None, scale: Literal["original", "match_rms_adamw", "none"] = "original",
        orthogonalise: Orthogonalise = "newton-schulz", ns_steps: int = 5, ns_dtype: torch.dtype | None = None, eps: float = 1e-7,
        betas: tuple[float, float] = (0.9, 0.95), auxiliary_scale: float = 0.1, lr_compensation: float | None = None,
        momentum_compensation: float | None = None, mode: Literal["freeze", "inputs", "split"] = "freeze", seed: int = 0, synchronise: bool = False, distribute: bool | None = None,
        frozen_statistics: bool = False,
    ) -> None:  # fmt: skip
        module = params if isinstance(params, nn.Module) else None
        groups = layers_from_module(params) if isinstance(params, nn.Module) else params
        self._schedule = as_schedule(sampling)
        self._held = Holding(module, mode, frozen_statistics)
        for name, given in (("lr_compensation", lr_compensation), ("momentum_compensation", momentum_compensation)):
            if given is not None and not 0 <= given <= 1:
                raise ValueError(f"{name} is {given}; expected a number of [0, 1]")
        self._momentum_compensation = momentum_compensation
        self._compensation, self._synchronise, self._distribute = lr_compensation, synchronise, distribute
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected freeze, inputs or split")
        if mode == "split" and not isinstance(module, SplitSequential):
            raise ValueError("mode='split' needs a SplitSequential of the network's blocks instead of parameters")
        if frozen_statistics and module is None:
            raise ValueError("frozen_statistics needs the module; give the model instead of its parameters")
        self._ready = False
        super().__init__(groups, {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "norm": norm, "step": step,
            "gamma": gamma, "scale": scale, "orthogonalise": orthogonalise, "ns_steps": ns_steps, "ns_dtype": ns_dtype, "eps": eps,
            "betas": betas, "auxiliary_scale": auxiliary_scale, "layer": None,
        })  # fmt: skip
        if seed < 0 or int(seed) != seed:
            raise ValueError(f"seed is {seed}; expected an integer >= 0")
        self._ready = True
        self._index()
        self._remember(
            {
                "k": 0,
                "epoch": 0,
                "seed": int(seed),
                "times": {},
                "smoothness": [[] for _ in range(self.layers)],
                "cutoffs": None,
            }
        )
        self._held.follow_shards()
        self._next()

    # ---- layers ------------------------------------------------------------------------------------------------------
    def _index(self) -> None:
        """Which layer each parameter belongs to."""
        given = [group["layer"] is not None for group in self.param_groups]
        if any(given) and not all(given):
            raise ValueError("some groups say which layer they are and some do not; give `layer` to all or to none")
        keys: list[Any] = []
        for g, group in enumerate(self.param_groups):
            keys += [group["layer"] if given[g] else (g, i) for i, _ in enumerate(group["params"])]
        place = {key: i for i, key in enumerate(sorted(set(keys)))}
        every = [p for group in self.param_groups for p in group["params"]]
        if len(set(every)) < len(every):
            again = next(p for i, p in enumerate(every) if any(p is q for q in every[:i]))
            raise ValueError(
                f"duplicate parameter of shape {tuple(again.shape)}: give it once, in the earliest layer that uses it"
            )
        self._layer: dict[Tensor, int] = {p: place[key] for p, key in zip(every, keys, strict=True)}
        self._members: list[list[Tensor]] = [[] for _ in place]
        for p, i in self._layer.items():
            self._members[i].append(p)
        self._held.index(self._layer)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; layers are counted anew, and what `auto` has learnt is forgotten."""
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)
        self._check_group(self.param_groups[-1])
        if self._ready:
            self._index()
            self._remember(
                {**self._memory, "times": {}, "smoothness": [[] for _ in range(self.layers)], "cutoffs": None}
            )
            self._next()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch, whose wrapper (unwrapped here and above) imports the whole compiler at its first call."""
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)

    @staticmethod
    def _check_group(group: Mapping[str, Any]) -> None:
        words = {"step": STEPS, "scale": ("original", "match_rms_adamw", "none"), "norm": (None, *NORMS, *AUXILIARY),
                 "orthogonalise": ("newton-schulz", "polar-express", "exact")}  # fmt: skip
        for name, known in words.items():
            if group[name] not in known:
                raise ValueError(f"{name} is {group[name]!r}; expected one of {', '.join(map(str, known))}")
        for name, top in {
            "lr": math.inf,
            "weight_decay": math.inf,
            "momentum": 1.0,
            "auxiliary_scale": math.inf,
        }.items():
            if not 0 <= float(group[name]) <= top or (name == "momentum" and float(group[name]) == 1):
                raise ValueError(f"{name} is {group[name]}; expected a number >= 0" + (", below 1" if top == 1 else ""))
        if not 1 <= group["ns_steps"] < 100:
            raise ValueError(f"ns_steps is {group['ns_steps']}; expected 1 to 99")
        if group["ns_dtype"] is torch.float16:
            raise ValueError("Newton-Schulz overflows in float16; take bfloat16 or float32")
        gamma = group["gamma"]
        if group["step"] == "sharp" and gamma is None:
            raise ValueError("sharp steps need gamma (its scale is not that of lr): a number, or (L0, L1)")
        if gamma is not None and not all(g >= 0 for g in (gamma if isinstance(gamma, tuple | list) else (gamma,))):
            raise ValueError(f"gamma is {gamma}; expected numbers >= 0")
        for p in group["params"]:
            if p.is_complex():
                raise ValueError("DropMuon does not take complex parameters; train real and imaginary parts")

    @property
    def layers(self) -> int:
        """b."""
        return len(self._members)

    @property
    def device(self) -> torch.device:
        return self._members[0][0].device

    @property
    def drawn(self) -> tuple[int, ...]:
        """The layers that the next step updates, counted from 0 at the input."""
        return tuple(np.flatnonzero(self._held.mask).tolist())

    @property
    def steps_done(self) -> int:
        return int(self._memory["k"])

    @property
    def inclusion(self) -> list[float]:
        """P_i (b,): how often each layer is drawn now."""
        return self._distribution.inclusion.tolist()

    def layer_of(self, parameter: Tensor) -> int:
        """The layer that a parameter belongs to."""
        return self._layer[parameter]

    def active_parameters(self) -> list[Tensor]:
        """Parameters of the drawn layers."""
        return self._held.active()

    def backward(self, loss: Tensor, **how: Any) -> None:
        """``loss.backward``, for the drawn layers only; needed with mode="inputs"."""
        if self._held.mode == "inputs":
            loss.backward(inputs=self.active_parameters(), **how)
        else:
            loss.backward(**how)

    # ---- draws -------------------------------------------------------------------------------------------------------
    @property
    def _memory(self) -> dict[str, Any]:
        return self.param_groups[0][MEMORY]

    def _remember(self, memory: dict[str, Any]) -> None:
        for group in self.param_groups:
            group.pop(MEMORY, None)
        self.param_groups[0][MEMORY] = memory  # always a fresh dict: a state_dict that somebody holds stays as it is

    def set_epoch(self, epoch: int) -> None:
        """Tell the schedule the epoch (from 0); the set for the coming step is drawn anew."""
        self._remember({**self._memory, "epoch": int(epoch)})
        self._next()

    def _next(self) -> None:
        """Draw the set of the coming step and hold the other layers back."""
        k, b = self.steps_done, self.layers
        auto = self._schedule if isinstance(self._schedule, Auto) else None
        self._probing = self._timing = False
        if auto is not None and b > 1:
            if auto.costs is not None and len(auto.costs) != b + 1:
                raise ValueError(f"{len(auto.costs)} costs; expected the forward pass and one a layer, {b + 1}")
            found = self._memory["cutoffs"]
            self._distribution = auto.at(k, 0, b) if found is None else self._rebuilt(auto, found)
            self._probing = auto.probes(k)
            self._timing = auto.costs is None and not self._probing
            if self._probing:
                self._set(np.ones(b, dtype=bool))
                return
        else:
            self._distribution = self._schedule.at(k, int(self._memory["epoch"]), b)
            if len(self._distribution.inclusion) != b:
                raise ValueError(
                    f"the distribution is over {len(self._distribution.inclusion)} layers; the optimiser has {b}"
                )
        mask = self._distribution.draw(Streams(int(self._memory["seed"])).numpy("layers", k))
        if not mask.any():
            raise ValueError("the distribution drew no layer; a set must not be empty")
        self._set(mask)

    @staticmethod
    def _rebuilt(auto: Auto, found: list[float]) -> LayerDistribution:
        return Cutoffs(tuple(found)) if auto.suffix else Independent(tuple(found))

    def sample(self) -> tuple[int, ...]:
        """The layers of the coming step (they are drawn already: at the end of the step before, or when the optimiser was made)."""
        return self.drawn

    def draw_exactly(self, layers: Iterable[int]) -> None:
        """Let the coming step update just these layers.

        Raises:
            ValueError: none, or one that there is not.
        """
        chosen = sorted(set(layers))
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < self.layers:
            raise ValueError(f"layers {chosen}; expected at least one of 0 to {self.layers - 1}")
        mask = np.zeros(self.layers, dtype=bool)
        mask[chosen] = True
        self._probing = self._timing = False
        self._set(mask)

    def _set(self, mask: np.ndarray[Any, np.dtype[Any]]) -> None:
        self._held.hold(mask)
        self._began = time.perf_counter()

    @contextmanager
    def thawed(self) -> Generator[None]:
        """Every parameter requires its gradient for the duration; gradients taken inside are dropped for layers that are not drawn."""
        self._held.thaw()
        try:
            yield
        finally:
            self._held.refreeze()

    @contextmanager
    def trial(self) -> Generator[None]:
        """What happens inside to parameters, buffers, optimiser and random generators is undone."""
        kept = [(p, p.detach().clone()) for p in self._layer]
        module = self._held.module
        buffers = [(x, x.detach().clone()) for x in (module.buffers() if module is not None else ())]
        state = {p: {k: v.clone() if isinstance(v, Tensor) else v for k, v in s.items()} for p, s in self.state.items()}
        memory, mask, generators = copy.deepcopy(self._memory), self._held.mask, _generators(self.device)
        flags = (self._probing, self._timing, self._distribution)
        try:
            yield
        finally:
            with torch.no_grad():
                for x, value in (*kept, *buffers):
                    x.copy_(value)
            self.state.clear()
            self.state.update(state)
            self._remember(memory)
            self._set(mask)
            for p in self._held.trained:
                p.grad = None
            self._probing, self._timing, self._distribution = flags
            _set_generators(self.device, generators)

    # ---- the step ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the drawn layers, draw the next set; returns the closure's loss.

        Args:
            closure: clears gradients, computes the loss, calls backward (or ``optimizer.backward``) and returns the loss. With "auto" it
                is called once more at the steps that estimate the smoothness.

        Raises:
            ValueError: sparse gradients, named with their shape.
        """
        probing = self._probing and closure is not None
        generators = _generators(self.device) if probing else None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._synchronise:
            average_gradients([p.grad for p in self.active_parameters() if p.grad is not None])
        before = snapshot(self.param_groups) if probing else None
        self._update()
        if before is not None:
            assert closure is not None
            assert generators is not None
            after = _generators(self.device)
            _set_generators(self.device, generators)  # the same dropout masks
            with torch.enable_grad():
                closure()
            if self._synchronise:
                average_gradients([p.grad for p in self.active_parameters() if p.grad is not None])
            _set_generators(self.device, after)
            self._learn(before)
        elif self._probing and self._memory["cutoffs"] is None and not any(self._memory["smoothness"]):
            warnings.warn(
                'sampling="auto" has no estimate of the smoothness, so every layer is updated; call step(closure), or probe(closure) now '
                "and then",
                stacklevel=2,
            )
        self._note_time()
        self._remember({**self._memory, "k": self.steps_done + 1})
        self._next()
        return loss

    def _update(self) -> None:
        drawn = []
        for group in self.param_groups:
            for p in group["params"]:
                if self._held.mask[self._layer[p]]:
                    rate, momentum = self._compensated(p, float(group["lr"]), float(group["momentum"]))
                    its = group if momentum == group["momentum"] else {**group, "momentum": momentum}
                    drawn.append((p, its, rate))
                else:
                    p.grad = None
        update(drawn, self.state, self._distribute)

    def _compensated(self, p: Tensor, lr: float, momentum: float) -> tuple[float, float]:
        """Rate and momentum of a parameter by how often its layer is drawn."""
        auto = isinstance(self._schedule, Auto)
        power = 1.0 if self._compensation is None else self._compensation
        forgetting = float(not auto) if self._momentum_compensation is None else self._momentum_compensation
        least = self._schedule.least_inclusion if isinstance(self._schedule, Auto) else LEAST_INCLUSION
        share = max(float(self._distribution.inclusion[self._layer[p]]), least)
        return lr / share**power, momentum ** (1 / share**forgetting)

    def update_operations(self, layer: int) -> float:
        """Floating-point operations of the matrix products in a layer's update: 5 Newton-Schulz steps of 2 n^2 (2 m + n) a piece, n <= m."""
        total = 0.0
        for group in self.param_groups:
            for p in group["params"]:
                if self._layer[p] == layer and norm_of(group, p) == "spectral":
                    n, m = sorted(as_matrix(p).shape)
                    total += group["ns_steps"] * 2.0 * n * n * (2 * m + n)
        return total

    # ---- what "auto" learns ------------------------------------------------------------------------------------------
    def _learn(self, before: list[Point]) -> None:
        exact = isinstance(self._schedule, Auto) and self._schedule.exact
        pairs = [list(layer) for layer in self._memory["smoothness"]]
        for i, pair in enumerate(secants(before, self._layer, self.layers, exact=exact)):
            if pair is not None:
                pairs[i] = [*pairs[i], pair][-KEPT:]
        self._remember({**self._memory, "smoothness": pairs})
        self._choose()

    def probe(self, closure: Callable[[], Any]) -> None:
        """Estimate the smoothness now, at the cost of two full gradients; nothing is changed. For loops that call ``step()`` without a closure."""
        with self.trial(), torch.no_grad():
            self.draw_exactly(range(self.layers))
            generators = _generators(self.device)
            with torch.enable_grad():
                closure()
            before = snapshot(self.param_groups)
            self._update()
            _set_generators(self.device, generators)
            with torch.enable_grad():
                closure()
            kept = self._memory
            self._learn(before)
            learnt = self._memory
            self._remember(kept)
        self._remember({**self._memory, "smoothness": learnt["smoothness"], "cutoffs": learnt["cutoffs"]})

    def _note_time(self) -> None:
        """Steps of "auto" are timed until each cutoff has been often enough; then the saving is judged by them."""
        if not self._timing or not isinstance(self._schedule, Auto):
            return
        start, times = int(np.flatnonzero(self._held.mask)[0]), self._memory["times"]
        if len(times.get(start, ())) > self._schedule.rounds:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - self._began
        self._remember({**self._memory, "times": {**times, start: [*times.get(start, ()), seconds]}})
        if self._memory["cutoffs"] is not None and len(self._memory["times"][start]) == self._schedule.rounds + 1:
            self._choose()

    def costs(self) -> CostModel | None:
        """C_f and c_i as given, or as the times so far say (layers beyond the deepest timed cutoff count as C_f); None before."""
        auto = self._schedule if isinstance(self._schedule, Auto) else Auto()
        if auto.costs is not None:
            return CostModel(auto.costs[0], tuple(auto.costs[1:]))
        times = {
            int(s): values[1:] for s, values in self._memory["times"].items() if len(values) > 2
        }  # the first warms up
        if 0 not in times:
            return None
        deepest = max(times)
        return fit_costs({**times, self.layers - 1: times[deepest]}, self.layers)

    def smoothness(self) -> list[float] | None:
        """L_i (b,) as estimated now; None before."""
        return current(self._memory["smoothness"])

    def generalised_smoothness(self, layer: int) -> tuple[float, float]:
        """(L0, L1) of ``L = L0 + L1 |g|*``, fitted to a layer's estimates."""
        return generalised(self._memory["smoothness"][layer])

    def predicted_saving(self) -> float | None:
        """1 - expected cost of a step / cost of a full one, by the cost model; None without costs."""
        costs = self.costs()
        return None if costs is None else 1 - predicted_ratio(self._distribution.inclusion, costs.forward, costs.layers)

    def _choose(self) -> None:
        """The optimal probabilities for the estimates; every layer where the times that are known promise too little."""
        auto, L = self._schedule, self.smoothness()
        estimates = max(len(layer) for layer in self._memory["smoothness"])
        if (
            not isinstance(auto, Auto) or L is None or estimates < 2
        ):  # the first one, after a few steps, is of the start alone
            return
        costs, radius = self.costs(), float(self.param_groups[0]["lr"])
        wanted = auto.inclusion(L)
        starts = np.flatnonzero(np.diff(wanted, prepend=0.0) > 0.05).tolist() if auto.suffix else [0]
        timed = auto.costs is not None or all(len(self._memory["times"].get(s, ())) > 2 for s in {0, *starts})
        if timed and costs is not None:
            chosen = auto.choose(L, costs.forward, costs.layers, sizes(self._memory["smoothness"]), radius)
        else:  # try it: the steps are timed while they train
            chosen = auto.choose(L, 0.0, np.ones(self.layers), sizes(self._memory["smoothness"]), radius)
        p = np.asarray(chosen.p if isinstance(chosen, Cutoffs) else chosen.probabilities)  # type: ignore[attr-defined]
        p = shared_draws(p, self.device)  # ranks measure different times: rank 0 decides
        self._remember({**self._memory, "cutoffs": p.tolist()})

    def norm_of(self, parameter: Tensor) -> str:
        """The norm, or auxiliary method, that a parameter steps by."""
        for group in self.param_groups:
            if any(p is parameter for p in group["params"]):
                return norm_of(group, parameter)
        raise KeyError("this parameter is not the optimiser's")

    def remembered(self) -> dict[str, Any]:
        """The optimiser's own state (step, epoch, seed, measured times, estimates, chosen probabilities) as a plain tree."""
        return copy.deepcopy(self._memory)

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Go on from `remembered()`; the coming set is drawn anew."""
        pairs = [[(float(a), float(b)) for a, b in layer] for layer in memory["smoothness"]]
        self._remember({**self._memory, **memory, "smoothness": pairs})
        self._next()

    # ---- saving ------------------------------------------------------------------------------------------------------
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch; the draws go on where they were.

        Raises:
            ValueError: a state of another optimiser, or of other layers.
        """
        groups = state_dict.get("param_groups", [])
        if not groups or MEMORY not in groups[0]:
            raise ValueError("this is not a state of DropMuon (its first group has no entry 'drop_muon')")
        if len(groups[0][MEMORY]["smoothness"]) != self.layers:
            raise ValueError(
                f"the state is of {len(groups[0][MEMORY]['smoothness'])} layers; this optimiser has {self.layers}"
            )
        super().load_state_dict(state_dict)
        self._index()
        self._next()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_schedule", "_compensation", "_momentum_compensation", "_synchronise", "_distribute")
        known = {id(p) for p in self._held.trained}
        trained = [id(p) in known for group in self.param_groups for p in group["params"]]
        return {
            **super().__getstate__(),
            "own": {name: getattr(self, name) for name in own},
            "mode": self._held.mode,
            "trained": trained,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        own, mode, trained = state.pop("own", None), state.pop("mode", "freeze"), state.pop("trained", [])
        super().__setstate__(state)
        if own is not None:  # a copy, or from another process: without the module, so without what follows it
            self.__dict__.update(own)
            self._held, self._ready = Holding(None, mode, frozen_statistics=False), True
            for p, is_trained in zip((p for group in self.param_groups for p in group["params"]), trained, strict=True):
                p.held_back = is_trained
            self._index()
            self._next()


def _generators(device: torch.device) -> list[Tensor]:
    found = [torch.get_rng_state()]
    return [*found, torch.cuda.get_rng_state(device)] if device.type == "cuda" else found


def _set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
