"""What is measured: a network, rows of data, a loss a row, and which curvature at which batch sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.numerics.autodiff import Flattened, hvp
from surefoot.records.fingerprint import fingerprint

__all__ = ["CRITERIA", "Curvature", "Plan", "Rates", "row_losses"]

Kind = Literal["ggn", "hessian"]
Criterion = Callable[[Tensor, Tensor], Tensor]
CRITERIA = ("cross-entropy", "squared", "logistic")
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
ROWS_APART = 1e-3  # relative difference between a row's outputs alone and in company that floats can explain


def row_losses(criterion: str | nn.Module | Criterion) -> Criterion:
    """The loss of every row ``(outputs, targets) -> (n,)``; the loss of a batch is their mean.

    Args:
        criterion: "cross-entropy" (logits (n, classes, ...), the mean over further axes), "squared" (mean over the outputs),
            "logistic" (logits of two classes); a torch loss with ``reduction="mean"``; or a function that returns (n,) losses.

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

    def __post_init__(self) -> None:
        for name in ("outliers", "steps", "draws", "repeats", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("probes", "thresholds", "trained"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
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
        inputs: rows (n, ...).
        targets: (n, ...).
        criterion: see `row_losses`.
        kind: "ggn", ``J' (d2 loss) J``: positive semidefinite, unmoved by kinks of the network; or "hessian".
        plan: what to measure.
        population: N, where the rows are a random part of a larger data set; None: they are all.
        identity: what the weights were made from, where a check cannot make them anew (they are then evidence).

    Raises:
        ValueError: nothing to differentiate, rows that influence one another, values that are not finite, a batch larger than the data.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    criterion: str | nn.Module | Criterion = "cross-entropy"
    kind: Kind = "ggn"
    plan: Plan = field(default_factory=Plan)
    population: int | None = None
    identity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; expected 'ggn' or 'hessian'")
        rows = len(self.inputs)
        if rows < 2 or len(self.targets) != rows:
            raise ValueError(f"there are {rows} inputs and {len(self.targets)} targets; expected as many, at least two")
        if self.plan.batches[-1] > rows:
            raise ValueError(
                f"the batch size {self.plan.batches[-1]} is larger than the data ({rows} rows); choose sizes up to {rows}, or give more rows"
            )
        if self.population is not None and self.population < rows:
            raise ValueError(f"the population is {self.population}, fewer than the {rows} rows given")
        for name, values in (("inputs", self.inputs), ("targets", self.targets)):
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                bad = int(
                    (~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None])).any(1).nonzero()[0]
                )
                raise ValueError(f"the {name} hold NaN or infinite numbers (row {bad}); clean them first")
        _check_model(self)

    @property
    def losses(self) -> Criterion:
        """(outputs, targets) -> (n,)."""
        return row_losses(self.criterion)

    @property
    def rows(self) -> int:
        return len(self.inputs)

    def with_weights(self, weights: Mapping[str, Any]) -> Curvature:
        """The same problem at other weights, by parameter and buffer name."""
        model = copy.deepcopy(self.model)
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        return Curvature(
            model, self.inputs, self.targets, self.criterion, self.kind, self.plan, self.population, self.identity
        )

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
            own, str(self.model), self.inputs.cpu(), self.targets.cpu(), how if isinstance(self.criterion, str | nn.Module) else "function",
            self.kind, repr(self.plan), self.population,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rates:
    """By batch size: the top eigenvalue and the largest stable rate, predicted and measured.

    Args:
        batch: sizes (m,).
        predicted: mean top eigenvalue of a batch, from the rows' curvature in the leading space.
        theorem: the same by the random-matrix theorem with the direction's variance.
        isotropic: the same with the variance of a random direction.
        measured, spread: mean over measured batches, and its standard error.
        rate: ``2 / predicted``, the largest rate at which a step of plain descent is stable.
        threshold: mean measured rate from which on a perturbation grows; NaN where not measured.
        trains: largest tried rate that still trains; NaN where not tried.
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

    def to_dict(self) -> dict[str, np.ndarray]:
        """Columns by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


# ---- the border -------------------------------------------------------------------------------------------------
def _check_model(problem: Curvature) -> None:
    model = problem.model
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("no parameter of the model requires a gradient; call requires_grad_() on those to be trained")
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ValueError(f"the weights {name!r} hold NaN or infinite numbers: did the training diverge?")
    for name, module in model.named_modules():
        own_statistics = isinstance(module, MIXING[0]) and module.running_mean is None
        if isinstance(module, MIXING) and (module.training or own_statistics):
            raise ValueError(
                f"module {name!r} ({type(module).__name__}) is in train mode or keeps no statistics: a batch's curvature is then no mean over its rows. "
                "Call model.eval(); batch normalisation needs running statistics"
            )
    _check_rows(problem, trained)


def _check_rows(problem: Curvature, trained: Mapping[str, nn.Parameter]) -> None:
    model, losses = problem.model, problem.losses
    entered: list[str] = [""]
    hooks = [
        m.register_forward_pre_hook(lambda m, _, n=n: entered.__setitem__(0, f"{n or 'model'} ({type(m).__name__})"))
        for n, m in model.named_modules()
        if not list(m.children())
    ]
    x, y = problem.inputs[:3], problem.targets[:3]
    try:
        z = _called(lambda: model(x), "the model does not take these inputs", entered)
        each = _called(lambda: losses(z, y), "the loss does not take these outputs and targets", ["the loss"])
        if not isinstance(z, Tensor) or len(z) != len(x):
            raise ValueError(f"the model returned {type(z).__name__}; expected a tensor with one row an input")
        if each.shape != (len(x),):
            raise ValueError(
                f"the loss returned shape {tuple(each.shape)}; expected one loss a row, ({len(x)},), so that a batch's is their mean"
            )
        if not bool(torch.isfinite(each).all()):
            raise ValueError("the loss of the first rows is NaN or infinite; check the data and the weights")
        with torch.no_grad():
            alone = torch.cat([model(x[i : i + 1]) for i in range(len(x))])
        scale = float(z.detach().abs().max())
        if float((alone - z.detach()).abs().max()) > ROWS_APART * max(scale, 1e-30):
            raise ValueError(
                "a row's output depends on the other rows of its batch, so that the batch's curvature is no mean over rows; "
                "put normalisation and dropout into eval mode"
            )
        found = torch.autograd.grad(each.mean(), list(trained.values()), allow_unused=True)
        idle = [name for name, g in zip(trained, found, strict=True) if g is None]
        if idle:
            raise ValueError(
                f"the loss does not reach the parameters {', '.join(idle)}: they get no gradient. Call requires_grad_(False) on them"
            )
        flat = Flattened(model)
        _called(
            lambda: torch.func.vmap(
                lambda a, b: hvp(lambda w: losses(flat(w, a[None]), b[None]).sum(), flat.vector(), flat.vector())
            )(x, y),
            "this module has no second derivatives row by row (unsupported by torch.func)",
            entered,
        )
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for s in range(0, problem.rows, 512):
            each = losses(model(problem.inputs[s : s + 512]), problem.targets[s : s + 512])
            if not bool(torch.isfinite(each).all()):
                bad = s + int((~torch.isfinite(each)).nonzero()[0])
                raise ValueError(f"the loss of row {bad} is NaN or infinite; check the data and the weights")


def _called(function: Callable[[], Any], what: str, entered: Sequence[str]) -> Any:
    try:
        return function()
    except Exception as error:  # whatever the user's own modules raise
        text = str(error).strip().splitlines()
        raise ValueError(f"{what}: in {entered[0]}: {type(error).__name__}: {text[0] if text else ''}") from error
