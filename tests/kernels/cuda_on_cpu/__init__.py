"""The module of the CUDA kernels built for the CPU from its own sources; ``cuda_runtime.h`` here stands for CUDA."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from repository import ROOT

SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
#: in which order threads, warps and blocks run
ORDERS = {"forwards": 0, "backwards": 1, "shuffled": 7}


def compiler() -> str:
    """The C++ compiler; skips where there is none, or no sources."""
    if not SOURCES:
        pytest.skip("the CUDA sources are not here")
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler on PATH")
    return found


class CudaOnCpu:
    """``fastode._native_cuda`` for CPU tensors, and how its threads run.

    Args:
        folder: where it is built. CXXFLAGS has further flags for the compiler.
    """

    module: ModuleType

    def __init__(self, folder: Path) -> None:
        pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
        target = folder / "_native_cuda.so"
        includes = [f"-I{path}" for path in (ROOT / "csrc/include", Path(__file__).parent)]
        includes += [f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC"]
        flags += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *shlex.split(os.environ.get("CXXFLAGS", ""))]
        sources = [*map(str, SOURCES), str(ROOT / "csrc/bindings/cuda_module.cpp")]
        command = [compiler(), *flags, *includes, "-x", "c++", *sources, "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        spec = importlib.util.spec_from_file_location("_native_cuda", target)
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self._library = ctypes.CDLL(str(target))

    def order(self, name: str) -> None:
        """One of ``ORDERS``."""
        self._library.cuda_on_cpu_order(ORDERS[name])

    def barriers(self, work: bool) -> None:
        """False makes barriers of blocks do nothing."""
        self._library.cuda_on_cpu_barriers(ctypes.c_bool(work))
