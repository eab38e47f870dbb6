"""CoLiDE as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from surefoot.causal.dag import Repair
from surefoot.causal.export import to_networkx, to_pgmpy
from surefoot.causal.kernel import Solver
from surefoot.causal.knowledge import Edge, Knowledge, Node, knowledge
from surefoot.causal.order_test import OrderTest, test_order
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Dag, Refine, Scaling, Variance, table
from surefoot.core.method import Status
from surefoot.core.solve import solve
from surefoot.data.tables import from_frame

if TYPE_CHECKING:
    import networkx as nx


class CoLiDE(BaseEstimator):
    """Learn a linear structural equation model X = X W + Z with an acyclic W from a table.

    Minimises the concomitant score `1/2 sum_j (R_jj / sigma_j + sigma_j) + lam ||W||_1`, R = (I - W)' S (I - W), along a
    central path towards acyclic W; the noise levels are estimated with the weights, so that one sparsity serves all noise
    levels. Under Gaussian noise of unequal variances data determine the graph only up to its Markov equivalence class.

    Args:
        variance: "unequal": one noise level a variable; "equal": one for all.
        sparsity: l1 weight lam, in the units of the data (see `scale`).
        threshold: edges of smaller magnitude are dropped.
        solver: "adam" as published, or "proximal" (exact zeros).
        repair: cycles left are broken at the weakest edge on a cycle ("cycles") or the weakest edge of all ("ascending", as
            published).
        refine: "order" repairs the causal order and refits (equal variances only).
        scale: "none", "global" (divide by the smallest standard deviation) or "unit" (each column by its own).
        exclude, require: edges (source, target) by column name or number.
        tiers: groups of variables from early to late, or a mapping variable -> tier.
        acyclicity_scales: s of every stage of the path.
        warm_steps, last_steps: most iterations of a stage, and of the last one.
        learning_rate, tolerance: of the inner loop.
        certify: make `certificate_` (costs about the time of a few least-squares fits for each variable).

    Attributes:
        adjacency_: (d, d) weights, row -> column, zero where there is no edge.
        noise_std_: (1,) or (d,) noise standard deviations.
        order_: (d,) column numbers, causes first.
        certificate_: claims about the graph, or None; `surefoot.verify(certificate_, ...)` checks them.
        order_test_: excess and p-values of the order under equal variances.
        scale_: (d,) what the columns were divided by. All weights and noise levels are in these units.
        n_iter_: iterations done.
        feature_names_in_: column names, where the input had them.

    Raises:
        ValueError: bad data or options, naming the column and what to do.

    References:
        Saboksayr, Mateos, Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024.
    """

    def __init__(
        self,
        *,
        variance: Variance = "unequal",
        sparsity: float = 0.05,
        threshold: float = 0.3,
        solver: Solver = "adam",
        repair: Repair = "cycles",
        refine: Refine = "none",
        scale: Scaling = "none",
        exclude: Sequence[Edge] = (),
        require: Sequence[Edge] = (),
        tiers: Sequence[Sequence[Node]] | Mapping[Node, int] = (),
        acyclicity_scales: Sequence[float] = (1.0, 0.9, 0.8, 0.7),
        warm_steps: int = 20_000,
        last_steps: int = 70_000,
        learning_rate: float = 3e-4,
        tolerance: float = 1e-6,
        certify: bool = True,
    ) -> None:
        self.variance: Variance = variance
        self.sparsity = sparsity
        self.threshold = threshold
        self.solver: Solver = solver
        self.repair: Repair = repair
        self.refine: Refine = refine
        self.scale: Scaling = scale
        self.exclude = exclude
        self.require = require
        self.tiers = tiers
        self.acyclicity_scales = acyclicity_scales
        self.warm_steps = warm_steps
        self.last_steps = last_steps
        self.learning_rate = learning_rate
        self.tolerance = tolerance
        self.certify = certify

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the graph of a table X (n, d): array or data frame. `y` is ignored; X is not changed."""
        method = self.method()
        if hasattr(X, "columns") and hasattr(X, "iloc"):
            from_frame(X)  # names the column that holds text or a missing value, which scikit-learn's check does not
        values: Any = validate_data(
            self, X, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2, ensure_min_features=2
        )
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{j}" for j in range(values.shape[1])])]
        problem = table(values, names, scale=self.scale, knowledge=self._knowledge(names))
        result = solve(problem, method, certify=self.certify)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt("interrupted while fitting")
        dag: Dag = result.answer
        self.dag_ = dag
        self.adjacency_ = dag.adjacency
        self.noise_std_ = dag.noise_std
        self.order_ = np.array(dag.order)
        self.certificate_ = result.certificate
        self.order_test_: OrderTest = test_order(problem.covariance, dag.order, problem.rows, problem.values)
        self.scale_ = problem.scale
        self.n_iter_ = max(1, result.steps)
        return self

    def method(self) -> ConcomitantPath:
        """The method that these options describe, for `surefoot.solve`."""
        return ConcomitantPath(
            variance=self.variance,
            sparsity=self.sparsity,
            acyclicity_scales=tuple(self.acyclicity_scales),
            warm_steps=self.warm_steps,
            last_steps=self.last_steps,
            learning_rate=self.learning_rate,
            tolerance=self.tolerance,
            solver=self.solver,
            threshold=self.threshold,
            repair=self.repair,
            refine=self.refine,
        )

    def to_networkx(self) -> nx.DiGraph:
        """The graph as a `networkx.DiGraph` with `weight` on its edges."""
        check_is_fitted(self)
        return to_networkx(self.dag_)

    def to_pgmpy(self) -> Any:
        """The graph as a `pgmpy.base.DAG` (pgmpy must be installed)."""
        check_is_fitted(self)
        return to_pgmpy(self.dag_)

    def _knowledge(self, names: Sequence[str]) -> Knowledge:
        return knowledge(names, self.exclude, self.require, self.tiers)
