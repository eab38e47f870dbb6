"""Small networks for the tests of Drop-Muon, their data and a loop of steps."""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(width, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(self.norm(x))))


class Attention(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return x + self.inner(x, x, x, need_weights=False)[0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body, self.out = nn.Embedding(9, 12), Residual(), nn.Linear(12, 9, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x):
        return self.out(self.body(self.table(x)))


def seeded(make):
    torch.manual_seed(0)
    return make()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def dense(b=4, width=12):
    return nn.Sequential(*[m for _ in range(b - 1) for m in (nn.Linear(width, width), nn.Tanh())], nn.Linear(width, 5))


def batch(model, n=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, Tied):
        x = torch.randint(9, (n, 6), generator=generator)
        return x, torch.randint(9, (n, 6), generator=generator)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | Residual | Attention))
    shape = (n, 1, 8, 8) if isinstance(first, nn.Conv2d) else (n, 3, 12) if isinstance(first, Attention) else (n, 12)
    return torch.randn(shape, generator=generator), torch.randint(5, (n,), generator=generator)


def loss_of(model, x, y):
    out = model(x)
    out = out.mean(1) if out.ndim == 3 and y.ndim == 1 else out
    return nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())


NETWORKS = {
    "dense": dense,
    "convolutional": convolutional,
    "residual": lambda: nn.Sequential(Residual(), Residual(), nn.Linear(12, 5)),
    "attention": lambda: nn.Sequential(Attention(), Residual(), nn.Linear(12, 5)),
    "tied": Tied,
}


def train(model, optimizer, steps, data=None):
    x, y = data or batch(model)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        optimizer.backward(loss)
        optimizer.step()
    return float(loss.detach())
