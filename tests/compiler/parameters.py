"""Vector fields with matrices, parameters and arguments, as people write them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import case


@case(3)
def lorenz_with_parameters() -> Any:
    class Lorenz(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coefficients = nn.Parameter(torch.tensor([10.0, 28.0, 8 / 3]))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            sigma, rho, beta = self.coefficients
            x, y, z = y[..., 0], y[..., 1], y[..., 2]
            return torch.stack((sigma * (y - x), x * (rho - z) - y, x * y - beta * z), dim=-1)

    return Lorenz()


@case(2, per_row=(0,), unbatched=False)
def van_der_pol_of_each_row() -> Any:
    def func(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        x, v = y[:, 0], y[:, 1]
        return torch.stack([v, mu * (1 - x**2) * v - x], 1)

    return func, torch.rand(4)


@case(3, per_row=(1,), unbatched=False)
def arguments_of_two_kinds() -> Any:
    def func(t: Tensor, y: Tensor, w: Tensor, shift: Tensor, scale: float) -> Tensor:
        return scale * torch.tanh(y @ w + shift)

    return func, torch.randn(3, 3), torch.randn(5, 3), 1.5


@case(3, per_row=(0,), unbatched=False)
def matrix_of_each_row() -> Any:
    return (lambda t, y, a: torch.bmm(a, y[:, :, None])[..., 0] + torch.einsum("bij,bj->bi", a, y)), torch.randn(
        4, 3, 3
    )


@case(2, unbatched=False)
def spiral() -> Any:
    a = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    return lambda t, y: torch.mm(y**3, a.to(y.dtype))


@case(2)
def spiral_from_inside() -> Any:
    return lambda t, y: y**3 @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=y.dtype)


@case(3, unbatched=False)
def einsum_with_parameter() -> Any:
    net = nn.ParameterDict({"w": torch.randn(3, 3), "q": torch.randn(3, 3, 3)})

    def func(t: Tensor, y: Tensor) -> Tensor:
        linear = torch.einsum("ij,bj->bi", net["w"], y)
        return linear + torch.einsum("ijk,bj,bk->bi", net["q"], y, y)

    return func


@case(3, unbatched=False)
def matrix_from_the_left() -> Any:
    w = nn.Parameter(torch.randn(3, 3))
    return lambda t, y: (w @ y.T).T


@case(3, unbatched=False)
def batched_matrix() -> Any:
    w = nn.Parameter(torch.randn(3, 3))
    return lambda t, y: (
        (w @ y.unsqueeze(-1)).squeeze(-1) + torch.baddbmm(y[..., None], w.expand(len(y), 3, 3), y[..., None])[..., 0]
    )


@case(3)
def masked_and_positive_weights() -> Any:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.Parameter(torch.randn(3, 3))
            self.second = nn.Parameter(torch.randn(3, 3))
            self.register_buffer("mask", torch.tril(torch.ones(3, 3)) > 0)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(y @ (F.softplus(self.raw) * self.mask @ self.second)) - self.mask[1] * y

    return Masked()


@case(2)
def rotation_built_from_parameter() -> Any:
    omega = nn.Parameter(torch.tensor(1.3))

    def func(t: Tensor, y: Tensor) -> Tensor:
        a = torch.zeros(2, 2, dtype=y.dtype)
        a[0, 1] = omega
        a[1, 0] = -omega
        return y @ a.t()

    return func


@case(2, time_per_row=False)
def rotation_that_depends_on_time() -> Any:
    def func(t: Tensor, y: Tensor) -> Tensor:
        a = torch.stack([torch.stack([torch.cos(t), torch.sin(t)]), torch.stack([-torch.sin(t), torch.cos(t)])])
        return y @ a

    return func
