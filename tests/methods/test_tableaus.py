"""Every tableau of the registry: order conditions, embedded weights, midpoints, flags, torchdiffeq's doubles, names."""

from __future__ import annotations

import pkgutil
import re
from fractions import Fraction
from typing import Any

import pytest
import torch

import fastode
import fastode.methods as registry
from fastode.errors import InvalidArgument
from fastode.implicit_rk import ImplicitTableau
from fastode.methods import ExternalMethod, GridMethod, lookup, methods, register, unregister
from fastode.methods.implicit import TABLEAUS
from fastode.tableau import ButcherTableau

from .trees import Tableau, trees

EXPLICIT = {name: m for name, m in methods().items() if isinstance(m, ButcherTableau)}
ADAPTIVE = {name: m for name, m in EXPLICIT.items() if m.adaptive}

#: Residuals that the printed coefficients leave: none where they are fractions. Tsitouras printed about 80 digits of
#: the weights, and the estimate's last weight is a double. Prince and Dormand printed fractions good to 17 digits.
RESIDUAL: dict[str, Any] = {"dopri8": 1e-14, "tsit5": Fraction(1, 10**60)}
#: orders of ``y + dt sum_j b_mid[j] k_j`` as an approximation of ``y(t + dt/2)``
MIDPOINT = {"dopri5": 4, "dopri8": 5, "tsit5": 4, "bosh3": 1, "fehlberg2": 1, "adaptive_heun": 1}

#: the methods of torchdiffeq's master
NAMES = [
    "adaptive_heun",
    "bosh3",
    "dopri5",
    "dopri8",
    "euler",
    "explicit_adams",
    "fehlberg2",
    "fixed_adams",
    "gl4",
    "gl6",
    "heun2",
    "heun3",
    "implicit_adams",
    "implicit_euler",
    "implicit_midpoint",
    "midpoint",
    "radauIIA3",
    "radauIIA5",
    "rk4",
    "scipy_solver",
    "sdirk2",
    "trapezoid",
    "trbdf2",
    "tsit5",
]

each_explicit = pytest.mark.parametrize("name", EXPLICIT)
each_adaptive = pytest.mark.parametrize("name", ADAPTIVE)
each_implicit = pytest.mark.parametrize("name", TABLEAUS)


def number(name: str, x: Any) -> Any:
    """A coefficient as exact as it was printed; doubles where only those are claimed."""
    return float(x) if name == "dopri8" else Fraction(x)


def numbers(name: str, row: Any) -> list[Any]:
    return [number(name, x) for x in row]


def tableau_of(name: str) -> Tableau:
    method = EXPLICIT[name]
    return Tableau([numbers(name, [*row, *[0] * (method.stages - len(row))]) for row in method.a])


def embedded(name: str) -> list[Any]:
    method = EXPLICIT[name]
    if method.b_low:
        return numbers(name, method.b_low)
    return [b - e for b, e in zip(numbers(name, method.b), numbers(name, method.b_error), strict=True)]


def test_the_trees_are_as_many_as_there_are():
    assert [len(trees(order)) for order in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]


@each_explicit
def test_the_order_is_the_one_claimed_and_no_higher(name: str) -> None:
    method = EXPLICIT[name]
    assert tableau_of(name).order(numbers(name, method.b), RESIDUAL.get(name, 0)) == method.order


@each_adaptive
def test_the_embedded_weights_are_of_one_order_less(name: str) -> None:
    # the estimate of tsit5 ends with the double nearest to 1/66
    tolerance = 1e-16 if name == "tsit5" else RESIDUAL.get(name, 0)
    assert tableau_of(name).order(embedded(name), tolerance) == EXPLICIT[name].order - 1


@each_adaptive
def test_the_error_weights_are_the_difference_of_the_two_and_vanish_for_a_constant_slope(name: str) -> None:
    method = EXPLICIT[name]
    low = [float(x) for x in embedded(name)]
    assert method.error_weights == pytest.approx([b - x for b, x in zip(method.weights, low, strict=True)], abs=1e-15)
    assert sum(method.error_weights) == pytest.approx(0, abs=len(low) * 2**-52)
    assert any(method.error_weights)


