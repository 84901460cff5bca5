"""The engines under test: each one of ``fastode.kernels.ENGINES``, so that a new engine is tested by existing."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import fastode.kernels.cuda
from fastode.errors import InvalidArgument
from fastode.kernels import ENGINES, Engine, select
from fastode.kernels.cuda import launch

from .cuda_on_cpu import CudaOnCpu

#: what also serves solves with one step size
LOCKSTEP = tuple(name for name in ENGINES if name not in ("cuda", "triton"))
#: where the tensors of an engine live: "cuda" is a GPU, "cuda-on-cpu" the same source on the CPU
ON_GPU = pytest.param("cuda", marks=pytest.mark.gpu)
#: the kernels of stages for loops of the host; ``tests/gpu`` has the other Triton kernels
TRITON = pytest.param("triton", marks=pytest.mark.gpu)


class EngineUnderTest(Engine):
    """An engine and its device."""

    def __init__(self, name: str, device: str) -> None:
        super().__init__(name, "", on_device=name == "triton")
        self.device = torch.device(device)


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> CudaOnCpu:
    """The CUDA kernels for CPU tensors."""
    return CudaOnCpu(tmp_path_factory.mktemp("cuda"))


def _engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    name = request.param
    if name == "cuda-on-cpu":
        monkeypatch = request.getfixturevalue("monkeypatch")
        kernels = request.getfixturevalue("cuda_on_cpu")
        kernels.order("shuffled")
        monkeypatch.setattr(launch, "native", kernels.module)
        monkeypatch.setattr(launch, "stream_on", lambda device: nullcontext(0))
        monkeypatch.setattr(fastode.kernels.cuda, "unavailable", lambda parts, rows: "")
        return EngineUnderTest("cuda", "cpu")
    if name in ("cuda", "triton") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tested = EngineUnderTest(name, "cuda" if name in ("cuda", "triton") else "cpu")
    try:
        select((torch.zeros(1, device=tested.device),), name, rows=name == "cuda")
    except InvalidArgument as error:
        pytest.skip(str(error))
    return tested


@pytest.fixture(params=[*LOCKSTEP, TRITON])
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Every engine of solves with one step size; skipped with its own reason where it cannot serve."""
    return _engine(request)


@pytest.fixture(params=[*LOCKSTEP, "cuda-on-cpu", ON_GPU])
def rows_engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Every engine of solves whose rows have a step size each."""
    return _engine(request)


@pytest.fixture(params=["cuda-on-cpu", ON_GPU])
def cuda_engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """The CUDA engine."""
    return _engine(request)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
