"""Which engine serves a solve, and what is said when the fastest one cannot."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastode
from fastode.errors import InvalidArgument
from fastode.kernels import ENGINES, select
from fastode.kernels.cuda import CudaRowsStep, launch, unavailable
from fastode.kernels.native import NativeRowsStep, NativeStep
from fastode.kernels.torch_step import TorchStep

from .cases import Step
from .conftest import LOCKSTEP, EngineUnderTest

REFUSED: dict[str, tuple[Tensor, str]] = {
    "complex": (torch.ones(2, dtype=torch.complex64), "the state is torch.complex64"),
    "half": (torch.ones(2, dtype=torch.float16), "the state is torch.float16"),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), "the state is torch.bfloat16"),
    "meta": (torch.ones(2, device="meta"), "the state is on meta"),
    "subclass": (torch.ones(2).as_subclass(type("Unit", (Tensor,), {})), "the state is a Unit"),
    "sparse": (torch.ones(2).to_sparse(), "the state's layout is torch.sparse_coo"),
}
T = torch.tensor([0.0, 1.0])


@pytest.fixture(autouse=True)
def _no_wish_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTODE_ENGINE", raising=False)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_native_engine_cannot_serve_goes_to_the_reference_with_the_reason(kind: str) -> None:
    state, reason = REFUSED[kind]
    chosen = select((state,))
    assert (chosen.name, chosen.reason) == ("reference", reason)


@pytest.mark.parametrize("kind", REFUSED)
def test_the_native_engine_asked_for_by_name_refuses_with_the_reason(kind: str) -> None:
    state, reason = REFUSED[kind]
    with pytest.raises(InvalidArgument, match=f"engine='native' cannot serve this solve: {reason}"):
        select((state,), "native")


def test_the_cuda_engine_refuses_with_the_reason_what_it_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="engine='cuda' cannot serve this solve: the state is on cpu"):
        select((torch.ones(2),), "cuda", rows=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for dtype, reason in ((torch.complex64, "torch.complex64"), (torch.float32, "a FakeTensor")):
            chosen = select((torch.ones(2, device="cuda", dtype=dtype),), rows=True)
            assert (chosen.name, chosen.reason) == ("reference", f"the state is {reason}")
    # what comes after is said of tensors on a GPU: let these pass for such
    monkeypatch.setattr(launch, "no_plain_tensors", lambda parts, device: "")
    monkeypatch.setattr(launch, "stream_on", lambda device: nullcontext(0))
    monkeypatch.setattr(launch, "native", SimpleNamespace(device_status=lambda: "no driver"))
    monkeypatch.setattr(launch, "_missing", "")
    assert unavailable((torch.ones(2),), rows=False) == "the state is on cpu, where only `solve` has kernels"
    assert unavailable((torch.ones(2),), rows=True) == "no driver"
    monkeypatch.setattr(launch, "_missing", "fastode._native_cuda is not built")
    assert unavailable((torch.ones(2),), rows=True) == "fastode._native_cuda is not built"


def test_one_part_that_cannot_be_served_decides_for_all() -> None:
    assert select((torch.ones(2), torch.ones(2, dtype=torch.float16))).reason == "the state is torch.float16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)], ids=str)
def test_plain_tensors_and_parameters_are_served_by_the_native_engine(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.ones(shape, dtype=dtype)
    for state in (x, torch.nn.Parameter(x)):
        chosen = select((state,))
        assert (chosen.name, chosen.reason) == ("native", "")


def test_forward_mode_and_transforms_of_what_the_field_closes_over_are_left_to_torch() -> None:
    reasons, y0 = [], torch.ones(2)

    def solve(rate: Tensor) -> Tensor:
        y = fastode.odeint(lambda t, y: -rate * y, y0, T, method="rk4")[-1]
        stats = fastode.last_stats()
        assert stats is not None
        reasons.append((stats.engine, stats.reason))
        return y

    torch.func.vmap(solve)(torch.tensor([1.0, 2.0]))
    torch.func.grad(lambda rate: solve(rate).sum())(torch.tensor(1.0))
    with torch.autograd.forward_ad.dual_level():
        solve(torch.autograd.forward_ad.make_dual(torch.tensor(1.0), torch.tensor(1.0)))
    assert [engine for engine, _ in reasons] == ["reference"] * 3
    assert [reason for _, reason in reasons[:2]] == ["a function transform is active"] * 2
    assert reasons[2][1] == "forward-mode differentiation is active"


def test_an_unknown_engine_lists_the_known_ones_and_the_closest() -> None:
    with pytest.raises(InvalidArgument, match=r"engine='natvie' is not known\. Did you mean 'native'\?") as caught:
        fastode.odeint(decay, torch.ones(2), T, options={"engine": "natvie"})
    assert str(caught.value).endswith(f"Known: {', '.join(ENGINES)}")


@pytest.mark.parametrize("name", LOCKSTEP)
def test_the_environment_names_an_engine_and_the_option_overrules_it(
    monkeypatch: pytest.MonkeyPatch, engine: EngineUnderTest, name: str
) -> None:
    monkeypatch.setenv("FASTODE_ENGINE", name)
    state = torch.ones(2, device=engine.device)
    assert select((torch.ones(2),)).name == name
    assert select((state,), engine.name).name == engine.name


def test_an_unknown_engine_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTODE_ENGINE", "fortran")
    with pytest.raises(InvalidArgument, match="engine='fortran' is not known"):
        fastode.odeint(decay, torch.ones(2), T)


def test_the_account_names_the_engine_that_served(engine: EngineUnderTest) -> None:
    y0, t = torch.ones(2, device=engine.device), T.to(engine.device)
    with torch.no_grad(), fastode.stats() as log:
        fastode.odeint(decay, y0, t, options={"engine": engine.name})
        fastode.odeint(decay, y0, t, method="rk4", options={"engine": engine.name})
    assert [s.engine for s in log] == [engine.name] * 2
    assert [s.reason for s in log] == ["asked for by name" if engine.name == "reference" else ""] * 2


@pytest.mark.parametrize(
    ("name", "rows", "kind"),
    [
        ("cuda", True, CudaRowsStep),
        ("native", False, NativeStep),
        ("native", True, NativeRowsStep),
        ("reference", False, TorchStep),
        ("reference", True, TorchStep),
    ],
)
def test_an_engine_binds_the_kernels_of_its_kind(name: str, rows: bool, kind: Any) -> None:
    from fastode.kernels import Binding, Engine

    step = Step("dopri5", (3, 2), torch.float64, torch.device("cpu"))
    binding = Binding(step.tableau, (step.y,), [1e-3], [1e-4], rows=3 if rows else None)  # type: ignore[arg-type]
    assert type(Engine(name, "").bind(binding)) is kind
