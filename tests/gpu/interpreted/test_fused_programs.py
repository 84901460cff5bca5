"""Programs in Triton's interpreter compute what they mean in plain torch."""

from __future__ import annotations

import pytest
import torch
from compiler.fields import CASES
from compiler.running import assert_close
from compiler.test_trace import in_dtype
from torch import Tensor

from fastode.compiler.evaluate import evaluate as by_torch
from fastode.compiler.gpu.evaluate import evaluate
from gpu.fields import WIDE, Traced, traced, wide

# torch.func.jvp uses it

#: one more than a tile, so that a tile has one row
ROWS = 17
DTYPES = [torch.float32, torch.float64]


def check(found: Traced, **settings: object) -> None:
    """The slopes are those of the reference in float64, to a few roundings of the largest."""
    shape = () if found.shared_time else (ROWS,)
    t = torch.rand(shape, dtype=torch.float64)
    y = torch.randn(ROWS, found.features, dtype=found.dtype)
    slopes = evaluate(found.fused(**settings), t, y, found.arguments, found.constants)

    def double(xs: list[Tensor]) -> list[Tensor]:
        return [x.double() for x in xs]

    seen = y[:, : found.program.state_width].double()
    time = t.to(found.dtype).double()
    (expected,) = by_torch(found.program, time, seen, double(found.arguments), double(found.constants))
    tolerance = 2e-5 if found.dtype == torch.float32 else 1e-13
    assert slopes.dtype == found.dtype
    assert_close(slopes.double(), expected, tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_field_is_what_torch_makes_of_it(name: str, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    case = in_dtype(CASES[name](), dtype)
    y = torch.randn(ROWS, *case.y_shape)
    args = [torch.randn(ROWS, *a.shape[1:]) if i in case.per_row else a for i, a in enumerate(case.args)]
    found = traced(case.func, y, tuple(args), shared_time=not case.time_per_row)
    check(found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("divergence", [None, "exact", "hutchinson"])
@pytest.mark.parametrize("name", WIDE)
def test_wide_values_and_their_divergences_are_what_torch_makes_of_them(
    name: str, divergence: str | None, dtype: torch.dtype
) -> None:
    if (name, divergence) == ("gru", "exact"):
        pytest.skip("twenty tangents of three gates take the interpreter seconds")
    check(wide(name, dtype, ROWS, divergence))


@pytest.mark.parametrize("name", ["conditioned", "concatsquash", "padded_layers"])
@pytest.mark.parametrize("settings", [{"tile": 16}, {"tile": 64}, {"rows": 32}], ids=str)
def test_settings_change_no_result(name: str, settings: dict[str, object]) -> None:
    check(wide(name, torch.float64, ROWS, "exact"), **settings)


@pytest.mark.parametrize("name", ["concatsquash", "time_beside_the_state"])
def test_rows_may_share_their_time(name: str) -> None:
    check(wide(name, torch.float64, ROWS, "exact", shared_time=True))


def test_a_single_row_and_a_full_tile_are_whole_batches() -> None:
    found = wide("two_hidden_layers_of_64", torch.float64, ROWS)
    fused = found.fused()
    for rows in (1, 16, 33):
        y = torch.randn(rows, 2, dtype=torch.float64)
        t = torch.zeros(rows, dtype=torch.float64)
        (expected,) = by_torch(found.program, t, y, [], found.constants)
        torch.testing.assert_close(evaluate(fused, t, y, [], found.constants), expected)
    assert evaluate(fused, t[:0], y[:0], [], found.constants).shape == (0, 2)


def test_a_row_that_is_not_finite_leaves_its_tile_alone() -> None:
    found = wide("skipping", torch.float64, ROWS)
    y = torch.randn(ROWS, 12, dtype=torch.float64)
    t = torch.zeros(ROWS, dtype=torch.float64)
    fused = found.fused()
    clean = evaluate(fused, t, y, [], found.constants)
    y[3] = float("nan")
    y[5, 2] = float("inf")
    broken = evaluate(fused, t, y, [], found.constants)
    others = [r for r in range(ROWS) if r not in (3, 5)]
    assert torch.equal(broken[others], clean[others])
    assert broken[3].isnan().all()


def test_infinite_hidden_features_do_not_spoil_finite_ones() -> None:
    # 17 features in a tile of 32: what an infinite one makes of the padding must not come back
    class Saturating(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(2, 17), torch.nn.Linear(17, 17), torch.nn.Linear(17, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.c(torch.tanh(self.b(torch.exp(self.a(y)))))

    func = Saturating().double()
    with torch.no_grad():
        func.b.weight.abs_()
    found = traced(func, torch.zeros(3, 2, dtype=torch.float64))
    y = torch.tensor([[1e5, 1e5], [0.5, -0.5], [-1e5, 1e5]], dtype=torch.float64)
    t = torch.zeros(3, dtype=torch.float64)
    (expected,) = by_torch(found.program, t, y, [], found.constants)
    assert expected.isfinite().all()
    torch.testing.assert_close(evaluate(found.fused(), t, y, [], found.constants), expected)
