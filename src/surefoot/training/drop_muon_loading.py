"""Data and networks of Drop-Muon's card: digits, images or text from files, a network of the package or a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.core.system import Inputs, Sample
from surefoot.data.digits import mnist_5000, small_digits
from surefoot.data.images import read_images
from surefoot.data.samples import at_hand
from surefoot.records.files import UnsafeFileError, regular
from surefoot.records.fingerprint import fingerprint
from surefoot.training.drop_muon_problem import LeastSquares, MuonTask, least_squares
from surefoot.training.muon_networks import build

if TYPE_CHECKING:
    from surefoot.training.drop_muon_card import Options

TEXT = (".txt", ".md", ".text")
LARGEST_TEXT = 64 << 20
Array = np.ndarray[Any, np.dtype[Any]]


def load_problem(options: Options, inputs: Inputs, sample: Sample, fallback: Sample) -> MuonTask | LeastSquares:
    """The problem of the card's options and inputs.

    Raises:
        ValueError: data without labels, with one class, or that do not fit the network.
    """
    if options.problem == "least-squares":
        problem = least_squares(options.depth + 1, options.network_seed)
        made = Sample("least-squares", "Random matrix least squares", "generated", "Apache-2.0", "Surefoot")
        inputs.sample(made, sha256=problem.fingerprint())
        return problem
    if inputs.has("data"):
        path = inputs.path("data")
        if path.suffix.lower() in TEXT:
            return _language(options, inputs, path)
        table = read_images(path)
        if table.labels is None:
            raise ValueError(f"{path.name} has images but no labels; add an array 'labels', or one folder a class")
        return _task(options, inputs, table.values, table.labels, max(1, 4 * len(table.values) // 5), shuffled=False)
    digits, note, chosen = _digits(inputs, sample, fallback)
    task = _task(options, inputs, digits.images, digits.labels, digits.train, shuffled=True)
    if digits.source is not None and chosen is sample:
        inputs.sample(chosen, sha256=digits.source.sha256, **digits.source.record())
    else:
        inputs.sample(chosen, sha256=fingerprint(digits.images, digits.labels), note=note)
    return task


def _digits(inputs: Inputs, sample: Sample, fallback: Sample) -> tuple[Any, str, Sample]:
    return at_hand(inputs, sample, lambda: (mnist_5000(), "", sample), lambda note: (small_digits(), note, fallback))


def _task(options: Options, inputs: Inputs, x: Array, y: Array, train: int, *, shuffled: bool) -> MuonTask:
    if not shuffled:
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
    if len(x) < 2:
        raise ValueError(f"{len(x)} samples; expected some to train on and some to test with")
    if y.min() < 0:
        raise ValueError(f"labels start at {y.min()}; expected classes 0, 1, ...")
    images, labels = torch.from_numpy(np.ascontiguousarray(x)).float(), torch.from_numpy(y.astype(np.int64))
    classes = int(labels.max()) + 1
    return _with_network(options, inputs, images, labels, classes, train)


def _language(options: Options, inputs: Inputs, path: Any) -> MuonTask:
    raw = regular(path).read_bytes()
    if len(raw) > LARGEST_TEXT:
        raise UnsafeFileError(f"{path.name} has {len(raw)} bytes; at most {LARGEST_TEXT} are read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnsafeFileError(f"{path.name} is not UTF-8: {error}") from error
    length = options.context
    if len(text) < 20 * (length + 1):
        raise ValueError(
            f"{path.name} has {len(text)} characters; a context of {length} needs at least {20 * (length + 1)}"
        )
    letters = sorted(set(text))
    codes = _codes(text, letters)
    windows = codes[: len(codes) - len(codes) % (length + 1)].reshape(-1, length + 1)
    return _with_network(
        options, inputs, windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), len(letters), 9 * len(windows) // 10
    )


def _codes(text: str, letters: list[str]) -> torch.Tensor:
    place = {c: i for i, c in enumerate(letters)}
    return torch.tensor([place[c] for c in text])


def _with_network(
    options: Options, inputs: Inputs, x: torch.Tensor, y: torch.Tensor, classes: int, train: int
) -> MuonTask:
    identity: dict[str, object] = {"classes": classes}
    layers = None
    if inputs.has("model"):
        factory = inputs.factory("model")
        identity |= {"recipe": "user's", "seed": options.network_seed}

        def make() -> torch.nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(options.network_seed)
                return factory()

        model = make()
        if not isinstance(model, torch.nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] - it is the user's
            raise ValueError(f"the recipe returned a {type(model).__name__}; expected a torch.nn.Module")
        try:
            out = model.eval()(x[:2])
        except Exception as error:  # whatever the user's own code raises
            raise ValueError(
                f"the model does not take inputs of shape {tuple(x[:2].shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(out, torch.Tensor) or out.ndim < 2:
            raise ValueError(
                f"the model returned {type(out).__name__}; expected a tensor of logits {(*y[:2].shape, classes)}"
            )
        if out.shape[:-1] != y[:2].shape or out.shape[-1] < classes:
            raise ValueError(
                f"the model gives {tuple(out.shape)} for two samples; expected {(*y[:2].shape, classes)} logits"
            )
        _check_reached(model, out)
    else:
        network = "transformer" if y.ndim > 1 else options.network
        if y.ndim == 1 and network == "transformer":
            raise ValueError(
                "the transformer of the package reads text; give a .txt file, or take --network cnn or mlp"
            )
        identity |= {"network": network, "width": options.width, "depth": options.depth, "seed": options.network_seed}

        def make() -> torch.nn.Module:
            return build(network, x, classes, options.width, options.depth, options.network_seed)

        make()
        if network == "transformer":
            layers = _blocks
    return MuonTask(make, x[:train], y[:train], x[train:], y[train:], identity, layers)


def _check_reached(model: torch.nn.Module, out: torch.Tensor) -> None:
    """Every trainable parameter must get a gradient: a layer that the loss does not reach cannot be drawn."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise ValueError("no parameter of the model requires a gradient; call requires_grad_() on those to be trained")
    found = [None] * len(named)
    if out.requires_grad:
        found = torch.autograd.grad(out.float().square().sum(), [p for _, p in named], allow_unused=True)
    idle = [name for (name, _), g in zip(named, found, strict=True) if g is None]
    if idle:
        shown = ", ".join(idle[:6]) + (" ..." if len(idle) > 6 else "")
        raise ValueError(
            f"the loss does not reach the parameters {shown}: they get no gradient. Call requires_grad_(False) on them, or use them"
        )


def _blocks(model: Any) -> list[torch.nn.Module]:
    return model.blocks()
