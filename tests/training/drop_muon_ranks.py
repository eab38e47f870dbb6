"""What each rank of the distributed tests does; started by them with (rank, ranks, store file, folder, how...)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from surefoot.training import Auto, DropMuon


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 12, generator=generator), torch.randint(5, (32,), generator=generator)


def train(how: str, rank: int, ranks: int, steps: int = 12) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights at the end and the first drawn layer of every step; `how` is plain, ddp, own, fsdp or auto."""
    x, y = data()
    x, y = x[rank::ranks], y[rank::ranks]
    model = network()
    trained: nn.Module = model
    options: dict[str, object] = {"lr": 0.02, "seed": 3, "weight_decay": 0.01}
    if how == "ddp":
        trained = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    elif how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (ranks,))
        for module in model:
            if isinstance(module, nn.Linear):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif how in ("own", "auto"):
        options |= {"synchronise": True, "distribute": True}
    if how == "auto":  # times differ between ranks; draws must not
        options["sampling"] = Auto(rounds=2, probe_every=4)
        steps = 30
    optimizer = DropMuon(model, **options)  # type: ignore[arg-type]
    starts: list[float] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(trained(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        starts.append(float(optimizer.drawn[0]))
        if how == "fsdp":
            loss = closure()
            held = [p.grad is None for p in model.parameters() if optimizer.layer_of(p) < optimizer.drawn[0]]
            assert all(held), "a layer that was not drawn has a gradient"
            optimizer.step()
            assert torch.isfinite(loss)
        else:
            optimizer.step(closure)
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()  # type: ignore[operator]
        for name, p in model.named_parameters()
    }
    return weights, starts


def main() -> None:
    rank, ranks, store, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    for how in sys.argv[5:]:
        weights, starts = train(how, rank, ranks)
        save_file({**weights, "starts": torch.tensor(starts)}, folder / f"{how}-{rank}.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
