"""Samples that are read where they are: inside another package's folder, without importing it, or in the data collection; never copied."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from surefoot.records.files import sha256
from surefoot.records.inputs import Inputs, Sample

log = logging.getLogger(__name__)
DIGITS = 16
T = TypeVar("T")


class SampleMissingError(LookupError):
    """The package that holds a sample is not installed, or no longer holds it; the text says what to install."""


@dataclass(frozen=True)
class PackagedFile:
    """A file found inside an installed package.

    Attributes:
        path: where it is.
        distribution, version: what was installed.
        sha256: of the file as found.
        note: "" if the file is the one that was examined, otherwise what differs.
    """

    path: Path
    distribution: str
    version: str
    sha256: str
    note: str = ""

    def record(self) -> dict[str, Any]:
        """Entries for `Inputs.sample`, the digest apart."""
        return {
            "path": str(self.path),
            "distribution": self.distribution,
            "version": self.version,
            "bytes": self.path.stat().st_size,
            "note": self.note,
        }


def at_hand(inputs: Inputs, sample: Sample, first: Callable[[], T], second: Callable[[str], T]) -> T:
    """What the first sample gives, or, where its package is missing, the fallback, with a warning; a verification takes the one that was used.

    Args:
        first: reads `sample` and records it in `inputs`.
        second: reads `sample.fallback` and records it; takes the note to record with it ("" or why the first is missing).

    Raises:
        FileNotFoundError: a verification needs the first and its package is missing.
    """
    assert sample.fallback is not None
    if inputs.only == sample.fallback.id:
        return second("")
    try:
        return first()
    except SampleMissingError as error:
        if inputs.only == sample.id:
            raise FileNotFoundError(str(error)) from error
        log.warning("fallback sample: %s", error)
        return second(str(error))


def collected(inside: str) -> Path:
    """A file or folder of the data collection, which lies where SUREFOOT_DATA says.

    Raises:
        SampleMissingError: the variable is not set, or names a folder without it.
    """
    folder = os.environ.get("SUREFOOT_DATA")
    if not folder:
        raise SampleMissingError("SUREFOOT_DATA is not set: the data collection is not at hand")
    path = Path(folder) / inside
    if not path.exists():
        raise SampleMissingError(f"the data collection in SUREFOOT_DATA has no {inside}")
    return path


def packaged(top_level_name: str, inside: str, *, digest: str, distribution: str = "", extra: str = "") -> PackagedFile:
    """A file that an installed package carries, found without importing the package.

    Args:
        top_level_name: the package's import name.
        inside: path below the package's folder, with forward slashes.
        digest: first 16 hexadecimal digits of the SHA-256 of the file as it was examined. Other bytes (another version) are a
            warning and a note, not an error.
        distribution: its name on the package index, where that differs from the import name.
        extra: the extra of Surefoot that brings it.

    Raises:
        SampleMissingError: not installed, or the file is not there.
        ValueError: `inside` is not a plain relative path.
    """
    parts = Path(inside)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"the path {inside!r} is not a plain path below the package")
    name = distribution or top_level_name
    install = f"pip install 'surefoot[{extra}]'" if extra else f"pip install {name}"
    spec = importlib.util.find_spec(top_level_name)
    if spec is None or not spec.submodule_search_locations:
        raise SampleMissingError(f"the sample is part of the package {name}, which is not installed: {install}")
    path = Path(spec.submodule_search_locations[0]) / parts
    if not path.is_file():
        raise SampleMissingError(f"the installed {name} has no file {inside}; another version has it: {install}")
    found = sha256(path)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    note = ""
    if found[:DIGITS] != digest[:DIGITS]:
        note = (
            f"{name} {version} carries other bytes than the version examined ({found[:DIGITS]}, not {digest[:DIGITS]})"
        )
        log.warning("sample %s: %s; results may differ from the documented ones", inside, note)
    return PackagedFile(path, name, version, found, note)
