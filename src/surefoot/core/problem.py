"""What the user brings: oracles and constants, as frozen dataclasses.

Containers of one domain (tables, cubes, scenes, worlds) live there; these shapes are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from surefoot.numerics.sets import FreeSpace, Set
from surefoot.records.fingerprint import fingerprint


@runtime_checkable
class Problem(Protocol):
    """Anything a method can be run on."""

    def fingerprint(self) -> str:
        """Hash of all that a claim may depend on."""
        ...


@dataclass(frozen=True)
class Constant:
    """A number that a theorem rests on, how it is known, and where it comes from."""

    value: float
    known: Literal["exact", "declared", "estimated"]
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A problem that is known by the numbers that define it (`identity`); without them it can be certified in
    process only."""

    identity: Mapping[str, object] | None = None

    def fingerprint(self) -> str:
        if self.identity is None:
            raise TypeError(f"this {type(self).__name__} has no `identity`; give the numbers that define it")
        constants = getattr(self, "constants", {})
        return fingerprint(self.identity, {k: (c.value, c.known) for k, c in constants.items()})


@dataclass(frozen=True)
class Objective(Identified):
    """Minimise f(x) + h(x) over a set; only `value_and_grad` (of f) is compulsory.

    Args:
        value_and_grad: x (d,) -> (float, (d,) gradient of f).
        dim: d.
        hvp: (x, v) -> H(x) v.
        curvature: x -> any positive semidefinite operator near the Hessian.
        prox: (x, step) -> argmin_z h(z) + |z - x|^2 / (2 step).
        domain: the feasible set.
        constants: e.g. `strong_convexity`, `smoothness`, `minimum` (f*).
        minimiser: x* if known.
        identity: the numbers that define f, for the fingerprint.
    """

    value_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]]
    dim: int
    hvp: Callable[[Tensor, Tensor], Tensor] | None = None
    curvature: Callable[[Tensor], Any] | None = None
    prox: Callable[[Tensor, float], Tensor] | None = None
    domain: Set = field(default_factory=FreeSpace)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    minimiser: Tensor | None = None

    def constant(self, name: str) -> Constant:
        """The constant, or an error that says how to give it."""
        if name not in self.constants:
            raise ValueError(
                f"the objective has no constant {name!r}; add constants={{{name!r}: Constant(value, known)}}"
            )
        return self.constants[name]


@dataclass(frozen=True)
class FiniteSum(Identified):
    """n terms addressed by index: mean of f_i over the rows asked for.

    Args:
        terms: n.
        dim: d.
        value_and_grad: (x, indices (b,)) -> (mean value, mean gradient (d,)).
        per_sample_grad: (x, indices (b,)) -> gradients (b, d).
        domain, constants, identity: as in `Objective`.
    """

    terms: int
    dim: int
    value_and_grad: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    per_sample_grad: Callable[[Tensor, Tensor], Tensor] | None = None
    domain: Set = field(default_factory=FreeSpace)
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def whole(self) -> Objective:
        """The mean of all terms as one objective."""
        rows = torch.arange(self.terms)
        return Objective(
            value_and_grad=lambda x: self.value_and_grad(x, rows),
            dim=self.dim, domain=self.domain, constants=self.constants, identity=self.identity,
        )  # fmt: skip


@dataclass(frozen=True)
class Stream(Identified):
    """A sequence of losses met one at a time: `gradient(t, x)` of round t at x; `length` None is endless."""

    gradient: Callable[[int, Tensor], Tensor]
    dim: int
    length: int | None = None
    domain: Set = field(default_factory=FreeSpace)
    constants: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True)
class Training(Identified):
    """A network to train.

    Args:
        recipe: builds a fresh `torch.nn.Module`.
        loss: (model, batch) -> per-sample losses (b,).
        data: indexable by an index array; `data[indices]` is a batch.
        size: number of samples.
        identity: the numbers that define it, for the fingerprint.
    """

    recipe: Callable[[], torch.nn.Module]
    loss: Callable[[torch.nn.Module, Any], Tensor]
    data: Any
    size: int


@dataclass(frozen=True)
class Bilevel(Identified):
    """min over x in X of upper(x, y*(x)), y*(x) minimising lower(x, .) over Y, optionally coupled(x, y) <= 0.

    x and y are flat vectors; `upper` and `lower` return scalars and take an optional index batch.
    """

    upper: Callable[..., Tensor]
    lower: Callable[..., Tensor]
    upper_dim: int
    lower_dim: int
    coupled: Callable[[Tensor, Tensor], Tensor] | None = None
    upper_set: Set = field(default_factory=FreeSpace)
    lower_set: Set = field(default_factory=FreeSpace)
    constants: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True)
class Game(Identified):
    """N players with block strategies x = (x_1..x_N) in a product set; either costs or the pseudo-gradient.

    Args:
        blocks: size of each player's block.
        pseudo_gradient: x (d,) -> (d,), player i's block is the gradient of its own cost.
        domain: the product set.
        bounds: box -> (mu (N,), ell (N,), coupling L (N, N)) valid on the whole box, if known.
    """

    blocks: tuple[int, ...]
    pseudo_gradient: Callable[[Tensor], Tensor]
    domain: Set = field(default_factory=FreeSpace)
    bounds: Callable[[Any], tuple[Any, Any, Any]] | None = None


@dataclass(frozen=True)
class Consensus:
    """One objective a node of an undirected graph (networkx), node i holding `objectives[i]`."""

    objectives: tuple[Objective, ...]
    graph: Any

    def __post_init__(self) -> None:
        if len(self.objectives) != len(self.graph):
            raise ValueError(
                f"{len(self.objectives)} objectives for a graph of {len(self.graph)} nodes; expected one a node"
            )

    def fingerprint(self) -> str:
        edges = sorted((str(u), str(v)) for u, v in self.graph.edges)
        return fingerprint([o.fingerprint() for o in self.objectives], edges)
