"""States of tuples, lists, dictionaries and named tuples, nested: forwards and in all three ways to differentiate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from gradients.comparing import assert_same, backsolve, discrete, gradients
from torch import Tensor, nn

import fastode
from fastode.errors import FieldError, InvalidArgument
from fastode.tree import flatten, unflatten

WAYS: dict[str, Callable[..., Any]] = {"autograd": fastode.odeint, "discrete": discrete, "backsolve": backsolve}
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
T = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
A = torch.tensor([0.2, -0.4, 1.1], dtype=torch.float64)
B = torch.tensor([[0.5], [-0.7]], dtype=torch.float64)
C = torch.tensor(0.3, dtype=torch.float64)


class Point(NamedTuple):
    q: Any
    p: Any


STRUCTURES: dict[str, Any] = {
    "tuple": (A, B, C),
    "tuple of one": (A,),
    "list": [A, B, C],
    "dict": {"a": A, "b": B, "c": C},
    "ordered dict": OrderedDict(b=B, a=A),
    "named tuple": Point(A, B),
    "pair of tuples": ((A, B), (C,)),
    "tuple in front": ((A,), C),
    "dict of lists": {"x": [A, B], "y": {"z": C}},
    "named tuple of dicts": Point({"a": A}, ({"b": B}, C)),
    "list of tuples": [(A,), (B,), (C,)],
}


class Everywhere(nn.Module):
    """The same slopes for a structure as for its parts in a flat tuple, every part under the influence of the others.

    Dictionaries come back in the reverse order of their keys.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.seen: list[Any] = []

    def forward(self, t: Tensor, y: Any) -> Any:
        self.seen.append(y)
        leaves, spec = flatten(y)
        together = sum(p.mean() for p in leaves)
        return backwards(unflatten(spec, [torch.cos(self.rate * p) + 0.2 * together * t for p in leaves]))


def backwards(y: Any) -> Any:
    if isinstance(y, dict):
        return {k: backwards(v) for k, v in reversed(y.items())}
    if isinstance(y, Point):
        return Point(*(backwards(v) for v in y))
    return type(y)(backwards(v) for v in y) if isinstance(y, tuple | list) else y


def skeleton(y: Any) -> Any:
    """Types and keys, without the tensors; a plain ``dict`` stands for all mappings."""
    if isinstance(y, dict):
        return {k: skeleton(v) for k, v in y.items()}
    return (type(y), [skeleton(v) for v in y]) if isinstance(y, tuple | list) else "tensor"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_structure_is_solved_and_differentiated_as_the_flat_tuple_of_its_parts(
    kind: str, method: str, way: str
) -> None:
    y0, func = STRUCTURES[kind], Everywhere()
    leaves, _ = flatten(y0)
    options = {} if method == "dopri5" else {"step_size": 0.125}
    settings = {"method": method, "options": options, **TIGHT}
    y, found = gradients(WAYS[way], func, y0, T, **settings)
    assert skeleton(y) == skeleton(y0)
    assert {str(skeleton(s)) for s in func.seen} == {str(skeleton(y0))}
    flat, expected = gradients(WAYS[way], func, leaves, T, **settings)
    assert_same(flatten(y)[0], flat, 1e-15)
    assert all(p.shape == (3, *q.shape) for p, q in zip(flat, leaves, strict=True))
    assert_same(found, expected, 1e-14)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_discrete_gradient_of_a_structure_is_that_of_autograd(kind: str) -> None:
    for t in (T, T.flip(0)):
        _, found = gradients(discrete, Everywhere(), STRUCTURES[kind], t, **TIGHT)
        _, expected = gradients(fastode.odeint, Everywhere(), STRUCTURES[kind], t, **TIGHT)
        assert_same(found, expected)


