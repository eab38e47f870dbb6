"""Tree-based Private SPIDER (algorithm 1): stationary points of the population risk in one pass over the records.

A round is a binary tree of depth D visited depth first; every node carries a point and a gradient estimate. The root takes b fresh
records, a left child copies its parent, a right child at depth k corrects its parent's estimate by the gradient difference on
b / 2^k fresh records; every leaf is a step of fixed length. So each leaf needs exactly one release, at the node where its path
leaves the path before, and every record is used once: releases compose in parallel, each calibrated alone.

References:
    R. Arora et al., "Faster rates of convergence to stationary points in differentially private optimization", ICML 2023.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.privacy.ledger import Entry, Release
from surefoot.privacy.mechanism import Gaussian
from surefoot.privacy.private_method import PrivateMethod, PrivateState
from surefoot.privacy.risk import PrivateRisk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Numbers of the schedule: b, D, T, the step length, and what a node's release rests on, by depth 0..D."""

    root_batch: int
    depth: int
    rounds: int
    alpha: float
    step_length: float
    batches: tuple[int, ...]  # records of a node, by depth
    shares: tuple[float, ...]  # most that one record contributes to a node's sum, by depth

    @property
    def leaves(self) -> int:
        """Leaves of a tree."""
        return 2**self.depth

    @property
    def per_tree(self) -> int:
        """Records of a tree: `b (1 + D/2)` up to rounding."""
        return self.root_batch + sum(2 ** (k - 1) * self.batches[k] for k in range(1, self.depth + 1))

    def place(self, leaf: int) -> int:
        """Depth of the node whose release the leaf begins with: the root, or the right child that its path turns into."""
        return 0 if leaf == 0 else self.depth - ((leaf & -leaf).bit_length() - 1)

    def offset(self, leaf: int) -> int:
        """Records that the tree used before that leaf."""
        return sum(self.batches[self.place(j)] for j in range(leaf))

    def right_turns(self, leaf: int) -> list[int]:
        """Depths of the right children on the path to a leaf."""
        return [k for k in range(1, self.depth + 1) if leaf >> (self.depth - k) & 1]


@dataclass(kw_only=True)
class TreeState(PrivateState):
    slots_w: Tensor  # (D + 1, d) points on the present path, by depth
    slots_v: Tensor  # (D + 1, d) estimates
    path: Tensor | None  # (iterations, d) points of the leaves, or None where they are too many
    best: Tensor  # leaf with the smallest bound so far
    best_bound: float = math.inf


