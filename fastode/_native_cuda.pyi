"""Compiled CUDA kernels. Addresses are of device memory; `stream` is `torch.cuda.Stream.cuda_stream`."""

from collections.abc import Sequence

def device_status() -> str:
    """Why the current device cannot run these kernels, or an empty string."""

def start_rows(rows: int, arrays: Sequence[int], limits: Sequence[float], max_steps: int, stream: int) -> None: ...
def control_rows(rows: int, arrays: Sequence[int], limits: Sequence[float], max_steps: int, stream: int) -> None: ...
def finish_rows(
    itemsize: int,
    rows: int,
    cols: int,
    slopes: Sequence[int],
    state: Sequence[float],
    error: Sequence[float],
    dt: int,
    y: int,
    y1: int,
    rtol: float,
    atol: float,
    rtol_array: int,
    atol_array: int,
    err: int,
    join: bool,
    stream: int,
) -> None: ...
def interpolate_rows(
    itemsize: int,
    rows: int,
    cols: int,
    slopes: Sequence[int],
    mid: Sequence[float],
    x: int,
    dt: int,
    y: int,
    y1: int,
    out: int,
    stream: int,
) -> None: ...
