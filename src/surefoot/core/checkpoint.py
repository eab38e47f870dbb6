"""States on disk: `state.json` (a tree) and `tensors.safetensors` (numbers), in a folder renamed into place.

No pickle and no import path: a state is filled into the template that the method's own `init` made, and
nested records come from the closed list `State.records`.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from surefoot.core.method import State
from surefoot.core.random import Streams
from surefoot.records.files import OtherSchemaError, UnsafeFileError, read_json, sha256, write_folder, write_json
from surefoot.records.trees import pack, unpack

log = logging.getLogger(__name__)
SCHEMA = 1
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Every:
    """When to save: after so many steps or seconds, whichever comes first; `keep` files are kept."""

    steps: int | None = None
    seconds: float | None = 20.0
    keep: int = 2


def save_checkpoint(folder: Path, state: State, extra: Mapping[str, Any], keep: int = 2) -> Path:
    """Save `state` as a folder named after its step, whole or not at all; the last `keep` are kept.

    `extra` is a JSON tree that comes back with the state.
    """
    tensors: dict[str, Tensor] = {}
    known = {record.__name__ for record in state.records}
    tree = {name: pack(getattr(state, name), tensors, known) for name in state.saved_fields() if name != "streams"}
    target = folder / f"{state.k:012d}"
    while target.exists():  # never replaced in place: a kill in between would lose it
        target = target.with_name(f"{target.name}+")

    def fill(fresh: Path) -> None:
        save_file(tensors, fresh / "tensors.safetensors")
        write_json(fresh / "state.json", {
            "schema": SCHEMA, "class": type(state).__name__, "seed": state.streams.seed, "fields": tree,
            "extra": extra, "tensors": sha256(fresh / "tensors.safetensors"),
        })  # fmt: skip

    write_folder(target, fill)
    for old in saved(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def saved(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load_checkpoint(folder: Path, template: S) -> tuple[S, dict[str, Any]] | None:
    """The newest whole checkpoint filled into `template`, and its `extra`; None where there is none.

    Raises:
        UnsafeFileError: the newest whole checkpoint is of another method or of a newer schema.
    """
    for path in reversed(saved(folder)):
        try:
            tree = read_json(path / "state.json")
            if (schema := int(tree["schema"])) > SCHEMA:
                raise OtherSchemaError(f"{path} was written by a newer Surefoot (schema {schema}); update to resume it")
            if sha256(path / "tensors.safetensors") != tree["tensors"]:
                raise OSError("its tensors do not match its state")
            tensors = load_file(path / "tensors.safetensors")
        except OtherSchemaError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.warning("checkpoint %s is not whole (%s); trying the one before", path, error)
            continue
        if tree["class"] != type(template).__name__:
            raise UnsafeFileError(
                f"{path} holds a {tree['class']}, but this method's state is a {type(template).__name__}"
            )
        records = {record.__name__: record for record in template.records}
        fields = {name: unpack(value, tensors, records) for name, value in tree["fields"].items()}
        if set(fields) != set(template.saved_fields()) - {"streams"}:
            raise UnsafeFileError(f"{path} has other fields than this version's {type(template).__name__}")
        fresh = {f.name: None for f in dataclasses.fields(template) if f.metadata.get("transient")}
        return dataclasses.replace(template, streams=Streams(tree["seed"]), **fields, **fresh), tree["extra"]
    return None
