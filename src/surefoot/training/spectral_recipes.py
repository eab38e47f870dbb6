"""A user's network, data loader and loss, from an importable function; answers in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from surefoot.core.random import Streams
from surefoot.core.system import Inputs
from surefoot.records.files import UnsafeFileError, regular, write_bytes
from surefoot.training.spectral_problem import Rates
from surefoot.training.spectral_rows import count, everywhere, joined, leaves, split_batch, take

__all__ = ["Recipe", "from_recipe", "load_weights", "materialise", "read_rates", "write_rates"]

Split = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Recipe:
    """What a recipe gave: the model in eval mode, rows of its data, the loss, and the size N of the data."""

    model: nn.Module
    inputs: Any
    targets: Any
    criterion: Any
    population: int


def from_recipe(inputs: Inputs, *, rows: int, read: int = 0) -> Recipe:
    """Model, rows, loss and N from the recipe in the role `case`.

    The recipe ``module:factory`` names a function without arguments that returns ``(model, data)``, ``(model, data, loss)`` or ``(model, data, loss, split)``:
    data as described at `materialise`; the loss at `row_losses` (None: cross-entropy); ``split`` takes a batch of the data and returns (inputs, targets), by
    default `split_batch`. Weights from ``.safetensors`` or ``.pt`` are loaded where given.

    Args:
        rows: at most so many rows, drawn at random; 0 takes all.
        read: at most so many rows are read of data without an index; 0 reads to their end.

    Raises:
        UnsafeFileError: code that is not trusted.
        ValueError: the factory fails, or returns something else.
    """
    factory = inputs.factory("case")
    record = inputs.records[-1]
    try:
        with torch.random.fork_rng(devices=[]):  # a fresh network is the same again in a check
            torch.manual_seed(0)
            made = factory()
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"the recipe {record['path']} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) not in (2, 3, 4) or not isinstance(made[0], nn.Module):
        raise ValueError(
            f"the recipe {record['path']} returned {type(made).__name__}; expected (model, data), (model, data, loss) or (model, data, loss, split) "
            "with a torch module first"
        )
    model = made[0]
    if inputs.has("weights"):
        try:
            model.load_state_dict(load_weights(inputs.path("weights")))
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the recipe {record['path']}: {error}") from error
    split = made[3] if len(made) == 4 else split_batch
    x, y, population = materialise(made[1], rows, split=split, read=read)
    device = torch.device(inputs.device)
    x, y = (everywhere(lambda t: t.to(device), part) for part in (x, y))
    criterion = "cross-entropy" if len(made) < 3 or made[2] is None else made[2]
    return Recipe(model.to(device).eval(), x, y, criterion, population)


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


def materialise(
    data: Any, rows: int, seed: int = 0, *, split: Split = split_batch, read: int = 0
) -> tuple[Any, Any, int]:
    """Inputs (n, ...), targets (n, ...) and the size N of the data they come from; only the rows chosen are ever held in memory.

    Args:
        data: a DataLoader over a map-style data set, or the data set (read by index, not in the loader's order); a loader, or any other iterable, of batches
            without an index (read once from its beginning, of which a random part is kept); or a pair (inputs, targets) of tensors, or of tuples or dicts of tensors.
        rows: at most so many, a random part; 0 takes all.
        split: batch -> (inputs, targets), where `split_batch` does not do.
        read: of data without an index, at most so many rows are read; 0 reads to their end.

    Raises:
        ValueError: batches that are not understood, data that change from one reading to the next, rows of different shapes.
    """
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(t, Tensor | Mapping | tuple) for t in data):
        chosen = _chosen(count(data[0]), rows, seed)
        return take(data[0], chosen), take(data[1], chosen), count(data[0])
    collate: Any = default_collate
    stream = data
    if isinstance(data, DataLoader):
        collate, data = data.collate_fn, data.dataset
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        if not hasattr(stream, "__iter__"):
            raise ValueError(
                f"the data are a {type(data).__name__}, neither indexed nor iterable; give a DataLoader, a data set or a pair of tensors"
            )
        return _from_stream(stream, rows, seed, split, read)
    chosen = _chosen(len(data), rows, seed).tolist()
    if not chosen:
        raise ValueError("the data are empty")

    def batch(places: list[int]) -> tuple[Any, Any]:
        return _split(split, collate([data[i] for i in places]))

    pieces = [batch(chosen[s : s + 256]) for s in range(0, len(chosen), 256)]
    again = batch(chosen[:1])
    for (_, first), (_, second) in zip(leaves(pieces[0][0]), leaves(again[0]), strict=True):
        if first[0].shape == second[0].shape and not torch.equal(first[0], second[0]):
            raise ValueError(
                "the first item differs when it is read again: turn random augmentation off for measuring curvature"
            )
    return joined([p[0] for p in pieces]), joined([p[1] for p in pieces]), len(data)


def _split(split: Split, batch: Any) -> tuple[Any, Any]:
    found = split(batch)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(
            f"the function that splits a batch returned {type(found).__name__}; expected (inputs, targets)"
        )
    x, y = (everywhere(lambda t: t, part) for part in found)
    if count(x) != count(y):
        raise ValueError(f"a batch has {count(x)} inputs and {count(y)} targets; expected as many")
    return x, y


def _from_stream(stream: Any, rows: int, seed: int, split: Split, read: int) -> tuple[Any, Any, int]:
    """Every row gets a random key as it goes by; those with the smallest keys are kept, in their order: a uniform sample of any length."""
    generator, total = Streams(seed).numpy("stream"), 0
    kept: Any = None
    keys = np.empty(0)
    for batch in stream:
        x, y = _split(split, batch)
        new = count(x) if not read else min(count(x), read - total)
        both = take((x, y), slice(0, new))
        kept = both if kept is None else joined([kept, both])
        keys, total = np.concatenate([keys, generator.random(new)]), total + new
        if rows and len(keys) > rows:
            chosen = np.sort(np.argpartition(keys, rows)[:rows])
            kept, keys = take(kept, torch.from_numpy(chosen)), keys[chosen]
        if read and total >= read:
            break
    if kept is None:
        raise ValueError("the data gave no batch")
    return kept[0], kept[1], total


def _chosen(total: int, rows: int, seed: int) -> Tensor:
    if not rows or rows >= total:
        return torch.arange(total)
    return torch.from_numpy(np.sort(Streams(seed).numpy("rows", total).choice(total, rows, replace=False)))


def write_rates(folder: Path, rates: Rates) -> None:
    """rates.csv, a row a batch size, and scales.csv, how a rate moves from the smallest one to the others; floats in full."""
    _write_table(folder / "rates.csv", rates.to_dict())
    _write_table(folder / "scales.csv", scales(rates))


def scales(rates: Rates) -> dict[str, np.ndarray]:
    """By what factor a rate moves from the smallest batch size to the others.

    Columns: ``batch``; ``sgd``, the ratio of predicted eigenvalues ``lam(B_0) / lam(B)``, and the ``linear`` rule ``B / B_0`` that it
    follows while noise dominates; ``adam``, its square root, and the ``square_root`` rule.
    """
    curvature = rates.predicted[0] / rates.predicted
    plain = rates.batch / rates.batch[0]
    return {
        "batch": rates.batch,
        "sgd": curvature,
        "linear": plain,
        "adam": np.sqrt(curvature),
        "square_root": np.sqrt(plain),
    }


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    lines = [",".join(columns)]
    lines += [",".join(repr(v.item()) for v in row) for row in zip(*columns.values(), strict=True)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_rates(folder: Path) -> Rates:
    """The table again.

    Raises:
        UnsafeFileError: other columns, cells that are no numbers, or factors that do not follow from the rates.
    """
    columns = _read_table(folder / "rates.csv", list(Rates.__dataclass_fields__))
    batch = columns["batch"]
    rates = Rates(**{**columns, "batch": batch.astype(np.int64) if np.isfinite(batch).all() else batch})
    with np.errstate(all="ignore"):
        due = scales(rates)
    written = _read_table(folder / "scales.csv", list(due))
    if not all(np.array_equal(written[name], due[name], equal_nan=True) for name in due):
        raise UnsafeFileError("scales.csv does not follow from rates.csv")
    return rates


def _read_table(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    lines = regular(path).read_text().splitlines()
    if not lines or lines[0].split(",") != names:
        raise UnsafeFileError(f"{path.name} has not the columns {', '.join(names)}")
    try:
        cells = [[float(c) for c in line.split(",")] for line in lines[1:]]
        return dict(zip(names, np.array(cells).T, strict=True))
    except ValueError as error:
        raise UnsafeFileError(f"{path.name} holds a cell that is no number, or a short row") from error
