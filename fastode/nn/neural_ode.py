"""A neural ODE as a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .settings import Compiled, SolverSettings, check_span, trained_parameters


class NeuralODE(nn.Module):
    """The map from a state at ``t_span[0]`` to the state at ``t_span[1]`` along ``dy/dt = func(t, y)``.

    Args:
        func: ``func(t, y) -> dy/dt``, usually an ``nn.Module``; torchdiffeq's signature.
        t_span: first and last time, in units of t. The second may be the smaller one.
        method, rtol, atol, options: of the solver; see :func:`fastode.odeint`.
        gradient: ``"discrete"`` (default; exact for the computed solution, one stored state a step),
            ``"autograd"`` (the same through a tape; can be differentiated twice) or ``"backsolve"`` (the
            continuous adjoint).
        adjoint_options: further keywords of :func:`fastode.odeint_adjoint` for ``"backsolve"``.
        compile: solve natively where ``func`` can be compiled (:func:`fastode.compile`). ``func`` is then called by
            the trace only: False for one that counts its calls or has hooks.

    Raises:
        InvalidArgument: unknown ``gradient``, or a ``t_span`` that is not two different times.

    Reference: Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018.

    Example:
        >>> node = NeuralODE(MLPField(2))
        >>> y1 = node(y0)
        >>> path = node(y0, t=torch.linspace(0, 1, 20))
    """

    def __init__(
        self,
        func: nn.Module,
        t_span: tuple[float, float] = (0.0, 1.0),
        *,
        method: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        options: dict[str, Any] | None = None,
        gradient: str = "discrete",
        adjoint_options: dict[str, Any] | None = None,
        compile: bool = True,
    ) -> None:
        super().__init__()
        self.func = func
        self.compiled = Compiled(compile)
        self.t_span = check_span(t_span)
        self.settings = SolverSettings(method, rtol, atol, options, gradient, adjoint_options or {})

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"t_span={self.t_span}, settings={self.settings}"

    def forward(self, y0: Any, t: Tensor | None = None) -> Any:
        """Solve the equation.

        Args:
            y0: ``[B, ...]`` floating, or a tuple of such; the state at the first time.
            t: ``[T]`` strictly monotonic; times of the output. ``y0`` is the state at ``t[0]``.

        Returns:
            The state at ``t_span[1]`` with ``y0``'s shape; with ``t``, the states at all its times,
            ``[T, *y0.shape]``.
        """
        if t is not None:
            return self._solve(y0, t)
        part = y0
        while not isinstance(part, Tensor):
            part = part[0]
        span = torch.tensor(self.t_span, dtype=part.dtype, device=part.device)
        return _last(self._solve(y0, span))

    @property
    def served_by(self) -> tuple[str, str]:
        """The engine of the last solve (``"compiled"`` if it was one native call), and why not a faster one."""
        return self.compiled.served

    def _solve(self, y0: Any, t: Tensor) -> Any:
        native = self.compiled.wanted and self.settings.may_be_native
        func = self.compiled.field(self.func) if native else self.func
        path = self.settings.solve(func, y0, t, trained_parameters(self.func))
        self.compiled.note()
        return path


def _last(path: Any) -> Any:
    return path[-1] if isinstance(path, Tensor) else tuple(_last(p) for p in path)