@each_adaptive
def test_the_midpoint_is_of_the_order_that_the_quartic_keeps(name: str) -> None:
    method = EXPLICIT[name]
    exact = all(isinstance(x, int | Fraction) for x in method.b_mid)
    # Shampine's midpoint for dopri5 is rounded to fractions of twelve digits, tsit5's interpolant to 16 digits
    tolerance = {"dopri5": 1e-12, "tsit5": 1e-12}.get(name, 0 if exact else 1e-14)
    found = tableau_of(name).order(numbers(name, method.b_mid), tolerance, x=Fraction(1, 2))
    assert found == MIDPOINT[name]
    assert found >= min(4, method.order - 1) or name == "bosh3"  # torchdiffeq's midpoint of bosh3 is of order 1


@each_explicit
def test_every_row_sums_to_its_node_and_the_weights_to_one(name: str) -> None:
    method = EXPLICIT[name]
    tolerance = RESIDUAL.get(name, 0)
    for c, row in zip(numbers(name, method.c), method.a, strict=True):
        assert abs(sum(numbers(name, row)) - c) <= tolerance
    assert abs(sum(numbers(name, method.b)) - 1) <= tolerance
    assert method.nodes[0] == 0


@each_explicit
def test_flags_follow_from_the_numbers(name: str) -> None:
    method = EXPLICIT[name]
    ssal = method.b[-1] == 0 and list(method.a[-1]) == list(method.b[:-1])
    assert method.last_stage_is_solution is ssal
    assert method.first_same_as_last is ssal
    assert ssal == (name in ("dopri5", "dopri8", "tsit5", "bosh3"))
    assert method.reuse_last_stage is method.adaptive
    assert method.adaptive == bool(method.b_mid) == bool(method.b_low or method.b_error)


@each_explicit
def test_the_doubles_are_the_nearest_to_the_printed_numbers(name: str) -> None:
    method = EXPLICIT[name]
    assert method.nodes == [float(Fraction(x)) for x in method.c]
    assert method.matrix == [[float(Fraction(x)) for x in row] for row in method.a]
    assert method.weights == [float(Fraction(x)) for x in method.b]
    assert method.mid_weights == [float(Fraction(x)) for x in method.b_mid]


@each_adaptive
def test_the_doubles_are_torchdiffeqs(name: str) -> None:
    solvers = pytest.importorskip("torchdiffeq._impl.odeint").SOLVERS
    if name not in solvers:
        pytest.skip(f"this torchdiffeq has no {name}")
    theirs, ours = solvers[name], EXPLICIT[name]
    assert theirs.order == ours.order
    assert theirs.tableau.alpha.tolist() == ours.nodes[1:]
    assert [row.tolist() for row in theirs.tableau.beta] == ours.matrix[1:]
    assert theirs.tableau.c_sol.tolist() == ours.weights
    assert theirs.tableau.c_error.tolist() == ours.error_weights
    # torchdiffeq evaluates the polynomials of dopri8's midpoint in floating point
    assert theirs.mid.tolist() == pytest.approx(ours.mid_weights, rel=0, abs=1e-15 if name == "dopri8" else 0)


@each_implicit
def test_an_implicit_tableau_has_the_order_claimed_and_no_higher(name: str) -> None:
    tableau = TABLEAUS[name]
    assert Tableau(tableau.matrix).order(tableau.weights, 1e-14) == tableau.order == methods()[name].order


@each_implicit
def test_an_implicit_tableau_is_stable_as_its_table_says(name: str) -> None:
    tableau = TABLEAUS[name]
    a = torch.tensor(tableau.matrix, dtype=torch.complex128)
    b = torch.tensor(tableau.weights, dtype=torch.complex128)
    eye = torch.eye(tableau.stages, dtype=torch.complex128)

    def growth(z: complex) -> float:
        return float(abs(1 + z * (b @ torch.linalg.solve(eye - z * a, torch.ones_like(b)))))

    assert all(growth(complex(x, y)) <= 1 + 1e-12 for x in (0, -0.1, -3, -100) for y in (0, 0.5, 2, 30))
    damped = growth(-1e8) < 1e-6
    assert damped == (name in ("implicit_euler", "sdirk2", "trbdf2", "radauIIA3", "radauIIA5"))


