"""A stand-in for Triton's active driver, so that kernels compile for a target that this machine need not have.

``kernel.warmup(*args, grid=..., **constexprs)`` asks the active driver for the target and then specialises its
arguments as a launch does: by dtype, by divisibility by 16 (pointers are those of CPU tensors) and by the value 1. Only
loading and launching machine code need a device; the stand-in refuses both unless it was given something that launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

SHARED_BYTES_OF_A_BLOCK = {80: 166_912, 90: 232_448, 100: 232_448, "gfx942": 65_536}
"""The most shared memory a block may ask for: 163 and 227 KiB (CUDA C++ Programming Guide, "Compute Capabilities"), and
the local data share of CDNA 3 (AMD Instinct MI300 ISA, section 2)."""


class Launch(Protocol):
    """What a stand-in calls instead of a device: the compiled kernel's source and metadata, the grid, all arguments."""

    def __call__(self, source: Any, metadata: Any, grid: tuple[int, int, int], args: Sequence[Any], /) -> None: ...


def gpu_target(target: int | str) -> GPUTarget:
    """The target of a compute capability (80, 90, 100) or an AMD architecture ("gfx942").

    Raises:
        ValueError: The target is none of these.
    """
    if target not in SHARED_BYTES_OF_A_BLOCK:
        raise ValueError(f"`target={target!r}` is not known. Known: {', '.join(map(repr, SHARED_BYTES_OF_A_BLOCK))}.")
    return GPUTarget("cuda", target, 32) if isinstance(target, int) else GPUTarget("hip", target, 64)


class StandInDriver(DriverBase):  # type: ignore[misc]
    """Answers Triton's questions about a device; ``launch`` is called where a device would run a kernel."""

    def __init__(self, target: int | str, launch: Launch | None = None) -> None:
        super().__init__()
        self.target = gpu_target(target)
        self.launch = launch
        self.utils = SimpleNamespace(load_binary=self._load_binary, get_device_properties=self._properties)
        self.launcher_cls = Launcher

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        """A key of the target's own: Triton keeps what it compiled under the key of the device."""
        return f"stand-in for {self.target.backend} {self.target.arch}"

    def set_current_device(self, device: str) -> None:
        if device != self.get_current_device():
            raise ValueError(f"`device={device!r}` does not exist here. The only one is {self.get_current_device()!r}.")

    def get_current_stream(self, device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_capability(self, device: object = None) -> tuple[int, int]:
        if not isinstance(self.target.arch, int):
            raise ValueError(f"{self.target.arch} has no compute capability; only CUDA targets do.")
        return divmod(self.target.arch, 10)

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(f"a stand-in driver builds no launcher in C++, so {ty!r} has no C++ type")

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """Autotuning without a clock: each configuration runs once and they are all as good, so the first is taken."""

        def run_once(kernel_call: Callable[[], object], *, quantiles: Sequence[float], **_: object) -> list[float]:
            kernel_call()
            return [1.0 for _ in quantiles]

        return run_once

    def _properties(self, device: object) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES_OF_A_BLOCK[self.target.arch], "warpSize": self.target.warp_size}

    def _load_binary(self, name: str, binary: bytes, shared_bytes: int, device: object) -> tuple[Any, ...]:
        registers, spills, most_threads = 0, 0, 1024
        return self, name, registers, spills, most_threads


class Launcher:
    """Triton makes one for each compiled kernel and calls it with the grid and all arguments, constexprs included."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.source, self.metadata = source, metadata

    def __call__(self, x: int, y: int, z: int, stream: int, function: str, packed: Any, *rest: Any) -> None:
        launch_metadata, enter, leave, *args = rest
        active = triton.runtime.driver.active
        if not isinstance(active, StandInDriver) or active.target != self.metadata.target:
            raise RuntimeError(f"kernel {function!r} was loaded by a stand-in driver that is no longer the active one")
        if active.launch is None:
            raise RuntimeError(
                f"kernel {function!r} cannot be launched: the stand-in driver only compiles. Use warmup()."
            )
        if enter is not None:
            enter(launch_metadata)
        active.launch(self.source, self.metadata, (x, y, z), args)
        if leave is not None:
            leave(launch_metadata)


@contextmanager
def stand_in(target: int | str, launch: Launch | None = None) -> Iterator[StandInDriver]:
    """Makes a :class:`StandInDriver` the active driver within the ``with`` block, and restores the one before."""
    config = triton.runtime.driver
    # read the attribute and not the property, which would look for a real driver and fail where there is none
    before = config._active
    driver = StandInDriver(target, launch)
    config.set_active(driver)
    try:
        yield driver
    finally:
        config._active = before
