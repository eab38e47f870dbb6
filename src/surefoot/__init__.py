"""Surefoot: optimisation that shows its evidence.

Every answer comes with a certificate that independent code can check again. `surefoot.run` runs a card,
`surefoot.solve` a method on a problem, `surefoot.verify` checks what came out.
"""

from surefoot._lazy import lazy_exports

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "catalog": ["cards", "find", "run", "verify"],
        "core.solve": ["Budget", "Result", "solve"],
        "core.problem": ["Constant", "Objective"],
        "data.linear_model": ["LinearModel"],
    },
)
__all__ += ["__version__"]
