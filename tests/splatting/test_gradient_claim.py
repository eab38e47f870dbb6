"""The claim about the gradient: exact derivatives two ways agree, and a renderer that leaves a term out is caught."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.core.random import Streams
from surefoot.splatting import gradients
from surefoot.splatting.gradients import NAMES, gradient_claim, residual
from surefoot.splatting.loading import turntable_capture
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.reference import render_reference
from surefoot.splatting.train import TrainConvexes
from surefoot.splatting.verify_render import BruteForce, differences


@pytest.fixture(scope="module")
def trained():
    capture = turntable_capture(photos=4, size=24, boxes=3)
    method = TrainConvexes(
        horizon=30, rate=4.0, opacity=0.5, sigma=0.02, delta=0.5, split_every=10, split_from=8, most=300, degree=1, degree_every=10
    )  # fmt: skip
    state = method.init(capture, None, Streams(0))
    while state.k < method.horizon:
        state = method.step(capture, state)
    return capture, method.answer(capture, state)


def pixels(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    flat = np.random.default_rng(seed).choice(24 * 24, 80, replace=False)
    return flat // 24, flat % 24


def test_the_claim_holds_and_covers_every_kind(trained) -> None:
    capture, scene = trained
    claim, evidence = gradient_claim(capture, scene, 0, *pixels(), np.random.default_rng(1))
    assert claim.outcome == "holds"
    assert 0 < claim.value < 1e-3
    assert len(evidence["chosen"]) == 24
    assert scene.sh_degree == 1
    for name in NAMES:
        assert np.abs(evidence[name]).max() > 0


def test_differences_are_those_of_the_reference_over_the_whole_scene(trained) -> None:
    capture, scene = trained
    rows, columns = pixels()
    _, evidence = gradient_claim(capture, scene, 0, rows, columns, np.random.default_rng(1))
    brute = BruteForce(scene, capture.views[0], capture.matrices[0])
    column = brute.pixels(columns, rows, 0.0)
    chosen = evidence["chosen"]
    found = differences(
        scene, capture.views[0], capture.matrices[0], column, chosen, (columns, rows), evidence["weights"]
    )
    leaves = {n: torch.as_tensor(getattr(scene, n), dtype=torch.float64).requires_grad_() for n in NAMES}
    from surefoot.splatting.harmonics import shade

    view, matrix = torch.from_numpy(capture.views[0]), torch.from_numpy(capture.matrices[0])
    colors = shade(leaves["points"], leaves["sh0"], leaves["sh_rest"], 1, view[None])[0]
    image, _ = render_reference(
        leaves["points"], leaves["log_delta"].exp(), leaves["log_sigma"].exp(), torch.sigmoid(leaves["opacity_logit"]), colors, view, matrix,
        24, 24, torch.from_numpy(scene.background).double(), focal=scene.focal, near=scene.near,
        pixels=torch.from_numpy(np.stack([columns, rows], axis=1)),
    )  # fmt: skip
    (image * torch.from_numpy(evidence["weights"])).sum().backward()
    exact = {n: leaves[n].grad.numpy()[chosen] for n in NAMES}
    assert residual(found, exact, scene.points[chosen]) < 1e-5


def test_a_renderer_that_leaves_a_term_out_is_caught(trained, monkeypatch) -> None:
    capture, scene = trained

    def value(**options) -> float:
        monkeypatch.setattr(gradients, "Settings", lambda **given: Settings(**given, **options))
        claim, _ = gradient_claim(capture, scene, 0, *pixels(), np.random.default_rng(1))
        assert (claim.outcome == "holds") == (claim.value <= 0.02)
        return claim.value

    whole = value()
    assert value(depth_gradient=False) > 20 * whole
    assert value(compat="paper") > 0.5  # its gradient of the points lacks half the size of the picture
