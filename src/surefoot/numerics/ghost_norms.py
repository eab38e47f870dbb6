"""Norms of per-sample gradients without the gradients.

A layer's gradient for one sample is a sum over positions ``t`` of outer products ``g_t a_t'`` of output gradients and
inputs, so inner products of such gradients need Gram matrices over positions only:
``<G, G'> = sum_{t,s} <g_t, g'_s> <a_t, a'_s>``. One forward and one backward pass give all norms of a batch.

References:
    I. Goodfellow, "Efficient per-example gradient computations", 2015.
    X. Li et al., "Large language models can be strong differentially private learners", ICLR 2022 (ghost clipping).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

__all__ = [
    "LayerTrace", "ghost_inner_products", "ghost_masses", "ghost_norms", "ghost_weighted_sum", "known_to_ghosts", "trace_layers",
]  # fmt: skip


_MIXING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class LayerTrace:
    """What one layer saw on a batch: enough for every inner product of its per-sample gradients.

    Args:
        name: the layer's name in its module.
        inputs: ``(b, groups, t, a)`` inputs a position; indices ``(b, 1, t)`` for embeddings.
        gradients: ``(b, groups, t, o)`` loss gradients a position of the outputs.
        weight: whether the weight is trained.
        bias: whether there is a bias and it is trained.
    """

    name: str
    inputs: Tensor
    gradients: Tensor
    weight: bool
    bias: bool


def trace_layers(module: nn.Module, losses: Callable[[Any], Tensor], *inputs: Any) -> tuple[Tensor, list[LayerTrace]]:
    """Run a batch forward and backward and keep what each trained layer saw.

    Args:
        module: made of Linear, Conv2d and Embedding layers as far as parameters are trained; samples must not mix
            (no batch normalisation in training mode).
        losses: outputs to the losses of the samples ``(b,)``.
        inputs: the module's inputs, samples along the first axis.

    Returns:
        The losses ``(b,)``, detached, and one trace a layer.

    Raises:
        ValueError: if a trained parameter is in another kind of layer or shared, a layer is called twice, or a layer's
            input or output is changed in place.
    """
    layers = _trained_layers(module)
    seen: dict[str, tuple[Tensor, Tensor, int, int]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if name in seen:
                raise ValueError(f"Layer {name!r} is called twice in one pass; ghost norms need one call a layer.")
            given = arguments[0]
            seen[name] = (given, output, given._version, output._version)

        return record

    handles: list[RemovableHandle] = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            values = losses(module(*inputs))
    finally:
        for handle in handles:
            handle.remove()
    for name, (given, output, given_version, output_version) in seen.items():
        if (given._version, output._version) != (given_version, output_version):
            raise ValueError(f"The input or output of layer {name!r} was changed in place; use inplace=False.")
    gradients = torch.autograd.grad(values.sum(), [output for _, output, _, _ in seen.values()])
    traces = [
        _trace(name, layers[name], given.detach(), gradient)
        for (name, (given, _, _, _)), gradient in zip(seen.items(), gradients, strict=True)
    ]
    return values.detach(), traces


def ghost_inner_products(first: list[LayerTrace], second: list[LayerTrace]) -> Tensor:
    """Inner products of the per-sample gradients behind two traces of the same samples, ``(b,)``.

    With traces at two parameter points these give norms of gradient differences.
    """
    if [trace.name for trace in first] != [trace.name for trace in second]:
        raise ValueError("The two traces come from different layers; trace the same module with the same inputs.")
    return torch.stack([_inner(one, two) for one, two in zip(first, second, strict=True)]).sum(dim=0)


def ghost_norms(module: nn.Module, losses: Callable[[Any], Tensor], *inputs: Any) -> Tensor:
    """Euclidean norms of the gradients of every sample's loss over all trained parameters.

    Args:
        module: see `trace_layers`.
        losses: outputs to the losses of the samples ``(b,)``.
        inputs: the module's inputs, samples along the first axis.

    Returns:
        Norms ``(b,)``.
    """
    _, traces = trace_layers(module, losses, *inputs)
    return ghost_inner_products(traces, traces).clamp(min=0).sqrt()


def known_to_ghosts(module: nn.Module) -> bool:
    """Whether every trained parameter is in a layer that ghost norms know, and in one only."""
    try:
        _trained_layers(module)
    except ValueError:
        return False
    return True


def ghost_masses(traces: list[LayerTrace]) -> Tensor:
    """Norms of the per-sample gradients as if nothing cancelled, ``(b,)``: positions' norms added up, layers in quadrature.

    What rounding errors of weighted sums are measured by.
    """
    squares = []
    for trace in traces:
        outer = torch.linalg.vector_norm(trace.gradients, dim=3)
        square = outer.sum(dim=(1, 2)).square() if trace.bias else torch.zeros_like(outer.sum(dim=(1, 2)))
        if trace.weight:
            if trace.inputs.is_floating_point():
                outer = outer * torch.linalg.vector_norm(trace.inputs, dim=3)
            square = square + outer.sum(dim=(1, 2)).square()
        squares.append(square)
    return torch.stack(squares).sum(dim=0).sqrt()


def ghost_weighted_sum(module: nn.Module, traces: list[LayerTrace], weights: Tensor) -> dict[str, Tensor]:
    """``sum_i w_i G_i`` of the per-sample gradients behind a trace, by parameter name, without forming them.

    Args:
        module: the module that was traced.
        traces: of `trace_layers`, or differences of such.
        weights: ``(b,)``.
    """
    layers = dict(module.named_modules())
    total: dict[str, Tensor] = {}
    for trace in traces:
        layer = layers[trace.name]
        prefix = f"{trace.name}." if trace.name else ""
        scaled = trace.gradients * weights[:, None, None, None]
        if trace.weight:
            shape = layer.get_parameter("weight").shape
            if trace.inputs.is_floating_point() and trace.inputs.shape[1] == 1:
                flat = scaled.reshape(-1, scaled.shape[-1]).T @ trace.inputs.reshape(-1, trace.inputs.shape[-1])
                total[prefix + "weight"] = flat.reshape(shape)
            elif trace.inputs.is_floating_point():
                total[prefix + "weight"] = torch.einsum("bgto,bgta->goa", scaled, trace.inputs).reshape(shape)
            else:
                table = scaled.new_zeros(shape)
                total[prefix + "weight"] = table.index_add_(0, trace.inputs.flatten(), scaled.reshape(-1, shape[-1]))
        if trace.bias:
            total[prefix + "bias"] = scaled.sum(dim=(0, 2)).flatten()
    return total


def _trained_layers(module: nn.Module) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    owners: dict[int, str] = {}
    for name, layer in module.named_modules():
        trained = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if isinstance(layer, _MIXING) and layer.training:
            raise ValueError(f"Layer {name!r} mixes samples by batch normalisation; call eval() or replace it.")
        if not trained:
            continue
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
            raise ValueError(
                f"Layer {name!r} is a {type(layer).__name__} with trained parameters; ghost norms know Linear, Conv2d "
                "and Embedding. Freeze it, or use per_sample_gradients."
            )
        for parameter in trained:
            if id(parameter) in owners:
                raise ValueError(f"Layers {owners[id(parameter)]!r} and {name!r} share a parameter; untie them.")
            owners[id(parameter)] = name
        layers[name] = layer
    return layers


def _trace(name: str, layer: nn.Module, given: Tensor, gradient: Tensor) -> LayerTrace:
    batch = given.shape[0]
    if isinstance(layer, nn.Embedding):
        if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
            raise ValueError(
                f"Embedding {name!r} uses max_norm, scale_grad_by_freq or sparse, which are not known here."
            )
        indices, flat = given.reshape(batch, 1, -1), gradient.reshape(batch, 1, -1, gradient.shape[-1])
        if layer.padding_idx is not None:
            flat = flat * (indices != layer.padding_idx).unsqueeze(-1)
        return LayerTrace(name, indices, flat, True, False)
    if isinstance(layer, nn.Conv2d):
        padding = _padding(layer)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        windows = functional.unfold(
            functional.pad(given, padding, mode=mode), layer.kernel_size, layer.dilation, 0, layer.stride
        )
        shape = (batch, layer.groups, -1, windows.shape[-1])
        columns, flat = windows.reshape(shape).transpose(2, 3), gradient.reshape(shape).transpose(2, 3)
    else:
        columns = given.reshape(batch, 1, -1, given.shape[-1])
        flat = gradient.reshape(batch, 1, -1, gradient.shape[-1])
    weight, bias = layer.weight, layer.bias
    trained_bias = isinstance(bias, Tensor) and bias.requires_grad
    return LayerTrace(name, columns, flat, isinstance(weight, Tensor) and weight.requires_grad, trained_bias)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Left, right, top, bottom, as `functional.pad` wants them."""
    if isinstance(layer.padding, str):
        # 'same' pads an odd total at the far side, as torch does; 'valid' pads nothing
        total = [
            d * (k - 1) if layer.padding == "same" else 0
            for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        return total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2
    height, width = layer.padding
    return width, width, height, height


def _inner(one: LayerTrace, two: LayerTrace) -> Tensor:
    total = one.gradients.new_zeros(one.gradients.shape[0])
    if one.weight:
        total = total + _weight_inner(one, two)
    if one.bias:
        total = total + (one.gradients.sum(dim=2) * two.gradients.sum(dim=2)).sum(dim=(1, 2))
    return total


def _weight_inner(one: LayerTrace, two: LayerTrace) -> Tensor:
    if not one.inputs.is_floating_point():
        same = (one.inputs.unsqueeze(-1) == two.inputs.unsqueeze(-2)).to(one.gradients.dtype)
        return (same * (one.gradients @ two.gradients.transpose(-1, -2))).sum(dim=(1, 2, 3))
    positions, size = one.inputs.shape[2], one.inputs.shape[3] * one.gradients.shape[3]
    if positions == 1:  # one product of lengths; many tiny matrix products would be slower
        return ((one.inputs * two.inputs).sum(dim=3) * (one.gradients * two.gradients).sum(dim=3)).sum(dim=(1, 2))
    if positions**2 <= size:
        grams = (one.inputs @ two.inputs.transpose(-1, -2)) * (one.gradients @ two.gradients.transpose(-1, -2))
        return grams.sum(dim=(1, 2, 3))
    # many positions and a small layer: the gradient itself is the smaller thing
    first = one.gradients.transpose(-1, -2) @ one.inputs
    second = first if two is one else two.gradients.transpose(-1, -2) @ two.inputs
    return (first * second).sum(dim=(1, 2, 3))
