"""The network as others know it: `torch.nn.Sequential`, safetensors with its state_dict, ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.convex_networks.problem import Network, Scaling
from surefoot.records.files import read_json, read_npz, write_bytes, write_json, write_npz

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.float64]]
FILES = ("network.safetensors", "network.npz", "network.json")


def folded(network: Network) -> tuple[Array, Array, Array]:
    """Weights on the raw table: hidden (m, p), its bias (m,), output (C, m), with the scaling folded in."""
    scaling = network.scaling
    if scaling is None:
        return network.hidden, np.zeros(network.width), network.output.T
    columns = len(scaling.centre)
    hidden = network.hidden[:, :columns] / scaling.spread
    bias = network.hidden[:, columns] if scaling.bias else np.zeros(network.width)
    return hidden, bias - hidden @ scaling.centre, network.output.T


def to_torch(network: Network, dtype: torch.dtype | None = None) -> torch.nn.Sequential:
    """Linear, ReLU, Linear on raw tables, with one output a column; float64 unless `dtype` says otherwise."""
    import torch

    hidden, bias, output = folded(network)
    first = torch.nn.Linear(hidden.shape[1], max(1, len(hidden)), dtype=torch.float64)
    second = torch.nn.Linear(max(1, len(hidden)), output.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        for layer, weight in ((first.weight, hidden), (first.bias, bias), (second.weight, output)):
            layer.zero_()  # a network without neurons keeps one that does nothing
            if weight.size:
                layer.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    return module.to(dtype) if dtype is not None else module


def to_onnx(network: Network, path: str | Path, *, dtype: str = "float32") -> None:
    """An ONNX file with input `x` (rows, p) and output `scores` (rows, C), operators Gemm, Relu, MatMul.

    Raises:
        ImportError: the package onnx is missing (extra `onnx`).
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError("writing ONNX needs the package onnx: pip install 'surefoot[onnx]'") from error
    hidden, bias, output = folded(network)
    if not len(hidden):
        hidden, bias, output = np.zeros((1, hidden.shape[1])), np.zeros(1), np.zeros((output.shape[0], 1))
    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(array, dtype=dtype), name)
        for name, array in (("hidden", hidden.T), ("bias", bias), ("output", output.T))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "hidden", "bias"], ["before"]),
        helper.make_node("Relu", ["before"], ["active"]),
        helper.make_node("MatMul", ["active", "output"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "two_layer_relu",
        [helper.make_tensor_value_info("x", kind, ["rows", hidden.shape[1]])],
        [helper.make_tensor_value_info("scores", kind, ["rows", output.shape[0]])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, producer_name="surefoot", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    write_bytes(Path(path), model.SerializeToString())


def write_network(network: Network, folder: Path, columns: Sequence[str] = ()) -> None:
    """`network.safetensors` (state_dict of `to_torch`), `network.npz` (weights as trained, scaling), `network.json` (labels, and the
    names of the table's columns)."""
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in to_torch(network).state_dict().items()}
    write_bytes(folder / FILES[0], save(state))
    scaling = network.scaling
    arrays = {"hidden": network.hidden, "output": network.output}
    if scaling is not None:
        arrays |= {"centre": scaling.centre, "spread": scaling.spread, "bias": np.array([int(scaling.bias)])}
    write_npz(folder / FILES[1], arrays)
    write_json(folder / FILES[2], {
        "layers": ["Linear", "ReLU", "Linear"], "neurons": network.width, "classes": list(network.classes), "columns": list(columns),
    })  # fmt: skip


def read_network(folder: Path) -> Network:
    """The network of a run, after checking that its files agree.

    Raises:
        ValueError: they hold different networks.
    """
    from safetensors.numpy import load

    arrays, tree = read_npz(folder / FILES[1]), read_json(folder / FILES[2])
    scaling = None
    if "centre" in arrays:
        scaling = Scaling(arrays["centre"], arrays["spread"], bool(arrays["bias"][0]))
    network = Network(arrays["hidden"], arrays["output"], scaling, tuple(str(c) for c in tree["classes"]))
    saved = load((folder / FILES[0]).read_bytes())
    mine = {name: value.numpy() for name, value in to_torch(network).state_dict().items()}
    same = saved.keys() == mine.keys() and all(
        saved[name].shape == mine[name].shape and np.array_equal(saved[name], mine[name], equal_nan=True)
        for name in mine
    )
    if not same:
        raise ValueError(f"{' and '.join(FILES[:2])} hold different networks")
    return network
