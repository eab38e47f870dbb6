"""Sums of clipped gradients and of clipped gradient differences over records, each record's share bounded also after rounding.

`sum_i clip(grad l(w; z_i), c)` and `sum_i clip(grad l(w; z_i) - grad l(v; z_i), c)` with `clip(g, c) = g min(1, c / |g|)` and the
norm over all parameters jointly: what a private mechanism adds noise to. Linear models have them in closed form; torch modules by
ghost norms, in memory of rows times width, or, where a layer is not known to ghost norms, by gradients of single records.

Rounding: a sum of n terms in blocks errs by less than `gamma sum_i |share_i|`, and two such sums by twice that, so every share
is clipped to `c (1 - slack)` with `slack = 2 n gamma`. Then exchanging a record moves the *computed* sum by at most 2c.

References:
    X. Li et al., "Large language models can be strong differentially private learners", ICLR 2022 (ghost clipping).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from surefoot.data.linear_model import LinearModel
from surefoot.numerics.autodiff import Flattened, per_sample_gradients
from surefoot.numerics.ghost_norms import (
    LayerTrace,
    ghost_inner_products,
    ghost_masses,
    ghost_weighted_sum,
    known_to_ghosts,
    trace_layers,
)

log = logging.getLogger(__name__)
EPS = 2.0**-53
CANCELLATION = 64.0
"""A share may be the small difference of terms at most so many times larger; beyond, it is scaled down."""
MIXING = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)


@runtime_checkable
class Records(Protocol):
    """Records whose gradients can be clipped and summed.

    Attributes:
        size: number of records n.
        dim: number of parameters d.
    """

    @property
    def size(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """`sum_i clip(grad l(w; z_i), bound)` over `rows` (all of them: None), (d,) float64."""
        ...

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """`sum_i clip(grad l(w; z_i) - grad l(previous; z_i), bound)` over `rows`, (d,) float64."""
        ...


def clip_factors(norms: Tensor, bound: float, slack: float, masses: Tensor | None = None) -> Tensor:
    """What each record's share is multiplied by: `min(1, bound (1 - slack) / norm)`, and less where it is mostly cancellation.

    Args:
        norms: upper bounds (b,) of the shares' norms.
        bound: c >= 0.
        slack: relative room for the rounding of the sum.
        masses: norms (b,) of the shares without cancellation; None: there is none.
    """
    limit = bound * (1.0 - slack)
    factors = torch.clamp(limit / norms, max=1.0)
    if masses is not None:
        factors = torch.minimum(factors, CANCELLATION * limit / masses)
    return torch.where(norms > 0, factors, torch.zeros_like(norms) if bound == 0 else torch.ones_like(norms))


def _chunks(size: int, chunk: int, rows: Tensor | None, device: Any) -> Iterator[Any]:
    if rows is None:
        yield from (slice(start, min(start + chunk, size)) for start in range(0, size, chunk))
    else:
        yield from (part.to(device) for part in torch.split(rows, chunk) if part.numel())


def _require_bound(bound: float) -> None:
    if not 0.0 <= bound < math.inf:
        raise ValueError(f"the clipping bound is {bound}; expected a finite number >= 0")


def _refuse_not_finite(norms: Tensor, what: str) -> None:
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(
            f"the {what} of {int((~torch.isfinite(norms)).sum())} record(s) is not finite; noise would not hide that, so nothing was "
            "released. Shorten the steps, bound the features, or drop such records by a rule that looks at one record at a time"
        )


# ---- linear models ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LinearRecords:
    """Records (a_i, y_i) of a linear model with loss `l(a_i' w, y_i)`: gradients `l' a_i`, differences `(l'(w) - l'(v)) a_i`.

    Args:
        model: features (n, d), targets (n,), loss. Its ridge is public and no part of the shares: add `ridge * w` outside.
        chunk: rows at a time.
    """

    model: LinearModel
    chunk: int = 4096

    def __post_init__(self) -> None:
        self.model.loss.validate_labels(self.model.targets)
        if self.model.loss.labels == "classes":
            raise ValueError("records of a linear model need one prediction each; use ModuleRecords for softmax")
        features = self.model.features
        if features.layout != torch.strided:
            object.__setattr__(self, "model", replace(self.model, features=features.to_dense()))

    @property
    def size(self) -> int:
        return self.model.features.shape[0]

    @property
    def dim(self) -> int:
        return self.model.features.shape[1]

    @property
    def slack(self) -> float:
        """Relative room for rounding, see the module's text."""
        return _slack(self.size, min(self.chunk, self.size), self.dim)

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """See `Records`."""
        return self._sum(bound, rows, w, None)

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """See `Records`."""
        return self._sum(bound, rows, w, previous)

    def _sum(self, bound: float, rows: Tensor | None, w: Tensor, previous: Tensor | None) -> Tensor:
        _require_bound(bound)
        features, slack = self.model.features, self.slack
        total = torch.zeros(self.dim, dtype=torch.float64, device=features.device)
        before = self._remembered(previous) if rows is None and previous is not None else None
        kept: list[Tensor] = []
        for part in _chunks(self.size, self.chunk, rows, features.device):
            A, y = features[part].double(), self.model.targets[part].double()
            slope = self.model.loss.derivative(A @ w.double(), y)
            kept.append(slope)
            if previous is not None:
                slope = slope - (
                    self.model.loss.derivative(A @ previous.double(), y) if before is None else before[part]
                )
            norms = slope.abs() * self._lengths[part]
            _refuse_not_finite(norms, "gradient")
            total += A.T @ (slope * clip_factors(norms, bound, slack))
        if rows is None:
            self.__dict__["_last"] = (w.clone(), torch.cat(kept))
        return total

    def _remembered(self, w: Tensor) -> Tensor | None:
        """Slopes (n,) at the point of the last full sum, if it was this one: a search asks for it again in the next step."""
        point, slopes = self.__dict__.get("_last", (None, None))
        return slopes if point is not None and torch.equal(point, w) else None

    @cached_property
    def _lengths(self) -> Tensor:
        """Norms (n,) of the rows."""
        parts = torch.split(self.model.features, self.chunk)
        return torch.cat([torch.linalg.vector_norm(part.double(), dim=1) for part in parts])


