"""A compiled field is a module: it follows its function's parameters and modes, and is copied and stored like one."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import fastode
from fastode import UnsupportedInput
from fastode.compiler.compiled import CompiledField
from fastode.nn import CNF, NeuralODE

from .solving import Timed, assert_same


@pytest.fixture(autouse=True)
def _float64() -> None:
    torch.set_default_dtype(torch.float64)


T = (0.0, 0.4, 1.0)


def served(field: CompiledField, y0: Tensor) -> Tensor:
    """The solution of one native call."""
    y = fastode.odeint(field, y0, torch.tensor(T, dtype=y0.dtype), method="rk4")
    stats = fastode.last_stats()
    assert stats is not None and stats.engine == "compiled", stats
    return y


def assert_follows(field: CompiledField, y0: Tensor) -> None:
    """The native solve is that of the function as it is now."""
    expected = fastode.odeint(field.func, y0, torch.tensor(T, dtype=y0.dtype), method="rk4")
    tolerance = 1e-12 if y0.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(served(field, y0), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
def test_an_optimisers_step_is_seen_by_the_next_solve(make):
    field, y0 = fastode.compile(Timed()), torch.randn(3, 2)
    optimiser = make(field.parameters(), lr=0.1)
    before = served(field, y0)
    before.sum().backward()
    optimiser.step()
    assert not torch.equal(served(field, y0), before)
    assert_follows(field, y0)


class Scaled(nn.Module):
    """A field with a method, a number and tensors that are set from outside."""

    def __init__(self):
        super().__init__()
        self.net, self.scale, self.rate = nn.Linear(2, 2), torch.tensor(1.0), nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.zeros(2))

    def move(self, shift: Tensor) -> None:
        self.shift = shift

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.net(y)) * self.scale - self.rate * y + self.shift


def test_attributes_and_methods_are_those_of_the_function():
    func, y0 = Scaled(), torch.randn(3, 2)
    field = fastode.compile(func)
    for change in (
        lambda: field.move(torch.ones(2)),
        lambda: setattr(field, "shift", torch.full((2,), 3.0)),
        lambda: setattr(field, "scale", torch.tensor(-2.0)),
        lambda: setattr(field, "rate", nn.Parameter(torch.tensor(0.5))),
        lambda: setattr(field, "net", nn.Linear(2, 2)),
    ):
        served(field, y0)
        change()
        assert_follows(field, y0)
    assert field.scale is func.scale and field.rate is func.rate and field.net is func.net
    assert {name for name, _ in field.named_parameters()} == {"func.net.weight", "func.net.bias", "func.rate"}
    assert {"scale", "shift", "rate", "net"}.isdisjoint(vars(field)) and set(field._modules) == {"func"}


def test_names_that_both_have_are_the_fields_own():
    class Named(Scaled):
        def __init__(self):
            super().__init__()
            self.repeat, self.parts, self.memory = 3, "all", "much"

    func = Named()
    field, y0 = fastode.compile(func), torch.randn(3, 2)
    for _ in range(3):
        assert_follows(field, y0)
    assert (func.repeat, func.parts, func.memory) == (3, "all", "much") and field.memory is None


def test_what_the_function_does_not_have_is_an_error_or_the_fields_own():
    field = fastode.compile(Scaled())
    with pytest.raises(AttributeError, match="'Scaled' object has no attribute 'scales'"):
        field.scales  # noqa: B018
    field.note, field.memory = "mine", 1000
    assert field.note == "mine" and not hasattr(field.func, "note") and not hasattr(field.func, "memory")
    plain = fastode.compile(lambda t, y: -y)
    with pytest.raises(AttributeError, match="'function' object has no attribute 'scale'"):
        plain.scale  # noqa: B018
    for again in (copy.copy(field), copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert type(again) is CompiledField and again.note == "mine" and type(again.func) is Scaled
        assert_follows(again, torch.randn(3, 2))


def test_parameters_that_are_replaced_or_written_are_seen():
    func, y0 = Timed(), torch.randn(3, 2)
    field = fastode.compile(func)
    served(field, y0)
    func.net[0].weight = nn.Parameter(torch.randn(7, 2))
    assert_follows(field, y0)
    func.net[2].bias.data = torch.randn(2)
    assert_follows(field, y0)
    func.net[2].weight.data.normal_()
    assert_follows(field, y0)


def test_parameters_of_another_shape_are_never_read_as_the_old_ones():
    func, y0 = Timed(), torch.randn(3, 2)
    field = fastode.compile(func)
    served(field, y0)
    func.net[0].weight, func.net[0].bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))
    func.net[2].weight = nn.Parameter(torch.randn(2, 3))
    y = fastode.odeint(field, y0, torch.tensor(T), method="rk4")
    torch.testing.assert_close(y, fastode.odeint(func, y0, torch.tensor(T), method="rk4"))
    assert_follows(field, y0)


def test_parameters_on_another_device_are_an_error_of_torch():
    func, y0 = Timed(), torch.randn(3, 2)
    field = fastode.compile(func)
    served(field, y0)
    func.to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        fastode.odeint(field, y0, torch.tensor(T), method="rk4")


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "function"])
def test_layers_that_are_replaced_are_seen(as_module):
    func, y0 = Timed(), torch.randn(3, 2)
    field = fastode.compile(func if as_module else lambda t, y: func(t, y))
    served(field, y0)
    func.net[1] = nn.SiLU()
    assert_follows(field, y0)
    func.net = nn.Sequential(nn.Linear(2, 3), nn.ELU(), nn.Linear(3, 2))
    assert_follows(field, y0)
    func.net.append(nn.Tanh())
    assert_follows(field, y0)
    weight_norm(func.net[0])
    assert_follows(field, y0)


def test_a_function_that_is_replaced_is_seen():
    field, y0 = fastode.compile(Timed()), torch.randn(3, 2)
    served(field, y0)
    field.func = Timed(timed=False)
    assert_follows(field, y0)


def test_pruned_weights_are_solved_by_the_loop_once_and_natively_again():
    func, y0 = Timed(), torch.randn(3, 2)
    field = fastode.compile(func)
    served(field, y0)
    prune.l1_unstructured(func.net[0], "weight", 0.3)
    first = fastode.odeint(field, y0, torch.tensor(T), method="rk4")
    torch.testing.assert_close(first, fastode.odeint(func, y0, torch.tensor(T), method="rk4"))
    assert_follows(field, y0)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))], ids=["deepcopy", "pickle"])
def test_a_copy_has_parameters_of_its_own(how):
    field, y0 = fastode.compile(Timed()), torch.randn(3, 2)
    before = served(field, y0)
    other = how(field)
    assert torch.equal(served(other, y0), before)
    with torch.no_grad():
        other.func.net[0].weight.mul_(2)
    assert torch.equal(served(field, y0), before)
    assert_follows(other, y0)


@pytest.mark.parametrize("make", [lambda f: CNF(f, dim=2), NeuralODE], ids=["CNF", "NeuralODE"])
def test_copies_of_layers_are_native_too(make):
    layer, x = make(Timed()), torch.randn(3, 2)
    run = layer.log_prob if isinstance(layer, CNF) else layer
    before = run(x)
    other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    after = other.log_prob(x) if isinstance(other, CNF) else other(x)
    assert other.served_by == layer.served_by == ("compiled", "")
    assert torch.equal(before, after)


def test_a_state_dict_goes_round():
    field, other, y0 = fastode.compile(Timed()), fastode.compile(Timed()), torch.randn(3, 2)
    assert not torch.equal(served(field, y0), served(other, y0))
    assert set(field.state_dict()) == {f"func.{name}" for name in field.func.state_dict()}
    other.load_state_dict(field.state_dict())
    assert torch.equal(served(field, y0), served(other, y0))


def test_the_dtype_can_be_changed():
    field = fastode.compile(Timed().float())
    assert_follows(field, torch.randn(3, 2, dtype=torch.float32))
    field.double()
    assert_follows(field, torch.randn(3, 2))
    field.float()
    assert_follows(field, torch.randn(3, 2, dtype=torch.float32))


class WithLayer(nn.Module):
    """A network with a layer that does something else while it is trained."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), layer, nn.Linear(6, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "function"])
