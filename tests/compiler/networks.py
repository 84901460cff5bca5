"""Neural vector fields as people write them."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import fastode.nn

from .registry import CASES, Case, Wrapped, case

ACTIVATIONS = (
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
)


def _with_activation(name: str) -> Case:
    width = 6
    made = getattr(nn, name)(*[-1] if "Softmax" in name else [])
    net = nn.Sequential(nn.Linear(3, width), made, nn.Linear(width // (2 if name == "GLU" else 1), 3))
    return Case(Wrapped(net), (3,))


CASES.update({f"mlp_{name}": functools.partial(_with_activation, name) for name in ACTIVATIONS})


@case(2)
def mlp_with_tanh_gelu() -> Any:
    return Wrapped(nn.Sequential(nn.Linear(2, 5), nn.GELU("tanh"), nn.Linear(5, 2)))


@case(2)
def mlp_with_scaled_softplus() -> Any:
    return Wrapped(nn.Sequential(nn.Linear(2, 5), nn.Softplus(beta=2.0, threshold=1.5), nn.Linear(5, 2)))


@case(2)
def time_as_last_feature() -> Any:
    return Wrapped(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)), True)


@case(2, unbatched=False, time_per_row=False)
def time_as_first_feature() -> Any:
    net = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2))
    return lambda t, y: net(torch.cat([torch.ones_like(y[:, :1]) * t, y], 1))


@case(2, unbatched=False, time_per_row=False)
def expanded_time() -> Any:
    net = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 2))
    return lambda t, y: net(torch.cat([y, t.expand(y.shape[0], 1)], -1))


@case(3)
def residual_blocks() -> Any:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(3)
            self.up = nn.Linear(3, 7)
            self.down = nn.Linear(7, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.gelu(self.up(self.norm(x))))

    return Wrapped(nn.Sequential(Block(), Block()))


@case(3)
def concatsquash_of_fastode() -> Any:
    return fastode.nn.MLPField(3, hidden=(8, 5))


@case(3)
def concat_of_fastode() -> Any:
    return fastode.nn.MLPField(3, hidden=(8,), layer="concat", activation="softplus")


@case(3, unbatched=False, time_per_row=False)
def concatsquash_as_in_ffjord() -> Any:
    class ConcatSquash(nn.Module):
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self._layer = nn.Linear(n_in, n_out)
            self._hyper_bias = nn.Linear(1, n_out, bias=False)
            self._hyper_gate = nn.Linear(1, n_out)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self._hyper_gate(t.view(1, 1)))
            return self._layer(x) * gate + self._hyper_bias(t.view(1, 1))

    layers = nn.ModuleList([ConcatSquash(3, 6), ConcatSquash(6, 3)])
    return lambda t, y: layers[1](t, F.softplus(layers[0](t, y)))


@case(2, unbatched=False, time_per_row=False)
def concat_as_in_ffjord() -> Any:
    layer = nn.Linear(3, 2)
    return lambda t, x: layer(torch.cat([torch.ones_like(x[:, :1]) * t, x], 1))


@case(2, unbatched=False, time_per_row=False)
def blend_of_two_layers() -> Any:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    return lambda t, x: torch.lerp(a(x), b(x), t) if t.dim() == 0 else a(x)


@case(4)
def normed_layers() -> Any:
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.SiLU(), nn.RMSNorm(6, eps=1e-6), nn.Linear(6, 4))
    return Wrapped(net)


@case(4, unbatched=False)
def group_and_batch_norm() -> Any:
    net = nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    net[2].running_mean.normal_()
    return Wrapped(net.eval())


@case(4)
def gated_without_attention() -> Any:
    value, gate = nn.Linear(4, 4), nn.Linear(4, 4)
    return lambda t, y: torch.softmax(gate(y), -1) * value(y) - F.log_softmax(y, -1) * torch.sigmoid(gate(y))


@case(3, 4, unbatched=False)
def attention_over_particles() -> Any:
    q, k, v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    return lambda t, y: F.scaled_dot_product_attention(q(y), k(y), v(y))


@case(3, 4, unbatched=False)
def attention_with_two_heads() -> Any:
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    return lambda t, y: layer(y, y, y, need_weights=False)[0]


@case(3, unbatched=False)
def directional_derivative() -> Any:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return lambda t, y: torch.func.jvp(net, (y,), (y.flip(-1),))[1]


@case(3, 2)
def particles() -> Any:
    def func(t: Tensor, y: Tensor) -> Tensor:
        difference = y.unsqueeze(-2) - y.unsqueeze(-3)
        distance = difference.pow(2).sum(-1, keepdim=True) + 0.1
        return (difference / distance**1.5).sum(-2) - y.mean(-2, keepdim=True)

    return func


@case(3)
def weight_normed() -> Any:
    return Wrapped(nn.Sequential(weight_norm(nn.Linear(3, 5)), nn.Tanh(), weight_norm(nn.Linear(5, 3))))


@case(3)
def spectral_normed() -> Any:
    return Wrapped(nn.Sequential(spectral_norm(nn.Linear(3, 5)), nn.Tanh(), nn.Linear(5, 3)).eval())


@case(6, unbatched=False)
def convolution() -> Any:
    conv = nn.Conv1d(1, 2, 3, padding=1)
    back = nn.Conv1d(2, 1, 3, padding=1)
    return lambda t, y: back(torch.tanh(conv(y[:, None])))[:, 0]


@case(4, unbatched=False)
def hamiltonian() -> Any:
    energy = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 7), nn.Softplus(), nn.Linear(7, 1))

    def func(t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            y = y.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        return torch.cat([slope[:, 2:], -slope[:, :2]], 1)

    return func


@case(4, unbatched=False)
def gradient_by_functorch() -> Any:
    energy = nn.Sequential(nn.Linear(4, 7), nn.SiLU(), nn.Linear(7, 1))
    return lambda t, y: -torch.func.vmap(torch.func.grad(lambda v: energy(v)[0]))(y)


@case(3)
def gru_cell() -> Any:
    cell = nn.GRUCell(3, 3)
    return lambda t, y: cell(torch.ones_like(y) * 0.2, y) - y


@case(3)
def second_of_two_states() -> Any:
    class Bound:
        def __init__(self) -> None:
            self.net = nn.Linear(3, 3)
            self.scale = torch.tensor(0.5, dtype=torch.float64)

        def rhs(self, gain: float, t: Tensor, y: Tensor) -> Tensor:
            return gain * self.net(y) * self.scale.to(y.dtype)

    return functools.partial(Bound().rhs, 2.0)
