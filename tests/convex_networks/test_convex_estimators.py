"""The estimators' own promises; scikit-learn's checks run over them with the contracts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

import surefoot
from surefoot.convex_networks import ConvexReLUClassifier, ConvexReLURegressor


def test_three_classes_and_their_certificate() -> None:
    X, y = load_iris(return_X_y=True)
    model = ConvexReLUClassifier(patterns=10, loss="logistic", penalty=3e-3, tolerance=5e-5).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.9
    shares = model.predict_proba(X[:4])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    verdicts = surefoot.verify(model.certificate_, model.program_, model.network_)
    assert {v.verdict for v in verdicts} == {"confirmed"}
    with torch.no_grad():
        np.testing.assert_allclose(model.to_torch()(torch.tensor(X)).numpy(), model.decision_function(X), atol=1e-10)


def test_two_targets_at_once() -> None:
    x = np.linspace(-1, 1, 40)[:, None]
    y = np.hstack([np.abs(x), 5 + np.maximum(x, 0)])
    model = ConvexReLURegressor(patterns=20, penalty=1e-4).fit(x, y)
    assert model.predict(x).shape == (40, 2)
    assert model.score(x, y) > 0.95


def test_auto_is_no_worse_than_its_local_runs_and_close_to_the_bound() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    model = ConvexReLUClassifier(patterns="auto", local_runs=2, penalty=1e-2).fit(X, y)
    claims = {c.name: c for c in model.certificate_.claims}
    assert claims["local_runs"].outcome == "holds"
    assert claims["global_gap"].kind == "proved"  # rank 3 with the bias
    assert float(claims["global_gap"].value) <= 1e-2  # type: ignore[arg-type]


def test_one_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"one class only \(3\)"):
        ConvexReLUClassifier().fit(np.eye(4), np.full(4, 3))
