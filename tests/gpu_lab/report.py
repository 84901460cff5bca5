"""What the compiler made of a kernel: registers, spills, instructions, widths of accesses, constants of float32.

The tools that read CUDA's machine code (``ptxas``, ``cuobjdump``, ``nvdisasm``) come with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton.backends import nvidia

from .constants import float32_in_float64
from .driver import stand_in

_TOOLS = Path(nvidia.__file__).parent / "bin"
_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)")
_AMDGCN = re.compile(r"^\s+((?:v|s|ds|global|buffer|flat|scratch)_\w+)", re.M)
_GLOBAL_SASS = {"LDG": "load", "LDGSTS": "load", "STG": "store"}
_GLOBAL_AMDGCN = re.compile(r"(?:global|buffer|flat)_(load|store)_(?:dwordx(\d)|(dword)|(\w+))")


@dataclass(frozen=True)
class Report:
    """One kernel, compiled for one target.

    Attributes:
        compiled: what Triton's ``warmup`` returned.
        target: 80, 90, 100 or "gfx942".
        registers: of a thread (vector registers for AMD).
        spill_stores, spill_loads: bytes of a thread that the compiler moved to memory for want of registers; for AMD,
            whose compiler only counts the registers, four bytes for each.
        stack: bytes of local memory of a thread, spills included.
        shared: bytes of shared memory of a block.
        warps: of a block.
        instructions: how often each occurs in the machine code: by its name (``FFMA``), and for accesses to memory also
            with the width (``LDG.128``).
        global_widths: how many instructions ("load" or "store", bits of a thread) access global memory.
        assembly: the machine code as text.
    """

    compiled: Any
    target: int | str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    warps: int
    instructions: Counter[str]
    global_widths: Counter[tuple[str, int]]
    assembly: str

    @property
    def ttir(self) -> str:
        """The kernel in Triton's own intermediate representation."""
        return str(self.compiled.asm["ttir"])

    @property
    def spills(self) -> bool:
        return bool(self.spill_stores or self.spill_loads)

    def widest(self, direction: str) -> int:
        """The bits of the widest access of a thread to global memory; ``direction`` is "load" or "store"."""
        return max((bits for kind, bits in self.global_widths if kind == direction), default=0)

    def float32_constants_in_float64(self) -> list[str]:
        """The lines of the TTIR where a kernel on float64 uses a constant or a scalar argument of float32."""
        return float32_in_float64(self.ttir)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {n}" for name, n in sorted(self.instructions.items()))
        return (
            f"{self.compiled.metadata.name} for {self.target}: {self.registers} registers, spills "
            f"{self.spill_stores}/{self.spill_loads} bytes, {self.shared} bytes shared, {self.warps} warps; {counts}"
        )


def compile_for(target: int | str, kernel: Any, args: Sequence[Any], grid: Sequence[int], **options: Any) -> Report:
    """Compiles ``kernel`` for ``target`` with arguments specialised as a launch does, and reads the machine code.

    Args:
        target: 80, 90, 100 or "gfx942".
        kernel: a function under ``triton.jit``.
        args: what a launch would pass; tensors may be on the CPU.
        grid: of the launch.
        options: constexprs, ``num_warps`` and other options of the compiler.

    Raises:
        ValueError: The target is not known.
        Exception: Whatever Triton raises for a kernel that does not compile.
    """
    with stand_in(target):
        compiled = kernel.warmup(*args, grid=tuple(grid), **options)
    return _of_cuda(compiled, target) if isinstance(target, int) else _of_amd(compiled, target)


def _run(tool: str, *args: str | Path) -> str:
    done = subprocess.run([_TOOLS / tool, *args], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"`{pattern}` is not in what the tools report:\n{text[:2000]}")
    return int(found[1])


def _of_cuda(compiled: Any, target: int) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        ptx.write_text(compiled.asm["ptx"])
        usage = _run("cuobjdump", "--dump-resource-usage", cubin)
        sass = _run("nvdisasm", "-c", cubin)
        architecture = re.search(r"^\.target\s+(\w+)", compiled.asm["ptx"], re.M)
        assert architecture is not None
        assembler = "ptxas-blackwell" if target >= 100 else "ptxas"
        options = [] if compiled.metadata.enable_fp_fusion else ["--fmad=false"]
        verbose = _run(assembler, "-v", *options, f"--gpu-name={architecture[1]}", ptx, "-o", Path(folder, "again"))
    instructions: Counter[str] = Counter()
    widths: Counter[tuple[str, int]] = Counter()
    for name, modifiers in _SASS.findall(sass):
        instructions[name] += 1
        # the width is a number of bits, or U8, S16 and the like; without one it is 32
        bits = next((int(b) for b in re.findall(r"\.[US]?(8|16|64|128)\b", modifiers)), 32)
        if name in ("LDG", "LDGSTS", "STG", "LDS", "STS", "LDL", "STL"):
            instructions[f"{name}.{bits}"] += 1
        if name in _GLOBAL_SASS:
            widths[_GLOBAL_SASS[name], bits] += 1
    return Report(
        compiled=compiled,
        target=target,
        registers=_number(r"REG:(\d+)", usage),
        spill_stores=_number(r"(\d+) bytes spill stores", verbose),
        spill_loads=_number(r"(\d+) bytes spill loads", verbose),
        stack=_number(r"STACK:(\d+)", usage),
        shared=int(compiled.metadata.shared),
        warps=int(compiled.metadata.num_warps),
        instructions=instructions,
        global_widths=widths,
        assembly=sass,
    )


def _of_amd(compiled: Any, target: str) -> Report:
    text = str(compiled.asm["amdgcn"])
    code = text[: text.index(".amdgpu_metadata")]
    spilled = 4 * _number(r"\.vgpr_spill_count:\s*(\d+)", text)
    instructions = Counter(_AMDGCN.findall(code))
    widths: Counter[tuple[str, int]] = Counter()
    for name, count in instructions.items():
        if found := _GLOBAL_AMDGCN.match(name):
            direction, words, word, small = found.groups()
            bits = 32 * int(words) if words else 32 if word else 8 if "byte" in small else 16
            widths[direction, bits] += count
    return Report(
        compiled=compiled,
        target=target,
        registers=_number(r"\.vgpr_count:\s*(\d+)", text),
        spill_stores=spilled,
        spill_loads=spilled,
        stack=_number(r"\.private_segment_fixed_size:\s*(\d+)", text),
        shared=int(compiled.metadata.shared),
        warps=int(compiled.metadata.num_warps),
        instructions=instructions,
        global_widths=widths,
        assembly=code,
    )
