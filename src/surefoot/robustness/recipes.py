"""A user's own model as a `Classifier`: a recipe with weights, an exported program, an ONNX file, or a network of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from surefoot.core.problem import Constant
from surefoot.core.system import Inputs
from surefoot.data.images import ImageTable, read_images
from surefoot.records.files import UnsafeFileError, regular, sha256
from surefoot.robustness.networks import load_network
from surefoot.robustness.problem import Classifier, LabelledImages

__all__ = ["load_classifier", "load_images", "load_weights"]

FORMATS = (".safetensors", ".pt2", ".onnx")
# layers that train mode makes random or dependent on the batch
MODAL = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.BatchNorm1d,
    nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
)  # fmt: skip


def load_images(inputs: Inputs, role: str = "images") -> tuple[LabelledImages, ImageTable]:
    """The images of an input, with the table they were read from."""
    table = read_images(inputs.path(role))
    return LabelledImages(torch.from_numpy(table.values), table.labels, table.names), table


def load_classifier(
    inputs: Inputs, images: Tensor, *, sigma: float, model: str = "model", weights: str = "weights",
    lipschitz: float = 0.0, allow_train_mode: bool = False,
) -> Classifier:  # fmt: skip
    """The classifier that the inputs `model` and `weights` describe.

    - a recipe ``module:factory`` whose factory returns a `torch.nn.Module` (or a callable, or a whole `Classifier`), with weights
      from ``.safetensors`` or ``.pt`` where given; with dropout or normalisation by the
      batch in train mode it is refused unless `allow_train_mode`;
    - ``.pt2``, a torch exported program with a free batch size;
    - ``.onnx``, run by onnxruntime (extra `onnx`); not differentiable;
    - ``.safetensors`` written by `surefoot.robustness.networks.save_network`.

    Recipes and exported programs are code: they are loaded only where the inputs are trusted.

    Args:
        images: a few images (n, *shape), to find the shape and the number of classes.
        sigma: of the smoothing noise.
        lipschitz: a declared Lipschitz constant of the logits; 0 for none.

    Raises:
        UnsafeFileError: code that is not trusted, or a file that is not what it says.
        ValueError: the model does not take these images.
    """
    shape = tuple(images.shape[1:])
    device = inputs.device
    dtype = getattr(torch, inputs.dtype) if inputs.dtype else torch.float32
    identity: dict[str, object] | None = None
    differentiable = True
    if inputs.is_recipe(model):
        function = _from_recipe(inputs, model, weights)
        if isinstance(function, Classifier):
            return function
        if not isinstance(function, nn.Module):
            identity = {"recipe": inputs.records[-1]["path"], "source": inputs.records[-1]["sha256"]}
    else:
        path = inputs.path(model)
        suffix = path.suffix.lower()
        if suffix == ".safetensors":
            function = load_network(path)
            if function is None:
                raise ValueError(
                    f"{path.name} holds weights but names no architecture; give a recipe module:factory as the model and the "
                    "weights as the last input"
                )
        elif suffix == ".pt2":
            function = _exported(inputs, path, model)
            identity = {"exported": sha256(path)}
        elif suffix == ".onnx":
            function, differentiable = _onnx(path), False
            identity = {"onnx": sha256(path)}
        else:
            raise ValueError(
                f"{path.name}: expected a recipe module:factory, or a model as {', '.join(FORMATS)} (weights alone need a recipe)"
            )
    if isinstance(function, nn.Module):
        function = function.to(device=device, dtype=dtype)
        if not any(m.training and isinstance(m, MODAL) for m in function.modules()):
            function = (
                function.eval()
            )  # nothing random or batched in it; else the classifier refuses train mode by name
    known = Constant(lipschitz, "declared", "given by the user") if lipschitz else None
    return Classifier(
        function, shape, _classes(function, images, device, dtype), sigma, lipschitz=known, device=device, dtype=dtype,
        differentiable=differentiable, allow_train_mode=allow_train_mode, identity=identity,
    )  # fmt: skip


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors``, or from a ``.pt`` file that holds nothing but tensors.

    Raises:
        UnsafeFileError: something else, or a pickle that would run code.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(regular(path))
        except SafetensorError as error:
            raise UnsafeFileError(f"{path.name} is not a safetensors file: {error}") from error
    try:
        found: Any = torch.load(regular(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (
        Exception
    ) as error:  # torch raises a dozen kinds on a stranger's bytes; what is no plain state dict is refused
        raise UnsafeFileError(f"{path.name} is not a file of plain weights: {type(error).__name__}: {error}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UnsafeFileError(f"{path.name} holds no state dict of tensors")
    return found


def _from_recipe(inputs: Inputs, model: str, weights: str) -> Any:
    factory = inputs.factory(model)
    record = inputs.records[-1]
    made: Any = factory()
    if isinstance(made, nn.Module) and inputs.has(weights):
        try:
            made.load_state_dict(load_weights(inputs.path(weights)))
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the recipe {record['path']}: {error}") from error
    elif inputs.has(weights):
        raise ValueError(f"the recipe {record['path']} returned a {type(made).__name__}; weights need a torch module")
    if not callable(made) and not isinstance(made, Classifier):
        raise ValueError(f"the recipe {record['path']} returned a {type(made).__name__}; expected a torch module")
    inputs.records.append(inputs.records.pop(inputs.records.index(record)))  # last, where its identity is read
    return made


def _exported(inputs: Inputs, path: Path, role: str) -> Callable[[Tensor], Tensor]:
    if not inputs.trust:
        raise UnsafeFileError(
            f"input {role!r} is the exported program {path.name}; it is loaded only by `run` or `verify --trust`"
        )
    try:
        program = torch.export.load(regular(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # the archive reader raises many kinds
        raise UnsafeFileError(
            f"{path.name} is not a torch exported program: {type(error).__name__}: {error}"
        ) from error
    if inputs.device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, inputs.device)
    module = program.module()
    return lambda images: module(images)  # frozen in the mode it was exported in; it refuses eval()


def _onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX models need onnxruntime: pip install 'surefoot[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = [
        p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
    ]
    try:
        session = onnxruntime.InferenceSession(str(regular(path)), options, providers=providers)
    except FileNotFoundError:
        raise
    except Exception as error:  # onnxruntime raises its own kinds
        raise UnsafeFileError(f"{path.name} is not a readable ONNX model: {error}") from error
    name = session.get_inputs()[0].name

    def forward(images: Tensor) -> Tensor:
        output: Any = session.run(None, {name: np.ascontiguousarray(images.detach().cpu().numpy())})[0]
        return torch.from_numpy(np.asarray(output)).to(images.device)

    return forward


def _classes(function: Any, images: Tensor, device: str, dtype: torch.dtype) -> int:
    """How many logits the model gives, found on two images; a fixed batch size is noticed here."""
    few = images[:1].expand(3, *images.shape[1:]).contiguous().to(device=device, dtype=dtype)
    try:
        with torch.no_grad():
            one, output = function(few[:1]), function(few)
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(
            f"the model does not take images of shape {tuple(images.shape[1:])} in batches of one and of three: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    for answer, count in ((one, 1), (output, 3)):
        if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != count:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"the model returned {got} for {count} image(s); expected logits of shape ({count}, classes)"
            )
    if not math.isfinite(float(output.abs().max())):
        raise ValueError("the model returned NaN or infinite logits; check its weights and its precision")
    return int(output.shape[1])
