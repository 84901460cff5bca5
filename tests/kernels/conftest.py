"""The engines under test: each one of ``fastode.kernels.ENGINES``, so that a new engine is tested by existing."""

from __future__ import annotations

import pytest
import torch

from fastode.errors import InvalidArgument
from fastode.kernels import ENGINES, Engine, select

from .cuda_on_cpu import CudaOnCpu

#: where the tensors of an engine live, if not on a GPU
DEVICE = {"native": "cpu", "reference": "cpu"}


class EngineUnderTest(Engine):
    """An engine and its device."""

    @property
    def device(self) -> torch.device:
        return torch.device(DEVICE.get(self.name, "cuda"))


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> CudaOnCpu:
    """The CUDA kernels for CPU tensors."""
    return CudaOnCpu(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Every engine; skipped with its own reason where it cannot serve."""
    tested = EngineUnderTest(request.param, "")
    if tested.device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"{tested.name} needs a CUDA device")
    try:
        select((torch.zeros(1, device=tested.device),), tested.name)
    except InvalidArgument as error:
        pytest.skip(str(error))
    return tested


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
