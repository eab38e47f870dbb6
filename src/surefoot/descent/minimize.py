"""Momentum methods in scipy's manner: `minimize(fun, x0, jac, method="tmm", m=, L=)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import OptimizeResult

from surefoot.core.method import Status
from surefoot.core.problem import Constant, Objective
from surefoot.core.solve import Budget, solve
from surefoot.descent.acceleration import LANES

__all__ = ["minimize"]


def minimize(
    fun: Callable[..., Any],
    x0: npt.ArrayLike,
    jac: Callable[..., Any] | bool = True,
    *,
    method: str = "tmm",
    m: float,
    L: float,
    args: tuple[Any, ...] = (),
    tol: float = 1e-10,
    maxiter: int = 10_000,
    backtracking: bool = False,
    callback: Callable[[npt.NDArray[np.float64]], Any] | None = None,
) -> OptimizeResult:
    """Minimise an m-strongly convex, L-smooth function of numpy vectors with a momentum method.

    Args:
        fun: x (d,), *args -> f(x), or (f(x), gradient) where ``jac`` is True.
        x0: (d,) start.
        jac: x, *args -> gradient (d,), or True.
        method: gd, nag, tmm, rmm or hb.
        m: strong convexity.
        L: smoothness; with backtracking a first guess from below.
        args: further arguments of fun and jac.
        tol: stop when |gradient|^2 / (2 m), a bound on f - f*, is below it.
        maxiter: most iterations.
        backtracking: double L where the descent lemma fails.
        callback: called with x_k after each iteration.

    Returns:
        scipy's ``OptimizeResult`` with x, fun, jac, nit, njev, success, status, message, and ``gap``, a proved
        bound on f(x) - f* (given that m is right), and ``certificate``.

    Raises:
        ValueError: unknown method, bad constants, or shapes that do not fit.

    Example:
        >>> import numpy as np
        >>> h = np.array([1.0, 10.0])
        >>> r = minimize(lambda x: (0.5 * x @ (h * x), h * x), [1.0, 1.0], method="nag", m=1.0, L=10.0)
        >>> bool(r.success and abs(r.x).max() < 1e-4)
        True
    """
    if method not in LANES:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(LANES)}")
    start = np.atleast_1d(np.asarray(x0, dtype=np.float64))
    if start.ndim != 1:
        raise ValueError(f"x0 must be a vector, got shape {start.shape}")

    def value_and_grad(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        point = x.numpy().copy()
        value, slope = fun(point, *args) if jac is True else (fun(point, *args), jac(point, *args))  # type: ignore[operator]
        gradient = torch.from_numpy(np.array(slope, dtype=np.float64))
        if gradient.shape != x.shape:
            raise ValueError(f"the gradient has shape {tuple(gradient.shape)}; expected {tuple(x.shape)}")
        return torch.tensor(float(value), dtype=torch.float64), gradient

    constants = {"strong_convexity": Constant(m, "declared"), "smoothness": Constant(L, "declared")}
    objective = Objective(value_and_grad, len(start), constants=constants)
    chosen = LANES[method](tolerance=tol, backtracking=backtracking, trace=0, block=1)
    watches = [] if callback is None else [lambda moment: callback(moment.state.lane.x.numpy().copy()) and None]
    result = solve(
        objective, chosen, torch.from_numpy(start), budget=Budget(steps=maxiter), watch=watches, certify=True
    )
    x = result.answer.numpy()
    value, gradient = value_and_grad(result.answer)
    return OptimizeResult(
        x=x,
        fun=float(value),
        jac=gradient.numpy(),
        nit=result.steps,
        njev=result.counts.get("gradient", 0),
        success=result.status is Status.CONVERGED,
        status=0 if result.status is Status.CONVERGED else 1,
        message=result.reason,
        gap=float(gradient @ gradient) / (2 * m),
        certificate=result.certificate,
    )