@pytest.mark.parametrize("make", [lambda: nn.Dropout(0.5), lambda: nn.BatchNorm1d(6)], ids=["Dropout", "BatchNorm"])
def test_the_mode_of_a_layer_inside_is_looked_at(make, as_module):
    func, y0 = WithLayer(make()), torch.randn(5, 2)
    field = fastode.compile(func if as_module else lambda t, y: func(t, y))
    t = torch.tensor(T)
    for _ in range(2):
        func.net[1].train()
        fastode.odeint(field, y0, t, method="rk4")
        stats = fastode.last_stats()
        assert stats.engine != "compiled" and stats.reason.startswith("not native: the field cannot be compiled: ")
        func.net[1].eval()
        assert_follows(field, y0)


def test_a_mode_of_the_users_own_is_looked_at():
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2 if self.training else x

    field, y0 = fastode.compile(WithLayer(Halved())), torch.randn(3, 2)
    assert_follows(field, y0)
    field.func.net[1].eval()
    assert_follows(field, y0)
    field.train()
    assert_follows(field, y0)
    assert len(field._natives) == 2


def test_called_it_is_the_function():
    func = Timed()
    t, y = torch.tensor(0.3), torch.randn(3, 2, requires_grad=True)
    field = fastode.compile(func)
    assert torch.equal(field(t, y), func(t, y))
    assert field(t, y).requires_grad
    assert fastode.compile(lambda t, y, k: y * k)(t, y, 2).equal(2 * y)


