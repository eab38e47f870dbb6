"""A problem from files: a table or svmlight file dealt over the nodes of a graph, or one svmlight file a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from surefoot.data.tables import read_table
from surefoot.decentralized.graphs import named_graph, read_graph
from surefoot.decentralized.schedule import changing_graph
from surefoot.records.files import regular

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.int64]]
GRAPHS = (".graphml", ".csv", ".txt", ".edges")
SVMLIGHT = (".svm", ".libsvm", ".svmlight")


def graph_by_name(text: str, window: float) -> Any:
    """A named graph, or several joined by + that take turns, each for `window` units of time.

    Raises:
        ValueError: see `graphs.named_graph` and `schedule.changing_graph`.
    """
    parts = [named_graph(part.strip()) for part in text.split("+")]
    return parts[0] if len(parts) == 1 else changing_graph(parts, [window] * len(parts))


def read_graphs(path: Path, window: float) -> Any:
    """A graph from a file, or from a folder of files that take turns in the order of their names.

    A GraphML file says with its graph attribute `duration` how long it lasts; others last `window` units of time.

    Raises:
        ValueError: a folder without two graphs; see also `graphs.read_graph` and `schedule.changing_graph`.
    """
    if not path.is_dir():
        return read_graph(path)
    files = sorted(file for file in path.iterdir() if file.suffix in GRAPHS)
    if len(files) < 2:
        raise ValueError(
            f"the folder {path.name} holds {len(files)} graphs; expected two or more ({', '.join(GRAPHS)})"
        )
    graphs, durations = [read_graph(file) for file in files], []
    for file in files:
        said = nx.read_graphml(regular(file)).graph.get("duration", window) if file.suffix == ".graphml" else window
        try:
            durations.append(float(said))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file.name}: the duration {said!r} is no number") from error
    return changing_graph(graphs, durations)


def read_rows(path: Path, names: tuple[str, ...], target: str, node_column: str) -> tuple[Array, Array, Places | None]:
    """Features, targets, and the owner of every row where the file says it.

    Args:
        path: a table (`.csv`, `.tsv`, `.parquet`, `.npy`), an svmlight file, or a folder with one svmlight file a node.
        names: of the graph's nodes.
        target: column of a table; "" takes the last one that is not the node column.
        node_column: column of a table that holds each row's node, as its name or its place; "" deals the rows.

    Raises:
        ValueError: unknown columns, nodes or endings; see also `read_table`.
    """
    if path.is_dir():
        return _one_file_a_node(path, names)
    if path.suffix in SVMLIGHT:
        features, targets = _svmlight([path])
        return features[0], targets[0], None
    table = read_table(path)
    columns = list(table.names)
    for name in (target, node_column):
        if name and name not in columns:
            raise ValueError(f"{path.name} has no column {name!r}; there are {', '.join(columns)}")
    owner = None
    if node_column:
        owner = _owners(table.values[:, columns.index(node_column)], names, path.name)
    rest = [k for k, name in enumerate(columns) if name != node_column]
    label = columns.index(target) if target else rest[-1]
    kept = [k for k in rest if k != label]
    if not kept:
        raise ValueError(f"{path.name} has no feature columns beside the target")
    return table.values[:, kept], table.values[:, label], owner


def _owners(values: Array, names: tuple[str, ...], file: str) -> Places:
    place = {name: k for k, name in enumerate(names)}
    found = []
    for value in values:
        text = f"{value:.17g}"
        if text in place:
            found.append(place[text])
        elif value == int(value) and 0 <= value < len(names) and not any(name.isdigit() for name in names):
            found.append(int(value))
        else:
            raise ValueError(
                f"{file}: a row belongs to node {text}, which the graph does not have ({', '.join(names[:8])}, …)"
            )
    return np.array(found, dtype=np.int64)


def _one_file_a_node(folder: Path, names: tuple[str, ...]) -> tuple[Array, Array, Places]:
    paths = []
    for name in names:
        path = next((p for ending in SVMLIGHT if (p := folder / f"{name}{ending}").is_file()), None)
        if path is None:
            raise ValueError(f"{folder.name} has no file for node {name}; expected {name}{SVMLIGHT[0]}")
        paths.append(path)
    features, targets = _svmlight(paths)
    owner = np.repeat(np.arange(len(names), dtype=np.int64), [len(t) for t in targets])
    return np.concatenate(features), np.concatenate(targets), owner


def _svmlight(paths: list[Path]) -> tuple[list[Array], list[Array]]:
    from sklearn.datasets import load_svmlight_files

    try:
        found: Any = load_svmlight_files([str(regular(path)) for path in paths])
    except ValueError as error:
        raise ValueError(f"{paths[0].name} is not an svmlight file: {error}") from error
    return [np.asarray(A.todense(), dtype=np.float64) for A in found[::2]], [
        np.asarray(y, dtype=np.float64) for y in found[1::2]
    ]


def standardised(values: Array) -> Array:
    """Columns of mean 0 and spread 1; constant columns become 0."""
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def as_labels(targets: Array) -> Array:
    """Two classes as -1 and +1, the smaller one first.

    Raises:
        ValueError: not two classes.
    """
    classes = np.unique(targets)
    if len(classes) != 2:
        raise ValueError(f"the target has {len(classes)} different values; the logistic loss needs two classes")
    return np.where(targets == classes[1], 1.0, -1.0)
