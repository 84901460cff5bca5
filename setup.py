"""Builds the two extension modules; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup
from setuptools.errors import ExecError, SetupError

# No -ffast-math: NaN and infinity must survive. No contraction: every instruction set gives the same bits.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
INCLUDE = ["csrc/include"]
CUDA_MODULE = "csrc/bindings/cuda_module.cpp"
HEADERS = [file for end in ("h", "inl", "def") for file in glob(f"csrc/**/*.{end}", recursive=True)]

native = Pybind11Extension(
    "fastode._native",
    sorted(file for folder in ("cpu", "field") for file in glob(f"csrc/{folder}/**/*.cpp", recursive=True))
    + sorted(set(glob("csrc/bindings/*.cpp")) - {CUDA_MODULE}),
    depends=HEADERS,
    include_dirs=INCLUDE,
    extra_compile_args=[*FLAGS, "-pthread"],
    extra_link_args=["-pthread"],
    cxx_std=20,
)


def cuda_wanted() -> str:
    """Returns FASTODE_CUDA: 1 builds the CUDA module or fails, 0 leaves it out, auto builds it if it can."""
    value = os.environ.get("FASTODE_CUDA", "auto")
    if value not in ("auto", "0", "1"):
        raise SetupError(f"FASTODE_CUDA={value!r} is not known; allowed are auto, 0 and 1")
    if value == "1" and shutil.which("nvcc") is None:
        raise SetupError("FASTODE_CUDA=1, but nvcc is not on PATH; add the CUDA toolkit's bin folder to it")
    return value if shutil.which("nvcc") else "0"


def cuda_architectures(nvcc: str) -> list[str]:
    """Returns the compute capabilities in FASTODE_CUDA_ARCHS="80;90", or those of 80, 90, 100 nvcc knows."""
    if chosen := os.environ.get("FASTODE_CUDA_ARCHS"):
        return chosen.replace(",", ";").replace(".", "").split(";")
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    return [arch for arch in ("80", "90", "100") if f"compute_{arch}" in known]


class BuildExt(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if ext.name != "fastode._native_cuda":
            super().build_extension(ext)
            return
        nvcc = shutil.which("nvcc")
        assert nvcc is not None
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        includes = [*INCLUDE, pybind11.get_include(), sysconfig.get_path("include")]
        # The newest architecture also as PTX, which later GPUs translate when the module is loaded.
        archs = cuda_architectures(nvcc)
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        codes += [f"-gencode=arch=compute_{a},code=compute_{a}" for a in archs[-1:]]
        flags = ["-shared", "-std=c++17", "-O3", "-fmad=false", "-cudart=static", "--threads=2"]
        host = "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off,-g0"
        command = [nvcc, *flags, host, *codes, *(f"-I{path}" for path in includes), "-o", str(output)]
        try:
            self.spawn([*command, *ext.sources])
        except Exception as error:
            advice = "FASTODE_CUDA=0 builds without it, FASTODE_CUDA_ARCHS chooses architectures"
            raise ExecError(f"nvcc failed, so {ext.name} is not built ({advice}): {error}") from error


extensions: list[Extension] = [native]
if (wanted := cuda_wanted()) != "0":
    sources = [*sorted(glob("csrc/cuda/*.cu")), CUDA_MODULE]
    # optional: a failure is reported as a warning and the build goes on.
    optional = wanted == "auto"
    extensions.append(Extension("fastode._native_cuda", sources, depends=HEADERS, optional=optional))

ParallelCompile("FASTODE_BUILD_JOBS", default=os.cpu_count() or 1).install()
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt})
