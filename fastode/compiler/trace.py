"""From a vector field written in torch to a field program."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..compiling import outside_graphs
from ..errors import CannotCompile, FieldError
from .codes import ROW
from .constants import Constants, Node
from .evaluate import evaluate
from .places import Place, Places, holding
from .program import Builder, Op, Program
from .reads import Reads
from .tracer import Tracer

_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109)
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
#: of a tensor of derivatives, relative to its largest: one that is stopped differs by about as much as it is
_TOLERANCE_OF_DERIVATIVES = {torch.float32: 3e-2, torch.float64: 1e-4}


@dataclass(frozen=True)
class Traced:
    """A field as a program.

    Attributes:
        program: one output, the derivative of the state, flattened.
        constants: of the program.
        per_row: which arguments of the field are the program's arguments, in their order.
        held: places of the program's further arguments, tensors that the field holds with an entry for each row.
        differentiable: whether the derivatives of the program are those that torch finds for the field.
    """

    program: Program
    constants: Constants
    per_row: tuple[int, ...] = ()
    held: tuple[Place, ...] = ()
    differentiable: bool = True


@dataclass(frozen=True)
class _Example:
    """Random inputs of a field."""

    t: Tensor
    y: Tensor
    args: tuple[Any, ...]
    held: list[Tensor]


class FieldFails(CannotCompile):
    """The field raised an error."""


@outside_graphs
def trace(
    func: Callable[..., Any],
    y_shape: Sequence[int],
    batched: bool = True,
    time_per_row: bool = False,
    dtype: torch.dtype = torch.float32,
    args: Sequence[Any] = (),
    per_row: Sequence[int] = (),
    device: torch.device | str = "cpu",
    rows: int = 0,
) -> Traced:
    """The program of ``func(t, y, *args)``. The field is called three times, on random states.

    Args:
        y_shape: shape of one state, without the batch.
        batched: the field takes states ``[B, *y_shape]``; else one state, and nothing of it is a row.
        time_per_row: the field takes ``t: [B]``; else ``t`` is 0-dim.
        args: examples of the field's other arguments; of those that have an entry for each row, the first axis may be
            of any length.
        per_row: the numbers of those arguments.
        rows: of the batch that is going to be solved. If the field cannot do with others, tensors that it holds with so
            many rows are taken for further arguments; for the trace others take their places.

    Raises:
        CannotCompile: no program does what the field does.
        FieldError: the field's value is not a derivative of the state.
    """
    if dtype not in _TOLERANCE:
        raise CannotCompile(f"the state is {dtype}; a program's states are torch.float32 or torch.float64")
    for i in per_row:
        if args[i].dtype != dtype:
            raise CannotCompile(f"argument {i} has an entry for each row and is {args[i].dtype}; it must be {dtype}")
    places = Places(func)

    def traced(held: tuple[Place, ...]) -> Traced:
        kind = _Kind(
            tuple(y_shape), batched, time_per_row, dtype, torch.device(device), tuple(args), tuple(per_row), held
        )
        return _traced(func, places, kind)

    try:
        return traced(())
    except FieldFails as failure:
        held = places.of_rows(rows, dtype) if batched and rows > 0 else ()
        if not held:
            raise
        try:
            return traced(held)
        except FieldFails:
            raise failure from None


def _traced(func: Callable[..., Any], places: Places, kind: _Kind) -> Traced:
    rows, other_rows = _row_counts(places, kind.y_shape, kind.args) if kind.batched else (1, 1)
    dtype, device = kind.dtype, kind.device
    example = kind.example(rows, 0.37)
    per_row = [example.args[i] for i in kind.per_row] + example.held
    widths = tuple(math.prod(a.shape[1:]) for a in per_row)
    features = math.prod(kind.y_shape)
    constants = Constants()
    tracer = Tracer(Builder(features, widths), constants, places, rows, dtype, device)
    _note_inputs(tracer, example, kind)
    with torch.no_grad(), holding(kind.held, example.held):
        try:
            with Reads(tracer), tracer:
                value = func(example.t, example.y, *example.args)
        except (CannotCompile, FieldError):
            raise
        except Exception as error:
            raise FieldFails(
                f"it fails on a state of shape {list(example.y.shape)}: {type(error).__name__}: {error}\n"
                "Pass tensors with an entry for each row as arguments of the field: func(t, y, *args)"
            ) from error
        program = _finished(tracer, _scalars_of_value(tracer, value, example.y))
    for tensor, place in tracer.used:
        if place.get() is not tensor:
            raise CannotCompile(f"it replaces its own tensor {place.name} when it is called")
    found, other = Traced(program, constants, kind.per_row, kind.held), kind.example(other_rows, 0.7321)
    _verify(func, found, other, kind.batched)
    own = [tensor for tensor, _ in tracer.used if tensor.requires_grad]
    return found if _is_differentiable(func, found, other, kind.batched, own) else replace(found, differentiable=False)


@dataclass(frozen=True)
class _Kind:
    """What a field is traced for; see :func:`trace`."""

    y_shape: tuple[int, ...]
    batched: bool
    time_per_row: bool
    dtype: torch.dtype
    device: torch.device
    args: tuple[Any, ...]
    per_row: tuple[int, ...]
    held: tuple[Place, ...]

    def example(self, rows: int, t: float) -> _Example:
        """Random inputs of so many rows."""
        state = self._random((rows, *self.y_shape) if self.batched else self.y_shape, 0)
        args = [self._random((rows, *a.shape[1:]), i + 1) if i in self.per_row else a for i, a in enumerate(self.args)]
        time = torch.full((rows,) if self.time_per_row else (), t, dtype=self.dtype, device=self.device)
        if self.time_per_row:
            time += torch.arange(rows, dtype=self.dtype, device=self.device) / rows
        held = [self._random((rows, *place.get().shape[1:]), -i - 1) for i, place in enumerate(self.held)]
        return _Example(time, state, tuple(args), held)

    def _random(self, shape: tuple[int, ...], which: int) -> Tensor:
        """Normal numbers, of which every other row is made positive: some fields take logarithms."""
        generator = torch.Generator().manual_seed(1000 * which + (1 + shape[0] if shape else 0))
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        if shape:
            x[1::2] = x[1::2].abs()
        return x.to(self.device, self.dtype)


def _row_counts(places: Places, y_shape: Sequence[int], args: Sequence[Any]) -> tuple[int, int]:
    """Two primes that divide no size in the field, its state and its arguments."""
    shapes = [t.shape for t in places.tensors()] + [a.shape[1:] for a in args if isinstance(a, Tensor)] + [y_shape]
    sizes = {n for shape in shapes for n in (*shape, math.prod(shape)) if n > 0}
    free = [p for p in _PRIMES if all(n % p for n in sizes)]
    if len(free) < 2:
        raise CannotCompile("its tensors have too many different sizes")
    return free[0], free[1]


def _note_inputs(tracer: Tracer, example: _Example, kind: _Kind) -> None:
    of_rows = torch.arange(1, tracer.rows + 1) * ROW

    def note(x: Tensor, value: int, name: str) -> None:
        scalars = tracer.scalars.of(value)
        tracer.give(x, of_rows[:, None] + scalars, name)

    note(example.y, tracer.builder.state(), "the state")
    if kind.time_per_row:
        note(example.t, tracer.builder.time(), "the time")
    else:
        tracer.give(example.t, tracer.scalars.of(tracer.builder.time()), "the time")
    for i, arg in enumerate(example.args):
        if i in kind.per_row:
            note(arg, tracer.builder.argument(kind.per_row.index(i)), f"argument {i}")
        elif isinstance(arg, Tensor):
            tracer.give_constant(arg, tracer.materials.constants.argument(i, arg), f"argument {i}")
    for i, (tensor, place) in enumerate(zip(example.held, kind.held, strict=True), len(kind.per_row)):
        note(tensor, tracer.builder.argument(i), place.name)


def _scalars_of_value(tracer: Tracer, value: Any, y: Tensor) -> list[int]:
    """The scalars of a row of the field's value."""
    if not isinstance(value, Tensor):
        raise FieldError(
            f"func(t, y) returned a {type(value).__name__}; return a torch.Tensor of shape {tuple(y.shape)}"
        )
    if value.is_complex():
        raise FieldError(f"func(t, y) is complex ({value.dtype}), but the state is real ({y.dtype})")
    try:
        codes = tracer.codes_of(value).expand(y.shape).reshape(tracer.rows, -1)
    except RuntimeError:
        raise FieldError(
            f"func(t, y) has shape {tuple(value.shape)}, but the state has shape {tuple(y.shape)}; "
            "return one derivative for each element of the state"
        ) from None
    row = codes & -ROW
    expected = torch.arange(1, tracer.rows + 1)[:, None] * ROW
    if bool(((row != 0) & (row != expected)).any()) or bool(((codes - row) != (codes - row)[:1]).any()):
        raise CannotCompile("the value of a row depends on another row of the batch, or rows are treated differently")
    scalars: list[int] = (codes - row)[0].tolist()
    return scalars


