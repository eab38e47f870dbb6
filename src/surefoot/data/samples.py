"""Samples that are read where they are installed: inside another package's folder, without importing it, never copied."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surefoot.records.files import sha256

log = logging.getLogger(__name__)
DIGITS = 16


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
