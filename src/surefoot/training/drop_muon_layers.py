"""The layers of a network in the order in which they are used: what Drop-Muon draws from.

A layer is what is trained or left alone together. By default every module with a weight matrix, kernel or table begins one, and modules
with vectors only (norms) belong to the layer before; `blocks` gives them by hand, for instance the blocks of a transformer.
A tied parameter belongs to the earliest layer that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

__all__ = ["Kind", "execution_order", "kind_of", "layers_from_module"]

Kind = Literal["matrix", "convolution", "embedding", "vector", "head"]
GROUP_OF: dict[Kind, str] = {  # the norm each kind of parameter steps in, if nothing else is said
    "matrix": "spectral", "convolution": "spectral", "embedding": "adamw", "vector": "adamw", "head": "adamw",
}  # fmt: skip


def kind_of(module: nn.Module, parameter: Tensor) -> Kind:
    """What a module's own parameter is."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return "vector" if parameter.ndim < 2 else "matrix" if parameter.ndim == 2 else "convolution"


def execution_order(model: nn.Module, *example: Any, **named: Any) -> list[nn.Module]:
    """The modules with parameters of their own in the order in which a forward pass first calls them (in eval mode, without gradients)."""
    import torch

    order: list[nn.Module] = []
    hooks = []
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_pre_hook(lambda m, _: order.append(m) if m not in order else None))
    was = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(*example, **named)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in was:
            module.training = training
    return order


def layers_from_module(
    model: nn.Module, blocks: Sequence[nn.Module] | None = None, *, example: Any = None, norms: dict[Kind, str] | None = None,
    head: nn.Module | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Parameter groups for `DropMuon`, with the keys `layer`, `kind`, `norm` and `names`.

    Args:
        blocks: the layers in order, if they are not to be found; they must hold every trainable parameter.
        example: input of one forward pass that finds the order in which the modules are used; without it the order of registration
            is taken. A tuple is several arguments.
        norms: the norm for each kind ("spectral", "sign", "euclidean", "adamw", "sgd"); by default spectral for matrices and
            kernels, AdamW for the rest.
        head: the module whose matrix is of the kind "head"; default: the last one with a matrix.

    Raises:
        ValueError: blocks that leave a trainable parameter out, or modules that the forward pass never uses; both named.
    """
    chosen = {**GROUP_OF, **(norms or {})}
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}
    if blocks is not None:
        layers = [list(block.modules()) for block in blocks]
    else:
        with_own = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
        if example is not None:
            used = execution_order(model, *(example if isinstance(example, tuple) else (example,)))
            unused = [n for n, m in model.named_modules() if m in with_own and m not in used and _trains(m)]
            if unused:
                raise ValueError(f"the forward pass never uses {unused}; remove them, or give the layers as blocks")
            with_own = used
        layers = _by_matrix(with_own)
    last = head if head is not None else _last_matrix(layers)
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    taken: set[int] = set()
    place = 0
    for modules in layers:
        found = False
        for module in modules:
            for parameter in module.parameters(recurse=False):
                if id(parameter) in taken or not parameter.requires_grad:
                    continue
                taken.add(id(parameter))
                found = True
                kind: Kind = kind_of(module, parameter)
                kind = "head" if module is last and kind == "matrix" else kind
                group = groups.setdefault(
                    (place, kind), {"params": [], "layer": place, "kind": kind, "norm": chosen[kind], "names": []}
                )
                group["params"].append(parameter)
                group["names"].append(names[id(parameter)])
        place += found
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in taken]
    if left:
        raise ValueError(f"the layers leave out trainable parameters: {left[:6]}; every one must belong to a layer")
    if not groups:
        raise ValueError("the model has no trainable parameters")
    return list(groups.values())


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters(recurse=False))


def _by_matrix(modules: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """A new layer at every module with a matrix, kernel or table; vectors join the layer before (or the first one after)."""
    layers: list[list[nn.Module]] = []
    waiting: list[nn.Module] = []
    for module in modules:
        if any(p.ndim >= 2 for p in module.parameters(recurse=False)):
            layers.append([*waiting, module])
            waiting = []
        elif layers:
            layers[-1].append(module)
        else:
            waiting.append(module)
    if waiting:
        layers.append(waiting)
    return layers


def _last_matrix(layers: Sequence[Sequence[nn.Module]]) -> nn.Module | None:
    """The last module with a matrix, if it is a plain linear map and not the only one."""
    holders = [m for modules in layers for m in modules if any(p.ndim >= 2 for p in m.parameters(recurse=False))]
    return holders[-1] if len(holders) > 1 and isinstance(holders[-1], nn.Linear) else None
