"""The classifier in the habits of scikit-learn; logs that go on; an attack that must fail within the radius; denoisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.data.digits import small_digits
from surefoot.records.files import read_npz
from surefoot.robustness.diffusion import diffusion_denoiser, diffusion_step
from surefoot.robustness.logs import read_log
from surefoot.robustness.maps import HARDMAX, SimplexMap
from surefoot.robustness.networks import SmallCNN, train_small_cnn
from surefoot.robustness.problem import Classifier
from surefoot.robustness.smoothed_classifier import Denoised, SmoothedClassifier, certify_smoothed

SIGMA = 0.25


@pytest.fixture(scope="module")
def digits() -> tuple[SmallCNN, torch.Tensor, np.ndarray]:
    """A network trained with noise, and images it has not seen."""
    data = small_digits()
    images = torch.from_numpy(data.images)
    network = train_small_cnn(images[:1400], data.labels[:1400], noise=SIGMA, epochs=5)
    return network, images[1400:1420], data.labels[1400:1420]


def test_predict_and_certify_agree_and_abstain(digits: tuple[SmallCNN, torch.Tensor, np.ndarray]) -> None:
    network, images, labels = digits
    smoothed = SmoothedClassifier(network, SIGMA, draws=1000, selection_draws=200)
    radii = smoothed.certify(images, labels)
    predicted = smoothed.predict(images, draws=1000)
    both = (predicted >= 0) & (radii.predicted >= 0)
    assert both.sum() >= 14
    np.testing.assert_array_equal(predicted[both], radii.predicted[both])
    assert radii.correct.mean() > 0.7

    def coin(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0, 0, 0] - 0.5, 0.5 - x[:, 0, 0, 0]], dim=1)

    half = torch.full((2, 1, 8, 8), 0.5)
    assert SmoothedClassifier(coin, SIGMA).predict(half).tolist() == [-1, -1]


def test_fit_fixes_one_map(digits: tuple[SmallCNN, torch.Tensor, np.ndarray]) -> None:
    network, images, labels = digits
    smoothed = SmoothedClassifier(network, SIGMA, draws=500, selection_draws=100)
    assert smoothed.map_ == HARDMAX
    smoothed.fit(images[:4], labels[:4], maps=(SimplexMap("softmax", 1e-3), SimplexMap("softmax", 5.0)))
    assert smoothed.map_ == SimplexMap("softmax", 5.0)
    assert smoothed.certify(images[:3]).label.tolist() == [-1, -1, -1]


def test_a_log_goes_on_where_it_ended(digits: tuple[SmallCNN, torch.Tensor, np.ndarray], tmp_path: Path) -> None:
    network, images, labels = digits
    smoothed = SmoothedClassifier(network, SIGMA, draws=300, selection_draws=100)
    whole = smoothed.certify(images[:6], labels[:6], log=tmp_path / "whole.tsv", store=tmp_path / "logits")
    lines = (tmp_path / "whole.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "part.tsv").write_text("".join(lines[:4]) + lines[4][:7])
    resumed = smoothed.certify(images[:6], labels[:6], log=tmp_path / "part.tsv")
    np.testing.assert_array_equal(resumed.radius, whole.radius)
    np.testing.assert_array_equal(read_log(tmp_path / "part.tsv").radius, whole.radius)
    np.testing.assert_array_equal(
        smoothed.certify(images[:6], labels[:6], log=tmp_path / "part.tsv").radius, whole.radius
    )
    stored = read_npz(tmp_path / "logits" / "logits-2.npz")["logits"]
    assert stored.shape == (300, 10)
    assert np.bincount(stored.argmax(1)).argmax() == whole.predicted[2]
    with pytest.raises(ValueError, match="other labels"):
        smoothed.certify(images[:6], (labels[:6] + 1) % 10, log=tmp_path / "part.tsv")
    with pytest.raises(ValueError, match="not the first"):
        smoothed.certify(images[:3], labels[:3], log=tmp_path / "part.tsv")


def test_no_attack_within_the_radius_changes_the_smoothed_class(
    digits: tuple[SmallCNN, torch.Tensor, np.ndarray],
) -> None:
    """Projected gradient ascent on the expected loss over noise (EOT), to 0.95 of each radius."""
    network, images, labels = digits
    smoothed = SmoothedClassifier(network, SIGMA, draws=2000, selection_draws=200)
    radii = smoothed.certify(images[:8], labels[:8])
    rows = np.flatnonzero(radii.predicted >= 0)
    assert len(rows) >= 5
    generator = torch.Generator().manual_seed(1)
    attacked = []
    for i in rows:
        reach = 0.95 * float(radii.radius[i])
        delta = torch.zeros_like(images[i])
        target = torch.full((96,), int(radii.predicted[i]))
        for _ in range(30):
            delta.requires_grad_(True)
            noise = SIGMA * torch.randn(96, *images[i].shape, generator=generator)
            loss = nn.functional.cross_entropy(network(images[i] + delta + noise), target)
            (gradient,) = torch.autograd.grad(loss, delta)
            with torch.no_grad():
                delta = delta + 0.25 * reach * gradient / gradient.norm().clamp_min(1e-12)
                delta = delta * min(1.0, reach / float(delta.norm()))
        attacked.append(images[i] + delta.detach())
        assert float(delta.norm()) > 0.9 * reach
    moved = Classifier(network, (1, 8, 8), 10, SIGMA, value_range=(-10, 10))
    after = SmoothedClassifier(moved, SIGMA).predict(torch.stack(attacked), draws=4000)
    kept = after == radii.predicted[rows]
    assert (kept | (after == -1)).all()
    assert kept.mean() > 0.7


def test_tables_can_be_smoothed_and_bad_input_is_refused() -> None:
    model = nn.Linear(5, 2).eval()
    table = torch.randn(3, 5)
    with pytest.raises(ValueError, match="outside the range"):
        SmoothedClassifier(model, 0.5).predict(table)
    anything = Classifier(model, (5,), 2, value_range=(-float("inf"), float("inf")))
    assert certify_smoothed(anything, table).radius.shape == (3,)
    with pytest.raises(ValueError, match="train mode"):
        SmoothedClassifier(nn.Linear(5, 2)).predict(torch.rand(3, 5))
    with pytest.raises(ValueError, match="are uint8"):
        SmoothedClassifier(model).certify(np.zeros((3, 5), dtype=np.uint8))
    with pytest.raises(ValueError, match="label 7 is out of range"):
        SmoothedClassifier(model).certify(torch.rand(2, 5), [0, 7])
    with pytest.raises(ValueError, match="sigma"):
        SmoothedClassifier(model, sigma=0.0).predict(torch.rand(2, 5))


def test_a_denoiser_in_front_is_a_model_like_any_other(digits: tuple[SmallCNN, torch.Tensor, np.ndarray]) -> None:
    network, images, labels = digits
    signal = np.linspace(0.999, 0.01, 1000)
    step, scale = diffusion_step(signal, SIGMA)
    assert np.sqrt(1 - signal[step]) / np.sqrt(signal[step]) >= 2 * SIGMA
    assert np.sqrt(1 - signal[step - 1]) / np.sqrt(signal[step - 1]) < 2 * SIGMA
    assert scale == pytest.approx(np.sqrt(signal[step]))
    seen: list[torch.Tensor] = []

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        assert t == step
        seen.append(x)
        return x / scale

    denoised = Denoised(network, diffusion_denoiser(predict, signal, SIGMA), SIGMA)
    base = Classifier(denoised, (1, 8, 8), 10, SIGMA, identity={"denoiser": "identity"})
    radii = certify_smoothed(base, images[:4], labels[:4])
    # what the denoiser sees has the diffusion's own mixture of signal and noise
    spread = float((seen[-1] / scale - (2 * images[3] - 1)).std())
    assert spread == pytest.approx(2 * SIGMA, rel=0.02)
    assert (radii.predicted >= 0).any()
    resized = diffusion_denoiser(lambda x, t: x, signal, SIGMA, side=16)
    assert resized(images[:2], SIGMA).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="made for sigma"):
        resized(images[:2], 0.5)
    with pytest.raises(ValueError, match="no step"):
        diffusion_step(np.array([0.999, 0.99]), 5.0)
