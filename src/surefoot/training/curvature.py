"""Curvature matrices of networks as operators that are never formed, and what single rows add to them.

The matrix of a set of rows is the mean over them of ``H_i`` (second derivatives of the row's loss) or ``J_i' (d2 loss_i) J_i`` (generalised
Gauss-Newton). The graph of the rows is kept between products where memory allows: each then costs two backward passes and no forward one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch import func as functorch

from surefoot.numerics.autodiff import hessian_operator, hvp, like
from surefoot.numerics.krylov import EigenPairs, extreme_eigenpairs
from surefoot.training.spectral_problem import MIXING, Criterion, Curvature, Kind, row_losses
from surefoot.training.spectral_rows import Network, count, everywhere, take

__all__ = [
    "CurvatureOperator",
    "RowCurvature",
    "batch_statistics",
    "directional_variance",
    "isotropic_variance",
    "microbatch_variance",
    "preconditioned",
    "row_curvature",
    "row_products",
    "shrinkage",
    "top_eigenpairs",
]

CHUNK = 1024  # rows of a pass
KEPT_ROWS = 4096  # graphs of at most so many rows are kept between products


class CurvatureOperator:
    """``v -> A v`` for the curvature of the mean loss over rows, at the model's present parameters.

    Args:
        model: a module; parameters that require gradients are the coordinates, in their order.
        inputs, targets: rows (n, ...): tensors, or tuples or dicts of tensors.
        criterion: see `row_losses`.
        kind: "ggn", "hessian", or "fisher", the empirical one ``E g_i g_i'`` of the rows' gradients.
        ridge: added to the diagonal: the weight decay of plain descent (decoupled decay adds none).
        chunk: rows of a pass.
        keep: keep the graphs for the next products; None does for at most 4,096 rows.
        ghost: rows of a ghost batch, 0 for none: batch normalisation then works as in training, each ghost batch with its own statistics, and the matrix is
            a mean over ghost batches, not over rows. The running statistics stay as they are.

    Raises:
        ValueError: no parameter to differentiate; rows that are no multiple of the ghost batch.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> A = CurvatureOperator(net, torch.eye(2), torch.zeros(2, 1), "squared")
        >>> A(torch.ones(3)).shape
        torch.Size([3])
    """

    def __init__(
        self, model: nn.Module, inputs: Any, targets: Any, criterion: str | nn.Module | Criterion = "cross-entropy", *,
        kind: Kind | Literal["fisher"] = "ggn", ridge: float = 0.0, chunk: int = CHUNK, keep: bool | None = None, ghost: int = 0,
    ) -> None:  # fmt: skip
        self.flat, self.losses, self.kind, self.ridge = Network(model), row_losses(criterion), kind, ridge
        self.count = count(inputs)
        if ghost and (ghost < 2 or self.count % ghost):
            raise ValueError(
                f"{self.count} rows do not fall into ghost batches of {ghost}; expected a multiple, of 2 or more"
            )
        self.inputs, self.targets, self.ghost = inputs, targets, ghost
        self.chunk = max(ghost, chunk // ghost * ghost) if ghost else chunk
        self.point = self.flat.vector()
        if self.point.numel() == 0:
            raise ValueError("no parameter of the model requires a gradient")
        self.keep = self.count <= KEPT_ROWS if keep is None else keep
        self._kept: list[Any] = []

    @classmethod
    def of(cls, problem: Curvature, rows: Tensor | None = None) -> CurvatureOperator:
        """The operator of a problem, over all its rows or some."""
        x, y = (problem.inputs, problem.targets) if rows is None else problem.part(rows)
        keep = count(x) * problem.unit <= KEPT_ROWS
        return cls(
            problem.model, x, y, problem.criterion, kind=problem.kind, chunk=max(1, CHUNK // problem.unit), keep=keep
        )

    @property
    def dim(self) -> int:
        return self.point.numel()

    def __call__(self, v: Tensor) -> Tensor:
        image = self._mean(lambda product: product(v))
        return image + self.ridge * v if self.ridge else image

    def gradient(self) -> Tensor:
        """The gradient of the mean loss (P,); of the graphs that the products use."""
        return self._mean(lambda product: product.gradient)

    def _mean(self, each: Callable[[Any], Tensor]) -> Tensor:
        n, total = self.count, None
        for place, s in enumerate(range(0, n, self.chunk)):
            if len(self._kept) > place:
                product = self._kept[place]
            else:
                part = slice(s, s + self.chunk)
                product = self._product(take(self.inputs, part), take(self.targets, part))
                if self.keep:
                    self._kept.append(product)
            found = each(product)
            if n > self.chunk:
                found = found * (min(self.chunk, n - s) / n)
            total = found if total is None else total + found
        assert total is not None
        return total

    def _product(self, x: Any, y: Any) -> Any:
        at = list(self.flat.split(self.point).values())
        if self.kind == "hessian":
            return hessian_operator(lambda w: self.losses(self._outputs(w, x), y).mean(), at)
        if self.kind == "fisher":  # J'J / n of the rows' losses
            return GaussNewton(
                lambda w: self.losses(self._outputs(w, x), y), lambda each: each.square().mean() / 2, Tensor.mean, at
            )
        loss = lambda z: self.losses(z, y).mean()  # noqa: E731
        return GaussNewton(lambda w: self._outputs(w, x), loss, loss, at)

    def _outputs(self, w: Sequence[Tensor], x: Any) -> Tensor:
        at = dict(zip(self.flat.names or (), w, strict=True))
        if not self.ghost:
            return self.flat.at(at, x)
        with batch_statistics(self.flat.module):
            pieces = [take(x, slice(s, s + self.ghost)) for s in range(0, count(x), self.ghost)]
            return torch.cat([self.flat.at(at, piece) for piece in pieces])

    def start(self, generator: torch.Generator) -> Tensor:
        """A random vector (P,), its direction uniform on the sphere."""
        return torch.randn(self.dim, generator=generator, dtype=self.point.dtype).to(self.point.device)

    def to_scipy(self) -> Any:
        """As a scipy `LinearOperator`, for `scipy.sparse.linalg.eigsh` and the like."""

        def product(v: Any) -> Any:
            given = torch.as_tensor(np.asarray(v).ravel(), dtype=self.point.dtype, device=self.point.device)
            return self(given).cpu().numpy()

        made: Any = LinearOperator  # its stubs know no shape
        return made((self.dim, self.dim), matvec=product, rmatvec=product, dtype=self.point.cpu().numpy().dtype)


@contextmanager
def batch_statistics(model: nn.Module) -> Generator[None, None, None]:
    """Inside, batch normalisation takes the statistics of its batch, and leaves the running ones alone."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, MIXING[0])]
    before = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False
        yield
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track


