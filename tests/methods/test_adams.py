"""Adams methods: coefficients, limits and warnings."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
import torch

import fastode
from fastode.errors import InvalidArgument
from fastode.methods.adams import adams_coefficients

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def solve(method: str, **options: int) -> torch.Tensor:
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    answer: torch.Tensor = fastode.odeint(lambda t, y: -y, y0, T, method=method, rtol=1e-4, atol=1e-4, options=options)
    return answer


@pytest.mark.parametrize(
    ("order", "implicit", "weights"),
    [
        (1, False, [1]),
        (2, False, [F(3, 2), F(-1, 2)]),
        (3, False, [F(23, 12), F(-4, 3), F(5, 12)]),
        (4, False, [F(55, 24), F(-59, 24), F(37, 24), F(-3, 8)]),
        (1, True, [1]),
        (2, True, [F(1, 2), F(1, 2)]),
        (3, True, [F(5, 12), F(2, 3), F(-1, 12)]),
        (4, True, [F(3, 8), F(19, 24), F(-5, 24), F(1, 24)]),
    ],
    ids=lambda v: str(v) if not isinstance(v, list) else "",
)
def test_coefficients_are_the_published_ones(order: int, implicit: bool, weights: list[F]) -> None:
    assert list(adams_coefficients(order, implicit)) == weights


@pytest.mark.parametrize("implicit", [False, True], ids=["Bashforth", "Moulton"])
@pytest.mark.parametrize("order", range(1, 13))
def test_coefficients_integrate_polynomials_exactly(order: int, implicit: bool) -> None:
    weights = adams_coefficients(order, implicit)
    nodes = [int(implicit) - j for j in range(order)]
    for power in range(order):
        assert sum(w * F(x) ** power for w, x in zip(weights, nodes, strict=True)) == F(1, power + 1)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams", "fixed_adams"])
def test_a_low_order_says_that_it_reduces_to_rk4(method: str) -> None:
    with pytest.warns(UserWarning, match="max_order is below 4, so the solver reduces to `rk4`"):
        found = solve(method, max_order=3)
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(found, fastode.odeint(lambda t, y: -y, y0, T, method="rk4"), rtol=1e-14, atol=0)


def test_fixed_adams_is_another_name_of_implicit_adams() -> None:
    assert torch.equal(solve("fixed_adams"), solve("implicit_adams"))


def test_an_order_beyond_the_tables_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="max_order must be at most 12, but is 13"):
        solve("explicit_adams", max_order=13)


@pytest.mark.parametrize("options", [{"max_order": 0}, {"max_iters": 0}], ids=["order", "iterations"])
def test_nothing_to_do_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="must be at least 1"):
        solve("implicit_adams", **options)


def test_a_corrector_that_does_not_settle_warns_and_goes_on_with_less() -> None:
    y0 = torch.tensor([1.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="Functional iteration did not converge"):
        y = fastode.odeint(lambda t, y: -y, y0, T, method="implicit_adams", rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(y[-1], torch.exp(-y0 * 1.0), rtol=1e-6, atol=0)
