"""Compiled CPU kernels. Addresses (`tensor.data_ptr()`) are of contiguous memory kept alive by the caller."""

from collections.abc import Sequence
from typing import Any

def target() -> str: ...
def targets() -> list[str]: ...
def select_target(name: str) -> None: ...

class Tableau:
    def __init__(
        self,
        c: Sequence[float],
        a: Sequence[Sequence[float]],
        b: Sequence[float],
        b_error: Sequence[float],
        mid: Sequence[float],
    ) -> None: ...

class Step:
    def __init__(self, itemsize: int, rows: int, cols: int, tableau: Tableau, threads: int, lanes: int = 0) -> None: ...
    def tolerance(self, rtol: float, atol: float) -> None: ...
    def tolerance_arrays(self, rtol: int, atol: int) -> None: ...
    def times(self, t0: float, dt: float, t1: float, out: int) -> None: ...
    def times_rows(self, t0: int, dt: int, t1: int, out: int) -> None: ...
    def begin(self, y: int) -> None: ...
    def slope(self, j: int, k: int) -> None: ...
    def stage(self, i: int, dt: float, k: int, out: int) -> None: ...
    def finish(self, dt: float, k: int, y1: int, write: bool) -> float: ...
    def mean_square(self, dt: float, k: int, y1: int, write: bool) -> float: ...
    def mean_square_of(self, y: int, plus: int, minus: int) -> float: ...
    def max_error(self, dt: float, k: int, y1: int, write: bool) -> float: ...
    def scaled_error(self, dt: float, k: int, y1: int, write: bool, out: int) -> None: ...
    def interpolate(self, x: float, dt: float, y1: int, out: int) -> None: ...
    def stage_rows(self, i: int, dt: int, k: int, out: int) -> None: ...
    def finish_rows(self, dt: int, k: int, y1: int, write: bool, err: int) -> None: ...
    def scaled_error_rows(self, dt: int, k: int, y1: int, write: bool, out: int) -> None: ...
    def interpolate_rows(self, x: int, dt: int, y1: int, out: int) -> None: ...

def combine(
    itemsize: int, n: int, out: int, base: int, vectors: Sequence[int], weights: Sequence[float], threads: int
) -> None: ...
def control(
    err: float,
    dt: float,
    order: float,
    safety: float,
    factor_min: float,
    factor_max: float,
    dt_min: float,
    dt_max: float,
) -> tuple[bool, float]: ...
def power(x: float, e: float) -> float: ...
def environment(name: str) -> str | None: ...
def status_messages() -> dict[int, tuple[str, str]]: ...

class RowControl:
    def __init__(
        self, rows: int, arrays: Sequence[int], limits: Sequence[float], max_steps: int, outputs: int
    ) -> None: ...
    def start(self) -> None: ...
    def control(self) -> tuple[int, int, int]: ...
    def select(self, size: int, new_rows: int, old_rows: int, out: int) -> None: ...

class FieldProgram:
    def __init__(self, description: dict[str, object]) -> None: ...

class FieldMethod:
    def __init__(
        self,
        c: Sequence[float],
        a: Sequence[Sequence[float]],
        b: Sequence[float],
        error: Sequence[float],
        mid: Sequence[float],
        ends_with_slope: bool,
    ) -> None: ...

class FieldSteps:
    def __init__(
        self,
        rtol: Sequence[float],
        atol: Sequence[float],
        limits: tuple[float, float, float, float, float, float],
        first_step: float,
        max_steps: float,
        max_total_steps: float,
        parts: Sequence[int],
        stops: Sequence[float],
    ) -> None: ...

class FieldWatch:
    def __init__(
        self,
        same: list[tuple[dict[str, Any], str, Any]],
        absent: list[tuple[dict[str, Any], str]],
        sizes: list[tuple[dict[str, Any], int]],
        tensors: list[tuple[Any, Any, Any]],
        dtype: Any,
    ) -> None: ...
    def tensors(self) -> list[Any] | None: ...

class FieldRecord:
    @property
    def steps(self) -> int: ...
    @property
    def states(self) -> int: ...
    @property
    def product_bytes(self) -> int: ...
    @property
    def ends(self) -> list[float]: ...
    def take_pieces(self, out: int) -> None: ...

class FieldRowRecord:
    @property
    def states(self) -> int: ...
    def take_pieces(self, t: int, dt: int, out: int) -> None: ...

#: outcome, evaluations, accepted and rejected steps, time reached, next step
Account = tuple[int, int, int, int, float, float]

class FieldCall:
    def __init__(
        self,
        program: FieldProgram,
        method: FieldMethod,
        itemsize: int,
        rows: int,
        features: int,
        constants: Sequence[int],
        arguments: Sequence[int],
        threads: int,
        time_is_float32: bool,
    ) -> None: ...
    def adaptive(
        self,
        y0: int,
        times: Sequence[float],
        steps: FieldSteps,
        out: int,
        most_states: int,
        memory: int,
        shares_memory: bool,
        dense: bool,
    ) -> tuple[Account, FieldRecord | None]: ...
    def grid(
        self,
        y0: int,
        points: Sequence[float],
        output_step: Sequence[int],
        output_x: Sequence[float],
        output_power: Sequence[int],
        out: int,
        most_states: int,
        memory: int,
        shares_memory: bool,
    ) -> tuple[Account, FieldRecord | None]: ...
    def sweep(
        self,
        record: FieldRecord,
        grad_out: int,
        grad_y0: int,
        grad_arguments: Sequence[int],
        grad_constants: Sequence[int],
        grad_points: int,
        grad_x: int,
    ) -> Account: ...
    def rows(
        self,
        arrays: Sequence[int],
        limits: Sequence[float],
        max_steps: int,
        choose_first: bool,
        y: int,
        tolerances: tuple[int, int],
        strides: tuple[int, int],
        parts: Sequence[int],
        outputs: tuple[int, int, int],
        count: int,
        most_states: int,
        dense: bool,
    ) -> FieldRowRecord | None: ...
    def sweep_rows(
        self,
        record: FieldRowRecord,
        y: int,
        t_last: int,
        grad_out: int,
        count: int,
        grad_pieces: int,
        grad_y: int,
        grad_arguments: Sequence[int],
        grad_constants: Sequence[int],
    ) -> None: ...
