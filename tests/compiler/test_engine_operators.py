"""Every operator on the native engine: values and gradients against torch."""

from __future__ import annotations

import pytest
import torch

from fastode.compiler.elementwise import ELEMENTWISE
from fastode.compiler.program import Builder, Program

from .running import assert_close, by_torch, native

ROWS = [0, 1, 3, 16, 37, 70]
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (2e-6, 2e-5)}
DATA = {"leaky_relu": (0.1,), "softplus": (1.5,), "sigmoid": (1.5,)}
#: operators whose domain is the positive numbers
POSITIVE = {"sqrt", "log", "log1p", "pow", "div"}


def unary_or_binary(name: str, shapes: tuple[str, ...]) -> Program:
    """The operator on inputs of several kinds: of rows, of time, of constants; wide and of one feature."""
    b = Builder(5, (5, 1))
    leaves = {
        "state": b.state,
        "argument": lambda: b.argument(0),
        "narrow argument": lambda: b.argument(1),
        "time": b.time,
        "vector": lambda: b.vector(0, 5),
        "number": lambda: b.literal(0.7),
    }
    value = b.elementwise(name, *(leaves[s]() for s in shapes), data=DATA.get(name, ()))
    # beside a value of the rows, so that gradients of all inputs have somewhere to go
    return b.program(b.elementwise("mul", b.state(), value))


def kinds_of_inputs(name: str) -> list[tuple[str, ...]]:
    count = len(ELEMENTWISE[name].partials)
    if count == 1:
        return [("state",), ("time",), ("vector",), ("narrow argument",)]
    pairs = [
        ("state", "argument"),
        ("state", "narrow argument"),
        ("narrow argument", "state"),
        ("state", "vector"),
        ("vector", "state"),
        ("time", "state"),
        ("state", "time"),
        ("vector", "time"),
        ("number", "state"),
        ("state", "number"),
    ]
    return pairs if count == 2 else [(c, a, b) for c in ("state", "time", "vector") for a, b in pairs[:6]]


CASES = [(name, kinds) for name in ELEMENTWISE for kinds in kinds_of_inputs(name)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[f"{n}-{'-'.join(k)}".replace(" ", "_") for n, k in CASES])
def test_an_elementwise_operator_and_its_gradients_are_those_of_torch(name, kinds, dtype):
    program = unary_or_binary(name, kinds)
    generator = torch.Generator().manual_seed(0)
    for rows in ROWS:

        def numbers(*shape: int) -> torch.Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            return x.abs() + 0.1 if name in POSITIVE else x

        y, arguments, constants = numbers(rows, 5), [numbers(rows, 5), numbers(rows, 1)], [numbers(5)]
        cotangent = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype)
        constants = constants if any(op.name == "vector" for op in program.ops) else []
        value, grads = native(program, 0.3, y, arguments, constants, cotangent)
        expected, expected_grads = by_torch(program, 0.3, y, arguments, constants, cotangent)
        of_value, of_grads = TOLERANCE[dtype]
        assert_close(value, expected, of_value, f"value of {rows} rows")
        for i, (g, e) in enumerate(zip(grads, expected_grads, strict=True)):
            assert_close(g, e, of_grads, f"gradient {i} of {rows} rows")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize("bias", ["none", "vector", "state"])
