"""The contracts: what a problem, a method, a certificate, a card and a run are. No algorithms.

Reading order for a newcomer: problem, method, solve, certificate, verify, system.
Names are loaded on first use, so that `surefoot list` needs no torch.
"""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "problem": [
            "Bilevel", "Consensus", "Constant", "FiniteSum", "Game", "Objective", "Problem", "Stream", "Training",
        ],
        "random": ["Streams"],
        "method": ["Look", "Method", "State", "Status", "transient"],
        "solve": ["Budget", "Moment", "Result", "iterate", "solve"],
        "certificate": ["Certificate", "Claim", "Confidence", "Premise", "capped"],
        "verify": ["Dossier", "Verdict", "compare", "refute", "unchecked", "verify", "verify_run"],
        "checkpoint": ["Every", "load_checkpoint", "save_checkpoint"],
        "rundir": ["RunDir", "RunReader"],
        "system": ["Figure", "InputSpec", "Inputs", "Paper", "Sample", "System", "TourStop", "Traits", "execute"],
    },
)  # fmt: skip
