"""Lipschitz constants of networks, L2 to L2, from the norms of their layers; upper bounds, rounded up."""

from __future__ import annotations

from typing import Any

from torch import nn

from surefoot.core.problem import Constant
from surefoot.numerics.layer_norms import convolution_norm, dense_norm
from surefoot.robustness.layers import Layer, layer_graph

__all__ = ["layer_constants", "lipschitz_constant"]

ROUND_UP = 1 + 1e-13


def lipschitz_constant(model: Any, shape: tuple[int, ...]) -> Constant:
    """A constant of the logits, in logits per unit of the images; normalisation inside the model is counted.

    A chain multiplies the constants of its layers, a residual block adds 1 + L(branch), concatenation takes the root of the sum of
    squares. Overlapping max pooling counts sqrt(windows a pixel is in), not 1.

    Args:
        model: a torch module of layers whose constants are known.
        shape: of one image.

    Raises:
        ValueError: no module, train mode, or a layer without a known constant.
    """
    if not isinstance(model, nn.Module):
        raise ValueError("the layers of a plain callable cannot be seen; declare a Lipschitz constant instead")
    if any(m.training for m in model.modules()):
        raise ValueError("the model is in train mode; its layers' constants are those of eval mode: call model.eval()")
    return Constant(layer_constants(layer_graph(model, shape))[-1], "exact", "norms of the layers")


def layer_constants(layers: list[Layer]) -> list[float]:
    """The constant of every node with respect to the image."""
    found: list[float] = []
    for layer in layers:
        before = [found[i] for i in layer.inputs]
        if layer.kind == "input":
            value = 1.0
        elif layer.kind == "sum":
            value = sum(before)
        elif layer.kind == "stack":
            value = sum(b * b for b in before) ** 0.5
        else:
            value = before[0] * _own(layer)
        found.append(value if layer.kind in ("input", "same") else value * ROUND_UP)
    return found


def _own(layer: Layer) -> float:
    if layer.kind == "dense" and layer.weight is not None:
        return dense_norm(layer.weight)
    if layer.kind == "convolution":
        return max(
            convolution_norm(kernel, layer.size, layer.stride, circular=layer.circular) for kernel in layer.blocks
        )
    return layer.factor
