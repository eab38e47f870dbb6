"""Direct Clarabel calls against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from surefoot.numerics.conic import distance_outside, pack_symmetric, quadratic_program, solve_conic, unpack_symmetric


def test_packing_keeps_inner_products_and_comes_back() -> None:
    rng = np.random.default_rng(0)
    a, b = (m + m.T for m in rng.normal(size=(2, 5, 5)))
    assert pack_symmetric(a) @ pack_symmetric(b) == pytest.approx(np.trace(a @ b))
    np.testing.assert_allclose(unpack_symmetric(pack_symmetric(a)), a)


def test_semidefinite_program_gives_the_largest_eigenvalue() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(6, 6))
    a = a + a.T
    # min t with t I - A >= 0; the multiplier is the projector on the leading eigenvector.
    found = solve_conic(np.ones(1), -pack_symmetric(np.eye(6))[:, None], -pack_symmetric(a), [("semidefinite", 6)])
    values, vectors = np.linalg.eigh(a)
    assert found.solved
    assert found.value == pytest.approx(values[-1], abs=1e-7)
    assert found.gap == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(unpack_symmetric(found.z), np.outer(vectors[:, -1], vectors[:, -1]), atol=1e-5)
    assert max(found.primal_residual, found.dual_residual) < 1e-6


def test_second_order_cone_gives_a_norm() -> None:
    target = np.array([3.0, -4.0])
    rows = np.vstack([[-1.0], np.zeros((2, 1))])
    found = solve_conic(np.ones(1), rows, np.concatenate([[0.0], target]), [("second_order", 3)])
    assert found.value == pytest.approx(5.0, abs=1e-7)


def test_linear_and_quadratic_programs_match_scipy_and_kkt() -> None:
    rng = np.random.default_rng(2)
    G, h, c = rng.normal(size=(12, 4)), rng.uniform(1, 2, size=12), rng.normal(size=4)
    box = np.vstack([np.eye(4), -np.eye(4)]), np.full(8, 3.0)
    upper = np.vstack([G, box[0]]), np.concatenate([h, box[1]])
    ours = quadratic_program(np.zeros((4, 4)), c, upper=upper)
    assert ours.value == pytest.approx(linprog(c, *upper, bounds=(None, None)).fun, abs=1e-7)
    P = G.T @ G
    equal = np.ones((1, 4)), np.array([1.0])
    bowl = quadratic_program(P, c, equal=equal)
    kkt = np.block([[P, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    np.testing.assert_allclose(bowl.x, np.linalg.solve(kkt, np.append(-c, 1.0))[:4], atol=1e-6)


def test_residuals_are_not_taken_on_trust() -> None:
    cones = [("zero", 1), ("nonnegative", 2), ("second_order", 2), ("semidefinite", 2)]
    inside = np.array([0.0, 1.0, 0.0, 2.0, -1.0, 1.0, 0.0, 1.0])
    assert distance_outside(inside, cones) == 0
    for place, value, by in ((0, 0.3, 0.3), (2, -0.2, 0.2), (4, 2.5, 0.5), (7, -0.7, 0.7)):
        spoiled = inside.copy()
        spoiled[place] = value
        assert distance_outside(spoiled, cones) == pytest.approx(by)


def test_infeasible_and_bad_data_are_said() -> None:
    rows = np.array([[1.0], [-1.0]])
    assert not solve_conic(np.ones(1), rows, np.array([-1.0, -1.0]), [("nonnegative", 2)]).solved
    with pytest.raises(ValueError, match="shape"):
        solve_conic(np.ones(1), rows, np.zeros(3), [("nonnegative", 3)])
    with pytest.raises(ValueError, match="finite"):
        solve_conic(np.ones(1), rows, np.array([np.nan, 0.0]), [("nonnegative", 2)])
