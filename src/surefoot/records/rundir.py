"""The run directory: everything a run leaves behind, written whole or not at all.

config.json inputs.json history.csv certificate.json verdict.json evidence/ answer/ figures/ checkpoints/
private/ report.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from surefoot.records.files import (
    READERS,
    WRITERS,
    OtherSchemaError,
    UnsafeFileError,
    file_hashes,
    inside,
    read_csv,
    read_json,
    sha256,
    write_csv,
    write_folder,
    write_json,
)  # fmt: skip
from surefoot.records.inputs import mismatch, salted
from surefoot.records.versions import versions

SCHEMA = 1
UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # certificate trees of older schemas


def is_writer() -> bool:
    """Rank 0 owns the run directory."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass
class RunDir:
    """A run being written. `watch` and `every` belong to the session, not to the record."""

    root: Path
    watch: tuple[Callable[..., str | None], ...] = ()
    every: Any = None  # a core.checkpoint.Every; None: its defaults
    private: bool = False
    seed: Any = "unset"  # what `solve` uses where its caller gives none

    @classmethod
    def create(cls, path: str | Path, *, resume: bool = False, force: bool = False, **more: Any) -> RunDir:
        """Open a folder for a new run, or for going on with an old one.

        Raises:
            FileExistsError: it exists with content and neither `resume` nor `force` was given, or `force`
                was given for a folder that is not a run (nothing of it is touched).
        """
        root = Path(path)
        is_run = (root / "config.json").is_file()
        if root.exists() and not root.is_dir():
            raise FileExistsError(f"{root} is a file; give a folder for the run")
        if root.is_dir() and any(root.iterdir()) and not resume:
            if not force:
                raise FileExistsError(
                    f"{root} exists; use --resume to go on with it, --force to replace it, or another -o"
                )
            if not is_run:
                raise FileExistsError(
                    f"{root} is not a run of Surefoot, so --force will not delete it; give another -o"
                )
            shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        for part in root.glob(".*.*"):  # half-written files of a killed run
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        return cls(root, **more)

    @property
    def checkpoints(self) -> Path:
        return self.root / ("private/checkpoints" if self.private else "checkpoints")

    def write_config(self, **entries: Any) -> None:
        """Merge `entries` into config.json."""
        path = self.root / "config.json"
        old = read_json(path) if path.is_file() else {"schema": SCHEMA, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(path, {**old, **entries, "versions": versions()})

    def salt(self) -> bytes:
        """The secret of a private run, kept under private/."""
        path = self.root / "private" / "salt.json"
        if not path.is_file():
            write_json(path, {"salt": secrets.token_hex(32)})
        return bytes.fromhex(read_json(path)["salt"])

    def write_inputs(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Record the inputs; those of a private run without paths and with salted hashes.

        Raises:
            ValueError: the run has recorded other inputs before.
        """
        records = salted(records, self.salt()) if self.private else list(records)
        before = RunReader(self.root).inputs
        if before and (wrong := mismatch(before, records)):
            raise ValueError(f"{wrong}; start another run, or give the inputs it began with")
        write_json(self.root / "inputs.json", {"schema": SCHEMA, "inputs": records})

    def write_history(self, columns: Mapping[str, Any]) -> None:
        write_csv(self.root / "history.csv", columns)

    def write_answer(self, fill: Callable[[Path], None]) -> None:
        """The answer's files, put in place at once."""
        write_folder(self.root / "answer", fill)

    def write_certificate(self, certificate: Any) -> None:
        """Evidence first, then the certificate that names it with its hashes (the answer's too)."""

        def fill(fresh: Path) -> None:
            for name, value in certificate.evidence.items():
                WRITERS[Path(name).suffix](fresh / name, value)

        write_folder(self.root / "evidence", fill)
        fingerprint = certificate.fingerprint
        if self.private:  # small data can be guessed from an unsalted hash
            fingerprint = hmac.new(self.salt(), fingerprint.encode(), hashlib.sha256).hexdigest()
        write_json(self.root / "certificate.json", {
            "schema": SCHEMA, "card": certificate.card, "fingerprint": fingerprint, "versions": versions(),
            "claims": [claim.to_json() for claim in certificate.claims], "files": file_hashes(self.root),
        })  # fmt: skip


class RunReader:
    """A run read as data, whoever wrote it: nothing in it is executed, no name leaves the folder.

    Raises:
        FileNotFoundError: not a run.
        UnsafeFileError: a file that is not what it should be, or a schema of a newer version.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not (self.root / "config.json").is_file():
            raise FileNotFoundError(f"{self.root} is not a run of Surefoot (it has no config.json)")
        self.config: dict[str, Any] = self._tree("config.json")
        if not isinstance(self.config.get("card"), str):
            raise UnsafeFileError("config.json names no card")

    def _tree(self, name: str) -> dict[str, Any]:
        tree = read_json(inside(self.root, name))
        if not isinstance(tree, dict) or not isinstance(tree.get("schema"), int):
            raise UnsafeFileError(f"{name} is not a Surefoot record (no schema)")
        while tree["schema"] < SCHEMA and tree["schema"] in UPGRADES:
            tree = UPGRADES[tree["schema"]](tree)
        if tree["schema"] != SCHEMA:
            writer = (tree.get("versions") or {}).get("surefoot", "another version")
            raise OtherSchemaError(
                f"{name} has schema {tree['schema']}, this version reads {SCHEMA}; use surefoot {writer} to read it"
            )
        return tree

    def has(self, name: str) -> bool:
        return inside(self.root, name).exists()

    @property
    def answer_dir(self) -> Path:
        return inside(self.root, "answer")

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        return list(self._tree("inputs.json")["inputs"]) if self.has("inputs.json") else []

    @cached_property
    def history(self) -> dict[str, Any]:
        return read_csv(inside(self.root, "history.csv")) if self.has("history.csv") else {}

    @cached_property
    def verdicts(self) -> list[dict[str, Any]]:
        return list(self._tree("verdict.json")["verdicts"]) if self.has("verdict.json") else []

    @cached_property
    def certificate_tree(self) -> dict[str, Any]:
        tree = self._tree("certificate.json")
        if not isinstance(tree.get("claims"), list) or not isinstance(tree.get("files"), dict):
            raise UnsafeFileError("certificate.json has no claims or no file hashes")
        return tree

    def evidence(self, name: str) -> Any:
        """An evidence file's content: dict of arrays, JSON tree, or dict of columns."""
        path = inside(self.root / "evidence", name)
        if path.suffix not in READERS:
            raise UnsafeFileError(f"evidence {name!r} has an unknown ending")
        return READERS[path.suffix](path)

    def changed_files(self) -> dict[str, str]:
        """Files whose hash differs from the certificate's, each with what is wrong."""
        wrong: dict[str, str] = {}
        for name, digest in self.certificate_tree["files"].items():
            path = inside(self.root, name)
            if not path.is_file():
                wrong[name] = "is missing"
            elif sha256(path) != digest:
                wrong[name] = "changed after the certificate was written"
        for name in file_hashes(self.root).keys() - self.certificate_tree["files"].keys():
            wrong[name] = "was added after the certificate was written"
        return wrong
