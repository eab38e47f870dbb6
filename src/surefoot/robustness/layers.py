"""A network as a graph of layers whose Lipschitz constants are known: what the bound and its check both walk over.

The graph comes from torch.fx, so functional code and residual connections are seen. Anything unknown is an error, never a guess.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

__all__ = ["Layer", "layer_graph"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One node: what it does, which nodes it reads, and its numbers.

    Kinds: "input"; "dense" (weight); "convolution" (weight (out, in, h, w), size, stride, circular); "scale" (factor); "overlap"
    (factor, of max pooling with overlapping windows); "sum"; "stack"; all others do not expand ("same").
    """

    name: str
    kind: str
    inputs: tuple[int, ...] = ()
    weight: Tensor | None = None
    factor: float = 1.0
    size: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    circular: bool = False
    blocks: tuple[Tensor, ...] = field(default=())  # one kernel a group


NONEXPANSIVE = (
    nn.ReLU,
    nn.Tanh,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Hardtanh,
)
SAME_FUNCTIONS = {
    torch.relu,
    functional.relu,
    torch.tanh,
    torch.flatten,
    functional.softplus,
    torch.abs,
    functional.hardtanh,
}
SAME_METHODS = {"relu", "tanh", "flatten", "view", "reshape", "contiguous", "abs", "clone", "permute", "transpose"}