class GaussNewton:
    """The Gauss-Newton matrix at a network's parameters as ``v -> J' (d2 loss) J v`` on flat vectors, with its graphs kept.

    ``J v`` is the derivative of ``u -> J' u`` along ``v``, so that it, too, is a backward pass.

    Args:
        model: parameters (a list of tensors) to outputs.
        loss: outputs to a scalar, whose curvature stands in the middle.
        value: outputs to the scalar whose gradient is asked for.
        point: the parameters.
    """

    def __init__(self, model: Any, loss: Any, value: Any, point: Sequence[Tensor]) -> None:
        self._at = [piece.detach().requires_grad_() for piece in point]
        with torch.enable_grad():
            self._outputs = model(self._at)
            self._dual = torch.zeros_like(self._outputs, requires_grad=True)
            self._pulled = torch.autograd.grad(
                self._outputs, self._at, self._dual, create_graph=True, materialize_grads=True
            )
        self._moved = [j for j, piece in enumerate(self._pulled) if piece.requires_grad]  # those that reach the outputs
        self._curve, self._value = hessian_operator(loss, self._outputs.detach()), value

    @property
    def gradient(self) -> Tensor:
        """``J' d value``."""
        return self._back(functorch.grad(self._value)(self._outputs.detach()))

    def _back(self, dual: Tensor) -> Tensor:
        found = torch.autograd.grad(self._outputs, self._at, dual, retain_graph=True, materialize_grads=True)
        return torch.cat([piece.flatten() for piece in found])

    def __call__(self, v: Tensor) -> Tensor:
        along = like(v, self._at)
        outputs, vectors = ([part[j] for j in self._moved] for part in (self._pulled, along))
        (pushed,) = torch.autograd.grad(outputs, self._dual, vectors, retain_graph=True)
        return self._back(self._curve(pushed))


