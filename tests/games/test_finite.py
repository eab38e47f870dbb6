"""Payoff tables: the reader, logit equilibria, Nash uniqueness, and the 52 games of the literature where they are at hand."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.data.nfg import NfgError, parse_nfg, read_nfg
from surefoot.games.certify_finite import certify_logit
from surefoot.games.logit import LogitResponse, certified_precision, logit_equilibria
from surefoot.games.problem import FiniteGame
from surefoot.games.verify import CHECKS
from surefoot.testing import SPOILS, spoil_tree

PENNIES = np.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
COORDINATION = np.array([np.diag([3.0, 2.0, 1.0])] * 2)
OUTCOMES = 'NFG 1 R "t" { "A" "B" } { { "u" "d" } { "l" "m" "r" } } "" { { "" 1, 1/2 } { "x" -2.5 3 } } 1 2 0 1 2 2'


def test_both_forms_of_nfg() -> None:
    game = parse_nfg(OUTCOMES)
    assert game.payoffs[0].tolist() == [[1, 0, -2.5], [-2.5, 1, -2.5]]
    assert game.payoffs[1].tolist() == [[0.5, 0, 3], [3, 0.5, 3]]
    plain = parse_nfg('NFG 1 D "t" { "A" "B" } { 2 2 } 1 2 3 4 5 6 7 8')
    assert plain.payoffs[0].tolist() == [[1, 5], [3, 7]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EFG 2", "begins with NFG"),
        ('NFG 1 R "t" { "A" } { 2 } 1 2', "at least two"),
        ('NFG 1 R "t" { "A" "B" } { 2 2 } 1 2 3', "need 8"),
        ('NFG 1 R "t" { "A" "B" } { 2 2 } 1 2 3 4 5 6 7 nan', "not a payoff"),
        ('NFG 1 R "t" { "A" "B" } { 2 ', "ends where"),
        (OUTCOMES.replace("2 2", "2 7"), "not among"),
        (OUTCOMES.replace("1/2", "1/0"), "not a payoff"),
    ],
)
def test_malformed_nfg_is_refused(text: str, message: str) -> None:
    with pytest.raises(NfgError, match=message):
        parse_nfg(text)


@pytest.mark.parametrize(
    ("payoffs", "message"),
    [
        ([[[1, 2], [3]], [[1, 2], [3, 4]]], "ragged"),
        (np.zeros((1, 2)), "one player"),
        (np.zeros((2, 2)), "N axes"),
        (np.full((2, 2, 2), np.nan), "NaN"),
        (np.zeros((2, 0, 2)), "no action"),
    ],
)
def test_bad_payoffs_are_refused(payoffs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteGame(payoffs)  # type: ignore[arg-type]


def test_logit_equilibrium_is_unique_from_everywhere_and_its_bound_is_true() -> None:
    game = FiniteGame(PENNIES)
    assert certified_precision(game) == pytest.approx(1.6330, abs=1e-4)
    found = logit_equilibria([game])[0]
    assert found.unique
    assert found.error.max() <= 1e-12
    generator = np.random.default_rng(0)
    for _ in range(50):
        start = np.concatenate([generator.dirichlet(np.ones(2)), generator.dirichlet(np.ones(2))])
        other = solve(game, LogitResponse(newton=False, nash=False, tolerance=1e-13), start=start).answer
        assert np.abs(other - found.strategies).max() < 1e-11


def test_batches_equal_single_games() -> None:
    generator = np.random.default_rng(3)
    games = [
        FiniteGame(generator.normal(size=(2, 3, 2))),
        FiniteGame(PENNIES),
        FiniteGame(generator.normal(size=(3, 2, 2, 4))),
    ]
    for game, together in zip(games, logit_equilibria(games), strict=True):
        assert together.strategies == pytest.approx(logit_equilibria([game])[0].strategies, abs=1e-13)
        x = game.split(together.strategies)
        u = np.einsum("ij,j->i" if game.players == 2 else "ijk,j,k->i", game.payoffs[0], *x[1:])
        response = np.exp((u - u.max()) / together.temperature)
        assert response / response.sum() == pytest.approx(x[0], abs=1e-13)


@pytest.mark.parametrize("payoffs", [PENNIES, COORDINATION + np.arange(9).reshape(3, 3) / 7])
def test_spoiled_finite_evidence_is_refuted(payoffs: np.ndarray) -> None:
    game = FiniteGame(payoffs)
    result = solve(game, LogitResponse())
    certificate = result.certificate
    assert certificate is not None
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
    for name, content in certificate.evidence.items():
        for part, value in content.items():
            for how in SPOILS:
                spoiled = spoil_tree(value, how)
                if spoiled is None:
                    continue
                bad = dataclasses.replace(
                    certificate, evidence={**certificate.evidence, name: {**content, part: spoiled}}
                )
                assert any(v.verdict == "refuted" for v in verify(bad, CHECKS, game, result.answer)), (name, part, how)
    for how in SPOILS:
        spoiled = spoil_tree(result.answer, how)
        if spoiled is not None:
            assert any(v.verdict == "refuted" for v in verify(certificate, CHECKS, game, spoiled)), how


def collection() -> list[Path]:
    folder = Path(os.environ.get("SUREFOOT_DATA", "")) / "small-gain-nash" / "nfg"
    return sorted(folder.glob("*.nfg")) if os.environ.get("SUREFOOT_DATA") else []


@pytest.mark.skipif(not collection(), reason="SUREFOOT_DATA does not hold the .nfg collection")
def test_all_games_of_the_collection() -> None:
    games = [FiniteGame(read_nfg(path).payoffs) for path in collection()]
    assert len(games) == 52
    outcomes = []
    for game, found in zip(games, logit_equilibria(games), strict=True):
        assert found.unique
        assert found.error.max() <= 1e-12
        certificate = certify_logit(game, found.strategies)
        assert {v.verdict for v in verify(certificate, CHECKS, game, found.strategies)} == {"confirmed"}
        outcomes.append(certificate.claim("unique-nash").outcome)
    assert {o: outcomes.count(o) for o in ("holds", "fails", "undecided")} == {"holds": 12, "fails": 40, "undecided": 0}
