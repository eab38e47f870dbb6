"""The inputs of a run, each recorded with its hash when it is opened."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.records.files import UnsafeFileError, sha256

SYSTEM = ("dev", "proc", "sys")  # reading there may wait for ever, or do something


@dataclass(frozen=True)
class InputSpec:
    """One input of a card, in the order of the command's arguments."""

    role: str
    help: str
    formats: tuple[str, ...] = ()
    required: bool = True  # without it (and with no input at all) the sample is used


@dataclass(frozen=True)
class Sample:
    """Data that a card runs on when the user gives none."""

    id: str
    title: str
    origin: str
    licence: str
    credit: str = ""
    extra: str = ""  # the extra that brings it
    fallback: Sample | None = None


@dataclass(frozen=True)
class TourStop:
    """A further stop of a card on the tour: on another sample, or on files of the data collection, the folder that SUREFOOT_DATA names.

    Attributes:
        name: its run is called CARD-NAME.
        title: what is there.
        flags: of `surefoot run`, such as ``("--preset", "tour")``.
        inputs: paths within the collection, in the order of the card's inputs; none takes a sample.
        licence, credit: of the files.
    """

    name: str
    title: str
    flags: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    licence: str = ""
    credit: str = ""


class Inputs:
    """The inputs of a run, opened through here so that each is recorded with its hash.

    Args:
        given: path, or recipe `module:factory`, by role; roles left out are absent.
        device, dtype: where the problem's tensors shall live.
        trust: whether recipes may be imported.
    """

    def __init__(
        self, given: Mapping[str, str] | None = None, *, device: str = "cpu", dtype: str | None = None,
        trust: bool = False, only: str | None = None,
    ) -> None:  # fmt: skip
        self._given = dict(given or {})
        self.device, self.dtype, self.trust = device, dtype, trust
        self.only = only  # verification: the id of the sample that was used; no other will do
        self.records: list[dict[str, Any]] = []

    def give(self, more: Mapping[str, str]) -> None:
        """Add paths or recipes by role."""
        self._given |= more

    def has(self, role: str) -> bool:
        return role in self._given

    def is_recipe(self, role: str) -> bool:
        """Whether the input is a `package.module:factory` rather than a file."""
        text = self._given.get(role, "")
        module, _, name = text.rpartition(":")
        return not Path(text).exists() and name.isidentifier() and all(p.isidentifier() for p in module.split("."))

    def path(self, role: str) -> Path:
        """The input file, recorded with its SHA-256.

        Raises:
            FileNotFoundError: with the role and what was expected.
        """
        path = Path(self._given[role])
        if not path.exists():
            raise FileNotFoundError(f"input {role!r}: there is no file {path}")
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
        self.records.append({
            "role": role, "origin": "file", "path": str(path.resolve()), "sha256": sha256(path), "bytes": size,
            "copied": False,
        })  # fmt: skip
        return path

    def factory(self, role: str) -> Any:
        """What the recipe `module:factory` names, recorded with the hash of its source; only where code is trusted.

        Raises:
            UnsafeFileError: in a verification without `--trust`.
            ImportError: the module is not there, or has no such name.
        """
        text = self._given[role]
        if not self.trust:
            raise UnsafeFileError(
                f"input {role!r} is the code {text!r}; it is imported only by `run` or `verify --trust`"
            )
        module, _, name = text.rpartition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")
        found = getattr(importlib.import_module(module), name, None)
        if found is None:
            raise ImportError(f"input {role!r}: the module {module!r} has no {name!r}")
        home = sys.modules.get(getattr(inspect.unwrap(found), "__module__", module))
        source = Path(getattr(home, "__file__", None) or "")
        digest = sha256(source) if source.is_file() else ""
        self.records.append({"role": role, "origin": "recipe", "path": text, "sha256": digest, "copied": False})
        return found

    def sample(self, sample: Sample, *, sha256: str, **more: Any) -> None:
        """Record that the card read this sample (`more`: distribution, version, path, bytes, note)."""
        self.records.append({
            "role": "sample", "origin": sample.id, "title": sample.title, "licence": sample.licence,
            "credit": sample.credit, "sha256": sha256, "copied": False, **more,
        })  # fmt: skip


def find_input(record: Mapping[str, Any], data: str | Path | None) -> str:
    """Where a recorded input is now: in the folder `data`, or where it was.

    Raises:
        FileNotFoundError: it is not there, or its recorded path is not a plain absolute one.
    """
    text = str(record.get("path", ""))
    if record["origin"] == "recipe":
        return text
    path = Path(text)
    if "\0" in text or not path.is_absolute() or {"..", ""} & {*path.parts, path.name} or path.parts[1] in SYSTEM:
        raise FileNotFoundError(f"input {record['role']!r}: {text!r} is not a plain absolute path")
    if data is not None and (Path(data) / path.name).exists():
        return str(Path(data) / path.name)
    if not (path.is_file() or path.is_dir()):
        raise FileNotFoundError(f"input {record['role']!r}: {path} is not there; give its folder with --data")
    return text


def mismatch(recorded: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with the inputs at hand, compared with the recorded ones by role, origin and hash; or ''."""
    key = ("role", "origin", "sha256")
    known, found = ({tuple(r.get(k) for k in key) for r in records} for records in (recorded, now))
    for record in recorded:
        if tuple(record.get(k) for k in key) not in found:
            same = any(r["role"] == record["role"] and r["origin"] == record["origin"] for r in now)
            what = "changed since the run" if same else "is not at hand"
            return f"input {record['role']!r} ({record.get('path') or record['origin']}) {what}"
    for record in now:
        if tuple(record.get(k) for k in key) not in known:
            return f"the run has not recorded an input {record['role']!r} ({record.get('path') or record['origin']})"
    return ""


def salted(records: Sequence[Mapping[str, Any]], salt: bytes) -> list[dict[str, Any]]:
    """Records of a private run: no path, and hashes that nobody can guess small data from."""
    hidden = []
    for record in records:
        digest = hmac.new(salt, str(record["sha256"]).encode(), hashlib.sha256).hexdigest()
        kept = {k: v for k, v in record.items() if k not in ("path", "bytes")}
        hidden.append({**kept, "sha256": f"salted:{digest}"})
    return hidden
