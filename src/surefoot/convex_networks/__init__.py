"""Two-layer ReLU networks as convex programs, with certificates. Names are loaded on first use."""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "estimator": ["ConvexReLUClassifier", "ConvexReLURegressor"],
        "problem": ["Network", "PatternProgram", "Scaling", "make_program"],
        "sampled": ["Sampled", "SampledTraining", "train_sampled"],
        "training": ["ConvexTraining"],
        "patterns": ["PatternSet", "cell_count", "sample_patterns"],
        "export": ["read_network", "to_onnx", "to_torch", "write_network"],
    },
)