@each_implicit
def test_stages_are_solved_together_only_where_they_need_each_other(name: str) -> None:
    expected = {"trapezoid": [[1]], "sdirk2": [[0], [1]], "trbdf2": [[1], [2]]}
    together = [list(range(TABLEAUS[name].stages))]
    assert TABLEAUS[name].systems == expected.get(name, together)


def test_every_file_registers_what_it_is_named_after_or_a_table_of_methods() -> None:
    import importlib

    files = [info.name for info in pkgutil.iter_modules(registry.__path__)]
    assert len(files) > 10
    known: set[str] = set()
    for file in files:
        module = importlib.import_module(f"fastode.methods.{file}")
        table = getattr(module, "METHODS", None) or {file: module.METHOD}
        assert all(methods()[name] is method for name, method in table.items())
        known |= set(table)
    assert known | set(registry.ALIASES) == set(methods())


def test_the_methods_of_torchdiffeqs_master_are_all_there() -> None:
    assert len(NAMES) == 24
    assert set(NAMES) <= set(methods())


def test_an_alias_is_the_same_method() -> None:
    assert registry.ALIASES == {"fixed_adams": "implicit_adams"}
    assert lookup("fixed_adams") is lookup("implicit_adams")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_knows_the_name_that_torchdiffeq_warns_with(name: str) -> None:
    method = lookup(name)
    assert method.solver
    assert isinstance(method, ButcherTableau | GridMethod | ExternalMethod)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("dopri", "dopri5"),
        ("Dopri5", "dopri5"),
        ("rk45", "rk4"),
        ("tsit", "tsit5"),
        ("radauIIA", "radauIIA3"),
        ("impliciteuler", "implicit_euler"),
        ("adaptive-heun", "adaptive_heun"),
    ],
)
def test_a_misspelt_method_is_answered_with_the_closest_one(given: str, meant: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Did you mean '{meant}'") as caught:
        fastode.odeint(lambda t, y: y, torch.ones(1), torch.tensor([0.0, 1.0]), method=given)
    assert str(caught.value).startswith(f'Invalid method "{given}". Must be one of {{')


@pytest.mark.parametrize("given", ["zzzzzz", 5, ("rk4",), ""], ids=repr)
def test_what_is_no_method_lists_the_methods_without_guessing(given: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f'Invalid method "{given}"')) as caught:
        lookup(given)
    message = str(caught.value)
    assert all(f'"{name}"' in message for name in methods())
    assert "Did you mean" not in message


def test_a_registered_method_is_found_and_can_hide_a_built_in_one() -> None:
    built_in = lookup("euler")
    register("euler", lookup("rk4"))
    try:
        assert lookup("euler") is lookup("rk4")
        y = fastode.odeint(lambda t, y: y, torch.ones(1), torch.tensor([0.0, 1.0]), method="euler")
        assert float(y[-1]) == pytest.approx(1 + 1 + 1 / 2 + 1 / 6 + 1 / 24)
    finally:
        unregister("euler")
    assert lookup("euler") is built_in


HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ButcherTableau, (2, (0,), ((), (1,)), (HALF, HALF)), "b has 2 entries, c has 1, a has 2 rows"),
        (ButcherTableau, (2, (0, 1), ((), (1, 0)), (HALF, HALF)), "row i of `a` needs i entries"),
        (ButcherTableau, (2, (0, 1), ((), (HALF,)), (HALF, HALF)), "row 1 of `a` sums to 0.5, its node is 1.0"),
        (ImplicitTableau, (1, (1,), ((1, 0),), (1,)), "c needs 1 and a 1 x 1"),
        (ImplicitTableau, (1, (HALF,), ((1,),), (1,)), "row 0 of `a` sums to 1.0, its node is 0.5"),
        (ImplicitTableau, (1, (HALF, 1), ((HALF, 0), (0, 1)), (HALF, HALF)), "the diagonal .* must be constant"),
    ],
    ids=["lengths", "triangle", "row-sum", "square", "implicit-row-sum", "diagonal"],
)
def test_a_tableau_that_does_not_fit_together_is_refused(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*arguments)
