"""Graphs of machines: in and out of files, gossip rates on their edges, and the two numbers of a rate matrix that matter.

For rates lambda_e >= 0 (exchanges per unit of time on edge e, b_e = e_i - e_j) the rate matrix is Lambda = sum_e lambda_e b_e b_e'.

    chi1 = 1 / lambda_2(Lambda)                       slow modes of the graph
    chi2 = max over firing edges of R_e / 2           R_e = b_e' Lambda^+ b_e, the effective resistance

Both scale as 1 / rate, and chi2 <= chi1. Edges are always listed as pairs i < j of node places, sorted.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from surefoot.records.files import regular, write_bytes

Array = np.ndarray[Any, np.dtype[np.float64]]
Edges = np.ndarray[Any, np.dtype[np.int64]]

RATE = "rate"
DURATIONS = "durations"
"""Graph attribute of a graph that changes over time; see `windows`."""
WINDOW_RATE = re.compile(rf"{RATE}(_\d+)?")
NAMED: Mapping[str, tuple[str, Callable[[Sequence[int]], Any]]] = {
    "complete": ("n", lambda a: nx.complete_graph(*a)),
    "star": ("n", lambda a: nx.star_graph(a[0] - 1)),
    "cycle": ("n", lambda a: nx.cycle_graph(*a)),
    "path": ("n", lambda a: nx.path_graph(*a)),
    "wheel": ("n", lambda a: nx.wheel_graph(*a)),
    "grid": ("rows,columns", lambda a: nx.grid_2d_graph(a[0], a[1])),
    "barbell": ("clique", lambda a: nx.barbell_graph(a[0], 0)),
    "lollipop": ("clique,tail", lambda a: nx.lollipop_graph(*a)),
    "florentine": ("", lambda a: nx.florentine_families_graph()),
    "karate": ("", lambda a: nx.karate_club_graph()),
}


# ---- making and checking --------------------------------------------------------------------------------------


def named_graph(text: str) -> nx.Graph:
    """A graph by name: `florentine`, `karate`, or with sizes `star:16`, `grid:4,4`, `barbell:8` (two cliques of 8), …

    Raises:
        ValueError: with the names there are, or the sizes that one takes.
    """
    name, _, sizes = text.partition(":")
    if name not in NAMED:
        raise ValueError(f"no graph is called {name!r}; there are {', '.join(NAMED)}")
    wanted, make = NAMED[name]
    count = len(wanted.split(",")) if wanted else 0
    try:
        numbers = [int(part) for part in sizes.split(",")] if sizes else []
    except ValueError as error:
        raise ValueError(f"graph {text!r}: sizes must be whole numbers, as in {name}:{wanted}") from error
    if len(numbers) != count or any(number < 1 for number in numbers):
        raise ValueError(f"graph {text!r}: expected {name}{':' + wanted if wanted else ''} with sizes >= 1")
    return plain_graph(make(numbers))


def plain_graph(graph: Any) -> nx.Graph:
    """The graph with text as node names and nothing on its edges but finite `rate`s (and `rate_0`, ... of windows).

    Raises:
        ValueError: directed, with parallel edges or self-loops, empty, not connected, or a rate that is no number >= 0.
    """
    if graph.is_directed():
        raise ValueError("the graph is directed; exchanges go both ways: give an undirected graph")
    if graph.is_multigraph():
        raise ValueError("the graph has parallel edges (a multigraph); merge them into one edge each")
    loops = list(nx.selfloop_edges(graph))
    if loops:
        raise ValueError(f"node {loops[0][0]} has an edge to itself; remove self-loops")
    if len(graph) == 0:
        raise ValueError("the graph has no nodes")
    parts = nx.number_connected_components(graph)
    if parts > 1:
        raise ValueError(f"the graph has {parts} components; consensus is impossible between them: connect them")
    plain = nx.Graph()
    plain.add_nodes_from(str(node) for node in graph)
    if len(plain) != len(graph):
        raise ValueError("two nodes have the same name as text; rename one")
    for u, v, data in graph.edges(data=True):
        kept = {}
        for name in (name for name in data if WINDOW_RATE.fullmatch(str(name))):
            try:
                kept[name] = float(data[name])
            except (TypeError, ValueError) as error:
                raise ValueError(f"edge {u} - {v}: the rate {data[name]!r} is no number") from error
            if not (math.isfinite(kept[name]) and kept[name] >= 0):
                raise ValueError(f"edge {u} - {v}: the rate is {kept[name]}; expected a finite number >= 0")
        plain.add_edge(str(u), str(v), **kept)
    if DURATIONS in graph.graph:
        plain.graph[DURATIONS] = str(graph.graph[DURATIONS])
    return plain


def edge_list(graph: Any) -> Edges:
    """Edges (E, 2) as node places i < j in the order of the graph's nodes, sorted."""
    place = {node: k for k, node in enumerate(graph)}
    pairs = sorted(tuple(sorted((place[u], place[v]))) for u, v in graph.edges)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def given_rates(graph: Any) -> Array | None:
    """Rates (E,) that the graph's edges carry, in the order of `edge_list`; None where none does.

    Raises:
        ValueError: only some edges carry one, or the firing edges do not connect the graph.
    """
    nodes = list(graph)
    found = [graph.edges[nodes[i], nodes[j]].get(RATE) for i, j in edge_list(graph)]
    if all(rate is None for rate in found):
        return None
    if any(rate is None for rate in found):
        raise ValueError("some edges carry a rate and some do not; give all or none")
    rates = np.array(found, dtype=np.float64)
    require_firing(len(nodes), edge_list(graph), rates)
    return rates


