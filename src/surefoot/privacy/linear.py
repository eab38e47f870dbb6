"""Private linear models in scikit-learn's habits. There is no `partial_fit`: every further pass would be a further release."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from surefoot.core.solve import solve
from surefoot.numerics.losses import Huber, Logistic, Loss, Sigmoid
from surefoot.privacy.ledger import Budget
from surefoot.privacy.private_spider import PrivateSpiderBoost
from surefoot.privacy.risk import Penalty, linear_risk

Array = np.ndarray[Any, np.dtype[Any]]


class _PrivateLinear(BaseEstimator):
    """What both models share."""

    def __init__(
        self, epsilon: float = 1.0, delta: float | None = None, *, feature_bound: float = 1.0, fit_intercept: bool = True,
        penalty: Literal["none", "ridge", "bounded"] = "ridge", penalty_weight: float = 1e-3, iterations: int = 400, phase: int = 0,
        step_size: float | None = None, query_share: float = 0.2, neighbours: Literal["replace", "add-remove"] = "replace",
        allow_large_delta: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.epsilon, self.delta, self.feature_bound, self.fit_intercept = epsilon, delta, feature_bound, fit_intercept
        self.penalty: Literal["none", "ridge", "bounded"] = penalty
        self.neighbours: Literal["replace", "add-remove"] = neighbours
        self.penalty_weight, self.iterations, self.phase = penalty_weight, iterations, phase
        self.step_size, self.query_share = step_size, query_share
        self.allow_large_delta, self.random_state = allow_large_delta, random_state

    def _fit(self, X: Any, y: Array, loss: Loss) -> None:
        """Search, certify, keep what was released."""
        problem = linear_risk(
            torch.from_numpy(np.array(X, dtype=np.float64)), torch.from_numpy(y.astype(np.float64)), loss,
            bound=self.feature_bound, intercept=self.fit_intercept, penalty=Penalty(self.penalty, self.penalty_weight),
        )  # fmt: skip
        delta = 0.1 / problem.size if self.delta is None else self.delta
        method = PrivateSpiderBoost(
            budget=Budget(self.epsilon, delta, self.neighbours), iterations=self.iterations, phase=self.phase,
            step_size=self.step_size, query_share=self.query_share, allow_large_delta=self.allow_large_delta,
        )  # fmt: skip
        seed = None if self.random_state is None else int(check_random_state(self.random_state).randint(2**31 - 1))
        result = solve(problem, method, seed=seed)
        weights = result.answer.numpy()
        cut = len(weights) - int(self.fit_intercept)
        self._weights, self._offset = weights[:cut], float(weights[cut]) if self.fit_intercept else 0.0
        assert result.certificate is not None
        self.certificate_, self.n_iter_ = result.certificate, self.iterations
        self.private_ = seed is None
        self.epsilon_, self.delta_ = float(self.epsilon), float(delta)
        names = [claim.name for claim in result.certificate.claims]
        bound: Any = result.certificate.claim("gradient_bound").value if "gradient_bound" in names else np.inf
        self.certified_gradient_norm_ = float(bound)

    def _scores(self, X: Any) -> Array:
        """Bounded rows times the weights, as in training."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows * np.minimum(1.0, self.feature_bound / np.maximum(lengths, 1e-300)) @ self._weights + self._offset


