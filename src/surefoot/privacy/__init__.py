"""Private learning: a ledger of releases, exact accounting, private stationary points, gradient differences.

Names are loaded on first use.
"""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "accounting": ["Account", "account", "calibrated"],
        "gaussian_dp": ["delta_of", "epsilon_of", "mu_for"],
        "ledger": ["Budget", "BudgetSpentError", "Entry", "Ledger", "Release"],
        "linear": ["PrivateClassifier", "PrivateRegressor"],
        "mechanism": ["Gaussian", "gradient_bound", "system_normal"],
        "private_spider": ["PrivateSpiderBoost", "gradient_descent", "paper_schedule"],
        "projection": ["projected_dimension", "projection_matrix", "with_projection"],
        "records": ["LinearRecords", "ModuleRecords", "Records"],
        "recursive_regularization": ["RecursiveRegularization"],
        "risk": ["Penalty", "PrivateRisk", "bounded_rows", "linear_risk"],
        "tree_spider": ["TreeSpider"],
    },
)
