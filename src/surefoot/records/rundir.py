"""The run directory: everything a run leaves behind, written whole or not at all.

config.json inputs.json history.csv certificate.json verdict.json evidence/ answer/ figures/ checkpoints/
private/ report.html
"""

from __future__ import annotations

import hashlib
import hmac
import logging
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
    plain_files,
    read_csv,
    read_json,
    sha256,
    write_csv,
    write_folder,
    write_json,
)  # fmt: skip
from surefoot.records.inputs import mismatch, salted
from surefoot.records.versions import versions

log = logging.getLogger(__name__)
SCHEMA = 1
UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # certificate trees of older schemas

FILES = ("config.json", "inputs.json", "history.csv", "certificate.json", "verdict.json", "report.html")
FOLDERS = ("evidence", "answer", "figures", "checkpoints", "private")
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "options": dict, "given": dict, "versions": dict, "counts": dict, "preset": str, "status": str, "reason": str,
    "created": str, "ended": str, "device": str, "dtype": str, "seed": (int, str, type(None)),
}  # fmt: skip  # what a reader may rely on where config.json has the entry


def is_run(root: Path) -> bool:
    """Whether a folder is a run of Surefoot, by its config.json (a name that other programs use too)."""
    try:
        tree = read_json(root / "config.json")
    except (OSError, UnsafeFileError):
        return False
    return isinstance(tree, dict) and isinstance(tree.get("card"), str) and isinstance(tree.get("schema"), int)


def half_written(root: Path) -> list[Path]:
    """What a killed run left behind: temporary files and folders beside the names of a run."""
    temporary = [path for name in (*FILES, *FOLDERS) for path in root.glob(f".{name}.*")]
    temporary += [path for name in (*FILES, *FOLDERS) for path in root.glob(f".{name}-old.*")]
    for folder in ("checkpoints", "private", "private/checkpoints", "figures"):
        temporary += (root / folder).glob(".*.*")
    return temporary


def put_back(root: Path) -> None:
    """A folder that was being replaced when the run was killed, between two renames, returns to its place."""
    for name in FOLDERS:
        kept = next((path / "old" for path in root.glob(f".{name}-old.*") if (path / "old").is_dir()), None)
        if kept is not None and not (root / name).exists():
            kept.replace(root / name)


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
            FileExistsError: it exists with content and neither `resume` nor `force` was given, or one of them
                was given for a folder that is not a run (nothing of it is touched).
        """
        root = Path(path)
        if root.exists() and not root.is_dir():
            raise FileExistsError(f"{root} is a file; give a folder for the run")
        content = {p.name for p in root.iterdir()} if root.is_dir() else set[str]()
        foreign = content - {*FILES, *FOLDERS, *(p.name for p in half_written(root))}
        if resume and foreign and not is_run(root):
            raise FileExistsError(f"{root} is not a run of Surefoot, so there is nothing to resume; give another -o")
        if content and not resume:
            if not force:
                raise FileExistsError(
                    f"{root} exists; use --resume to go on with it, --force to replace it, or another -o"
                )
            if not is_run(root):
                raise FileExistsError(
                    f"{root} is not a run of Surefoot, so --force will not delete it; give another -o"
                )
            shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        put_back(root)
        for part in half_written(root):
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
        return cls(root, **more)

    def discard(self) -> None:
        """Remove a fresh run in which nothing was computed (its input was refused), so that its name is free again."""
        if not any((self.root / name).exists() for name in ("inputs.json", "answer", "evidence", "checkpoints")):
            shutil.rmtree(self.root)

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
        for name, kind in TYPES.items():
            if name in self.config and not isinstance(self.config[name], kind):
                raise UnsafeFileError(f"config.json: {name} is {str(self.config[name])[:60]!r}")

    def _tree(self, name: str) -> dict[str, Any]:
        tree = read_json(inside(self.root, name))
        if not isinstance(tree, dict) or not isinstance(tree.get("schema"), int):
            raise UnsafeFileError(f"{name} is not a Surefoot record (no schema)")
        while tree["schema"] < SCHEMA and tree["schema"] in UPGRADES:
            tree = UPGRADES[tree["schema"]](tree)
        if tree["schema"] != SCHEMA:
            stated = tree.get("versions")
            writer = stated.get("surefoot", "another version") if isinstance(stated, dict) else "another version"
            raise OtherSchemaError(
                f"{name} has schema {tree['schema']}, this version reads {SCHEMA}; use surefoot {writer} to read it"
            )
        return tree

    def _rows(self, file: str, key: str, needs: Sequence[str]) -> list[dict[str, Any]]:
        """The list of records under `key`, each with text under the names it `needs`; [] without the file."""
        if not self.has(file):
            return []
        rows = self._tree(file).get(key)
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and all(isinstance(row.get(name), str) for name in needs) for row in rows
        ):
            raise UnsafeFileError(f"{file} holds no list of records with {', '.join(needs)}")
        return rows

    def has(self, name: str) -> bool:
        return inside(self.root, name).exists()

    @property
    def answer_dir(self) -> Path:
        """The answer's folder, once nothing in it is a link, a FIFO or a device."""
        for _ in plain_files(self.root / "answer"):
            pass
        return inside(self.root, "answer")

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        return self._rows("inputs.json", "inputs", ("role", "origin", "sha256"))

    @cached_property
    def history(self) -> dict[str, Any]:
        return read_csv(inside(self.root, "history.csv")) if self.has("history.csv") else {}

    @cached_property
    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts on file. They are part of the folder: whoever wrote it could write any; `verify` judges anew."""
        return self._rows("verdict.json", "verdicts", ("claim", "verdict", "why"))

    @cached_property
    def judged(self) -> dict[str, Any]:
        """When and by which version the verdicts on file were written, and whether this certificate is what they judge."""
        if not self.has("verdict.json"):
            return {}
        tree = self._tree("verdict.json")
        by = tree.get("versions")
        same = tree.get("certificate") in (None, sha256(inside(self.root, "certificate.json")))
        return {
            "when": str(tree.get("when", "")),
            "by": str(by.get("surefoot", "")) if isinstance(by, dict) else "",
            "same": same,
        }

    @cached_property
    def certificate_tree(self) -> dict[str, Any]:
        tree = self._tree("certificate.json")
        kinds = {"claims": list, "files": dict, "fingerprint": str}
        if wrong := [name for name, kind in kinds.items() if not isinstance(tree.get(name), kind)]:
            raise UnsafeFileError(f"certificate.json has no valid {', '.join(wrong)}")
        return tree

    def write_verdicts(self, verdicts: Sequence[Mapping[str, Any]], **how: Any) -> None:
        """Write verdict.json; a run that cannot be written is only warned about, since it is checked all the same."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        judged = sha256(self.root / "certificate.json")
        tree = {
            "schema": SCHEMA,
            "versions": versions(),
            "when": when,
            "certificate": judged,
            **how,
            "verdicts": verdicts,
        }
        try:
            write_json(self.root / "verdict.json", tree)
        except OSError as error:
            log.warning("the verdicts were not written: %s", error)

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
