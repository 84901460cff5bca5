"""``fastode info``."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.table import Table

from .common import console


def info() -> int:
    """Show versions, engines, instruction set and threads."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts():
        table.add_row(name, value)
    console.print(table)
    return 0


def facts() -> list[tuple[str, str]]:
    """Names and values; a part that is missing says so."""
    return [
        ("fastode", _version("torch-fastode")),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", _version("torch")),
        ("numpy", _version("numpy")),
        ("triton", _version("triton")),
        ("native engine (CPU)", _native("fastode._native", "target")),
        ("CUDA module", _native("fastode._native_cuda", None)),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none visible to torch"),
        ("threads", str(torch.get_num_threads())),
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _native(module: str, describe: str | None) -> str:
    try:
        loaded = import_module(module)
    except ImportError as error:
        return f"not available ({error})"
    return f"instruction set {getattr(loaded, describe)()}" if describe else "built; no solve uses it yet"
