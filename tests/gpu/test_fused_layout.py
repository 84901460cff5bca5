"""How the features of a program's values are kept, and what is refused; no kernel is compiled or run here."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from compiler.fields import lotka_volterra
from compiler.registry import Wrapped
from torch import Tensor, nn

from fastode.compiler.gpu import NotFused
from fastode.compiler.gpu.configurations import (
    has_float64_tensor_cores,
    settings_for,
    shared_bytes_of,
    sweep_settings_for,
)
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.layout import Layout, Part, Run, Tie, runs
from fastode.compiler.gpu.settings import Settings
from fastode.compiler.program import Builder
from gpu.fields import WIDE, mlp, traced, wide


def widths(layout: Layout, value: int) -> list[int]:
    return [p.width for p in layout.parts(value)]


def test_runs_are_neighbours_or_one_feature_repeated() -> None:
    features = [(0, 2), (0, 3), (0, 4), (1, 0), (1, 0), (1, 0), (0, 1), (0, 0), (0, 0)]
    assert runs((7, 9), features) == [
        Run(0, 3, 7, 2, False),
        Run(3, 3, 9, 0, True),
        Run(6, 1, 7, 1, False),
        Run(7, 2, 7, 0, True),
    ]


def test_narrow_values_are_columns_and_wide_ones_tiles() -> None:
    b = Builder(8)
    narrow = b.state()
    large = b.affine(narrow, 0, 100)
    layout = Layout(b.program(large, narrow), widest=32)
    assert widths(layout, 0) == [1] * 8
    assert widths(layout, 1) == [32, 32, 32] + [1] * 4
    assert [Part(0, 1).padded, Part(0, 9).padded, Part(0, 17).padded, Part(0, 64).padded] == [0, 16, 32, 64]


def test_what_a_gather_picks_is_cut_in_its_sources_and_in_what_meets_them() -> None:
    b = Builder(40)
    y = b.state()
    gate = b.elementwise("sigmoid", y)
    both = b.gather([*((y, i) for i in range(20)), *((gate, 20 + i) for i in range(20))])
    layout = Layout(b.program(both), widest=64)
    assert widths(layout, 0) == widths(layout, 1) == widths(layout, 2) == [20, 20]


def test_sums_of_groups_cut_their_input_and_leave_columns() -> None:
    b = Builder(48)
    total = b.sum(b.state(), 4)
    layout = Layout(b.program(total), widest=64)
    assert widths(layout, 0) == [12] * 4 and widths(layout, 1) == [1] * 4


def test_ties_carry_cuts_between_values() -> None:
    b = Builder(20)
    out = b.gather([*((b.state(), i) for i in range(20)), (b.time(), 0)])
    program = b.program(b.affine(out, 0, 21))
    free = Layout(program, widest=64)
    assert widths(free, len(program.ops) - 1) == [21]
    tied = Layout(program, [Tie(len(program.ops) - 1, 0, 0, 0, 20)], widest=64)
    assert widths(tied, len(program.ops) - 1) == [20, 1]


@pytest.mark.parametrize("name", WIDE)
def test_a_state_and_its_slope_are_cut_alike(name: str) -> None:
    found = wide(name, torch.float64, 3)
    field = found.fused().field
    assert field.state.features == found.features
    assert len(field.slope) == len(field.state.parts)


def test_features_beside_the_state_are_parts_of_their_own() -> None:
    b = Builder(20)
    program = b.program(b.affine(b.state(), 0, 21))
    fused = FusedProgram(program, torch.float64, True)
    assert [p.width for p in fused.field.state.parts] == [20, 1]


def test_programs_that_tiles_cannot_hold_are_refused_by_operator_and_width() -> None:
    with pytest.raises(NotFused, match=r"a value of 300 features \(\w+\), at most 256"):
        traced(Wrapped(mlp(2, 300, 2)), torch.zeros(3, 2)).fused()

    class Reversed(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y.flip(-1)

    with pytest.raises(NotFused, match=r"a value of 100 features \(\w+\) falls into 100 parts, at most 64"):
        traced(Reversed(), torch.zeros(3, 100)).fused()


def test_a_lookup_is_refused() -> None:
    b = Builder(6)
    program = b.program(b.lookup(b.state(), b.time(), 2))
    with pytest.raises(NotFused, match="do not look values up by a number"):
        Layout(program, widest=32)


def test_other_dtypes_are_refused() -> None:
    found = traced(lotka_volterra, torch.zeros(3, 2))
    with pytest.raises(NotFused, match=r"dtype torch\.float16; float32 and float64"):
        FusedProgram(found.program, torch.float16, False)


@pytest.mark.parametrize("wrong", [{"precision": "tf64"}, {"rows": 12}, {"warps": 0}], ids=str)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_follow_the_widths() -> None:
    assert settings_for(traced(lotka_volterra, torch.zeros(3, 2)).program, torch.float32) == Settings(32, 1)
    network = wide("two_hidden_layers_of_64", torch.float32, 3).program
    assert settings_for(network, torch.float32) == Settings(8, 2)
    assert settings_for(network, torch.float32, "tf32x3") == Settings(8, 2, "tf32x3", 64)
    assert settings_for(network, torch.float64) == Settings(8, 4, tile=64)
    flow = wide("two_hidden_layers_of_64", torch.float32, 3, "exact").program
    assert settings_for(flow, torch.float32) == Settings(8, 4, tile=64)
    large = traced(Wrapped(mlp(2, 256, 256, 2)), torch.zeros(3, 2)).program
    assert settings_for(large, torch.float32) == Settings(8, 4, slopes_in_memory=True)
    assert settings_for(large, torch.float32, shared_bytes=300 * 1024) == Settings(8, 4)
    by_tangents = wide("concatsquash", torch.float64, 3, "exact").program
    assert settings_for(by_tangents, torch.float64) == Settings(8, 8, tile=64, slopes_in_memory=True)


def test_sweeps_have_tiles_that_fill_the_tensor_cores() -> None:
    network = wide("two_hidden_layers_of_64", torch.float32, 3).program
    plain = Settings(16, 4, keep_vectors=False)
    assert sweep_settings_for(network, torch.float32) == plain
    assert sweep_settings_for(network, torch.float32, "tf32") == replace(plain, precision="tf32", tile=64)
    assert sweep_settings_for(network, torch.float64) == replace(plain, warps=8, tile=64)
    assert sweep_settings_for(network, torch.float64, float64_tensor_cores=False) == replace(plain, warps=8)


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), True), ((9, 0), True), ((10, 0), False)])
def test_float64_is_on_tensor_cores_up_to_hopper(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_float64_tensor_cores(torch.device("cuda", 0)) == expected


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"shared_memory_per_block": 49152, "shared_memory_per_block_optin": 166912}, 166912),
        ({"shared_memory_per_block": 65536}, 65536),
    ],
    ids=["A100", "gfx942"],
)
def test_settings_follow_the_shared_memory_of_the_device(
    monkeypatch: pytest.MonkeyPatch, properties: dict[str, int], expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**properties))
    found = shared_bytes_of(torch.device("cuda", 0))
    assert found == expected
    network = traced(Wrapped(mlp(2, 128, 128, 2)).double(), torch.zeros(3, 2).double()).program
    assert settings_for(network, torch.float64, shared_bytes=found).slopes_in_memory == (expected < 144 * 1024)


def test_the_source_is_the_same_every_time_and_can_be_read() -> None:
    pytest.importorskip("triton")
    from fastode.compiler.gpu.evaluate import _kernel

    found = wide("gru", torch.float32, 3)
    texts = [inspect.getsource(found.fused().kernel(_kernel).fn) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("def evaluate(") and "tl.dot(" in texts[0]
    one = found.fused()
    assert one.kernel(_kernel) is one.kernel(_kernel)


def test_fastode_needs_triton_only_where_a_kernel_is_made() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch, fastode
from fastode.compiler.gpu import NotFused
from fastode.compiler.gpu.fused import FusedProgram
from fastode.compiler.gpu.evaluate import evaluate
field = fastode.compile(lambda t, y: -y)
y = torch.zeros(3, 2)
program = FusedProgram(field.native(y).traced.program, y.dtype, True)
try:
    evaluate(program, torch.tensor(0.0).double(), y, [], [])
except NotFused as reason:
    print(reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Triton is not installed" in done.stdout
