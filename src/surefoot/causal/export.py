"""A learned graph in its field's formats: networkx, pgmpy, GraphML, an edge list, JSON; and back from the files."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.causal.problem import Dag
from surefoot.records.files import read_json, write_bytes, write_json

if TYPE_CHECKING:
    import networkx as nx

GRAPHML, EDGES, JSON = "graph.graphml", "edges.csv", "graph.json"


def to_networkx(dag: Dag) -> nx.DiGraph:
    """A `networkx.DiGraph` on the variables' names: edges carry `weight`, nodes `noise_std` and `place` in the order."""
    import networkx as nx

    graph = nx.DiGraph()
    place = {node: k for k, node in enumerate(dag.order)}
    noise = np.broadcast_to(dag.noise_std, len(dag.names))
    for j, name in enumerate(dag.names):
        graph.add_node(name, noise_std=float(noise[j]), place=place.get(j, -1))
    graph.add_weighted_edges_from(dag.edges)
    return graph


def to_pgmpy(dag: Dag) -> Any:
    """A `pgmpy.base.DAG` with the same nodes and edges.

    Raises:
        ImportError: pgmpy is not installed.
    """
    try:
        from pgmpy.base import DAG
    except ImportError as error:
        raise ImportError("to_pgmpy() needs pgmpy: pip install pgmpy") from error
    graph = DAG([(source, target) for source, target, _ in dag.edges])
    graph.add_nodes_from(dag.names)
    return graph


def write_dag(dag: Dag, folder: Path) -> None:
    """Write `graph.graphml`, `edges.csv` (source, target, weight) and `graph.json` into a folder."""
    import networkx as nx

    buffer = io.BytesIO()
    nx.write_graphml(to_networkx(dag), buffer)
    write_bytes(folder / GRAPHML, buffer.getvalue())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "target", "weight"))
    writer.writerows((source, target, repr(weight)) for source, target, weight in dag.edges)
    write_bytes(folder / EDGES, text.getvalue().encode())
    tree = {"names": dag.names, "order": dag.order, "noise_std": dag.noise_std, "edges": dag.edges}
    write_json(folder / JSON, tree)


def read_dag(folder: Path) -> Dag:
    """The graph of a folder written by `write_dag`.

    Raises:
        ValueError: the files contradict each other, or do not hold a graph.
    """
    tree = read_json(folder / JSON)
    names = tuple(str(name) for name in tree["names"])
    if len(set(names)) != len(names):
        raise ValueError(f"{JSON} repeats a variable's name")
    adjacency = _adjacency(names, [(s, t, w) for s, t, w in tree["edges"]], JSON)
    noise = np.array([float(level) for level in tree["noise_std"]])
    if not all(isinstance(node, int) and not isinstance(node, bool) for node in tree["order"]):
        raise ValueError(f"the causal order in {JSON} is not a list of column numbers")
    dag = Dag(adjacency, noise, tuple(tree["order"]), names)
    if not np.array_equal(_adjacency(names, _edge_rows(folder / EDGES), EDGES), adjacency):
        raise ValueError(f"{EDGES} and {JSON} hold different graphs")
    _compare_graphml(dag, folder / GRAPHML)
    return dag


def _edge_rows(path: Path) -> list[tuple[str, str, str]]:
    """Rows of an edge list as text, so that a variable may be called 1 or nan."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [tuple(row) for row in csv.reader(stream)]
    if not rows or rows[0] != ("source", "target", "weight") or any(len(row) != 3 for row in rows):
        raise ValueError(f"{path.name} is not a list of source, target, weight")
    return rows[1:]  # type: ignore[return-value]


def _adjacency(names: tuple[str, ...], edges: list[tuple[Any, Any, Any]], file: str) -> np.ndarray:
    place = {name: j for j, name in enumerate(names)}
    adjacency = np.zeros((len(names), len(names)))
    for source, target, weight in edges:
        if str(source) not in place or str(target) not in place:
            raise ValueError(f"{file} has the edge {source} -> {target} between unknown variables")
        adjacency[place[str(source)], place[str(target)]] = float(weight)
    return adjacency


def _compare_graphml(dag: Dag, path: Path) -> None:
    import networkx as nx

    graph = nx.read_graphml(path)
    edges = [(source, target, data.get("weight")) for source, target, data in graph.edges(data=True)]
    if set(graph) != set(dag.names) or not np.array_equal(_adjacency(dag.names, edges, GRAPHML), dag.adjacency):
        raise ValueError(f"{GRAPHML} and {JSON} hold different graphs")
    expected = to_networkx(dag).nodes(data=True)
    for name, data in expected:
        found = graph.nodes[name]
        if found.get("place") != data["place"] or found.get("noise_std") != data["noise_std"]:
            raise ValueError(f"{GRAPHML} and {JSON} disagree about {name}")
