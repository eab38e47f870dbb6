"""The tables of the benchmark: features with a column of ones, classes -1 and +1."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

Table = tuple[np.ndarray, np.ndarray]


def with_ones(X: np.ndarray) -> np.ndarray:
    return np.hstack([X, np.ones((len(X), 1))])


def standardised(X: np.ndarray) -> np.ndarray:
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def mammographic(data: Path) -> Table:
    """581 of the complete rows."""
    with (data / "convex-relu" / "mammographic_masses.csv").open() as stream:
        rows = [row for row in csv.reader(stream) if "?" not in row][1:]
    table = np.array(rows, dtype=float)
    table = table[np.random.default_rng(0).permutation(len(table))][:581]
    return with_ones(standardised(table[:, :5])), 2 * table[:, 5] - 1


def breast_cancer(rows: int = 569, columns: int = 30) -> Table:
    """scikit-learn's table, from the top."""
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    return with_ones(standardised(data.data[:rows, :columns])), 2.0 * data.target[:rows] - 1


def digits_binary() -> Table:
    """scikit-learn's 8 x 8 digits, threes against eights: 357 rows."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    kept = np.isin(data.target, (3, 8))
    return with_ones(standardised(data.data[kept])), np.where(data.target[kept] == 8, 1.0, -1.0)


def sine() -> Table:
    """Twelve normal points, y = sin(3 x)."""
    x = np.random.default_rng(1).standard_normal(12)
    return with_ones(x[:, None]), np.sin(3 * x)


def xor(seed: int = 0) -> Table:
    """24 points of the square, the sign of the product."""
    X = np.random.default_rng(seed).uniform(-1, 1, (24, 2))
    return with_ones(X), np.where(X[:, 0] * X[:, 1] > 0, 1.0, -1.0)


def birds_and_ships(data: Path) -> tuple[Table, Table]:
    """Training (1,200) and test (600) photos pooled to 7 x 7 x 3, in [0, 1]; -1 is a bird."""
    stored = np.load(data / "convex-relu" / "cifar10_bird_ship_16x16.npz")
    halves = []
    for part in ("train", "test"):
        pictures = stored[f"x_{part}"].astype(float) / 255
        edges = np.linspace(0, 16, 8)
        weights = np.clip(
            np.minimum(edges[1:, None], np.arange(1, 17)) - np.maximum(edges[:-1, None], np.arange(16)), 0, 1
        )
        weights /= weights.sum(axis=1, keepdims=True)  # area interpolation, (7, 16)
        pooled = np.einsum("ih,nhwc,jw->nijc", weights, pictures, weights).reshape(len(pictures), -1)
        halves.append((with_ones(pooled), stored[f"y_{part}"].astype(float)))
    return halves[0], halves[1]


def planted(n: int, columns: int) -> Table:
    """Gaussian rows with a noisy product as class, for timings."""
    rng = np.random.default_rng(0)
    X = with_ones(rng.normal(size=(n, columns - 1)))
    return X, np.sign(X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=n))
