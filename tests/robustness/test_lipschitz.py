"""Lipschitz constants of whole networks: exact where that is known, never below a measured slope, refusals by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surefoot.core.random import Streams
from surefoot.robustness.lipschitz import lipschitz_constant
from surefoot.robustness.networks import LinearNet, SmallCNN, initialise

SHAPE = (2, 6, 6)


def steepest(model: nn.Module, shape: tuple[int, ...], tries: int = 20) -> float:
    """The largest Jacobian norm at random images: a lower bound of the constant."""
    generator = torch.Generator().manual_seed(0)
    found = 0.0
    for _ in range(tries):
        image = torch.rand(*shape, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image).flatten(1)
        found = max(found, float(torch.linalg.matrix_norm(jacobian, 2)))
    return found


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Normalised(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("std", torch.tensor([0.2, 0.5], dtype=torch.float64).view(2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner((x - 0.5) / self.std)


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.flatten(x, 1)
        return flat + flat


def test_a_linear_network_is_exact() -> None:
    model = initialise(LinearNet(72, 4), Streams(0)).double().eval()
    assert lipschitz_constant(model, SHAPE).value == pytest.approx(
        float(torch.linalg.matrix_norm(model.out.weight.detach(), 2)), rel=1e-10
    )  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    "model",
    [
        SmallCNN(2, 6, 3),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.LeakyReLU(1.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(32, 3)),
        nn.Sequential(Residual(nn.Conv2d(2, 2, 3, padding=1)), nn.Flatten(), nn.Linear(72, 3)),
        Normalised(nn.Sequential(nn.Flatten(), nn.Linear(72, 3))),
        Doubled(),
    ],
    ids=["small-cnn", "circular-maxpool", "dilated-batchnorm", "groups-leaky", "overlap", "residual", "normalised", "doubled"],
)  # fmt: skip
def test_no_measured_slope_passes_the_constant(model: nn.Module) -> None:
    initialise(model, Streams(1))
    model.double().eval()
    found = lipschitz_constant(model, SHAPE)
    assert found.known == "exact"
    assert steepest(model, SHAPE) <= found.value * (1 + 1e-9)


def test_known_constants_of_residuals_normalisation_and_sums() -> None:
    identity = nn.Sequential(nn.Identity()).eval()
    assert lipschitz_constant(Residual(identity).eval(), SHAPE).value == pytest.approx(2.0)
    assert lipschitz_constant(Doubled().eval(), SHAPE).value == pytest.approx(2.0)
    assert lipschitz_constant(Normalised(identity).double().eval(), SHAPE).value == pytest.approx(5.0)
    assert lipschitz_constant(nn.Sequential(nn.MaxPool2d(3, stride=1)).eval(), SHAPE).value == pytest.approx(3.0)
    assert lipschitz_constant(nn.Sequential(nn.MaxPool2d(2)).eval(), SHAPE).value == pytest.approx(1.0)


def test_overlapping_max_pooling_really_expands() -> None:
    """One pixel in nine windows: the sheet's constant 1 would be too small."""
    pool = nn.MaxPool2d(3, stride=1)
    image = torch.zeros(1, 1, 5, 5)
    changed = image.clone()
    changed[0, 0, 2, 2] = 1.0
    assert float((pool(changed) - pool(image)).norm()) == pytest.approx(3.0)


def test_unknown_layers_and_plain_callables_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="GELU"):
        lipschitz_constant(nn.Sequential(nn.Flatten(), nn.GELU()).eval(), SHAPE)
    with pytest.raises(ValueError, match="plain callable"):
        lipschitz_constant(lambda x: x, SHAPE)
    with pytest.raises(ValueError, match="train mode"):
        lipschitz_constant(nn.Sequential(nn.Flatten()), SHAPE)
    with pytest.raises(ValueError, match="reflect"):
        lipschitz_constant(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")).eval(), SHAPE)

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * x).flatten(1)

    with pytest.raises(ValueError, match="mul"):
        lipschitz_constant(Square().eval(), SHAPE)
