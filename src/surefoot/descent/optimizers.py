"""Momentum methods as `torch.optim.Optimizer`s, for training loops with known or guessed curvature.

The parameters hold the point y_k at which the gradient is taken, as in every torch optimiser; the method's
answer x_k differs from it, and ``at_output`` puts it into the parameters for evaluation:

    optimizer = TMM(model.parameters(), m=1e-3, L=10.0)
    for _ in range(steps):
        loss = optimizer.step(closure)
    with optimizer.at_output():
        validate(model)

With ``backtracking=True`` the smoothness L is doubled wherever a gradient step of length 1 / L does not descend
as much as it should; ``step`` then needs a closure.

References:
    See ``momentum``; the storage functions are those of ``acceleration``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surefoot.descent.momentum import MomentumParameters, momentum_parameters

__all__ = ["HB", "NAG", "RMM", "TMM"]


class _Momentum(Optimizer):
    """Common part: states x_k and x_{k-1} per parameter, y_k in the parameter itself."""

    scheme = ""

    def __init__(
        self,
        params: Any,
        m: float = 0.1,
        L: float = 10.0,
        *,
        kappa: float | None = None,
        backtracking: bool = False,
        **extra: Any,
    ) -> None:
        if kappa is not None:
            if not kappa > 1:
                raise ValueError(f"kappa = L / m must be larger than 1, got {kappa}")
            m = L / kappa
        # lr scales the step size of the table, so that torch's schedulers work; 1 is the tuned value.
        defaults = {"m": m, "L": L, "lr": 1.0, "backtracking": backtracking, **extra}
        self._parameters(defaults)
        super().__init__(params, defaults)

    def _parameters(self, group: dict[str, Any]) -> MomentumParameters:
        return momentum_parameters(self.scheme, group["m"], group["L"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One iteration on all parameters; returns the closure's loss.

        Args:
            closure: re-evaluates the model, calls backward and returns the loss; needed with backtracking.

        Raises:
            ValueError: backtracking without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(group["backtracking"] for group in self.param_groups):
            if closure is None or loss is None:
                raise ValueError("backtracking needs step(closure), with a closure that returns the loss")
            self._backtrack(closure, float(torch.as_tensor(loss).detach()))
        for group in self.param_groups:
            chosen = self._parameters(group)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, chosen, group["lr"])
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, chosen: MomentumParameters, scale: float) -> None:
        state = self.state[parameter]
        if not state:
            state["x"] = parameter.detach().clone()
            state["before"] = parameter.detach().clone()
            state["last_gradient"] = torch.zeros_like(parameter)
        moved = state["x"] - state["before"]
        following = state["x"] + chosen.momentum * moved - scale * chosen.step_size * gradient
        state["before"], state["x"] = state["x"], following
        state["last_gradient"].copy_(gradient)
        parameter.copy_(following + chosen.extrapolation * (following - state["before"]))

    def _backtrack(self, closure: Callable[[], Any], loss: float) -> None:
        """Double L of all backtracking groups until f(y - g / L) <= f(y) - |g|^2 / (2 L)."""
        groups = [group for group in self.param_groups if group["backtracking"]]
        active = [(p, group) for group in groups for p in group["params"] if p.grad is not None]
        points = [p.detach().clone() for p, _ in active]
        gradients = [p.grad.detach().clone() for p, _ in active]
        for _ in range(60):
            wanted = sum(
                float((g * g).sum()) / (2 * group["L"]) for g, (_, group) in zip(gradients, active, strict=True)
            )
            for (p, group), point, g in zip(active, points, gradients, strict=True):
                p.copy_(point - g / group["L"])
            with torch.enable_grad():
                reached = float(torch.as_tensor(closure()).detach())
            rounding = 4 * torch.finfo(points[0].dtype).eps * max(abs(loss), abs(reached)) if points else 0.0
            if not math.isfinite(loss) or reached <= loss - wanted + rounding < math.inf:
                break
            for group in groups:
                group["L"] *= 2
        else:
            raise ValueError("backtracking found no smoothness; is the closure's gradient that of its loss?")
        for (p, _), point, g in zip(active, points, gradients, strict=True):
            p.copy_(point)
            p.grad = g

    @contextmanager
    def at_output(self) -> Iterator[None]:
        """Hold the method's answer x_k + delta (x_k - x_{k-1}) in the parameters for the duration."""
        kept: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            for group in self.param_groups:
                weight = self._parameters(group).output
                for parameter in group["params"]:
                    state = self.state.get(parameter)
                    if state:
                        kept.append((parameter, parameter.detach().clone()))
                        parameter.copy_(state["x"] + weight * (state["x"] - state["before"]))
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, point in kept:
                    parameter.copy_(point)

    def gap_bound(self) -> float:
        """|gradient|^2 / (2 m) at the last point where it was taken: a bound on f - f* if f is m-strongly convex."""
        total = 0.0
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state:
                    total += float((state["last_gradient"] ** 2).sum()) / (2 * group["m"])
        return total

    def storage(self, loss_at_output: float, minimum: float, minimiser: list[Tensor] | None = None) -> float:
        """Storage value of Nesterov's method, f(x_k) - f* + (m/2) |z_k - x*|^2; without x*, its part f(x_k) - f*.

        Args:
            loss_at_output: f(x_k), the loss under ``at_output``.
            minimum: f*, or a lower bound on it; the value is then an upper bound.
            minimiser: x*, one tensor a parameter in the optimiser's order.
        """
        value = loss_at_output - minimum
        if minimiser is None:
            return value
        parameters = [(p, group) for group in self.param_groups for p in group["params"]]
        for (parameter, group), target in zip(parameters, minimiser, strict=True):
            state = self.state.get(parameter)
            if state:
                q = math.sqrt(group["m"] / group["L"])
                z = state["x"] + (1 - q) / q * (state["x"] - state["before"])
                value += 0.5 * group["m"] * float(((z - target) ** 2).sum())
        return value


class NAG(_Momentum):
    """Nesterov's method for m-strongly convex, L-smooth losses.

    Args:
        params: parameters or groups; a group may have its own m and L.
        m: strong convexity (for instance the weight decay).
        L: smoothness; with backtracking a first guess, from below.
        kappa: L / m, in place of m.
        backtracking: double L where the descent lemma fails.
    """

    scheme = "nag"


class TMM(_Momentum):
    """The triple momentum method, fastest in the worst case; arguments as in ``NAG``."""

    scheme = "tmm"


class HB(_Momentum):
    """Polyak's heavy ball, tuned for quadratics; may cycle from L / m = 9 + 4 sqrt 5 on. Arguments as in ``NAG``."""

    scheme = "hb"


class RMM(_Momentum):
    """Robust momentum: a wanted rate in [1 - sqrt(m/L), 1 - m/L]; arguments as in ``NAG``.

    Args:
        rate: distance contraction a step; default: halfway.
    """

    scheme = "rmm"

    def __init__(self, params: Any, m: float = 0.1, L: float = 10.0, *, rate: float | None = None, **more: Any) -> None:
        super().__init__(params, m, L, rate=rate, **more)

    def _parameters(self, group: dict[str, Any]) -> MomentumParameters:
        return momentum_parameters("rmm", group["m"], group["L"], rate=group["rate"])