def require_firing(nodes: int, edges: Edges, rates: Array) -> None:
    """Refuse rates that are negative, not finite, or leave the graph in pieces.

    Raises:
        ValueError: naming the edge, or the number of components of the firing edges.
    """
    if rates.shape != (len(edges),):
        raise ValueError(f"{rates.shape} rates for {len(edges)} edges; give one an edge")
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if len(bad):
        raise ValueError(
            f"edge {tuple(map(int, edges[bad[0]]))} has rate {rates[bad[0]]}; expected a finite number >= 0"
        )
    firing: Any = nx.Graph()
    firing.add_nodes_from(range(nodes))
    firing.add_edges_from(map(tuple, edges[rates > 0]))
    parts = nx.number_connected_components(firing)
    if parts > 1:
        raise ValueError(f"the edges that fire leave {parts} components; consensus is impossible between them")


# ---- files ------------------------------------------------------------------------------------------------------


def read_graph(path: str | Path) -> nx.Graph:
    """A graph from GraphML (`.graphml`) or an edge list (`.csv`, `.txt`, `.edges`: two names a line, perhaps a rate).

    Raises:
        FileNotFoundError, ValueError: no such file; another ending; not readable; see `plain_graph`.
    """
    path = regular(Path(path))
    if path.suffix == ".graphml":
        try:
            return plain_graph(nx.read_graphml(path))
        except (nx.NetworkXError, SyntaxError, KeyError) as error:
            raise ValueError(f"{path.name} is not a GraphML file: {error}") from error
    if path.suffix not in (".csv", ".txt", ".edges"):
        raise ValueError(f"{path.name}: unknown ending {path.suffix!r}; expected .graphml, .csv, .txt or .edges")
    graph: Any = nx.Graph()
    for number, row in enumerate(_rows(path), start=1):
        if number == 1 and [cell.lower() for cell in row[:2]] in (["source", "target"], ["u", "v"], ["from", "to"]):
            continue
        if len(row) not in (2, 3):
            raise ValueError(f"{path.name}, line {number}: expected two node names and perhaps a rate, got {row}")
        if graph.has_edge(row[0], row[1]):
            raise ValueError(f"{path.name}, line {number}: the edge {row[0]} - {row[1]} is there already")
        graph.add_edge(row[0], row[1], **({RATE: row[2]} if len(row) == 3 else {}))
    return plain_graph(graph)


def _rows(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8-sig")
    if "," in text:
        rows = csv.reader(io.StringIO(text))
        return [[cell.strip() for cell in row] for row in rows if row and not row[0].startswith("#")]
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def with_rates(graph: Any, rates: Array) -> nx.Graph:
    """A copy of the graph that carries `rate` on every edge."""
    nodes, copy = list(graph), nx.Graph()
    copy.add_nodes_from(nodes)
    for (i, j), rate in zip(edge_list(graph), rates, strict=True):
        copy.add_edge(nodes[i], nodes[j], **{RATE: float(rate)})
    return copy


def write_graph(graph: Any, path: Path) -> None:
    """The graph as GraphML; rates come back to the last bit."""
    buffer = io.BytesIO()
    nx.write_graphml(graph, buffer)
    write_bytes(path, buffer.getvalue())


# ---- numbers ----------------------------------------------------------------------------------------------------


def rate_matrix(nodes: int, edges: Edges, rates: Array) -> Array:
    """Lambda (n, n)."""
    matrix = np.zeros((nodes, nodes))
    i, j = edges[:, 0], edges[:, 1]
    matrix[i, j] = matrix[j, i] = -rates
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix


def resistances(nodes: int, edges: Edges, rates: Array) -> Array:
    """Effective resistance R_e (E,) between the ends of every edge, firing or not. Foster: sum_e lambda_e R_e = n - 1."""
    # adding 11'/n makes the matrix regular without changing b' Lambda^+ b for b of zero sum
    inverse = np.linalg.inv(rate_matrix(nodes, edges, rates) + 1.0 / nodes)
    i, j = edges[:, 0], edges[:, 1]
    return inverse[i, i] + inverse[j, j] - inverse[i, j] - inverse[j, i]


def slowness(nodes: int, edges: Edges, rates: Array) -> tuple[float, float]:
    """(chi1, chi2) of the rates; (0, 0) for a single node, which has nothing to agree on.

    Raises:
        ValueError: see `require_firing`.
    """
    require_firing(nodes, edges, rates)
    if nodes == 1:
        return 0.0, 0.0
    chi1 = 1.0 / float(np.linalg.eigvalsh(rate_matrix(nodes, edges, rates))[1])
    return chi1, 0.5 * float(resistances(nodes, edges, rates)[rates > 0].max())


def scaled_to(nodes: int, edges: Edges, rates: Array, product: float) -> Array:
    """The same distribution over edges at the least total rate with chi1 chi2 <= product.

    lambda_e = p_e sqrt(chi1[p] chi2[p] / product) for p of sum 1 [the official code, for product = 1/2].
    """
    chi1, chi2 = slowness(nodes, edges, rates)
    if nodes == 1:
        return rates
    # a little more, so that padded bounds of chi1 and chi2 still have a product below
    return rates * (math.sqrt(chi1 * chi2 / product) * (1 + 1e-9))


def uniform_rates(nodes: int, edges: Edges, product: float = 0.5) -> Array:
    """Equal rates on all edges, at the least total with chi1 chi2 <= product."""
    return scaled_to(nodes, edges, np.ones(len(edges)), product)