def layer_graph(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """The layers of a network in eval mode, in order; the last one is its output.

    Args:
        shape: of one image.

    Raises:
        ValueError: a layer whose Lipschitz constant is not known here, by name.
    """
    try:
        traced = fx.symbolic_trace(model)
        first = next(model.parameters(), torch.zeros(1))
        ShapeProp(traced).propagate(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    except Exception as error:  # tracing runs the user's code and fails in its ways
        raise ValueError(f"the network cannot be traced layer by layer: {type(error).__name__}: {error}") from error
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    places, layers = dict[fx.Node, int](), list[Layer]()
    for node in traced.graph.nodes:
        if node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or result not in places:
                raise ValueError("the network returns something else than one tensor of logits")
            layers.append(Layer("output", "same", (places[result],)))
            break
        if node.op == "get_attr":
            continue
        read = tuple(places[n] for n in _reads(node) if n in places)
        found = _layer(node, modules, read, traced)
        places[node] = len(layers)
        layers.append(found)
    return layers


def _layer(node: fx.Node, modules: dict[str, nn.Module], read: tuple[int, ...], traced: Any) -> Layer:
    name = str(node.name)
    if node.op == "placeholder":
        return Layer(name, "input")
    if node.op == "call_module":
        return _module(name, modules[str(node.target)], read, _size(node))
    if node.op == "call_method" and node.target in SAME_METHODS and len(read) == 1:
        return Layer(name, "same", read)
    if node.op == "call_function":
        if node.target in SAME_FUNCTIONS and len(read) == 1:
            return Layer(name, "same", read)
        plain = not ({"alpha"} & node.kwargs.keys()) and len(node.args) == 2
        if node.target in (operator.add, torch.add, operator.sub, torch.sub, operator.iadd) and plain:
            return Layer(name, "sum" if len(read) == 2 else "same", read)
        if node.target is torch.cat:
            return Layer(name, "stack", read)
        if node.target in (operator.mul, torch.mul, operator.truediv, torch.div) and len(read) == 1:
            return Layer(name, "scale", read, factor=_constant_factor(node, traced))
        if node.target in (functional.max_pool2d, functional.avg_pool2d) and len(read) == 1:
            return _functional_pool(node, name, read)
    raise ValueError(
        f"layer {name!r} ({node.op} {node.target}) has no known Lipschitz constant; declare one with lipschitz=…"
    )


def _reads(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node reads, each as often as it does: x + x doubles."""
    found: list[fx.Node] = []

    def walk(value: Any) -> None:
        if isinstance(value, fx.Node):
            found.append(value)
        elif isinstance(value, tuple | list):
            for part in value:
                walk(part)

    walk(list(node.args))
    walk(list(node.kwargs.values()))
    return found


def _size(node: fx.Node) -> tuple[int, int]:
    before: Any = node.args[0]
    sizes = before.meta["tensor_meta"].shape
    return (int(sizes[-2]), int(sizes[-1])) if len(sizes) == 4 else (0, 0)


def _module(name: str, module: nn.Module, read: tuple[int, ...], size: tuple[int, int]) -> Layer:
    if isinstance(module, nn.Linear):
        return Layer(name, "dense", read, weight=module.weight)
    if isinstance(module, nn.Conv2d):
        return _convolution(name, module, read, size)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        if module.running_var is None:
            raise ValueError(f"layer {name!r} normalises by the batch; it is no function of one image")
        gain = torch.ones_like(module.running_var) if module.weight is None else module.weight
        scale = gain.double().abs() / (module.running_var.double() + module.eps).sqrt()
        return Layer(name, "scale", read, factor=scale.max().item())
    if isinstance(module, nn.MaxPool2d):
        return Layer(name, "overlap", read, factor=_overlap(module.kernel_size, module.stride, module.dilation))
    if isinstance(module, nn.AvgPool2d):
        return _average(name, read, module.kernel_size, module.stride, size)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return Layer(name, "scale", read, factor=1 / math.sqrt(size[0] * size[1]))
    if isinstance(module, nn.Sigmoid):
        return Layer(name, "scale", read, factor=0.25)
    if isinstance(module, nn.LeakyReLU | nn.ELU):
        factor = module.negative_slope if isinstance(module, nn.LeakyReLU) else module.alpha
        return Layer(name, "scale", read, factor=max(1.0, abs(float(factor))))
    if isinstance(module, NONEXPANSIVE):
        return Layer(name, "same", read)
    raise ValueError(
        f"layer {name!r} ({type(module).__name__}) has no known Lipschitz constant; declare one with lipschitz=…"
    )


def _convolution(name: str, module: nn.Conv2d, read: tuple[int, ...], size: tuple[int, int]) -> Layer:
    if module.padding_mode not in ("zeros", "circular"):
        raise ValueError(f"layer {name!r} pads by {module.padding_mode!r}; only zeros and circular padding are bounded")
    kernel = module.weight.detach()
    down, across = module.dilation
    if (down, across) != (1, 1):
        spread = kernel.new_zeros(
            *kernel.shape[:2], (kernel.shape[2] - 1) * down + 1, (kernel.shape[3] - 1) * across + 1
        )
        spread[:, :, ::down, ::across] = kernel
        kernel = spread
    groups = tuple(kernel.chunk(module.groups))
    circular = module.padding_mode == "circular"
    stride: Any = tuple(module.stride)
    return Layer(name, "convolution", read, size=size, stride=stride, circular=circular, blocks=groups)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _overlap(kernel: Any, stride: Any, dilation: Any = 1) -> float:
    """sqrt of how many windows one pixel can be in: 1 only where they do not overlap."""
    k, s, d = _pair(kernel), _pair(kernel if stride is None else stride), _pair(dilation)
    return math.sqrt(math.prod(k[i] if d[i] > 1 else -(-k[i] // s[i]) for i in range(2)))


def _average(name: str, read: tuple[int, ...], kernel: Any, stride: Any, size: tuple[int, int]) -> Layer:
    k = _pair(kernel)
    window = torch.full((1, 1, *k), 1 / math.prod(k), dtype=torch.float64)
    return Layer(
        name, "convolution", read, size=size, stride=_pair(kernel if stride is None else stride), blocks=(window,)
    )


def _functional_pool(node: fx.Node, name: str, read: tuple[int, ...]) -> Layer:
    kernel = node.args[1] if len(node.args) > 1 else node.kwargs["kernel_size"]
    stride = node.args[2] if len(node.args) > 2 else node.kwargs.get("stride")
    if node.target is functional.max_pool2d:
        return Layer(name, "overlap", read, factor=_overlap(kernel, stride, node.kwargs.get("dilation", 1)))
    return _average(name, read, kernel, stride, _size(node))


def _constant_factor(node: fx.Node, traced: Any) -> float:
    """Largest factor of a multiplication or division by constants."""
    constants = [a for a in node.args if not (isinstance(a, fx.Node) and a.op != "get_attr")]
    if len(constants) != 1 or (node.target in (operator.truediv, torch.div) and constants[0] is node.args[0]):
        raise ValueError(f"layer {node.name!r} multiplies by no constant")
    value: Any = constants[0]
    if isinstance(value, fx.Node):
        target: Any = traced
        for part in str(value.target).split("."):
            target = getattr(target, part)
        value = target
    size = torch.as_tensor(value, dtype=torch.float64).abs()
    return float((1 / size).max() if node.target in (operator.truediv, torch.div) else size.max())
