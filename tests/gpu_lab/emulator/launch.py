"""Launching: what to pass, in which order blocks run, and the front door of Triton with the emulator behind it."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from triton.runtime.cache import get_cache_manager

from ..driver import stand_in
from .control import Block
from .flatten import flatten
from .machine import Machine, dtype_of
from .parse import parse
from .program import Variable
from .races import Races

Order = Literal["forward", "reverse"]
MOST_INSTRUCTIONS = 20_000_000
"""Of a block, before it is taken to be in an endless loop; about half a minute."""


@dataclass
class Statistics:
    """What launches did, summed.

    Attributes:
        launches: how many kernels were launched.
        blocks: how many blocks they had.
        instructions: how many instructions were executed, each counted once for the threads that execute it together.
        global_bytes_loaded: from tensors and tables, once for what the threads of a block load in one instruction from
            one place; no cache is modelled.
        global_bytes_stored: by all threads.
    """

    launches: int = 0
    blocks: int = 0
    instructions: int = 0
    global_bytes_loaded: int = 0
    global_bytes_stored: int = 0


@lru_cache(maxsize=64)
def _prepared(ptx: str, threads: int | None, shared_bytes: int) -> Block:
    """The kernel ready to run; kept, because building it costs as much as several launches of it."""
    with _without_collector():
        return _build(ptx, threads, shared_bytes)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Many small objects are made and all kept: the search of the collector among them took half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _build(ptx: str, threads: int | None, shared_bytes: int) -> Block:
    module = parse(ptx)
    code = flatten(module)
    threads = threads or code.threads
    if threads is None or threads % 32 or not 32 <= threads <= 1024:
        raise ValueError(f"blocks of {threads} threads; allowed are 32, 64, ..., 1024. Pass `num_warps`.")
    if code.threads is not None and threads != code.threads:
        raise ValueError(f"`num_warps={threads // 32}` for a kernel that was compiled for {code.threads // 32} warps.")
    return Block(Machine(module, code, threads, shared_bytes))


def emulate(
    kernel: Any,
    grid: Sequence[int],
    args: Sequence[Any],
    shared_bytes: int | None = None,
    num_warps: int | None = None,
    *,
    order: Order = "forward",
    races: bool = False,
    most_instructions: int = MOST_INSTRUCTIONS,
) -> Statistics:
    """Launches a kernel: tensors among ``args`` are changed in place.

    Args:
        kernel: PTX text, or what Triton's ``warmup`` returns.
        grid: one to three numbers of blocks.
        args: CPU tensors for pointers (None: the null pointer), ints and floats for scalars, in the order of the
            kernel's parameters. Constexprs have none, nor has an argument that was specialised to the value 1. Pointers
            to scratch memory, which Triton appends, are passed by the emulator.
        shared_bytes: of dynamic shared memory for a block; known for a compiled kernel.
        num_warps: of a block; known for a compiled kernel and where the PTX says ``.reqntid``.
        order: ``forward`` runs the blocks in ascending order, ``reverse`` the other way round.
        races: also fail where the order of accesses to global memory is left open; see :mod:`.races`.
        most_instructions: of a block, before it is taken to be in an endless loop.

    Returns:
        What the launch did.

    Raises:
        EmulationFault: The kernel does what it must not; the message names the line of the PTX.
        NotImplementedError: The kernel has an instruction that the emulator does not know.
        ValueError, TypeError: The arguments do not fit the kernel's parameters.
    """
    if isinstance(kernel, str):
        return _launch(kernel, grid, args, shared_bytes, num_warps, 0, order, races, most_instructions)
    metadata = kernel.metadata
    shared_bytes = metadata.shared if shared_bytes is None else shared_bytes
    num_warps = metadata.num_warps if num_warps is None else num_warps
    scratch_bytes = metadata.global_scratch_size
    return _launch(
        kernel.asm["ptx"], grid, args, shared_bytes, num_warps, scratch_bytes, order, races, most_instructions
    )


def _launch(
    ptx: str,
    grid: Sequence[int],
    args: Sequence[Any],
    shared_bytes: int | None,
    num_warps: int | None,
    scratch_bytes: int,
    order: Order,
    races: bool,
    most_instructions: int,
) -> Statistics:
    if order not in ("forward", "reverse"):
        raise ValueError(f"`order={order!r}` is not known. Known: 'forward', 'reverse'.")
    if not 1 <= len(grid) <= 3 or min(grid) < 0:
        raise ValueError(f"`grid={tuple(grid)}` must be one to three numbers of blocks.")
    x, y, z = (*grid, 1, 1)[:3]
    block = _prepared(ptx, None if num_warps is None else 32 * num_warps, shared_bytes or 0)
    machine = block.machine
    blocks = [index[::-1] for index in product(range(z), range(y), range(x))]
    _pass_arguments(machine, args, scratch_bytes * len(blocks))
    machine.races = Races(machine.global_, machine.threads) if races else None
    before = block.executed
    memory = machine.global_
    try:
        with np.errstate(all="ignore"):
            for index in blocks if order == "forward" else reversed(blocks):
                machine.start_block(index, (x, y, z))
                block.run(most_instructions)
        return Statistics(1, len(blocks), block.executed - before, memory.loaded, memory.stored)
    finally:
        memory.forget_tensors(machine.tables)


def _pass_arguments(machine: Machine, args: Sequence[Any], scratch_bytes: int) -> None:
    """Binds tensors and writes the bytes of the parameters."""
    parameters = machine.code.parameters
    extra = len(parameters) - len(args)
    if not 0 <= extra <= 2 or any(p.type != "u64" for p in parameters[len(args) :]):
        raise ValueError(
            f"{len(args)} arguments for kernel `{machine.code.name}`, whose parameters are "
            f"{', '.join(p.type for p in parameters)} (up to two pointers to scratch memory at the end are not yours)."
        )
    machine.global_.forget_tensors(machine.tables)
    scratch: list[torch.Tensor | None] = [None, None]
    if scratch_bytes:
        scratch[0] = torch.full((scratch_bytes,), 255, dtype=torch.uint8)
    for position, (parameter, value) in enumerate(zip(parameters, (*args, *scratch[:extra]), strict=True)):
        begin = machine.parameter_offsets[parameter.name]
        content = _bytes_of(machine, parameter, value, f"argument {position}")
        machine.parameters[begin : begin + parameter.size] = content


def _bytes_of(machine: Machine, parameter: Variable, value: Any, label: str) -> np.ndarray:
    if parameter.size not in (1, 2, 4, 8) or parameter.type[0] == "b":
        raise NotImplementedError(f"{label} is passed as {parameter.size} bytes of type `.{parameter.type}`")
    if isinstance(value, torch.Tensor) or value is None:
        if parameter.type != "u64":
            raise TypeError(f"{label} is {type(value).__name__}; the kernel expects a scalar `.{parameter.type}`.")
        value = 0 if value is None else machine.global_.bind(label, value)
    if isinstance(value, bool | int) and parameter.type[0] in "us":
        bits = int(value) & ((1 << 8 * parameter.size) - 1)
        return np.array([bits], f"u{parameter.size}").view(np.uint8)
    if isinstance(value, bool | int | float) and parameter.type[0] == "f":
        return np.array([value], dtype_of(parameter.type)).view(np.uint8)
    raise TypeError(f"{label} is {value!r}; the kernel expects `.{parameter.type}`.")


@contextmanager
def emulated_gpu(
    target: int = 80, order: Order = "forward", races: bool = False, most_instructions: int = MOST_INSTRUCTIONS
) -> Iterator[Statistics]:
    """Within the ``with`` block, ``kernel[grid](...)`` on CPU tensors compiles for ``target`` and is emulated.

    Kernels that were kept (what ``warmup`` or a launch returned) launch as well. Yields the sum of what launches do.

    Raises:
        ValueError: ``target`` is not a CUDA target.
    """
    total = Statistics()

    def launch(source: Any, metadata: Any, grid: tuple[int, int, int], args: Sequence[Any]) -> None:
        passed = list(_passed(list(source.signature.values()), args))
        scratch_bytes = metadata.global_scratch_size
        ptx = _kept_ptx(metadata.hash, metadata.name)
        done = _launch(
            ptx, grid, passed, metadata.shared, metadata.num_warps, scratch_bytes, order, races, most_instructions
        )
        for name, value in vars(done).items():
            setattr(total, name, getattr(total, name) + value)

    if not isinstance(target, int):
        raise ValueError(f"`target={target!r}` has no PTX; the emulator takes 80 (and the common part of 90 and 100).")
    with stand_in(target, launch):
        yield total


@lru_cache(maxsize=256)
def _kept_ptx(key: str, name: str) -> str:
    """The PTX in Triton's cache, where the compiler put it under the ``key`` that the kernel's metadata has."""
    path = get_cache_manager(key).get_file(f"{name[:150]}.ptx")
    if path is None:
        raise RuntimeError(f"the PTX of kernel {name!r} is no longer in Triton's cache")
    with open(path) as file:
        return file.read()


def emulated_launch(
    kernel: Any,
    grid: Sequence[int],
    *args: Any,
    target: int = 80,
    order: Order = "forward",
    races: bool = False,
    **constexprs: Any,
) -> Statistics:
    """Compiles a Triton kernel as a launch does, and emulates the launch: ``kernel[grid](*args, **constexprs)``."""
    with emulated_gpu(target, order, races) as total:
        kernel[tuple(grid)](*args, **constexprs)
    return total


def _passed(signature: Sequence[Any], args: Sequence[Any]) -> Iterator[Any]:
    """The arguments that are parameters of the compiled kernel: no constexprs, tuples by their elements."""
    for type_, value in zip(signature, args, strict=True):
        if isinstance(type_, tuple | list):
            yield from _passed(type_, value)
        elif type_ != "constexpr":
            yield float(value) if type_ in ("fp32", "fp64") else value
