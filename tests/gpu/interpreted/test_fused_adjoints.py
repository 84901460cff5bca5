"""A program with its vector-Jacobian product is emitted like any other, with sums over the rows of a tile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compiler.running import assert_close
from torch import Tensor

from fastode.compiler.derive import Adjoint, adjoint
from fastode.compiler.evaluate import evaluate as by_torch
from fastode.compiler.gpu import source
from fastode.compiler.gpu.emission import Inputs, emit
from fastode.compiler.gpu.field import body_text, of_rows, whole_numbers
from fastode.compiler.gpu.layout import Layout
from fastode.compiler.gpu.piece import Piece
from fastode.compiler.gpu.settings import Settings, type_name
from fastode.compiler.gpu.state import State
from gpu.fields import Traced, wide

ROWS = 19


class AdjointKernel:
    """Writes every output of an adjoint: of rows as [R, width], sums over the rows of a tile as [tiles, width]."""

    def __init__(self, derived: Adjoint, dtype: torch.dtype, shared_time: bool, settings: Settings) -> None:
        program = derived.program
        self.program, self.settings = program, settings
        #: what is linear in a sum over rows
        self.sums: set[int] = set()
        for v, op in enumerate(program.ops):
            if op.name == "rows_sum" or self.sums.intersection(op.inputs):
                self.sums.add(v)
        name = type_name(dtype)
        layout = Layout(program, (), settings.tile)
        leaves = {
            (op.name, *op.data): State(tuple(layout.parts(v)), name)
            for v, op in enumerate(program.ops)
            if op.name in ("state", "argument", "cotangent")
        }
        self.inputs = list(leaves)
        names = {leaf: "_".join(map(str, leaf)) for leaf in leaves}
        pieces = {leaf: parts.pieces(names[leaf]) for leaf, parts in leaves.items()}
        inputs = Inputs(
            Piece("time", rows=not shared_time),
            pieces.get(("state",), []),
            {leaf[1]: p for leaf, p in pieces.items() if leaf[0] == "argument"},
            pieces.get(("cotangent",), []),
        )
        emitted = emit(program, layout, inputs, settings, name)
        self.constants = emitted.constants
        self.of_rows = [any(p.rows for p in output) for output in emitted.outputs]
        lines = ["first = tl.program_id(0).to(tl.int64) * ROWS", "lane = tl.arange(0, ROWS)"]
        lines += ["live = lane < tl.minimum(count - first, ROWS).to(tl.int32)"]
        for leaf, parts in leaves.items():
            lines += parts.load(names[leaf], of_rows(f"{names[leaf]}_of_rows", parts.features))
        lines += ["time = tl.load(t)" if shared_time else f"time = tl.load({of_rows('t')}, mask=live, other=0.0)"]
        lines += [f"time = time.to({name})", *emitted.before, *emitted.body]
        for n, (v, output) in enumerate(zip(program.outputs, emitted.outputs, strict=True)):
            parts = State(tuple(layout.parts(v)), name)
            values = [p.beside(part.padded > 0) for p, part in zip(output, parts.parts, strict=True)]
            if self.of_rows[n]:
                lines += parts.store(values, of_rows(f"out_{n}", parts.features))
            else:
                # one lane writes what all have
                place = f"(out_{n} + tl.program_id(0) * {parts.features} + lane * 0)"
                lines += parts.store(values, place, "(lane == 0)")
        parameters = [
            *(f"{names[leaf]}_of_rows" for leaf in leaves),
            *("t", *(f"out_{n}" for n in range(len(program.outputs)))),
            *whole_numbers(["count"]),
            *(f"constant_{c}" for c in emitted.constants),
            "ROWS: tl.constexpr",
        ]
        self.kernel: Any = source.kernel("adjoint", parameters, body_text(lines), ["count"], ["t"])

    def __call__(
        self, t: Tensor, given: dict[Any, Tensor], constants: list[Tensor], dtype: torch.dtype
    ) -> list[Tensor]:
        tiles = -(-ROWS // self.settings.rows)
        counts = [ROWS if of_rows else tiles for of_rows in self.of_rows]
        widths = [self.program.ops[v].width for v in self.program.outputs]
        outputs = [torch.full((n, w), torch.nan, dtype=dtype) for n, w in zip(counts, widths, strict=True)]
        inputs = [given[leaf] for leaf in self.inputs]
        used = [constants[c] for c in self.constants]
        self.kernel[(tiles,)](*inputs, t, *outputs, ROWS, *used, ROWS=self.settings.rows, num_warps=4)
        found = []
        for v, x, is_row in zip(self.program.outputs, outputs, self.of_rows, strict=True):
            # a tile has the sum over its rows; what is no sum is the same in all of them
            total = x.sum(0, keepdim=True) if v in self.sums else x[:1]
            found.append(x if is_row else total.expand(ROWS, -1))
        return found


@pytest.mark.parametrize("shared_time", [True, False], ids=["shared_time", "own_times"])
@pytest.mark.parametrize("divergence", [None, "exact"])
@pytest.mark.parametrize(
    "name", ["two_hidden_layers_of_64", "concatsquash", "conditioned", "gru", "normed", "mirrored"]
)
def test_outputs_of_adjoints_are_those_of_torch(name: str, divergence: str | None, shared_time: bool) -> None:
    if divergence and name in ("gru", "normed", "mirrored"):
        pytest.skip("a tangent for each of many features takes the interpreter seconds")
    found: Traced = wide(name, torch.float64, ROWS, divergence, shared_time)
    derived = adjoint(found.program, range(len(found.constants)), range(len(found.arguments)), shared_time)
    run = AdjointKernel(derived, torch.float64, shared_time, Settings(rows=16))
    t = torch.rand(() if shared_time else (ROWS,), dtype=torch.float64)
    y = torch.randn(ROWS, found.program.state_width, dtype=torch.float64)
    g = torch.randn(ROWS, found.features, dtype=torch.float64)
    given = {("state",): y, ("cotangent",): g, **{("argument", a): x for a, x in enumerate(found.arguments)}}
    outputs = run(t, given, found.constants, torch.float64)
    expected = by_torch(derived.program, t, y, found.arguments, found.constants, g)
    for n, (x, e) in enumerate(zip(outputs, expected, strict=True)):
        assert_close(x, e, 1e-12, f"output {n}")
