"""Training networks: layer-dropping Muon.

Names are loaded on first use.
"""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "drop_muon": ["DropMuon"],
        "drop_muon_split": ["SplitSequential"],
        "drop_muon_layers": ["execution_order", "layers_from_module"],
        "drop_muon_costs": ["CostModel", "count_costs", "measure_costs"],
        "drop_muon_sampling": [
            "Auto", "Cutoffs", "EpochShift", "Full", "Independent", "Scheduled", "Subsets", "Uniform", "epoch_shift",
            "optimal_cutoffs", "optimal_inclusion",
        ],
    },
)  # fmt: skip
