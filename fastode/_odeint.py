"""torchdiffeq's surface: ``odeint``, ``odeint_adjoint``, ``odeint_event``, ``odeint_dense``. No algorithm here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .compiler.compiled import CompiledField
from .compiler.dispatch import dense_natively, natively
from .compiling import outside_graphs
from .dense import DenseSolution
from .errors import InvalidArgument, UnsupportedInput, did_you_mean
from .events import attach_event_gradient
from .gradients import GRADIENTS
from .moved_start import from_moved_start, with_moved_start
from .options import Settings, check_options, prepare
from .run import solve
from .run_dense import dense_solution

Field = Callable[..., Any]
Tolerance = float | Tensor | Iterable[float]


@outside_graphs
def odeint(
    func: Field,
    y0: Any,
    t: Tensor,
    *args: Any,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> Any:
    """Solve ``dy/dt = func(t, y, *args), y(t[0]) = y0`` and return ``y`` at every time of ``t``.

    Gradients flow by ordinary autograd through the steps: to ``y0``, ``t``, ``args``, parameters and whatever else
    ``func`` closes over, twice if wanted. Step sizes are constants for differentiation.

    Args:
        func: vector field; ``t`` is a 0-dim tensor of the real dtype of ``y0``, ``y`` a state like ``y0``.
        y0: floating or complex tensor of any shape, or a tuple, list or dict (nested if need be) of such.
        t: [T] floating, strictly increasing or decreasing; ``t[0]`` is the initial time.
        args: passed on to ``func`` after ``y``.
        rtol, atol: a step is accepted when ``rms(err / (atol + rtol max(|y0|, |y1|))) <= 1``. Numbers, tensors that
            broadcast with the state, or one number for each part of a tuple state.
        method: a name of :func:`fastode.methods.methods`; ``"dopri5"`` by default.
        options: see ``docs/options.md``; unknown keys warn, as in torchdiffeq.
        event_fn: ``event_fn(t, y)``; integrate to its first root instead. ``t`` must have two elements, of which the
            second gives the direction.

    Returns:
        Tensor ``[T, *y0.shape]``, or the structure of ``y0`` with such tensors. With ``event_fn``, ``(event_t, y)``
        where ``y`` holds the initial and the final state.

    Raises:
        InvalidArgument (a ValueError and AssertionError), TypeError: an argument is wrong.
        FieldError: ``func`` returned something else than the derivative of the state.
        StepSizeUnderflow, NonFiniteState, TooManySteps (all SolverError and AssertionError): the solve failed.

    Reference: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., II.4 (step size control).
    """
    reason = ""
    if isinstance(func, CompiledField):
        served, reason = natively(func, y0, t, args, rtol, atol, method, options, event_fn)
        if served is not None:
            return served
    request = prepare(func, y0, t, args, rtol, atol, method, options, reason)
    return from_moved_start(request, lambda r: solve(r, event_fn), event=event_fn is not None)


@outside_graphs
def odeint_adjoint(
    func: Field,
    y0: Any,
    t: Tensor,
    *args: Any,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Tolerance | None = None,
    adjoint_atol: Tolerance | None = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
    gradient: str | None = None,
) -> Any:
    """:func:`odeint` as one node of the autograd graph, with gradients that do not store every stage.

    Args:
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: for the backward solve of ``"backsolve"``; those of
            the forward solve by default. ``adjoint_options["norm"]`` may be ``"seminorm"`` (parameters do not control
            the step; Kidger et al., "Hey, that's not an ODE", 2021) or a callable of
            ``(adj_t, y, adj_y, *adj_params)``.
        adjoint_params: tensors to differentiate with respect to; ``func.parameters()`` by default. Tensors in ``args``
            that require grad are added.
        gradient: ``"backsolve"``, the continuous adjoint (Chen et al., "Neural ordinary differential equations", 2018):
            constant memory, approximate; or ``"discrete"``, the exact gradient of the discrete solution: one state a
            step, each step's stages recomputed on the way back. By default ``"discrete"`` for a field made by
            :func:`fastode.compile`, ``"backsolve"`` for any other.

    Returns, Raises: as :func:`odeint`; also ValueError if ``func`` is no ``nn.Module`` and ``adjoint_params`` is None.
    Neither gradient can be differentiated again; :func:`odeint` can.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise InvalidArgument(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be "
            "specified explicitly via the `adjoint_params` argument. If there are no parameters then it is allowable "
            "to set `adjoint_params=()`."
        )
    if gradient is not None and gradient not in GRADIENTS:
        raise InvalidArgument(
            f"gradient={gradient!r} is not known.{did_you_mean(str(gradient), list(GRADIENTS))} "
            f"Known: {', '.join(GRADIENTS)} (and plain autograd: use odeint)"
        )
    if adjoint_method is not None and adjoint_method != method and options is not None and adjoint_options is None:
        raise InvalidArgument(
            "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. So as `options` has "
            "been passed then `adjoint_options` must be passed as well."
        )
    options = dict(check_options("options", options))
    reason = ""
    if isinstance(func, CompiledField) and gradient != "backsolve":
        served, reason = natively(func, y0, t, args, rtol, atol, method, options, event_fn)
        if served is not None:
            return served
        gradient = "discrete" if event_fn is None else gradient
    gradient = gradient or "backsolve"
    if adjoint_options is None:
        adjoint_options = {k: v for k, v in options.items() if k != "norm"}
    adjoint_options = dict(check_options("adjoint_options", adjoint_options))
    params = tuple(adjoint_params if adjoint_params is not None else find_parameters(cast(nn.Module, func)))
    if not all(isinstance(p, Tensor) for p in params):
        other = next(p for p in params if not isinstance(p, Tensor))
        raise UnsupportedInput(f"`adjoint_params` must hold tensors, but holds a {type(other).__name__}")
    kept = tuple(p for p in params if p.requires_grad)
    if len(kept) != len(params) and callable(adjoint_options.get("norm")):
        warnings.warn(
            "An adjoint parameter was passed without requiring gradient. For efficiency this will be excluded from the "
            "adjoint pass, and will not appear as a tensor in the adjoint norm.",
            stacklevel=2,
        )
    request = prepare(func, y0, t, args, rtol, atol, method, options, reason)
    backward = Settings(
        rtol=rtol if adjoint_rtol is None else adjoint_rtol,
        atol=atol if adjoint_atol is None else adjoint_atol,
        method=request.method_name if adjoint_method is None else adjoint_method,
        options=adjoint_options,
    )
    differentiable = GRADIENTS[gradient]
    return from_moved_start(request, lambda r: differentiable(r, backward, kept, event_fn), event=event_fn is not None)


