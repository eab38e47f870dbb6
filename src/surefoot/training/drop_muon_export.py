"""The answer of a Drop-Muon run: the weights as safetensors, under the module's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from surefoot.records.files import UnsafeFileError, regular, write_bytes

__all__ = ["read_weights", "write_weights"]


def write_weights(answer: Any, problem: Any, folder: Path) -> None:
    """`weights.safetensors`; tied weights are written under each of their names."""
    write_bytes(
        folder / "weights.safetensors",
        save({name: v.detach().cpu().contiguous().clone() for name, v in answer.items()}),
    )


def read_weights(folder: Path) -> Any:
    """The weights by name.

    Raises:
        UnsafeFileError: the file is not what it should be.
    """
    try:
        return load_file(regular(folder / "weights.safetensors"))
    except SafetensorError as error:
        raise UnsafeFileError(f"weights.safetensors is not readable: {error}") from error
