"""Random fields, states, arguments and times, each made by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import fastode

from .running import assert_close

#: smooth, as a kink makes of rounding another gradient
ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    torch.tanh, torch.sigmoid, torch.sin, torch.erf, nn.functional.softplus, nn.functional.silu, nn.functional.gelu,
    lambda x: torch.exp(-x * x), lambda x: torch.sqrt(1 + x * x),
]  # fmt: skip
#: how a layer sees the time: not at all, beside its input, by a gate and a shift, or in each row by itself
SEEING = ("nothing", "concatenated", "gated", "by row")
#: not dopri8, whose error estimate is rounding where the steps are short
ADAPTIVE, FIXED = ("dopri5", "bosh3", "tsit5", "adaptive_heun", "fehlberg2"), ("euler", "midpoint", "rk4", "heun3")


class Layers(nn.Module):
    """A network whose layers see the time in some way, times functions of its arguments."""

    def __init__(self, choose: random.Random, features: int, arguments: list[str]) -> None:
        super().__init__()
        self.seeing, self.arguments = choose.choice(SEEING), arguments
        widths = [features, *[choose.choice([1, 2, 3, 7, 8, 16, 33]) for _ in range(choose.randint(0, 3))], features]
        more = int(self.seeing == "concatenated")
        pairs = list(pairwise(widths))
        self.layers = nn.ModuleList([nn.Linear(a + more, b, bias=choose.random() < 0.8) for a, b in pairs])
        self.gates = nn.ModuleList([nn.Linear(1, b) for _, b in pairs])
        self.shifts = nn.ModuleList([nn.Linear(1, b, bias=False) for _, b in pairs])
        self.activations = [choose.choice(ACTIVATIONS) for _ in pairs[1:]]
        self.bounded = choose.random() < 0.3

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        t = t.reshape(-1, 1)
        x = y
        for i, layer in enumerate(self.layers):
            if self.seeing == "concatenated":
                x = torch.cat([t.expand(len(y), 1), x], 1)
            x = layer(x)
            if self.seeing == "gated":
                x = x * torch.sigmoid(self.gates[i](t)) + self.shifts[i](t)
            if self.seeing == "by row":
                x = x * torch.sigmoid(self.gates[i](t * torch.ones_like(y[:, :1])))
            if i < len(self.activations):
                x = self.activations[i](x)
        for kind, a in zip(self.arguments, args, strict=True):
            x = x + torch.tanh(y @ a) if kind == "matrix" else x + a if kind == "vector" else x * torch.sin(a)
        return x / (1 + x.norm(dim=-1, keepdim=True)) if self.bounded else x


class Drawn:
    """What a seed makes: a field, its state and arguments, and times."""

    def __init__(self, seed: int, most_arguments: int = 2) -> None:
        torch.manual_seed(seed)
        choose = self.choose = random.Random(seed)
        # an argument of as many rows as the batch would be one of rows
        self.rows, self.features = choose.choice([1, 4, 17, 33, 70]), choose.choice([1, 2, 3])
        kinds = [choose.choice(["row", "vector", "matrix"]) for _ in range(choose.randint(0, most_arguments))]
        kinds = [k for k in kinds if k == "row" or self.features != self.rows]
        self.field = Layers(choose, self.features, kinds)
        shapes = {"row": (self.rows, 1), "vector": (self.features,), "matrix": (self.features, self.features)}
        self.args = tuple(torch.randn(shapes[k], requires_grad=choose.random() < 0.7) for k in kinds)
        for p in self.field.parameters():
            p.requires_grad_(choose.random() < 0.85)
        self.y0 = torch.randn(self.rows, self.features, requires_grad=True)
        self.t = torch.sort(torch.rand(choose.choice([2, 3, 7])) * 2).values
        if choose.random() < 0.4:
            self.t = self.t.flip(0)
        self.memory = choose.choice([None, None, 1, 2000, 20000])
        tolerance = 10 ** -choose.uniform(2, 5)
        self.how: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}

    def compare(
        self, solve: Callable[[Any], list[Tensor]], tolerance: float = 1e-8, more: Sequence[Tensor] = ()
    ) -> None:
        """What ``solve`` returns for the field compiled and as it is, and the gradients of all that require some."""
        leaves = [x for x in (self.y0, *self.args, *self.field.parameters(), self.t, *more) if x.requires_grad]
        found = []
        for field in (fastode.compile(self.field, memory=self.memory), self.field):
            with fastode.stats() as log:
                outs = solve(field)
            weighted = [(x.nan_to_num() * torch.linspace(0.5, 1, x.numel()).view_as(x)).sum() for x in outs]
            grads = torch.autograd.grad(sum(weighted), leaves, materialize_grads=True, allow_unused=True)
            account = (log[0].n_accepted, log[0].n_rejected)
            found.append((log[0].engine, account, [*[x.detach() for x in outs], *grads]))
        (engine, ours, got), (_, loop, wanted) = found
        assert engine == "compiled"
        assert ours == loop
        for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert_close(a, b, tolerance, f"result {i}")
