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
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 4 << 30  # of one array or text file handed in by a stranger
BOMB_BYTES, BOMB_RATIO = 256 << 20, 100  # an archive larger than this, packed tighter than this, is a zip bomb
JSON_CONSTANTS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}  # tokens that strict JSON does not have


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


def plain_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, sorted; none where there is no such folder.

    Raises:
        UnsafeFileError: something there is neither a folder nor a regular file (a link, a FIFO, a device).
    """
    if folder.is_symlink():
        raise UnsafeFileError(f"{folder.name} is a link; only plain files and folders are read")
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            raise UnsafeFileError(f"{folder.name}/{path.relative_to(folder)} is neither a plain file nor a folder")


def file_hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every evidence and answer file of a run."""
    files = [p for folder in ("evidence", "answer") for p in plain_files(root / folder)]
    return {p.relative_to(root).as_posix(): sha256(p) for p in files}


def inside(root: Path, name: str) -> Path:
    """The path `root/name`, refused if it is absolute or leaves `root` (also through a link)."""
    try:
        path = (root / name).resolve()
    except (ValueError, RuntimeError, OSError) as error:  # a NUL byte, links that go round in a circle
        raise UnsafeFileError(f"the name {name!r} is no path: {error}") from error
    if not path.is_relative_to(root.resolve()) or Path(name).is_absolute():
        raise UnsafeFileError(f"the name {name!r} leaves the folder {root}")
    return path


def regular(path: Path) -> Path:
    """The path, if a plain file of a bearable size is there.

    Raises:
        FileNotFoundError: nothing is there.
        UnsafeFileError: a FIFO, a device, a folder, or too large.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise UnsafeFileError(f"{path.name} is not a plain file")
    if path.stat().st_size > MAX_BYTES:
        raise UnsafeFileError(f"{path.name} is larger than {MAX_BYTES} bytes")
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
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # the order of a set differs from process to process
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, os.PathLike) else value


def write_json(path: Path, tree: Any) -> None:
    """Strict JSON (no NaN tokens), indented for people."""
    write_bytes(path, (json.dumps(plain(tree), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """JSON; the tokens NaN and Infinity, which are none, become text; an error names the file."""
    try:
        return json.loads(regular(path).read_bytes(), parse_constant=JSON_CONSTANTS.__getitem__)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{path.name} is not valid JSON: {error}") from error


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Columns of equal length as CSV; floats keep all their digits."""
    write_bytes(path, _csv_text(columns).encode())


def _csv_text(columns: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    lists = [c.tolist() if isinstance(c, np.ndarray) else list(c) for c in columns.values()]
    plain_cells = [[v.item() if isinstance(v, np.generic) else v for v in cells] for cells in lists]
    writer.writerows(zip(*plain_cells, strict=True))
    return text.getvalue()


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """CSV with a header into columns: float64 where every cell is a number, else text."""
    try:
        with regular(path).open(newline="", encoding="utf-8") as stream:
            return _csv_columns(stream, path.name)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UnsafeFileError(f"{path.name} is not a readable CSV: {error}") from error


def _csv_columns(lines: Iterable[str], name: str) -> dict[str, np.ndarray]:
    rows = list(csv.reader(lines, strict=True))
    if not rows or any(len(row) != len(rows[0]) for row in rows) or (len(rows) > 1 and not rows[0]):
        raise UnsafeFileError(f"{name} is not a rectangular CSV with a header")
    if len(set(rows[0])) != len(rows[0]):
        raise UnsafeFileError(f"{name} has two columns of one name")
    columns: dict[str, np.ndarray] = {}
    for title, cells in zip(rows[0], zip(*rows[1:], strict=True) if rows[1:] else [()] * len(rows[0]), strict=True):
        try:
            columns[title] = np.array([float(c) if c else math.nan for c in cells], dtype=np.float64)
        except ValueError:
            columns[title] = np.array(cells, dtype=np.str_)
    return columns


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays of numbers as npz; objects are refused, so nothing can ever be pickled."""
    plain_arrays = _plain_arrays(arrays)
    data = _zipped(plain_arrays, zipfile.ZIP_DEFLATED)
    total = sum(array.nbytes for array in plain_arrays.values())
    if total > BOMB_BYTES and total > BOMB_RATIO * len(data):  # honest zeros, but a reader would take them for a bomb
        data = _zipped(plain_arrays, zipfile.ZIP_STORED)
    write_bytes(path, data)


def _plain_arrays(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in found.items():
        if array.dtype.hasobject:
            raise TypeError(f"evidence array {name!r} holds Python objects; give numbers")
    return found


def _zipped(arrays: Mapping[str, np.ndarray], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """An npz from anybody: headers are checked against member sizes before anything is allocated."""
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > MAX_BYTES or total > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
                raise UnsafeFileError(f"{path.name} holds {path.stat().st_size} bytes and unpacks to {total}")
            arrays: dict[str, np.ndarray] = {}
            for member in archive.infolist():
                with archive.open(member) as stream:
                    arrays[member.filename.removesuffix(".npy")] = _read_npy(stream, member.file_size, path.name)
            return arrays
    except (UnsafeFileError, FileNotFoundError):
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on a stranger's bytes
        raise UnsafeFileError(f"{path.name} is not a readable npz: {type(error).__name__}: {error}") from error


def _read_npy(stream: Any, size: int, name: str) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds pickled objects; they are never loaded")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > size:
        raise UnsafeFileError(f"{name}: an array header asks for more bytes than the file has")
    flat = np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype=dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="K")


WRITERS: Mapping[str, Callable[[Path, Any], None]] = {".npz": write_npz, ".json": write_json, ".csv": write_csv}
READERS: Mapping[str, Callable[[Path], Any]] = {".npz": read_npz, ".json": read_json, ".csv": read_csv}


def check_evidence_name(name: str) -> str:
    """Evidence is called NAME.npz, NAME.json or NAME.csv; the ending says what it holds."""
    if Path(name).name != name or Path(name).suffix not in READERS:
        raise ValueError(f"evidence name {name!r}: expected a plain file name ending in {', '.join(READERS)}")
    return name


def as_read(name: str, value: Any) -> Any:
    """Evidence as a reader of its file would see it, so that checkers in process and on disk see the same."""
    match Path(name).suffix:
        case ".npz":
            return {key: array.copy() for key, array in _plain_arrays(value).items()}
        case ".csv":
            return _csv_columns(io.StringIO(_csv_text(value), newline=""), name)
        case _:
            return json.loads(json.dumps(plain(value), allow_nan=False))
