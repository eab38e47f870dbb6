"""Uniqueness of Nash equilibria: published games with known equilibria, and evidence that must not pass."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.games.logit import LogitResponse
from surefoot.games.nash import decide_nash
from surefoot.games.nash_search import is_only, proves, supports
from surefoot.games.problem import FiniteGame
from surefoot.games.verify import CHECKS
from surefoot.testing import SPOILS, spoil_tree

PENNIES = np.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
COORDINATION = np.array([np.diag([3.0, 2.0, 1.0])] * 2)


def jordan() -> FiniteGame:
    """Three-player matching pennies: 1 copies 2, 2 copies 3, 3 avoids 1 (Jordan 1993): only (1/2, 1/2) for everyone."""
    a = np.arange(2)
    same = (
        (a[:, None, None] == a[None, :, None]) + 0.0 * a,
        (a[None, :, None] == a[None, None, :]) + 0.0 * a[:, None, None],
    )
    return FiniteGame(np.stack([same[0], same[1], 1.0 - (a[:, None, None] == a[None, None, :]) * np.ones((2, 2, 2))]))


def nau_irrational() -> FiniteGame:
    """Nau, Canovas, Hansen 2004, section 4: a unique equilibrium, irrational although all payoffs are integers."""
    pay = [(3, 0, 2), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 0, 0), (0, 3, 0), (0, 1, 0), (2, 0, 3)]
    return FiniteGame(np.array(pay, dtype=float).T.reshape(3, 2, 2, 2).transpose(0, 3, 2, 1))


def nau_segment() -> FiniteGame:
    """Section 6 there: the equilibria are a line segment, x_1 = x_2 = (1/2, 1/2), x_3 = (t, t, 1/2 - t, 1/2 - t)."""
    pay = [
        (2, 0, 0), (0, 2, 1), (0, 1, 1), (1, 0, 2), (1, 0, 2), (0, 1, 1), (0, 2, 1), (2, 0, 0),
        (1, 0, 1), (0, 2, 0), (0, 1, 2), (2, 0, 1), (2, 0, 1), (0, 1, 2), (0, 2, 0), (1, 0, 1),
    ]  # fmt: skip
    return FiniteGame(np.array(pay, dtype=float).T.reshape(3, 4, 2, 2).transpose(0, 3, 2, 1))


def idle_fourth() -> FiniteGame:
    """Jordan's game with a fourth player who relabels the first one's actions and earns nothing: many equilibria."""
    base = jordan().payoffs
    other = base[:, ::-1]
    table = np.stack([base, other], axis=-1)
    return FiniteGame(np.concatenate([table, np.zeros((1, 2, 2, 2, 2))]))


def test_nash_decisions() -> None:
    assert decide_nash(FiniteGame(PENNIES)).outcome == "holds"
    several = decide_nash(FiniteGame(COORDINATION))
    assert (several.outcome, len(several.equilibria)) == ("fails", 7)
    dilemma = np.array(
        [[[[9.0, 0.0], [10.0, 1.0]]] * 2, [[[9.0, 10.0], [0.0, 1.0]]] * 2, [[[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2]]
    )
    third = decide_nash(FiniteGame(dilemma.transpose(0, 2, 3, 1)))
    assert (third.outcome, third.how) == ("holds", "dominance")


def test_published_games_of_three_players_are_decided() -> None:
    found = decide_nash(jordan())
    assert (found.outcome, found.how, found.equilibria) == ("holds", "search", ())
    assert found.enclosed[0] == pytest.approx(np.full(6, 0.5), abs=1e-12)
    irrational = decide_nash(nau_irrational())
    assert irrational.outcome == "holds"
    segment = decide_nash(nau_segment())
    assert segment.outcome == "fails"
    half = Fraction(1, 2)
    for profile in segment.equilibria:
        t = profile[2][0]
        assert profile == ((half, half), (half, half), (t, t, half - t, half - t))


def _pay(game: FiniteGame, i: int, action: int, first: tuple[float, ...]) -> float:
    x = [np.array([p, 1 - p]) for p in first]
    x[i] = np.eye(2)[action]
    return float(np.einsum("abc,a,b,c->", game.payoffs[i], *x))


def test_at_an_irrational_equilibrium_all_are_indifferent() -> None:
    game = nau_irrational()
    first = tuple(decide_nash(game).enclosed[0][::2])
    for i in range(3):
        assert _pay(game, i, 0, first) == pytest.approx(_pay(game, i, 1, first), abs=1e-12)


def test_a_proof_is_refused_off_the_equilibrium_and_beside_another_one() -> None:
    game = jordan()
    support = ((0, 1),) * 3
    assert proves(game, support, np.full(6, 0.5))
    assert not proves(game, support, np.full(6, 0.5) + 1e-6 * np.array([1, -1, 0, 0, 0, 0]))
    several = decide_nash(idle_fourth())
    assert several.outcome != "holds"
    only, why = is_only(FiniteGame(np.array([[[1.0, 0], [0, 1]]] * 2)), np.array([1.0, 0, 1, 0]))
    assert not only
    assert why


def test_supports_leave_out_what_is_beaten() -> None:
    dilemma = FiniteGame(np.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]]))
    assert list(supports(dilemma)) == [((1,), (1,))]


@pytest.mark.parametrize("game", [jordan(), nau_irrational(), nau_segment()], ids=["jordan", "irrational", "segment"])
def test_spoiled_nash_evidence_is_refuted(game: FiniteGame) -> None:
    result = solve(game, LogitResponse())
    certificate: Any = result.certificate
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
    content = certificate.evidence["nash.json"]
    spoiled = [
        {**content, part: changed}
        for part in ("equilibria", "enclosed")
        for how in SPOILS
        if (changed := spoil_tree(content[part], how)) is not None
    ]
    spoiled += [{**content, "how": "guess"}, {**content, "equilibria": [], "enclosed": []}]
    for tree in spoiled:
        bad = dataclasses.replace(certificate, evidence={**certificate.evidence, "nash.json": tree})
        assert any(v.verdict == "refuted" for v in verify(bad, CHECKS, game, result.answer)), tree


def test_one_of_several_equilibria_is_not_taken_for_the_only_one() -> None:
    """The checker itself must find that others are not excluded."""
    table = COORDINATION[:, :, :, None] * np.ones(2)
    game = FiniteGame(np.concatenate([table, np.zeros((1, 3, 3, 2))]))
    result = solve(game, LogitResponse())
    certificate: Any = result.certificate
    claim = certificate.claim("unique-nash")
    content = {**certificate.evidence["nash.json"], "how": "search"}
    content["equilibria"] = content["equilibria"][:1]
    lie = dataclasses.replace(claim, value=1, outcome="holds", reason="")
    bad = dataclasses.replace(certificate, claims=(lie,), evidence={**certificate.evidence, "nash.json": content})
    assert [v.verdict for v in verify(bad, CHECKS, game, result.answer)] == ["refuted"]


def test_large_tables_end_undecided_with_a_reason() -> None:
    """30 x 30: too many supports to look at all; 8 x 8 x 8: one equilibrium, others are not excluded."""
    generator = np.random.default_rng(0)
    wide = decide_nash(FiniteGame(generator.normal(size=(2, 30, 30))))
    assert wide.outcome == "undecided"
    assert "supports" in wide.reason or "excluded" in wide.reason
    deep = decide_nash(FiniteGame(np.random.default_rng(0).normal(size=(3, 8, 8, 8))))
    assert deep.outcome == "undecided"
    assert "others are excluded for at most 6 actions" in deep.reason


def test_supports_come_small_ones_first_without_listing_all() -> None:
    sizes = [sum(map(len, s)) for s in supports(FiniteGame(np.zeros((2, 40, 40))))]
    assert sizes == sorted(sizes)
    assert len(sizes) == 20_000
