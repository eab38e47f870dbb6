"""Rows of data as tensors, tuples or dicts of tensors, and networks that are called with them.

A model gets a tensor as its argument, a tuple as its arguments and a dict as its named arguments; of what it returns, the tensor counts, or the
`logits` of an output record, or the first of a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import func as functorch

from surefoot.numerics.autodiff import Flattened

__all__ = ["Network", "count", "everywhere", "joined", "leaves", "output_of", "split_batch", "take", "threads_for"]

SMALL = 100_000  # parameters
LABELS = ("labels", "label", "targets", "target")  # the names of a dict batch's targets, the first that is there


def everywhere(function: Callable[[Tensor], Tensor], rows: Any) -> Any:
    """The same structure with a function applied to every tensor.

    Raises:
        ValueError: something that is neither tensor, tuple, list nor mapping.
    """
    if isinstance(rows, Tensor):
        return function(rows)
    if isinstance(rows, tuple | list):
        return tuple(everywhere(function, part) for part in rows)
    if isinstance(rows, Mapping):
        return {str(name): everywhere(function, part) for name, part in rows.items()}
    raise ValueError(f"a batch holds a {type(rows).__name__}; expected tensors, or tuples or dicts of tensors")


def leaves(rows: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors with their names, in order."""
    if isinstance(rows, Tensor):
        yield name, rows
    else:
        for key, part in rows.items() if isinstance(rows, Mapping) else enumerate(rows):
            yield from leaves(part, f"{name}[{key!r}]")


def count(rows: Any) -> int:
    """How many rows: the common length of the tensors.

    Raises:
        ValueError: no tensor, or tensors of different lengths.
    """
    lengths = {name: len(t) if t.ndim else 0 for name, t in leaves(rows)}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name or 'tensor'}: {n}" for name, n in lengths.items()) or "none"
        raise ValueError(f"the tensors of a batch have different numbers of rows ({said}); expected one row a sample")
    return next(iter(lengths.values()))


def take(rows: Any, chosen: Any) -> Any:
    """Some of the rows: a slice, or row numbers."""
    return everywhere(lambda t: t[chosen.to(t.device) if isinstance(chosen, Tensor) else chosen], rows)


def joined(pieces: list[Any]) -> Any:
    """Batches one after another.

    Raises:
        ValueError: batches of different shapes (padding that changes from batch to batch), or structures.
    """
    first = pieces[0]
    if isinstance(first, Tensor):
        if len({piece.shape[1:] for piece in pieces}) > 1:
            shapes = sorted({tuple(piece.shape[1:]) for piece in pieces})
            raise ValueError(
                f"rows have different shapes from batch to batch ({', '.join(map(str, shapes[:3]))}); pad all to one length"
            )
        return torch.cat(pieces)
    if isinstance(first, Mapping):
        if any(set(piece) != set(first) for piece in pieces):
            raise ValueError("batches have different names; expected the same dict from every batch")
        return {name: joined([piece[name] for piece in pieces]) for name in first}
    return tuple(joined([piece[i] for piece in pieces]) for i in range(len(first)))


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a loader's batch.

    A pair is (inputs, targets); a longer tuple has its targets last; a dict has them under "labels", "label", "targets" or "target", and
    the rest are the model's named arguments. Other batches need a function of your own.

    Raises:
        ValueError: a batch of another kind.
    """
    if isinstance(batch, Mapping):
        name = next((k for k in LABELS if k in batch), None)
        if name is None or len(batch) < 2:
            raise ValueError(
                f"a batch of the data is a dict of {', '.join(map(repr, batch)) or 'nothing'}; expected inputs and one of {', '.join(LABELS)}, "
                "or a function batch -> (inputs, targets) as the recipe's fourth value"
            )
        return {str(k): v for k, v in batch.items() if k != name}, batch[name]
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0] if len(batch) == 2 else tuple(batch[:-1]), batch[-1]
    raise ValueError(
        f"a batch of the data is a {type(batch).__name__}; expected (inputs, targets), a dict with labels, or a function batch -> (inputs, targets) as "
        "the recipe's fourth value"
    )


def output_of(returned: Any) -> Tensor:
    """The tensor of outputs in what a model returned.

    Raises:
        ValueError: there is none.
    """
    found = returned
    if not isinstance(found, Tensor):
        found = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", found)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the model returned {type(returned).__name__}; expected a tensor with one row an input, a record with `logits`, or a tuple that begins with one"
        )
    return found


def threads_for(parameters: int) -> int:
    """How many threads torch should use for a network: one for a small one, whose products are over before several have met."""
    return 1 if parameters <= SMALL else torch.get_num_threads()


class Network(Flattened):
    """A module as a function of one flat vector of parameters and of rows.

    Example:
        >>> network = Network(torch.nn.Linear(2, 1))
        >>> network(network.vector(), torch.ones(5, 2)).shape
        torch.Size([5, 1])
    """

    def __call__(self, vector: Tensor, *inputs: Any) -> Tensor:
        """The outputs (n, ...) of these rows at these parameters."""
        (rows,) = inputs
        return self.at(self.split(vector), rows)

    def at(self, parameters: Mapping[str, Tensor], rows: Any) -> Tensor:
        """The outputs (n, ...) of these rows at parameters by name."""
        arguments = rows if isinstance(rows, tuple) else () if isinstance(rows, Mapping) else (rows,)
        named = dict(rows) if isinstance(rows, Mapping) else {}
        return output_of(functorch.functional_call(self.module, dict(parameters), arguments, named))
