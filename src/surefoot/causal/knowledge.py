"""Background knowledge: edges that cannot be, edges that must be, and tiers in time.

Everything ends in two 0/1 matrices over (source, target): `allowed` and `required`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Node = str | int
Edge = tuple[Node, Node]


@dataclass(frozen=True)
class Knowledge:
    """What is known about the edges before any data are seen.

    Attributes:
        allowed: (d, d), False where the edge row -> column is ruled out; None allows everything.
        required: (d, d), True where the edge row -> column is in every answer; None requires nothing.
        before: (d, d), True where row has to come before column in every causal order (required edges, tiers).
    """

    allowed: Mask | None = None
    required: Mask | None = None
    before: Mask | None = None


def knowledge(
    names: Sequence[str],
    exclude: Iterable[Edge] = (),
    require: Iterable[Edge] = (),
    tiers: Sequence[Sequence[Node]] | Mapping[Node, int] = (),
) -> Knowledge:
    """Turn lists of edges and tiers into masks.

    Args:
        names: the d variables in column order.
        exclude: edges (source, target), by name or column number, that the graph may not have.
        require: edges that the graph must have; their reverse is ruled out.
        tiers: groups of variables from early to late, or a mapping variable -> tier. No edge runs from a later tier to an
            earlier one; variables in no tier are free.

    Returns:
        The masks; the diagonal is never allowed once any mask is needed.

    Raises:
        ValueError: an unknown variable, a self-edge, an edge both required and ruled out, or required edges in a cycle.
    """
    order = len(names)
    allowed = np.ones((order, order), dtype=bool)
    required = np.zeros((order, order), dtype=bool)
    for edge in exclude:
        allowed[_edge(names, edge, "exclude")] = False
    level = _levels(names, tiers)
    before = np.zeros((order, order), dtype=bool)
    for source, later in level.items():
        for target, earlier in level.items():
            if later > earlier:
                allowed[source, target] = False
                before[target, source] = True
    for edge in require:
        source, target = _edge(names, edge, "require")
        if not allowed[source, target]:
            raise ValueError(
                f"the edge {names[source]} -> {names[target]} is required, but `exclude` or the tiers rule it out; "
                "drop one of the two"
            )
        required[source, target] = True
        allowed[target, source] = False
    before |= required
    _refuse_cycle(names, before)
    if allowed.all():
        return Knowledge()
    np.fill_diagonal(allowed, False)
    return Knowledge(allowed, required if required.any() else None, before if before.any() else None)


def _index(names: Sequence[str], node: Node, option: str) -> int:
    if isinstance(node, str):
        if node not in names:
            raise ValueError(f"`{option}` names the unknown variable {node!r}; the variables are {', '.join(names)}")
        return list(names).index(node)
    if not 0 <= int(node) < len(names):
        raise ValueError(f"`{option}` has column number {node}; expected 0 to {len(names) - 1}")
    return int(node)


def _edge(names: Sequence[str], edge: Edge, option: str) -> tuple[int, int]:
    if isinstance(edge, str) or len(edge) != 2:
        raise ValueError(f"`{option}` expects pairs (source, target), got {edge!r}")
    source, target = (_index(names, node, option) for node in edge)
    if source == target:
        raise ValueError(f"`{option}` has the self-edge {names[source]} -> {names[target]}; a DAG has none")
    return source, target


def _levels(names: Sequence[str], tiers: Sequence[Sequence[Node]] | Mapping[Node, int]) -> dict[int, int]:
    pairs = (
        tiers.items() if isinstance(tiers, Mapping) else ((node, k) for k, group in enumerate(tiers) for node in group)
    )
    level: dict[int, int] = {}
    for node, tier in pairs:
        index = _index(names, node, "tiers")
        if index in level:
            raise ValueError(f"`tiers` lists {names[index]} twice; give each variable one tier")
        level[index] = tier
    return level


def _refuse_cycle(names: Sequence[str], before: Mask) -> None:
    parents = {j: set(map(int, np.flatnonzero(before[:, j]))) for j in range(len(names))}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        cycle = " -> ".join(str(names[int(i)]) for i in error.args[1])
        raise ValueError(
            f"the required edges and tiers ask for the cycle {cycle}; a DAG cannot hold them all"
        ) from None
