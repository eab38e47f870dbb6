"""Ghost norms against per-sample gradients written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surefoot.numerics.autodiff import Flattened, per_sample_gradients
from surefoot.numerics.ghost_norms import ghost_inner_products, ghost_norms, trace_layers

LABELS = torch.tensor([0, 2, 1, 1, 0])


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.table(tokens))).mean(dim=-2))


class Sequence(nn.Module):
    """A linear layer over many positions: the small-layer branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)).sum(dim=-2)


def modules() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, (3, 2), padding="same", dilation=(2, 1), groups=2, padding_mode="zeros"),
        nn.Tanh(),
        nn.Conv2d(6, 3, 2, padding=(1, 0), padding_mode="reflect", bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    frozen = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    frozen[1].requires_grad_(False)
    frozen[2].weight.requires_grad_(False)
    tokens = torch.tensor([[1, 2, 2, 0], [3, 3, 3, 3], [0, 0, 0, 0], [5, 6, 7, 8], [10, 1, 10, 0]])
    return {
        "dense": (dense.double(), randn(5, 4, seed=1)),
        "convolutional": (conv.double(), randn(5, 2, 7, 8, seed=2)),
        "partly frozen": (frozen.double(), randn(5, 4, seed=3)),
        "text": (Text().double(), tokens),
        "sequence": (Sequence().double(), randn(5, 9, 2, seed=4)),
    }


def losses(outputs: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, LABELS, reduction="none")


def explicit(module: nn.Module, inputs: Tensor) -> Tensor:
    flat = Flattened(module)

    def loss(w: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(flat(w, x.unsqueeze(0))[0], label)

    return per_sample_gradients(loss, flat.vector(), inputs, LABELS)


@pytest.mark.parametrize("name", modules())
def test_norms_equal_those_of_explicit_gradients(name: str) -> None:
    module, inputs = modules()[name]
    ours = ghost_norms(module, losses, inputs)
    torch.testing.assert_close(ours, explicit(module, inputs).norm(dim=1), rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("name", modules())
def test_difference_norms_between_two_parameter_points(name: str) -> None:
    module, inputs = modules()[name]
    first_values, first = trace_layers(module, losses, inputs)
    gradients = explicit(module, inputs)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.ones_like(parameter))
    second_values, second = trace_layers(module, losses, inputs)
    moved = explicit(module, inputs)
    square = (
        ghost_inner_products(first, first)
        - 2 * ghost_inner_products(first, second)
        + ghost_inner_products(second, second)
    )
    torch.testing.assert_close(square, (gradients - moved).square().sum(dim=1), rtol=1e-9, atol=1e-11)
    assert (first_values != second_values).any()


def test_what_ghost_norms_cannot_do_is_said() -> None:
    inputs = randn(5, 4, seed=5)
    with pytest.raises(ValueError, match="LayerNorm with trained parameters"):
        ghost_norms(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).double(), losses, inputs)
    with pytest.raises(ValueError, match="batch normalisation"):
        ghost_norms(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(), losses, inputs)
    with pytest.raises(ValueError, match="in place"):
        ghost_norms(nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)).double(), losses, inputs)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="share a parameter"):
        ghost_norms(tied, losses, inputs)
    layer = nn.Linear(4, 4).double()
    with pytest.raises(ValueError, match="called twice"):
        ghost_norms(nn.Sequential(layer, layer, nn.Linear(4, 3).double()), losses, inputs)
