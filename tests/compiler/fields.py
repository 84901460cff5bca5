"""Vector fields as people write them: neural ones, with parameters, physics, many operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import networks as networks
from . import parameters as parameters
from .registry import CASES as CASES
from .registry import Case as Case
from .registry import column, field


@field(2)
def lotka_volterra(t: Tensor, y: Tensor) -> Tensor:
    prey, predators = y.unbind(-1)
    return torch.stack([1.1 * prey - 0.4 * prey * predators, -0.4 * predators + 0.1 * prey * predators], -1)


@field(3)
def robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = torch.split(y, 1, dim=-1)
    slow, fast, back = 0.04 * a, 3e7 * b**2, 1e4 * b * c
    return torch.cat([back - slow, slow - back - fast, fast], dim=-1)


@field(2)
def pendulum(t: Tensor, y: Tensor) -> Tensor:
    angle, speed = y[..., 0], y[..., 1]
    return torch.stack([speed, -9.81 * torch.sin(angle) - 0.1 * speed * speed.abs() + torch.cos(2 * t)], -1)


@field(4, time_per_row=False)
def written_in_place(t: Tensor, y: Tensor) -> Tensor:
    dy = torch.zeros_like(y)
    dy[..., 0] = y[..., 1]
    dy[..., 1] += torch.sin(t) - y[..., 0]
    dy[..., 2:] = -y[..., 2:] * y[..., :2]
    dy[..., 3].mul_(2).add_(y[..., 0], alpha=0.5)
    return dy


@field(3, unbatched=False)
def written_into_empty(t: Tensor, y: Tensor) -> Tensor:
    dy = torch.empty_like(y)
    dy[:, [0, 2]] = y[:, [2, 0]].clamp(-0.5, 0.7)
    dy[:, 1] = y.sum(1)
    return dy


@field(2, time_per_row=False, unbatched=False)
def filled_with_the_time(t: Tensor, y: Tensor) -> Tensor:
    rows = len(y)
    times = torch.cat(
        [torch.full((rows, 1), t, dtype=y.dtype), torch.full(size=(rows, 1), fill_value=2 * t, dtype=y.dtype)], 1
    )
    return y * times + torch.full_like(y, t) - y.new_full((rows, 1), fill_value=t)


@field(3)
def masks(t: Tensor, y: Tensor) -> Tensor:
    hot = (y > 0.1) & ~(y >= 1.0) | (y == 0)
    dy = torch.where(hot, y, -0.3) * hot.to(y.dtype)
    dy[y < -1] = 0.25
    return dy + y.masked_fill(torch.logical_not(hot), 0.5) * (y != 0)


@field(4)
def norms(t: Tensor, y: Tensor) -> Tensor:
    scale = y.norm(dim=-1, keepdim=True) + y.norm(p=1, dim=-1, keepdim=True) + y.abs().amax(-1, keepdim=True)
    scale = scale - y.max(-1, keepdim=True).values * y.min(-1, keepdim=True)[0]
    return F.normalize(y, dim=-1) / scale - y.std(-1, keepdim=True) * y.var(-1, keepdim=True) + y.logsumexp(-1, True)


@field(4)
def moved_features(t: Tensor, y: Tensor) -> Tensor:
    pairs = y.unflatten(-1, (2, 2))
    turned = pairs.transpose(-1, -2).flatten(-2) + y.roll(1, -1) + y.flip(-1) + F.pad(y[..., 1:3], (1, 1), value=0.5)
    return turned + y.cumsum(-1) + torch.diff(y, dim=-1, prepend=y[..., :1]) + y.prod(-1, keepdim=True)


@field(5)
def heat_equation(t: Tensor, y: Tensor) -> Tensor:
    padded = F.pad(y, (1, 1))
    return 25 * (padded[..., 2:] - 2 * y + padded[..., :-2])


@field(3)
def many_functions(t: Tensor, y: Tensor) -> Tensor:
    p = y.abs() + 0.5
    a = p.rsqrt() + p.log() + p.log1p() + p.reciprocal() + p**0.5 + p**-2 + p**2.5 + 2**y + p.log2() + p.pow(y)
    b = y.tan() + y.sinh() + y.cosh() + y.sinc() + torch.hypot(y, p) + torch.logaddexp(y, p) + y.expm1() + y.sgn()
    c = torch.erf(y) + torch.maximum(y, p) - torch.minimum(y, p) + y.clamp(min=0.1) + F.threshold(y, 0.1, 3.0)
    return a + b + c + torch.addcmul(y, p, y, value=0.3) + torch.addcdiv(y, p, p + 1) + torch.lerp(y, p, 0.3)


@field(3)
def angles_and_rounding(t: Tensor, y: Tensor) -> Tensor:
    small = 0.9 * torch.tanh(y)
    a = torch.atan2(y, y.roll(1, -1)) + torch.atan(y) + torch.asin(small) + torch.acos(small)
    b = torch.asinh(y) + torch.acosh(1 + y.abs()) + torch.atanh(small) + torch.remainder(y, 0.7) + torch.fmod(y, 0.7)
    return a + b + torch.floor(3 * y) + torch.round(3 * y) - torch.trunc(y) + torch.fmax(y, small)


@field(4)
def small_matrices(t: Tensor, y: Tensor) -> Tensor:
    mass = torch.eye(2) + y[..., :2, None] * y[..., None, :2]
    turned = torch.linalg.solve(mass, y[..., 2:]) + torch.linalg.inv(mass).sum(-1)
    return torch.cat([turned * torch.linalg.det(mass)[..., None], torch.cdist(mass, mass).sum(-1)], -1)


@field(3)
def guarded(t: Tensor, y: Tensor) -> Tensor:
    bad = ~torch.isfinite(y) | torch.isnan(y)
    inside = (y.abs() < 1).all(-1, keepdim=True) | (y > 2).any(-1, keepdim=True)
    return torch.nan_to_num(1 / y) * inside.int() - bad.to(y.dtype)


@field(3)
def cross_product(t: Tensor, y: Tensor) -> Tensor:
    return (
        torch.linalg.cross(y, y.roll(1, -1), dim=-1) + torch.outer(y, y).sum(-1)
        if y.dim() == 1
        else torch.linalg.cross(y, y.roll(1, -1), dim=-1) + (y[:, :, None] * y[:, None, :]).sum(-1)
    )


@field(2)
def constant(t: Tensor, y: Tensor) -> Tensor:
    return torch.ones_like(y)


@field(2)
def broadcast_number(t: Tensor, y: Tensor) -> Tensor:
    return torch.zeros((), dtype=y.dtype) + 3


@field(1)
def time_alone(t: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-column(t, y))


@field()
def a_number_for_each_row(t: Tensor, y: Tensor) -> Tensor:
    return -y * torch.cos(t)
