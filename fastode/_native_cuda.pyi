"""Compiled CUDA kernels. Addresses are of device memory; `stream` is `torch.cuda.Stream.cuda_stream`."""

from collections.abc import Sequence

def device_count() -> int: ...
def driver_status() -> str: ...
def control_rows(
    rows: int,
    t: int,
    dt: int,
    err: int,
    t_end: int,
    accept: int,
    status: int,
    n_accepted: int,
    n_rejected: int,
    order: float,
    safety: float,
    factor_min: float,
    factor_max: float,
    dt_min: float,
    dt_max: float,
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
