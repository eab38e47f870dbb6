"""Convex two-layer ReLU networks as scikit-learn estimators."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from surefoot.convex_networks.export import to_onnx, to_torch
from surefoot.convex_networks.inner import SolverName
from surefoot.convex_networks.problem import Network, make_program
from surefoot.convex_networks.training import ConvexTraining
from surefoot.core.method import Status
from surefoot.core.solve import solve

Array = np.ndarray[Any, np.dtype[Any]]


class _ConvexNetwork(BaseEstimator):
    """What both estimators share."""

    def __init__(
        self,
        *,
        loss: str = "squared",
        penalty: float = 1e-3,
        radius: float = 0.0,
        patterns: int | Literal["auto"] = 100,
        rounds: int = 12,
        local_runs: int = 0,
        solver: SolverName = "auto",
        tolerance: float = 1e-5,
        max_iter: int = 4000,
        scale: bool = True,
        certify: bool = True,
        random_state: int | None = 0,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.radius = radius
        self.patterns: int | Literal["auto"] = patterns
        self.rounds = rounds
        self.local_runs = local_runs
        self.solver: SolverName = solver
        self.tolerance = tolerance
        self.max_iter = max_iter
        self.scale = scale
        self.certify = certify
        self.random_state = random_state

    def method(self) -> ConvexTraining:
        """The method that these options describe, for `surefoot.solve`."""
        auto = self.patterns == "auto"
        return ConvexTraining(
            arrangements=50 if isinstance(self.patterns, str) else self.patterns,
            pricing_rounds=self.rounds if auto else 0,
            local_runs=self.local_runs,
            solver=self.solver,
            tolerance=self.tolerance,
            iterations=self.max_iter,
        )

    def _train(self, X: Array, y: Array, classes: tuple[str, ...]) -> None:
        problem = make_program(
            X, y, loss=self.loss, penalty=self.penalty, scale=self.scale, radius=self.radius, classes=classes
        )
        seed = self.random_state
        if isinstance(seed, np.random.RandomState):  # scikit-learn hands such objects on
            seed = int(seed.randint(0, 2**31 - 1))
        result = solve(problem, self.method(), seed=seed, certify=self.certify)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt("interrupted while fitting")
        if result.status is Status.STOPPED:
            warnings.warn(result.reason, ConvergenceWarning, stacklevel=3)
        self.network_: Network = result.answer
        self.program_ = problem
        self.certificate_ = result.certificate
        self.n_iter_ = max(1, result.steps)

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self, "network_")
        return self.network_(np.asarray(validate_data(self, X, reset=False, dtype=np.float64)))

    def to_torch(self) -> Any:
        """The network as `torch.nn.Sequential(Linear, ReLU, Linear)` on raw tables."""
        check_is_fitted(self, "network_")
        return to_torch(self.network_)

    def to_onnx(self, path: Any, **options: Any) -> None:
        """The network as an ONNX file (extra `onnx`)."""
        check_is_fitted(self, "network_")
        to_onnx(self.network_, path, **options)


class ConvexReLUClassifier(ClassifierMixin, _ConvexNetwork):
    """A two-layer ReLU classifier, trained to the optimum of a convex program.

    Two classes give one network; more give one against the rest, all on the same hyperplanes.

    Args:
        loss: "squared", "logistic" or "hinge".
        penalty: weight decay beside the mean loss; the paper's beta is this times the number of rows.
        radius: train against perturbations of every cell up to this size, in standard deviations (or units, without scaling).
        patterns: hyperplanes drawn, or "auto": others are priced in until a bound over all networks is near.
        rounds: most rounds of pricing.
        local_runs: networks trained by Adam first, whose patterns join.
        solver, tolerance, max_iter: of each program.
        scale: standardise the columns.
        certify: make `certificate_`; `surefoot.verify(certificate_, program_, network_)` checks it.
        random_state: seed of the hyperplanes.

    Attributes:
        network_: the network on raw tables.
        certificate_: its claims, or None.
        program_: the problem that was solved.
        classes_, n_features_in_, n_iter_: as usual.

    Raises:
        ValueError: a single class, values that are not finite, options out of range.

    References:
        Bai, Gautam, Sojoudi, Efficient global optimization of two-layer ReLU networks, 2023.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, p) and labels y (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, of = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only ({self.classes_[0]}); a classifier needs rows of at least two")
        names = tuple(str(k) for k in self.classes_)
        two = len(names) == 2
        targets = (
            np.where(of == 1, 1.0, -1.0)[:, None] if two else np.where(of[:, None] == np.arange(len(names)), 1.0, -1.0)
        )
        self._train(X, targets, names)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores: (n,) for two classes, positive for `classes_[1]`; (n, C) otherwise."""
        scores = self._scores(X)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Array:
        """(n, C) shares by the logistic link at twice the score (exact for the logistic loss, a squashing otherwise)."""
        scores = np.clip(self._scores(X), -300, 300)
        chance = 1.0 / (1.0 + np.exp(-2.0 * scores))
        if len(self.classes_) == 2:
            return np.hstack([1.0 - chance, chance])
        return chance / chance.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """Labels (n,)."""
        scores = self._scores(X)
        places = (scores[:, 0] >= 0).astype(int) if len(self.classes_) == 2 else scores.argmax(axis=1)
        return self.classes_[places]


class ConvexReLURegressor(RegressorMixin, _ConvexNetwork):
    """A two-layer ReLU regressor, trained to the optimum of a convex program; several targets share the hyperplanes.

    Arguments and attributes are those of `ConvexReLUClassifier`; losses "squared", "huber", "quantile".

    Raises:
        ValueError: values that are not finite, options out of range.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (n, p) and y (n,) or (n, C)."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self._flat = y.ndim == 1
        targets = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        self.intercept_ = targets.mean(axis=0)
        self._train(X, targets - self.intercept_, ())
        return self

    def predict(self, X: Any) -> Array:
        """(n,) or (n, C)."""
        scores = self._scores(X) + self.intercept_
        return scores[:, 0] if self._flat else scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
