"""Training networks: layer-dropping Muon, learning rates from curvature.

Names are loaded on first use.
"""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "curvature": [
            "CurvatureOperator", "directional_variance", "isotropic_variance", "microbatch_variance", "preconditioned", "shrinkage",
            "top_eigenpairs",
        ],
        "drop_muon": ["DropMuon"],
        "drop_muon_split": ["SplitSequential"],
        "drop_muon_layers": ["execution_order", "layers_from_module"],
        "drop_muon_costs": ["CostModel", "count_costs", "measure_costs"],
        "drop_muon_sampling": [
            "Auto", "Cutoffs", "EpochShift", "Full", "Independent", "Scheduled", "Subsets", "Uniform", "epoch_shift",
            "optimal_cutoffs", "optimal_inclusion",
        ],
        "spectral_law": [
            "adam_rate", "covariance_eigenvalue", "debiased", "effective_batch", "largest_rate", "minimal_damping", "moved_eigenvalue", "scaled_damping",
            "scaled_rate", "spike_overlap",
        ],
        "spectral_method": ["MeasureRates"],
        "spectral_scheduler": ["CurvatureScheduler", "Learned", "learned_rate", "line_search_rate", "typical_curvature"],
        "spectral_problem": ["Curvature", "Plan", "Rates"],
        "spectral_ghost": ["GhostBatches", "in_ghost_batches"],
        "spectral_streams": ["BatchEdges", "StreamOperator", "batch_edges"],
    },
)  # fmt: skip
