"""The torch optimisers of all domains, re-exported; no algorithm lives here."""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "surefoot.descent.optimizers": ["HB", "NAG", "RMM", "TMM"],
        "surefoot.training.drop_muon": ["DropMuon"],
        "surefoot.training.spectral_scheduler": ["CurvatureScheduler"],
    },
)
