"""An initial value problem, checked and normalised once, as the loops and gradients want it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InvalidArgument, NonFiniteState, UnsupportedInput
from .field import Field
from .kernels.binding import Binding
from .kernels.norms import NAMED_NORMS, UserNorm
from .kernels.reference.finish import Tolerance
from .stats import SolveStats
from .tableau import ButcherTableau
from .tree import Parts, flatten, unflatten

Callback = Callable[[Tensor, Any, Tensor], None]


@dataclass
class Problem:
    """What is integrated.

    Attributes:
        field: the vector field over parts, counted and checked.
        y0: initial state: contiguous parts of one dtype and device.
        t: [T] floating; requested times, as given by the user (increasing or decreasing), on the state's device.
        rtol, atol: per part, numbers or tensors that broadcast with the part.
        norm: a named norm or the user's.
        direction: +1.0 or -1.0.
        time_dtype: dtype of step sizes and of the loop's time.
        spec: structure of the state.
        stats: the account of this solve.
        callbacks: on_step, on_accept, on_reject, or None where the user has none.
    """

    field: Field
    y0: Parts
    t: Tensor
    rtol: list[Tolerance]
    atol: list[Tolerance]
    norm: str | UserNorm
    direction: float
    time_dtype: torch.dtype
    spec: Any
    stats: SolveStats
    callbacks: tuple[Callback | None, Callback | None, Callback | None] = (None, None, None)
    #: how many leading parts enter the error norm; None for all
    controlled: int | None = None
    #: how many trailing parts the field does not depend on: they are integrated, but need no stages
    quadratures: int = 0
    #: a 0-dim zero whose gradient is that of the start time, if `t` requires grad
    anchor: Tensor | None = dataclasses.field(init=False)
    #: whether outputs depend on an input that requires grad, before the field was asked
    needs_tape: bool = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        grad = torch.is_grad_enabled()
        self.real_dtype = real_dtype(self.y0[0].dtype)
        t_grad = grad and self.t.requires_grad
        self.anchor = (self.t[0] - self.t[0].detach()).to(self.real_dtype) if t_grad else None
        self.needs_tape = t_grad or (grad and any(p.requires_grad for p in self.y0))
        self._rounds = {torch.float32: np.float32, torch.float16: np.float16}.get(self.time_dtype)
        #: makes numbers that round as the state's real dtype does
        self.number: Callable[[float], Any] = np.float32 if self.real_dtype == torch.float32 else float

    def binding(self, tableau: ButcherTableau, rows: int | None = None) -> Binding:
        """What the kernels of a solve by ``tableau`` are bound to."""
        return Binding(
            tableau, self.y0, self.rtol, self.atol, self.norm, self.anchor, self.controlled, self.quadratures, rows
        )

    def take_rows(self, rows: Tensor, y: Parts) -> Problem:
        """The problem of some rows (of the first axis), at the states ``y`` of all."""

        def taken(tolerance: Tolerance, part: Tensor) -> Tolerance:
            return tolerance.expand(part.shape)[rows] if isinstance(tolerance, Tensor) else tolerance

        y0 = tuple([p[rows] for p in y])
        return dataclasses.replace(
            self,
            field=self.field.take_rows(rows, y0),
            y0=y0,
            rtol=[taken(r, p) for r, p in zip(self.rtol, y, strict=True)],
            atol=[taken(a, p) for a, p in zip(self.atol, y, strict=True)],
        )

    def times(self) -> list[float]:
        """Requested times in the dtype of time."""
        values: list[float] = self.t.tolist()
        return values if self._rounds is None else [float(self._rounds(v)) for v in values]

    def round_time(self, t: float) -> float:
        """``t`` rounded to the dtype of time."""
        return t if self._rounds is None else float(self._rounds(t))

    def round_state(self, x: float) -> float:
        """``x`` rounded to the real dtype of the state."""
        return float(self.number(x))

    def power(self, x: float, exponent: float) -> float:
        """``x ** exponent`` as torch rounds it in the state's real dtype (a vector library's, for square roots)."""
        return (torch.scalar_tensor(x, dtype=self.real_dtype) ** exponent).item()

    def time(self, t: float | Tensor, side: float = 0.0) -> Tensor:
        """``t`` as the field gets it: 0-dim (or [R], one for each row), of the real dtype of the state.

        It carries the gradient of the start time.

        Args:
            side: +1 for just after ``t`` in the direction of integration, -1 for just before.
        """
        if isinstance(t, Tensor):
            return t.to(self.real_dtype)
        if side:
            t = float(np.nextafter(self.number(t), self.number(math.copysign(math.inf, side * self.direction))))
        value = torch.scalar_tensor(t, dtype=self.real_dtype, device=self.y0[0].device)
        return value if self.anchor is None else value + self.anchor

    def time_value(self, t: float) -> Tensor:
        """``t`` as callbacks and event functions get it: 0-dim, dtype of time."""
        return torch.scalar_tensor(t, dtype=self.time_dtype, device=self.y0[0].device)

    def restore_state(self, parts: Sequence[Tensor]) -> Any:
        """Parts in the structure that the user gave."""
        return parts[0] if self.spec is None else unflatten(self.spec, parts)

    def restore_solution(self, outputs: Sequence[Parts]) -> Any:
        """States at the requested times, stacked along a new first axis, in the user's structure."""
        return self.restore_state([torch.stack([o[p] for o in outputs]) for p in range(len(self.y0))])


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the modulus."""
    return torch.empty((), dtype=dtype).abs().dtype if dtype.is_complex else dtype


def check_time(name: str, t: Any, can_grad: bool = True) -> None:
    """A one-dimensional floating tensor, strictly monotonic and finite; torchdiffeq's checks and words.

    Raises:
        InvalidArgument, TypeError: it is not.
    """
    if not isinstance(t, Tensor):
        raise InvalidArgument(f"{name} must be a torch.Tensor, but is a {type(t).__name__}: use torch.tensor({name})")
    if not t.is_floating_point():
        raise TypeError(f"`{name}` must be a floating point Tensor but is a {t.type()}: use {name}.float()")
    if t.ndim != 1:
        raise InvalidArgument(f"{name} must be one dimensional, but has shape {tuple(t.shape)}")
    if not can_grad and t.requires_grad:
        raise InvalidArgument(f"{name} cannot require gradient: use {name}.detach()")
    try:
        values: list[float] = t.tolist()
    except RuntimeError:
        kind = "meta tensor" if t.device.type == "meta" else type(t).__name__
        raise UnsupportedInput(
            f"the values of `{name}` are needed, which a {kind} does not give (nor one that vmap batches): pass an "
            "ordinary tensor"
        ) from None
    # the comparisons are false for NaN
    monotonic = all(a < b for a, b in pairwise(values)) or all(a > b for a, b in pairwise(values))
    if monotonic and (not values or (math.isfinite(values[0]) and math.isfinite(values[-1]))):
        return
    if not all(map(math.isfinite, values)):
        raise InvalidArgument(f"{name} must be finite, but holds {next(v for v in values if not math.isfinite(v))}")
    rising = values[1] > values[0]
    i = next(i for i, (a, b) in enumerate(pairwise(values)) if a == b or (b > a) != rising)
    raise InvalidArgument(
        f"{name} must be strictly increasing or decreasing, but {name}[{i}]={values[i]:.6g} is followed by "
        f"{name}[{i + 1}]={values[i + 1]:.6g}"
    )


def check_state(y0: Any) -> tuple[Parts, Any]:
    """The state's parts, contiguous and of one dtype, and its structure.

    Raises:
        InvalidArgument, UnsupportedInput: it is not a structure of floating or complex tensors on one device.
    """
    leaves, spec = flatten(y0)
    if not leaves:
        raise InvalidArgument("y0 must be either a torch.Tensor or a tuple of at least one, but it is empty")
    device = leaves[0].device
    dtype = leaves[0].dtype
    for p in leaves:
        # an 8-bit float has no arithmetic
        if not (p.is_floating_point() or p.is_complex()) or p.dtype.itemsize < 2:
            raise UnsupportedInput(
                f"`y0` must be floating point (of 16 bits or more) or complex, but is {p.dtype}: use y0.float()"
            )
        if p.layout is not torch.strided:
            raise UnsupportedInput(f"`y0` must be a dense tensor, but its layout is {p.layout}: use y0.to_dense()")
        if p.device != device:
            raise InvalidArgument(f"all parts of y0 must be on one device, but are on {device} and {p.device}")
        dtype = torch.promote_types(dtype, p.dtype)
    if all(p.dtype == dtype and p.is_contiguous() and not p.is_neg() for p in leaves):
        return leaves, spec
    return tuple([p.to(dtype).resolve_neg().contiguous() for p in leaves]), spec


def check_tolerance(name: str, tol: Any, parts: Parts, spec: Any, time_dtype: torch.dtype) -> list[Tolerance]:
    """The tolerance of each part: a number, or a tensor that broadcasts with it.

    Raises:
        InvalidArgument: it requires grad, has the wrong length or shape, or is negative.
    """
    if isinstance(tol, float) and tol >= 0:
        return [tol] * len(parts)
    if isinstance(tol, Tensor) and tol.requires_grad:
        raise InvalidArgument(f"{name} cannot require gradient: use {name}.detach()")
    if spec is not None and not _is_scalar(tol):
        # torchdiffeq makes tensors of the default dtype of them, which rounds
        try:
            values = [v if isinstance(v, Tensor) else torch.as_tensor(v) for v in tol]
        except (TypeError, ValueError, RuntimeError):
            raise _no_tolerance(name, tol) from None
        if len(values) != len(parts):
            raise InvalidArgument(
                f"If using tupled {name} it must have the same length as the tuple y0: {len(values)} given, "
                f"{len(parts)} parts"
            )
    else:
        values = [tol] * len(parts)
    return [_tolerance_of(name, v, p, time_dtype) for v, p in zip(values, parts, strict=True)]


def _is_scalar(tol: Any) -> bool:
    if isinstance(tol, Tensor):
        return tol.ndim == 0
    return not hasattr(tol, "__iter__")


def _tolerance_of(name: str, tol: Any, part: Tensor, time_dtype: torch.dtype) -> Tolerance:
    if isinstance(tol, Tensor) and tol.ndim > 0:
        tol = tol.detach().to(device=part.device, dtype=time_dtype)
        try:
            shape = torch.broadcast_shapes(tol.shape, part.shape)
        except RuntimeError:
            shape = None
        if shape != part.shape:
            raise InvalidArgument(
                f"{name} of shape {tuple(tol.shape)} does not broadcast with the state of shape {tuple(part.shape)}"
            )
        if not bool((tol >= 0).all()):
            raise InvalidArgument(f"{name} must not be negative or NaN, but its smallest element is {float(tol.min())}")
        limit: Tensor = tol
        return limit
    if not isinstance(tol, Tensor) and hasattr(tol, "__len__"):
        try:
            tol = torch.as_tensor(tol, dtype=time_dtype)
        except (TypeError, ValueError, RuntimeError):
            raise _no_tolerance(name, tol) from None
        return _tolerance_of(name, tol, part, time_dtype)
    try:
        value = float(tol)
    except (TypeError, ValueError):
        raise _no_tolerance(name, tol) from None
    if not value >= 0:
        raise InvalidArgument(f"{name} must not be negative or NaN, but is {value}")
    return value


def _no_tolerance(name: str, tol: Any) -> InvalidArgument:
    return InvalidArgument(f"{name} must be a number, a tensor or a tuple of them, but is {tol!r}")


def check_norm(norm: Any, parts: Parts, restore: Callable[[Sequence[Tensor]], Any]) -> str | UserNorm:
    """A named norm as it is, a callable wrapped.

    Raises:
        InvalidArgument: neither.
    """
    if norm is None:
        return "rms"
    if callable(norm):
        return UserNorm(norm, restore)
    if norm in NAMED_NORMS:
        return str(norm)
    raise InvalidArgument(f"options['norm']={norm!r} is not known; pass a callable or one of {', '.join(NAMED_NORMS)}")


def prescribed_times(
    name: str, times: Any, t0: float, direction: float, round_time: Callable[[float], float]
) -> list[float]:
    """``step_t`` or ``jump_t`` sorted in the direction of integration, those before ``t0`` dropped."""
    if times is None:
        return []
    if not isinstance(times, Tensor):
        times = torch.as_tensor(times, dtype=torch.float64)
    if times.requires_grad:
        raise InvalidArgument(f"{name} cannot require gradient: use {name}.detach()")
    values = [round_time(float(v)) for v in times.detach().reshape(-1).tolist()]
    return sorted((v for v in values if direction * v >= direction * t0), key=lambda v: direction * v)


def coerce_time(t: Tensor, device: torch.device) -> Tensor:
    """``t`` on the state's device, with torchdiffeq's warning when it was elsewhere."""
    if device.type == "meta":
        raise UnsupportedInput("`y0` must hold values, but is on the meta device: use torch.zeros_like(y0, device=...)")
    if t.device != device:
        warnings.warn("t is not on the same device as y0. Coercing to y0.device.", stacklevel=4)
        t = t.to(device)
    return t


def check_finite(y: Parts, t: float) -> None:
    """Refuse to step from a state with NaN or infinity."""
    for i, part in enumerate(y):
        if part.device.type != "meta" and not bool(torch.isfinite(part).all()):
            bad = int((~torch.isfinite(part)).sum())
            where = f"part {i} of the state" if len(y) > 1 else "the state"
            raise NonFiniteState(
                f"non-finite values in state `y`: {bad} of {part.numel()} elements of {where} are NaN or infinite at "
                f"t={t:.9g}"
            )