@outside_graphs
def odeint_event(
    func: Field,
    y0: Any,
    t0: Tensor,
    *args: Any,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """The first root of ``event_fn(t, y)`` and the solution up to it, differentiable in both.

    Args:
        t0: 0-dim or [1] tensor; the initial time.
        reverse_time: integrate towards smaller times.
        odeint_interface: :func:`odeint` or :func:`odeint_adjoint`.
        kwargs: for ``odeint_interface``.

    Returns:
        ``(event_t, y)`` with ``y`` of two states: the initial one and the one at the event. Gradients of ``event_t``
        follow from the implicit function theorem and reach the state, the field's parameters and those of ``event_fn``.

    Reference: Chen, Amos, Nickel, "Learning neural event functions for ordinary differential equations", 2021, eq. (7).
    """
    if not isinstance(t0, Tensor):
        t0 = torch.as_tensor(t0, dtype=torch.float64)
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, solution = odeint_interface(func, y0, t, *args, event_fn=event_fn, **kwargs)
    return attach_event_gradient(func, args, event_fn, event_t, solution)


@outside_graphs
def odeint_dense(
    func: Field,
    y0: Any,
    t0: Tensor | float,
    t1: Tensor | float,
    *args: Any,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> DenseSolution:
    """Solve from ``t0`` to ``t1`` and return the solution as a function of time.

    Returns:
        A callable: for a number or 0-dim ``t`` a state like ``y0``, for ``t`` of shape [...] states
        ``[..., *y0.shape]``. Times beyond the interval raise ``InvalidArgument``.
        Every explicit and grid method, in either direction.
    """
    like = t0 if isinstance(t0, Tensor) else t1 if isinstance(t1, Tensor) else None
    dtype = torch.float64 if like is None else like.dtype
    t = torch.stack([torch.as_tensor(v, dtype=dtype).reshape(()) for v in (t0, t1)])
    reason = ""
    if isinstance(func, CompiledField):
        served, reason = dense_natively(func, y0, t, args, rtol, atol, method, options)
        if served is not None:
            return served
    return dense_solution(with_moved_start(prepare(func, y0, t, args, rtol, atol, method, options, reason)))


def find_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters of a module, also inside a ``DataParallel`` replica, whose parameters are plain attributes."""
    if getattr(module, "_is_replica", False):
        members = module._named_members(
            get_members_fn=lambda m: [
                (k, v) for k, v in m.__dict__.items() if isinstance(v, Tensor) and v.requires_grad
            ]
        )
        return [p for _, p in members]
    return list(module.parameters())
