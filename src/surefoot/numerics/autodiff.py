"""Derivative products that never form a matrix, and gradients of single samples.

Functions take and return plain tensors; `Flattened` turns a module into such a function of one flat parameter
vector. Products run forward over reverse (``torch.func``), which needs neither ``create_graph`` nor a second
backward pass; `hessian_operator` keeps one graph instead, for many products at one point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch import func as functorch

__all__ = [
    "Flattened",
    "HessianOperator",
    "cross_product",
    "ggn_product",
    "hessian_operator",
    "hvp",
    "jvp",
    "like",
    "per_sample_gradients",
    "vjp",
]

Map = Callable[[Tensor], Tensor]


def jvp(function: Map, x: Tensor, v: Tensor) -> Tensor:
    """Jacobian times vector ``J(x) v``, of the shape of ``function(x)``."""
    return functorch.jvp(function, (x,), (v,))[1]


def vjp(function: Map, x: Tensor, u: Tensor) -> Tensor:
    """Transposed Jacobian times vector ``J(x)' u``, of the shape of ``x``."""
    return functorch.vjp(function, x)[1](u)[0]


def hvp(function: Map, x: Tensor, v: Tensor) -> Tensor:
    """Hessian of a scalar function times vector, ``H(x) v``.

    Args:
        function: ``x`` to a scalar.
        x: where, any shape.
        v: direction, of the shape of ``x``.

    Returns:
        A tensor of the shape of ``x``.
    """
    return functorch.jvp(functorch.grad(function), (x,), (v,))[1]


class HessianOperator:
    """The Hessian of a scalar function at a point as ``v -> H v``; see `hessian_operator`."""

    def __init__(self, function: Callable[..., Tensor], x: Tensor | Sequence[Tensor]) -> None:
        self._alone = isinstance(x, Tensor)
        self._points = [piece.detach().requires_grad_() for piece in ([x] if isinstance(x, Tensor) else x)]
        with torch.enable_grad():
            value = function(self._points[0] if self._alone else self._points)
            self._gradient = torch.autograd.grad(value, self._points, create_graph=True, materialize_grads=True)
        self._curved = [j for j, piece in enumerate(self._gradient) if piece.requires_grad]  # the others have no graph

    @property
    def gradient(self) -> Tensor:
        """The gradient at the point, as `__call__` has its vectors."""
        return self._whole([piece.detach() for piece in self._gradient])

    def _whole(self, pieces: Sequence[Tensor]) -> Tensor:
        return pieces[0] if self._alone else torch.cat([piece.flatten() for piece in pieces])

    def __call__(self, v: Tensor) -> Tensor:
        """``H v``."""
        if not self._curved:
            return torch.zeros_like(v)  # an affine function
        along = [v] if self._alone else like(v, self._points)
        chosen = ([part[j] for j in self._curved] for part in (self._gradient, along))
        outputs, vectors = chosen
        return self._whole(
            torch.autograd.grad(outputs, self._points, vectors, retain_graph=True, materialize_grads=True)
        )


def like(vector: Tensor, pieces: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat vector in the shapes of these tensors, one after another."""
    parts = vector.split([piece.numel() for piece in pieces])
    return [part.view_as(piece) for part, piece in zip(parts, pieces, strict=True)]


def hessian_operator(function: Callable[..., Tensor], x: Tensor | Sequence[Tensor]) -> HessianOperator:
    """The Hessian at ``x`` as a function ``v -> H v``, for Krylov methods.

    The graph of the gradient is built once and kept alive by the returned object, so that each product costs one
    backward pass through it.

    Args:
        function: ``x`` to a scalar.
        x: where: a tensor of any shape, or a sequence of tensors (a network's parameters; quicker than one vector that
            is cut into them). Vectors of a sequence are flat, its tensors' entries one after another.

    Returns:
        ``v -> H(x) v``, which has the `gradient`, too.
    """
    return HessianOperator(function, x)


def ggn_product(model: Map, loss: Map, x: Tensor, v: Tensor) -> Tensor:
    """Generalised Gauss-Newton matrix times vector, ``J' H_loss J v``.

    Positive semidefinite for a convex loss; equal to the Hessian of ``loss(model(x))`` where the model is affine or
    fits so well that the loss's gradient vanishes.

    Args:
        model: parameters ``x`` to outputs.
        loss: outputs to a scalar.
        x: where, any shape.
        v: direction, of the shape of ``x``.

    Returns:
        A tensor of the shape of ``x``.
    """
    pushed = functorch.jvp(model, (x,), (v,))
    return vjp(model, x, hvp(loss, pushed[0], pushed[1]))


def cross_product(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Mixed second derivative times vector, ``(d^2 f / dx dy) v``.

    Args:
        function: ``(x, y)`` to a scalar.
        x: first argument; the result has its shape.
        y: second argument; ``v`` has its shape.
        v: direction in ``y``.

    Returns:
        The derivative of ``grad_x f(x, y + t v)`` at ``t = 0``.
    """

    def gradient(moved: Tensor) -> Tensor:
        return functorch.grad(function, argnums=0)(x, moved)

    return functorch.jvp(gradient, (y,), (v,))[1]


def per_sample_gradients(
    function: Callable[..., Tensor], x: Tensor, *batch: Tensor, chunk_size: int | None = None
) -> Tensor:
    """Gradients of every sample's loss.

    Args:
        function: ``(x, *sample)`` to a scalar, with each of the batch's tensors stripped of its first axis.
        x: parameters, any shape.
        batch: tensors ``(b, ...)`` that hold one sample a row.
        chunk_size: samples treated at once; None treats all, in memory ``b`` times that of ``x``.

    Returns:
        Gradients ``(b, *x.shape)``.
    """
    gradient = functorch.grad(function)
    in_dims = (None, *(0 for _ in batch))
    return functorch.vmap(gradient, in_dims=in_dims, chunk_size=chunk_size)(x, *batch)


@dataclass(frozen=True)
class Flattened:
    """A module as a function of one flat vector of parameters.

    Args:
        module: any module; its own parameters are read by `vector` and never changed.
        names: the parameters that make up the vector, in order; the others stay as the module has them. None takes
            all that require gradients.

    Example:
        >>> flat = Flattened(torch.nn.Linear(2, 1))
        >>> flat(flat.vector(), torch.ones(5, 2)).shape
        torch.Size([5, 1])
    """

    module: nn.Module
    names: tuple[str, ...] | None = None
    _shapes: tuple[tuple[str, torch.Size], ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = dict(self.module.named_parameters())
        names = tuple(k for k, p in own.items() if p.requires_grad) if self.names is None else self.names
        unknown = [name for name in names if name not in own]
        if unknown:
            raise ValueError(f"The module has no parameters called {unknown}; it has {sorted(own)}.")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_shapes", tuple((name, own[name].shape) for name in names))

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        own = dict(self.module.named_parameters())
        return [(name, own[name]) for name in self.names or ()]

    def vector(self) -> Tensor:
        """The module's present parameters as a detached copy ``(p,)``."""
        pieces = [parameter.detach().flatten() for _, parameter in self._parameters()]
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of the vector, one a parameter, by name."""
        pieces: Sequence[Tensor] = torch.split(vector, [math.prod(shape) for _, shape in self._shapes])
        return {name: piece.view(shape) for (name, shape), piece in zip(self._shapes, pieces, strict=True)}

    def __call__(self, vector: Tensor, *inputs: Any) -> Any:
        """The module's output with these parameters."""
        return functorch.functional_call(self.module, self.split(vector), inputs)