def test_compiling_twice_is_compiling_once():
    field = fastode.compile(Timed())
    assert fastode.compile(field) is field
    assert isinstance(NeuralODE(field).func, CompiledField)
    assert_same(field.func, torch.randn(2, 2), torch.tensor(T))


@pytest.mark.parametrize("thing", [None, 3, "tanh", torch.zeros(2)], ids=["None", "int", "str", "tensor"])
def test_what_cannot_be_called_is_refused(thing: Any):
    with pytest.raises(UnsupportedInput, match=r"`func` must be callable as func\(t, y\)"):
        fastode.compile(thing)


def test_it_prints_the_function():
    text = repr(fastode.compile(Timed()))
    assert text.startswith("CompiledField(") and "Linear(in_features=2, out_features=7" in text
    assert "func=<function" in repr(fastode.compile(lambda t, y: -y))


def test_a_field_in_reach_of_a_larger_module_trains_with_it():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 2)
            self.field = fastode.compile(Timed())

        def forward(self, x: Tensor) -> Tensor:
            return fastode.odeint(self.field, self.first(x), torch.tensor([0.0, 1.0]), method="rk4")[-1]

    model = Model()
    model(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "dual"])
def test_function_transforms_take_the_loop_and_are_right(transform):
    func, y0, t = Timed(), torch.randn(3, 2), torch.tensor(T)
    field = fastode.compile(func)
    served(field, y0)
    weight = {"func.net.0.weight": func.net[0].weight.detach()}

    class Solve(nn.Module):
        def __init__(self, field: Any) -> None:
            super().__init__()
            self.func, self.field = func, field

        def forward(self, y: Tensor) -> Tensor:
            return fastode.odeint(self.field, y, t, method="rk4")[-1].sum()

    def run(field: Any) -> Tensor:
        solve = Solve(field)
        if transform == "grad":
            return torch.func.grad(lambda w: torch.func.functional_call(solve, w, (y0,)))(weight)["func.net.0.weight"]
        if transform == "jvp":
            return torch.func.jvp(solve, (y0,), (torch.ones_like(y0),))[1]
        if transform == "vmap":
            return torch.func.vmap(solve)(y0[:, None])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(y0, torch.ones_like(y0))
            return torch.autograd.forward_ad.unpack_dual(solve(dual)).tangent

    torch.testing.assert_close(run(field), run(func), rtol=1e-12, atol=1e-12)
    assert_follows(field, y0)
