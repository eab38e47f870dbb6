"""What runs on CUDA: compiled for it where the compiler is there, its sums over blocks checked on the CPU, the whole on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convex_scenes import HEIGHT, WIDTH, camera, convexes

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
import warp as wp

from surefoot.splatting.frame import cuda_modules
from surefoot.splatting.rasterize import Settings, rasterize

VIEW, MATRIX = camera()
BLOCKS = """
import torch, warp as wp
wp.config.enable_cpu_blocks = True  # blocks of 32 threads on one core
from convex_scenes import HEIGHT, WIDTH, camera, convexes
from surefoot.splatting.rasterize import Settings, rasterize

view, matrix = camera()
for settings in (Settings(threshold=0.0, stop=0.0), Settings(focal=55.0), Settings(compat="paper")):
    c, found = convexes(3, 25), []
    for lanes in (1, 16):
        leaves = c.leaves(torch.float32)
        shown = rasterize(*leaves, view[None], matrix[None], WIDTH, HEIGHT, settings=settings, lanes=lanes)
        weight = torch.randn(1, HEIGHT, WIDTH, 4, generator=torch.Generator().manual_seed(0))
        ((shown.image * weight[..., :3]).sum() + (shown.transmittance * weight[..., 3]).sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    for blocks, strips in zip(*found, strict=True):
        assert (blocks - strips).abs().max() <= 2e-6 * strips.abs().max()
print("agree")
"""


def test_sums_over_blocks_of_32_are_those_of_strips() -> None:
    """In a process of its own, where Warp runs a block's threads together on the CPU."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", BLOCKS], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("agree\n"), done.stderr


def test_every_kernel_compiles_for_cuda_and_sums_within_a_warp(tmp_path: Path) -> None:
    try:
        for module in cuda_modules():
            wp.compile_aot_module(module, device=None, arch=90, module_dir=tmp_path, use_ptx=True)
    except RuntimeError as error:
        pytest.skip(f"Warp was built without NVRTC: {error}")
    found = {path.name: path.read_bytes().decode(errors="replace") for path in tmp_path.glob("*.ptx")}
    assert len(found) == len(cuda_modules())
    blocks = next(text for name, text in found.items() if "blocks" in name)
    assert blocks.count("shfl.sync") >= 15  # three numbers, five halvings
    assert (
        0 < len(re.findall(r"(?:atom|red)\.global\S*add", blocks)) <= 9
    )  # three numbers in three places, by one thread of 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [Settings(), Settings(threshold=0.0, stop=0.0), Settings(compat="paper")])
def test_the_image_on_cuda_is_that_on_the_cpu(settings: Settings) -> None:
    c = convexes(5, 60)
    found = []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().float().to(device).requires_grad_() for t in c.tensors()]
        shown = rasterize(*leaves, VIEW[None].to(device), MATRIX[None].to(device), WIDTH, HEIGHT, settings=settings)
        shown.image.square().sum().backward()
        found.append([shown.image.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves if leaf.grad is not None)])
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    for ours, theirs in zip(found[1][1:], found[0][1:], strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
