"""Which solves of compiled fields the native engine serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._env import engine_from_environment
from ..dense import DenseSolution
from ..errors import CannotCompile, FieldError
from ..methods import lookup
from ..problem import check_state, check_time
from ..tableau import ButcherTableau
from ..tree import unflatten
from .compiled import CompiledField, Native, TensorsChanged, dense
from .dense import DenseJob
from .engine import Job, Lowered, solved
from .evaluate import evaluate
from .gpu.refusal import NotFused
from .moving_grid import MovingGridJob, moves, moving_grid
from .packing import ROWS_DIFFER, Packing, packings
from .refusal import Draws, NotServed
from .repeat import in_transform, repeat_of
from .steps import OF_CHOSEN_STEPS, OF_GIVEN_STEPS, AdaptiveSteps, GridSteps, chosen_steps, given_steps

if TYPE_CHECKING:
    from .gpu.fused import FusedProgram

Found = TypeVar("Found")
#: why derivatives of a field are left to torch
GRADIENTS_STOP = "derivatives of a field that stops some, by detach() or no_grad(), or has a backward pass of its own"
#: of a program: its per-row arguments, and its constants
Inputs = tuple[list[Tensor], list[Tensor]]


def natively(
    field: CompiledField,
    y0: Any,
    t: Any,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: Any = None,
    divergence: str | None = None,
    noise: Tensor | None = None,
) -> tuple[Any, str]:
    """The native solution, or None and the reason why there is none; see :func:`solve_natively`."""
    if event_fn is not None:
        return None, "not native: an event"

    def solve(field: CompiledField, y0: Any, rtol: Any, atol: Any) -> Tensor:
        if field.repeat is not None and not args and not options and divergence is None:
            found = field.repeat.solve(y0, t, rtol, atol, method)
            if found is not None:
                return found
        return solve_natively(field, y0, t, args, rtol, atol, method, options, divergence, noise)

    try:
        if isinstance(y0, Tensor):
            return solve(field, y0, rtol, atol), ""
        packing, found = _of_parts(field, y0, rtol, atol, solve)
        return packing.unpack(found), ""
    except NotServed as reason:
        return None, f"not native: {reason}"


def _of_parts(
    field: CompiledField, y0: Any, rtol: Any, atol: Any, solve: Callable[[CompiledField, Tensor, Any, Any], Found]
) -> tuple[Packing, Found]:
    """What ``solve(field, y0, rtol, atol)`` finds for a state of several parts as one tensor, and how they lie in it.

    Raises:
        NotServed: the step loop has to do it.
        InvalidArgument: the state or a tolerance is wrong.
        FieldError: the field's value does not fit the state.
    """
    if field.calls_back:
        raise NotServed("callbacks")
    parts, spec = check_state(y0)
    ways = packings(parts, spec)
    for packing in ways:
        tolerances = [packing.tolerance(name, tol, parts) for name, tol in (("rtol", rtol), ("atol", atol))]
        try:
            return packing, solve(field.packed(packing), packing.pack(parts), *tolerances)
        except (NotServed, FieldError):
            if packing is ways[-1]:
                raise
    raise NotServed(ROWS_DIFFER)


def solve_natively(
    field: CompiledField,
    y0: Any,
    t: Tensor,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    divergence: str | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """What ``odeint`` returns, in one native call.

    Args:
        divergence: ``"exact"`` or ``"hutchinson"``; the integral of the field's divergence is one more feature then,
            and ``y0`` is [rows, features].
        noise: [rows, features]; of Hutchinson's estimate.

    Raises:
        NotServed: the step loop has to do it (or to say what is wrong with the arguments).
        InvalidArgument, SolverError: as ``odeint``.
    """
    native, (arguments, constants), job = _checked(field, y0, t, args, rtol, atol, method, options, divergence)
    times_move = t.requires_grad and torch.is_grad_enabled()
    if isinstance(job.steps, GridSteps):
        times_move = False
        if moves(t, options or {}):
            if on_gpu(y0):
                raise NotServed("gradients of a grid on a GPU")
            constants += moving_grid(t, job.steps, options or {})
            job = job.of_kind(MovingGridJob)
    if noise is not None:
        arguments.append(dense(noise.to(y0.dtype)))
    if divergence is not None:
        y0 = torch.cat([y0, y0.new_zeros(len(y0), 1)], 1)
    shape = (len(t), *y0.shape)

    def moved(t: Tensor, y: Tensor, shift: Tensor) -> Tensor:
        """``y`` at ``t`` with the gradient of moving along the field; ``shift`` is zero."""
        with torch.no_grad():
            if divergence is None:
                slope: Tensor = field(t.to(y.dtype), y.detach(), *args)
            else:
                (slope,) = evaluate(native.traced.program, t, y[:, :-1], arguments, constants)
        return y + shift.to(y.dtype) * slope

    if times_move:
        shifts = t - t.detach()
        y0 = moved(t[0], y0, -shifts[0])
    y = dense(y0)
    if on_gpu(y):
        job = fused_job(field, y, arguments, constants, job)
    elif divergence is None and not args and not options and not times_move:
        field.repeat = repeat_of(field, native, job, y0, t, rtol, atol, method)
    out = solved(job, y, arguments, constants)
    if out.shape != shape:
        out = out.view(shape)
    if times_move:
        out = torch.stack([moved(u, y, s) for u, y, s in zip(t, out, shifts, strict=True)])
    return out


def dense_natively(
    field: CompiledField,
    y0: Any,
    t: Tensor,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
) -> tuple[DenseSolution | None, str]:
    """What ``odeint_dense`` returns, in one native call, or None and the reason why there is none.

    Args:
        t: [2]; both ends.
    """

    def solve(field: CompiledField, y0: Any, rtol: Any, atol: Any) -> tuple[DenseJob, Tensor]:
        _, inputs, job = _checked(field, y0, t, args, rtol, atol, method, options)
        if t.requires_grad and torch.is_grad_enabled():
            raise NotServed("gradients of the ends of a dense solution")
        if on_gpu(y0):
            raise NotServed("dense output on a GPU")
        dense_job = job.of_kind(DenseJob)
        found = solved(dense_job, dense(y0), *inputs)
        return dense_job, found.view(*found.shape[:2], *y0.shape)

    packing = None
    try:
        if isinstance(y0, Tensor):
            job, coefficients = solve(field, y0, rtol, atol)
        else:
            packing, (job, coefficients) = _of_parts(field, y0, rtol, atol, solve)
    except NotServed as reason:
        return None, f"not native: {reason}"
    round_time = np.float32 if job.time_is_float32 else float
    if packing is None:
        return DenseSolution(job.ends, (coefficients,), round_time=round_time), ""
    parts, spec = packing.split(coefficients), packing.spec
    return DenseSolution(job.ends, parts, round_time=round_time, restore=partial(unflatten, spec)), ""


def _checked(
    field: CompiledField,
    y0: Any,
    t: Any,
    args: tuple[Any, ...],
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    divergence: str | None = None,
) -> tuple[Native, Inputs, Job]:
    """The program, its inputs, and the job, as the CPU does it.

    Raises:
        NotServed: the step loop has to do it.
        InvalidArgument: the times or an option are wrong.
    """
    if options is not None and not isinstance(options, Mapping):
        raise NotServed("options that are not a dict")
    options = options or {}
    tableau = _tableau(method)
    if options and (other := options.keys() - (OF_CHOSEN_STEPS if tableau.adaptive else OF_GIVEN_STEPS)):
        raise NotServed(f"option {min(other, key=str)!r}")
    if divergence is None and field.calls_back:
        raise NotServed("callbacks")
    if (engine := engine_from_environment()) is not None:
        raise NotServed(f"FASTODE_ENGINE={engine}")
    check_state_and_arguments(y0, args)
    if not isinstance(t, Tensor) or t.ndim != 1 or not len(t):
        raise NotServed("the times")
    check_time("t", t)
    if not tableau.adaptive and t.dtype not in (torch.float32, torch.float64):
        raise NotServed(f"times of dtype {t.dtype}")
    batched = y0.ndim > 1  # a state that mixes its rows is one row
    if batched:
        native, inputs = ready(field, y0, args, t[0], divergence=divergence)
    else:
        native, inputs = ready(field, y0, args, t[0], batched=False)
    rows = y0.shape[0] if batched else 1
    features = native.lowered.features
    times: list[float] = t.tolist()
    parts = field.parts or ((features,) if divergence is None else (features - 1, features))
    steps: AdaptiveSteps | GridSteps
    if tableau.adaptive:
        steps = chosen_steps(tableau, rtol, atol, options, times, y0, batched, parts)
    else:
        steps = given_steps(t, times, options)
    name, float32_times = method or "dopri5", not tableau.adaptive and t.dtype == torch.float32
    job = Job(native.lowered, tableau, name, times, steps, float32_times, rows, features, field.memory)
    return native, inputs, job


def on_gpu(y: Tensor) -> bool:
    """Whether the kernels of a GPU solve it."""
    return y.is_cuda


def fused_job(field: CompiledField, y: Tensor, arguments: list[Tensor], constants: list[Tensor], job: Job) -> Job:
    """The job, as a GPU does it.

    Raises:
        NotServed: no fused kernel serves it.
    """
    try:
        from .gpu.job import FusedJob

        fused = job.of_kind(FusedJob)
    except ImportError as error:
        raise NotServed(f"Triton is not installed ({error})") from error
    except NotFused as refusal:
        raise NotServed(str(refusal)) from refusal
    fused.precision = field.precision
    fused_program(fused.lowered, y, (*arguments, *constants), len(arguments), fused.precision)
    return fused


def fused_program(
    lowered: Lowered, y: Tensor, inputs: Sequence[Tensor], n_arguments: int, precision: str
) -> FusedProgram:
    """The kernels of a GPU, once it is known that there are those of the gradients which may be asked for, too.

    Args:
        inputs: the per-row arguments, then the constants.

    Raises:
        NotServed: there are none.
    """
    wanted = [x.requires_grad for x in inputs]
    try:
        program = lowered.fused(y.dtype, precision, y.device)
        if torch.is_grad_enabled() and (y.requires_grad or any(wanted)):
            lowered.fused_sweep(y.dtype, precision, y.device, wanted, n_arguments)
    except NotFused as refusal:
        raise NotServed(str(refusal)) from refusal
    return program


def _tableau(method: str | None) -> ButcherTableau:
    found = lookup(method or "dopri5")
    if not isinstance(found, ButcherTableau):
        raise NotServed(f"method {method!r} is not an explicit Runge-Kutta method")
    return found


def check_state_and_arguments(y0: Tensor, args: tuple[Any, ...]) -> None:
    """Whether the engine can read them.

    Raises:
        NotServed: it cannot.
    """
    if type(y0) not in (Tensor, torch.nn.Parameter):
        raise NotServed(f"a state of type {type(y0).__name__}")
    if in_transform():
        raise NotServed("a transform (torch.func, or forward mode)")
    served = y0.is_cpu or y0.is_cuda
    if not served or y0.dtype not in (torch.float32, torch.float64) or y0.layout is not torch.strided:
        raise NotServed(f"a state of dtype {y0.dtype} on {y0.device}")
    if 0 in y0.shape[1:] or y0.shape == (0,):
        raise NotServed("a state without features")
    if args and any(isinstance(a, Tensor) and a.dtype != y0.dtype for a in args):
        raise NotServed("an argument of another dtype")


def _after_first_call(
    field: CompiledField, t: Tensor, y: Tensor, args: tuple[Any, ...], found: Callable[[], Found]
) -> Found:
    """``found()`` of a field that has been called once, as a solve begins: it may draw its noise then, and keep it.

    Raises:
        Draws: it draws in every call; the random numbers are as if there had been none.
    """
    generator = torch.cuda.default_generators[y.device.index] if y.is_cuda else torch.default_generator
    before = generator.get_state()
    with torch.no_grad():
        field(t.to(y.dtype), y.detach().clone(), *args)
    try:
        try:
            result = found()
        except (TensorsChanged, Draws):
            field.forget()
            result = found()
    except Draws:
        generator.set_state(before)
        field.draws_first = False
        raise
    field.draws_first = True
    return result


def ready(
    field: CompiledField, y: Tensor, args: tuple[Any, ...], t: Tensor | None = None, **kind: Any
) -> tuple[Native, Inputs]:
    """The program for states like ``y``, and its inputs; traced anew if the field's tensors are not what they were.

    Args:
        t: of ``y``, for a field that draws random numbers in its first call and keeps them: then that call comes first.

    Raises:
        NotServed: the field cannot be compiled.
    """

    def found() -> tuple[Native, Inputs]:
        native = field.native(y, args, **kind)
        return native, (native.arguments(args, y), native.constants(args, y.dtype))

    try:
        try:
            native, inputs = found()
        except (TensorsChanged, Draws) as reason:
            may_draw = field.draws_first or (field.draws_first is None and isinstance(reason, Draws))
            if t is not None and may_draw:
                native, inputs = _after_first_call(field, t, y, args, found)
            elif isinstance(reason, Draws):
                raise
            else:
                field.forget()
                native, inputs = found()
    except CannotCompile as reason:
        raise NotServed(str(reason)) from reason
    if not native.traced.differentiable:
        asked = torch.is_grad_enabled() and any(x.requires_grad for x in (y, *inputs[0], *inputs[1]))
        if asked or kind.get("divergence") is not None:
            raise NotServed(GRADIENTS_STOP)
    return native, inputs
