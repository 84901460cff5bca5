"""torchdiffeq's private functions that published code calls: the same values as torchdiffeq's own."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from problems import Net
from torch import Tensor, nn

import fastode
from fastode.compat.modules import TABLE, modules

torchdiffeq = pytest.importorskip("torchdiffeq", reason="values are compared with torchdiffeq's")

D = torch.float64
Y = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.0, -0.7]], dtype=D)
T = torch.tensor([0.0, 0.4, 1.0], dtype=D)
BOTH = ("theirs", "ours")


def module(which: str, name: str) -> Any:
    full = f"torchdiffeq._impl.{name}"
    return modules()[full] if which == "ours" else importlib.import_module(full)


def pair(path: str) -> tuple[Any, Any]:
    """torchdiffeq's and fastode's object called ``module.name``."""
    name, _, attribute = path.rpartition(".")
    return tuple(getattr(module(which, name), attribute) for which in BOTH)


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-13, atol=1e-15)


def test_every_name_of_a_stand_in_exists_in_torchdiffeq_too() -> None:
    newer = {"tsit5"}  # modules and names that only torchdiffeq's master has
    missing = []
    for short, names in TABLE.items():
        if short.rpartition(".")[2] in newer:
            continue
        real = importlib.import_module(f"torchdiffeq.{short}" if short else "torchdiffeq")
        missing += [n for n in names.split() if not hasattr(real, n)]
    master = {"ImplicitEuler", "ImplicitMidpoint", "Trapezoid", "SDIRK2", "TRBDF2", "RadauIIA3", "RadauIIA5",
              "GaussLegendre4", "GaussLegendre6"}  # fmt: skip
    assert set(missing) <= master | {"Heun2", "rk2_step_func", "rk4_step_func", "Tsit5Solver"}


@pytest.mark.parametrize("name", ["_rms_norm", "_linf_norm", "_zero_norm"])
def test_norms_of_a_tensor(name: str) -> None:
    theirs, ours = pair(f"misc.{name}")
    assert_same(ours(Y), theirs(Y))


def test_the_norm_of_a_tuple_is_the_largest_and_zero_for_none() -> None:
    theirs, ours = pair("misc._mixed_norm")
    assert_same(ours((Y, 3 * Y, Y[0])), theirs((Y, 3 * Y, Y[0])))
    assert ours(()) == theirs(()) == 0.0


def test_perturb_has_the_same_members() -> None:
    theirs, ours = pair("misc.Perturb")
    assert [(m.name, m.value) for m in ours] == [(m.name, m.value) for m in theirs]
    assert ours is fastode.Perturb


@pytest.mark.parametrize("length", [(), (3,)], ids=["state", "solution"])
def test_flat_to_shape(length: tuple[int, ...]) -> None:
    theirs, ours = pair("misc._flat_to_shape")
    shapes = [torch.Size([2, 2]), torch.Size([]), torch.Size([3])]
    flat = torch.arange(8 * (length[0] if length else 1), dtype=D).reshape(*length, 8)
    for a, b in zip(ours(flat, length, shapes), theirs(flat, length, shapes), strict=True):
        assert torch.equal(a, b)


def test_unused_options_are_warned_of_by_the_solvers_class() -> None:
    for which in pair("misc._handle_unused_kwargs"):
        with pytest.warns(UserWarning, match=r"Net: Unexpected arguments \{'eps': 1\}"):
            which(Net(), {"eps": 1})
        which(Net(), {})


@pytest.mark.parametrize("order", [1, 4, 7])
@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["state", "zeros"])
def test_select_initial_step(order: int, scale: float) -> None:
    theirs, ours = pair("misc._select_initial_step")
    norm = module("theirs", "misc")._rms_norm
    net = Net()
    with torch.no_grad():
        args = (net, T[0], scale * Y, order, 1e-6, 1e-8, norm)
        assert_same(ours(*args), theirs(*args))
        assert_same(ours(*args, f0=net(T[0], Y)), theirs(*args, f0=net(T[0], Y)))


@pytest.mark.parametrize("ratio", [0.0, 1e-4, 0.9, 1.0, 7.0, 1e6])
@pytest.mark.parametrize("order", [2, 5])
def test_optimal_step_size(ratio: float, order: int) -> None:
    theirs, ours = pair("misc._optimal_step_size")
    numbers = (torch.tensor(v, dtype=D) for v in (0.1, ratio, 0.9, 10.0, 0.2))
    args = (*numbers, order)
    assert_same(ours(*args), theirs(*args))


def test_compute_error_ratio() -> None:
    theirs, ours = pair("misc._compute_error_ratio")
    args = (1e-6 * Y, 1e-5, 1e-7, Y, 2 * Y, module("theirs", "misc")._rms_norm)
    assert_same(ours(*args), theirs(*args))


def test_interpolation_has_the_same_coefficients_and_values() -> None:
    (fit, our_fit), (evaluate, our_evaluate) = pair("interp._interp_fit"), pair("interp._interp_evaluate")
    args = (Y, Y.cos(), Y.sin(), 2 * Y, Y * Y, torch.tensor(0.3, dtype=D))
    theirs, ours = fit(*args), our_fit(*args)
    for t in (0.1, 0.25, 0.4):
        times = (torch.tensor(0.1, dtype=D), torch.tensor(0.4, dtype=D), torch.tensor(t, dtype=D))
        torch.testing.assert_close(our_evaluate(ours, *times), evaluate(theirs, *times), rtol=1e-12, atol=1e-12)
    outside = (torch.tensor(0.1, dtype=D), torch.tensor(0.4, dtype=D), torch.tensor(0.5, dtype=D))
    for call, coefficients in ((evaluate, theirs), (our_evaluate, ours)):
        with pytest.raises(AssertionError, match="invalid interpolation, fails `t0 <= t <= t1`"):
            call(coefficients, *outside)


def test_find_event() -> None:
    theirs, ours = pair("event_handling.find_event")

    def path(t: Tensor) -> Tensor:
        return torch.cos(t)

    args = (path, torch.tensor(1.0, dtype=D), *(torch.tensor(v, dtype=D) for v in (1.0, 2.0)))
    event = (lambda t, y: y, torch.tensor(1e-8, dtype=D))
    for a, b in zip(ours(*args, *event), theirs(*args, *event), strict=True):
        assert_same(a, b)


def test_find_parameters_are_the_modules() -> None:
    net = Net()
    for find in pair("adjoint.find_parameters"):
        assert [id(p) for p in find(net)] == [id(p) for p in net.parameters()]


@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("tuple_state", [False, True], ids=["tensor", "tuple"])
def test_check_inputs_returns_the_same_call(tuple_state: bool, backwards: bool) -> None:
    def field(t: Tensor, y: Any) -> Any:
        return tuple(t * p for p in y) if tuple_state else t * y

    answers = []
    for which in BOTH:
        check, table = module(which, "misc")._check_inputs, module(which, "odeint").SOLVERS
        y0 = (Y, Y[0]) if tuple_state else Y
        tolerances = ((1e-3, 1e-4), 1e-6) if tuple_state else (1e-3, 1e-6)
        options = {"step_t": torch.tensor([0.5], dtype=D)}
        answers.append(check(field, y0, T.flip(0) if backwards else T, *tolerances, None, options, None, table))
    theirs, ours = answers
    assert ours[0] == theirs[0] and ours[6] == theirs[6] and ours[9] == theirs[9]
    for i in (2, 3):
        assert torch.equal(ours[i], theirs[i])
    assert torch.equal(torch.as_tensor(ours[4]), torch.as_tensor(theirs[4]))
    assert ours[7].keys() == theirs[7].keys() and torch.equal(ours[7]["step_t"], theirs[7]["step_t"])
    assert_same(ours[7]["norm"](ours[2]), theirs[7]["norm"](theirs[2]))
    for side in ("NONE", "PREV", "NEXT"):
        values = []
        for which, answer in zip(BOTH, answers, strict=True):
            perturb = getattr(module(which, "misc").Perturb, side)
            values.append(answer[1](answer[3][1], answer[2], perturb=perturb))
        assert torch.equal(*values)


def test_check_inputs_refuses_with_torchdiffeqs_types() -> None:
    for which in BOTH:
        check, table = module(which, "misc")._check_inputs, module(which, "odeint").SOLVERS
        with pytest.raises(ValueError, match=r'Invalid method "x"\. Must be one of'):
            check(Net(), Y, T, 1e-3, 1e-3, "x", None, None, table)
        with pytest.raises(AssertionError, match="t must be one dimensional"):
            check(Net(), Y, T[0], 1e-3, 1e-3, None, None, None, table)
        with pytest.raises(AssertionError, match="perturb argument must be of type Perturb enum"):
            check(Net(), Y, T, 1e-3, 1e-3, None, None, None, table)[1](T[0], Y, perturb="next")


def test_the_adjoint_node_can_be_applied_by_hand() -> None:
    gradients = []
    for which in BOTH:
        net: nn.Module = Net()
        adjoint, misc, table = (module(which, n) for n in ("adjoint", "misc", "odeint"))
        call = misc._check_inputs(net, Y, T, 1e-7, 1e-9, None, None, None, table.SOLVERS)
        shapes, func, y0, t, rtol, atol, method, options, event_fn, _ = call
        backward = {k: v for k, v in options.items() if k != "norm"}
        backward["norm"] = lambda parts: torch.stack([p.abs().max() for p in parts]).max()
        apply = adjoint.OdeintAdjointMethod.apply
        params = tuple(net.parameters())
        solution = apply(
            shapes, func, y0, t, rtol, atol, method, options, event_fn, rtol, atol, method, backward, False, *params
        )
        solution[-1].square().sum().backward()
        gradients.append([p.grad for p in params])
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)  # both solve to rtol 1e-7


@pytest.mark.parametrize(
    ("name", "tableau", "mid"),
    [
        ("dopri5", "_DORMAND_PRINCE_SHAMPINE_TABLEAU", "DPS_C_MID"),
        ("dopri8", "_DOPRI8_TABLEAU", "_C_mid"),
        ("bosh3", "_BOGACKI_SHAMPINE_TABLEAU", "_BS_C_MID"),
        ("adaptive_heun", "_ADAPTIVE_HEUN_TABLEAU", "_AH_C_MID"),
        ("fehlberg2", "_FEHLBERG2_TABLEAU", "_FE_C_MID"),
    ],
    ids=["dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2"],
)
def test_tableaus_are_the_same_tensors(name: str, tableau: str, mid: str) -> None:
    theirs, ours = pair(f"{name}.{tableau}")
    assert ours._fields == theirs._fields
    for key in ("alpha", "c_sol", "c_error"):
        torch.testing.assert_close(getattr(ours, key), getattr(theirs, key).to(D), rtol=0, atol=1e-15)
    for a, b in zip(ours.beta, theirs.beta, strict=True):
        torch.testing.assert_close(a, b.to(D), rtol=0, atol=2e-14)  # entries up to 40 of dopri8
    their_mid, our_mid = pair(f"{name}.{mid}")
    torch.testing.assert_close(our_mid, their_mid.to(D), rtol=0, atol=1e-13)