@pytest.mark.parametrize("source", ["state", "time", "vector"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 7), (13, 6), (6, 13), (5, 33), (64, 65)], ids=lambda n: str(n))
def test_an_affine_map_and_its_gradients_are_those_of_torch(n, m, source, bias, transposed, dtype):
    b = Builder(max(n, m))
    state = b.state()

    def part(width: int) -> int:
        return b.gather([(state, i) for i in range(width)])

    constants = [torch.randn((n, m) if transposed else (m, n), dtype=torch.float64).to(dtype)]
    if source == "vector" or bias == "vector":
        constants.append(torch.randn(n if source == "vector" else m, dtype=torch.float64).to(dtype))
    x = {"state": lambda: part(n), "time": lambda: b.gather([(b.time(), 0)] * n), "vector": lambda: b.vector(1, n)}[
        source
    ]()
    if source == "vector" and bias == "vector":
        constants.append(torch.randn(m, dtype=torch.float64).to(dtype))
    added = {"none": None, "vector": len(constants) - 1, "state": None}[bias]
    offset = part(m) if bias == "state" else None if added is None else b.vector(added, m)
    program = b.program(b.elementwise("mul", b.affine(x, 0, m, offset, transposed), part(m)))
    for rows in ROWS:
        y, cotangent = torch.randn(rows, max(n, m), dtype=dtype), torch.randn(rows, m, dtype=dtype)
        value, grads = native(program, 0.3, y, [], constants, cotangent)
        expected, expected_grads = by_torch(program, 0.3, y, [], constants, cotangent)
        of_value, of_grads = TOLERANCE[dtype]
        assert_close(value, expected, of_value * 10, f"value of {rows} rows")
        for i, (g, e) in enumerate(zip(grads, expected_grads, strict=True)):
            assert_close(g, e, of_grads * 10, f"gradient {i} of {rows} rows")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_gathers_and_sums_and_their_gradients_are_those_of_torch(dtype):
    b = Builder(6, (2,))
    y, a, t, v = b.state(), b.argument(0), b.time(), b.vector(0, 3)
    twice = b.gather([(y, 5), (y, 0), (y, 0), (a, 1), (t, 0), (v, 2), (v, 2), (v, 2), (y, 3)])
    middle = b.gather([(y, i) for i in range(2, 5)])
    reversed_ = b.gather([(twice, i) for i in reversed(range(9))])
    sums = b.sum(b.elementwise("mul", reversed_, twice), 3)
    program = b.program(b.elementwise("add", b.elementwise("mul", sums, middle), b.sum(y)))
    for rows in ROWS:
        inputs = torch.randn(rows, 6, dtype=dtype), [torch.randn(rows, 2, dtype=dtype)], [torch.randn(3, dtype=dtype)]
        cotangent = torch.randn(rows, 3, dtype=dtype)
        value, grads = native(program, -1.5, *inputs, cotangent)
        expected, expected_grads = by_torch(program, -1.5, *inputs, cotangent)
        for g, e in zip([value, *grads], [expected, *expected_grads], strict=True):
            assert_close(g, e, TOLERANCE[dtype][1])


@pytest.mark.parametrize("rows", [1, 40])
def test_nan_and_infinity_pass_through(rows):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0], dtype=torch.float64).expand(rows, 5)
    for name, rule in ELEMENTWISE.items():
        if len(rule.partials) != 1:
            continue
        b = Builder(5)
        program = b.program(b.elementwise(name, b.state(), data=DATA.get(name, ())))
        value, _ = native(program, 0.0, special.contiguous(), [], [])
        expected = rule.torch(special, *DATA.get(name, ()))
        torch.testing.assert_close(
            value, expected, equal_nan=True, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_row_has_the_same_bits_alone_and_in_any_batch():
    b = Builder(3)
    x = b.elementwise("tanh", b.affine(b.state(), 0, 23, b.vector(1, 23)))
    x = b.elementwise("sigmoid", b.affine(x, 2, 17))
    program = b.program(b.affine(x, 3, 2))
    for dtype in (torch.float32, torch.float64):
        shapes = [(23, 3), (23,), (17, 23), (2, 17)]
        constants = [torch.randn(s, dtype=dtype) for s in shapes]
        y = torch.randn(70, 3, dtype=dtype)
        whole, _ = native(program, 0.0, y, [], constants)
        for rows in (1, 2, 9, 17, 33):
            part, _ = native(program, 0.0, y[:rows].contiguous(), [], constants)
            assert torch.equal(part, whole[:rows]), rows