@pytest.mark.parametrize("way", ["discrete", "backsolve"])
@pytest.mark.parametrize("part", range(3))
def test_a_loss_on_one_part_alone_leaves_zeros_for_the_others(part: int, way: str) -> None:
    """Parts without influence on each other."""

    class Apart(nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(-p for p in y)

    _, found = gradients(WAYS[way], Apart(), (A, B, C), T, t_grad=False, loss=lambda y: y[part][-1].sum(), **TIGHT)
    for i, g in enumerate(found):
        expected = torch.full_like(g, float(torch.exp(-T[-1]))) if i == part else torch.zeros_like(g)
        torch.testing.assert_close(g, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_extra_arguments_go_with_structures(way: str) -> None:
    def field(t: Tensor, y: dict[str, Tensor], w: Tensor) -> dict[str, Tensor]:
        return {"b": -w * y["a"].sum() * y["b"], "a": torch.tanh(w * y["a"] + t)}

    w = torch.tensor(0.6, dtype=torch.float64)
    _, found = gradients(WAYS[way], field, {"a": A, "b": B}, T, [w], **TIGHT)
    _, expected = gradients(fastode.odeint, field, {"a": A, "b": B}, T, [w], rtol=1e-11, atol=1e-11)
    assert_same(found, expected, 1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_parts_of_different_precision_come_back_in_the_widest(way: str) -> None:
    class Decay(nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return -y[0], -2 * y[1]

    y0 = A.float().requires_grad_(), B.clone().requires_grad_()
    y = WAYS[way](Decay(), y0, T, **TIGHT)
    assert [p.dtype for p in y] == [torch.float64, torch.float64]
    (narrow, wide) = torch.autograd.grad(y[0][-1].sum() + y[1][-1].sum(), y0)
    assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
    torch.testing.assert_close(wide, torch.full_like(B, float(torch.exp(-2 * T[-1]))), rtol=1e-7, atol=1e-8)


def test_items_of_a_dictionary_are_matched_by_key() -> None:
    y0 = {"q": torch.ones(1, dtype=torch.float64), "p": torch.zeros(1, dtype=torch.float64)}
    y = fastode.odeint(lambda t, y: {"p": -y["q"], "q": y["p"]}, y0, T, **TIGHT)
    assert list(y) == ["q", "p"]
    torch.testing.assert_close(y["q"][:, 0], torch.cos(T), rtol=0, atol=1e-8)
    torch.testing.assert_close(y["p"][:, 0], -torch.sin(T), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "value",
    [{"a": A}, {"a": A, "c": B}, {"a": A, "b": B, "c": C}],
    ids=["one missing", "another", "one too many"],
)
def test_wrong_keys_are_named_beside_the_right_ones(value: dict[str, Tensor]) -> None:
    with pytest.raises(FieldError) as caught:
        fastode.odeint(lambda t, y: value, {"a": A, "b": B}, T)
    assert str(list(value)) in str(caught.value) and "['a', 'b']" in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_parts_is_named(count: int) -> None:
    with pytest.raises(FieldError, match=f"returned {count} tensors, but the state `y0` has 2"):
        fastode.odeint(lambda t, y: (A,) * count, (A, A), T)


@pytest.mark.parametrize("y0", [(), [], {}, ((), [])], ids=str)
def test_a_structure_without_tensors_is_refused(y0: Any) -> None:
    with pytest.raises(InvalidArgument, match="it is empty"):
        fastode.odeint(lambda t, y: y, y0, T)


def test_a_structure_with_something_else_in_it_is_refused_by_type() -> None:
    with pytest.raises(InvalidArgument, match="it holds a float"):
        fastode.odeint(lambda t, y: y, (A, [1.0]), T)


def test_a_user_norm_sees_the_structure() -> None:
    seen: list[Any] = []

    def norm(y: Any) -> Tensor:
        seen.append(skeleton(y))
        return torch.stack([p.abs().max() for p in flatten(y)[0]]).max()

    with torch.no_grad():
        fastode.odeint(Everywhere(), STRUCTURES["dict of lists"], T, options={"norm": norm})
    assert seen and all(s == skeleton(STRUCTURES["dict of lists"]) for s in seen)


def test_callbacks_see_the_structure() -> None:
    func = Everywhere()
    seen: list[Any] = []
    func.callback_step = lambda t, y, dt: seen.append(skeleton(y))  # type: ignore[assignment]
    with torch.no_grad():
        fastode.odeint(func, STRUCTURES["named tuple of dicts"], T)
    assert seen and all(s == skeleton(STRUCTURES["named tuple of dicts"]) for s in seen)
