"""Reading tables from ``.npy``, ``.npz``, ``.csv`` or ``.parquet``, and refusing what cannot be fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
MIN_ROWS = 20


def read_table(path: Path) -> tuple[NDArray[np.float64], list[str]]:
    """The rows of a file as ``[N, D]`` float64, and the names of its columns.

    ``.npz``: its only array, or the one called ``x`` or ``data``. ``.csv``: a first row with words is
    the header.

    Raises:
        InvalidArgument: no such file, an unknown format, or content that is not a finite ``[N, D]`` table.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(
            f"{path}: files of type {path.suffix or '(none)'} cannot be read; allowed are {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise InvalidArgument(f"{path}: there is no such file")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    values, names = readers[path.suffix.lower()](path)
    return check_table(values, str(path)), names or [f"x{i}" for i in range(1, values.shape[-1] + 1)]


def check_table(values: NDArray[np.generic], source: str) -> NDArray[np.float64]:
    """``values`` as ``[N, D]`` float64 that a density can be fitted to.

    Raises:
        InvalidArgument: wrong shape or type, NaN or infinity, too few rows, or a constant column.
    """
    if values.ndim != 2 or values.shape[1] < 2:
        raise InvalidArgument(
            f"{source}: the array has shape {values.shape}; it must be a table [rows, columns] with at "
            "least 2 columns; reshape it first"
        )
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise InvalidArgument(f"{source}: the values have type {values.dtype}; they must be real numbers")
    table = values.astype(np.float64)
    bad = int((~np.isfinite(table)).any(1).sum())
    if bad:
        raise InvalidArgument(
            f"{source}: {bad} of {len(table)} rows contain NaN or infinity; every value must be finite: "
            "drop or fill these rows first"
        )
    if len(table) < MIN_ROWS:
        raise InvalidArgument(
            f"{source}: {len(table)} rows are too few to split into three; at least {MIN_ROWS} are needed"
        )
    constant = [str(i + 1) for i in np.flatnonzero(np.ptp(table, axis=0) == 0)]
    if constant:
        raise InvalidArgument(
            f"{source}: column {', '.join(constant)} (counted from 1) holds one value only and has no "
            "density; drop it first"
        )
    return table


def _read_npy(path: Path) -> tuple[NDArray[np.generic], list[str]]:
    if is_zipfile(path):
        raise InvalidArgument(f"{path}: it is an archive of arrays; call it {path.stem}.npz")
    return _load(path), []


def _read_npz(path: Path) -> tuple[NDArray[np.generic], list[str]]:
    if not is_zipfile(path):
        raise InvalidArgument(f"{path}: it cannot be read as an archive of numpy arrays")
    with _load(path) as archive:
        return _member(archive, path), []


def _member(archive: Any, path: Path) -> NDArray[np.generic]:
    keys = list(archive)
    wanted = keys if len(keys) == 1 else [k for k in ("x", "data") if k in keys]
    if not wanted:
        raise InvalidArgument(
            f"{path}: it holds the arrays {', '.join(keys) or '(none)'}; name the one to use `x` or `data`, "
            "or keep only it"
        )
    try:
        values: NDArray[np.generic] = archive[wanted[0]]
        return values
    except ValueError as error:
        raise InvalidArgument(f"{path}: array {wanted[0]!r} cannot be read: {_one_line(error)}") from None


def _load(path: Path) -> Any:
    try:
        # never unpickle: a data file must not run code
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        why = "it is none, or holds pickled objects" if "pickle" in str(error) else _one_line(error)
        raise InvalidArgument(f"{path}: it cannot be read as a numpy array: {why}") from None


def _read_csv(path: Path) -> tuple[NDArray[np.generic], list[str]]:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    try:
        first = pd.read_csv(path, nrows=1, header=None)
        header = 0 if any(isinstance(v, str) for v in first.iloc[0]) else None
        frame = pd.read_csv(path, header=header)
    except (ValueError, OSError) as error:
        raise InvalidArgument(f"{path}: it cannot be read as CSV: {_one_line(error)}") from None
    return _numbers(frame, path), [] if header is None else [str(c) for c in frame.columns]


def _read_parquet(path: Path) -> tuple[NDArray[np.generic], list[str]]:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise InvalidArgument(f"{path}: it cannot be read as Parquet: {_one_line(error)}") from None
    return _numbers(frame, path), [str(c) for c in frame.columns]


def _numbers(frame: Any, path: Path) -> NDArray[np.generic]:
    text = [str(c) for c in frame.columns if frame[c].dtype.kind not in "biuf"]
    if text:
        raise InvalidArgument(
            f"{path}: column {', '.join(text)} holds text; every column must be numbers: drop or encode it first"
        )
    values: NDArray[np.generic] = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
