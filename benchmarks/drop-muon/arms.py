"""One network with one optimiser, advanced a few steps at a time: the same code for our methods and, in its own environment, the peer's.

Imports torch and the package's plain networks only; methods of the package are imported when asked for.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NETWORKS = Path(__file__).resolve().parents[2] / "src" / "surefoot" / "training" / "muon_networks.py"
AUXILIARY = 0.1  # AdamW's rate over lr, for vectors, embeddings and the head, in every Muon alike


def networks() -> Any:
    """The module of the networks by its path, so that an environment without the package can use it."""
    spec = importlib.util.spec_from_file_location("muon_networks", NETWORKS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _closed(optimizer: Any, closure: Callable[..., Tensor]) -> Tensor:
    """The loss of a step that evaluates it itself (torch states closures of floats)."""
    return optimizer.step(closure)


class Arm:
    """A training run.

    Args:
        method: full, independent (the default), uniform, uniform-sqrt (lr / sqrt P), uniform-inverse (lr / max(P, 1/4)), epoch-shift, auto, torch-muon, kj, adamw or sgd.
        setting: network, width, depth, batch, lr, seed, classes, dtype of Newton-Schulz ("float32" or "bfloat16"), steps.
    """

    def __init__(self, method: str, setting: dict[str, Any], x: Tensor, y: Tensor) -> None:
        torch.set_num_threads(1)
        self.method, self.setting, self.x, self.y = method, setting, x, y
        self.language = y.ndim > 1
        built = networks().build(
            setting["network"], x, setting["classes"], setting["width"], setting["depth"], setting["seed"]
        )
        self.model: nn.Module = built.train()
        self.flat: list[tuple[Tensor, Tensor]] = []
        self.optimizers = self._optimizers()
        self.k = 0
        self.apart = 0  # added to the seed of the batches

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices and kernels that Muon steps by, and the rest."""
        linear = [m for m in self.model.modules() if isinstance(m, nn.Linear)]
        spectral, rest = [], []
        for module in self.model.modules():
            for p in module.parameters(recurse=False):
                muon = p.ndim >= 2 and not isinstance(module, nn.Embedding) and module is not linear[-1]
                (spectral if muon else rest).append(p)
        return spectral, rest

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        lr = float(self.setting["lr"])
        everything = list(self.model.parameters())
        if self.method == "adamw":
            return [torch.optim.AdamW(everything, lr=lr * AUXILIARY, betas=(0.9, 0.95), weight_decay=0.0)]
        if self.method == "sgd":
            return [torch.optim.SGD(everything, lr=5 * lr, momentum=0.9, nesterov=True)]
        spectral, rest = self._parts()
        if self.method == "torch-muon":
            return [
                torch.optim.Muon(spectral, lr=lr, momentum=0.9, weight_decay=0.0),
                torch.optim.AdamW(rest, lr=lr * AUXILIARY, betas=(0.9, 0.95), weight_decay=0.0),
            ]
        if self.method == "kj":
            from muon import SingleDeviceMuonWithAuxAdam  # type: ignore[import-not-found]

            # 0.1.0 flattens a kernel's update and then adds it to the kernel as it is, which fails: it gets the kernels as matrices
            self.flat = [(p, nn.Parameter(p.data.view(len(p), -1))) for p in spectral if p.ndim > 2]
            spectral = [p for p in spectral if p.ndim == 2] + [q for _, q in self.flat]
            return [
                SingleDeviceMuonWithAuxAdam(
                    [
                        {"params": spectral, "use_muon": True, "lr": lr, "momentum": 0.9, "weight_decay": 0.0},
                        {
                            "params": rest,
                            "use_muon": False,
                            "lr": lr * AUXILIARY,
                            "betas": (0.9, 0.95),
                            "eps": 1e-8,
                            "weight_decay": 0.0,
                        },
                    ]
                )
            ]
        return [self._drop_muon(lr)]

    def _drop_muon(self, lr: float) -> torch.optim.Optimizer:
        from surefoot.training import Auto, DropMuon, EpochShift, layers_from_module

        steps = int(self.setting["steps"])
        sampling: Any = {
            "auto": Auto(),
            "epoch-shift": EpochShift(8, steps_per_epoch=max(1, steps // 8)),
            "uniform-sqrt": "uniform",
            "uniform-inverse": "uniform",
        }.get(self.method, self.method)
        blocks = self.model.blocks() if self.language else None  # type: ignore[operator]
        groups = layers_from_module(self.model, blocks)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.setting["dtype"]]
        return DropMuon(
            groups, lr, sampling=sampling, momentum=0.9, auxiliary_scale=AUXILIARY, seed=self.setting["seed"], ns_dtype=dtype,
            lr_compensation={"uniform-sqrt": 0.5, "uniform-inverse": 1.0, "independent": None, "auto": None}.get(self.method, 0.0),
            momentum_compensation={"independent": None, "auto": None}.get(self.method, 0.0),
        )  # fmt: skip

    def _rows(self, k: int) -> Tensor:
        """Batch k: permutations of the data, one after another, the same for every method."""
        size, n = int(self.setting["batch"]), len(self.x)
        per_epoch = n // size
        generator = torch.Generator().manual_seed(1000 * (int(self.setting["seed"]) + self.apart) + k // per_epoch)
        return torch.randperm(n, generator=generator)[(k % per_epoch) * size :][:size]

    def _loss(self, x: Tensor, y: Tensor, kept: list[Tensor]) -> Tensor:
        """The loss of a batch with its gradients; the logits are added to `kept`."""
        self.model.zero_grad()
        logits = self.model(x)
        kept.append(logits.detach())
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
        loss.backward()
        return loss

    def advance(self, steps: int) -> dict[str, list[float]]:
        """Seconds of this process and of the wall, and accuracy and loss of the batch before its update, for every step."""
        out: dict[str, list[float]] = {"cpu": [], "wall": [], "accuracy": [], "loss": []}
        for _ in range(steps):
            rows = self._rows(self.k)
            x, y = self.x[rows], self.y[rows]
            kept: list[Tensor] = []
            closure = partial(self._loss, x, y, kept)
            cpu, wall = time.process_time(), time.perf_counter()
            if self.method == "auto":  # it calls the closure once more now and then
                loss = _closed(self.optimizers[0], closure)
            else:
                loss = closure()
                for kernel, matrix in self.flat:
                    matrix.grad = None if kernel.grad is None else kernel.grad.view(len(kernel), -1)
                for optimizer in self.optimizers:
                    optimizer.step()
            out["cpu"].append(time.process_time() - cpu)
            out["wall"].append(time.perf_counter() - wall)
            out["accuracy"].append(float((kept[0].argmax(-1) == y).float().mean()))
            out["loss"].append(float(loss.detach()))
            self.k += 1
        return out

    def test(self, x: Tensor, y: Tensor) -> float:
        """Accuracy on other data."""
        self.model.eval()
        with torch.no_grad():
            right = torch.cat([self.model(part).argmax(-1) for part in x.split(250)]) == y
        self.model.train()
        return float(right.float().mean())

    def more(self) -> dict[str, Any]:
        """What "auto" learnt."""
        optimizer: Any = self.optimizers[0]
        if self.method != "auto":
            return {}
        return {
            "inclusion": optimizer.inclusion, "smoothness": optimizer.smoothness(), "saving": optimizer.predicted_saving(),
        }  # fmt: skip
