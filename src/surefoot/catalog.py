"""The cards, as "module:CARD" strings; third parties add theirs through the entry-point group
`surefoot.systems`. Listing imports nothing heavy."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.core.system import Inputs, System, execute

if TYPE_CHECKING:
    from surefoot.core.certificate import Certificate
    from surefoot.core.solve import Result
    from surefoot.core.verify import Verdict

log = logging.getLogger(__name__)
GROUP = "surefoot.systems"
BUILT_IN: Mapping[str, str] = {
    "acceleration": "surefoot.descent.card:CARD",
    "backdoor-inversion": "surefoot.robustness.inversion_card:CARD",
    "colide": "surefoot.causal.card:CARD",
    "convex-relu": "surefoot.convex_networks.card:CARD",
    "convex-splatting": "surefoot.splatting.card:CARD",
    "dadao": "surefoot.decentralized.card:CARD",
    "diff2": "surefoot.privacy.diff2_card:CARD",
    "drop-muon": "surefoot.training.drop_muon_card:CARD",
    "private-stationary": "surefoot.privacy.stationary_card:CARD",
    "small-gain-nash": "surefoot.games.card:CARD",
    "randomized-smoothing": "surefoot.robustness.smoothing_card:CARD",
    "spectral-learning-rates": "surefoot.training.spectral_card:CARD",
}


class UnknownCardError(LookupError):
    """No card of that name; the message suggests the nearest ones."""


@cache
def cards() -> Mapping[str, System]:
    """All cards by name, built in first; one that fails to load is logged and left out."""
    built_in = [EntryPoint(name, target, GROUP) for name, target in BUILT_IN.items()]
    found: dict[str, System] = {}
    taken: set[str] = set()
    for entry in [*built_in, *sorted(entry_points(group=GROUP), key=lambda e: e.name)]:
        card = _loaded(entry)
        if card is None:
            continue
        if taken & {card.name, *card.aliases}:
            log.warning("card %s: the name %r is taken; it is left out", entry.value, card.name)
            continue
        taken |= {card.name, *card.aliases}
        found[card.name] = card
    return found


def _loaded(entry: EntryPoint) -> System | None:
    try:
        card = entry.load()
    except (Exception, SystemExit) as error:  # a broken card must not take the command down with it
        log.warning("card %s cannot be loaded: %s: %s", entry.value, type(error).__name__, error)
        return None
    if not isinstance(card, System):
        log.warning("card %s is not a surefoot System", entry.value)
        return None
    return card


def find(name: str) -> System:
    """The card of that name or alias.

    Raises:
        UnknownCardError: with the nearest names.
    """
    names = {alias: card for card in cards().values() for alias in (card.name, *card.aliases)}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(cards())}."
    raise UnknownCardError(f"no card {name!r}; {hint}")


def run(
    card: str, *inputs: str | Path, out: str | Path | None = None, preset: str = "default", **options: Any
) -> Result[Any]:
    """Run a card from Python: `run("colide", "table.csv", out="runs/mine", variant="nv")`.

    Args:
        inputs: files or recipes in the card's order; none takes the card's sample.
        out: a folder for the run; None writes nothing.
        options: fields of the card's options, over the preset's.

    Raises:
        UnknownCardError, ValueError, FileExistsError: bad names, bad options, `out` exists.
    """
    import dataclasses

    from surefoot.core.rundir import RunDir

    system = find(card)
    known = [f.name for f in dataclasses.fields(system.options)]
    for name in options.keys() - {*known}:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
        raise ValueError(f"card {system.name!r} has no option {name!r}; {hint}")
    chosen = dataclasses.replace(system.preset(preset), **options)
    roles = [spec.role for spec in system.inputs]
    if len(inputs) > len(roles):
        raise ValueError(
            f"card {system.name!r} takes at most {len(roles)} inputs ({', '.join(roles)}), got {len(inputs)}"
        )
    given = {role: str(path) for role, path in zip(roles, inputs, strict=False)}
    given = {role: str(Path(text).resolve()) if Path(text).exists() else text for role, text in given.items()}
    folder = None if out is None else RunDir.create(out)
    return execute(system, chosen, Inputs(given, trust=True), folder, preset=preset, given=given)


def verify(
    what: str | Path | Result[Any] | Certificate, problem: Any = None, answer: Any = None, **options: Any
) -> Sequence[Verdict]:
    """Check a run directory, or a result or certificate in process.

    Args:
        what: a run's folder; or a `Result` or `Certificate`, then with the `problem` (and the `answer`).
        options: `full`, `seed`; for a folder also `data`, `trust`, `write`.
    """
    from surefoot.core.rundir import RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import verify as verify_certificate
    from surefoot.core.verify import verify_run

    if isinstance(what, str | Path):
        return verify_run(what, find(RunReader(what).config["card"]), **options)
    if isinstance(what, Result):
        if what.certificate is None:
            raise ValueError("this result has no certificate (it was interrupted, or asked for without one)")
        what, answer = what.certificate, what.answer if answer is None else answer
    return verify_certificate(what, find(what.card).checks(), problem, answer, **options)