def _finished(tracer: Tracer, scalars: list[int]) -> Program:
    """The program, whose constants are numbered from 0 on."""
    program = _with_biases(tracer.builder.program(tracer.value(scalars)))
    slots = list(dict.fromkeys(op.data[0] for op in program.ops if op.name in ("vector", "affine")))
    number = {slot: i for i, slot in enumerate(slots)}
    tracer.materials.constants.finish([Node(slot) for slot in slots], tracer.dtype)

    def renumbered(op: Op) -> Op:
        return replace(op, data=(number[op.data[0]], *op.data[1:])) if op.name in ("vector", "affine") else op

    return replace(program, ops=tuple(renumbered(op) for op in program.ops))


def _with_biases(program: Program) -> Program:
    """Products to which something is added, and that nothing else needs, as affine maps."""
    uses = Counter(i for op in program.ops for i in op.inputs)
    uses.update(program.outputs)
    b = Builder(program.state_width, program.argument_widths)
    moved: list[int] = []
    for op in program.ops:
        inputs = [moved[i] for i in op.inputs]
        products = (
            [
                k
                for k, i in enumerate(op.inputs)
                if program.ops[i].name == "affine"
                and uses[i] == 1
                and len(program.ops[i].inputs) == 1
                and program.ops[i].width == op.width
            ]
            if op.name == "add"
            else []
        )
        if products:
            product = program.ops[op.inputs[products[0]]]
            matrix, transposed = product.data
            v = b.affine(moved[product.inputs[0]], matrix, op.width, inputs[1 - products[0]], transposed)
        else:
            v = b.add(op.name, inputs, op.width, op.data)
        moved.append(v)
    return b.program(*[moved[v] for v in program.outputs])


