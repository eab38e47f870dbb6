"""What is measured: a network, rows of data, a loss a row, and which curvature at which batch sizes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.numerics.autodiff import hvp
from surefoot.records.fingerprint import fingerprint
from surefoot.training.spectral_rows import Network, count, everywhere, leaves, take

__all__ = ["CRITERIA", "Curvature", "Plan", "Rates", "refuse_mixing", "row_losses"]

Kind = Literal["ggn", "hessian"]
Criterion = Callable[[Tensor, Any], Tensor]
CRITERIA = ("cross-entropy", "squared", "logistic", "tokens", "next-token")
UNLABELLED = -100  # a token that counts for nothing, as in torch and transformers
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
ROWS_APART = 1e-3  # relative difference between a row's outputs alone and in company that floats can explain


def row_losses(criterion: str | nn.Module | Criterion) -> Criterion:
    """The loss of every row ``(outputs, targets) -> (n,)``; the loss of a batch is their mean.

    Args:
        criterion: "cross-entropy" (logits (n, classes, ...), the mean over further axes), "squared" (mean over the outputs),
            "logistic" (logits of two classes), "tokens" (logits (n, length, classes) and labels (n, length), -100 left out; the mean over a row's own labels),
            "next-token" (the same, a label belongs to the output before it); a torch loss with ``reduction="mean"``; or a function of the outputs
            and the targets (whatever the data give as such, a whole batch, too) that returns (n,) losses.

    Raises:
        ValueError: a torch loss that is no mean of row losses.
    """
    if criterion == "cross-entropy":
        return lambda z, y: _by_row(nn.functional.cross_entropy(z, y, reduction="none"))
    if criterion == "squared":
        return lambda z, y: _by_row((z - y.to(z.dtype).view_as(z)) ** 2)
    if criterion == "logistic":
        return lambda z, y: _by_row(
            nn.functional.binary_cross_entropy_with_logits(z, y.to(z.dtype).view_as(z), reduction="none")
        )
    if criterion == "tokens":
        return _token_losses
    if criterion == "next-token":
        return lambda z, y: _token_losses(z[:, :-1], y[:, 1:])
    if isinstance(criterion, nn.Module) and hasattr(criterion, "reduction"):
        if criterion.reduction == "sum" or getattr(criterion, "weight", None) is not None:
            raise ValueError(
                f"{type(criterion).__name__} with reduction={criterion.reduction!r}{' and class weights' if criterion.reduction != 'sum' else ''} "
                "is not a mean of row losses; give one with reduction='mean' and no weights, or a function that returns (n,) losses"
            )
        each: Any = copy.deepcopy(criterion)
        each.reduction = "none"
        return lambda z, y: _by_row(each(z, y))
    if callable(criterion):
        return criterion
    raise ValueError(f"the loss is {criterion!r}; expected one of {', '.join(CRITERIA)}, a torch loss or a function")


def _by_row(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(dim=1) if losses.ndim > 1 else losses


def _token_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    each = nn.functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=UNLABELLED)
    return each.sum(dim=1) / (labels != UNLABELLED).sum(dim=1).clamp_min(1)


@dataclass(frozen=True)
class Plan:
    """What is measured at which batch sizes.

    Args:
        batches: batch sizes; those beyond the rows are refused.
        outliers: leading eigenvectors that the prediction keeps.
        steps: most Lanczos steps.
        probes: random starts of the spectral density; 0 leaves it out.
        draws: batches drawn from the compressed curvature, for the prediction.
        repeats: batches whose matrix is really measured, a size, at least.
        most: of small ones up to so many are measured, since they vary more: as many as have 2,048 rows together.
        thresholds: how many of those also have their threshold measured.
        trained: descent steps of the search for the largest rate that still trains; 0 leaves it out.
        tolerance: of eigenpairs, relative.
        failure: chance that the random start missed the top eigenvalue by more than said.
        weight_decay: of plain descent, whose step is ``rate (gradient + weight_decay w)``: it adds to every eigenvalue. Decoupled decay adds nothing.
    """

    batches: tuple[int, ...] = (8, 32, 128, 512)
    outliers: int = 4
    steps: int = 40
    probes: int = 2
    draws: int = 100
    repeats: int = 8
    most: int = 64
    thresholds: int = 2
    trained: int = 60
    tolerance: float = 1e-3
    failure: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("outliers", "steps", "draws", "repeats", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("probes", "thresholds", "trained"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"the weight decay is {self.weight_decay}; expected a number >= 0")
        if not self.batches or list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise ValueError(f"the batch sizes are {self.batches}; expected different sizes >= 1 in ascending order")
        if not 0 < self.tolerance < 0.1 or not 0 < self.failure < 1:
            raise ValueError(
                f"tolerance is {self.tolerance} and failure {self.failure}; expected 0 < tolerance < 0.1, 0 < failure < 1"
            )


@dataclass(frozen=True, eq=False)
class Curvature:
    """The curvature of a mean loss at a network's present weights.

    Args:
        model: in eval mode; parameters that require gradients are the P coordinates.
        inputs: rows (n, ...): a tensor, a tuple (the model's arguments) or a dict (its named arguments).
        targets: (n, ...), a tensor, or a tuple or dict for a loss that takes one.
        criterion: see `row_losses`.
        kind: "ggn", ``J' (d2 loss) J``: positive semidefinite, unmoved by kinks of the network; or "hessian".
        plan: what to measure.
        population: N, where the rows are a random part of a larger data set; None: they are all.
        identity: what the weights were made from, where a check cannot make them anew (they are then evidence).
        unit: q, where a "row" of inputs and targets is a ghost batch of q rows (see `in_ghost_batches`); batch sizes stay numbers of rows.

    Raises:
        ValueError: nothing to differentiate, rows that influence one another, values that are not finite, a batch larger than the data.
    """

    model: nn.Module
    inputs: Any
    targets: Any
    criterion: str | nn.Module | Criterion = "cross-entropy"
    kind: Kind = "ggn"
    plan: Plan = field(default_factory=Plan)
    population: int | None = None
    identity: Mapping[str, Any] | None = None
    unit: int = 1

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):  # tuples and dicts of one kind each
            object.__setattr__(self, name, everywhere(lambda t: t, getattr(self, name)))
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; expected 'ggn' or 'hessian'")
        rows = count(self.inputs)
        if rows < 2 or count(self.targets) != rows:
            raise ValueError(
                f"there are {rows} inputs and {count(self.targets)} targets; expected as many, at least two"
            )
        if self.plan.batches[-1] > rows * self.unit:
            raise ValueError(
                f"the batch size {self.plan.batches[-1]} is larger than the data ({rows * self.unit} rows); choose sizes up to {rows * self.unit}, or give more rows"
            )
        if uneven := [b for b in self.plan.batches if b % self.unit]:
            raise ValueError(
                f"the batch sizes {uneven} are no multiples of the ghost batch, {self.unit} rows; choose such"
            )
        if self.population is not None and self.population < rows * self.unit:
            raise ValueError(f"the population is {self.population}, fewer than the {rows * self.unit} rows given")
        for what in ("inputs", "targets"):
            for name, values in leaves(getattr(self, what)):
                if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                    bad = int(
                        (~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None])).any(1).nonzero()[0]
                    )
                    raise ValueError(f"the {what}{name} hold NaN or infinite numbers (row {bad}); clean them first")
        _check_model(self)

    @property
    def losses(self) -> Criterion:
        """(outputs, targets) -> (n,)."""
        return row_losses(self.criterion)

    @property
    def rows(self) -> int:
        """How many there are; ghost batches, where they are the rows."""
        return count(self.inputs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The plan's batch sizes in rows of `inputs`."""
        return tuple(b // self.unit for b in self.plan.batches)

    @property
    def network(self) -> Network:
        """(parameters (P,), rows) -> outputs (n, ...)."""
        return Network(self.model)

    def part(self, rows: Any) -> tuple[Any, Any]:
        """Inputs and targets of some rows."""
        return take(self.inputs, rows), take(self.targets, rows)

    def cast(self, dtype: torch.dtype) -> Curvature:
        """The same problem with a copy of the model, floating-point inputs and targets in another dtype."""
        x, y = (
            everywhere(lambda t: t.to(dtype) if t.is_floating_point() else t, rows)
            for rows in (self.inputs, self.targets)
        )
        return replace(self, model=copy.deepcopy(self.model).to(dtype), inputs=x, targets=y)

    @property
    def normalisation(self) -> str:
        """What batch normalisation does here, in words; "" without any."""
        if self.unit > 1:
            return f"batch normalisation with the own statistics of ghost batches of {self.unit} rows"
        found = any(isinstance(m, MIXING[0]) for m in self.model.modules())
        return "batch normalisation at its running statistics, not those of a training batch" if found else ""

    def with_weights(self, weights: Mapping[str, Any]) -> Curvature:
        """The same problem at other weights, by parameter and buffer name."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        return replace(self, model=model)

    def batch(self, generator: np.random.Generator, size: int) -> Tensor:
        """Row numbers of a batch without replacement, ascending."""
        return torch.from_numpy(np.sort(generator.choice(self.rows, size, replace=False)))

    def fingerprint(self) -> str:
        own = (
            self.identity
            if self.identity is not None
            else {k: v.detach().cpu() for k, v in self.model.state_dict().items()}
        )
        how = self.criterion if isinstance(self.criterion, str) else repr(self.criterion)
        return fingerprint(
            own, str(self.model), self.inputs, self.targets, how if isinstance(self.criterion, str | nn.Module) else "function",
            self.kind, repr(self.plan), self.population, self.unit,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rates:
    """By batch size: the top eigenvalue and the largest stable rate, predicted and measured.

    Args:
        batch: sizes (m,).
        predicted: mean top eigenvalue of a batch, from the rows' curvature in the leading space; all eigenvalues with the plan's weight decay.
        theorem: the same by the random-matrix theorem with the direction's variance.
        isotropic: the same with the variance of a random direction.
        measured, spread: mean over measured batches, and its standard error.
        rate: ``2 / predicted``, the largest rate at which a step of plain descent is stable.
        threshold: mean measured rate from which on a perturbation grows; NaN where not measured.
        trains: largest tried rate that still trains; NaN where not tried.
        damping: least damping of second-order steps at a rate of 1, half of the curvature that the theorem gives the noise; times the rate at another.
    """

    batch: np.ndarray
    predicted: np.ndarray
    theorem: np.ndarray
    isotropic: np.ndarray
    measured: np.ndarray
    spread: np.ndarray
    rate: np.ndarray
    threshold: np.ndarray
    trains: np.ndarray
    damping: np.ndarray

    def to_dict(self) -> dict[str, np.ndarray]:
        """Columns by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


# ---- the border -------------------------------------------------------------------------------------------------
def refuse_mixing(model: nn.Module) -> None:
    """Refuse, by name, modules in whose present mode a row's output depends on the other rows, or on chance."""
    for name, module in model.named_modules():
        own_statistics = isinstance(module, MIXING[0]) and module.running_mean is None
        if isinstance(module, MIXING) and (module.training or own_statistics):
            raise ValueError(
                f"module {name!r} ({type(module).__name__}) is in train mode or keeps no statistics: a batch's curvature is then no mean over its rows. "
                "Call model.eval(); batch normalisation needs running statistics"
            )


def _check_model(problem: Curvature) -> None:
    model = problem.model
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("no parameter of the model requires a gradient; call requires_grad_() on those to be trained")
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ValueError(f"the weights {name!r} hold NaN or infinite numbers: did the training diverge?")
    refuse_mixing(model)
    _check_rows(problem, trained)


def _check_rows(problem: Curvature, trained: Mapping[str, nn.Parameter]) -> None:
    model, losses, flat = problem.model, problem.losses, problem.network
    point = flat.vector()
    entered: list[str] = [""]
    hooks = [
        m.register_forward_pre_hook(lambda m, _, n=n: entered.__setitem__(0, f"{n or 'model'} ({type(m).__name__})"))
        for n, m in model.named_modules()
        if not list(m.children())
    ]
    x, y = problem.part(slice(0, 3))
    n = count(x)
    given = {name: p.detach().requires_grad_() for name, p in trained.items()}
    try:
        z = _called(lambda: flat.at(given, x), "the model does not take these inputs", entered)
        if not z.ndim or len(z) != n:
            raise ValueError(f"the model returned shape {tuple(z.shape)} for {n} rows; expected one output a row")
        each = _called(lambda: losses(z, y), "the loss does not take these outputs and targets", ["the loss"])
        if not isinstance(each, Tensor) or each.shape != (n,):
            shown = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(
                f"the loss returned shape {shown}; expected one loss a row, ({n},), so that a batch's is their mean"
            )
        if not bool(torch.isfinite(each).all()):
            raise ValueError("the loss of the first rows is NaN or infinite; check the data and the weights")
        with torch.no_grad():
            alone = torch.cat([flat(point, take(x, slice(i, i + 1))) for i in range(n)])
        scale = float(z.detach().abs().max())
        if float((alone - z.detach()).abs().max()) > ROWS_APART * max(scale, 1e-30):
            raise ValueError(
                "a row's output depends on the other rows of its batch, so that the batch's curvature is no mean over rows; "
                "put normalisation and dropout into eval mode"
            )
        found = torch.autograd.grad(each.mean(), list(given.values()), allow_unused=True)
        idle = [name for name, g in zip(given, found, strict=True) if g is None]
        if idle:
            raise ValueError(
                f"the loss does not reach the parameters {', '.join(idle)}: they get no gradient. Call requires_grad_(False) on them"
            )
        one = lambda rows: everywhere(lambda t: t[None], rows)  # noqa: E731
        _called(
            lambda: torch.func.vmap(lambda a, b: hvp(lambda w: losses(flat(w, one(a)), one(b)).sum(), point, point))(
                x, y
            ),
            "this module has no second derivatives row by row (unsupported by torch.func)",
            entered,
        )
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for s in range(0, problem.rows, 512):
            a, b = problem.part(slice(s, s + 512))
            each = losses(flat(point, a), b)
            if not bool(torch.isfinite(each).all()):
                bad = s + int((~torch.isfinite(each)).nonzero()[0])
                raise ValueError(f"the loss of row {bad} is NaN or infinite; check the data and the weights")


def _called(function: Callable[[], Any], what: str, entered: Sequence[str]) -> Any:
    try:
        return function()
    except Exception as error:  # whatever the user's own modules raise
        text = str(error).strip().splitlines()
        raise ValueError(f"{what}: in {entered[0]}: {type(error).__name__}: {text[0] if text else ''}") from error
