"""Derivatives of field programs, which are field programs again.

Both directions walk the operators once. Affine maps, gathers, sums and lookups are linear: their derivative is
themselves or their transpose; the number that a lookup takes has none. Elementwise operators have their rule in
:mod:`.elementwise`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .elementwise import ELEMENTWISE
from .program import LEAVES, Builder, Kind, Program


def push_tangents(b: Builder, tangents: Mapping[int, int], upto: int) -> dict[int, int]:
    """Tangents of the first ``upto`` values, given those of some leaves; values that do not move are left out.

    Reference: Griewank, Walther, "Evaluating Derivatives", 2nd ed. (2008), Table 3.4 (forward mode).
    """
    tangent = dict(tangents)
    for v in range(upto):
        op = b.ops[v]
        if v in tangent or not any(i in tangent for i in op.inputs):
            continue
        if op.name == "affine":
            # a bias that moves moves the result
            moved = tangent.get(op.inputs[1]) if len(op.inputs) == 2 else None
            if op.inputs[0] not in tangent:
                assert moved is not None
                tangent[v] = _widened(b, moved, op.width)
            else:
                bias = None if moved is None else _widened(b, moved, op.width)
                tangent[v] = b.affine(tangent[op.inputs[0]], op.data[0], op.width, bias, op.data[1])
        elif op.name == "gather":
            zero = b.literal(0.0)
            sources = [(tangent.get(op.inputs[k]), i) for k, i in op.data]
            tangent[v] = b.gather([(zero, 0) if s is None else _feature(b, s, i) for s, i in sources])
        elif op.name == "sum":
            moved = _widened(b, tangent[op.inputs[0]], b.width(op.inputs[0]))
            tangent[v] = b.sum(moved, op.width)
        elif op.name == "lookup":
            x, number = op.inputs
            if x in tangent:
                tangent[v] = b.lookup(_widened(b, tangent[x], b.width(x)), number, op.width)
        else:
            terms = [
                partial(b, op.inputs, v, op.data, tangent[i])
                for i, partial in zip(op.inputs, ELEMENTWISE[op.name].partials, strict=True)
                if partial is not None and i in tangent
            ]
            if terms:
                tangent[v] = _sum_of(b, terms)
    return tangent


@dataclass(frozen=True)
class Adjoint:
    """A program beside its vector-Jacobian product.

    Attributes:
        program: outputs ``value``, then the cotangents of the state, of the arguments asked for and of the time (if
            ``time``), then what ``matrices`` and ``vectors`` need.
        matrices: the constants that are matrices; the gradient of each is ``sum over rows of g x'`` of the next two
            outputs, (g, x), transposed if the flag says so. A constant may come several times.
        vectors: the constants that are vectors; the gradient of each is the next output (a sum over rows).
        arguments: which arguments have a cotangent.
        time: whether the time has one.
    """

    program: Program
    matrices: tuple[tuple[int, bool], ...]
    vectors: tuple[int, ...]
    arguments: tuple[int, ...]
    time: bool = False


def adjoint(
    program: Program,
    constants: Iterable[int],
    arguments: Sequence[int],
    shared_time: bool,
    time: bool = False,
) -> Adjoint:
    """The vector-Jacobian product of a program with one output.

    Args:
        constants: those whose gradients are wanted.
        arguments: those whose gradients are wanted.
        shared_time: all rows are at the same time, so that cotangents of what depends on time alone may be summed
            over the rows at once.
        time: whether the cotangent of the time is wanted: of the one that all rows share, summed over them.

    Reference: Griewank, Walther, "Evaluating Derivatives", 2nd ed. (2008), Table 3.5 (reverse mode).
    """
    b = Builder.of(program)
    (out,) = program.outputs
    wanted = set(constants)
    shared = Kind.TIME if shared_time else Kind.SUMMED
    cotangents: dict[int, list[int]] = {out: [b.add("cotangent", (), b.width(out))]}
    matrices: list[tuple[int, bool, int, int]] = []
    vectors: list[tuple[int, int]] = []
    moves = _moving(program, wanted, arguments, time)

    def give(v: int, g: int) -> None:
        """Add a contribution to the cotangent of ``v``."""
        if v not in moves:
            return
        if b.width(v) == 1:
            g = b.sum(g)
        if b.kinds[v] <= shared < b.kinds[g]:
            g = b.add("rows_sum", (g,), b.width(g))
        cotangents.setdefault(v, []).append(g)

    for v in range(len(program.ops) - 1, -1, -1):
        if v not in cotangents:
            continue
        op = program.ops[v]
        if op.name in LEAVES:
            if op.name == "vector":
                vectors.append((op.data[0], _widened(b, _sum_of(b, cotangents[v]), op.width)))
            continue
        g = _widened(b, _sum_of(b, cotangents[v]), op.width)
        if op.name == "affine":
            x = op.inputs[0]
            if len(op.inputs) == 2:
                give(op.inputs[1], g)
            if b.kinds[x] <= shared < b.kinds[g]:
                g = b.add("rows_sum", (g,), op.width)
            index, transposed = op.data
            if x in moves:
                give(x, b.affine(g, index, b.width(x), transposed=not transposed))
            if index in wanted:
                matrices.append((index, transposed, g, x))
        elif op.name == "gather":
            for k, x in enumerate(op.inputs):
                give(x, _scattered(b, g, [(i, f) for i, (j, f) in enumerate(op.data) if j == k], b.width(x)))
        elif op.name == "sum":
            (x,) = op.inputs
            group = b.width(x) // op.width
            give(x, b.gather([(g, i // group) for i in range(b.width(x))]))
        elif op.name == "lookup":
            x, number = op.inputs
            if max(b.kinds[x], b.kinds[number]) <= shared < b.kinds[g]:
                g = b.add("rows_sum", (g,), op.width)
            give(x, b.scatter(g, number, b.width(x)))
        else:
            for x, partial in zip(op.inputs, ELEMENTWISE[op.name].partials, strict=True):
                if partial is not None and x in moves:
                    give(x, partial(b, op.inputs, v, op.data, g))

    def leaf(name: str, width: int, data: tuple[int, ...] = ()) -> int:
        v = b.add(name, (), width, data)
        return _widened(b, _sum_of(b, cotangents[v]) if v in cotangents else b.literal(0.0), width)

    outputs = [out, leaf("state", program.state_width)]
    outputs += [leaf("argument", program.argument_widths[a], (a,)) for a in arguments]
    if time:
        outputs.append(leaf("time", 1))
    for _, _, g, x in matrices:
        outputs += [g, x]
    outputs += [g for _, g in vectors]
    return Adjoint(
        b.program(*outputs),
        tuple((index, transposed) for index, transposed, _, _ in matrices),
        tuple(index for index, _ in vectors),
        tuple(arguments),
        time,
    )


def _moving(program: Program, constants: set[int], arguments: Sequence[int], time: bool) -> set[int]:
    """The values through which something is differentiated."""
    moving: set[int] = set()
    for v, op in enumerate(program.ops):
        leaf = (
            op.name == "state"
            or (time and op.name == "time")
            or (op.name == "argument" and op.data[0] in arguments)
            or (op.name == "vector" and op.data[0] in constants)
        )
        if leaf or (op.name == "affine" and op.data[0] in constants) or any(i in moving for i in op.inputs):
            moving.add(v)
    return moving


def _scattered(b: Builder, g: int, uses: list[tuple[int, int]], width: int) -> int:
    """The transpose of a gather: feature ``f`` is the sum of ``g``'s features ``i`` over the uses ``(i, f)``."""
    sources: list[list[int]] = [[] for _ in range(width)]
    for i, f in uses:
        sources[f].append(i)
    most = max(len(s) for s in sources)
    zero = b.literal(0.0)
    padded = [(g, s[k]) if k < len(s) else (zero, 0) for s in sources for k in range(most)]
    return b.sum(b.gather(padded), width)


def _sum_of(b: Builder, terms: Sequence[int]) -> int:
    total = terms[0]
    for term in terms[1:]:
        total = b.elementwise("add", total, term)
    return total


def _widened(b: Builder, v: int, width: int) -> int:
    """``v`` with ``width`` features, if it has only one for all of them."""
    return v if b.width(v) == width else b.gather([(v, 0)] * width)


def _feature(b: Builder, v: int, i: int) -> tuple[int, int]:
    return (v, 0) if b.width(v) == 1 else (v, i)
