"""The continuous adjoint: integrate ``(y, adj_y, parameter gradients)`` backwards in time.

    d adj_y / dt = -adj_y^T df/dy,      d adj_p / dt = -adj_y^T df/dp,      d adj_t / dt = -adj_y^T df/dt

The augmented state is a list of parts, each integrated in its own memory; nothing is concatenated per evaluation. At a
requested time with a cotangent the state is reset to the forward solution and the cotangent is added: the step ends
there and the next one goes on with the step size it had (torchdiffeq restarts, with a new first step, at every
requested time). ``adj_t`` is integrated only when a gradient of ``t`` is wanted.
Reference: Chen et al., "Neural ordinary differential equations", 2018, appendix B.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import InvalidArgument
from ..kernels.norms import UserNorm
from ..loop import integrate
from ..observers import Outputs
from ..options import Request, Settings, prepare
from ..problem import Problem, real_dtype
from ..run import EventFn, first_step, states_at_event, states_at_times
from ..stats import SolveStats, new_stats
from ..tableau import ButcherTableau
from ..tree import Parts
from .adjoint_norm import AdjointNorm, UserAdjointNorm
from .node import Layout, differentiable_inputs, filled, layout_of, pull_back


def backsolve(request: Request, backward: Settings, params: Sequence[Tensor], event_fn: EventFn | None) -> Any:
    """``odeint_adjoint(..., gradient="backsolve")``."""
    inputs = differentiable_inputs(request, params)
    layout = layout_of(request)
    options = dict(backward.options)
    norm = options.get("norm")
    if norm is None or norm == "seminorm":
        options["norm"] = AdjointNorm(request.options.get("norm"), layout, seminorm=norm == "seminorm")
    elif callable(norm):
        options["norm"] = norm if request.spec is None else UserAdjointNorm(norm, layout)
    else:
        raise InvalidArgument(f"adjoint_options['norm']={norm!r} is not known; pass 'seminorm' or a callable")
    settings = Settings(backward.rtol, backward.atol, backward.method, options)
    answer = OdeintAdjointMethod.apply(
        request, layout, settings, event_fn, request.t, len(request.y0), *request.y0, *inputs
    )
    if event_fn is None:
        return layout.restore(answer)
    event_t, joined = answer
    return event_t, layout.restore(joined)


class OdeintAdjointMethod(torch.autograd.Function):
    """The node. ``adjoint_options`` is an attribute of it, read in ``backward``: people replace its norm."""

    @staticmethod
    def forward(
        ctx: Any,
        request: Request,
        layout: Layout,
        settings: Settings,
        event_fn: EventFn | None,
        t: Tensor,
        n_parts: int,
        *tensors: Tensor,
    ) -> Any:
        ctx.request, ctx.layout, ctx.n_parts, ctx.event_mode = request, layout, n_parts, event_fn is not None
        ctx.adjoint_rtol, ctx.adjoint_atol = settings.rtol, settings.atol
        ctx.adjoint_method, ctx.adjoint_options = settings.method, settings.options
        y0 = tuple([p.detach() for p in tensors[:n_parts]])
        inner = request.with_state(y0, t.detach())
        problem = inner.problem()
        if event_fn is None:
            joined = layout.join(states_at_times(inner, problem))
            ctx.save_for_backward(t, joined, *tensors[n_parts:])
            return joined
        event_t, states = states_at_event(inner, problem, event_fn)
        joined = layout.join(states)
        ctx.save_for_backward(t, joined, event_t, *tensors[n_parts:])
        return event_t, joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, joined, *rest = ctx.saved_tensors
        times = t
        if ctx.event_mode:
            # as if integrated up to the event; its time's gradient is attached elsewhere
            event_t, *rest = rest
            times = torch.stack([t[0], event_t.to(t.dtype)])
        settings = Settings(ctx.adjoint_rtol, ctx.adjoint_atol, ctx.adjoint_method, ctx.adjoint_options)
        solve = BackwardSolve(ctx.request, ctx.layout, settings, times, joined, grads[-1], tuple(rest), t.requires_grad)
        adj_t, adj_y, adj_params = solve.run()
        if ctx.event_mode and adj_t is not None:
            adj_t = torch.cat([adj_t[:1], torch.zeros_like(adj_t[1:])])
        return None, None, None, None, adj_t, None, *adj_y, *adj_params


class AugmentedField:
    """The slopes of ``([adj_t], y, adj_y, params)``."""

    traced = False
    copies = False

    def __init__(self, request: Request, params: tuple[Tensor, ...], t_grad: bool, stats: SolveStats) -> None:
        self.func, self.args, self.spec = request.func, request.args, request.spec
        self.inner = request.problem(stats).field
        self.params = params
        self.t_grad = t_grad
        self.n = len(request.y0)
        self.dtype = request.y0[0].dtype
        #: dtype of the augmented state: parameters may be wider than the state, or real where it is complex
        self.common = functools.reduce(torch.promote_types, [p.dtype for p in params], self.dtype)
        self.mixed = any(p.dtype != self.common for p in (*request.y0, *params)) or (t_grad and self.dtype.is_complex)

    def __call__(self, t: Tensor, parts: Parts) -> Parts:
        at = int(self.t_grad)
        y, adj = parts[at : at + self.n], parts[at + self.n : at + 2 * self.n]
        if not self.mixed:
            return self._slopes(t, y, adj)
        y, adj = (tuple([p.to(self.dtype) for p in x]) for x in (y, adj))
        return tuple([s.to(self.common) for s in self._slopes(t.to(real_dtype(self.dtype)), y, adj)])

    def _slopes(self, t: Tensor, y: Parts, adj: Parts) -> Parts:
        at = int(self.t_grad)
        with torch.enable_grad():
            t = t.detach().requires_grad_(self.t_grad)
            y = tuple([p.detach().requires_grad_() for p in y])
            f = self.inner(t, y)
            inputs = (t, *y, *self.params) if self.t_grad else (*y, *self.params)
            found = filled(pull_back(f, inputs, [-a for a in adj]), inputs)
        slopes = tuple([p.detach() for p in f])
        return (*found[:at], *slopes, *[g.contiguous() for g in found[at:]])

    def detect_shared_buffer(self, first: Parts, second: Parts) -> None:
        """Slopes of the state are the only ones that a field could write in place."""
        at = int(self.t_grad)
        self.inner.detect_shared_buffer(first[at : at + self.n], second[at : at + self.n])
        self.copies = self.inner.copies


class BackwardSolve:
    """One backward pass.

    Args:
        t: [T] the times of the forward solution; joined, grad: the solution and its cotangent, as laid out.
    """

    def __init__(
        self,
        request: Request,
        layout: Layout,
        settings: Settings,
        t: Tensor,
        joined: Tensor,
        grad: Tensor,
        params: tuple[Tensor, ...],
        t_grad: bool,
    ) -> None:
        self.request, self.layout, self.settings = request, layout, settings
        self.t = t.detach()
        self.t_grad = t_grad
        self.params = params
        self.y = list(zip(*layout.split(joined), strict=True))
        self.grad = list(zip(*layout.split(grad), strict=True))
        self.n = len(request.y0)
        self.grad_t = torch.zeros_like(self.t) if t_grad else None
        self.stats = new_stats(settings.method, "backward")
        self.inner = request.with_state(tuple(p.detach().contiguous() for p in self.y[-1]), self.t)
        self.field = AugmentedField(self.inner, params, t_grad, self.stats)

    def run(self) -> tuple[Tensor | None, Sequence[Tensor], Sequence[Tensor]]:
        """Cotangents of ``t`` (or None), of the parts of ``y0`` and of the parameters."""
        state = self._start()
        last = len(self.t) - 1
        if last > 0:
            request = self._request(state, self.t.flip(0))
            if request.adaptive:
                state = self._continuous(request, state)
            else:
                for i in range(last, 0, -1):
                    state = self._interval(state, i)
                    state = self._at_output(state, i - 1)
        at = int(self.t_grad)
        if self.grad_t is not None:
            self.grad_t[0] = _like(state[0], self.grad_t)
        adj_y = [_like(a, y) for a, y in zip(state[at + self.n : at + 2 * self.n], self.y[0], strict=True)]
        return self.grad_t, adj_y, [_like(a, p) for a, p in zip(state[at + 2 * self.n :], self.params, strict=True)]

    def _start(self) -> Parts:
        like = self.y[-1][0]
        adj_t = (torch.zeros((), dtype=real_dtype(like.dtype), device=like.device),)
        zero = tuple([torch.zeros_like(g) for g in self.grad[-1]])
        params = tuple([torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self.params])
        blank = (*adj_t[: int(self.t_grad)], *self.y[-1], *zero, *params)
        return self._at_output(blank, len(self.t) - 1)

    def _at_output(self, state: Parts, i: int) -> Parts:
        """Reset the state to the forward solution at time ``i`` and add that time's cotangent."""
        at = int(self.t_grad)
        y = tuple([p.contiguous() for p in self.y[i]])
        adj = tuple([a + g for a, g in zip(state[at + self.n : at + 2 * self.n], self.grad[i], strict=True)])
        head = state[:at]
        if self.grad_t is not None and i > 0:
            f = self.field.inner(self.t[i].to(real_dtype(y[0].dtype)), y)
            moved = sum(
                (f_.conj() * g).real.sum() if f_.is_complex() else (f_ * g).sum()
                for f_, g in zip(f, self.grad[i], strict=True)
            )
            self.grad_t[i] = moved
            head = (head[0] - moved,)
        if self.field.mixed:
            y = tuple([p.to(self.field.common) for p in y])
        return (*head, *y, *adj, *state[at + 2 * self.n :])

    def _request(self, state: Parts, t: Tensor) -> Request:
        s = self.settings
        options = {k: v for k, v in s.options.items() if k != "norm"}
        func = _Callbacks(self.request.func, self.field)
        return prepare(func, state, t, (), self._tolerance(s.rtol), self._tolerance(s.atol), s.method, options)

    def _tolerance(self, tol: Any) -> Any:
        """One tolerance for each part; the smallest for those that the user did not think of."""
        if not (isinstance(tol, Tensor) and tol.ndim) and not hasattr(tol, "__iter__"):
            return tol
        values = [torch.as_tensor(tol, dtype=torch.float64)] if self.request.spec is None else list(tol)
        smallest = min(float(torch.as_tensor(v, dtype=torch.float64).min()) for v in values)
        return (*[smallest] * int(self.t_grad), *values, *values, *[smallest] * len(self.params))

    def _problem(self, request: Request) -> Problem:
        problem = request.problem(self.stats)
        problem.field = self.field  # type: ignore[assignment]
        problem.quadratures = len(self.params)
        norm = self.settings.options["norm"]
        if isinstance(norm, AdjointNorm) and norm.plain:
            problem.norm = "rms"
            problem.controlled = len(problem.y0) - len(self.params) if norm.seminorm else None
        else:
            problem.norm = UserNorm(norm, self._for_norm)
        return problem

    def _for_norm(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``(adj_t, y, adj_y, *params)`` with tuple states flattened, as the adjoint norms take it."""
        at = int(self.t_grad)
        adj_t = parts[0] if at else torch.zeros((), dtype=parts[0].abs().dtype, device=parts[0].device)
        y, adj = parts[at : at + self.n], parts[at + self.n : at + 2 * self.n]
        if self.request.spec is None:
            return (adj_t, y[0], adj[0], *parts[at + 2 * self.n :])
        flat = (torch.cat([p.reshape(-1) for p in x]) for x in (y, adj))
        return (adj_t, *flat, *parts[at + 2 * self.n :])

    def _continuous(self, request: Request, state: Parts) -> Parts:
        """One adaptive solve from the last time to the first, jumping where there is a cotangent."""
        problem = self._problem(request)
        times: list[float] = [problem.round_time(v) for v in self.t.to(torch.float64).tolist()]
        stops = {times[i]: i for i in range(1, len(times) - 1) if self._has_cotangent(i)}
        tableau = request.method
        assert isinstance(tableau, ButcherTableau)
        problem.t = torch.stack([self.t[-1], self.t[0]])
        clock = request.clock(problem, stops)
        # the limit is one between two requested times, which the solve passes unless there is a cotangent
        ends = [0, *sorted(stops.values()), len(times) - 1]
        clock.max_steps *= max(b - a for a, b in pairwise(ends))
        outputs = Outputs(problem, clock)

        def jump(t: float, y: Parts) -> Parts:
            if t not in stops:
                return y
            clock.since_output = 0
            return self._at_output(y, stops[t])

        engine = request.engine(self.stats)
        integrate(problem, tableau, engine, clock, outputs, first_step=first_step(request), jump=jump)
        return self._at_output(outputs.states[-1], 0)

    def _has_cotangent(self, i: int) -> bool:
        return any(bool(g.any()) for g in self.grad[i])

    def _interval(self, state: Parts, i: int) -> Parts:
        """A fixed-grid or external solve between two neighbouring times, as in torchdiffeq."""
        request = self._request(state, torch.stack([self.t[i], self.t[i - 1]]))
        return states_at_times(request, self._problem(request))[-1]


def _like(value: Tensor, like: Tensor) -> Tensor:
    """A part of the augmented state in the dtype of what it is the gradient of."""
    return (value.real if value.is_complex() and not like.is_complex() else value).to(like.dtype)


class _Callbacks:
    """The augmented field with the user's callbacks for the backward solve."""

    def __init__(self, func: Callable[..., Any], field: AugmentedField) -> None:
        self.field = field
        for name in ("callback_step", "callback_accept_step", "callback_reject_step"):
            callback = getattr(func, name + "_adjoint", None)
            if callback is not None:
                setattr(self, name, callback)

    def __call__(self, t: Tensor, y: Any) -> Any:
        return self.field(t, y)
