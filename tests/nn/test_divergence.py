"""Divergences by autograd, and Hutchinson's estimate."""

import itertools

import pytest
import torch

from fastode import InvalidArgument
from fastode.nn import (
    MLPField,
    autograd_divergence,
    autograd_jvp_dot,
    exact_divergence,
    hutchinson_divergence,
    sample_noise,
)

T = torch.tensor(0.2, dtype=torch.float64)


class UserField(torch.nn.Module):
    """A field that does not know its divergence."""

    def __init__(self, dim):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(dim, dim, dtype=torch.float64)

    def forward(self, t, y):
        return torch.sin(self.linear(y) + t) * y


@pytest.mark.parametrize("dim", [1, 2, 5, 8], ids=lambda d: f"dim {d}")
def test_exact_divergence_of_a_user_field_equals_the_trace_of_its_jacobian(dim):
    field, y = UserField(dim), torch.randn(3, dim, dtype=torch.float64)

    value, divergence = exact_divergence(field, T, y)

    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(T, row)))(y)
    torch.testing.assert_close(value, field(T, y))
    torch.testing.assert_close(divergence, torch.einsum("bii->b", jacobians), rtol=1e-12, atol=1e-13)


def test_divergence_works_where_gradients_are_switched_off_and_leaves_no_graph():
    y = torch.randn(3, 2, dtype=torch.float64)

    with torch.no_grad():
        value, divergence = autograd_divergence(UserField(2), T, y)
        _, estimate = autograd_jvp_dot(UserField(2), T, y, torch.ones_like(y))

    assert not value.requires_grad and not divergence.requires_grad and not estimate.requires_grad
    assert not y.requires_grad


def test_divergence_can_be_differentiated_by_state_and_parameters():
    field, y = UserField(2), torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda v, *_: autograd_divergence(field, T, v), (y, *field.parameters()))


def test_a_constant_field_has_no_divergence():
    value, divergence = autograd_divergence(lambda t, y: torch.ones_like(y), T, torch.randn(3, 2, dtype=torch.float64))

    assert torch.equal(value, torch.ones(3, 2, dtype=torch.float64))
    assert torch.equal(divergence, torch.zeros(3, dtype=torch.float64))


def test_rademacher_estimate_averaged_over_all_signs_is_the_exact_divergence():
    field, y = UserField(3), torch.randn(4, 3, dtype=torch.float64)
    signs = [torch.tensor(s, dtype=torch.float64).expand(4, 3) for s in itertools.product((-1, 1), repeat=3)]

    mean = torch.stack([hutchinson_divergence(field, T, y, e)[1] for e in signs]).mean(0)

    torch.testing.assert_close(mean, exact_divergence(field, T, y)[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinsons_estimate_is_unbiased(noise):
    torch.manual_seed(1)
    field, n = UserField(3), 20_000
    y = torch.randn(1, 3, dtype=torch.float64).expand(n, 3).contiguous()

    estimates = hutchinson_divergence(field, T, y, sample_noise(y, noise))[1]

    error = estimates.mean() - exact_divergence(field, T, y[:1])[1][0]
    assert error.abs() < 5 * estimates.std() / n**0.5


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_has_zero_mean_and_unit_covariance(noise):
    torch.manual_seed(0)
    e = sample_noise(torch.empty(40_000, 2, dtype=torch.float64), noise)

    # five standard errors of a mean of 40,000 values with unit variance (products: variance at most 2)
    assert e.mean(0).abs().max() < 5 / 200
    assert (torch.cov(e.T) - torch.eye(2)).abs().max() < 5 * 2**0.5 / 200


def test_both_ways_to_estimate_agree_for_an_mlp():
    field = MLPField(3, (6, 6)).double()
    y, e = torch.randn(2, 4, 3, dtype=torch.float64)

    by_jvp = hutchinson_divergence(field, T, y, e)
    by_vjp = autograd_jvp_dot(field, T, y, e)

    torch.testing.assert_close(by_jvp, by_vjp, rtol=1e-12, atol=1e-13)


def test_unknown_noise_is_refused():
    with pytest.raises(InvalidArgument, match=r"`noise='normal'` is not known.*rademacher, gaussian"):
        sample_noise(torch.zeros(2, 2), "normal")