def _slack(size: int, terms: int, width: int) -> float:
    """`2 n gamma`: sums of `terms` products, then of n / terms blocks; and the rounding of a norm over `width` numbers."""
    gamma = (terms + math.ceil(size / max(terms, 1)) + width + 16) * EPS
    slack = 2.0 * size * gamma
    if slack > 0.01:
        raise ValueError(
            f"{size} records are too many for sums in float64 whose rounding is part of the bound; take fewer"
        )
    return slack


# ---- torch modules ------------------------------------------------------------------------------------------
Losses = Callable[..., Tensor]


class ModuleRecords:
    """Records of any torch module with one loss a record.

    Works on a copy of the module in float64. Layers with trained parameters that are all Linear, Conv2d or Embedding take ghost
    norms: one forward and one backward pass, then one weighted product a layer, in memory of rows times width. Other layers
    take gradients of single records (`torch.func`), in memory of `chunk` times d.

    Args:
        module: outputs for a batch; records must not mix (batch normalisation and the like are refused by name), and nothing may
            be random (dropout in training mode is refused by name).
        loss: (output, *targets) -> losses (b,).
        inputs: what the module takes, records along the first axis.
        targets: what the loss takes besides the output, records along the first axis.
        chunk: records at a time.

    Raises:
        ValueError: records that mix, NaN, unequal lengths.
    """

    def __init__(
        self, module: nn.Module, loss: Losses, inputs: Sequence[Tensor], targets: Sequence[Tensor] = (), *, chunk: int = 1024
    ) -> None:  # fmt: skip
        self.inputs, self.targets, self.loss, self.chunk = tuple(inputs), tuple(targets), loss, chunk
        lengths = {len(t) for t in (*self.inputs, *self.targets)}
        if not self.inputs or len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"inputs and targets have {sorted(lengths)} records; expected the same number >= 1 in each"
            )
        for tensor in (*self.inputs, *self.targets):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    "inputs or targets hold NaN or infinite values; drop such records one by one, or impute them"
                )
        self.size = lengths.pop()
        _refuse_mixing(module)
        self.module = copy.deepcopy(module).double()
        self.flat = Flattened(self.module)
        self.dim = self.flat.vector().numel()
        if self.dim == 0:
            raise ValueError("the module has no parameter that requires a gradient; there is nothing to train")
        inputs, targets = self._batch(slice(0, 1))
        with torch.no_grad():
            self._losses(self.module(*inputs), targets)  # names a loss of the wrong shape
        self.ghosts = self._ghosts_serve()
        self.slack = _slack(self.size, min(chunk, self.size), self.dim) * (CANCELLATION if self.ghosts else 1.0)
        if self.ghosts:
            self._refuse_records_that_mix()

    def start(self) -> Tensor:
        """The module's parameters as one vector (d,) float64."""
        return self.flat.vector()

    def load(self, w: Tensor, module: nn.Module) -> nn.Module:
        """Put parameters into a module of the same kind, in its own dtype; returns it."""
        own = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.flat.split(w).items():
                own[name].copy_(value)
        return module

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """See `Records`."""
        return self._sum(bound, rows, w, None)

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        """See `Records`."""
        return self._sum(bound, rows, w, previous)

    def _sum(self, bound: float, rows: Tensor | None, w: Tensor, previous: Tensor | None) -> Tensor:
        _require_bound(bound)
        total = torch.zeros(self.dim, dtype=torch.float64, device=self.inputs[0].device)
        for part in _chunks(self.size, self.chunk, rows, self.inputs[0].device):
            one = self._by_ghosts if self.ghosts else self._by_record
            total += one(part, bound, w, previous)
        return total

    # -- ghosts
    def _by_ghosts(self, part: Any, bound: float, w: Tensor, previous: Tensor | None) -> Tensor:
        here = self._traces(w, part)
        terms = [here] if previous is None else _difference(here, self._traces(previous, part))
        squares, masses = _squares(terms), torch.stack([ghost_masses(t) for t in terms]).sum(dim=0)
        # the computed square errs by a few roundings of the square without cancellation
        norms = (squares.clamp(min=0) + 8 * (self.dim + 64) * EPS * masses.square()).sqrt()
        _refuse_not_finite(norms, "gradient")
        factors = clip_factors(norms, bound, self.slack, masses)
        summed = [ghost_weighted_sum(self.module, term, factors) for term in terms]
        own = dict(self.module.named_parameters())
        total = {
            name: torch.zeros_like(own[name]) for name in self.flat.names or ()
        }  # a layer that was not called has 0
        for part_sums in summed:
            for name, value in part_sums.items():
                total[name] = total[name] + value
        return torch.cat([value.flatten() for value in total.values()])

    def _traces(self, w: Tensor, part: Any) -> list[LayerTrace]:
        self.load(w, self.module)
        inputs, targets = self._batch(part)
        _, traces = trace_layers(self.module, lambda out: self._losses(out, targets), *inputs)
        return traces

    # -- gradients of single records
    def _by_record(self, part: Any, bound: float, w: Tensor, previous: Tensor | None) -> Tensor:
        inputs, targets = self._batch(part)

        def one(vector: Tensor, *record: Tensor) -> Tensor:
            single = [piece.unsqueeze(0) for piece in record]
            given, wanted = single[: len(inputs)], single[len(inputs) :]
            return self._losses(self.flat(vector, *given), wanted).sum()

        shares = per_sample_gradients(one, w.double(), *inputs, *targets)
        if previous is not None:
            shares = shares - per_sample_gradients(one, previous.double(), *inputs, *targets)
        norms = torch.linalg.vector_norm(shares, dim=1)
        _refuse_not_finite(norms, "gradient")
        return shares.T @ clip_factors(norms, bound, self.slack)

    def _batch(self, part: Any) -> tuple[list[Tensor], list[Tensor]]:
        def cast(tensor: Tensor) -> Tensor:
            picked = tensor[part]
            return picked.double() if picked.is_floating_point() else picked

        return [cast(t) for t in self.inputs], [cast(t) for t in self.targets]

    def _losses(self, output: Any, targets: Sequence[Tensor]) -> Tensor:
        losses = self.loss(output, *targets)
        if losses.ndim != 1:
            raise ValueError(
                f"the loss returned shape {tuple(losses.shape)}; expected one number a record (reduction='none', and a mean over "
                "the axes of one record)"
            )
        return losses

    def _ghosts_serve(self) -> bool:
        if not known_to_ghosts(self.module):
            return False
        try:
            self._traces(self.flat.vector(), slice(0, 1))
        except ValueError as error:  # a layer called twice, say: single records serve there
            log.info("gradients of single records instead of ghost norms: %s", error)
            return False
        return True

    def _refuse_records_that_mix(self) -> None:
        """A record together with another and alone must have the same loss; else the first layer that differs is named."""
        if self.size < 2:
            return
        (both, together), (one, alone) = self._watched(slice(0, 2)), self._watched(slice(0, 1))
        if _close(both[:1], one):
            return
        guilty = [
            name for name, out in alone.items() if len(together[name]) == 2 and not _close(together[name][:1], out)
        ]
        raise ValueError(
            f"Layer {(guilty or [''])[0] or type(self.module).__name__!r} gives a record another output in other company: records "
            "mix, and one record's share cannot be bounded; make it work on each record alone"
        )

    def _watched(self, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses, and every layer's output in the order of the forward pass."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim and output.is_floating_point():
                    outputs.setdefault(name, output.detach().clone())

            return hook

        handles = [layer.register_forward_hook(keep(name)) for name, layer in self.module.named_modules()]
        inputs, targets = self._batch(part)
        try:
            with torch.no_grad():
                return self._losses(self.module(*inputs), targets), outputs
        finally:
            for handle in handles:
                handle.remove()


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-9, atol=1e-12, equal_nan=True)


