"""Closed forms, LAPACK and networkx against the card's own numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from surefoot_eigenpair.method import PowerIteration
from surefoot_eigenpair.problem import Array, Eigenpair, Symmetric, read_matrix
from surefoot_eigenpair.verify import exact_residual

import surefoot
from surefoot.core.solve import Budget, solve


def claims(result: Any) -> dict[str, Any]:
    return {claim.name: claim for claim in result.certificate.claims}


def verdicts(result: Any, problem: Symmetric) -> dict[str, str]:
    return {verdict.claim: verdict.verdict for verdict in surefoot.verify(result, problem)}


def run(
    matrix: Array, method: PowerIteration | None = None, accuracy: float = 1e-10, steps: int = 20_000
) -> tuple[Any, Symmetric]:
    problem = Symmetric(matrix, accuracy)
    return solve(problem, method or PowerIteration(), budget=Budget(steps=steps)), problem


def laplacian(size: int) -> Array:
    return np.asarray(2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1))


def with_spectrum(values: list[float], seed: int) -> Array:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = basis @ np.diag(values) @ basis.T
    return np.asarray((matrix + matrix.T) / 2)


@pytest.mark.parametrize("size", [2, 3, 10, 57])
def test_complete_graph(size: int) -> None:
    result, problem = run(np.ones((size, size)) - np.eye(size) + np.eye(size) * 0.5)
    assert result.answer.value == pytest.approx(size - 0.5, rel=1e-12)
    np.testing.assert_allclose(result.answer.vector, np.full(size, size**-0.5), atol=1e-8)
    assert claims(result)["largest"].outcome == "holds"
    assert verdicts(result, problem) == {"residual": "confirmed", "largest": "confirmed", "rate": "confirmed"}


@pytest.mark.parametrize("momentum", [0.0, 2.5])
def test_laplacian_of_a_path(momentum: float) -> None:
    size = 9
    result, problem = run(laplacian(size), PowerIteration(momentum))
    assert result.answer.value == pytest.approx(2 + 2 * math.cos(math.pi / (size + 1)), rel=1e-12)
    mode = np.sin(np.arange(1, size + 1) * size * math.pi / (size + 1)) * math.sqrt(2 / (size + 1))
    assert abs(float(mode @ result.answer.vector)) == pytest.approx(1, abs=1e-12)
    assert set(verdicts(result, problem).values()) == {"confirmed"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(4, 1.0), (30, -1.0), (80, 1.0)])
def test_against_eigh(seed: int, shape: tuple[int, float]) -> None:
    size, sign = shape
    rest = np.random.default_rng(seed).uniform(-0.8, 0.8, size - 1).tolist()
    matrix = with_spectrum([sign, *rest], seed)
    result, problem = run(matrix)
    values, vectors = np.linalg.eigh(matrix)
    index = int(np.abs(values).argmax())
    found = claims(result)
    assert abs(result.answer.value - values[index]) <= found["residual"].value
    assert abs(float(vectors[:, index] @ result.answer.vector)) == pytest.approx(1, abs=1e-12)
    assert np.sort(np.abs(values))[-2] <= found["largest"].value
    assert found["largest"].outcome == "holds"
    assert set(verdicts(result, problem).values()) == {"confirmed"}


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_the_bounds_hold_before_convergence(steps: int) -> None:
    for seed in range(10):
        matrix = with_spectrum([1.0, -0.97, 0.9, 0.3, 0.1, -0.5], seed)
        result, problem = run(matrix, steps=steps)
        spectrum = np.linalg.eigvalsh(matrix)
        found = claims(result)
        assert np.abs(spectrum - result.answer.value).min() <= found["residual"].value
        assert np.sort(np.abs(spectrum))[-2] <= found["largest"].value
        assert found["residual"].outcome == "fails"
        assert "refuted" not in verdicts(result, problem).values()


def test_the_rate_is_the_ratio_of_eigenvalues() -> None:
    result, _ = run(with_spectrum([1.0, 0.8, 0.1, 0.05], 3))
    assert claims(result)["rate"].value == pytest.approx(0.8, rel=1e-6)


def test_momentum_takes_fewer_iterations() -> None:
    matrix = with_spectrum([1.0, 0.99, *np.linspace(-0.9, 0.9, 20).tolist()], 4)
    plain, _ = run(matrix)
    quick, _ = run(matrix, PowerIteration(momentum=0.99**2 / 4))
    assert len(quick.certificate.evidence["iterations.npz"]["residual"]) * 4 < len(
        plain.certificate.evidence["iterations.npz"]["residual"]
    )
    # At the best momentum the residual shrinks, up to a slow factor, by (second / first) / (1 + sqrt(1 - (second / first)^2)).
    assert claims(quick)["rate"].value == pytest.approx(0.99 / (1 + math.sqrt(1 - 0.99**2)), rel=0.02)


def test_opposite_eigenvalues_are_told_as_failure() -> None:
    path = np.eye(6, k=1) + np.eye(6, k=-1)  # bipartite: the spectrum is symmetric about 0
    result, problem = run(path, steps=500)
    assert claims(result)["residual"].outcome == "fails"
    assert claims(result)["largest"].outcome == "undecided"
    assert claims(result)["largest"].reason
    assert claims(result)["rate"].outcome == "fails"
    assert "refuted" not in verdicts(result, problem).values()


def test_a_double_eigenvalue_is_undecided() -> None:
    result, problem = run(np.diag([1.0, 1.0, 0.5, 0.1]))
    assert result.answer.value == pytest.approx(1, rel=1e-12)
    assert claims(result)["residual"].outcome == "holds"
    assert claims(result)["largest"].outcome == "undecided"
    assert "refuted" not in verdicts(result, problem).values()


def test_the_zero_matrix() -> None:
    result, problem = run(np.zeros((3, 3)))
    assert result.answer.value == 0
    assert "refuted" not in verdicts(result, problem).values()


def test_scale_and_sign() -> None:
    matrix = with_spectrum([1.0, 0.5, -0.3, 0.2], 5)
    result, _ = run(matrix)
    for factor in (1e-100, 1e100, -1.0):
        scaled, problem = run(matrix * factor)
        assert scaled.answer.value == pytest.approx(result.answer.value * factor, rel=1e-9)
        assert set(verdicts(scaled, problem).values()) == {"confirmed"}


def test_eigenvector_centrality_of_the_sample() -> None:
    graph = nx.karate_club_graph()
    result, _ = run(np.asarray(nx.to_numpy_array(graph, weight=None)))
    centrality = nx.eigenvector_centrality_numpy(graph)
    np.testing.assert_allclose(result.answer.vector, [centrality[node] for node in graph], atol=1e-8)


def test_the_exact_residual_sees_through_cancellation() -> None:
    # (A v)_1 = 1e16 + 1 - 1e16: a plain sum of doubles may lose the 1.
    matrix = np.array([[1e16, 1.0, -1e16], [1.0, 0.0, 0.0], [-1e16, 0.0, 0.0]])
    vector = np.ones(3)
    expected = math.sqrt(1 + 1 + 1e32) / math.sqrt(3)
    assert exact_residual(matrix, Eigenpair(0.0, vector)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n2,1,4\n", "shape \\(2, 3\\); expected a square"),
        ("1,2\n3,1\n", "entry \\(1, 2\\) is 2.0 but entry \\(2, 1\\) is 3.0; expected"),
        ("1,nan\nnan,1\n", "2 NaN or infinite entries, the first in row 1, column 2; expected"),
        ("1,inf\ninf,1\n", "NaN or infinite"),
        ("a,b\n1,2\n2,1\n", "row 1, column 1 holds the text 'a'; expected a number"),
        ("1,\n2,1\n", "row 1, column 2 holds nothing; expected a number"),
        ("1,2\n2\n", "row 2 has 1 cells and row 1 has 2; expected"),
        ("7\n", "1 x 1; expected at least 2 x 2"),
        ("\n", "empty; expected"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Symmetric(read_matrix(path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([["a", "b"], ["b", "a"]]), "expected real numbers"),
        (np.eye(2) * 1j, "complex Hermitian"),
        (np.ones(4), "expected a square"),
        (np.array([[{}, 1], [1, {}]], dtype=object), "not a readable .npy array"),
    ],
)
def test_bad_arrays(array: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        Symmetric(read_matrix(tmp_path / "matrix.npy"))


def test_npy_and_csv_read_the_same(tmp_path: Path) -> None:
    matrix = with_spectrum([1.0, 0.4, 0.3], 6)
    np.save(tmp_path / "matrix.npy", matrix)
    lines = [",".join(repr(float(entry)) for entry in row) for row in matrix]
    (tmp_path / "matrix.csv").write_text("\n".join(lines) + "\n")
    np.testing.assert_array_equal(read_matrix(tmp_path / "matrix.npy"), matrix)
    np.testing.assert_array_equal(read_matrix(tmp_path / "matrix.csv"), matrix)


def test_bad_hyper_parameters() -> None:
    with pytest.raises(ValueError, match="momentum is -1"):
        PowerIteration(momentum=-1)
    with pytest.raises(ValueError, match="squarings is 99"):
        PowerIteration(squarings=99)
    with pytest.raises(ValueError, match="accuracy is 0"):
        Symmetric(np.eye(2), 0.0)
    with pytest.raises(ValueError, match="cannot converge"):
        run(np.eye(2), PowerIteration(momentum=1.0))
