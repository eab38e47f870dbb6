"""PLY files of vertices: named columns of numbers, written in little-endian binary and read back exactly.

A file is a header of text (`ply`, `format`, comments, `element vertex N`, one `property TYPE NAME` a column, `end_header`) and N
records. Comments carry `key value` pairs. The ASCII form and big-endian files are read too; elements behind the vertices are passed
over, and lists are refused within them.

References:
    Turk, "The PLY Polygon File Format" (1994).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.records.files import MAX_BYTES, UnsafeFileError, regular, write_bytes

__all__ = ["Ply", "read_ply", "write_ply"]

Array = np.ndarray[Any, np.dtype[Any]]
TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
WRITTEN = {
    "f4": "float",
    "f8": "double",
    "u1": "uchar",
    "i1": "char",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
}
HEADER_BYTES = 1 << 20
_COMMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, eq=False)
class Ply:
    """Columns of the vertices, each ``(n,)``, and the comments of the form `key value`."""

    columns: dict[str, Array]
    comments: dict[str, str] = field(default_factory=dict)

    def stack(self, *names: str) -> Array:
        """Several columns side by side, ``(n, len(names))``.

        Raises:
            UnsafeFileError: a column is not there; the message names it.
        """
        missing = [n for n in names if n not in self.columns]
        if missing:
            raise UnsafeFileError(f"the vertices have no property {missing[0]}; they have {', '.join(self.columns)}")
        return np.stack([self.columns[n] for n in names], axis=1)


def write_ply(path: Path, columns: Mapping[str, Any], comments: Mapping[str, Any] | None = None) -> None:
    """Write columns of equal length, whole or not at all.

    Raises:
        ValueError: a column of another length or of a type that PLY does not have; a comment that would break the header.
    """
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    lengths = {len(a) if a.ndim == 1 else -1 for a in arrays.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"columns of shapes { ({n: a.shape for n, a in arrays.items()}) }; expected vectors of one length"
        )
    head = ["ply", "format binary_little_endian 1.0"]
    for key, value in (comments or {}).items():
        if not _COMMENT.match(key) or "\n" in str(value) or not str(value).isascii():
            raise ValueError(f"comment {key!r}: {value!r}; expected a word and one line of ASCII")
        head.append(f"comment {key} {value}")
    head.append(f"element vertex {lengths.pop()}")
    kinds = []
    for name, array in arrays.items():
        kind = array.dtype.newbyteorder("=").str[1:]
        if kind not in WRITTEN or not name.isascii() or not name or any(c.isspace() for c in name):
            raise ValueError(
                f"column {name!r} of {array.dtype}; PLY holds {', '.join(WRITTEN.values())} under names without spaces"
            )
        kinds.append((name, "<" + kind))
        head.append(f"property {WRITTEN[kind]} {name}")
    head.append("end_header")
    table = np.empty(len(next(iter(arrays.values()))), dtype=kinds)
    for name, array in arrays.items():
        table[name] = array
    write_bytes(path, ("\n".join(head) + "\n").encode("ascii") + table.tobytes())


def read_ply(path: Path) -> Ply:
    """Read the vertices of a PLY file.

    Raises:
        UnsafeFileError: it is no PLY, is cut short, or its vertices hold lists.
    """
    data = regular(path).read_bytes()
    try:
        return _parse(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise UnsafeFileError(f"{path.name} is not a readable PLY file: {error}") from error


def _parse(data: bytes) -> Ply:
    found = re.search(rb"\nend_header\r?\n", data[:HEADER_BYTES])
    if not data.startswith(b"ply") or found is None:
        raise ValueError("it does not begin with 'ply' and a header that ends in 'end_header'")
    comments: dict[str, str] = {}
    form = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in data[: found.start()].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        match words:
            case ["format", kind, "1.0"]:
                form = kind
            case ["comment", key, *rest]:
                comments[key] = " ".join(rest)
            case ["element", name, count]:
                elements.append((name, int(count), []))
            case ["property", "list", *_] if elements:
                elements[-1][2].append((words[-1], ""))
            case ["property", kind, name] if elements and kind in TYPES:
                elements[-1][2].append((name, TYPES[kind]))
            case [] | ["comment"] | ["obj_info", *_]:
                pass
            case _:
                raise ValueError(f"the header says {line!r}")
    if not elements or elements[0][0] != "vertex":
        raise ValueError("its first element is not the vertices")
    _, count, properties = elements[0]
    if any(not kind for _, kind in properties) or not properties or count < 0:
        raise ValueError("its vertices hold lists, or nothing")
    if len({n for n, _ in properties}) != len(properties):
        raise ValueError("two properties of its vertices have one name")
    body = data[found.end() :]
    if form == "ascii":
        return Ply(_ascii(body, count, properties), comments)
    if form not in ("binary_little_endian", "binary_big_endian"):
        raise ValueError(f"its format is {form!r}; expected ascii, binary_little_endian or binary_big_endian")
    order = "<" if form == "binary_little_endian" else ">"
    kind = np.dtype([(name, order + k) for name, k in properties])
    if count * kind.itemsize > min(len(body), MAX_BYTES):
        raise ValueError(f"its header asks for {count * kind.itemsize} bytes of vertices, it has {len(body)}")
    table = np.frombuffer(body, dtype=kind, count=count)
    return Ply(
        {n: np.ascontiguousarray(table[n]).astype(table[n].dtype.newbyteorder("=")) for n, _ in properties}, comments
    )


def _ascii(body: bytes, count: int, properties: list[tuple[str, str]]) -> dict[str, Array]:
    rows = [line.split() for line in body.decode("ascii").splitlines()[:count]]
    if len(rows) != count or any(len(row) != len(properties) for row in rows):
        raise ValueError(f"it has {len(rows)} whole rows where {count} are announced")
    cells = zip(*rows, strict=True) if rows else [() for _ in properties]
    return {
        name: np.array([float(c) if kind[0] == "f" else int(c) for c in column], dtype=kind)
        for (name, kind), column in zip(properties, cells, strict=True)
    }