def top_eigenpairs(
    operator: CurvatureOperator, count: int = 1, *, generator: torch.Generator, tolerance: float = 1e-4, steps: int | None = None,
    end: Any = "largest",
) -> EigenPairs:  # fmt: skip
    """The operator's leading eigenpairs, with residuals computed anew; zeros for a matrix of zeros."""
    return extreme_eigenpairs(
        operator, operator.start(generator), min(count, operator.dim), end=end, tolerance=tolerance, steps=steps,
        generator=generator,
    )  # fmt: skip


def preconditioned(
    operator: CurvatureOperator, second_moment: Mapping[str, Tensor] | Tensor, epsilon: float = 1e-8
) -> Any:
    """``D^-1/2 H D^-1/2`` with ``D = diag(sqrt(v) + epsilon)``: the curvature that Adam's steps see.

    Args:
        second_moment: Adam's bias-corrected ``v``, flat (P,) or by parameter name.
    """
    if not isinstance(second_moment, Tensor):
        second_moment = torch.cat([second_moment[name].flatten() for name in operator.flat.names or ()])
    root = (second_moment.sqrt() + epsilon).rsqrt()
    return lambda v: root * operator(root * v)


# ---- single rows ------------------------------------------------------------------------------------------------
def row_products(problem: Curvature, rows: Tensor, vectors: Tensor) -> Tensor:
    """``H_i v`` for every row: (b, P) for one vector (P,), or for a vector a row (b, P)."""
    flat, losses = problem.network, problem.losses
    point = flat.vector()

    def one(x: Any, y: Any, v: Tensor) -> Tensor:
        x, y = (everywhere(lambda t: t[None], part) for part in (x, y))

        def loss(z: Tensor) -> Tensor:
            return losses(z, y).sum()

        if problem.kind == "hessian":
            return hvp(lambda w: loss(flat(w, x)), point, v)
        pulled: Any = functorch.vjp(lambda w: flat(w, x), point)
        outputs, pull = pulled
        pushed = functorch.jvp(lambda w: flat(w, x), (point,), (v,))[1]
        return pull(hvp(loss, outputs, pushed))[0]

    x, y = problem.part(rows)
    return functorch.vmap(one, in_dims=(0, 0, None if vectors.ndim == 1 else 0))(x, y, vectors)


@dataclass(frozen=True, eq=False)
class RowCurvature:
    """What rows add in the space of ``k`` leading eigenvectors W (P, k), and beyond it.

    Args:
        center: ``A_i = W' H_i W`` (n, k, k).
        spread: ``R_i'R_i`` (n, k, k) of ``R_i = H_i W - W A_i``.
        own: ``d_i' H_i d_i`` (n,), d_i the leading direction of ``R_i``.
        random: ``|H_i z|^2`` (n,) for one z uniform on the sphere.
    """

    center: Tensor
    spread: Tensor
    own: Tensor
    random: Tensor


