"""What machine something ran on: its facts for captions, reports and lines of JSON."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import fastode

#: one-minute load above which a measurement on this machine is not to be trusted
QUIET_LOAD = 0.3
#: whose versions are reported where they are installed
PACKAGES = ("torch", "triton", "torchdiffeq", "torchode", "diffrax", "jax")


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine, the device and the versions, for the table's caption and every JSON line."""
    try:
        from fastode import _native

        target = _native.target()
    except ImportError:
        target = "none (not built)"
    return {
        "device": _gpu() if device == "cuda" else "",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
        "cpu": _cpu_model(),
        "instruction_set": target,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
        "fastode": fastode.__version__,
        "commit": commit(Path(__file__).resolve().parents[1]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": round(load_average(), 2),
    }


def load_average() -> float:
    """The one-minute load, or NaN where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _gpu() -> str:
    """What the GPU is, and what drives it."""
    facts = torch.cuda.get_device_properties(0)
    kind = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    driver = Path("/sys/module/nvidia/version")
    if driver.exists():
        kind += f", driver {driver.read_text().strip()}"
    memory = f"{facts.total_memory / 2**30:.0f} GiB"
    return (
        f"{facts.name} ({facts.major}.{facts.minor}, {facts.multi_processor_count} multiprocessors, {memory}, {kind})"
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(root: Path) -> str:
    """The commit that is checked out, read from the repository's files; ``"unknown"`` without one."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).exists():
            return (git / ref).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(f" {ref}"):
                return line.split()[0]
    except OSError:
        pass
    return "unknown"
