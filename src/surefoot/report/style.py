"""One look for all figures."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

COLOURS = ("#1f5f8b", "#d1603d", "#3f8f5f", "#8a5fa8", "#b8860b", "#5f6b76", "#c2447a", "#2b8f8f")


@contextmanager
def styled() -> Generator[None]:
    """Matplotlib settings for the duration: no display, readable sizes, quiet axes, text kept as text."""
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a939c", "axes.grid": True,
        "grid.color": "#e3e7ea", "grid.linewidth": 0.7, "axes.axisbelow": True, "axes.titlesize": 11, "axes.labelsize": 10,
        "axes.titleweight": "bold", "xtick.color": "#4a545e", "ytick.color": "#4a545e", "xtick.labelsize": 9,
        "ytick.labelsize": 9, "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8, "figure.figsize": (7.0, 4.0),
        "figure.dpi": 110, "savefig.bbox": "tight", "figure.constrained_layout.use": True, "font.family": "sans-serif",
        "svg.fonttype": "path", "svg.hashsalt": "surefoot", "image.cmap": "viridis",
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield
