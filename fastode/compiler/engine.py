"""Solves of compiled fields: the whole solve in one native call, its discrete gradient in another.

The rows of a batch take the same steps, and the same ones as the step loop of :mod:`fastode.loop` takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from .. import _native
from ..clock import step_underflow, too_many_steps
from ..errors import NonFiniteState
from ..stats import SolveStats, new_stats
from ..tableau import ButcherTableau
from .derive import adjoint
from .gpu.refusal import NotFused
from .lower import lower
from .program import Program
from .steps import AdaptiveSteps, GridSteps

if TYPE_CHECKING:
    from .gpu.fused import FusedProgram
    from .gpu.fused_sweep import FusedSweep

Made = TypeVar("Made")
AnyJob = TypeVar("AnyJob", bound="Job")

#: what `_native` returns as the outcome of a solve
SOLVED, UNDERFLOW, TOO_MANY, BROKEN = range(4)

#: flops of one evaluation of all rows from which a second thread saves more than it costs (about 10 us)
_FLOPS_WORTH_A_THREAD = 400_000

#: bytes for a solve's states and the products of all solves that wait for their gradient, if no memory is given
MEMORY_FOR_PRODUCTS = 2**30

#: tableaus as the engine takes them, by identity; each is kept alive beside its native form
_methods: dict[int, tuple[ButcherTableau, _native.FieldMethod]] = {}


def native_method(tableau: ButcherTableau) -> _native.FieldMethod:
    """A tableau as the engine takes it."""
    known = _methods.get(id(tableau))
    if known is None:
        m = tableau
        ends_with_slope = m.adaptive and m.last_stage_is_solution
        native = _native.FieldMethod(m.nodes, m.matrix, m.weights, m.error_weights, m.mid_weights, ends_with_slope)
        known = _methods[id(tableau)] = (tableau, native)
    return known[1]


@dataclass
class Lowered:
    """A program in the forms that the engine runs.

    Attributes:
        program: one output, the derivative of the state.
        shapes: of the constants.
        shared_time: all rows are at the same time.
        features: of the solver's state; the field sees the first ``program.state_width`` of them.
        flops: of one evaluation for one row, roughly.
    """

    program: Program
    shapes: tuple[tuple[int, ...], ...]
    shared_time: bool = True
    _fused: dict[Any, Any] = field(default_factory=dict)
    _forward: _native.FieldProgram | None = None
    _adjoints: dict[tuple[frozenset[int], tuple[int, ...], bool], _native.FieldProgram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.features = self.program.ops[self.program.outputs[0]].width
        self.flops = sum(_flops(self.program, v) for v in range(len(self.program.ops)))

    @property
    def forward(self) -> _native.FieldProgram:
        """The field alone."""
        if self._forward is None:
            self._forward = _native.FieldProgram(lower(self.program, self.shapes, self.shared_time))
        return self._forward

    def adjoint(
        self, constants: frozenset[int], arguments: tuple[int, ...], time: bool = False
    ) -> _native.FieldProgram:
        """The field with its vector-Jacobian product, for gradients of some constants, arguments and the time."""
        key = (constants, arguments, time)
        if key not in self._adjoints:
            derived = adjoint(self.program, constants, arguments, self.shared_time, time)
            self._adjoints[key] = _native.FieldProgram(lower(derived, self.shapes, self.shared_time))
        return self._adjoints[key]

    def fused(self, dtype: torch.dtype, precision: str, device: torch.device) -> FusedProgram:
        """The kernels of a GPU, as its shared memory allows them.

        Raises:
            NotFused: there are none for this program.
        """
        from .gpu.configurations import settings_for, shared_bytes_of
        from .gpu.fused import FusedProgram

        def make() -> FusedProgram:
            settings = settings_for(self.program, dtype, precision, shared_bytes_of(device))
            return FusedProgram(self.program, dtype, self.shared_time, settings)

        return self._made((FusedProgram, dtype, precision, device), make)

    def fused_sweep(
        self, dtype: torch.dtype, precision: str, device: torch.device, wanted: Sequence[bool], n_arguments: int
    ) -> FusedSweep:
        """The kernels of a GPU for the gradients of those arguments and, after them, constants that are wanted.

        Raises:
            NotFused: there are none for this program.
        """
        from .gpu.configurations import has_float64_tensor_cores, sweep_settings_for
        from .gpu.fused_sweep import FusedSweep

        numbers = [i for i, w in enumerate(wanted) if w]
        constants = tuple(i - n_arguments for i in numbers if i >= n_arguments)
        arguments = tuple(i for i in numbers if i < n_arguments)

        def make() -> FusedSweep:
            settings = sweep_settings_for(self.program, dtype, precision, has_float64_tensor_cores(device))
            return FusedSweep(self.program, dtype, self.shared_time, constants, arguments, settings=settings)

        return self._made((FusedSweep, dtype, precision, device, constants, arguments), make)

    def _made(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """``make()``, called once for a key; a refusal is given again."""
        found = self._fused.get(key)
        if found is None:
            try:
                found = make()
            except NotFused as refusal:
                found = refusal
            self._fused[key] = found
        if isinstance(found, NotFused):
            raise found
        return cast("Made", found)

    def threads(self, rows: int) -> int:
        """How many threads are worth having for evaluations of ``rows`` rows between which none waits."""
        return torch.get_num_threads() if rows * self.flops > _FLOPS_WORTH_A_THREAD else 1


def _flops(program: Program, v: int) -> int:
    op = program.ops[v]
    if op.name == "affine":
        return 2 * op.width * program.ops[op.inputs[0]].width
    return 10 * op.width if op.inputs else 0


@dataclass
class Job:
    """What is solved.

    Attributes:
        times: of the outputs; the first is the initial time.
        time_is_float32: times round to float32.
        memory: for the states that a gradient keeps, in bytes; None for one state a step.
    """

    lowered: Lowered
    tableau: ButcherTableau
    name: str
    times: list[float]
    steps: AdaptiveSteps | GridSteps
    time_is_float32: bool
    rows: int
    features: int
    memory: int | None = None
    #: the last call of each program, and what it was made of: a repeated solve has the same
    _calls: dict[_native.FieldProgram, tuple[Any, _native.FieldCall]] = field(
        default_factory=dict, init=False, repr=False
    )

    def of_kind(self, kind: type[AnyJob]) -> AnyJob:
        """The same solve by another class of job."""
        return kind(*[getattr(self, f.name) for f in fields(Job) if f.init])

    def run(
        self, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, Any]:
        """The states at the outputs, [T, rows, features], and the record of the steps if they are kept.

        Raises:
            StepSizeUnderflow, TooManySteps, NonFiniteState: the solve failed.
        """
        steps, (constants, _) = self.steps, self._apart(constants)
        out = torch.empty((len(self.times), self.rows, self.features), dtype=y0.dtype)
        if isinstance(steps, AdaptiveSteps):
            return out, self._chosen(steps, y0, arguments, constants, keep, out)
        return out, self._given(steps, y0, arguments, constants, keep, out)

    def _chosen(
        self,
        steps: AdaptiveSteps,
        y0: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        keep: bool,
        out: Tensor | None,
    ) -> Any:
        """The record of chosen steps; without ``out``, with their polynomials."""
        stats = self._begin()
        call = self._call(self.lowered.forward, y0, arguments, constants)
        address, kept = 0 if out is None else out.data_ptr(), self._kept(y0, keep, chained=True)
        found = call.adaptive(y0.data_ptr(), self.times, steps.native, address, *kept, out is None)
        return self._end(found, stats)

    def _given(
        self,
        steps: GridSteps,
        y0: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        keep: bool,
        out: Tensor,
    ) -> Any:
        """The record of given steps."""
        stats = self._begin()
        call = self._call(self.lowered.forward, y0, arguments, constants)
        outputs = (steps.output_step, steps.output_x, steps.output_power)
        kept = self._kept(y0, keep)
        return self._end(call.grid(y0.data_ptr(), steps.points, *outputs, out.data_ptr(), *kept), stats)

    def _kept(self, y0: Tensor, keep: bool, chained: bool = False) -> tuple[int, int, bool]:
        """How many states are kept for a gradient, the bytes that they and products may take, and whether the products
        of other solves count, too."""
        most_states = most_states_within(self.memory, y0, self.tableau, chained) if keep else 0
        memory = MEMORY_FOR_PRODUCTS if self.memory is None else self.memory
        return most_states, memory, self.memory is None

    def _begin(self) -> SolveStats:
        stats = new_stats(self.name)
        stats.engine = "compiled"
        return stats

    def _end(self, found: tuple[_native.Account, Any], stats: SolveStats) -> Any:
        (outcome, stats.n_func, stats.n_accepted, stats.n_rejected, stats.t, stats.dt), record = found
        if outcome != SOLVED:
            raise self._failure(outcome, stats)
        return record

    def sweep(
        self,
        record: Any,
        grad: Tensor,
        y0: Tensor,
        arguments: Sequence[Tensor],
        constants: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Gradients of the initial state, and of those arguments and constants that are wanted."""
        stats = new_stats(self.name, "backward")
        stats.engine = "compiled"
        constants, grid = self._apart(constants)
        inputs = [*arguments, *constants]
        places = GradientPlaces(inputs, len(arguments), wanted[: len(inputs)])
        grad_y0, of_grid = torch.empty_like(y0), [torch.zeros_like(x, dtype=torch.float64) for x in grid]
        program = self.lowered.adjoint(places.constants, places.arguments, time=bool(grid))
        call = self._call(program, y0, arguments, constants)
        addresses = [g.data_ptr() for g in of_grid] or (0, 0)
        account = call.sweep(record, grad.data_ptr(), grad_y0.data_ptr(), *places.addresses, *addresses)
        stats.n_func = account[1]
        return grad_y0, [*places.gradients, *[g.to(x.dtype) for g, x in zip(of_grid, grid, strict=True)]]

    def _apart(self, constants: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The program's constants, and the points and fractions of a grid that requires grad, or none."""
        return constants, ()

    def _call(
        self, program: _native.FieldProgram, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor]
    ) -> _native.FieldCall:
        inputs = ([c.data_ptr() for c in constants], [a.data_ptr() for a in arguments])
        made_of = (inputs, self.lowered.threads(self.rows))
        known = self._calls.get(program)
        if known is None or known[0] != made_of:
            call = _native.FieldCall(
                program,
                native_method(self.tableau),
                y0.element_size(),
                self.rows,
                self.features,
                *inputs,
                made_of[1],
                self.time_is_float32,
            )
            known = self._calls[program] = (made_of, call)
        return known[1]

    def _failure(self, outcome: int, stats: SolveStats) -> Exception:
        assert isinstance(self.steps, AdaptiveSteps)
        if outcome == UNDERFLOW:
            return step_underflow(stats.t, stats.dt)
        if outcome == TOO_MANY:
            n = stats.n_steps
            if n >= self.steps.max_total_steps:
                return too_many_steps(None, self.steps.max_total_steps, stats.t, stats.dt)
            return too_many_steps(int(self.steps.max_steps), self.steps.max_steps, stats.t, stats.dt)
        return NonFiniteState(f"non-finite values in state `y` at t={stats.t:.9g}")


def most_states_within(memory: int | None, y0: Tensor, tableau: ButcherTableau, chained: bool = False) -> int:
    """How many states of a batch ``memory`` bytes have room for; two at least, between which steps are taken again.

    Args:
        chained: each step begins with the last stage of the one before, which is kept where it is not at the state.
    """
    if memory is None:
        return 2**62
    arrays = 2 if chained and tableau.adaptive and not tableau.last_stage_is_solution else 1
    return max(2, memory // max(1, arrays * y0.nbytes))


class GradientPlaces:
    """Where the native sweep leaves gradients of the per-row arguments and of the constants.

    Attributes:
        gradients: of each input, zeros for a start; None where it is not wanted.
        arguments, constants: the numbers of those that are.
        addresses: of the gradients of ``arguments``, and of all constants (0 for none).
    """

    def __init__(self, inputs: Sequence[Tensor], n_arguments: int, wanted: Sequence[bool]) -> None:
        self.gradients: list[Tensor | None] = [
            torch.zeros_like(x, memory_format=torch.contiguous_format) if w else None
            for x, w in zip(inputs, wanted, strict=True)
        ]
        numbers = [i for i, w in enumerate(wanted) if w]
        self.arguments = tuple(i for i in numbers if i < n_arguments)
        self.constants = frozenset(i - n_arguments for i in numbers if i >= n_arguments)
        at = [0 if g is None else g.data_ptr() for g in self.gradients]
        self.addresses = ([at[i] for i in self.arguments], at[n_arguments:])


Gradients = tuple[Tensor | None, ...]


def differentiable_once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """``backward`` of a node whose gradients raise an error when they are differentiated.

    ``once_differentiable`` of torch does so only where a cotangent requires grad: a gradient penalty would be lost.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *cotangents: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return found
        message = b"a native solve can be differentiated once only; for second derivatives pass `func` itself to odeint"
        refuse = torch._C._functions.DelayedError(message, len(found))
        gradients: list[Any] = [None if g is None else g.detach().requires_grad_() for g in found]
        outputs: Gradients = refuse(*gradients)
        return outputs

    return guarded


def solved(job: Job, y0: Tensor, arguments: Sequence[Tensor], constants: Sequence[Tensor]) -> Tensor:
    """What the job comes to, such as states [T, rows, features]; by a node if an input requires grad."""
    if torch.is_grad_enabled() and (y0.requires_grad or any(x.requires_grad for x in (*arguments, *constants))):
        out: Tensor = NativeSolve.apply(job, y0, len(arguments), *arguments, *constants)
        return out
    return job.run(y0, arguments, constants, keep=False)[0]


class NativeSolve(torch.autograd.Function):
    """A solve as one node; inputs after ``y0`` are the per-row arguments, then the constants."""

    @staticmethod
    def forward(ctx: Any, job: Job, y0: Tensor, n_arguments: int, *tensors: Tensor) -> Tensor:
        ctx.job, ctx.n_arguments = job, n_arguments
        out, ctx.record = job.run(y0, tensors[:n_arguments], tensors[n_arguments:], keep=True)
        ctx.save_for_backward(y0, *tensors)
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y0, *tensors = ctx.saved_tensors
        n = ctx.n_arguments
        wanted = ctx.needs_input_grad[3:]
        grad_y0, grads = ctx.job.sweep(ctx.record, grad.contiguous(), y0, tensors[:n], tensors[n:], wanted)
        return None, grad_y0 if ctx.needs_input_grad[1] else None, None, *grads