class PrivateClassifier(ClassifierMixin, _PrivateLinear):
    """Private logistic regression (or the bounded sigmoid loss) for two classes.

    Minimises `mean loss + penalty` by Private SpiderBoost (phase 1, the default, is DP gradient descent: see there); the rows are scaled down to norm `feature_bound` one by one, here and
    when predicting. The two class names are taken to be public.

    Args:
        epsilon, delta: the budget; delta None is 1 / (10 n).
        feature_bound: public bound of the rows' norm.
        loss: "logistic" or "sigmoid" (not convex).
        penalty, penalty_weight: public term of the objective.
        iterations, phase, step_size: see `PrivateSpiderBoost`.
        query_share: of the budget, for the certificate.
        neighbours: "replace" or "add-remove".
        random_state: None draws noise from system entropy. Anything else fixes the noise, so that nothing is hidden: `private_` is
            then False and the certificate's privacy claim fails. It exists for tests.

    Attributes:
        coef_ (1, d), intercept_ (1,), classes_ (2,); certified_gradient_norm_, epsilon_, delta_, private_, certificate_.
    """

    def __init__(
        self, epsilon: float = 1.0, delta: float | None = None, *, loss: Literal["logistic", "sigmoid"] = "logistic",
        feature_bound: float = 1.0, fit_intercept: bool = True, penalty: Literal["none", "ridge", "bounded"] = "ridge",
        penalty_weight: float = 1e-3, iterations: int = 400, phase: int = 0, step_size: float | None = None, query_share: float = 0.2,
        neighbours: Literal["replace", "add-remove"] = "replace", allow_large_delta: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            epsilon, delta, feature_bound=feature_bound, fit_intercept=fit_intercept, penalty=penalty, penalty_weight=penalty_weight,
            iterations=iterations, phase=phase, step_size=step_size, query_share=query_share, neighbours=neighbours,
            allow_large_delta=allow_large_delta, random_state=random_state,
        )  # fmt: skip
        self.loss = loss

    def fit(self, X: Any, y: Any) -> PrivateClassifier:
        """Fit to X (n, d) and two classes y (n,).

        Raises:
            ValueError: other than two classes, NaN, delta >= 1/n.
        """
        rows, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target has {len(self.classes_)} classes."
            )
        if len(self.classes_) < 2:
            raise ValueError("y holds 1 class; expected two classes")
        loss = {"logistic": Logistic, "sigmoid": Sigmoid}[self.loss]()
        self._fit(rows, np.where(y == self.classes_[1], 1.0, -1.0), loss)
        self.coef_, self.intercept_ = self._weights[None], np.array([self._offset])
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores (n,), positive for the second class."""
        return self._scores(X)

    def predict(self, X: Any) -> Array:
        """Classes (n,)."""
        chosen = (self._scores(X) > 0).astype(int)
        return self.classes_[chosen]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.poor_score = True  # a budget of 1 on a handful of records leaves noise
        return tags

    def predict_proba(self, X: Any) -> Array:
        """Chances (n, 2) of the classes under the logistic model."""
        from scipy.special import expit

        chance = expit(self._scores(X))
        return np.column_stack([1.0 - chance, chance])


class PrivateRegressor(RegressorMixin, _PrivateLinear):
    """Private linear regression with Huber's loss.

    Args:
        knee: residual, in the target's unit, beyond which the loss grows linearly; it bounds one record's pull, so choose it
            without the data.
        Others: as in `PrivateClassifier`.

    Attributes:
        coef_ (d,), intercept_; certified_gradient_norm_, epsilon_, delta_, private_, certificate_.
    """

    def __init__(
        self, epsilon: float = 1.0, delta: float | None = None, *, knee: float = 1.0, feature_bound: float = 1.0,
        fit_intercept: bool = True, penalty: Literal["none", "ridge", "bounded"] = "ridge", penalty_weight: float = 1e-3,
        iterations: int = 400, phase: int = 0, step_size: float | None = None, query_share: float = 0.2,
        neighbours: Literal["replace", "add-remove"] = "replace", allow_large_delta: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            epsilon, delta, feature_bound=feature_bound, fit_intercept=fit_intercept, penalty=penalty, penalty_weight=penalty_weight,
            iterations=iterations, phase=phase, step_size=step_size, query_share=query_share, neighbours=neighbours,
            allow_large_delta=allow_large_delta, random_state=random_state,
        )  # fmt: skip
        self.knee = knee

    def fit(self, X: Any, y: Any) -> PrivateRegressor:
        """Fit to X (n, d) and numbers y (n,).

        Raises:
            ValueError: NaN, delta >= 1/n.
        """
        rows, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._fit(rows, np.asarray(y, dtype=np.float64), Huber(self.knee))
        self.coef_, self.intercept_ = self._weights, self._offset
        return self

    def predict(self, X: Any) -> Array:
        """Numbers (n,)."""
        return self._scores(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # see PrivateClassifier
        return tags
