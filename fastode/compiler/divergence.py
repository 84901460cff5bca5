"""The divergence of a field program, as a program: exact in closed form, exact by tangents, or Hutchinson's estimate.

Where the Jacobian is a product of constant matrices and diagonal ones,

    J = D_k M_k ... D_1 M_1,        tr J = sum_ab d2_a (M2 * (M1 D3 M3)')_ab d1_b

needs no more than one product with a constant matrix if at most two of the diagonals are there (taken round the circle,
because a trace does not change under rotation). Two or three affine maps have that form: the divergence costs one more
matrix product, whatever the dimension. Deeper fields push one tangent per dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .derive import push_tangents
from .elementwise import ELEMENTWISE
from .program import Builder, Program


class ConstantPool(Protocol):
    """Where constants that follow from others are registered."""

    def compute(self, function: Callable[..., Tensor], inputs: Sequence[int]) -> int:
        """The number of the constant ``function(*inputs)``."""


@dataclass(frozen=True)
class _Matrix:
    """A constant factor of the Jacobian: constant ``index``, of shape [rows, cols]."""

    index: int
    rows: int
    cols: int


@dataclass(frozen=True)
class _Diagonal:
    """A diagonal factor: the value that is its diagonal."""

    value: int


Chain = tuple[_Matrix | _Diagonal, ...]  # from the state's side


class _NoChain(Exception):
    """The Jacobian is no single product."""


def with_exact_divergence(program: Program, constants: ConstantPool) -> Program:
    """``(f(t, y), div f(t, y))`` as one output of width + 1 features."""
    b = Builder.of(program)
    (out,) = program.outputs
    try:
        trace = _closed_form(b, program, constants)
    except _NoChain:
        trace = _by_tangents(b, program)
    return _joined(b, out, trace)


def with_hutchinson_divergence(program: Program) -> Program:
    """``(f(t, y), e' J e)`` with the noise ``e`` as a further per-row argument, of the state's width.

    Reference: Grathwohl et al., "FFJORD", ICLR 2019, eq. (7).
    """
    argument = len(program.argument_widths)
    extended = Program(
        program.ops, program.outputs, program.state_width, (*program.argument_widths, program.state_width)
    )
    b = Builder.of(extended)
    (out,) = program.outputs
    noise = b.argument(argument)
    state = _state_of(b, program)
    tangents = push_tangents(b, {state: noise} if state is not None else {}, len(program.ops))
    product = b.elementwise("mul", noise, tangents[out]) if out in tangents else b.literal(0.0)
    return _joined(b, out, b.sum(product))


def is_closed_form(program: Program) -> bool:
    """Whether the exact divergence costs one more matrix product only."""

    class Counting:
        def compute(self, function: Callable[..., Tensor], inputs: Sequence[int]) -> int:
            return 0

    try:
        _closed_form(Builder.of(program), program, Counting())
    except _NoChain:
        return False
    return True


def _state_of(b: Builder, program: Program) -> int | None:
    return next((v for v, op in enumerate(program.ops) if op.name == "state"), None)


def _joined(b: Builder, out: int, trace: int) -> Program:
    width = b.width(out)
    return b.program(b.gather([*((out, i) for i in range(width)), (trace, 0)]))


def _by_tangents(b: Builder, program: Program) -> int:
    """One tangent for each dimension; of the last affine map only the row that the trace reads."""
    (out,) = program.outputs
    state = _state_of(b, program)
    if state is None:
        return b.literal(0.0)
    zero, one = b.literal(0.0), b.literal(1.0)
    n = program.state_width
    terms = []
    for i in range(n):
        unit = b.gather([(one if j == i else zero, 0) for j in range(n)])
        tangent = push_tangents(b, {state: unit}, len(program.ops)).get(out)
        if tangent is not None:
            terms.append((tangent, i if b.width(tangent) > 1 else 0))
    return b.sum(b.gather(terms)) if terms else zero


def _closed_form(b: Builder, program: Program, constants: ConstantPool) -> int:
    (out,) = program.outputs
    chains: dict[int, Chain] = {}
    for v in range(len(program.ops)):
        op = program.ops[v]
        if op.name == "state":
            chains[v] = ()
        elif any(i in chains for i in op.inputs):
            chains[v] = _extended(b, program, constants, v, chains)
    if out not in chains:
        return b.literal(0.0)
    return _trace(b, constants, chains[out], program.state_width)


def _extended(b: Builder, program: Program, constants: ConstantPool, v: int, chains: dict[int, Chain]) -> Chain:
    """The chain of value ``v`` from those of its inputs."""
    op = program.ops[v]
    moving = [i for i in dict.fromkeys(op.inputs) if i in chains]
    if op.name == "affine":
        if moving != [op.inputs[0]] or op.inputs[0] in op.inputs[1:]:
            raise _NoChain
        index, transposed = op.data
        if transposed:
            index = constants.compute(_transposed, [index])
        return _times(constants, chains[moving[0]], _Matrix(index, op.width, b.width(op.inputs[0])))
    if op.name == "gather":
        if len(moving) != 1:
            raise _NoChain
        (source,) = moving
        picks = [f if op.inputs[k] == source else -1 for k, f in op.data]
        rows, cols = len(picks), b.width(source)
        index = constants.compute(_Selection(tuple(picks), cols), [])
        return _times(constants, chains[source], _Matrix(index, rows, cols))
    if op.name == "sum":
        cols = b.width(op.inputs[0])
        index = constants.compute(_Groups(op.width, cols), [])
        return _times(constants, chains[op.inputs[0]], _Matrix(index, op.width, cols))
    if op.name == "lookup":
        if op.inputs[0] in chains:
            raise _NoChain
        return (_Diagonal(b.literal(0.0)),)
    # elementwise: the diagonal of its partial derivatives, if all that moves has one chain up to a diagonal
    ends = []
    for i, partial in zip(op.inputs, ELEMENTWISE[op.name].partials, strict=True):
        if i not in chains or partial is None:
            continue
        if b.width(i) != op.width:
            raise _NoChain
        chain = chains[i]
        direction = b.literal(1.0)
        if chain and isinstance(chain[-1], _Diagonal):
            direction, chain = chain[-1].value, chain[:-1]
        ends.append((chain, partial(b, op.inputs, v, op.data, direction)))
    if not ends:
        return (_Diagonal(b.literal(0.0)),)
    if any(chain != ends[0][0] for chain, _ in ends):
        raise _NoChain
    total = ends[0][1]
    for _, value in ends[1:]:
        total = b.elementwise("add", total, value)
    if b.number(total) == 1.0:
        return ends[0][0]
    return (*ends[0][0], _Diagonal(total))


def _times(constants: ConstantPool, chain: Chain, matrix: _Matrix) -> Chain:
    """``matrix`` after ``chain``; two matrices in a row become one."""
    if chain and isinstance(chain[-1], _Matrix):
        last = chain[-1]
        index = constants.compute(_matmul, [matrix.index, last.index])
        return (*chain[:-1], _Matrix(index, matrix.rows, last.cols))
    return (*chain, matrix)


def _trace(b: Builder, constants: ConstantPool, chain: Chain, n: int) -> int:
    """The trace of a chain: rotated until it ends with a diagonal, neighbours joined."""
    factors = list(chain)
    if not factors:
        return b.literal(float(n))
    # round the circle, what begins the chain follows what ends it
    while len(factors) > 1 and type(factors[0]) is type(factors[-1]):
        first, last = factors.pop(0), factors.pop()
        if isinstance(first, _Matrix) and isinstance(last, _Matrix):
            index = constants.compute(_matmul, [first.index, last.index])
            factors.append(_Matrix(index, first.rows, last.cols))
        elif isinstance(first, _Diagonal) and isinstance(last, _Diagonal):
            factors.append(_Diagonal(b.elementwise("mul", first.value, last.value)))
        if isinstance(factors[-1], _Matrix) and len(factors) > 1 and isinstance(factors[-2], _Matrix):
            right = factors.pop()
            left = factors.pop()
            assert isinstance(right, _Matrix) and isinstance(left, _Matrix)
            index = constants.compute(_matmul, [right.index, left.index])
            factors.append(_Matrix(index, right.rows, left.cols))
    if isinstance(factors[0], _Diagonal) and len(factors) > 1:
        factors = [*factors[1:], factors[0]]
    match factors:
        case [_Diagonal() as d]:
            if b.width(d.value) == n:
                return b.sum(d.value)
            return b.elementwise("mul", b.literal(float(n)), d.value)
        case [_Matrix() as m]:
            return b.vector(constants.compute(_trace_of, [m.index]), 1)
        case [_Matrix() as m, _Diagonal() as d]:
            diagonal = b.vector(constants.compute(_diagonal_of, [m.index]), m.rows)
            return b.sum(_wide(b, b.elementwise("mul", diagonal, d.value), m.rows))
        case [_Matrix() as m1, _Diagonal() as d1, _Matrix() as m2, _Diagonal() as d2]:
            k = constants.compute(_hadamard, [m2.index, m1.index])
            product = b.affine(_wide(b, d1.value, m2.cols), k, m2.rows)
            return b.sum(_wide(b, b.elementwise("mul", product, d2.value), m2.rows))
    raise _NoChain


def _wide(b: Builder, v: int, width: int) -> int:
    return v if b.width(v) == width else b.gather([(v, 0)] * width)


#: A product of so few terms is not worth a thread of torch's, which would hold a core for milliseconds of the solve,
#: waiting for more (as OpenMP's threads do): 64 x 2 by 2 x 64 costs 3 ms of a training step so.
_SMALL_PRODUCT = 16_384


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """In the narrower of both dtypes: matrices of zeros and ones are float64, whatever the state is."""
    dtype = min(a.dtype, b.dtype, key=lambda d: d.itemsize)
    a, b = a.to(dtype), b.to(dtype)
    if a.shape[0] * a.shape[1] * b.shape[1] <= _SMALL_PRODUCT:
        return (a[:, :, None] * b).sum(1)
    return a @ b


def _transposed(m: Tensor) -> Tensor:
    return m.T


def _trace_of(m: Tensor) -> Tensor:
    return m.trace().reshape(1)


def _diagonal_of(m: Tensor) -> Tensor:
    return m.diagonal()


def _hadamard(m2: Tensor, m1: Tensor) -> Tensor:
    """``m2 * m1'``: the trace of ``D2 m2 D1 m1`` is ``d2' (m2 * m1') d1``."""
    dtype = min(m1.dtype, m2.dtype, key=lambda d: d.itemsize)
    return m2.to(dtype) * m1.T.to(dtype)


@dataclass(frozen=True)
class _Selection:
    """The matrix that picks features; -1 picks nothing."""

    picks: tuple[int, ...]
    cols: int

    def __call__(self) -> Tensor:
        matrix = torch.zeros(len(self.picks), self.cols, dtype=torch.float64)
        for row, col in enumerate(self.picks):
            if col >= 0:
                matrix[row, col] = 1.0
        return matrix


@dataclass(frozen=True)
class _Groups:
    """The matrix that sums consecutive features."""

    rows: int
    cols: int

    def __call__(self) -> Tensor:
        eye = torch.eye(self.rows, dtype=torch.float64)
        return eye.repeat_interleave(self.cols // self.rows, 1)
