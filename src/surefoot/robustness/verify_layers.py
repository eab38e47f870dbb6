"""Checks a network's Lipschitz constant: norms from eigenvalues of Gram matrices, convolutions by the plain Fourier sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.robustness.problem import Layer, layer_graph

__all__ = ["LIPSCHITZ_CHECKS"]


def lipschitz(claim: Claim, dossier: Dossier) -> Verdict:
    """The constant again, layer by layer."""
    classifier = dossier.problem.classifier
    if classifier.lipschitz is None or dossier.evidence["settings.json"]["lipschitz"] != classifier.lipschitz.value:
        return refute(claim, "the constant in the settings is not the classifier's")
    found: list[float] = []
    for layer in layer_graph(classifier.model, classifier.shape):
        before = [found[i] for i in layer.inputs]
        match layer.kind:
            case "input":
                found.append(1.0)
            case "sum":
                found.append(math.fsum(before))
            case "stack":
                found.append(math.hypot(*before))
            case "dense" if layer.weight is not None:
                found.append(before[0] * _gram_norm(layer.weight.detach().cpu().double().numpy()[None]))
            case "convolution":
                found.append(before[0] * max(_gram_norm(_symbols(kernel, layer)) for kernel in layer.blocks))
            case _:
                found.append(before[0] * layer.factor)
    return compare(claim, found[-1], supports="proved", rtol=1e-8)


def _gram_norm(matrices: np.ndarray) -> float:
    """Root of the largest eigenvalue of W W* or W* W, whichever is smaller, over a batch."""
    W = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.conj().swapaxes(1, 2)
    return math.sqrt(max(float(np.linalg.eigvalsh(W @ W.conj().swapaxes(1, 2))[:, -1].max()), 0.0))


def _symbols(kernel: torch.Tensor, layer: Layer) -> np.ndarray:
    """sum over taps of W[tap] exp(-2 pi i <frequency, tap>) on the torus, the taps of a stride's phases side by side."""
    W = kernel.detach().cpu().double().numpy()
    (sh, sw), (height, width) = layer.stride, layer.size
    rows, cols = -(-height // sh), -(-width // sw)
    if not layer.circular:
        rows, cols = rows + -(-W.shape[2] // sh), cols + -(-W.shape[3] // sw)
    total = np.zeros((rows * cols, W.shape[0], W.shape[1], sh, sw), dtype=complex)
    a, b = np.meshgrid(np.arange(rows) / rows, np.arange(cols) / cols, indexing="ij")
    for i in range(W.shape[2]):
        for j in range(W.shape[3]):
            wave = np.exp(-2j * np.pi * (a * (i // sh) + b * (j // sw))).reshape(-1, 1, 1)
            total[:, :, :, i % sh, j % sw] += wave * W[None, :, :, i, j]
    return total.reshape(rows * cols, W.shape[0], -1)


LIPSCHITZ_CHECKS: Mapping[str, Check] = {"lipschitz": lipschitz}
