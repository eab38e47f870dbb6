"""Which convexes pixels can see at all: none of the others' alphas matters, and hard scenes leave most of them out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convex_scenes import HEIGHT, WIDTH, camera, convexes
from surefoot.splatting.reach import NEGLIGIBLE, reaching
from surefoot.splatting.reference import contributions
from surefoot.splatting.verify_render import BruteForce

VIEW, MATRIX = camera()
NEAR = 0.2


def some_pixels(seed: int, count: int = 7) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randint(WIDTH, (count,), generator=g), torch.randint(HEIGHT, (count,), generator=g)], dim=1
    ).double()


@given(st.integers(0, 9999), st.sampled_from((3, 4, 6)), st.sampled_from((0.3, 4.0, 200.0)))
def test_what_is_left_out_is_negligible(seed, corners, hardness):
    c = convexes(seed, 20, corners, 0.3, hardness)
    c.points[:4, 0, 2] -= 4.0  # some reach behind the camera
    pixels = some_pixels(seed)
    geometry = (c.points, c.delta, c.sigma, c.opacity, VIEW, MATRIX, pixels)
    rows = reaching(*geometry, NEAR)
    assert (rows[1:] > rows[:-1]).all()
    whole = contributions(*geometry, near=NEAR)
    missing = ~torch.isin(whole.order, rows)
    assert float(whole.alpha[missing].sum()) <= 20 * 7 * NEGLIGIBLE
    part = contributions(*(t[rows] for t in geometry[:4]), *geometry[4:], near=NEAR)
    torch.testing.assert_close(part.in_front[-1], whole.in_front[-1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_hard_scenes_leave_most_out_for_both_sides(seed):
    c = convexes(seed, 300, 6, 0.1, 2000.0)
    pixels = some_pixels(seed, 3)
    rows = reaching(c.points, c.delta, c.sigma, c.opacity, VIEW, MATRIX, pixels, NEAR)
    assert len(rows) < 100
    scene = SimpleNamespace(
        points=c.points.numpy(), log_delta=c.delta.log().numpy(), log_sigma=c.sigma.log().numpy(),
        opacity_logit=torch.logit(c.opacity).numpy(), sh0=((c.colors - 0.5) / 0.28209479177387814).numpy(), sh_rest=np.zeros((300, 0, 3)),
        focal=float((MATRIX[0, 0] * MATRIX[1, 1]).sqrt()), near=NEAR, background=np.zeros(3),
    )  # fmt: skip
    column = BruteForce(scene, VIEW.numpy(), MATRIX.numpy()).pixels(pixels[:, 0].numpy(), pixels[:, 1].numpy())
    assert len(column.order) < 100
    whole = contributions(c.points, c.delta, c.sigma, c.opacity, VIEW, MATRIX, pixels, near=NEAR)
    place = {int(row): i for i, row in enumerate(whole.order)}
    np.testing.assert_allclose(
        column.alpha, whole.alpha[[place[int(i)] for i in column.order]].numpy(), atol=1e-10, rtol=0
    )
    np.testing.assert_allclose(column.left, whole.in_front[-1].numpy(), atol=1e-10)
