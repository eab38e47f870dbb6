"""Files written whole or not at all, and files of strangers read as data: no pickle, no path that
leaves the folder, no array larger than its file admits."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 4 << 30  # of one array or text file handed in by a stranger


class UnsafeFileError(ValueError):
    """A file that is not what it says, or that would do more than be read."""


class OtherSchemaError(UnsafeFileError):
    """A record of a schema this version cannot read; the message says which version can."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of a directory's sorted manifest (names and file digests)."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        manifest = "".join(f"{p.relative_to(path).as_posix()} {sha256(p)}\n" for p in files)
        return hashlib.sha256(manifest.encode()).hexdigest()
    if not path.is_file():
        raise UnsafeFileError(f"{path} is not a regular file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every evidence and answer file of a run."""
    files = [p for folder in ("evidence", "answer") for p in sorted((root / folder).rglob("*")) if p.is_file()]
    return {p.relative_to(root).as_posix(): sha256(p) for p in files}


def inside(root: Path, name: str) -> Path:
    """The path `root/name`, refused if it is absolute or leaves `root` (also through a link)."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or Path(name).is_absolute():
        raise UnsafeFileError(f"the name {name!r} leaves the folder {root}")
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a fresh folder, then put that folder in the place of `path` at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fill(fresh)
        fresh.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old."))
            path.replace(old / "old")
            fresh.replace(path)
            shutil.rmtree(old)
        else:
            fresh.replace(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def plain(value: Any) -> Any:
    """A JSON tree: numpy scalars and arrays become numbers and lists; nan and inf become strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, os.PathLike) else value


def write_json(path: Path, tree: Any) -> None:
    """Strict JSON (no NaN tokens), indented for people."""
    write_bytes(path, (json.dumps(plain(tree), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Strict JSON; an error names the file."""
    if path.stat().st_size > MAX_BYTES:
        raise UnsafeFileError(f"{path.name} is larger than {MAX_BYTES} bytes")
    try:
        return json.loads(path.read_bytes(), parse_constant=lambda token: token.lower())
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{path.name} is not valid JSON: {error}") from error


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Columns of equal length as CSV; floats keep all their digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    lists = [c.tolist() if isinstance(c, np.ndarray) else list(c) for c in columns.values()]
    writer.writerows(zip(*lists, strict=True))
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """CSV with a header into columns: float64 where every cell is a number, else text."""
    if path.stat().st_size > MAX_BYTES:
        raise UnsafeFileError(f"{path.name} is larger than {MAX_BYTES} bytes")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise UnsafeFileError(f"{path.name} is not a rectangular CSV with a header")
    columns: dict[str, np.ndarray] = {}
    for name, cells in zip(rows[0], zip(*rows[1:], strict=True) if rows[1:] else [()] * len(rows[0]), strict=True):
        try:
            columns[name] = np.array([float(c) if c else math.nan for c in cells], dtype=np.float64)
        except ValueError:
            columns[name] = np.array(cells, dtype=np.str_)
    return columns


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays of numbers as npz; objects are refused, so nothing can ever be pickled."""
    buffer = io.BytesIO()
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"evidence array {name!r} holds Python objects; give numbers")
    np.savez_compressed(buffer, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """An npz from anybody: headers are checked against member sizes before anything is allocated."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise UnsafeFileError(f"{path.name} unpacks to more than {MAX_BYTES} bytes")
            for member in archive.infolist():
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = _read_npy(stream, member.file_size, path.name)
    except (zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise UnsafeFileError(f"{path.name} is not a readable npz: {error}") from error
    return arrays


def _read_npy(stream: Any, size: int, name: str) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise UnsafeFileError(f"{name} holds something that is not an array: {error}") from error
    count = math.prod(shape)
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds pickled objects; they are never loaded")
    if count * dtype.itemsize > size:
        raise UnsafeFileError(f"{name}: an array header asks for more bytes than the file has")
    flat = np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype, count=count)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


WRITERS: Mapping[str, Callable[[Path, Any], None]] = {".npz": write_npz, ".json": write_json, ".csv": write_csv}
READERS: Mapping[str, Callable[[Path], Any]] = {".npz": read_npz, ".json": read_json, ".csv": read_csv}


def check_evidence_name(name: str) -> str:
    """Evidence is called NAME.npz, NAME.json or NAME.csv; the ending says what it holds."""
    if Path(name).name != name or Path(name).suffix not in READERS:
        raise ValueError(f"evidence name {name!r}: expected a plain file name ending in {', '.join(READERS)}")
    return name
