"""Training networks: learning rates from curvature.

Names are loaded on first use.
"""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "curvature": ["CurvatureOperator", "directional_variance", "isotropic_variance", "microbatch_variance", "top_eigenpairs"],
        "spectral_law": [
            "debiased", "effective_batch", "largest_rate", "minimal_damping", "moved_eigenvalue", "scaled_rate", "spike_overlap",
        ],
        "spectral_method": ["MeasureRates"],
        "spectral_problem": ["Curvature", "Plan", "Rates"],
    },
)  # fmt: skip