def _refuse_mixing(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        what = f"Layer {name!r} ({type(layer).__name__})"
        running = getattr(layer, "track_running_stats", False)
        if isinstance(layer, MIXING) and (running or not type(layer).__name__.startswith("Instance")):
            raise ValueError(
                f"{what} mixes records, so one record's share cannot be bounded; use GroupNorm or LayerNorm instead"
            )
        if isinstance(layer, RANDOM) and layer.training and getattr(layer, "p", 1.0):
            raise ValueError(
                f"{what} is random, so two points would be compared under different masks; call eval() or remove it"
            )


def _difference(here: list[LayerTrace], there: list[LayerTrace]) -> list[list[LayerTrace]]:
    """`g a' - h b' = (g - h) a' + h (a - b)'`: two terms a layer without the cancellation of their squares."""
    moved, carried = [], []
    for one, two in zip(here, there, strict=True):
        moved.append(replace(one, gradients=one.gradients - two.gradients))
        if one.inputs.is_floating_point():
            carried.append(replace(two, inputs=one.inputs - two.inputs, bias=False))
        else:  # an embedding looks the same indices up at both points
            carried.append(replace(two, gradients=torch.zeros_like(two.gradients), bias=False))
    return [moved, carried]


def _squares(terms: list[list[LayerTrace]]) -> Tensor:
    """Squared norms (b,) of the sum of the terms."""
    total = ghost_inner_products(terms[0], terms[0])
    if len(terms) == 2:  # the second has no bias, so it comes first
        total = total + 2.0 * ghost_inner_products(terms[1], terms[0]) + ghost_inner_products(terms[1], terms[1])
    return total