def row_curvature(problem: Curvature, rows: Tensor, leading: Tensor, probe: Tensor) -> RowCurvature:
    """What these rows add; costs ``k + 2`` products a row."""
    images = torch.stack([row_products(problem, rows, w) for w in leading.T], dim=2)
    center = torch.einsum("pk,npj->nkj", leading, images)
    beyond = images - torch.einsum("pk,nkj->npj", leading, center)
    spread = torch.einsum("npk,npj->nkj", beyond, beyond)
    first = torch.linalg.eigh(spread.double())[1][:, :, -1].to(beyond.dtype)
    direction = torch.einsum("npk,nk->np", beyond, first)
    length = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    direction = direction / length.clamp_min(torch.finfo(direction.dtype).tiny)
    own = (row_products(problem, rows, direction) * direction).sum(dim=1)
    random = row_products(problem, rows, probe).square().sum(dim=1)
    return RowCurvature(center, spread, own, random)


def directional_variance(problem: Curvature, direction: Tensor, *, chunk: int = 128) -> float:
    """``V = E_i |H_i v|^2 - |H v|^2`` at a unit vector: the variance that moves its eigenvalue in a batch."""
    return _variance(problem, _pieces(problem, direction, chunk))


def isotropic_variance(problem: Curvature, generator: torch.Generator, *, chunk: int = 128) -> float:
    """The same at a direction uniform on the sphere; a network's outliers feel a noise far above it."""
    point = problem.network.vector()
    z = torch.randn(point.numel(), generator=generator).to(point)
    return directional_variance(problem, z / torch.linalg.vector_norm(z), chunk=chunk)


def _pieces(problem: Curvature, direction: Tensor, chunk: int) -> Iterator[Tensor]:
    for s in range(0, problem.rows, chunk):
        yield row_products(problem, torch.arange(s, min(s + chunk, problem.rows)), direction)


def _variance(problem: Curvature, pieces: Iterator[Tensor]) -> float:
    squares, total = 0.0, 0.0
    for images in pieces:
        squares += float(images.double().square().sum())
        total = total + images.double().sum(dim=0)
    return max(0.0, squares / problem.rows - float((total / problem.rows).square().sum()))  # type: ignore[union-attr]


def microbatch_variance(problem: Curvature, direction: Tensor, size: int) -> float:
    """`directional_variance` from the spread over K micro-batches of q rows, for modules whose rows cannot be told apart.

    ``q (mean_k |H_k v|^2 - |mean_k H_k v|^2) K / (K - 1)``; the same in expectation, with more noise.
    """
    count = problem.rows // size
    if count < 2:
        raise ValueError(f"{problem.rows} rows give {count} micro-batches of {size}; expected at least 2")
    images = torch.stack([
        CurvatureOperator.of(problem, torch.arange(k * size, (k + 1) * size))(direction) for k in range(count)
    ]).double()  # fmt: skip
    spread = float(images.square().sum(dim=1).mean() - images.mean(dim=0).square().sum())
    return size * max(0.0, spread) * count / (count - 1)


def shrinkage(problem: Curvature, size: int, generator: torch.Generator) -> float:
    """Linear-shrinkage intensity of the matrix towards a multiple of the identity: 1 keeps it, 0 leaves the identity alone.

    ``max(0, 1 - s / (K d))`` with ``d = |H z - (z'H z) z|^2`` and ``s = E_k |H_k z|^2 - |H z|^2`` over K micro-batches of ``size`` rows, z
    uniform on the sphere; the intensity that minimises the expected squared error of a mean of K matrices.

    Raises:
        ValueError: fewer than two micro-batches.
    """
    operator = CurvatureOperator.of(problem)
    z = operator.start(generator)
    z = z / torch.linalg.vector_norm(z)
    image = operator(z)
    distance = float((image - torch.dot(z, image) * z).square().sum())
    count = problem.rows // size
    spread = microbatch_variance(problem, z, size) / size
    return max(0.0, 1 - spread / (count * distance)) if distance > 0 else 0.0
