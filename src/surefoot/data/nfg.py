"""Gambit's .nfg files: payoff tables of normal-form games, in the outcome and in the payoff form.

    NFG 1 R "title" { "player" ... } { { "action" ... } ... } "comment" { { "outcome" u_1, u_2 } ... } 1 2 3 ...
    NFG 1 D "title" { "player" ... } { m_1 m_2 ... } u_1 u_2 u_1 u_2 ...

Profiles run with the first player's action fastest; outcome 0 pays nothing. Numbers are integers, decimals or fractions.

References:
    The Gambit Project, "Game representation formats".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 64 << 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]|[^\s{},"]+')


class NfgError(ValueError):
    """A file that is not a whole .nfg game; the message says where it breaks."""


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A payoff table: `payoffs` (N, m_1, ..., m_N) to the nearest double, with its names."""

    title: str
    players: tuple[str, ...]
    actions: tuple[tuple[str, ...], ...]
    payoffs: np.ndarray[Any, np.dtype[np.float64]]


def read_nfg(path: Path) -> NormalForm:
    """Read a .nfg file.

    Raises:
        NfgError: the file is not a .nfg game, with the name of the file and what was expected.
    """
    if path.stat().st_size > MAX_BYTES:
        raise NfgError(f"{path.name} is larger than {MAX_BYTES} bytes")
    try:
        return parse_nfg(path.read_text(encoding="utf-8", errors="replace"))
    except NfgError as error:
        raise NfgError(f"{path.name}: {error}") from error


def parse_nfg(text: str) -> NormalForm:
    """Parse the text of a .nfg file.

    Raises:
        NfgError: with what was expected.
    """
    tokens = _Tokens(_TOKEN.findall(text))
    if tokens.next("the word NFG") != "NFG" or tokens.next("the version 1") != "1":
        raise NfgError("expected a file that begins with NFG 1")
    if tokens.next("R or D") not in ("R", "D"):
        raise NfgError("expected R or D after NFG 1")
    title = _text(tokens.next("the title"))
    players = tuple(_text(name) for name in tokens.group("the players"))
    if len(players) < 2:
        raise NfgError(f"the game has {len(players)} player(s); expected at least two")
    actions = _actions(tokens)
    if len(actions) != len(players):
        raise NfgError(f"{len(players)} players, but actions of {len(actions)}")
    if any(not a for a in actions):
        raise NfgError("a player has no action")
    if tokens.peek().startswith('"'):
        tokens.next("the comment")
    sizes = tuple(len(a) for a in actions)
    profiles = int(np.prod(sizes))
    flat = (
        _outcomes(tokens, len(players), profiles) if tokens.peek() == "{" else _payoffs(tokens, len(players), profiles)
    )
    table = np.stack([flat[:, i].reshape(sizes, order="F") for i in range(len(players))])
    return NormalForm(title, players, actions, table)


class _Tokens:
    def __init__(self, items: list[str]) -> None:
        self.items, self.place = items, 0

    def peek(self) -> str:
        return self.items[self.place] if self.place < len(self.items) else ""

    def next(self, what: str) -> str:
        if self.place >= len(self.items):
            raise NfgError(f"the file ends where {what} was expected")
        self.place += 1
        return self.items[self.place - 1]

    def expect(self, token: str, what: str) -> None:
        found = self.next(what)
        if found != token:
            raise NfgError(f"expected {token!r} at {what}, found {found!r}")

    def group(self, what: str) -> list[str]:
        self.expect("{", what)
        items: list[str] = []
        while self.peek() != "}":
            items.append(self.next(what))
            if items[-1] == "{":
                raise NfgError(f"a brace too many in {what}")
        self.next(what)
        return items

    def rest(self) -> list[str]:
        return self.items[self.place :]


def _text(token: str) -> str:
    return token[1:-1].replace('\\"', '"') if token.startswith('"') else token


def _actions(tokens: _Tokens) -> tuple[tuple[str, ...], ...]:
    start = tokens.place
    tokens.expect("{", "the actions")
    if tokens.peek() == "{":
        groups: list[tuple[str, ...]] = []
        while tokens.peek() == "{":
            groups.append(tuple(_text(name) for name in tokens.group("a player's actions")))
        tokens.expect("}", "the end of the actions")
        return tuple(groups)
    tokens.place = start
    counts = tokens.group("the numbers of actions")
    if any(not c.isdigit() or int(c) > 10_000 for c in counts):
        raise NfgError(f"the numbers of actions are {' '.join(counts)}; expected small positive integers")
    return tuple(tuple(str(a + 1) for a in range(int(c))) for c in counts)


def _number(token: str) -> float:
    try:
        value = float(Fraction(token))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise NfgError(f"{token!r} is not a payoff; expected integers, decimals or fractions") from error
    if not np.isfinite(value):
        raise NfgError(f"the payoff {token!r} is not finite")
    return value


def _payoffs(tokens: _Tokens, players: int, profiles: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = tokens.rest()
    if len(numbers) != players * profiles:
        raise NfgError(f"{len(numbers)} payoffs; {profiles} profiles of {players} players need {players * profiles}")
    return np.array([_number(t) for t in numbers]).reshape(profiles, players)


def _outcomes(tokens: _Tokens, players: int, profiles: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    tokens.expect("{", "the outcomes")
    table = [[0.0] * players]
    while tokens.peek() == "{":
        items = tokens.group(f"outcome {len(table)}")
        if not items or not items[0].startswith('"') or len(items) != players + 1:
            raise NfgError(
                f"outcome {len(table)} has {max(0, len(items) - 1)} payoffs; expected a name and {players} payoffs"
            )
        table.append([_number(t) for t in items[1:]])
    tokens.expect("}", "the end of the outcomes")
    picks = tokens.rest()
    if len(picks) != profiles:
        raise NfgError(f"{len(picks)} outcome numbers for {profiles} profiles")
    if any(not p.isdigit() or int(p) >= len(table) for p in picks):
        raise NfgError(f"an outcome number is not among 0 ... {len(table) - 1}")
    return np.array([table[int(p)] for p in picks])
