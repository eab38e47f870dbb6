"""Structure learning: linear causal graphs from tables, with certificates. Names are loaded on first use."""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "estimator": ["CoLiDE"],
        "path": ["ConcomitantPath"],
        "problem": ["Dag", "Table", "table", "table_from_chunks"],
        "knowledge": ["Knowledge", "knowledge"],
        "order_refit": ["OrderFit", "refit_order"],
        "order_test": ["OrderTest", "greedy_order", "order_excess", "test_order"],
        "bootstrap": ["EdgeStability", "edge_stability"],
        "batch": ["fit_batch"],
        "export": ["read_dag", "to_networkx", "to_pgmpy", "write_dag"],
        "metrics": ["count_edges", "cpdag_distance", "structural_hamming_distance", "structural_intervention_distance"],
        "simulate": [
            "equal_variance_model",
            "random_dag",
            "random_weights",
            "simulate",
            "unequal_variance_model",
            "varsortability",
        ],
    },
)
