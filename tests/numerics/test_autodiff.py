"""Derivative products against dense derivatives, finite differences and each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surefoot.numerics.autodiff import (
    Flattened,
    cross_product,
    ggn_product,
    hessian_operator,
    hvp,
    jvp,
    per_sample_gradients,
    vjp,
)
from surefoot.numerics.krylov import extreme_eigenpairs


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A = randn(7, 5, seed=0)
X, V = randn(5, seed=1), randn(5, seed=2)


def model(x: Tensor) -> Tensor:
    return torch.tanh(A @ x) * x.sum()


def scalar(x: Tensor) -> Tensor:
    return torch.logsumexp(model(x), dim=0) + x.pow(4).sum()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_first_order_products_match_the_dense_jacobian() -> None:
    J = torch.autograd.functional.jacobian(model, X)
    torch.testing.assert_close(jvp(model, X, V), J @ V)
    u = randn(7, seed=3)
    torch.testing.assert_close(vjp(model, X, u), J.T @ u)


def test_hessian_products_match_dense_finite_differences_and_are_symmetric() -> None:
    H = torch.autograd.functional.hessian(scalar, X)
    torch.testing.assert_close(hvp(scalar, X, V), H @ V)
    product = hessian_operator(scalar, X)
    torch.testing.assert_close(product(V), H @ V)
    torch.testing.assert_close(product(V), product(V))  # the graph survives its use
    h = 1e-6
    gradient = torch.func.grad(scalar)
    difference = (gradient(X + h * V) - gradient(X - h * V)) / (2 * h)
    torch.testing.assert_close(hvp(scalar, X, V), difference, rtol=1e-7, atol=1e-8)
    U = randn(5, seed=4)
    torch.testing.assert_close(U @ hvp(scalar, X, V), V @ hvp(scalar, X, U))


def test_hessian_operator_of_affine_and_partly_affine_functions() -> None:
    assert torch.equal(hessian_operator(lambda x: 3 * x.sum(), X)(V), torch.zeros(5, dtype=torch.float64))
    product = hessian_operator(lambda x: x[0] ** 2 + x.sum(), X)
    torch.testing.assert_close(product(V), torch.tensor([2 * V[0], 0, 0, 0, 0], dtype=torch.float64))


def test_gauss_newton_product_matches_its_definition() -> None:
    target = randn(7, seed=5)

    def loss(z: Tensor) -> Tensor:
        return torch.log(torch.cosh(z - target)).sum()

    J = torch.autograd.functional.jacobian(model, X)
    H = torch.autograd.functional.hessian(loss, model(X))
    torch.testing.assert_close(ggn_product(model, loss, X, V), J.T @ (H @ (J @ V)))
    assert V @ ggn_product(model, loss, X, V) >= 0
    # affine model: the Gauss-Newton matrix is the Hessian
    torch.testing.assert_close(ggn_product(lambda x: A @ x, loss, X, V), hvp(lambda x: loss(A @ x), X, V))


def test_cross_product_matches_the_dense_block_and_its_transpose() -> None:
    B = randn(5, 3, seed=6)
    y, w = randn(3, seed=7), randn(3, seed=8)

    def f(x: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x @ B @ y) + (x.pow(2).sum() * y.exp()).sum()

    block = torch.autograd.functional.hessian(f, (X, y))[0][1]
    torch.testing.assert_close(cross_product(f, X, y, w), block @ w)
    torch.testing.assert_close(cross_product(lambda y, x: f(x, y), y, X, V), block.T @ V)


def test_flattened_module_computes_what_the_module_does() -> None:
    module = net()
    flat = Flattened(module)
    inputs = randn(8, 4, seed=9)
    w = flat.vector()
    assert w.shape == (4 * 6 + 6 + 6 * 3 + 3,)
    torch.testing.assert_close(flat(w, inputs), module(inputs))
    loss = functional.mse_loss(module(inputs), torch.zeros(8, 3, dtype=torch.float64))
    loss.backward()
    by_autograd = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    ours = torch.func.grad(lambda v: functional.mse_loss(flat(v, inputs), torch.zeros(8, 3, dtype=torch.float64)))(w)
    torch.testing.assert_close(ours, by_autograd)

    last = Flattened(module, ("2.bias",))
    shifted = last(last.vector() + 1, inputs)
    torch.testing.assert_close(shifted, module(inputs) + 1)
    with pytest.raises(ValueError, match="no parameters called"):
        Flattened(module, ("nonsense",))


def test_largest_curvature_of_a_network_matches_its_dense_hessian() -> None:
    flat, inputs = Flattened(net()), randn(20, 4, seed=10)
    labels = torch.arange(20) % 3

    def loss(w: Tensor) -> Tensor:
        return functional.cross_entropy(flat(w, inputs), labels)

    w = flat.vector()
    dense = torch.func.hessian(loss)(w)
    found = extreme_eigenpairs(hessian_operator(loss, w), randn(len(w), seed=11), 2)
    exact = torch.linalg.eigvalsh(dense).flip(0)[:2]
    torch.testing.assert_close(found.values, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_per_sample_gradients_are_the_gradients_of_single_samples(chunk_size: int | None) -> None:
    flat, inputs = Flattened(net()), randn(8, 4, seed=12)
    labels = torch.arange(8) % 3
    w = flat.vector()

    def loss(w: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(flat(w, x), label)

    ours = per_sample_gradients(loss, w, inputs, labels, chunk_size=chunk_size)
    one_by_one = [torch.func.grad(loss)(w, x, label) for x, label in zip(inputs, labels, strict=True)]
    torch.testing.assert_close(ours, torch.stack(one_by_one))
    mean = torch.func.grad(lambda w: functional.cross_entropy(flat(w, inputs), labels))(w)
    torch.testing.assert_close(ours.mean(dim=0), mean)
