"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import math

import pytest
import torch

from surefoot.numerics.images import psnr, ssim, ssim_map


def test_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image (extra: samples)")
    g = torch.Generator().manual_seed(0)
    a = torch.rand(40, 50, 3, generator=g, dtype=torch.float64)
    b = (a + 0.1 * torch.randn(40, 50, 3, generator=g, dtype=torch.float64)).clamp(0, 1)
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0), abs=1e-9)
    _, theirs = metrics.structural_similarity(
        a.numpy(), b.numpy(), channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )  # fmt: skip
    inner = slice(6, -6)  # at the border scikit-image reflects, here all is zero
    torch.testing.assert_close(ssim_map(a, b)[inner, inner], torch.from_numpy(theirs)[inner, inner], atol=1e-9, rtol=0)


def test_equal_images():
    a = torch.rand(12, 13, 3, dtype=torch.float64)
    assert psnr(a, a) == math.inf
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-12)
