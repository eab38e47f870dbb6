"""A user's network, data loader and loss, from an importable function; answers in and out."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from surefoot.core.random import Streams
from surefoot.core.system import Inputs
from surefoot.records.files import UnsafeFileError, regular, sha256, write_bytes
from surefoot.training.spectral_problem import Rates

__all__ = ["from_recipe", "load_weights", "materialise", "read_rates", "write_rates"]


def from_recipe(inputs: Inputs, *, rows: int) -> tuple[nn.Module, Tensor, Tensor, Any, int]:
    """The model in eval mode, rows of its data, the loss and N from the recipe in the role `case`.

    The recipe ``module:factory`` names a function without arguments that returns ``(model, data)`` or ``(model, data, loss)``: data is a
    DataLoader, a data set of (input, target) pairs, or a pair of tensors; the loss is described at `row_losses` (default cross-entropy).
    Weights from ``.safetensors`` or ``.pt`` are loaded where given.

    Args:
        rows: at most so many rows, drawn at random; 0 takes all.

    Raises:
        UnsafeFileError: code that is not trusted.
        ValueError: the factory returns something else.
    """
    try:
        factory = inputs.factory("case")
    except AttributeError as error:
        raise ValueError(f"the recipe's module has no such function: {error}") from error
    record = inputs.records[-1]
    place = inspect.getsourcefile(inspect.unwrap(factory))  # the code's own file counts as the input
    if place is not None and Path(place).is_file():
        record["sha256"] = sha256(Path(place))
    made = factory()
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise ValueError(
            f"the recipe {record['path']} returned {type(made).__name__}; expected (model, data) or (model, data, loss) with a torch module first"
        )
    model = made[0]
    if inputs.has("weights"):
        try:
            model.load_state_dict(load_weights(inputs.path("weights")))
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the recipe {record['path']}: {error}") from error
    x, y, population = materialise(made[1], rows)
    device = torch.device(inputs.device)
    return (
        model.to(device).eval(),
        x.to(device),
        y.to(device),
        made[2] if len(made) == 3 else "cross-entropy",
        population,
    )


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors``, or from a ``.pt`` file that holds nothing but tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(regular(path))
        except SafetensorError as error:
            raise UnsafeFileError(f"{path.name} is not a safetensors file: {error}") from error
    try:
        found: Any = torch.load(regular(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises a dozen kinds on a stranger's bytes
        raise UnsafeFileError(f"{path.name} is not a file of plain weights: {type(error).__name__}: {error}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UnsafeFileError(f"{path.name} holds no state dict of tensors")
    return found


def materialise(data: Any, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """Inputs (n, ...), targets (n, ...) and the size N of the data they come from.

    Args:
        data: a DataLoader (its data set is read by index, not in its order), a map-style data set, or a pair of tensors.
        rows: at most so many, a random part; 0 takes all.

    Raises:
        ValueError: data without a length, or items that are no (input, target) pair, or that change from one reading to the next.
    """
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
        chosen = _chosen(len(data[0]), rows, seed)
        return data[0][chosen], data[1][chosen], len(data[0])
    collate: Any = default_collate
    if isinstance(data, DataLoader):
        collate, data = data.collate_fn, data.dataset
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ValueError(
            f"the data are a {type(data).__name__} without length or index; give a DataLoader over a map-style data set"
        )
    chosen = _chosen(len(data), rows, seed).tolist()
    pieces = [_pair(collate([data[i] for i in chosen[s : s + 256]])) for s in range(0, len(chosen), 256)]
    again = _pair(collate([data[chosen[0]]]))
    if not torch.equal(again[0][0], pieces[0][0][0]):
        raise ValueError(
            "the first item differs when it is read again: turn random augmentation off for measuring curvature"
        )
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]), len(data)


def _chosen(total: int, rows: int, seed: int) -> Tensor:
    if not rows or rows >= total:
        return torch.arange(total)
    return torch.from_numpy(np.sort(Streams(seed).numpy("rows", total).choice(total, rows, replace=False)))


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(t, Tensor) for t in batch):
        raise ValueError(
            f"a batch of the data is a {type(batch).__name__}; expected a pair of tensors (inputs, targets)"
        )
    return batch[0], batch[1]


def write_rates(path: Path, rates: Rates) -> None:
    """rates.csv: a row a batch size, floats in full."""
    columns = rates.to_dict()
    lines = [",".join(columns)]
    lines += [",".join(repr(v.item()) for v in row) for row in zip(*columns.values(), strict=True)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_rates(path: Path) -> Rates:
    """The table again.

    Raises:
        UnsafeFileError: other columns, or cells that are no numbers.
    """
    lines = regular(path).read_text().splitlines()
    names = list(Rates.__dataclass_fields__)
    if not lines or lines[0].split(",") != names:
        raise UnsafeFileError(f"{path.name} has not the columns {', '.join(names)}")
    try:
        cells = [[float(c) for c in line.split(",")] for line in lines[1:]]
        columns = dict(zip(names, np.array(cells).T, strict=True))
    except ValueError as error:
        raise UnsafeFileError(f"{path.name} holds a cell that is no number, or a short row") from error
    return Rates(
        **{
            **columns,
            "batch": columns["batch"].astype(np.int64) if np.isfinite(columns["batch"]).all() else columns["batch"],
        }
    )