@dataclass(frozen=True, kw_only=True)
class TreeSpider(PrivateMethod[TreeState]):
    """See the module's text.

    Args:
        length_scale: multiplies beta, the printed step length's factor.
        root_batch: b; 0: `max(n^(2/3), sqrt(n) d^(1/4) / sqrt(eps))`.
        stop: "never" runs to the end and returns the leaf with the best certificate; "printed" stops at the first leaf with
            `|V| <= 2 Ct alpha`, which for any real n is the first.
        start_gap: F0 for the printed rule; None takes the problem's.
        compat: "paper": the printed noise `sqrt(8 log(1.25/delta)) / eps` instead of the exact one, and the printed stop.
    """

    length_scale: float = 1.0
    root_batch: int = 0
    stop: Literal["never", "printed"] = "never"
    start_gap: float | None = None
    compat: Literal["", "paper"] = ""

    def layout(self, problem: PrivateRisk) -> Layout:
        """b, D, T, beta from n, d, L0, L1 and epsilon.

        Raises:
            ValueError: too few records for one tree.
        """
        searched, n, d, eps = problem.searched, problem.size, problem.searched.dim, self.budget.epsilon
        b = self.root_batch or math.floor(max(n ** (2 / 3), math.sqrt(n) * d**0.25 / math.sqrt(eps)))
        depth = max((D for D in range(1, 31) if b >= D * 2 ** (D + 1)), default=0)
        rounds = int(n / (b * (depth / 2 + 1)))
        if depth == 0 or rounds < 1 or searched.record_smoothness == 0.0:
            raise ValueError(
                f"{n} records are too few for one tree (b = {b}, depth {depth}) at epsilon {eps:g}, d = {d}, or the loss is linear; use "
                "private SpiderBoost, a larger epsilon, or a smaller root_batch"
            )
        if n < max(math.sqrt(d) * (depth / 2 + 1) ** 2 / eps, (depth / 2 + 1) ** 3):
            log.warning("the theorem wants more records than %d; the run is private all the same", n)
        L0, L1 = searched.record_gradient, searched.record_smoothness
        alpha = math.sqrt(2.0) * L0 * max(n ** (-1 / 3), math.sqrt(math.sqrt(d) / (n * eps)))
        beta = self.length_scale * alpha * min(1.0, math.sqrt(b) * eps / math.sqrt(d))
        step = beta / (2 ** (depth / 2) * L1)
        shares = [L0] + [min(L1 * 2 ** (depth - k) * step, 2.0 * L0) for k in range(1, depth + 1)]
        batches = tuple(b // 2**k for k in range(depth + 1))
        return Layout(b, depth, rounds, alpha, step, batches, tuple(shares))

    def iterations_of(self, problem: PrivateRisk) -> int:
        layout = self.layout(problem)
        return layout.rounds * layout.leaves

    def queries(self) -> int:
        return 2 * (self.query_share > 0)

    def multiplier(self) -> float:
        """Noise over one record's share, of every node."""
        if self.compat == "paper":
            return math.sqrt(8.0 * math.log(1.25 / self.budget.delta)) / self.budget.epsilon
        return self.record_reach / self.search_mu()

    def search_plan(self, problem: PrivateRisk) -> list[Entry]:
        return [Entry(self._name(problem, k), self.multiplier(), 1.0, k, 1) for k in range(self.iterations_of(problem))]

    def upcoming(self, problem: PrivateRisk, k: int) -> Release:
        layout = self.layout(problem)
        depth = layout.place(k % layout.leaves)
        share = layout.shares[depth] / layout.batches[depth]
        return Release(self._name(problem, k), self.multiplier(), share, 1.0, k)

    def _name(self, problem: PrivateRisk, k: int) -> str:
        return "root" if k % self.layout(problem).leaves == 0 else "right child"

    def fresh(self, problem: PrivateRisk, start: Tensor, streams: Streams, shared: dict[str, Any]) -> TreeState:
        layout, zeros = self.layout(problem), torch.zeros_like(start)
        slots = zeros.expand(layout.depth + 1, -1).clone()
        path = None if shared["vectors"] is None else torch.zeros_like(shared["vectors"])
        return TreeState(**shared, slots_w=slots, slots_v=slots.clone(), path=path, best=start.clone())

    def advance(self, problem: PrivateRisk, state: TreeState, mechanism: Gaussian) -> None:
        searched, layout, k = problem.searched, self.layout(problem), state.k
        tree, leaf = divmod(k, layout.leaves)
        depth, planned = layout.place(leaf), self.upcoming(problem, k)
        begin = tree * layout.per_tree + layout.offset(leaf)
        rows = torch.from_numpy(public_order(problem.size)[begin : begin + layout.batches[depth]])
        share = layout.shares[depth]
        if depth == 0:
            total = searched.records.gradient_sum(state.w, share, rows)
        else:
            total = searched.records.difference_sum(state.w, state.slots_w[depth - 1], share, rows)
        noisy = mechanism.release(
            total / len(rows), planned.name, k, noise_multiplier=planned.noise_multiplier, record_bound=planned.record_bound,
            part=k, reserved=True,
        )  # fmt: skip
        estimate = noisy if depth == 0 else state.slots_v[depth - 1] + noisy
        state.slots_w[depth:], state.slots_v[depth:] = state.w, estimate  # left children copy
        direction = estimate + searched.penalty.gradient(state.w)
        norm = float(torch.linalg.vector_norm(direction))
        state.last_norm, state.norms[k], state.stds[k] = norm, norm, planned.noise_std
        if state.vectors is not None and state.path is not None:
            state.vectors[k], state.path[k] = estimate, state.w
        bound = norm + float(population_radii(layout, self.multiplier(), searched.dim, self.failure_probability)[leaf])
        if bound < state.best_bound:
            state.best, state.best_bound = state.w.clone(), bound
        if self._stops() and norm <= 2.0 * self.printed_target(problem):
            state.best, state.ended = state.w.clone(), f"the printed stop: |V| = {norm:.3g} is below 2 Ct alpha"
            return
        state.w = state.w - layout.step_length * direction / max(norm, 1e-300)

    def _stops(self) -> bool:
        return self.compat == "paper" or self.stop == "printed"

    def printed_target(self, problem: PrivateRisk) -> float:
        """`Ct alpha` with `Ct = 256 log(1.25/delta) log(2 T 2^(D+1) / p) + 8 L1 F0 sqrt(2D) (D/2 + 1) / (2 L0^2)`.

        Raises:
            ValueError: F0 is not known.
        """
        gap = problem.start_gap if self.start_gap is None else self.start_gap
        if gap is None:
            raise ValueError("the printed stop needs F0, a public bound of F(start) - inf F; give start_gap")
        layout, searched = self.layout(problem), problem.searched
        D, L0, L1 = layout.depth, searched.record_gradient, searched.record_smoothness
        first = (
            256.0
            * math.log(1.25 / self.budget.delta)
            * math.log(2.0 * layout.rounds * 2 ** (D + 1) / self.failure_probability)
        )
        return layout.alpha * (first + 8.0 * L1 * gap * math.sqrt(2.0 * D) * (D / 2 + 1) / (2.0 * L0**2))

    def candidates(self, problem: PrivateRisk, state: TreeState) -> list[Tensor]:
        return [state.best, state.w]


def public_order(size: int) -> np.ndarray:
    """A fixed permutation that anybody may know: parts must not change when a killed run is resumed."""
    return Streams(0).numpy("order of records").permutation(size)


def visits(depth: int) -> list[str]:
    """Names of the nodes of one tree in the order in which they are met, the root being ''."""

    def below(node: str) -> list[str]:
        return [node] if len(node) == depth else [node, *below(node + "0"), *below(node + "1")]

    return below("")


def population_radii(layout: Layout, multiplier: float, dim: int, failure_probability: float) -> np.ndarray:
    """Bounds (leaves,) of `|V - grad f(w; D)|` for the leaves of a tree, at all leaves of all trees at once.

    Noise: `s (sqrt d + sqrt(2 log(2N/p)))` with `s^2` summed over the root and the right turns; sampling (Pinelis):
    `sqrt(2 Q log(4N/p))`, `Q = sum_k (2 share_k)^2 / b_k` over the same nodes; N leaves in all.
    """
    noise = (
        np.array([multiplier * share / batch for share, batch in zip(layout.shares, layout.batches, strict=True)]) ** 2
    )
    spread = np.array([4.0 * share**2 / batch for share, batch in zip(layout.shares, layout.batches, strict=True)])
    nodes = [[0, *layout.right_turns(leaf)] for leaf in range(layout.leaves)]
    total = layout.rounds * layout.leaves
    s = np.sqrt([noise[n].sum() for n in nodes])
    Q = np.array([spread[n].sum() for n in nodes])
    tail = math.sqrt(2.0 * math.log(2.0 * total / failure_probability))
    return s * (math.sqrt(dim) + tail) + np.sqrt(2.0 * Q * math.log(4.0 * total / failure_probability))