def _verify(func: Callable[..., Any], traced: Traced, example: _Example, batched: bool) -> None:
    """Compare with the field itself on other inputs, of another number of rows."""
    y = example.y if batched else example.y[None]
    flat = y.reshape(y.shape[0], -1)
    with torch.no_grad(), holding(traced.held, example.held):
        expected = func(example.t, example.y, *example.args)
        arguments = [*[example.args[i] for i in traced.per_row], *example.held]
        (got,) = evaluate(traced.program, example.t, flat, arguments, traced.constants.values(example.args))
    expected = expected.expand(example.y.shape).reshape(flat.shape).to(got.dtype)
    finite = expected.isfinite()
    # of each feature, because features may differ by orders of magnitude
    scale = torch.where(finite, expected.abs(), 0.0).amax(0, keepdim=True)
    close = (got - expected).abs() <= _TOLERANCE[got.dtype] * scale
    # a feature whose terms cancel is the rounding of its products for one, and zero for the other
    cancels = (torch.where(finite, got, 0.0) == 0).all(0) | (torch.where(finite, expected, 0.0) == 0).all(0)
    close |= cancels & ((got - expected).abs() <= 8 * torch.finfo(got.dtype).eps * scale.max())
    same = torch.where(finite, close, (got == expected) | (got.isnan() & expected.isnan()))
    if not bool(same.all()):
        raise CannotCompile(
            "its value depends on something that the trace did not see: numpy, `.data`, random numbers, the number of "
            "rows, or a state of its own"
        )


def _is_differentiable(
    func: Callable[..., Any], traced: Traced, example: _Example, batched: bool, own: Sequence[Tensor]
) -> bool:
    """Compare derivatives with those of the field: it may detach a tensor, or have a backward pass of its own.

    Args:
        own: the field's tensors that require grad.
    """
    with torch.inference_mode(False), torch.enable_grad():
        y, *rows = [
            x.detach().clone().requires_grad_()
            for x in (example.y, *[example.args[i] for i in traced.per_row], *example.held)
        ]
        args = list(example.args)
        for i, x in zip(traced.per_row, rows, strict=False):
            args[i] = x
        shared = [x for x in example.args if isinstance(x, Tensor) and x.requires_grad]
        leaves = [y, *rows, *shared, *own]

        def derivatives(value: Tensor) -> list[Tensor]:
            weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
            return list(torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True, materialize_grads=True))

        try:
            state = y.clone()  # no leaf, as in a solve
            flat = state.reshape(state.shape[0], -1) if batched else state.reshape(1, -1)
            with holding(traced.held, rows[len(traced.per_row) :]):
                value = func(example.t, state, *args)
            expected = derivatives(value.expand(example.y.shape).reshape(flat.shape).to(flat.dtype))
            constants = traced.constants.values(tuple(args))
            found = derivatives(evaluate(traced.program, example.t, flat, rows, constants)[0])
        except Exception:
            return True  # torch has none to compare with
    for a, b in zip(found, expected, strict=True):
        finite = a.isfinite() & b.isfinite()
        scale = torch.where(finite, b.abs().maximum(a.abs()), 0.0)
        close = (a - b).abs() <= _TOLERANCE_OF_DERIVATIVES[a.dtype] * (scale.max() if scale.numel() else 0.0)
        if not bool((close | ~finite).all()):
            return False
    return True
