"""fastode: ordinary differential equations in PyTorch, on compiled kernels.

    from fastode import odeint                      # torchdiffeq's surface, the same numbers, less overhead
    y = odeint(func, y0, t)                         # func(t, y) -> dy/dt

See :func:`odeint`, :func:`odeint_adjoint`, :func:`odeint_event`, :func:`odeint_dense`; :mod:`fastode.nn` for layers.
"""

from importlib.metadata import PackageNotFoundError, version

from ._odeint import odeint, odeint_adjoint, odeint_dense, odeint_event
from ._solve import solve
from .compat import patch_torchdiffeq, unpatch_torchdiffeq
from .compiler.compiled import CompiledField, compile
from .compiler.explain import explain
from .errors import (
    CannotCompile,
    FieldError,
    InvalidArgument,
    NonFiniteState,
    SolverError,
    StepSizeUnderflow,
    TooManySteps,
    UnsupportedInput,
)
from .perturb import Perturb
from .rows.events import Event
from .rows.solution import RowStats, Solution, Status
from .stats import SolveStats, StatsLog, last_stats, stats

try:
    __version__ = version("torch-fastode")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.1.0"

__all__ = [
    "CannotCompile",
    "CompiledField",
    "Event",
    "FieldError",
    "InvalidArgument",
    "NonFiniteState",
    "Perturb",
    "RowStats",
    "Solution",
    "SolveStats",
    "SolverError",
    "StatsLog",
    "Status",
    "StepSizeUnderflow",
    "TooManySteps",
    "UnsupportedInput",
    "__version__",
    "compile",
    "explain",
    "last_stats",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "patch_torchdiffeq",
    "solve",
    "stats",
    "unpatch_torchdiffeq",
]
